package quorum

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// serves is the oracle: what is left when the lost hosts are gone.
func serves(placements []Placement, lost func(Placement) bool) bool {
	var voters, up, servers, balancers, balancersUp int
	for _, p := range placements {
		if p.Voter != Absent {
			voters++
		}
		if p.Balancer != Absent {
			balancers++
		}
		if lost(p) {
			continue
		}
		if p.Voter == Up {
			up++
		}
		if p.APIServer == Up {
			servers++
		}
		if p.Balancer == Up {
			balancersUp++
		}
	}
	return (voters == 0 || 2*up > voters) && servers > 0 && (balancers == 0 || balancersUp > 0)
}

// worstCase tries every set of groups: the size of the smallest whose loss stops the cluster, minus one.
func worstCase(placements []Placement, group func(Placement) string) int {
	var names []string
	for _, p := range placements {
		if g := group(p); g != "" && !slices.Contains(names, g) {
			names = append(names, g)
		}
	}
	smallest := len(names) + 1
	for set := range 1 << len(names) {
		n := bits.OnesCount(uint(set))
		if n < smallest && !serves(placements, func(p Placement) bool {
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
		if want := worstCase(placements, zone); got != want {
			t.Fatalf("%+v: zone margin %d, want %d", placements, got, want)
		}
		if worst != nil && (len(worst) != got+1 || serves(placements, func(p Placement) bool { return slices.Contains(worst, p.Zone) })) {
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
		up, ours := 0, false
		for i := range behind {
			ours = ours || behind[i].Balancer != Absent
			if behind[i].Balancer == Up {
				up++
			}
			behind[i].Balancer = Absent
		}
		if want := worstCase(behind, controlPlane); m.ControlPlanes != want {
			t.Fatalf("%+v: control plane margin %d, want %d", placements, m.ControlPlanes, want)
		}
		if (m.LoadBalancers != nil) != ours || ours && *m.LoadBalancers != up-1 {
			t.Fatalf("%+v: balancer margin %v, want %d", placements, m.LoadBalancers, up-1)
		}
		var members []Member
		for _, p := range placements {
			if p.Voter != Absent {
				members = append(members, Member{Healthy: p.Voter == Up})
			}
		}
		if m.Etcd != Margin(members) {
			t.Fatalf("%+v: etcd margin %d, want %d", placements, m.Etcd, Margin(members))
		}
	}
}

// A host or a zone of a cluster that serves may be stopped exactly if the cluster serves without it.
func TestStoppingHostsAndZones(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	nothing := func(Placement) bool { return false }
	for range 20000 {
		placements := randomPlacements(r)
		if !serves(placements, nothing) {
			continue
		}
		for _, p := range placements {
			err := CanStopHost(placements, p.Host)
			check(t, "stopping "+p.Host, nil, err, serves(placements, func(q Placement) bool { return q.Host == p.Host }))
			if p.Zone != "" {
				err := CanStopZone(placements, p.Zone)
				check(t, "stopping zone "+p.Zone, nil, err, serves(placements, func(q Placement) bool { return q.Zone == p.Zone }))
			}
		}
	}
}

func TestMarginsOfTheDefaultCluster(t *testing.T) {
	stacked := func(zone string) Placement {
		return Placement{Host: "cp-" + zone, Zone: zone, Voter: Up, APIServer: Up}
	}
	placements := []Placement{
		stacked("a"), stacked("b"), stacked("c"), {Host: "worker-a", Zone: "a"},
		{Host: "lb-a", Zone: "a", Balancer: Up}, {Host: "lb-b", Zone: "b", Balancer: Up},
	}
	expect := func(controlPlanes, etcd, balancers, zones int, worst ...string) {
		t.Helper()
		m := Survives(placements)
		if m.ControlPlanes != controlPlanes || m.Etcd != etcd || *m.LoadBalancers != balancers || m.Zones != zones {
			t.Errorf("got %+v with balancers %d", m, *m.LoadBalancers)
		}
		if _, got := ZoneMargin(placements); !slices.Equal(got, worst) {
			t.Errorf("one too many would be %v, want %v", got, worst)
		}
	}
	expect(1, 1, 1, 1, "a", "b")
	placements[4].Balancer = Down
	expect(1, 1, 0, 0, "b")
	placements[4].Balancer, placements[2] = Up, Placement{Host: "cp-c", Zone: "c", Voter: Down, APIServer: Down}
	expect(0, 0, 1, 0, "a")
	placements[1] = Placement{Host: "cp-b", Zone: "b", Voter: Down, APIServer: Up}
	expect(-1, -1, 1, -1)
}

func randomPlacements(r *rand.Rand) []Placement {
	state := func(likely State) State {
		switch r.IntN(5) {
		case 0:
			return Down
		case 1:
			return Absent
		}
		return likely
	}
	placements := make([]Placement, r.IntN(9))
	for i := range placements {
		p := Placement{Host: fmt.Sprint("h", i), Zone: []string{"a", "b", "c", "d", ""}[r.IntN(5)]}
		switch r.IntN(4) {
		case 0:
			p.Balancer = state(Up)
		case 1:
			p.Voter = state(Up)
		case 2:
			p.APIServer = state(Up)
		default:
			p.Voter, p.APIServer = state(Up), state(Up)
		}
		placements[i] = p
	}
	return placements
}
