package plan

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// colocated is the test cluster with its load balancers on the control planes.
func colocated() *spec.Cluster {
	c := testCluster()
	without(c, "lb-a", "lb-b")
	return c
}

// unshared gives the API servers arguments without port sharing, as in a cluster that was built with load balancers on hosts of their own.
func unshared(obs *facts.Observation, control ...string) {
	for _, name := range control {
		k := &obs.Hosts[name].Facts.Kubernetes
		k.SharesPort, k.Arguments = false, map[string]map[string]string{facts.APIServer: {"v": "2"}}
	}
}

// gains is what is observed of a host that is read as a load balancer, and is none yet.
func gains(obs *facts.Observation, names ...string) {
	for _, name := range names {
		h := obs.Hosts[name]
		h.Balancer = &facts.Balancer{}
		obs.Hosts[name] = h
	}
}

func peersOf(s Step) (out []string) {
	for _, f := range s.Desired.Files {
		for line := range strings.Lines(f.Content) {
			if address, is := strings.CutSuffix(strings.TrimSpace(line), " min_ttl 255"); is && f.Path == hostconfig.KeepalivedFile {
				out = append(out, address)
			}
		}
	}
	return out
}

func TestLoadBalancersMoveToHostsOfTheirOwn(t *testing.T) {
	c := colocated()
	obs := finished(t, c)
	added(c, obs, "lb-a", spec.RoleLoadBalancer)
	added(c, obs, "lb-b", spec.RoleLoadBalancer)
	p := build(t, c, obs)
	inOrder(t, p, "cp-b/configure/load-balancer", "cp-a/configure/load-balancer", "lb-a/configure/load-balancer", "lb-b/configure/load-balancer",
		"cp-b/stop-balancer", "cp-b/remove-balancer", "cp-c/stop-balancer", "cp-c/remove-balancer", "cp-a/move-virtual-ip", "cp-a/stop-balancer", "cp-a/remove-balancer",
		"lb-a/configure/load-balancer-final", "cluster/record-spec")
	for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
		noneOn(t, p, cp, ResetHost, UpgradeControlPlane, LeavePools, DrainNode)
	}
	for _, s := range p.Steps {
		if s.Kind != Configure || !strings.HasPrefix(s.Detail, "load-balancer") {
			continue
		}
		if want := map[string]int{"load-balancer": 4, "load-balancer-final": 1}[s.Detail]; len(peersOf(s)) != want {
			t.Errorf("%s has the peers %v", s.ID, peersOf(s))
		}
	}
}

func TestLoadBalancersMoveToTheControlPlanes(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	unshared(obs, "cp-a", "cp-b", "cp-c")
	without(c, "lb-a", "lb-b")
	gains(obs, "cp-a", "cp-b", "cp-c")
	p := build(t, c, obs)
	inOrder(t, p, "lb-b/configure/load-balancer", "lb-a/configure/load-balancer", "cluster/store-settings",
		"cp-a/leave-pools", "cp-a/upgrade-control-plane", "cp-a/join-pools", "cp-b/upgrade-control-plane", "cp-c/upgrade-control-plane", "cp-c/join-pools",
		"cp-a/configure/load-balancer", "cp-b/configure/load-balancer", "cp-c/configure/load-balancer",
		"lb-b/stop-balancer", "lb-b/reset-host", "lb-a/move-virtual-ip", "lb-a/stop-balancer", "lb-a/reset-host",
		"cp-a/configure/load-balancer-final", "cluster/record-spec")
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == StoreSettings })
	if p.Steps[i].Settings.Arguments[facts.APIServer][hostconfig.PortSharing] != "true" {
		t.Errorf("stored: %+v", p.Steps[i].Settings)
	}
	for _, s := range p.Steps {
		if s.ID == "cp-a/configure/load-balancer" && s.Change.Verb != cluster.Add {
			t.Errorf("%s: %s", s.ID, s.Change)
		}
	}

	t.Run("API servers that share their port do not restart", func(t *testing.T) {
		for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
			obs.Hosts[name].Facts.Kubernetes.SharesPort = true
		}
		p := build(t, c, obs)
		for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
			noneOn(t, p, cp, UpgradeControlPlane, LeavePools)
		}
		if len(p.Steps) == 0 || slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == StoreSettings }) {
			t.Errorf("%v", p.Steps)
		}
	})
	t.Run("one of them was restarted when a run was killed", func(t *testing.T) {
		unshared(obs, "cp-a", "cp-b", "cp-c")
		k := &obs.Hosts["cp-a"].Facts.Kubernetes
		k.SharesPort, k.Arguments[facts.APIServer][hostconfig.PortSharing] = true, "true"
		p := build(t, c, obs)
		noneOn(t, p, "cp-a", UpgradeControlPlane)
		inOrder(t, p, "cp-a/configure/load-balancer", "cp-b/upgrade-control-plane", "cp-b/configure/load-balancer")
	})
	t.Run("an adopted API server is restarted by hand", func(t *testing.T) {
		obs.Hosts["cp-b"].Facts.Kubernetes.Adopted = true
		if r := refusalOf(t, c, obs); r.Rule != cluster.RuleFixed || !strings.Contains(r.Why, "cp-b was not set up to share port") {
			t.Errorf("refused by %s: %s", r.Rule, r.Why)
		}
	})
}

// TestALoadBalancerMovesByItsRole: one of the load balancers moves to a control plane that stays, and back.
func TestALoadBalancerMovesByItsRole(t *testing.T) {
	c := testCluster()
	mixed := testCluster()
	i := slices.IndexFunc(mixed.Spec.Hosts, func(h spec.Host) bool { return h.Name == "cp-c" })
	mixed.Spec.Hosts[i].Roles = []string{spec.RoleControlPlane, spec.RoleLoadBalancer}

	obs := finished(t, c)
	gains(obs, "cp-c")
	unshared(obs, "cp-a", "cp-b", "cp-c")
	inOrder(t, build(t, mixed, obs), "lb-a/configure/load-balancer", "cp-c/upgrade-control-plane", "cp-c/configure/load-balancer", "cluster/record-spec")

	obs = finished(t, mixed)
	p := build(t, c, obs)
	inOrder(t, p, "cp-c/move-virtual-ip", "cp-c/stop-balancer", "cp-c/remove-balancer", "lb-a/configure/load-balancer-final", "cluster/record-spec")
	noneOn(t, p, "cp-c", UpgradeControlPlane, ResetHost, DrainNode)
}

// TestALoadBalancerThatLeavesIsHeardInItsNetwork: a worker gives up its role, and the frontAddress that a worker without it must not have. Until it has stopped, the others
// know it there.
func TestALoadBalancerThatLeavesIsHeardInItsNetwork(t *testing.T) {
	mixed := testCluster()
	mixed.Spec.LoadBalancer.Address = "192.0.2.100"
	i := slices.IndexFunc(mixed.Spec.Hosts, func(h spec.Host) bool { return h.Name == "worker-b" })
	mixed.Spec.Hosts[i].Roles = []string{spec.RoleWorker, spec.RoleLoadBalancer}
	front(mixed)
	c := mixed.With()
	c.Spec.Hosts[i].Roles, c.Spec.Hosts[i].FrontAddress = []string{spec.RoleWorker}, ""

	obs := finished(t, mixed)
	for _, h := range mixed.BalancerHosts() {
		f := obs.Hosts[h.Name].Facts
		f.Addresses = append(f.Addresses, facts.Address{IP: h.FrontAddress, Prefix: 24, Interface: "eth1"})
	}
	p := build(t, c, obs)
	inOrder(t, p, "lb-a/configure/load-balancer", "worker-b/stop-balancer", "worker-b/remove-balancer", "lb-a/configure/load-balancer-final", "cluster/record-spec")
	for _, s := range p.Steps {
		if s.Host != "lb-a" || s.Kind != Configure {
			continue
		}
		peers := peersOf(s)
		if knows, final := slices.Contains(peers, mixed.Spec.Hosts[i].FrontAddress), s.Detail == "load-balancer-final"; knows == final || slices.Contains(peers, mixed.Spec.Hosts[i].Address) {
			t.Errorf("%s: its peers are %v", s.ID, peers)
		}
	}
}

// TestTheOnlyLoadBalancerMoves in a cluster with one control plane, which the spec allows.
func TestTheOnlyLoadBalancerMoves(t *testing.T) {
	own := testCluster()
	without(own, "cp-b", "cp-c", "lb-b")
	own.Spec.ControlPlane.Placement = spec.PlacementSingle
	beside := testCluster()
	without(beside, "cp-b", "cp-c", "lb-a", "lb-b")
	beside.Spec.ControlPlane.Placement = spec.PlacementSingle

	obs := finished(t, own)
	unshared(obs, "cp-a")
	gains(obs, "cp-a")
	inOrder(t, build(t, beside, obs), "lb-a/configure/load-balancer", "cp-a/upgrade-control-plane", "cp-a/configure/load-balancer", "lb-a/move-virtual-ip", "lb-a/stop-balancer", "lb-a/reset-host")

	obs = finished(t, beside)
	h, _ := own.Host("lb-a")
	obs.Hosts["lb-a"] = facts.Host{Balancer: &facts.Balancer{}, Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}, Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}}}}
	inOrder(t, build(t, own, obs), "cp-a/configure/load-balancer", "lb-a/configure/load-balancer", "cp-a/move-virtual-ip", "cp-a/stop-balancer", "cp-a/remove-balancer")
}

// TestAMoveThatWasKilledIsFinished cuts runs short after every step that removes something.
func TestAMoveThatWasKilledIsFinished(t *testing.T) {
	c := colocated()
	obs := finished(t, c)
	added(c, obs, "lb-a", spec.RoleLoadBalancer)
	added(c, obs, "lb-b", spec.RoleLoadBalancer)
	once := map[string]int{}
	kinds := []Kind{MoveVirtualIP, StopBalancer, RemoveBalancer}
	removed := 0
	for range 30 {
		p := build(t, c, obs)
		i := slices.IndexFunc(p.Steps, func(s Step) bool { return slices.Contains(kinds, s.Kind) })
		if i < 0 {
			i = slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RecordSpec })
		}
		if i < 0 {
			break
		}
		s := p.Steps[i]
		if once[s.ID]++; once[s.ID] > 1 {
			t.Fatalf("%s is planned again", s.ID)
		}
		if s.Kind == RemoveBalancer {
			removed++
		}
		took(c, obs, s)
		for _, other := range cluster.Evaluate(c, obs).Retiring() { // what was stopped stays so
			if obs.Hosts[other.Name].Facts.Units["keepalived.service"] == "" {
				again := build(t, c, obs)
				noneOn(t, again, other.Name, StopBalancer)
				if slices.ContainsFunc(again.Steps, func(s Step) bool { return s.ID == other.Name+"/configure/load-balancer" }) {
					t.Errorf("the load balancer on %s is started again", other.Name)
				}
			}
		}
	}
	if retiring := cluster.Evaluate(c, obs).Retiring(); len(retiring) > 0 || removed != 3 {
		t.Errorf("%v are left, %d were removed", retiring, removed)
	}
}

// TestALoadBalancerThatCannotBeStopped: on a host that stays, it is brought back first. With its host, it leaves when that is dead.
func TestALoadBalancerThatCannotBeStopped(t *testing.T) {
	shape := func(t *testing.T) (*spec.Cluster, *facts.Observation) {
		c := colocated()
		obs := finished(t, c)
		added(c, obs, "lb-a", spec.RoleLoadBalancer)
		added(c, obs, "lb-b", spec.RoleLoadBalancer)
		return c, obs
	}
	t.Run("its host stays", func(t *testing.T) {
		c, obs := shape(t)
		dies(obs, "cp-c")
		if r := refusalOf(t, c, obs); r.Rule != RuleRetiring || !strings.Contains(r.Why, "cp-c") || !r.Transient {
			t.Errorf("refused by %s: %s", r.Rule, r.Why)
		}
	})
	t.Run("its host is in maintenance", func(t *testing.T) {
		c, obs := shape(t)
		obs.API.Maintenance = map[string]facts.Maintenance{"cp-c": {}}
		if r := refusalOf(t, c, obs); r.Rule != RuleRetiring || !strings.Contains(r.Fix, "--undo cp-c") || r.Transient {
			t.Errorf("refused by %s: %s", r.Rule, r.Fix)
		}
	})
	t.Run("its host is replaced", func(t *testing.T) {
		c, obs := shape(t)
		dies(obs, "cp-c")
		without(c, "cp-c")
		added(c, obs, "cp-d", spec.RoleControlPlane)
		p := build(t, c, obs)
		inOrder(t, p, "cp-c/remove-member", "cluster/remember-hosts/removed-hosts", "cp-d/join-control-plane", "cp-b/stop-balancer", "cp-a/move-virtual-ip", "cp-a/remove-balancer", "cluster/record-spec")
		noneOn(t, p, "cp-c", StopBalancer, RemoveBalancer)
		for _, s := range p.Steps {
			switch {
			case s.Kind == RememberHosts && !strings.Contains(s.Record, spec.RoleLoadBalancer):
				t.Errorf("nobody remembers that it was a load balancer:\n%s", s.Record)
			case s.Kind == Configure && s.Detail == "load-balancer-final" && !slices.Contains(peersOf(s), "10.0.0.13"):
				t.Errorf("%s forgets it: %v", s.ID, peersOf(s))
			}
		}
	})
	t.Run("one with a host of its own is dead", func(t *testing.T) {
		c := testCluster()
		obs := finished(t, c)
		dies(obs, "lb-b")
		without(c, "lb-a", "lb-b")
		gains(obs, "cp-a", "cp-b", "cp-c")
		for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
			obs.Hosts[name].Facts.Kubernetes.SharesPort = true
		}
		p := build(t, c, obs)
		inOrder(t, p, "lb-a/configure/load-balancer", "cp-a/configure/load-balancer", "lb-a/move-virtual-ip", "cluster/record-spec")
		noneOn(t, p, "lb-b")
	})
}

// TestANewLoadBalancerKnowsWhatIsDrained: it must send no clients to a control plane that is in maintenance.
func TestANewLoadBalancerKnowsWhatIsDrained(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Ready: true}}
	added(c, obs, "lb-z", spec.RoleLoadBalancer)
	steps := stepsOf(build(t, c, obs), "lb-z", Configure)
	i := slices.IndexFunc(steps, func(s Step) bool { return s.Detail == "load-balancer" })
	if i < 0 {
		t.Fatal("it is not configured")
	}
	if f := steps[i].Desired.Files[0]; f.Path != hostconfig.DrainedFile || f.Content != "cp-b\n" {
		t.Errorf("%s has %q", f.Path, f.Content)
	}
	for _, s := range stepsOf(build(t, c, obs), "lb-a", Configure) {
		if slices.ContainsFunc(s.Desired.Files, func(f facts.File) bool { return f.Path == hostconfig.DrainedFile }) {
			t.Error("one that runs knows it already")
		}
	}
}

// TestHostsGetTheCallersQuorate: units run a copy of it, which would otherwise stay older than what plans the changes around them.
func TestHostsGetTheCallersQuorate(t *testing.T) {
	c := testCluster()
	for found, want := range map[facts.Copy]string{facts.SameCopy: "", facts.OtherCopy: "another version of quorate", facts.MissingCopy: "missing"} {
		o := finished(t, c)
		for name, h := range o.Hosts {
			h.Facts.Self = found
			o.Hosts[name] = h
		}
		p := build(t, c, o)
		for _, h := range c.Spec.Hosts {
			for _, s := range stepsOf(p, h.Name, Configure) {
				if want == "" || !strings.Contains(s.Reason, want) {
					t.Errorf("%q: %s on %s: %s", found, s.Title, h.Name, s.Reason)
				}
			}
			if units := h.Has(spec.RoleControlPlane) || c.Balances(h); want != "" && units != (len(stepsOf(p, h.Name, Configure)) > 0) {
				t.Errorf("%q: %s gets %d steps", found, h.Name, len(stepsOf(p, h.Name, Configure)))
			}
		}
		if want == "" && len(p.Steps) > 0 {
			t.Errorf("%d steps", len(p.Steps))
		}
	}
}
