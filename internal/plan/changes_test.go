package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func refusalOf(t *testing.T, c *spec.Cluster, obs *facts.Observation) *cluster.Refusal {
	t.Helper()
	p, err := Build(cluster.Evaluate(c, obs), testBundle)
	var r *cluster.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("not refused: error %v, plan %v", err, p)
	}
	if r.Why == "" || r.Fix == "" {
		t.Fatalf("a refusal that helps nobody: %+v", r)
	}
	return r
}

// TestEditsOfWhatIsFixed edits the spec of a cluster that exists, as a user would. Nothing of it may be planned: each of these
// edits cut off nodes, leaked keys, or was ignored.
func TestEditsOfWhatIsFixed(t *testing.T) {
	host := func(c *spec.Cluster, name string) *spec.Host {
		return &c.Spec.Hosts[slices.IndexFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == name })]
	}
	for name, tc := range map[string]struct {
		edit func(*spec.Cluster)
		want string // in the reason
	}{
		"pod range":             {func(c *spec.Cluster) { c.Spec.Network.PodCIDR = "10.99.0.0/16" }, "spec.network.podCIDR"},
		"Service range":         {func(c *spec.Cluster) { c.Spec.Network.ServiceCIDR = "10.98.0.0/16" }, "spec.network.serviceCIDR"},
		"address of a host":     {func(c *spec.Cluster) { host(c, "worker-a").Address = "10.0.0.77" }, "spec.hosts[worker-a].address"},
		"workers promoted":      {func(c *spec.Cluster) { host(c, "worker-a").Roles = []string{spec.RoleControlPlane, spec.RoleWorker} }, "spec.hosts[worker-a].roles"},
		"control plane taken":   {func(c *spec.Cluster) { host(c, "cp-c").Roles = []string{spec.RoleWorker} }, "spec.hosts[cp-c].roles"},
		"load balancer renamed": {func(c *spec.Cluster) { host(c, "lb-b").Name = "lb-x" }, "spec.hosts[lb-x] added"},
		"load balancer joins":   {func(c *spec.Cluster) { host(c, "lb-b").Roles = []string{spec.RoleLoadBalancer, spec.RoleWorker} }, "spec.hosts[lb-b].roles"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			edited := testCluster()
			tc.edit(edited)
			for _, h := range edited.Spec.Hosts {
				if _, seen := obs.Hosts[h.Name]; !seen {
					obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}}}
				}
			}
			if r := refusalOf(t, edited, obs); r.Rule != cluster.RuleFixed || !strings.Contains(r.Why, tc.want) {
				t.Errorf("refused by %s: %s", r.Rule, r.Why)
			}
		})
	}
}

// TestEditsWithoutARecord: a cluster that stored no spec is compared with what it is itself.
func TestEditsWithoutARecord(t *testing.T) {
	for name, edit := range map[string]func(*spec.Cluster){
		"endpoint":      func(c *spec.Cluster) { c.Spec.ControlPlane.Endpoint = "api.quorate.internal:443" },
		"pod range":     func(c *spec.Cluster) { c.Spec.Network.PodCIDR = "10.99.0.0/16" },
		"Service range": func(c *spec.Cluster) { c.Spec.Network.ServiceCIDR = "10.98.0.0/16" },
		"address":       func(c *spec.Cluster) { c.Spec.Hosts[0].Address = "10.0.0.77" },
		"role":          func(c *spec.Cluster) { c.Spec.Hosts[3].Roles = []string{spec.RoleControlPlane} },
		"worker":        func(c *spec.Cluster) { c.Spec.Hosts = slices.Delete(c.Spec.Hosts, 3, 4) },
	} {
		t.Run(name, func(t *testing.T) {
			obs := finished(t, testCluster())
			obs.API.Record, obs.API.Verified = "", ""
			edited := testCluster()
			edit(edited)
			if r := refusalOf(t, edited, obs); r.Rule != cluster.RuleFixed {
				t.Errorf("refused by %s: %s", r.Rule, r.Why)
			}
		})
	}
}

func TestTheOrderOfHostsMeansNothing(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	slices.Reverse(c.Spec.Hosts)
	for _, s := range build(t, c, obs).Steps {
		if s.Change != nil {
			t.Errorf("%s: %s", s.ID, s.Reason)
		}
	}
}

// TestALoadBalancerIsAddedAfterTheOthersKnowIt would fail if the new one started while the holder does not send to it.
func TestALoadBalancerIsAddedAfterTheOthersKnowIt(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	c.Spec.Hosts = append([]spec.Host{{Name: "lb-0", Address: "10.0.0.90", Zone: "c", Roles: []string{spec.RoleLoadBalancer}}}, c.Spec.Hosts...)
	obs.Hosts["lb-0"] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}, Addresses: []facts.Address{{IP: "10.0.0.90", Prefix: 24, Interface: "eth0"}}},
		Balancer: &facts.Balancer{}}
	p := build(t, c, obs)
	var order []string
	for _, s := range p.Steps {
		if s.Detail == "load-balancer" {
			order = append(order, s.Host)
		}
	}
	if !slices.Equal(order, []string{"lb-b", "lb-a", "lb-0"}) {
		t.Fatalf("load balancers are configured in the order %v", order)
	}
	s := cluster.Evaluate(c, obs)
	if _, r := s.Allow(cluster.Change{Verb: cluster.Add, Part: cluster.LoadBalancer, Subject: "lb-0"}); r == nil || r.Rule != cluster.RuleOneHolder {
		t.Errorf("it may start before the others know it: %v", r)
	}
}

func TestTheHolderStaysWhileNoOtherLoadBalancerIsReady(t *testing.T) {
	for name, break_ := range map[string]func(*facts.Observation){
		"the other is down":           func(o *facts.Observation) { o.Hosts["lb-b"].Balancer.Healthy = false },
		"the other cannot be reached": func(o *facts.Observation) { o.Hosts["lb-b"] = facts.Host{Error: "no SSH connection"} },
		"the other could not be queried": func(o *facts.Observation) {
			h := o.Hosts["lb-b"]
			h.Balancer, h.BalancerError = nil, "timeout"
			o.Hosts["lb-b"] = h
		},
		"the other has no server":         func(o *facts.Observation) { o.Hosts["lb-b"].Balancer.Backends = nil },
		"keepalived of the other is down": func(o *facts.Observation) { o.Hosts["lb-b"].Facts.Units["keepalived.service"] = "failed" },
		"nobody knows who has the address": func(o *facts.Observation) {
			h := o.Hosts["lb-a"]
			h.Balancer, h.BalancerError = nil, "timeout"
			o.Hosts["lb-a"] = h
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			break_(obs)
			if _, r := cluster.Evaluate(c, obs).Allow(cluster.Change{Verb: cluster.Restart, Part: cluster.LoadBalancer, Subject: "lb-a"}); r == nil {
				t.Error("the load balancer with the virtual IP may restart")
			}
		})
	}
}

func joiner(c *spec.Cluster, obs *facts.Observation, k facts.Kubernetes) {
	c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "cp-d", Address: "10.0.0.51", Zone: "a", Roles: []string{spec.RoleControlPlane}})
	obs.Hosts["cp-d"] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}, Kubernetes: k}}
}

// TestAnInterruptedJoinIsUndoneAndRepeated: kubeadm adds the member before the host has its identity.
func TestAnInterruptedJoinIsUndoneAndRepeated(t *testing.T) {
	for name, tc := range map[string]struct {
		member *facts.EtcdMember
		k      facts.Kubernetes
		undo   bool
	}{
		"killed before the member was added":  {nil, facts.Kubernetes{Begun: true}, false},
		"killed when it had been added":       {&facts.EtcdMember{ID: "ab", PeerURL: "https://10.0.0.51:2380", Learner: true}, facts.Kubernetes{Begun: true}, true},
		"killed while it was learning":        {&facts.EtcdMember{Name: "cp-d", ID: "ab", Learner: true, Started: true, Healthy: true}, facts.Kubernetes{Begun: true, EtcdData: true, Manifests: []string{"etcd"}}, true},
		"killed when it had been promoted":    {&facts.EtcdMember{Name: "cp-d", ID: "ab", Started: true, Healthy: true}, facts.Kubernetes{Begun: true, EtcdData: true, Manifests: podsWithEtcd}, true},
		"killed after the member was removed": {nil, facts.Kubernetes{Begun: true, EtcdData: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			joiner(c, obs, tc.k)
			if tc.member != nil {
				obs.Etcd = append(obs.Etcd, *tc.member)
			}
			p := build(t, c, obs)
			kinds := kindsOf(p)
			if !slices.Equal(kinds[JoinControlPlane], []string{"cp-d"}) || (len(kinds[UndoJoin]) == 1) != tc.undo {
				t.Fatalf("%v", kinds)
			}
			for _, s := range p.Steps {
				if s.Kind == JoinControlPlane && tc.undo && !slices.Contains(s.Needs, stepID("cp-d", UndoJoin)) {
					t.Error("it joins before its former member is removed")
				}
				if s.Kind == UndoJoin && tc.member != nil && s.MemberID != "ab" {
					t.Errorf("it removes the member %q", s.MemberID)
				}
			}
		})
	}
	t.Run("without the mark it is another machine, whose member is lost", func(t *testing.T) {
		c := testCluster()
		obs := finished(t, c)
		joiner(c, obs, facts.Kubernetes{})
		obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: "cp-d", ID: "ab", Started: true, Problem: "connection refused"})
		p := build(t, c, obs)
		if !before(p, "cp-d/remove-member", "cp-d/join-control-plane") {
			t.Error("it joins before its former member is removed")
		}
	})
	t.Run("but not if the member works, or nobody could ask it", func(t *testing.T) {
		for _, m := range []facts.EtcdMember{{Name: "cp-d", ID: "ab", Started: true, Healthy: true}, {Name: "cp-d", ID: "ab", Started: true, Unknown: "timeout"}} {
			c := testCluster()
			obs := finished(t, c)
			joiner(c, obs, facts.Kubernetes{})
			obs.Etcd = append(obs.Etcd, m)
			if r := refusalOf(t, c, obs); r.Rule != RuleOldMember {
				t.Errorf("%+v", r)
			}
		}
	})
	t.Run("and old data is not either", func(t *testing.T) {
		c := testCluster()
		obs := finished(t, c)
		joiner(c, obs, facts.Kubernetes{EtcdData: true})
		if r := refusalOf(t, c, obs); r.Rule != cluster.RuleOldData {
			t.Errorf("%+v", r)
		}
	})
}

// TestASpecThatChangesBetweenTwoRunsOfAFirstBuild must never start a second etcd with the same keys.
func TestASpecThatChangesBetweenTwoRunsOfAFirstBuild(t *testing.T) {
	c := testCluster()
	initial := []string{"cp-a=https://10.0.0.11:2380", "cp-b=https://10.0.0.12:2380", "cp-c=https://10.0.0.13:2380"}
	begun := func() *facts.Observation {
		obs := empty(c)
		obs.Hosts["cp-a"].Facts.Kubernetes = facts.Kubernetes{CA: "CA", SharedPKI: true, KubeletConfig: true, EtcdData: true, Begun: true, Manifests: []string{"etcd"}, EtcdInitial: initial}
		return obs
	}
	build(t, c, begun()) // with the same members it goes on
	for name, edit := range map[string]func(*spec.Cluster){
		"one replaced": func(c *spec.Cluster) { c.Spec.Hosts[2].Name, c.Spec.Hosts[2].Address = "cp-x", "10.0.0.66" },
		"two replaced": func(c *spec.Cluster) {
			c.Spec.Hosts[1].Name, c.Spec.Hosts[1].Address = "cp-y", "10.0.0.65"
			c.Spec.Hosts[2].Name, c.Spec.Hosts[2].Address = "cp-x", "10.0.0.66"
		},
		"another address": func(c *spec.Cluster) { c.Spec.Hosts[2].Address = "10.0.0.67" },
		"two more": func(c *spec.Cluster) {
			c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "cp-d", Address: "10.0.0.68", Zone: "a", Roles: []string{spec.RoleControlPlane}},
				spec.Host{Name: "cp-e", Address: "10.0.0.69", Zone: "b", Roles: []string{spec.RoleControlPlane}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			edited := testCluster()
			edit(edited)
			obs := begun()
			for _, h := range edited.Spec.Hosts {
				if _, seen := obs.Hosts[h.Name]; !seen {
					obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}}}
				}
			}
			if r := refusalOf(t, edited, obs); r.Rule != cluster.RuleInitial {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("workers and load balancers may go", func(t *testing.T) {
		edited := testCluster()
		edited.Spec.Hosts = slices.DeleteFunc(edited.Spec.Hosts, func(h spec.Host) bool { return h.Name == "worker-b" })
		build(t, edited, begun())
	})
}

func TestALoadBalancerOfAnotherClusterIsLeftAlone(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		c := testCluster()
		obs := empty(c)
		if !fresh {
			obs = finished(t, c)
		}
		h := obs.Hosts["lb-b"]
		h.Balancer = &facts.Balancer{Healthy: true, Active: true, WrittenFor: "stage"}
		obs.Hosts["lb-b"] = h
		if r := refusalOf(t, c, obs); r.Rule != cluster.RuleBalancersOf || !strings.Contains(r.Why, "stage") {
			t.Errorf("%+v", r)
		}
	}
}

// TestAFailedVerificationIsRepeated: the run after it must not say that there is nothing to do.
func TestAFailedVerificationIsRepeated(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.API.Verified = ""
	kinds := kindsOf(build(t, c, obs))
	if len(kinds[Verify]) != 1 || len(kinds[TestTakeover]) != 1 || len(kinds[RecordVerified]) != 1 {
		t.Errorf("%v", kinds)
	}
	obs.API.TakeoverTested = "lb-a,lb-b"
	if kinds := kindsOf(build(t, c, obs)); len(kinds[Verify]) != 1 || len(kinds[TestTakeover]) != 0 {
		t.Errorf("%v", kinds)
	}
	obs = finished(t, c)
	obs.Hosts["cp-b"].APIServer.OK, obs.Hosts["cp-b"].APIServer.Problem = false, "it answers 500"
	if p := build(t, c, obs); !p.Empty() || len(p.Unmet) == 0 {
		t.Errorf("an API server does not work, and the plan does not say so: %+v", p)
	}
}

func TestWhatIsMissingIsRestored(t *testing.T) {
	c := testCluster()
	t.Run("a scheduler", func(t *testing.T) {
		obs := finished(t, c)
		k := &obs.Hosts["cp-b"].Facts.Kubernetes
		k.Manifests = slices.DeleteFunc(slices.Clone(k.Manifests), func(s string) bool { return s == facts.Scheduler })
		obs.Hosts["cp-b"].Components[facts.Scheduler] = facts.Component{Answer: facts.Answer{Problem: "connection refused"}}
		p := build(t, c, obs)
		if p.Steps[0].Kind != RestoreControlPlane || p.Steps[0].Host != "cp-b" || !slices.Equal(p.Steps[0].Pods, []string{facts.Scheduler}) {
			t.Errorf("%+v", p.Steps)
		}
	})
	t.Run("flannel's rules", func(t *testing.T) {
		obs := finished(t, c)
		obs.Hosts["worker-a"].Components[facts.Flannel] = facts.Component{Answer: facts.Answer{Problem: "its nftables table is missing"}}
		obs.Hosts["worker-b"].Components[facts.Flannel] = facts.Component{Answer: facts.Answer{Unknown: "no answer"}}
		if kinds := kindsOf(build(t, c, obs)); !slices.Equal(kinds[RestartAgent], []string{"worker-a"}) {
			t.Errorf("%v", kinds)
		}
	})
	t.Run("agents of a host that has just booted", func(t *testing.T) {
		for ago, want := range map[time.Duration][]string{30 * time.Second: nil, 3 * time.Minute: {"worker-a", "worker-a"}} {
			obs := finished(t, c)
			for _, agent := range agents {
				obs.Hosts["worker-a"].Components[agent.component] = facts.Component{Answer: facts.Answer{Problem: agent.component + " does not run"}}
			}
			obs.Hosts["worker-a"].Facts.Time = obs.Time.Add(time.Hour) // its clock is wrong
			obs.Hosts["worker-a"].Components[facts.Kubelet] = facts.Component{Answer: facts.Answer{OK: true}, Started: obs.Time.Add(time.Hour - ago)}
			p := build(t, c, obs)
			if kinds := kindsOf(p); !slices.Equal(kinds[RestartAgent], want) {
				t.Errorf("%s after the kubelet was started: %v", ago, kinds)
			}
			if want == nil && (!p.Empty() || len(p.Unmet) == 0 || !strings.Contains(p.Unmet[0].Fix, "as after a boot")) {
				t.Errorf("the verification waits for what the plan calls unmet: %+v", p)
			}
		}
	})
	t.Run("agents of a host whose kubelet does not run", func(t *testing.T) {
		obs := finished(t, c)
		obs.Hosts["worker-a"].Components[facts.KubeProxy] = facts.Component{Answer: facts.Answer{Problem: "kube-proxy does not run"}}
		obs.Hosts["worker-a"].Components[facts.Kubelet] = facts.Component{Answer: facts.Answer{Problem: "kubelet.service is activating"}}
		if kinds := kindsOf(build(t, c, obs)); len(kinds[RestartAgent]) > 0 {
			t.Errorf("%v", kinds)
		}
	})
	t.Run("an expired kubelet certificate", func(t *testing.T) {
		obs := finished(t, c)
		obs.Time = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
		obs.Hosts["worker-a"].Facts.Kubernetes.Certificates = []facts.Certificate{{Name: "kubelet-client", Expires: obs.Time.Add(-time.Hour)}}
		obs.Hosts["worker-b"].Facts.Kubernetes.Certificates = []facts.Certificate{{Name: "kubelet-client", Expires: obs.Time.Add(time.Hour)}}
		if kinds := kindsOf(build(t, c, obs)); !slices.Equal(kinds[RenewKubelet], []string{"worker-a"}) {
			t.Errorf("%v", kinds)
		}
	})
}

// TestRestartsAreMadeInTurn would fail if a new containerd configuration restarted containerd on all nodes together.
func TestRestartsAreMadeInTurn(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			obs.Hosts[h.Name].Facts.Files["/etc/containerd/config.toml"] = "other"
		}
	}
	var before *Step
	p := build(t, c, obs)
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Kind != Configure {
			continue
		}
		if s.Change == nil || s.Change.Verb != cluster.Restart || before != nil && !slices.Contains(s.Needs, before.ID) {
			t.Errorf("%s does not wait for its turn: %+v", s.ID, s)
		}
		before = s
	}
	if before == nil {
		t.Fatal("nothing is configured")
	}
}

func TestLabelsThatLeftTheSpecAreRemoved(t *testing.T) {
	c := testCluster()
	c.Spec.NodePools = []spec.NodePool{{Name: "web", Hosts: []string{"worker-a"}, Labels: map[string]string{"tier": "web", "disk": "ssd"}, Taints: []spec.Taint{{Key: "web", Effect: "NoSchedule"}}}}
	obs := finished(t, c)
	node := &obs.API.Nodes[slices.IndexFunc(obs.API.Nodes, func(n facts.Node) bool { return n.Name == "worker-a" })]
	node.Labels["tier"], node.Labels["disk"], node.Labels["theirs"], node.Labels[PoolLabel] = "web", "nvme", "stays", "web"
	node.Taints = append(node.Taints, facts.Taint{Key: "web", Effect: "NoSchedule"}, facts.Taint{Key: "theirs", Effect: "NoSchedule"})
	c.Spec.NodePools = nil
	p := build(t, c, obs)
	s := p.Steps[0]
	// What somebody changed since is theirs now.
	if s.Kind != LabelNode || !slices.Equal(s.RemoveLabels, []string{PoolLabel, "tier"}) || !slices.Equal(s.RemoveTaints, []facts.Taint{{Key: "web", Effect: "NoSchedule"}}) {
		t.Errorf("%+v", s)
	}
}

func TestAKeyThatIsKeptElsewhereIsNoReasonForSteps(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for _, name := range []string{"cp-a", "cp-b", "cp-c"} {
		obs.Hosts[name].Facts.Kubernetes.SharedPKI = false
	}
	if p := build(t, c, obs); !p.Empty() {
		t.Errorf("%v", kindsOf(p))
	}
	joiner(c, obs, facts.Kubernetes{})
	if r := refusalOf(t, c, obs); r.Rule != RulePKI {
		t.Errorf("%+v", r)
	}
	obs = finished(t, c)
	obs.Hosts["cp-a"] = facts.Host{Error: "no SSH connection"}
	obs.Etcd[0].Healthy, obs.Etcd[0].Unknown = false, "its host cannot be reached"
	obs.Hosts["cp-b"].Facts.Kubernetes.SharedPKI, obs.Hosts["cp-c"].Facts.Kubernetes.SharedPKI = false, false
	obs.Hosts["cp-d"] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}}}
	if r := refusalOf(t, c, obs); r.Rule != RulePKI {
		t.Errorf("%+v", r)
	}
}

// TestAPlanIsRefusedWhereItBecomesUnsafe folds the changes: the first join is safe, the second is not.
func TestAPlanIsRefusedWhereItBecomesUnsafe(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.Etcd[2].Healthy, obs.Etcd[2].Problem = false, "it does not answer"
	joiner(c, obs, facts.Kubernetes{})
	if r := refusalOf(t, c, obs); r.Rule != cluster.RuleEnough || r.Have != 2 || r.Need != 3 {
		t.Errorf("%+v", r)
	}
}

// TestEveryKindDeclaresItsEffect and a kind that changes what runs cannot be planned without a change.
func TestAStepCannotHideWhatItChanges(t *testing.T) {
	for _, kind := range Kinds() {
		for _, change := range []*cluster.Change{nil, {Verb: cluster.Restart, Part: cluster.Node, Subject: "a"}} {
			panics := func() (p bool) {
				defer func() { p = recover() != nil }()
				(&graph{}).add(Step{Kind: kind, Host: "a", Change: change})
				return false
			}()
			want := effects[kind] == changes && change == nil || (effects[kind] == harmless || effects[kind] == waits) && change != nil
			if panics != want {
				t.Errorf("%s with the change %v: refused %t", kind, change, panics)
			}
		}
	}
	if p := func() (p bool) {
		defer func() { p = recover() != nil }()
		(&graph{}).add(Step{Kind: "new-kind"})
		return false
	}(); !p {
		t.Error("a kind that declares nothing can be planned")
	}
}
