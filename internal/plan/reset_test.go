package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// resetPlan plans a reset of hosts, or of the whole cluster if none is named, and returns the refusal if there is one.
func resetPlan(t *testing.T, f clustertest.Fixture, hosts ...string) (*Plan, *cluster.Refusal) {
	t.Helper()
	s := cluster.Evaluate(f.Spec, f.Seen)
	var p *Plan
	var err error
	if len(hosts) == 0 {
		p, err = ResetAll(s)
	} else {
		p, err = Reset(s, hosts)
	}
	var r *cluster.Refusal
	if errors.As(err, &r) {
		if r.Why == "" || r.Fix == "" {
			t.Errorf("a refusal that helps nobody: %+v", r)
		}
		return nil, r
	}
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, p)
	return p, nil
}

// position is where a step of a host comes in a plan; -1 if it is not there.
func position(p *Plan, kind Kind, host string) int {
	return slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == kind && s.Host == host })
}

// TestAWholeClusterIsResetInAnyCondition: this is how a user starts over.
func TestAWholeClusterIsResetInAnyCondition(t *testing.T) {
	for name, damage := range map[string]func(clustertest.Fixture){
		"whole":                func(clustertest.Fixture) {},
		"empty":                func(f clustertest.Fixture) { f.Empty() },
		"without an API":       func(f clustertest.Fixture) { f.Silent() },
		"without a majority":   func(f clustertest.Fixture) { f.Dies("cp-a", "cp-b") },
		"nothing can be asked": func(f clustertest.Fixture) { f.AllUnknown() },
		"partially built":      func(f clustertest.Fixture) { f.Silent(); f.Marks(false); f.Kubernetes("cp-a").Begun = true },
		"built with other etcd": func(f clustertest.Fixture) {
			f.Silent()
			f.Marks(false)
			f.Kubernetes("cp-a").Begun = true
			f.Kubernetes("cp-a").EtcdInitial = []string{"x=https://10.9.9.9:2380"}
		},
		"half reset": func(f clustertest.Fixture) {
			f.Empty()
			f.Kubernetes("cp-b").Resetting, f.Kubernetes("cp-b").EtcdData = true, true
		},
		"external etcd": func(f clustertest.Fixture) { f.External() },
		"existing etcd": func(f clustertest.Fixture) { f.Existing() },
		"adopted":       func(f clustertest.Fixture) { f.Kubernetes("cp-a").Adopted = true },
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			damage(f)
			p, r := resetPlan(t, f)
			if r != nil {
				t.Fatal(r)
			}
			for _, h := range f.Spec.Spec.Hosts {
				_, dead := p.Unreachable[h.Name]
				if at := position(p, ResetHost, h.Name); (at < 0) != dead {
					t.Errorf("%s: reset at %d, unreachable %t", h.Name, at, dead)
				}
			}
			if worker, lb := position(p, ResetHost, "w-a"), position(p, ResetHost, "lb-a"); lb < worker {
				t.Error("load balancers are not reset last")
			}
			if p.Empty() || f.Spec.ExistingEtcd() && !strings.Contains(strings.Join(p.Notes, ""), "/registry/") {
				t.Errorf("steps %d, notes %q", len(p.Steps), p.Notes)
			}
		})
	}
}

// TestAWholeClusterIsResetOnItsOwnMachines: a spec whose addresses or names were edited after the build leads to other machines. The former ones would keep running.
func TestAWholeClusterIsResetOnItsOwnMachines(t *testing.T) {
	host := func(f clustertest.Fixture, name string) *spec.Host { return editedHost(f.Spec, name) }
	empty := func(f clustertest.Fixture, name string, addresses ...string) {
		var all []facts.Address
		for _, a := range addresses {
			all = append(all, facts.Address{IP: a, Prefix: 24, Interface: "eth0"})
		}
		f.Seen.Hosts[name] = facts.Host{Facts: &facts.Facts{Addresses: all}}
	}
	for name, tc := range map[string]struct {
		edit func(clustertest.Fixture)
		want []string
	}{
		"a worker moved": {func(f clustertest.Fixture) {
			host(f, "w-a").Address = "10.0.0.77"
			empty(f, "w-a", "10.0.0.77")
		}, []string{"spec.hosts[w-a].address", "10.0.0.77"}},
		"a control plane moved": {func(f clustertest.Fixture) {
			host(f, "cp-b").Address = "10.0.0.77"
			empty(f, "cp-b", "10.0.0.77")
		}, []string{"spec.hosts[cp-b].address", "10.0.0.77"}},
		"a load balancer was renamed": {func(f clustertest.Fixture) {
			host(f, "lb-b").Name = "lb-x"
			f.Seen.Hosts["lb-x"] = f.Seen.Hosts["lb-b"]
		}, []string{"spec.hosts[lb-x]"}},
		"a control plane moved, and the API does not answer": {func(f clustertest.Fixture) {
			f.Silent()
			host(f, "cp-b").Address = "10.0.0.77"
			empty(f, "cp-b", "10.0.0.77")
		}, []string{"etcd has the member cp-b at ", "10.0.0.77"}},
		"SSH leads to another machine": {func(f clustertest.Fixture) {
			f.Silent()
			host(f, "w-a").SSH.Address = "203.0.113.1"
			empty(f, "w-a", "10.9.9.9")
		}, []string{"reaches at 203.0.113.1", "w-a", "does not have the address"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			text, err := spec.NewRecord(f.Spec).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			f.Seen.API.Record = string(text)
			tc.edit(f)
			p, r := resetPlan(t, f)
			if r == nil {
				t.Fatalf("%d steps", len(p.Steps))
			}
			if r.Rule != cluster.RuleFixed || !strings.Contains(r.Fix, "reset --all") {
				t.Errorf("%+v", r)
			}
			for _, part := range tc.want {
				if !strings.Contains(r.Why, part) {
					t.Errorf("%q is not in %q", part, r.Why)
				}
			}
		})
	}
	t.Run("what may be part of it is named", func(t *testing.T) {
		f := clustertest.Whole()
		f.Silent()
		f.Seen.Etcd = nil
		f.Kubernetes("cp-a").EtcdInitial = []string{"cp-z=https://10.9.9.9:2380"}
		f.Seen.Hosts["lb-a"].Balancer.Peers = []string{"10.9.9.8"}
		p, r := resetPlan(t, f)
		if r != nil {
			t.Fatal(r)
		}
		notes := strings.Join(p.Notes, "\n")
		for _, part := range []string{"10.9.9.9", "the etcd of cp-a began with the member cp-z", "10.9.9.8", "peer of the load balancer lb-a"} {
			if !strings.Contains(notes, part) {
				t.Errorf("%q is not in %q", part, notes)
			}
		}
	})
}

// TestOthersClustersAreNotReset.
func TestOthersClustersAreNotReset(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(clustertest.Fixture)
		want   string
	}{
		"a kubeadm cluster": {func(f clustertest.Fixture) { f.Marks(false) }, "not built by Quorate"},
		"a kubeadm cluster whose API is down": {func(f clustertest.Fixture) {
			f.Marks(false)
			f.Silent()
		}, "not built by Quorate"},
		"a mark of another name": {func(f clustertest.Fixture) { f.Kubernetes("w-a").Clusters = []string{"other"} }, "the cluster other"},
		"another CA":             {func(f clustertest.Fixture) { f.Kubernetes("w-a").CA = "OTHER" }, "different clusters"},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			tc.change(f)
			for _, hosts := range [][]string{nil, {"w-a"}} {
				if _, r := resetPlan(t, f, hosts...); r == nil || !strings.Contains(r.Why, tc.want) {
					t.Errorf("%v: %v", hosts, r)
				}
			}
		})
	}
}

// TestAHostOfTheOldEtcdIsReset: a machine that missed a recovery of the quorum runs its old member, which the others do not have in their list.
// Its reset takes no member away, whether anybody noted that the old cluster is over or not, and alone or in company.
func TestAHostOfTheOldEtcdIsReset(t *testing.T) {
	for name, change := range map[string]func(clustertest.Fixture){
		"nobody noted it": func(f clustertest.Fixture) {
			for i := range f.Seen.Etcd[1:] {
				m := &f.Seen.Etcd[i+1]
				m.Healthy, m.Leader, m.Problem, m.ClusterID, m.OtherCluster = false, false, "it belongs to the cluster c0, the others to c1", "c0", "c0"
			}
		},
		"it is noted": func(f clustertest.Fixture) {
			for _, m := range f.Seen.Etcd[1:] {
				m.ClusterID = "c0"
				f.Seen.EtcdAbandoned = append(f.Seen.EtcdAbandoned, m)
			}
			f.Seen.Etcd = f.Seen.Etcd[:1]
		},
	} {
		f := clustertest.Whole()
		change(f)
		f.Seen.Etcd[0].Leader = true
		p, r := resetPlan(t, f, "cp-b")
		if r != nil {
			t.Errorf("%s: %+v", name, r)
			continue
		}
		if position(p, RemoveMember, "cp-b") >= 0 || position(p, MoveLeadership, "cp-b") >= 0 || position(p, ResetHost, "cp-b") < 0 || position(p, StopControlPlane, "cp-b") > position(p, ResetHost, "cp-b") {
			t.Errorf("%s: %+v", name, p.Steps)
		}
		// The member that counts still does.
		if _, r := resetPlan(t, f, "cp-a"); r == nil {
			t.Errorf("%s: the only member is reset", name)
		}
	}
}

// TestHostsThatAreNoPartAreCleared, and those on which the others count are not.
func TestHostsThatAreNoPartAreCleared(t *testing.T) {
	partial := func(f clustertest.Fixture) {
		f.Silent()
		f.Marks(false)
		for _, h := range f.Spec.Spec.Hosts {
			if h.IsNode() {
				f.Kubernetes(h.Name).Begun = true
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(clustertest.Fixture)
		host   string
		want   string // in the reason; empty if it is allowed
	}{
		"no cluster":                              {func(f clustertest.Fixture) { f.Empty() }, "cp-a", ""},
		"a worker of an unfinished cluster":       {partial, "w-a", ""},
		"an etcd member of an unfinished cluster": {partial, "cp-a", "starts empty under the same name"},
		"a host that never joined": {func(f clustertest.Fixture) {
			f.Seen.API.Nodes = slices.DeleteFunc(f.Seen.API.Nodes, func(n facts.Node) bool { return n.Name == "w-b" })
			*f.Kubernetes("w-b") = facts.Kubernetes{Begun: true}
		}, "w-b", ""},
		"nobody can tell":              {func(f clustertest.Fixture) { f.Empty(); f.Dies("cp-b") }, "cp-a", "could not be queried"},
		"no API":                       {func(f clustertest.Fixture) { f.Silent() }, "w-a", "API does not answer"},
		"a reset that was interrupted": {func(f clustertest.Fixture) { f.Silent(); f.Kubernetes("w-a").Resetting = true }, "w-a", ""},
		"not in the spec":              {func(clustertest.Fixture) {}, "w-z", "not in the spec"},
		"unreachable":                  {func(f clustertest.Fixture) { f.Dies("w-a") }, "w-a", "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			tc.change(f)
			p, r := resetPlan(t, f, tc.host)
			switch {
			case tc.want == "" && r != nil:
				t.Error(r)
			case tc.want != "" && (r == nil || !strings.Contains(r.Why, tc.want)):
				t.Errorf("%v", r)
			case tc.want == "" && position(p, ResetHost, tc.host) < 0:
				t.Errorf("no reset in %v", p.Steps)
			}
		})
	}
}

// TestNoHostIsForgotten: every host of a spec is in one group.
func TestNoHostIsForgotten(t *testing.T) {
	f := clustertest.Whole()
	f.External()
	f.Spec.Spec.Hosts[0].Roles = append(f.Spec.Spec.Hosts[0].Roles, spec.RoleLoadBalancer, spec.RoleWorker)
	n := 0
	for _, g := range resetOrder(f.Spec.Spec.Hosts) {
		n += len(g)
	}
	if n != len(f.Spec.Spec.Hosts) {
		t.Errorf("%d of %d hosts", n, len(f.Spec.Spec.Hosts))
	}
}

// TestHostsLeaveBeforeTheyAreReset, in the order in which any host leaves, and not if the cluster cannot do without them.
func TestHostsLeaveBeforeTheyAreReset(t *testing.T) {
	order := func(t *testing.T, p *Plan, host string, kinds ...Kind) {
		t.Helper()
		at := -1
		for _, k := range kinds {
			i := position(p, k, host)
			if i <= at {
				t.Errorf("%s on %s is at %d, after %d", k, host, i, at)
			}
			at = i
		}
		for _, s := range p.Steps {
			if s.Host == host && !slices.Contains(kinds, s.Kind) {
				t.Errorf("unexpected: %s", s.ID)
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(clustertest.Fixture)
		host   string
		kinds  []Kind
	}{
		"a worker":        {func(clustertest.Fixture) {}, "w-a", []Kind{CheckDrain, DrainNode, ResetHost, DeleteNode}},
		"a control plane": {func(clustertest.Fixture) {}, "cp-b", []Kind{CheckDrain, DrainNode, LeavePools, MoveLeadership, StopControlPlane, RemoveMember, ResetHost, DeleteNode}},
		"a control plane that lost its data": {func(f clustertest.Fixture) {
			f.Kubernetes("cp-b").EtcdData = false
			f.Seen.Etcd[1].Healthy, f.Seen.Etcd[1].Leader, f.Seen.Etcd[1].Problem = false, false, "connection refused"
			f.Seen.Etcd[0].Leader = true
			f.Seen.API.Nodes[1].Ready = false
			f.Change("cp-b", func(h *facts.Host) { h.APIServer = new(clustertest.Problem("connection refused")) })
			for _, p := range []string{facts.Kubelet, facts.ControllerManager, facts.Scheduler} {
				f.Component("cp-b", p, clustertest.Problem("its unit is activating"))
			}
		}, "cp-b", []Kind{LeavePools, RemoveMember, ResetHost, DeleteNode}},
		"a load balancer":                      {func(clustertest.Fixture) {}, "lb-a", []Kind{MoveVirtualIP, StopBalancer, ResetHost}},
		"interrupted after the host was reset": {func(f clustertest.Fixture) { *f.Kubernetes("w-a") = facts.Kubernetes{} }, "w-a", []Kind{ResetHost, DeleteNode}},
		"interrupted while it was reset":       {func(f clustertest.Fixture) { f.Kubernetes("w-a").Resetting = true }, "w-a", []Kind{ResetHost, DeleteNode}},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			tc.change(f)
			p, r := resetPlan(t, f, tc.host, tc.host)
			if r != nil {
				t.Fatal(r)
			}
			order(t, p, tc.host, tc.kinds...)
		})
	}
	for name, tc := range map[string]struct {
		change func(clustertest.Fixture)
		hosts  []string
		want   string
	}{
		"one more control plane than may be": {func(f clustertest.Fixture) { f.Dies("cp-a") }, []string{"cp-b"}, "etcd member"},
		"two of three control planes":        {func(clustertest.Fixture) {}, []string{"cp-a", "cp-b"}, "would leave 1 of 3 etcd members"},
		"all load balancers":                 {func(clustertest.Fixture) {}, []string{"lb-a", "lb-b"}, "load balancer"},
		"the only one that can take the IP":  {func(f clustertest.Fixture) { f.Seen.Hosts["lb-b"].Balancer.Healthy = false }, []string{"lb-a"}, "load balancer"},
		"all workers":                        {func(clustertest.Fixture) {}, []string{"w-a", "w-b"}, "worker"},
		"all control planes":                 {func(clustertest.Fixture) {}, []string{"cp-a", "cp-b", "cp-c"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			tc.change(f)
			if _, r := resetPlan(t, f, tc.hosts...); r == nil || !strings.Contains(r.Why, tc.want) {
				t.Errorf("%v", r)
			}
		})
	}
}

// TestDrainsAreCheckedBeforeAResetBegins, of all hosts: the first one must not leave in vain.
func TestDrainsAreCheckedBeforeAResetBegins(t *testing.T) {
	f := clustertest.Whole()
	p, r := resetPlan(t, f, "cp-b", "w-a")
	if r != nil {
		t.Fatal(r)
	}
	for _, s := range p.Steps {
		for _, check := range []string{"cp-b/check-drain", "w-a/check-drain"} {
			if s.Kind != CheckDrain && !before(p, check, s.ID) {
				t.Errorf("%s does not wait for %s", s.ID, check)
			}
		}
	}
	p.ForceDrains()
	for _, s := range p.Steps {
		if s.Force != (s.Kind == CheckDrain || s.Kind == DrainNode) {
			t.Errorf("%s: force %t", s.ID, s.Force)
		}
	}
}

// TestAControlPlaneThatWasResetJoinsThePoolsAgain: the load balancers remember that it left them.
func TestAControlPlaneThatWasResetJoinsThePoolsAgain(t *testing.T) {
	for _, drained := range []bool{false, true} {
		c := testCluster()
		obs := finished(t, c)
		blank := empty(c)
		obs.Hosts["cp-b"] = blank.Hosts["cp-b"]
		obs.Etcd = slices.DeleteFunc(obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == "cp-b" })
		obs.API.Nodes = slices.DeleteFunc(obs.API.Nodes, func(n facts.Node) bool { return n.Name == "cp-b" })
		for _, lb := range c.BalancerHosts() {
			for i, s := range obs.Hosts[lb.Name].Balancer.Backends {
				if s.Name == "cp-b" {
					obs.Hosts[lb.Name].Balancer.Backends[i] = facts.Backend{Name: "cp-b", Drained: drained}
				}
			}
		}
		p := build(t, c, obs)
		if joins, again := position(p, JoinControlPlane, "cp-b"), position(p, JoinPools, "cp-b"); joins < 0 || (again > joins) != drained {
			t.Errorf("drained %t: it joins at %d, and the pools at %d", drained, joins, again)
		}
	}
}
