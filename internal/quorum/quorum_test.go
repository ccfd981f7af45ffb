package quorum

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// serves is the oracle, written without the package's own counting: does the cluster work when the lost hosts are gone?
func serves(placements []Placement, lost func(Placement) bool) bool {
	type tally struct{ total, up int }
	var voters, servers, managers, schedulers, balancers tally
	for _, p := range placements {
		gone := lost(p)
		for _, part := range []struct {
			t *tally
			s State
		}{{&voters, p.Member}, {&servers, p.APIServer}, {&managers, p.ControllerManager}, {&schedulers, p.Scheduler}, {&balancers, p.Balancer}} {
			if part.s != Absent && part.s != Learner {
				part.t.total++
			}
			if part.s == Up && !gone {
				part.t.up++
			}
		}
	}
	any := func(t tally) bool { return t.total == 0 || t.up > 0 }
	return (voters.total == 0 || 2*voters.up > voters.total) && servers.up > 0 && any(managers) && any(schedulers) && any(balancers)
}

// resolves is the oracle for name resolution in pods.
func resolves(placements []Placement, lost func(Placement) bool) bool {
	return slices.ContainsFunc(placements, func(p Placement) bool { return p.DNS == Up && !lost(p) })
}

func nothing(Placement) bool { return false }

// goesOn says that what works now works without the lost hosts: the cluster, and name resolution in pods.
func goesOn(placements []Placement, lost func(Placement) bool) bool {
	return serves(placements, lost) && (resolves(placements, lost) || !resolves(placements, nothing))
}

// worstCase tries every set of groups: the size of the smallest whose loss stops the cluster, minus one.
func worstCase(placements []Placement, goesOn func([]Placement, func(Placement) bool) bool, group func(Placement) string) int {
	var names []string
	for _, p := range placements {
		if g := group(p); g != "" && !slices.Contains(names, g) {
			names = append(names, g)
		}
	}
	smallest := len(names) + 1
	for set := range 1 << len(names) {
		n := bits.OnesCount(uint(set))
		if n < smallest && !goesOn(placements, func(p Placement) bool {
			i := slices.Index(names, group(p))
			return i >= 0 && set>>i&1 != 0
		}) {
			smallest = n
		}
	}
	return smallest - 1
}

func TestMarginsAgainstEverySetOfFailures(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		placements := randomPlacements(r)
		zone := func(p Placement) string { return p.Zone }
		got, worst := ZoneMargin(placements)
		if want := worstCase(placements, goesOn, zone); got != want {
			t.Fatalf("%+v: zone margin %d, want %d", placements, got, want)
		}
		if worst != nil && (len(worst) != got+1 || goesOn(placements, func(p Placement) bool { return slices.Contains(worst, p.Zone) })) {
			t.Fatalf("%+v: says that losing %v is too much with margin %d", placements, worst, got)
		}
		m := Survives(placements)
		controlPlane := func(p Placement) string {
			if p.APIServer == Absent {
				return ""
			}
			return p.Host
		}
		behind := slices.Clone(placements)
		up, ours, voters, votersUp := 0, false, 0, 0
		for i := range behind {
			ours = ours || behind[i].Balancer != Absent
			if behind[i].Balancer == Up {
				up++
			}
			behind[i].Balancer = Absent
			if s := behind[i].Member; s != Absent && s != Learner {
				voters++
				if s == Up {
					votersUp++
				}
			}
		}
		if want := worstCase(behind, serves, controlPlane); m.ControlPlanes != want {
			t.Fatalf("%+v: control plane margin %d, want %d", placements, m.ControlPlanes, want)
		}
		if (m.LoadBalancers != nil) != ours || ours && *m.LoadBalancers != up-1 {
			t.Fatalf("%+v: load balancer margin %v, want %d", placements, m.LoadBalancers, up-1)
		}
		want := -1
		for 2*(votersUp-(want+1)) > voters { // one more may fail
			want++
		}
		if m.Etcd != want {
			t.Fatalf("%+v: etcd margin %d, want %d", placements, m.Etcd, want)
		}
	}
}

// Short agrees with Works for every operation that takes parts away from a cluster that works.
func TestShortAgainstWorks(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	tried := 0
	for range 20000 {
		before := randomPlacements(r)
		if !serves(before, nothing) {
			continue
		}
		tried++
		if !Works(before) {
			t.Fatalf("%+v serves, and Works says no", before)
		}
		for i := range before {
			after := slices.Clone(before)
			after[i] = Placement{Host: before[i].Host, Zone: before[i].Zone}
			for _, k := range kinds {
				if s := *k.Part(&before[i]); s != Absent && s != Learner {
					*k.Part(&after[i]) = Down
				}
			}
			want := serves(before, func(p Placement) bool { return p.Host == before[i].Host })
			if got := len(Short(before, after)) == 0; got != want {
				t.Fatalf("stopping %s in %+v: Short says %t, the oracle %t", before[i].Host, before, got, want)
			}
		}
	}
	if tried < 1000 {
		t.Fatalf("only %d clusters were tried", tried)
	}
}

func TestShortLeavesOtherKindsAlone(t *testing.T) {
	before := []Placement{{Host: "a", APIServer: Up}, {Host: "b", APIServer: Up}, {Host: "lb", Balancer: Down}}
	after := slices.Clone(before)
	after[0].APIServer = Down
	if s := Short(before, after); s != nil {
		t.Fatalf("all load balancers were down before: %+v", s)
	}
	after[1].APIServer = Unknown
	if s := Short(before, after); len(s) != 1 || s[0] != (Shortage{Part: "API server", Have: 0, Need: 1, Total: 2}) {
		t.Fatalf("got %+v", s)
	}
}

// TestShortAllowsAdding adds and removes a part that does not work, whatever works of up to five others. Only a voter of etcd makes more necessary.
func TestShortAllowsAdding(t *testing.T) {
	for _, k := range guarded {
		for total := range 6 {
			for up := range total + 1 {
				var before []Placement
				for i := range total {
					p := Placement{Host: fmt.Sprint("h", i)}
					if *k.Part(&p) = Down; i < up {
						*k.Part(&p) = Up
					}
					before = append(before, p)
				}
				fresh := Placement{Host: "new"}
				*k.Part(&fresh) = Down
				with := append(slices.Clone(before), fresh)
				want := k.Name != Members.Name || total == 0 || up >= Majority(total+1) || Majority(total+1) == Majority(total)
				if got := Short(before, with) == nil; got != want {
					t.Errorf("adding a %s to %d, of which %d work, is allowed: %t", k.Name, total, up, got)
				}
				if s := Short(with, before); s != nil {
					t.Errorf("removing a %s that does not work from %d others, of which %d work: %+v", k.Name, total, up, s)
				}
			}
		}
	}
}

func TestMarginsOfTheDefaultCluster(t *testing.T) {
	stacked := func(zone string) Placement {
		return Placement{Host: "cp-" + zone, Zone: zone, Member: Up, APIServer: Up, ControllerManager: Up, Scheduler: Up}
	}
	placements := []Placement{
		stacked("a"), stacked("b"), stacked("c"), {Host: "worker-a", Zone: "a"},
		{Host: "lb-a", Zone: "a", Balancer: Up}, {Host: "lb-b", Zone: "b", Balancer: Up},
	}
	expect := func(controlPlanes, etcd, balancers, zones int, worst ...string) {
		t.Helper()
		m := Survives(placements)
		if m.ControlPlanes != controlPlanes || m.Etcd != etcd || *m.LoadBalancers != balancers || m.Zones != zones {
			t.Errorf("got %+v with load balancers %d", m, *m.LoadBalancers)
		}
		if _, got := ZoneMargin(placements); !slices.Equal(got, worst) {
			t.Errorf("one too many would be %v, want %v", got, worst)
		}
	}
	expect(1, 1, 1, 1, "a", "b")
	placements[4].Balancer = Unknown
	expect(1, 1, 0, 0, "b")
	placements[4].Balancer = Up
	placements[0].Scheduler, placements[1].Scheduler = Down, Down
	expect(0, 1, 1, 0, "c")
	placements[0].Scheduler, placements[1].Scheduler = Up, Up
	placements[2] = Placement{Host: "cp-c", Zone: "c", Member: Down, APIServer: Down, ControllerManager: Down, Scheduler: Down}
	expect(0, 0, 1, 0, "a")
	placements[1].Member = Down
	expect(-1, -1, 1, -1)
}

func randomPlacements(r *rand.Rand) []Placement {
	state := func() State { return []State{Absent, Down, Unknown, Up, Up, Up, Up, Up}[r.IntN(8)] }
	placements := make([]Placement, r.IntN(9))
	for i := range placements {
		p := Placement{Host: fmt.Sprint("h", i), Zone: []string{"a", "b", "c", "d", ""}[r.IntN(5)]}
		if r.IntN(4) > 0 {
			p.Member = state()
			if r.IntN(8) == 0 {
				p.Member = Learner
			}
		}
		if r.IntN(3) > 0 {
			p.APIServer, p.ControllerManager, p.Scheduler = state(), state(), state()
		}
		if r.IntN(3) == 0 {
			p.Balancer = state()
		}
		if r.IntN(3) == 0 {
			p.DNS = state()
		}
		placements[i] = p
	}
	return placements
}
