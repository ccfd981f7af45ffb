package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func targetOf(t *testing.T, c *spec.Cluster, name string) Target {
	t.Helper()
	if zone, is := strings.CutPrefix(name, "zone/"); is {
		out := Target{Zone: zone}
		for _, h := range c.Spec.Hosts {
			if h.Zone == zone {
				out.Hosts = append(out.Hosts, h)
			}
		}
		return out
	}
	h, ok := c.Host(name)
	if !ok {
		t.Fatal(name)
	}
	return Target{Hosts: []spec.Host{h}}
}

// leaves does what a step of a maintenance does to the cluster, as an observation sees it.
func leaves(obs *facts.Observation, s Step) {
	node := func(host string, change func(*facts.Node)) {
		for i := range obs.API.Nodes {
			if obs.API.Nodes[i].Name == host {
				change(&obs.API.Nodes[i])
			}
		}
	}
	record := func(host string, change func(*facts.Maintenance)) {
		m := obs.API.Maintenance[host]
		change(&m)
		if obs.API.Maintenance == nil {
			obs.API.Maintenance = map[string]facts.Maintenance{}
		}
		obs.API.Maintenance[host] = m
	}
	pools := func(host string, drained bool) {
		for _, h := range obs.Hosts {
			if h.Balancer != nil {
				for i := range h.Balancer.Backends {
					if h.Balancer.Backends[i].Name == host {
						h.Balancer.Backends[i].Drained = drained
					}
				}
			}
		}
	}
	api := func(host string, a facts.Answer) {
		h := obs.Hosts[host]
		h.APIServer = &a
		h.Components[facts.ControllerManager], h.Components[facts.Scheduler] = facts.Component{Answer: a}, facts.Component{Answer: a}
		obs.Hosts[host] = h
	}
	switch s.Kind {
	case BeginMaintenance:
		for _, h := range s.Hosts {
			_, in := obs.API.Maintenance[h]
			cordoned := false
			node(h, func(n *facts.Node) { cordoned = n.Unschedulable })
			record(h, func(m *facts.Maintenance) {
				m.Ready = false
				if !in {
					m.Cordoned = cordoned
				}
			})
		}
	case ConfirmMaintenance:
		for _, h := range s.Hosts {
			record(h, func(m *facts.Maintenance) { m.Ready = true })
		}
	case LeaveMaintenance:
		delete(obs.API.Maintenance, s.Host)
	case DrainNode:
		for _, host := range append([]string{s.Host}, s.Nodes...) {
			node(host, func(n *facts.Node) { n.Cordoned, n.Unschedulable = n.Cordoned || !n.Unschedulable, true })
		}
	case UncordonNode:
		node(s.Host, func(n *facts.Node) { n.Cordoned, n.Unschedulable = false, false })
	case LeavePools:
		pools(s.Host, true)
	case JoinPools:
		pools(s.Host, false)
	case StopPrograms:
		if len(s.Pods) > 0 {
			api(s.Host, facts.Answer{Problem: "connection refused"})
			f := obs.Hosts[s.Host].Facts
			f.Kubernetes.Withdrawn = s.Pods
			f.Kubernetes.Manifests = slices.DeleteFunc(slices.Clone(f.Kubernetes.Manifests), func(p string) bool { return slices.Contains(s.Pods, p) })
			node(s.Host, func(n *facts.Node) { n.Ready = false })
		} else {
			for i := range obs.Etcd {
				obs.Etcd[i].Healthy = obs.Etcd[i].Healthy && obs.Etcd[i].Name != s.Host
			}
		}
	case StartPrograms:
		if len(s.Pods) > 0 {
			api(s.Host, facts.Answer{OK: true})
			f := obs.Hosts[s.Host].Facts
			f.Kubernetes.Manifests, f.Kubernetes.Withdrawn = append(f.Kubernetes.Manifests, f.Kubernetes.Withdrawn...), nil
			node(s.Host, func(n *facts.Node) { n.Ready = true })
		} else {
			for i := range obs.Etcd {
				obs.Etcd[i].Healthy = obs.Etcd[i].Healthy || obs.Etcd[i].Name == s.Host
			}
		}
	case MoveVirtualIP:
		for name, h := range obs.Hosts {
			if h.Balancer != nil {
				h.Balancer.Active = name != s.Host
			}
		}
	case RebootHost:
		obs.Hosts[s.Host].Facts.BootID += "x"
	}
}

// TestMaintenanceIsFinishedAndUndoneFromEveryPoint interrupts a maintenance after every step, and its undoing after every step of
// that: each can be finished, and undone, and the cluster is afterwards what it was.
func TestMaintenanceIsFinishedAndUndoneFromEveryPoint(t *testing.T) {
	for _, shape := range []struct {
		name string
		make func() (*spec.Cluster, *facts.Observation)
		of   []string
	}{
		{"stacked", func() (*spec.Cluster, *facts.Observation) { c := testCluster(); return c, finished(t, c) }, []string{"cp-a", "worker-a", "lb-a", "lb-b", "zone/a", "zone/b", "zone/c"}},
		{"external", func() (*spec.Cluster, *facts.Observation) { c := external(); return c, finishedExternal(t, c) }, []string{"cp-a", "etcd-a"}},
	} {
		for _, name := range shape.of {
			t.Run(shape.name+"/"+name, func(t *testing.T) {
				var steps int
				for cut := 0; cut == 0 || cut <= steps; cut++ {
					c, obs := shape.make()
					target := targetOf(t, c, name)
					before := fmt.Sprintf("%+v", cluster.Evaluate(c, obs).Placements())
					p := must(t)(Maintain(cluster.Evaluate(c, obs), target, MaintainOptions{}))
					steps = len(p.Steps)
					perform(t, c, obs, p, cut)
					// It is finished by another run …
					again := must(t)(Maintain(cluster.Evaluate(c, obs), target, MaintainOptions{}))
					perform(t, c, obs, again, len(again.Steps))
					s := cluster.Evaluate(c, obs)
					if in := s.InMaintenance(); len(in) != len(target.Hosts) {
						t.Fatalf("cut after %d steps and finished: in maintenance %v", cut, in)
					}
					if m := s.Margins(); m.Etcd < 0 || m.ControlPlanes < 0 || m.LoadBalancers != nil && *m.LoadBalancers < 0 {
						t.Fatalf("cut after %d steps: margins %+v", cut, m)
					}
					for _, f := range s.Findings() {
						if f.Unmet {
							t.Errorf("in maintenance, and unmet: %s", f.Summary)
						}
					}
					if p := must(t)(Maintain(s, target, MaintainOptions{})); !p.Empty() {
						t.Fatalf("in maintenance, and there is something to do: %v", p.Steps[0].ID)
					}
					if p := build(t, c, obs); slices.ContainsFunc(p.Steps, func(s Step) bool { return slices.Contains(s.hosts(), target.Hosts[0].Name) }) {
						t.Fatalf("apply fights the maintenance: %+v", p.Steps)
					}
					undone(t, c, obs, target, before, -1)

					// … or undone immediately, from every point, and that is cut short, too.
					for back := -1; back < 8; back++ {
						c, obs := shape.make()
						perform(t, c, obs, must(t)(Maintain(cluster.Evaluate(c, obs), target, MaintainOptions{})), cut)
						undone(t, c, obs, target, before, back)
					}
				}
				if steps < 3 {
					t.Fatalf("only %d steps", steps)
				}
			})
		}
	}
}

func (s Step) hosts() []string { return append([]string{s.Host}, s.Hosts...) }

func must(t *testing.T) func(*Plan, error) *Plan {
	return func(p *Plan, err error) *Plan {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		checkOrder(t, p)
		return p
	}
}

// perform does the first n steps of a plan, each of which is permitted on the cluster as it is then.
func perform(t *testing.T, c *spec.Cluster, obs *facts.Observation, p *Plan, n int) {
	t.Helper()
	for _, s := range p.Steps[:min(n, len(p.Steps))] {
		if s.Change != nil {
			if _, r := cluster.Evaluate(c, obs).Allow(*s.Change); r != nil {
				t.Fatalf("%s: %v", s.ID, r)
			}
		}
		if s.Kind == AwaitHost {
			if lacks := cluster.Evaluate(c, obs).Lacking(s.Host); len(lacks) > 0 {
				t.Fatalf("%s waits for ever: %+v", s.ID, lacks)
			}
		}
		if s.Kind == UncordonNode || s.Kind == JoinPools {
			awaited := slices.IndexFunc(p.Steps, func(a Step) bool { return a.Kind == AwaitHost && a.Host == s.Host })
			if awaited < 0 || awaited > slices.IndexFunc(p.Steps, func(a Step) bool { return a.ID == s.ID }) {
				t.Fatalf("%s comes before everything on the host works", s.ID)
			}
		}
		leaves(obs, s)
	}
}

// undone ends the maintenance, after another attempt that was cut short after some steps.
func undone(t *testing.T, c *spec.Cluster, obs *facts.Observation, target Target, before string, cut int) {
	t.Helper()
	if cut >= 0 {
		perform(t, c, obs, must(t)(EndMaintenance(cluster.Evaluate(c, obs), target)), cut)
	}
	p := must(t)(EndMaintenance(cluster.Evaluate(c, obs), target))
	perform(t, c, obs, p, len(p.Steps))
	s := cluster.Evaluate(c, obs)
	if after := fmt.Sprintf("%+v", s.Placements()); after != before || len(s.InMaintenance()) > 0 {
		t.Fatalf("before: %s\nafter:  %s\nin maintenance: %v", before, after, s.InMaintenance())
	}
	if p := must(t)(EndMaintenance(s, target)); !p.Empty() {
		t.Fatalf("undone, and there is something to do: %v", p.Steps[0].ID)
	}
	if p := build(t, c, obs); !p.Empty() {
		t.Fatalf("apply has something to do: %v", p.Steps[0].ID)
	}
}

func TestRebootGoesOnWhereItWasCutShort(t *testing.T) {
	for _, name := range []string{"cp-a", "worker-a", "lb-a"} {
		steps := 1
		for cut := 0; cut <= steps; cut++ {
			c := testCluster()
			obs := finished(t, c)
			h, _ := c.Host(name)
			obs.Hosts[name].Facts.BootID = "1"
			p := must(t)(Reboot(cluster.Evaluate(c, obs), h, MaintainOptions{}))
			steps = len(p.Steps)
			reboots := func(p *Plan) bool {
				return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == RebootHost })
			}
			if !reboots(p) {
				t.Fatal("it does not reboot")
			}
			for _, s := range p.Steps[:cut] {
				if s.Kind == RebootHost {
					m := obs.API.Maintenance[name]
					m.Reboot = obs.Hosts[name].Facts.BootID
					obs.API.Maintenance[name] = m
				}
				perform(t, c, obs, &Plan{Steps: p.Steps}, 0)
				leaves(obs, s)
			}
			booted, finishedAll := obs.Hosts[name].Facts.BootID != "1", cut == steps
			rest := must(t)(Reboot(cluster.Evaluate(c, obs), h, MaintainOptions{}))
			if reboots(rest) == booted && !finishedAll {
				t.Errorf("%s cut after %d steps: booted %t, reboots again %t", name, cut, booted, reboots(rest))
			}
		}
	}
}

// nowhere is a cluster of which no host can be reached.
func nowhere(c *spec.Cluster) *cluster.State {
	obs := empty(c)
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Error: "no route to host"}
	}
	return cluster.Evaluate(c, obs)
}

func second(_ *Plan, err error) error { return err }

func TestMaintenanceIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		of     string
		change func(*spec.Cluster, *facts.Observation)
		rule   string
	}{
		"another control plane is in maintenance": {"cp-b", func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Maintenance = map[string]facts.Maintenance{"cp-a": {Ready: true}}
		}, cluster.RuleEnough},
		"a zone while another control plane is dead": {"zone/a", func(_ *spec.Cluster, o *facts.Observation) {
			o.Etcd[2].Healthy = false
		}, cluster.RuleEnough},
		"it cannot be reached": {"worker-a", func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"] = facts.Host{Error: "no route to host"}
		}, RuleReachable},
		"no API server answers": {"worker-a", func(_ *spec.Cluster, o *facts.Observation) { o.API = nil }, RuleAnswer},
		"the other worker is not ready": {"worker-a", func(_ *spec.Cluster, o *facts.Observation) {
			for i := range o.API.Nodes {
				o.API.Nodes[i].Ready = o.API.Nodes[i].Name != "worker-b"
			}
		}, cluster.RuleEnough},
		"the other load balancer has no server": {"lb-a", func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["lb-b"].Balancer.Backends = nil }, cluster.RuleSuccessor},
		"there is no cluster":                   {"cp-a", func(c *spec.Cluster, o *facts.Observation) { *o = *empty(c) }, RuleAnswer},
	} {
		c := testCluster()
		obs := finished(t, c)
		tc.change(c, obs)
		p, err := Maintain(cluster.Evaluate(c, obs), targetOf(t, c, tc.of), MaintainOptions{})
		var r *cluster.Refusal
		if !errors.As(err, &r) || r.Rule != tc.rule || r.Why == "" || r.Fix == "" {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	// Where no host could be queried, there may be a cluster.
	blind := nowhere(testCluster())
	for name, err := range map[string]error{
		"maintain": second(Maintain(blind, targetOf(t, blind.Spec, "cp-a"), MaintainOptions{})), "undo": second(EndMaintenance(blind, targetOf(t, blind.Spec, "cp-a"))),
		"renew": second(Renew(blind)), "rotate": second(RotateAuthority(blind, facts.KubernetesAuthority, RotateOptions{})),
	} {
		var r *cluster.Refusal
		if !errors.As(err, &r) || r.Rule != RuleAnswer || !r.Transient || !strings.Contains(r.Why, "it is unknown whether there is a complete cluster") || !strings.Contains(r.Why, "no route to host") || strings.Contains(r.Fix, "apply") {
			t.Errorf("%s where no host answers: %v", name, err)
		}
	}
	if r := repairable(blind); r == nil || !r.Transient || !strings.Contains(r.Why, "it is unknown whether") {
		t.Errorf("repair where no host answers: %v", r)
	}
	// A host whose disk was replaced has nothing to come back with.
	c := testCluster()
	obs := finished(t, c)
	obs.API.Maintenance = map[string]facts.Maintenance{"worker-a": {Ready: true}}
	obs.Hosts["worker-a"].Facts.Kubernetes.KubeletConfig = false
	var r *cluster.Refusal
	if _, err := EndMaintenance(cluster.Evaluate(c, obs), targetOf(t, c, "worker-a")); !errors.As(err, &r) || r.Rule != RuleKept {
		t.Error(err)
	}
}

func TestANodeThatWasCordonedStaysSo(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for i := range obs.API.Nodes {
		obs.API.Nodes[i].Unschedulable = obs.API.Nodes[i].Name == "worker-a"
	}
	target := targetOf(t, c, "worker-a")
	p := must(t)(Maintain(cluster.Evaluate(c, obs), target, MaintainOptions{}))
	perform(t, c, obs, p, len(p.Steps))
	p = must(t)(EndMaintenance(cluster.Evaluate(c, obs), target))
	if slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == UncordonNode }) || len(p.Notes) != 1 {
		t.Errorf("%+v, %v", p.Steps, p.Notes)
	}
}

// TestARebootLeavesANodeAsItWas: whether it was cordoned before is known when the plan is made, and not only when the maintenance began.
func TestARebootLeavesANodeAsItWas(t *testing.T) {
	c := testCluster()
	h, _ := c.Host("worker-a")
	for _, cordoned := range []bool{false, true} {
		obs := finished(t, c)
		for i := range obs.API.Nodes {
			obs.API.Nodes[i].Unschedulable = cordoned && obs.API.Nodes[i].Name == "worker-a"
		}
		p := must(t)(Reboot(cluster.Evaluate(c, obs), h, MaintainOptions{}))
		if uncordons := slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == UncordonNode }); uncordons == cordoned {
			t.Errorf("cordoned before: %t, uncordoned: %t", cordoned, uncordons)
		}
	}
}

// TestAMaintenanceThatAnOlderVersionBegan is ended without the mark on the node.
func TestAMaintenanceThatAnOlderVersionBegan(t *testing.T) {
	c := testCluster()
	for _, before := range []bool{false, true} {
		obs := finished(t, c)
		obs.API.Maintenance = map[string]facts.Maintenance{"worker-a": {Ready: true, Cordoned: before}}
		for i := range obs.API.Nodes {
			obs.API.Nodes[i].Unschedulable = obs.API.Nodes[i].Name == "worker-a"
		}
		p := must(t)(EndMaintenance(cluster.Evaluate(c, obs), targetOf(t, c, "worker-a")))
		if uncordons := slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == UncordonNode }); uncordons == before {
			t.Errorf("cordoned before: %t, uncordoned: %t", before, uncordons)
		}
	}
}

// TestADepartureThatIsGivenUp: whoever puts hosts back into the spec gets them back as they were, before other hosts leave. A node that its
// administrator has cordoned stays cordoned.
func TestADepartureThatIsGivenUp(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	gone := copyOf(t, c)
	without(gone, "worker-a")
	p, err := Build(cluster.Evaluate(gone, obs), testBundle)
	if err != nil {
		t.Fatal(err)
	}
	drain := stepsOf(p, "worker-a", DrainNode)
	if len(drain) != 1 {
		t.Fatalf("%+v", p.Steps)
	}
	for i := range obs.API.Nodes { // worker-b is somebody else's
		obs.API.Nodes[i].Unschedulable = obs.API.Nodes[i].Name == "worker-b"
	}
	drain[0].Nodes = []string{"worker-b"}
	leaves(obs, drain[0]) // and then it is blocked
	s := cluster.Evaluate(c, obs)
	var found []string
	for _, f := range s.Findings() {
		if f.Rule == cluster.RuleCordoned {
			found = append(found, f.Subjects...)
		}
	}
	if !slices.Equal(found, []string{"worker-a"}) {
		t.Errorf("status names %v", found)
	}
	p = must(t)(EndMaintenance(s, targetOf(t, c, "worker-a")))
	if len(stepsOf(p, "worker-a", UncordonNode)) != 1 {
		t.Errorf("--undo has nothing to do: %+v", p.Steps)
	}
	p = build(t, c, obs)
	if len(stepsOf(p, "worker-a", UncordonNode)) != 1 || len(stepsOf(p, "worker-b", UncordonNode)) != 0 {
		t.Errorf("%+v", p.Steps)
	}
	for _, step := range p.Steps {
		leaves(obs, step)
	}
	for _, n := range obs.API.Nodes {
		if n.Cordoned || n.Unschedulable != (n.Name == "worker-b") {
			t.Errorf("afterwards: %+v", n)
		}
	}
	if p := build(t, c, obs); slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == UncordonNode }) {
		t.Errorf("again: %+v", p.Steps)
	}
}

// TestANodeIsUncordonedBeforeOthersLeave: their pods need a place, and the rules count it.
func TestANodeIsUncordonedBeforeOthersLeave(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for i := range obs.API.Nodes {
		if n := &obs.API.Nodes[i]; n.Name == "worker-a" {
			n.Unschedulable, n.Cordoned = true, true
		}
	}
	without(c, "worker-b")
	p := build(t, c, obs)
	inOrder(t, p, "worker-a/uncordon-node", "worker-b/drain-node")
}
