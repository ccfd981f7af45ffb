package cluster

import (
	"cmp"
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
	// enoughFsyncs is how many have to be counted before the slowest of them say anything, and enoughRoundTrips before half of them do: five minutes after a member was
	// started. A member that hung for seconds makes several of them long, which says nothing of the network.
	enoughFsyncs     = 1000
	enoughRoundTrips = 10
)

// ElectionTimeoutFor is the shortest election timeout that a spec can have and that members support with such round trips and
// fsyncs. It may be longer than what a spec can have.
func ElectionTimeoutFor(roundTrip, fsync time.Duration) time.Duration {
	const step = 10 * time.Millisecond
	need := max(spec.MinElectionTimeout, electionPerRoundTrip*roundTrip, electionPerFsync*fsync)
	return (need + step - 1) / step * step
}

// FsyncP99 is within how long 99 of 100 writes of a member were on its disk; 0 if too few were counted.
func FsyncP99(d *facts.Durations) time.Duration {
	if d == nil || d.Count < enoughFsyncs {
		return 0
	}
	return d.Quantile(0.99)
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
			if trips, to := seen.EtcdRoundTrips[id], names[id]; to != "" && to != h.Name && trips.Count >= enoughRoundTrips {
				out = append(out, RoundTripPatience(h.Name, to, trips.Quantile(0.5), "in the median, since its member was started"))
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

// Lack is a measure that an election timeout is too short for.
type Lack struct {
	Hosts        []string
	Summary, Fix string
}

// Impatient are the measures that an election timeout is too short for. Their fix is enough for all of them.
func Impatient(all []Patience, timeout time.Duration) (out []Lack) {
	var needs time.Duration
	for _, p := range all {
		needs = max(needs, p.Needs)
	}
	fix := fmt.Sprintf("Set %s to `%s` or more, or give etcd a faster disk and a faster network between its members.", spec.ElectionTimeoutPath, needs)
	if needs > spec.MaxElectionTimeout {
		fix = "Give etcd a faster disk and a faster network between its members: no election timeout is long enough for that."
	}
	for _, p := range all {
		if p.Needs > timeout {
			out = append(out, Lack{p.Hosts, fmt.Sprintf("%s, and etcd's election timeout of %s is too short for that: members would replace a leader that works", p.Measure, timeout), fix})
		}
	}
	return out
}

// inMilliseconds writes what is short with a digit behind the point.
func inMilliseconds(d time.Duration) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)), ".0") + " ms"
}

// patience reports members that have become too slow for the election timeout that the spec sets, or for the one that members still have.
func (f *findings) patience() {
	timeout, _ := f.Spec.EtcdElectionTimeout()
	if timeout == 0 || len(f.present.EtcdHosts()) < 2 {
		return // etcd's default is not ours to judge, and a single member elects nobody
	}
	if runs := f.runningElectionTimeout(); runs > 0 {
		timeout = runs
	}
	for _, l := range Impatient(f.Patiences(), timeout) {
		f.add(RuleEtcdPatience, Warning, l.Summary, l.Fix, l.Hosts...)
	}
}

// runningElectionTimeout is the shortest one with which a member is known to run; 0 if none is.
func (s *State) runningElectionTimeout() (out time.Duration) {
	for _, h := range s.present.EtcdHosts() {
		f := s.Facts(h.Name)
		if f == nil {
			continue
		}
		timers := cmp.Or(f.Kubernetes.EtcdRuns, f.Kubernetes.EtcdTimers) // a static pod runs with what its manifest says
		if timers == nil {
			continue
		}
		if t := time.Duration(timers.Effective().Election) * time.Millisecond; out == 0 || t < out {
			out = t
		}
	}
	return out
}
