package run

import (
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/fault"
	"quorate.dev/quorate/internal/spec"
)

// A program that is stopped in order takes its time to end. It is away for as long as was asked for all the same, and its host does not heal the fault before.
func TestAStoppedProgramIsAwayForAsLongAsItShouldBe(t *testing.T) {
	const lasts, ends = 10 * time.Second, 40 * time.Second
	f := clustertest.Whole()
	d := &drilling{Engine: &Engine{Cluster: f.Spec}, options: DrillOptions{AbortAfter: time.Minute}}
	h, _ := f.Spec.Host("cp-a")
	began := time.Now()
	injected := began.Add(ends)
	for _, kind := range []drill.Kind{drill.Stop, drill.Hang, drill.Cut, drill.Kill} {
		i := drill.Injection{Fault: drill.Fault{Kind: kind, Target: drill.APIServer, Role: drill.Follower}, Host: h.Name, Lasts: lasts}
		over, switched := d.over(i, began, injected), d.request(i, h).Lasts
		want := lasts + switchAfter
		switch {
		case i.Once():
			want = 0
		case kind == drill.Stop:
			want += fault.EndPatience
		}
		if switched != want {
			t.Errorf("%s: the host heals it after %s, want %s", kind, switched, want)
		}
		if away := over.Sub(injected); !i.Once() && away != lasts || i.Once() && over.Sub(began) != time.Minute {
			t.Errorf("%s: it is over %s after it was injected", kind, away)
		}
		if kind == drill.Stop && began.Add(switched).Before(over) {
			t.Error("its host heals the fault while it should last")
		}
	}
}

// TestFaultsConcernAllNetworks: who is cut off is cut off in the networks of the virtual IP and of pods as well.
func TestFaultsConcernAllNetworks(t *testing.T) {
	f := clustertest.Whole()
	f.Spec.Spec.Network.PodCIDR, f.Spec.Spec.Network.PodTrafficCIDR = "10.244.0.0/16", "10.1.0.0/24"
	for i := range f.Spec.Spec.Hosts {
		h := &f.Spec.Spec.Hosts[i]
		seen := f.Seen.Hosts[h.Name].Facts
		at := func(network string) string { return strings.Replace(h.Address, "10.0.0.", network, 1) }
		seen.Addresses = append(seen.Addresses, facts.Address{IP: at("10.1.0."), Prefix: 24, Interface: "eth2"})
		if f.Spec.Balances(*h) {
			h.FrontAddress = at("192.0.2.")
			seen.Addresses = append(seen.Addresses, facts.Address{IP: h.FrontAddress, Prefix: 24, Interface: "eth1"})
		}
	}
	s := cluster.Evaluate(f.Spec, f.Seen)
	d := &drilling{Engine: &Engine{Cluster: f.Spec}, addresses: addressesIn(s)}
	lb, _ := f.Spec.Host("lb-a")
	w, _ := f.Spec.Host("w-a")
	for _, tc := range []struct {
		target drill.Target
		on     spec.Host
		peers  []string
	}{
		{drill.VRRP, lb, []string{"10.0.0.17", "192.0.2.17"}},
		{drill.Link, w, []string{"10.0.0.15", "10.1.0.15"}},
	} {
		got := d.request(drill.Injection{Fault: drill.Fault{Kind: drill.Cut, Target: tc.target}, Host: tc.on.Name, Peer: "w-b"}, tc.on).Peers
		if !slices.Equal(got, tc.peers) {
			t.Errorf("%s on %s: the peers are %v, want %v", tc.target, tc.on.Name, got, tc.peers)
		}
	}
	all := d.request(drill.Injection{Fault: drill.Fault{Kind: drill.Cut, Target: drill.Host}, Host: w.Name}, w).Peers
	for _, want := range []string{"10.0.0.11", "10.1.0.11", "10.0.0.16", "192.0.2.16"} {
		if !slices.Contains(all, want) || slices.Contains(all, "10.1.0.14") {
			t.Errorf("%s is cut off from %v", w.Name, all)
		}
	}
}

// TestOneLateAnswerRefusesNoDrill: a host has to be out of reach at several looks, which are not repeated for ever.
func TestOneLateAnswerRefusesNoDrill(t *testing.T) {
	for name, c := range map[string]struct{ late, looks, away int }{"in time": {0, 1, 0}, "late once": {1, 2, 0}, "away": {100, drillLooks, 1}} {
		looks := 0
		s := reached(t.Context(), time.Millisecond, func() *cluster.State {
			f := clustertest.Whole()
			if looks++; looks <= c.late {
				f.Dies("w-a")
			}
			return cluster.Evaluate(f.Spec, f.Seen)
		})
		if looks != c.looks || len(s.Unreachable()) != c.away {
			t.Errorf("%s: %d looks, out of reach are %v", name, looks, s.Unreachable())
		}
	}
}

// TestNoDrillOfOtherMachines: where the spec has hosts at each other's addresses, a fault for one would be injected on the other.
func TestNoDrillOfOtherMachines(t *testing.T) {
	f := clustertest.Whole()
	for _, h := range f.Spec.Spec.Hosts {
		if h.IsNode() {
			f.Seen.Hosts[h.Name].Facts.Kubernetes.NodeName = h.Name
		}
	}
	if r := mayDrill(cluster.Evaluate(f.Spec, f.Seen)); r != nil {
		t.Fatal(r)
	}
	for name := range f.Seen.Hosts {
		f.Seen.Hosts[name] = facts.Host{Error: "no route to host"}
	}
	f.Seen.API = nil
	if r := mayDrill(cluster.Evaluate(f.Spec, f.Seen)); r == nil || strings.Contains(r.Why, "there is no") || strings.Contains(r.Fix, "apply") {
		t.Errorf("no host can be reached: %v", r)
	}
	f = clustertest.Whole()
	f.Seen.Hosts["cp-a"], f.Seen.Hosts["cp-b"] = f.Seen.Hosts["cp-b"], f.Seen.Hosts["cp-a"]
	if r := mayDrill(cluster.Evaluate(f.Spec, f.Seen)); r == nil || r.Rule != cluster.RuleFixed || r.Fix == "" {
		t.Errorf("swapped: %v", r)
	}
}
