package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// without takes hosts out of a spec.
func without(c *spec.Cluster, names ...string) {
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return slices.Contains(names, h.Name) })
}

// added puts a host into a spec, on which nothing was done yet.
func added(c *spec.Cluster, obs *facts.Observation, name string, roles ...string) {
	h := spec.Host{Name: name, Address: fmt.Sprintf("10.0.0.%d", 50+len(c.Spec.Hosts)), Zone: string(name[len(name)-1]), Roles: roles}
	c.Spec.Hosts = append(c.Spec.Hosts, h)
	obs.Hosts[name] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}, Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}}}}
	if h.Has(spec.RoleLoadBalancer) {
		seen := obs.Hosts[name]
		seen.Balancer = &facts.Balancer{}
		obs.Hosts[name] = seen
	}
}

// dies is what the others see of a host that was powered off.
func dies(obs *facts.Observation, name string) {
	obs.Hosts[name] = facts.Host{Error: "no SSH connection: no answer within 10s", SeenBy: map[string]facts.Answer{"worker-a": {Problem: "no route to host"}}}
	for i := range obs.Etcd {
		if obs.Etcd[i].Name == name {
			obs.Etcd[i].Healthy, obs.Etcd[i].Leader, obs.Etcd[i].Unknown = false, false, "no SSH connection"
		}
	}
	for i := range obs.API.Nodes {
		if obs.API.Nodes[i].Name == name {
			obs.API.Nodes[i].Ready = false
		}
	}
	for other, seen := range obs.Hosts {
		if seen.Balancer != nil {
			for i := range seen.Balancer.Backends {
				if seen.Balancer.Backends[i].Name == name {
					seen.Balancer.Backends[i].Healthy = false
				}
			}
		}
		obs.Hosts[other] = seen
	}
}

func before(p *Plan, first, second string) bool {
	needs := map[string][]string{}
	for _, s := range p.Steps {
		needs[s.ID] = s.Needs
	}
	if _, there := needs[first]; !there {
		return false
	}
	var reaches func(id string) bool
	seen := map[string]bool{}
	reaches = func(id string) bool {
		if seen[id] {
			return false
		}
		seen[id] = true
		return slices.ContainsFunc(needs[id], func(n string) bool { return n == first || reaches(n) })
	}
	return reaches(second)
}

// inOrder expects that each of the steps comes after the one before it.
func inOrder(t *testing.T, p *Plan, ids ...string) {
	t.Helper()
	for i := range ids[1:] {
		if !before(p, ids[i], ids[i+1]) {
			t.Errorf("%s does not come before %s", ids[i], ids[i+1])
		}
	}
	if t.Failed() {
		for _, s := range p.Steps {
			t.Log(s.ID, s.Needs)
		}
	}
}

func noneOn(t *testing.T, p *Plan, host string, kinds ...Kind) {
	t.Helper()
	for _, s := range p.Steps {
		if s.Host == host && (len(kinds) == 0 || slices.Contains(kinds, s.Kind)) {
			t.Errorf("%s is planned", s.ID)
		}
	}
}

func TestAWorkerIsReplaced(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	without(c, "worker-b")
	added(c, obs, "worker-c", spec.RoleWorker)
	p := build(t, c, obs)
	inOrder(t, p, "worker-c/join-worker", "cluster/await-nodes", "worker-b/drain-node", "worker-b/reset-host", "worker-b/delete-node", "cluster/record-spec", "cluster/verify")
	noneOn(t, p, "worker-b", RemoveMember, StopControlPlane, LeavePools, MoveLeadership, StopBalancer)
}

func TestTheFirstControlPlaneIsReplaced(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.Etcd[0].Leader = true
	without(c, "cp-a")
	added(c, obs, "cp-d", spec.RoleControlPlane)
	p := build(t, c, obs)
	inOrder(t, p, "lb-a/configure/load-balancer", "cp-d/join-control-plane", "cluster/await-nodes", "cp-a/drain-node", "cp-a/leave-pools", "cp-a/move-leadership", "cp-a/stop-control-plane",
		"cp-a/remove-member", "cp-a/reset-host", "cp-a/delete-node", "lb-a/configure/load-balancer-final", "cluster/record-spec")
	for _, s := range p.Steps {
		switch s.ID {
		case "lb-a/configure/load-balancer":
			if text := s.Desired.Files[1].Content; !strings.Contains(text, "server cp-a ") || !strings.Contains(text, "server cp-d ") {
				t.Error("a control plane left the pools before its clients did")
			}
		case "lb-a/configure/load-balancer-final":
			if text := s.Desired.Files[1].Content; strings.Contains(text, "server cp-a ") {
				t.Error("it stays in the pools")
			}
		case "cp-a/remove-member":
			if s.Margins == nil || s.Margins.Etcd != 1 {
				t.Errorf("meanwhile the margins are %+v", s.Margins)
			}
		}
	}
}

// TestDrainsAreCheckedBeforeAnythingChanges: no host joins, and no node is cordoned, for a departure that a disruption budget would never
// allow.
func TestDrainsAreCheckedBeforeAnythingChanges(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	without(c, "worker-a", "worker-b", "cp-a", "lb-a")
	added(c, obs, "worker-c", spec.RoleWorker)
	added(c, obs, "cp-d", spec.RoleControlPlane)
	p := build(t, c, obs)
	for _, host := range []string{"worker-a", "worker-b", "cp-a"} {
		if len(stepsOf(p, host, CheckDrain)) != 1 {
			t.Errorf("whether %s can be drained is not checked", host)
		}
		for _, s := range p.Steps {
			if s.Kind != CheckDrain && !before(p, host+"/check-drain", s.ID) {
				t.Errorf("%s does not wait for the check of %s", s.ID, host)
			}
		}
	}
	noneOn(t, p, "lb-a", CheckDrain)

	// The pods of a node that is not Ready do not work: it is not drained.
	c = testCluster()
	obs = finished(t, c)
	for i := range obs.API.Nodes {
		obs.API.Nodes[i].Ready = obs.API.Nodes[i].Name != "worker-b"
	}
	without(c, "worker-b")
	noneOn(t, build(t, c, obs), "worker-b", CheckDrain, DrainNode)
}

// TestSnapshotsOutliveTheirHost: upgrades saved them for the cluster.
func TestSnapshotsOutliveTheirHost(t *testing.T) {
	names := func(days ...int) (out []string) {
		for _, d := range days {
			out = append(out, fmt.Sprintf("2026112%dT000000Z-before-v1.37.2.db", d))
		}
		return out
	}
	for name, tc := range map[string]struct {
		leave      []string
		have, kept []string // on cp-a, and on cp-b before
		to         string   // which host gets them
		copied     []string
	}{
		"none":                         {leave: []string{"cp-a"}},
		"one":                          {leave: []string{"cp-a"}, have: names(3), to: "cp-b", copied: names(3)},
		"a worker has none":            {leave: []string{"worker-b"}, have: names(3)},
		"some are there already":       {leave: []string{"cp-a"}, have: names(1, 3), kept: names(1, 2), to: "cp-b", copied: names(3)},
		"newer ones are there already": {leave: []string{"cp-a"}, have: []string{"20261121T000000Z-before-v1.36.3.db"}, kept: names(2, 3, 4)},
		"the one from before is here":  {leave: []string{"cp-a"}, have: names(1), kept: names(2, 3, 4), to: "cp-b", copied: names(1)},
		"the next host leaves as well": {leave: []string{"cp-a", "cp-b"}, have: names(3), to: "cp-c", copied: names(3)},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			obs.Hosts["cp-a"].Facts.Snapshots, obs.Hosts["cp-b"].Facts.Snapshots = tc.have, tc.kept
			for i, leaving := range tc.leave {
				h, _ := c.Host(leaving)
				without(c, leaving)
				added(c, obs, strings.Replace(leaving, leaving[:len(leaving)-1], leaving[:len(leaving)-1]+"new-", 1)+string(rune('x'+i)), h.Roles...)
			}
			p := build(t, c, obs)
			i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == KeepSnapshots })
			if len(tc.copied) == 0 {
				if i >= 0 {
					t.Errorf("%+v", p.Steps[i])
				}
				return
			}
			if i < 0 || p.Steps[i].Host != "cp-a" || p.Steps[i].Detail != tc.to || !slices.Equal(p.Steps[i].Snapshots, tc.copied) {
				t.Fatalf("step %d: %+v", i, p.Steps)
			}
			inOrder(t, p, "cp-a/keep-snapshots/"+tc.to, "cp-a/drain-node", "cp-a/reset-host")
		})
	}
	// Nobody is left that could keep them.
	c := testCluster()
	obs := finished(t, c)
	obs.Hosts["cp-a"].Facts.Snapshots = names(3)
	for i := range obs.Etcd {
		if obs.Etcd[i].Name != "cp-a" {
			obs.Etcd[i].Healthy, obs.Etcd[i].Problem = false, "alarm: NOSPACE"
		}
	}
	b := &builder{State: cluster.Evaluate(c, obs), c: c, out: &Plan{}, at: map[string]*hostSteps{}}
	h, _ := c.Host("cp-a")
	b.keepSnapshots(h, []spec.Host{h}, nil)
	if len(b.out.Warnings) != 1 || !strings.Contains(b.out.Warnings[0], facts.SnapshotDir) {
		t.Errorf("the warnings are %q", b.out.Warnings)
	}
}

func TestTwoControlPlanesAreReplacedInOneEdit(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.Etcd[0].Leader = true
	without(c, "cp-a", "cp-b")
	added(c, obs, "cp-d", spec.RoleControlPlane)
	added(c, obs, "cp-e", spec.RoleControlPlane)
	p := build(t, c, obs)
	inOrder(t, p, "cp-d/join-control-plane", "cp-e/join-control-plane", "cp-b/drain-node", "cp-b/remove-member", "cp-b/delete-node", "cp-a/drain-node", "cp-a/remove-member", "cp-a/delete-node", "cluster/record-spec")
}

func TestADeadControlPlaneLeavesFirst(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	dies(obs, "cp-b")
	without(c, "cp-b")
	added(c, obs, "cp-d", spec.RoleControlPlane)
	p := build(t, c, obs)
	inOrder(t, p, "cp-b/remove-member", "cluster/remember-hosts/removed-hosts", "cp-b/delete-node", "cp-d/join-control-plane", "cluster/record-spec")
	noneOn(t, p, "cp-b", DrainNode, ResetHost, LeavePools, MoveLeadership, StopControlPlane)
	for _, s := range p.Steps {
		if s.Kind == RememberHosts {
			if hosts, err := spec.ParseHosts(s.Record); err != nil || len(hosts) != 1 || hosts[0].Address != "10.0.0.12" || !slices.Equal(s.Nodes, []string{"cp-b"}) {
				t.Errorf("remembered as %v, %v, %v", hosts, s.Nodes, err)
			}
		}
	}
}

// TestUnknownIsNotDead: a host that cannot be reached is removed by force only if everything that others see of it is down.
func TestUnknownIsNotDead(t *testing.T) {
	for name, tc := range map[string]struct {
		host  string
		alive func(*facts.Observation)
		why   string
	}{
		"the node is Ready":       {"worker-b", func(o *facts.Observation) { o.API.Nodes[4].Ready = true }, "its node is Ready"},
		"the member works":        {"cp-b", func(o *facts.Observation) { o.Etcd[1].Healthy = true }, "its etcd member works"},
		"its address answers":     {"worker-b", func(o *facts.Observation) { o.Hosts["worker-b"].SeenBy["cp-a"] = facts.Answer{OK: true} }, "something answers cp-a"},
		"nobody could look":       {"worker-b", func(o *facts.Observation) { delete(o.Hosts["worker-b"].SeenBy, "worker-a") }, "no other host could try"},
		"a balancer that answers": {"lb-b", func(o *facts.Observation) { o.Hosts["lb-b"].SeenBy["cp-a"] = facts.Answer{OK: true} }, "something answers cp-a"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			dies(obs, tc.host)
			tc.alive(obs)
			without(c, tc.host)
			if r := refusalOf(t, c, obs); r.Rule != cluster.RuleDead || !strings.Contains(r.Why, tc.why) {
				t.Errorf("refused by %s: %s", r.Rule, r.Why)
			}
		})
	}
}

func TestALoadBalancerWithTheVirtualIPIsReplaced(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	without(c, "lb-a")
	added(c, obs, "lb-c", spec.RoleLoadBalancer)
	p := build(t, c, obs)
	inOrder(t, p, "lb-b/configure/load-balancer", "lb-c/configure/load-balancer", "lb-a/move-virtual-ip", "lb-a/stop-balancer", "lb-a/reset-host", "lb-b/configure/load-balancer-final", "cluster/record-spec")
	for _, s := range p.Steps {
		if s.Kind != Configure || s.Host == "lb-a" || !strings.HasPrefix(s.Detail, "load-balancer") {
			continue
		}
		peer := slices.ContainsFunc(s.Desired.Files, func(f facts.File) bool { return strings.Contains(f.Content, "10.0.0.16 min_ttl") })
		if want := s.Detail == "load-balancer"; peer != want {
			t.Errorf("%s has the old one as a peer: %t", s.ID, peer)
		}
	}
}

// TestAHostInMaintenanceLeaves: what the cluster remembers of its maintenance must not stay for another host of its name.
func TestAHostInMaintenanceLeaves(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.API.Maintenance = map[string]facts.Maintenance{"cp-b": {}}
	dies(obs, "cp-b")
	without(c, "cp-b")
	added(c, obs, "cp-d", spec.RoleControlPlane)
	inOrder(t, build(t, c, obs), "cp-b/remove-member", "cp-d/join-control-plane", "cp-b/leave-maintenance", "cluster/record-spec")
}

// TestAPackagedConfigurationIsNoLoadBalancer: a new host has HAProxy's configuration as its distribution brings it. It comes last all
// the same.
func TestAPackagedConfigurationIsNoLoadBalancer(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	added(c, obs, "lb-0", spec.RoleLoadBalancer)
	obs.Hosts["lb-0"].Balancer.Others = &facts.OthersBalancing{}
	p := build(t, c, obs)
	inOrder(t, p, "lb-a/configure/load-balancer", "lb-0/configure/load-balancer")
	for _, s := range p.Steps {
		if s.Host == "lb-0" && s.Kind == Configure && s.Change != nil && s.Change.Verb != cluster.Add {
			t.Errorf("%s: %s", s.ID, s.Change)
		}
	}
}

func TestADeadLoadBalancerStaysAPeer(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	dies(obs, "lb-a")
	obs.Hosts["lb-b"].Balancer.Active = true
	without(c, "lb-a")
	added(c, obs, "lb-c", spec.RoleLoadBalancer)
	p := build(t, c, obs)
	noneOn(t, p, "lb-a")
	inOrder(t, p, "lb-b/configure/load-balancer", "lb-c/configure/load-balancer", "cluster/record-spec")
	for _, s := range p.Steps {
		if s.Kind == Configure && strings.HasPrefix(s.Detail, "load-balancer") && !slices.ContainsFunc(s.Desired.Files, func(f facts.File) bool { return strings.Contains(f.Content, "10.0.0.16 min_ttl") }) {
			t.Errorf("%s forgets it", s.ID)
		}
	}
}

// TestANewMachineWithTheSameName replaces what is left of the old one.
func TestANewMachineWithTheSameName(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for _, name := range []string{"cp-b", "worker-b"} {
		dies(obs, name)
		obs.Hosts[name] = facts.Host{Facts: empty(c).Hosts[name].Facts}
	}
	obs.Etcd[1].Unknown, obs.Etcd[1].Problem = "", "connection refused"
	p := build(t, c, obs)
	inOrder(t, p, "cp-b/remove-member", "cp-b/delete-node", "cp-b/join-control-plane")
	inOrder(t, p, "worker-b/delete-node", "worker-b/join-worker")
	noneOn(t, p, "worker-b", RemoveMember)
}

// TestARemovedHostThatComesBack is reset, and then forgotten; one that was cleared is only forgotten.
func TestARemovedHostThatComesBack(t *testing.T) {
	for name, tc := range map[string]struct {
		facts  *facts.Facts
		reset  bool
		forget bool
	}{
		"still down":         {nil, false, false},
		"as it was":          {&facts.Facts{Kubernetes: facts.Kubernetes{CA: "CA", KubeletConfig: true}}, true, true},
		"installed again":    {&facts.Facts{}, false, true},
		"of another cluster": {&facts.Facts{Kubernetes: facts.Kubernetes{CA: "OTHER", KubeletConfig: true}}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			h := spec.Host{Name: "worker-z", Address: "10.0.0.99", Zone: "a", Roles: []string{spec.RoleWorker}, SSH: spec.SSH{User: "root", Port: 22}}
			var err error
			if obs.API.Removed, err = spec.MarshalHosts([]spec.Host{h}); err != nil {
				t.Fatal(err)
			}
			obs.Hosts["worker-z"] = facts.Host{Facts: tc.facts, Error: "down"}
			p := build(t, c, obs)
			kinds := kindsOf(p)
			if len(kinds[ResetHost]) == 1 != tc.reset || len(kinds[RememberHosts]) == 1 != tc.forget {
				t.Errorf("%v", kinds)
			}
		})
	}
	t.Run("a load balancer with a former virtual IP", func(t *testing.T) {
		c := testCluster()
		obs := finished(t, c)
		h := spec.Host{Name: "lb-z", Address: "10.0.0.99", Zone: "a", Roles: []string{spec.RoleLoadBalancer}}
		obs.API.Removed, _ = spec.MarshalHosts([]spec.Host{h})
		obs.Hosts["lb-z"] = facts.Host{Facts: &facts.Facts{Addresses: []facts.Address{{IP: "10.0.0.99"}, {IP: "10.0.0.50"}}},
			Balancer: &facts.Balancer{Healthy: true, WrittenFor: "test", Endpoints: []string{"api.test.internal:6443@10.0.0.50"}}}
		if p := build(t, c, obs); len(stepsOf(p, "lb-z", ResetHost)) != 1 {
			t.Error(kindsOf(p))
		}
	})
	t.Run("before a host of its name joins", func(t *testing.T) {
		c := testCluster()
		obs := finished(t, c)
		h := spec.Host{Name: "worker-z", Address: "10.0.0.99", Zone: "a", Roles: []string{spec.RoleWorker}}
		obs.API.Removed, _ = spec.MarshalHosts([]spec.Host{h})
		added(c, obs, "worker-z", spec.RoleWorker)
		inOrder(t, build(t, c, obs), "cluster/remember-hosts/removed-hosts", "worker-z/join-worker")
	})
}

// TestAllControlPlanesInOneEdit: nobody could tell that the workers belong to a cluster that exists.
func TestAllControlPlanesInOneEdit(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	without(c, "cp-a", "cp-b", "cp-c")
	for _, name := range []string{"cp-x", "cp-y", "cp-z"} {
		added(c, obs, name, spec.RoleControlPlane)
	}
	obs.API, obs.Etcd = nil, nil
	if r := refusalOf(t, c, obs); r.Rule != cluster.RuleNewCluster || !strings.Contains(r.Fix, "at least one control plane") {
		t.Errorf("refused by %s: %s", r.Rule, r.Why)
	}
}

func TestFromOneControlPlaneToFiveAndBack(t *testing.T) {
	all := func(n int) *spec.Cluster {
		c := testCluster()
		hosts := slices.DeleteFunc(slices.Clone(c.Spec.Hosts), func(h spec.Host) bool { return h.Has(spec.RoleControlPlane) })
		c.Spec.Hosts = nil
		for i := range n {
			c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("cp-", i), Address: fmt.Sprint("10.0.1.", 10+i), Zone: string("abc"[i%3]), Roles: []string{spec.RoleControlPlane}})
		}
		c.Spec.Hosts = append(c.Spec.Hosts, hosts...)
		if c.Spec.ControlPlane.Placement = spec.PlacementRegional; n == 1 {
			c.Spec.ControlPlane.Placement = spec.PlacementSingle
		}
		return c
	}
	for _, step := range [][2]int{{1, 3}, {3, 5}, {5, 3}, {3, 1}, {1, 5}, {5, 1}} {
		from, to := all(step[0]), all(step[1])
		obs := finished(t, from)
		blank := empty(to)
		for _, h := range to.Spec.Hosts {
			if _, seen := obs.Hosts[h.Name]; !seen {
				obs.Hosts[h.Name] = blank.Hosts[h.Name]
			}
		}
		kinds := kindsOf(build(t, to, obs))
		if len(kinds[JoinControlPlane]) != max(step[1]-step[0], 0) || len(kinds[RemoveMember]) != max(step[0]-step[1], 0) {
			t.Errorf("from %d to %d: %v", step[0], step[1], kinds)
		}
	}
}

// TestPlansOfEveryShapeKeepTheMajority builds plans for every cluster of up to five control planes, each of which works or is
// dead, stays or leaves, with up to two new ones; and for every plan that is not refused, it follows the changes with an
// arithmetic of its own.
func TestPlansOfEveryShapeKeepTheMajority(t *testing.T) {
	plans, refusals := 0, 0
	for n := 1; n <= 5; n++ {
		for mask := range 1 << (2 * n) {
			sorted := true // the order of hosts means nothing
			for i := range n - 1 {
				sorted = sorted && mask>>(2*i)&3 <= mask>>(2*i+2)&3
			}
			if !sorted {
				continue
			}
			for fresh := range 3 {
				c := testCluster()
				hosts := slices.DeleteFunc(slices.Clone(c.Spec.Hosts), func(h spec.Host) bool { return h.Has(spec.RoleControlPlane) })
				c.Spec.Hosts = nil
				for i := range n {
					c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("cp-", i), Address: fmt.Sprint("10.0.1.", 10+i), Zone: "a", Roles: []string{spec.RoleControlPlane}})
				}
				c.Spec.Hosts = append(c.Spec.Hosts, hosts...)
				obs := finished(t, c)
				up, stay := 0, 0
				for i := range n {
					name := fmt.Sprint("cp-", i)
					dead, leaves := mask>>(2*i)&1 == 1, mask>>(2*i+1)&1 == 1
					if dead {
						dies(obs, name)
					} else {
						up++
					}
					if leaves {
						without(c, name)
					} else if !dead {
						stay++
					}
				}
				if 2*up <= n || stay == 0 {
					continue // no majority, or nobody who could be asked
				}
				for i := range fresh {
					added(c, obs, fmt.Sprint("new-", i), spec.RoleControlPlane)
				}
				s := cluster.Evaluate(c, obs)
				p, err := Build(s, testBundle)
				if err != nil {
					var r *cluster.Refusal
					if !errors.As(err, &r) || r.Rule == "" || r.Fix == "" {
						t.Fatalf("%d control planes, %b, %d new: %v", n, mask, fresh, err)
					}
					refusals++
					continue
				}
				plans++
				members := map[string]bool{} // name → works
				for _, m := range obs.Etcd {
					members[m.Name] = m.Healthy
				}
				for _, step := range p.Steps {
					if step.Change == nil || step.Change.Part != cluster.ControlPlane && step.Change.Part != cluster.EtcdMember {
						continue
					}
					switch step.Change.Verb {
					case cluster.Add:
						members[step.Host] = len(members) < 2
					case cluster.Remove:
						delete(members, step.Host)
					default:
						continue
					}
					works := 0
					for _, m := range members {
						if m {
							works++
						}
					}
					if works < quorum.Majority(len(members)) {
						t.Fatalf("%d control planes, %b, %d new: %s leaves %v", n, mask, fresh, step.ID, members)
					}
					if step.Change.Verb == cluster.Add {
						members[step.Host] = true
					}
				}
			}
		}
	}
	if plans < 100 || refusals < 10 {
		t.Errorf("%d plans and %d refusals show nothing", plans, refusals)
	}
	t.Logf("%d plans, %d refusals", plans, refusals)
}

// took changes an observation as a step of a departure does.
func took(c *spec.Cluster, obs *facts.Observation, s Step) {
	seen := obs.Hosts[s.Host]
	switch s.Kind {
	case StopControlPlane:
		k := seen.Facts.Kubernetes
		k.Manifests = []string{"etcd"}
		seen.Facts.Kubernetes, seen.APIServer = k, &facts.Answer{Problem: "connection refused"}
		seen.Components = map[string]facts.Component{}
	case RemoveMember:
		obs.Etcd = slices.DeleteFunc(obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == s.Host })
	case MoveVirtualIP:
		for name, h := range obs.Hosts {
			if h.Balancer != nil {
				h.Balancer.Active = name == "lb-b"
			}
		}
	case StopBalancer:
		seen.Balancer, seen.Facts.Units = &facts.Balancer{WrittenFor: seen.Balancer.WrittenFor}, map[string]string{}
	case RemoveBalancer:
		seen.Balancer = &facts.Balancer{}
		for path := range seen.Facts.Files {
			if strings.Contains(path, "haproxy") || strings.Contains(path, "keepalived") || strings.Contains(path, "watchdog") {
				delete(seen.Facts.Files, path)
			}
		}
	case ResetHost:
		seen = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}, Addresses: seen.Facts.Addresses}}
		if h, _ := cluster.Evaluate(c, obs).Present().Host(s.Host); h.Has(spec.RoleLoadBalancer) {
			seen.Balancer = &facts.Balancer{}
		}
	case DeleteNode:
		obs.API.Nodes = slices.DeleteFunc(obs.API.Nodes, func(n facts.Node) bool { return n.Name == s.Host })
	case RememberHosts:
		obs.API.Removed = s.Record
	case RecordSpec:
		obs.API.Record = s.Record
	}
	if s.Host != "" {
		obs.Hosts[s.Host] = seen
	}
}

// TestADepartureThatWasKilledIsFinished cuts runs short after every step. The next plan has the rest, and nothing twice that
// changes the cluster.
func TestADepartureThatWasKilledIsFinished(t *testing.T) {
	for name, tc := range map[string]struct {
		leaves []string
		dead   bool
	}{
		"a worker": {[]string{"worker-b"}, false}, "a dead worker": {[]string{"worker-b"}, true}, "a control plane": {[]string{"cp-a"}, false},
		"a dead control plane": {[]string{"cp-c"}, true}, "a load balancer": {[]string{"lb-a"}, false}, "all of them": {[]string{"worker-b", "cp-b", "lb-a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			if tc.dead {
				dies(obs, tc.leaves[0])
			}
			without(c, tc.leaves...)
			for i := range obs.Etcd {
				obs.Etcd[i].ID = fmt.Sprint(i)
			}
			once := map[string]int{}
			for range 40 {
				p := build(t, c, obs)
				i := slices.IndexFunc(p.Steps, func(s Step) bool {
					return slices.Contains([]Kind{StopControlPlane, RemoveMember, StopBalancer, MoveVirtualIP, ResetHost, DeleteNode, RememberHosts}, s.Kind)
				})
				if i < 0 {
					i = slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RecordSpec })
				}
				if i < 0 {
					break
				}
				if once[p.Steps[i].ID]++; once[p.Steps[i].ID] > 1 {
					t.Fatalf("%s is planned again", p.Steps[i].ID)
				}
				took(c, obs, p.Steps[i])
			}
			s := cluster.Evaluate(c, obs)
			if len(s.Departing()) > 0 || len(s.Removed()) > 0 != tc.dead {
				t.Errorf("at the end: departing %v, removed %v", s.Departing(), s.Removed())
			}
			for _, host := range tc.leaves {
				if _, member := s.Member(host); member || s.Node(host) != nil {
					t.Errorf("%s is still there", host)
				}
			}
		})
	}
}

// TestAnEtcdHostIsReplaced: the new member joins and API servers learn of it before the old one leaves.
func TestAnEtcdHostIsReplaced(t *testing.T) {
	shape := func(t *testing.T) (*spec.Cluster, *facts.Observation) {
		c := external()
		obs := finishedExternal(t, c)
		remembered(c, obs)
		for _, name := range []string{"cp-a", "cp-b"} {
			obs.Hosts[name].Facts.Kubernetes.Flags = map[string]string{facts.EtcdServersFlag: "https://10.0.0.41:2379,https://10.0.0.42:2379,https://10.0.0.43:2379"}
		}
		return c, obs
	}
	t.Run("while it works", func(t *testing.T) {
		c, obs := shape(t)
		obs.Etcd[0].Leader = true
		without(c, "etcd-a")
		added(c, obs, "etcd-d", spec.RoleEtcd)
		p := build(t, c, obs)
		inOrder(t, p, "etcd-d/join-etcd", "cluster/store-etcd-servers", "cp-a/leave-pools", "cp-a/set-etcd-servers", "cp-a/join-pools", "cp-b/set-etcd-servers",
			"etcd-a/move-leadership", "etcd-a/remove-member", "etcd-a/reset-host", "cluster/record-spec")
		for _, s := range p.Steps {
			if s.Kind == SetEtcdServers && (slices.Contains(s.Servers, "https://10.0.0.41:2379") || len(s.Servers) != 3) {
				t.Errorf("%s: %v", s.ID, s.Servers)
			}
		}
	})
	t.Run("when it is dead", func(t *testing.T) {
		c, obs := shape(t)
		dies(obs, "etcd-a")
		without(c, "etcd-a")
		added(c, obs, "etcd-d", spec.RoleEtcd)
		p := build(t, c, obs)
		inOrder(t, p, "etcd-a/remove-member", "etcd-d/join-etcd", "cp-a/set-etcd-servers", "cluster/record-spec")
		noneOn(t, p, "etcd-a", ResetHost, MoveLeadership)
	})
	t.Run("by a machine of the same name", func(t *testing.T) {
		c, obs := shape(t)
		dies(obs, "etcd-b")
		obs.Hosts["etcd-b"] = facts.Host{Facts: empty(c).Hosts["etcd-b"].Facts}
		obs.Etcd[1].Unknown, obs.Etcd[1].Problem = "", "connection refused"
		inOrder(t, build(t, c, obs), "etcd-b/remove-member", "etcd-b/join-etcd")
	})
	t.Run("after a join that was killed", func(t *testing.T) {
		for _, m := range []facts.EtcdMember{{Name: "etcd-d", ID: "dd", Learner: true}, {Name: "etcd-d", ID: "dd", Learner: true, Started: true, Healthy: true}} {
			c, obs := shape(t)
			added(c, obs, "etcd-d", spec.RoleEtcd)
			obs.Etcd = append(obs.Etcd, m)
			obs.Hosts["etcd-d"].Facts.Kubernetes.EtcdData = m.Started
			inOrder(t, build(t, c, obs), "etcd-d/join-etcd", "cp-a/set-etcd-servers")
		}
	})
}
