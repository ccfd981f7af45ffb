package probe

import (
	"slices"
	"time"
)

// stops are the shutdowns that Ready clients have seen, and the connections that the other clients have made meanwhile.
type stops struct {
	serials   map[string]map[string]bool // the certificates of a Ready client's server, by the client's path
	told      map[string][]int64         // when that server said that it is shutting down
	gone      map[string][]int64         // when it failed otherwise: nobody can connect to it any more
	connected map[string][]int64         // when clients that leave the choice to the cluster connected, by the server's certificate
}

func newStops() stops {
	return stops{serials: map[string]map[string]bool{}, told: map[string][]int64{}, gone: map[string][]int64{}, connected: map[string][]int64{}}
}

func (s stops) add(line Second) {
	path := line.Client.Path
	if line.Client.Operation != Ready {
		// A client with an address of its own connects to this server whatever it says.
		if line.Client.Address == "" {
			for serial, at := range line.Connected {
				s.connected[serial] = append(s.connected[serial], at...)
			}
		}
		return
	}
	for serial := range line.Connected {
		if s.serials[path] == nil {
			s.serials[path] = map[string]bool{}
		}
		s.serials[path][serial] = true
	}
	for text, at := range line.FailedAt {
		if text == ShuttingDown {
			s.told[path] = append(s.told[path], at)
		} else {
			s.gone[path] = append(s.gone[path], at)
		}
	}
}

// late counts the connections to servers that had said for at least some time that they are shutting down. It also returns
// how many shutdowns were seen.
func (s stops) late(grace time.Duration) (late, shutdowns int) {
	for path, told := range s.told {
		slices.Sort(told)
		gone := slices.Sorted(slices.Values(s.gone[path]))
		end := int64(0)
		for _, begin := range told {
			if begin <= end {
				continue // it says so more than once
			}
			end = begin + time.Minute.Milliseconds() // no server serves so long after it was told to stop
			if i, _ := slices.BinarySearch(gone, begin); i < len(gone) {
				end = min(end, gone[i])
			}
			shutdowns++
			for serial := range s.serials[path] {
				for _, at := range s.connected[serial] {
					if at >= begin+grace.Milliseconds() && at < end {
						late++
					}
				}
			}
		}
	}
	return late, shutdowns
}
