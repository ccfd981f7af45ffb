package probe

import (
	"slices"
	"strings"
	"time"
)

const (
	// serving is longer than any API server serves after it was told to stop.
	serving = time.Minute
	// stopped is how long an API server may be gone after it was told to stop. Whoever uses no other server expects it back by then.
	stopped = 2 * time.Minute
)

// stops are what Ready clients have seen of the shutdowns of their servers, and what the other clients did meanwhile. Times are
// milliseconds since 1970.
type stops struct {
	serials   map[string]map[string]bool    // the certificates of a Ready client's server, by the client's path
	told      map[string][]int64            // when that server said that it is shutting down
	gone      map[string][]int64            // when it failed otherwise: nobody can connect to it any more
	refused   map[string][]int64            // when it accepted no connection
	ready     map[string][]int64            // the beginnings of the seconds in which it said that it is ready
	connected map[string][]int64            // when clients that leave the choice to the cluster connected, by the server's certificate
	single    map[Client]map[int64]attempts // what clients experienced that use one server and no other, by second
}

// attempts are those of one second to connect to a server and to use it.
type attempts struct {
	unconnected int           // connections that failed
	rejected    int           // complete answers that are errors
	slowest     time.Duration // of the requests that were answered
}

func newStops() stops {
	return stops{serials: map[string]map[string]bool{}, told: map[string][]int64{}, gone: map[string][]int64{}, refused: map[string][]int64{},
		ready: map[string][]int64{}, connected: map[string][]int64{}, single: map[Client]map[int64]attempts{}}
}

// learn remembers the certificate of a Ready client's server. A connection that is kept may be older than the interval, and a server
// that starts again may have another certificate, so all lines count.
func (s stops) learn(line Second) {
	if line.Client.Operation != Ready {
		return
	}
	for serial := range line.Connected {
		if s.serials[line.Client.Path] == nil {
			s.serials[line.Client.Path] = map[string]bool{}
		}
		s.serials[line.Client.Path][serial] = true
	}
}

// add adds a line of the interval.
func (s stops) add(line Second) {
	path, second := line.Client.Path, line.At*1000
	switch {
	case line.Client.Operation == Ready:
		if line.Requests > line.Failed {
			s.ready[path] = append(s.ready[path], second)
		}
		for text, at := range line.FailedAt {
			if text == ShuttingDown {
				s.told[path] = append(s.told[path], at)
				continue
			}
			s.gone[path] = append(s.gone[path], at)
			if strings.HasPrefix(text, "dial:") {
				s.refused[path] = append(s.refused[path], at)
			}
		}
	case line.Client.Address == "":
		for serial, at := range line.Connected {
			s.connected[serial] = append(s.connected[serial], at...)
		}
	case line.Client.API():
		// It connects to this server whatever it says.
		if s.single[line.Client] == nil {
			s.single[line.Client] = map[int64]attempts{}
		}
		a := s.single[line.Client][second]
		s.single[line.Client][second] = attempts{a.unconnected + line.Phases[Dial] + line.Phases[TLS], a.rejected + line.Phases[Status], max(a.slowest, line.Slowest)}
	}
}

// shutdown is one shutdown of a server: when it began, when the server said so last, and the second in which it was ready again.
type shutdown struct{ begin, last, back int64 }

// shutdowns are those of one Ready client's server. One that does not announce them stops when it accepts no connection. However long
// a server is gone, that is one shutdown: before the next one, it was ready.
func (s stops) shutdowns(path string, announced bool) (out []shutdown) {
	begins := s.told[path]
	if !announced {
		begins = s.refused[path]
	}
	ready := slices.Sorted(slices.Values(s.ready[path]))
	for _, at := range slices.Sorted(slices.Values(begins)) {
		// In the second in which it stops, it was ready too.
		i, _ := slices.BinarySearch(ready, at)
		if n := len(out); n > 0 {
			switch {
			case at < out[n-1].back:
				out[n-1].last = at
				continue
			case i == 0 || ready[i-1] < out[n-1].begin:
				continue
			}
		}
		back := at + stopped.Milliseconds()
		if i < len(ready) {
			back = min(back, ready[i])
		}
		out = append(out, shutdown{at, at, back})
	}
	return out
}

// late counts the connections to servers that had said for at least some time that they are shutting down.
func (s stops) late(grace time.Duration) (late int, announced map[string]int, unknown []string) {
	announced = map[string]int{}
	for path := range s.told {
		gone := slices.Sorted(slices.Values(s.gone[path]))
		for _, stop := range s.shutdowns(path, true) {
			announced[path]++
			end := min(stop.back, stop.begin+serving.Milliseconds())
			if i, _ := slices.BinarySearch(gone, stop.last); i < len(gone) {
				end = min(end, gone[i])
			}
			for serial := range s.serials[path] {
				for _, at := range s.connected[serial] {
					if at >= stop.begin+grace.Milliseconds() && at < end {
						late++
					}
				}
			}
		}
		if len(s.serials[path]) == 0 {
			unknown = append(unknown, path)
		}
	}
	slices.Sort(unknown)
	return late, announced, unknown
}

// Excuse is what the shutdowns of the only API server that a client uses explain.
type Excuse struct {
	// Requests that failed while the server was stopped: those without a connection, and those that it rejected although it was not
	// ready yet, since a server that starts listens before it knows who may do what.
	Requests int `json:"requests"`
	// Slowest is the longest successful request of all other times: a connection may wait for a server that is starting.
	Slowest time.Duration `json:"slowestNanoseconds"`
}

// excused says, by client, what is explained by the shutdowns of the only server that it uses.
func (s stops) excused(announced bool) map[string]Excuse {
	out := map[string]Excuse{}
	for c, seconds := range s.single {
		stops := s.shutdowns(c.Path, announced)
		var e Excuse
		for second, a := range seconds {
			during := func(from, to int64) bool { return second+1000 > from && second <= to }
			if slices.ContainsFunc(stops, func(stop shutdown) bool { return during(stop.begin, stop.back) }) {
				e.Requests += a.unconnected
			}
			// Until it is gone, it serves.
			if slices.ContainsFunc(stops, func(stop shutdown) bool { return during(stop.last, stop.back) }) {
				e.Requests += a.rejected
			} else {
				e.Slowest = max(e.Slowest, a.slowest)
			}
		}
		out[c.String()] = e
	}
	return out
}
