package cluster

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// lab is the state of the default cluster with these load balancers; nil for one that does not answer.
func lab(balancers map[string]*facts.Balancer) *State {
	c := spec.DefaultLab("test")
	obs := &facts.Observation{Hosts: map[string]facts.Host{}, Endpoint: facts.Endpoint{Hosts: map[string]facts.Answer{"worker-a": {OK: true}}}}
	for _, h := range c.Spec.Hosts {
		seen := facts.Host{Facts: &facts.Facts{Units: map[string]string{}, Kubernetes: facts.Kubernetes{Established: h.Has(spec.RoleControlPlane)}}}
		if b, ok := balancers[h.Name]; ok {
			if seen.Balancer = b; b == nil {
				seen.BalancerError = "no answer"
			}
		}
		obs.Hosts[h.Name] = seen
	}
	return Evaluate(c, obs)
}

func TestDrain(t *testing.T) {
	backends := func(a, b, c facts.Backend) *facts.Balancer {
		a.Name, b.Name, c.Name = "cp-a", "cp-b", "cp-c"
		return &facts.Balancer{Healthy: true, Backends: []facts.Backend{a, b, c}}
	}
	up, down, drained := facts.Backend{Healthy: true}, facts.Backend{}, facts.Backend{Healthy: true, Drained: true}
	whole := backends(up, up, up)
	for name, tc := range map[string]struct {
		one, other *facts.Balancer // of lb-a and lb-b
		rule       string
	}{
		"whole":                             {whole, whole, ""},
		"one load balancer is dead":         {whole, nil, ""},
		"both are":                          {nil, nil, RuleUnknown},
		"the others are down":               {backends(up, down, down), whole, RuleEnough},
		"the others are drained":            {backends(up, drained, drained), whole, RuleEnough},
		"only one load balancer sees it so": {whole, backends(up, down, down), RuleEnough},
		"it is down itself":                 {backends(down, up, down), backends(down, up, down), ""},
	} {
		s := lab(map[string]*facts.Balancer{"lb-a": tc.one, "lb-b": tc.other})
		_, r := s.Allow(Change{Verb: Stop, Part: PoolServer, Subject: "cp-a"})
		if tc.rule == "" && r != nil || tc.rule != "" && (r == nil || r.Rule != tc.rule) {
			t.Errorf("%s: %v", name, r)
		}
		if _, r := s.Allow(Change{Verb: Start, Part: PoolServer, Subject: "cp-a"}); r != nil {
			t.Errorf("%s: its drain cannot be ended: %v", name, r)
		}
	}
}

// TestTheVirtualIPIsNotTakenAwayWithoutASuccessor: a load balancer that has the address restarts only when another one can
// take it, and one that nobody uses, or that does not work, is not kept from being repaired.
func TestTheVirtualIPIsNotTakenAwayWithoutASuccessor(t *testing.T) {
	server := []facts.Backend{{Name: "cp-a", Healthy: true}}
	holder := &facts.Balancer{Healthy: true, Active: true, Backends: server}
	for name, tc := range map[string]struct {
		own, other *facts.Balancer
		silent     bool
		rule       string
	}{
		"without the address":              {&facts.Balancer{Healthy: true, Backends: server}, holder, false, ""},
		"with it, the other ready":         {holder, &facts.Balancer{Healthy: true, Backends: server}, false, ""},
		"with it, the other has no server": {holder, &facts.Balancer{Healthy: true}, false, RuleSuccessor},
		"with it, the other does not work": {holder, &facts.Balancer{}, false, RuleEnough},
		"with it, the other is unknown":    {holder, nil, false, RuleEnough},
		"unknown whether it has it":        {nil, &facts.Balancer{Healthy: true, Backends: server}, false, RuleUnknown},
		"with it, and it does not work":    {&facts.Balancer{Active: true}, &facts.Balancer{}, true, ""},
	} {
		s := lab(map[string]*facts.Balancer{"lb-a": tc.own, "lb-b": tc.other})
		if tc.silent {
			s.Seen.Endpoint = facts.Endpoint{Hosts: map[string]facts.Answer{"worker-a": {Problem: "connection refused"}}}
		}
		_, r := s.Allow(Change{Verb: Restart, Part: LoadBalancer, Subject: "lb-a"})
		if tc.rule == "" && r != nil || tc.rule != "" && (r == nil || r.Rule != tc.rule) {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// TestAnUnknownLoadBalancerIsNoSuccessor: moving the address takes nothing away but the address, so no other rule refuses it.
func TestAnUnknownLoadBalancerIsNoSuccessor(t *testing.T) {
	server := []facts.Backend{{Name: "cp-a", Healthy: true}}
	holder := &facts.Balancer{Healthy: true, Active: true, Backends: server}
	for name, tc := range map[string]struct {
		other *facts.Balancer
		rule  string
	}{
		"ready":     {&facts.Balancer{Healthy: true, Backends: server}, ""},
		"unknown":   {nil, RuleSuccessor},
		"down":      {&facts.Balancer{Backends: server}, RuleSuccessor},
		"no server": {&facts.Balancer{Healthy: true}, RuleSuccessor},
	} {
		s := lab(map[string]*facts.Balancer{"lb-a": holder, "lb-b": tc.other})
		_, r := s.Allow(Change{Verb: Move, Part: VirtualIP, Subject: ""})
		if tc.rule == "" && r != nil || tc.rule != "" && (r == nil || r.Rule != tc.rule) {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// TestStoppingHostsAndZones agrees with the arithmetic: what a host or zone carries must be left elsewhere.
func TestStoppingHostsAndZones(t *testing.T) {
	whole := func(host, zone string) quorum.Placement {
		return quorum.Placement{Host: host, Zone: zone, Member: quorum.Up, APIServer: quorum.Up, ControllerManager: quorum.Up, Scheduler: quorum.Up}
	}
	s := lab(map[string]*facts.Balancer{"lb-a": {Healthy: true}, "lb-b": {Healthy: true}})
	s.placements = []quorum.Placement{whole("cp-a", "a"), whole("cp-b", "b"), whole("cp-c", "c"),
		{Host: "lb-a", Zone: "a", Balancer: quorum.Up}, {Host: "lb-b", Zone: "b", Balancer: quorum.Up}}
	allowed := func(c Change, want bool) {
		t.Helper()
		if _, r := s.Allow(c); (r == nil) != want {
			t.Errorf("%s: %v", c, r)
		}
	}
	allowed(Change{Verb: Stop, Part: WholeHost, Subject: "cp-a"}, true)
	allowed(Change{Verb: Stop, Part: WholeZone, Subject: "a"}, true)
	allowed(Change{Verb: Restart, Part: APIPrograms, Subject: "cp-b"}, true)
	// Each kind of part is judged by itself: two schedulers gone, and the third host may not stop, whatever else works.
	s.placements[0].Scheduler, s.placements[1].Scheduler = quorum.Down, quorum.Unknown
	allowed(Change{Verb: Stop, Part: WholeHost, Subject: "cp-c"}, false)
	allowed(Change{Verb: Restart, Part: EtcdMember, Subject: "cp-c"}, true)
	allowed(Change{Verb: Restart, Part: APIPrograms, Subject: "cp-a"}, true)
	s.placements[0].Scheduler, s.placements[1].Scheduler = quorum.Up, quorum.Up
	s.placements[2].Member = quorum.Unknown
	allowed(Change{Verb: Stop, Part: WholeHost, Subject: "cp-a"}, false)
	allowed(Change{Verb: Stop, Part: WholeZone, Subject: "b"}, false)
	allowed(Change{Verb: Stop, Part: WholeZone, Subject: "c"}, true)
	s.placements[2].Member, s.placements[4].Balancer = quorum.Up, quorum.Down
	allowed(Change{Verb: Stop, Part: WholeZone, Subject: "a"}, false) // the last load balancer
	allowed(Change{Verb: Stop, Part: WholeZone, Subject: "b"}, true)
}

func TestPermitsCoverOnlyTheirHost(t *testing.T) {
	s := lab(map[string]*facts.Balancer{"lb-a": {Healthy: true, Active: true, Backends: []facts.Backend{{Name: "cp-a", Healthy: true}}}, "lb-b": {Healthy: true, Backends: []facts.Backend{{Name: "cp-a", Healthy: true}}}})
	if err := (Permit{}).Covers("lb-b"); err == nil {
		t.Error("nothing was permitted, and everything is covered")
	}
	permit, r := s.Allow(Change{Verb: Restart, Part: LoadBalancer, Subject: "lb-b"})
	if r != nil {
		t.Fatal(r)
	}
	if err := permit.Covers("lb-b"); err != nil {
		t.Error(err)
	}
	if permit.Covers("lb-a") == nil {
		t.Error("a permit for lb-b covers lb-a")
	}
}

// TestUnknownIsNeitherAbsentNorDown: no cluster is created next to hosts that could not be queried.
func TestUnknownIsNeitherAbsentNorDown(t *testing.T) {
	c := spec.DefaultLab("test")
	obs := &facts.Observation{Hosts: map[string]facts.Host{}}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{}}
	}
	if s := Evaluate(c, obs); s.Stage() != Absent {
		t.Fatalf("empty hosts: %s", s.Stage())
	}
	obs.Hosts["cp-b"] = facts.Host{Error: "no SSH connection"}
	s := Evaluate(c, obs)
	if _, r := s.Allow(Change{Verb: Create, Part: ControlPlane, Subject: "cp-a"}); s.Stage() != Undetermined || r == nil || r.Rule != RuleNewCluster {
		t.Errorf("%s, %v", s.Stage(), r)
	}
	// A cluster whose etcd and API nobody could ask has not lost anything that is known.
	for name := range obs.Hosts {
		obs.Hosts[name] = facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{Established: true, KubeletConfig: true, EtcdData: true, Manifests: []string{"etcd", "kube-apiserver", facts.ControllerManager, facts.Scheduler}}},
			APIServer: &facts.Answer{Unknown: "administratively prohibited"}, BalancerError: "administratively prohibited"}
	}
	obs.EtcdError, obs.APIError = "administratively prohibited", "administratively prohibited"
	s = Evaluate(c, obs)
	if s.Stage() != Unresponsive {
		t.Errorf("%s", s.Stage())
	}
	for _, f := range s.Findings() {
		for _, claim := range []string{"lost", "no API server answers", "is not healthy", "does not work", "does not run", "is not running", "no load balancer works"} {
			if strings.Contains(f.Summary, claim) {
				t.Errorf("what could not be queried is called down: %s", f.Summary)
			}
		}
	}
}
