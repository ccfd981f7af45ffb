package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// RuleEtcdPatience is the rule about an election timeout that is too short for the disks of etcd's members, or for the network between them.
const RuleEtcdPatience = "etcd-patience"

// What an election timeout has to allow for.
const (
	// electionPerRoundTrip is what etcd's tuning guide asks for.
	electionPerRoundTrip = 10
	// electionPerFsync makes etcd's limit for the fsyncs of a member, 10 ms for 99 of 100, that of the shortest election timeout. A leader
	// sends no heartbeat while it waits for its disk, and a few fsyncs take ten times as long as 99 of 100 do.
	electionPerFsync = 30
	// enoughFsyncs is how many have to be counted before the slowest of them say anything.
	enoughFsyncs = 1000
)

// ElectionTimeoutFor is the shortest election timeout that a spec can have and that members support with such round trips and
// fsyncs. It may be longer than what a spec can have.
func ElectionTimeoutFor(roundTrip, fsync time.Duration) time.Duration {
	const step = 10 * time.Millisecond
	need := max(spec.MinElectionTimeout, electionPerRoundTrip*roundTrip, electionPerFsync*fsync)
	return (need + step - 1) / step * step
}

// FsyncP99 is within how long 99 of 100 writes of a member were on its disk, estimated within a bucket of the histogram as Prometheus does; 0 if
// too few were counted.
func FsyncP99(d *facts.EtcdDisk) time.Duration {
	if d == nil || d.Writes < enoughFsyncs {
		return 0
	}
	rank := 0.99 * float64(d.Writes)
	var from, below float64
	for _, w := range d.Within {
		if n := float64(w.Writes); n >= rank && n > below {
			return time.Duration((from + (w.Seconds-from)*(rank-below)/(n-below)) * float64(time.Second))
		}
		from, below = w.Seconds, float64(w.Writes)
	}
	return time.Duration(from * float64(time.Second)) // and longer
}

// Patience is which election timeout something that was measured supports.
type Patience struct {
	Hosts   []string
	Needs   time.Duration
	Measure string
}

// Patiences are what the running members measured, as far as they did: their disks, and their round trips to each other.
func (s *State) Patiences() (out []Patience) {
	names := map[string]string{}
	for _, m := range s.Seen.Etcd {
		names[m.ID] = s.MemberHost(m)
	}
	for _, h := range s.present.EtcdHosts() {
		seen := s.Seen.Hosts[h.Name]
		if p99 := FsyncP99(seen.EtcdDisk); p99 > 0 {
			out = append(out, FsyncPatience(h.Name, p99, "since its member was started"))
		}
		for _, id := range slices.Sorted(maps.Keys(seen.EtcdRoundTrips)) {
			if to := names[id]; to != "" && to != h.Name {
				out = append(out, RoundTripPatience(h.Name, to, time.Duration(seen.EtcdRoundTrips[id]*float64(time.Second)), "on average"))
			}
		}
	}
	return out
}

// FsyncPatience is what a disk supports. how says how that was measured.
func FsyncPatience(host string, p99 time.Duration, how string) Patience {
	return Patience{[]string{host}, ElectionTimeoutFor(0, p99), fmt.Sprintf("99 of 100 fsyncs of etcd's disk on %s take up to %s (%s)", host, inMilliseconds(p99), how)}
}

// RoundTripPatience is what a path between two hosts supports.
func RoundTripPatience(from, to string, trip time.Duration, how string) Patience {
	return Patience{[]string{from, to}, ElectionTimeoutFor(trip, 0), fmt.Sprintf("a round trip from %s to %s takes %s (%s)", from, to, inMilliseconds(trip), how)}
}

// Lacks says what a measure has to do with an election timeout that is shorter than it needs; empty if it is not.
func (p Patience) Lacks(timeout time.Duration) (summary, fix string) {
	if p.Needs <= timeout {
		return "", ""
	}
	summary = fmt.Sprintf("%s, and etcd's election timeout of %s is too short for that: members would replace a leader that works", p.Measure, timeout)
	fix = fmt.Sprintf("Set %s to `%s` or more, or give etcd a faster disk and a faster network between its members.", spec.ElectionTimeoutPath, p.Needs)
	if p.Needs > spec.MaxElectionTimeout {
		fix = "Give etcd a faster disk and a faster network between its members: no election timeout is long enough for that."
	}
	return summary, fix
}

// inMilliseconds writes what is short with a digit behind the point.
func inMilliseconds(d time.Duration) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)), ".0") + " ms"
}

// patience reports members that have become too slow for the election timeout of the spec.
func (f *findings) patience() {
	timeout, _ := f.Spec.EtcdElectionTimeout()
	if timeout == 0 {
		return // etcd's default is not ours to judge
	}
	for _, p := range f.Patiences() {
		if summary, fix := p.Lacks(timeout); summary != "" {
			f.add(RuleEtcdPatience, Warning, summary, fix, p.Hosts...)
		}
	}
}
