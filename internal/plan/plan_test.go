package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

var testBundle = Bundle{Digest: "sha256:b", Version: spec.DefaultVersion, Pause: "pause:1", Manifests: map[string]string{"flannel": "sha256:f"}}

// cluster is the default cluster with addresses.
func testCluster() *spec.Cluster {
	c := spec.DefaultLab("test")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprintf("10.0.0.%d", 11+i)
	}
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	return c
}

// empty observes hosts on which nothing was done yet.
func empty(c *spec.Cluster) *facts.Observation {
	obs := &facts.Observation{Hosts: map[string]facts.Host{}}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{},
			Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}}}}
	}
	return obs
}

func stepID(host string, kind Kind) string { return id(Step{Host: host, Kind: kind}) }

// remembered is what a cluster that was verified has stored of itself.
func remembered(c *spec.Cluster, obs *facts.Observation) {
	b := &builder{State: cluster.Evaluate(c, obs), c: c, bundle: testBundle}
	text, err := spec.NewRecord(c).Marshal()
	if err != nil {
		panic(err)
	}
	obs.API.Record, obs.API.Verified = string(text), b.verifiedMark()
}

// podsWithEtcd are the static pods of a control plane where etcd is stacked.
var podsWithEtcd = append([]string{"etcd"}, controlPlanePods...)

// finished observes the cluster as it is when every step of the plan took.
func finished(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	obs := empty(c)
	obs.Endpoint = facts.Endpoint{Hosts: map[string]facts.Answer{"worker-a": {OK: true}}}
	obs.API = &facts.API{Version: testBundle.Version, Initialised: true, DNSSpread: true, DNSInZones: c.DNSInZones(), Applied: maps.Clone(testBundle.Manifests), DNSReady: 2, DNSNodes: 2,
		Kubeadm: &facts.Kubeadm{Endpoint: c.Spec.ControlPlane.Endpoint, PodCIDR: c.Spec.Network.PodCIDR, ServiceCIDR: c.Spec.Network.ServiceCIDR}}
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		d := hostconfig.Hosts(c)
		if h.IsNode() {
			f.Binaries, f.Images = testBundle.Digest, testBundle.Digest
			d = merge(d, hostconfig.Runtime(f, testBundle.Pause))
			f.Kubernetes = facts.Kubernetes{CA: "CA", KubeletConfig: true}
			node := facts.Node{Name: h.Name, Address: h.Address, Ready: true, Version: testBundle.Version, Labels: NodeLabels(h)}
			seen := obs.Hosts[h.Name]
			seen.Components = map[string]facts.Component{}
			if h.Has(spec.RoleControlPlane) {
				f.Kubernetes.SharesPort = hostconfig.SharesAPIPort(c)
				f.Kubernetes.SharedPKI, f.Kubernetes.EtcdData, f.Kubernetes.Established, f.Kubernetes.EtcdGuard = true, true, true, true
				f.Kubernetes.Manifests = podsWithEtcd
				d = merge(d, hostconfig.ControlPlane(c))
				node.Labels[controlPlaneLabel], node.Labels[excludeLabel] = "", ""
				node.Taints = Taints(h)
				obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: h.Name, Healthy: true, Started: true})
				seen.APIServer = &facts.Answer{OK: true}
				for _, name := range []string{facts.ControllerManager, facts.Scheduler} {
					seen.Components[name] = facts.Component{Answer: facts.Answer{OK: true}}
				}
			}
			obs.Hosts[h.Name] = seen
			obs.API.Nodes = append(obs.API.Nodes, node)
		}
		if c.Balances(h) {
			d = merge(d, hostconfig.Balancer(c, h, f, "CA"))
			seen := obs.Hosts[h.Name]
			seen.Balancer = &facts.Balancer{Healthy: true, Active: h.Name == c.BalancerHosts()[0].Name, WrittenFor: c.Metadata.Name}
			for _, other := range c.BalancerHosts() {
				if other.Name != h.Name {
					seen.Balancer.Peers = append(seen.Balancer.Peers, other.Address)
				}
			}
			for _, cp := range c.HostsWith(spec.RoleControlPlane) {
				seen.Balancer.Backends = append(seen.Balancer.Backends, facts.Backend{Name: cp.Name, Healthy: true})
			}
			obs.Hosts[h.Name] = seen
		}
		for _, file := range d.Files {
			f.Files[file.Key()] = file.Sum()
		}
		for _, u := range d.Enable {
			f.Units[u] = "active"
		}
	}
	remembered(c, obs)
	return obs
}

func build(t *testing.T, c *spec.Cluster, obs *facts.Observation) *Plan {
	t.Helper()
	p, err := Build(cluster.Evaluate(c, obs), testBundle)
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, p)
	return p
}

// checkOrder holds every plan to what apply relies on: unique IDs, known needs, no circles.
func checkOrder(t *testing.T, p *Plan) {
	t.Helper()
	ids := map[string]Step{}
	for _, s := range p.Steps {
		if _, twice := ids[s.ID]; twice {
			t.Fatalf("step %s is in the plan twice", s.ID)
		}
		if s.Reason == "" || s.Title == "" {
			t.Errorf("step %s has no title or no reason", s.ID)
		}
		ids[s.ID] = s
	}
	state := map[string]int{}
	var visit func(id string)
	visit = func(id string) {
		s, ok := ids[id]
		if !ok {
			t.Fatalf("a step needs %s, which is not in the plan", id)
		}
		if state[id] == 1 {
			t.Fatalf("step %s needs itself", id)
		}
		if state[id] == 2 {
			return
		}
		state[id] = 1
		for _, n := range s.Needs {
			visit(n)
		}
		state[id] = 2
	}
	for id := range ids {
		visit(id)
	}
}

func kindsOf(p *Plan) map[Kind][]string {
	out := map[Kind][]string{}
	for _, s := range p.Steps {
		out[s.Kind] = append(out[s.Kind], s.Host)
	}
	return out
}

func TestNothingToDo(t *testing.T) {
	c := testCluster()
	if p := build(t, c, finished(t, c)); !p.Empty() {
		t.Fatalf("a finished cluster has steps: %+v", kindsOf(p))
	}
}

// TestMissingPackagesAreInstalled has each family's own names, and nothing configured before its program is there.
func TestMissingPackagesAreInstalled(t *testing.T) {
	c := testCluster()
	obs := empty(c)
	deb, rpm := obs.Hosts["lb-a"].Facts, obs.Hosts["worker-a"].Facts
	deb.Family, deb.Lacks = facts.Debian, []string{"keepalived", "modprobe"} // modprobe is for nodes
	rpm.Family, rpm.Lacks = facts.RHEL, []string{"haproxy", "losetup", "mount"}
	p := build(t, c, obs)
	if got := kindsOf(p)[InstallPackages]; !slices.Equal(got, []string{"worker-a", "lb-a"}) {
		t.Fatalf("packages are installed on %v", got)
	}
	for _, s := range p.Steps {
		switch s.ID {
		case "lb-a/install-packages":
			if !slices.Equal(s.Packages.Names, []string{"keepalived"}) || !strings.Contains(s.Reason, "apt-get install -y keepalived") {
				t.Errorf("%+v", s)
			}
		case "worker-a/install-packages":
			if !slices.Equal(s.Packages.Names, []string{"util-linux"}) || !strings.Contains(s.Reason, "dnf install -y util-linux") {
				t.Errorf("%+v", s)
			}
		case "lb-a/configure", "worker-a/configure":
			if !slices.Contains(s.Needs, s.Host+"/install-packages") {
				t.Errorf("%s does not wait for its packages: %v", s.ID, s.Needs)
			}
		}
	}
	done := finished(t, c)
	done.Hosts["lb-b"].Facts.Family, done.Hosts["lb-b"].Facts.Lacks = facts.Debian, []string{"haproxy"}
	if got := kindsOf(build(t, c, done)); !slices.Equal(got[InstallPackages], []string{"lb-b"}) || len(got) != 2 {
		t.Errorf("in a finished cluster: %v", got)
	}
}

func TestSameInputsSamePlan(t *testing.T) {
	c := testCluster()
	first, _ := json.Marshal(build(t, c, empty(c)))
	for range 20 {
		if again, _ := json.Marshal(build(t, c, empty(c))); string(again) != string(first) {
			t.Fatal("two plans of the same inputs differ")
		}
	}
}

func TestNewCluster(t *testing.T) {
	c := testCluster()
	p := build(t, c, empty(c))
	kinds := kindsOf(p)
	for kind, hosts := range map[Kind][]string{
		InstallBundle:     {"cp-a", "cp-b", "cp-c", "worker-a", "worker-b"},
		ImportImages:      {"cp-a", "cp-b", "cp-c", "worker-a", "worker-b"},
		MakePKI:           {"cp-a"},
		SharePKI:          {"cp-b", "cp-c"},
		StartKubelet:      {"cp-a", "cp-b", "cp-c", "worker-a", "worker-b"},
		StartControlPlane: {"cp-a", "cp-b", "cp-c"},
		RegisterNode:      {"cp-a", "cp-b", "cp-c"},
		UseLocalAPI:       {"cp-b", "cp-c"},
		AwaitAPI:          {"cp-a"},
		AwaitControllers:  {"cp-a"},
		InitCluster:       {"cp-a"},
		JoinWorker:        nil,
		JoinControlPlane:  nil,
		Verify:            {""},
	} {
		if !slices.Equal(kinds[kind], hosts) {
			t.Errorf("%s on %v, want %v", kind, kinds[kind], hosts)
		}
	}
	for _, s := range p.Steps {
		h, _ := c.Host(s.Host)
		switch {
		case s.Kind == StartKubelet && h.Has(spec.RoleControlPlane):
			if len(s.Members) != 3 {
				t.Errorf("%s starts etcd with %d members", s.ID, len(s.Members))
			}
			if s.ThroughEndpoint != (s.Host != "cp-a") {
				t.Errorf("%s: through the endpoint %t", s.ID, s.ThroughEndpoint)
			}
			// etcd needs a majority of its members: none may wait for what needs etcd.
			for _, n := range s.Needs {
				if strings.HasSuffix(n, string(StartKubelet)) || strings.HasSuffix(n, string(StartControlPlane)) || strings.HasSuffix(n, string(AwaitAPI)) {
					t.Errorf("%s waits for %s", s.ID, n)
				}
			}
		case s.Kind == StartControlPlane:
			if slices.Contains(s.Needs, stepID("cp-a", AwaitControllers)) != (s.Host != "cp-a") || !slices.Contains(s.Needs, stepID(s.Host, StartKubelet)) {
				t.Errorf("%s waits for %v", s.ID, s.Needs)
			}
			if s.AwaitReadySeconds > 0 != (s.Host != "cp-a") {
				t.Errorf("%s gives its node %d s", s.ID, s.AwaitReadySeconds)
			}
			if s.ServerFirst != (s.Host != "cp-a") {
				t.Errorf("%s starts the API server first: %v", s.ID, s.ServerFirst)
			}
			// A kubelet may have no way to the API but this one.
			if slices.Contains(s.Needs, stepID(s.Host, RegisterNode)) {
				t.Errorf("%s waits for its node", s.ID)
			}
		case s.Kind == RegisterNode && slices.Contains(s.Needs, stepID(s.Host, StartControlPlane)) != (s.Host == "cp-a"),
			s.Kind == UseLocalAPI && !slices.Equal(s.Needs, []string{stepID(s.Host, StartControlPlane)}):
			t.Errorf("%s waits for %v", s.ID, s.Needs)
		case s.Kind == SharePKI && !before(p, stepID(s.Host, InstallBundle), s.ID):
			t.Errorf("%s has the CA before the bundle: if the run ends in between, the CA is taken for that of another cluster", s.Host)
		case s.Kind == InitCluster && slices.Contains(s.Needs, stepID("cp-a", AwaitAPI)):
			t.Error("the API waits for the administrator's role, and the role for the API")
		}
	}
	n := len(p.Steps)
	if last := p.Steps[n-3]; last.Kind != Verify || len(last.Needs) != n-3 {
		t.Errorf("the last step but two is %s and needs %d of %d steps", last.Kind, len(last.Needs), n-3)
	}
	// The address is moved about only where nobody uses the cluster yet, and only when it works.
	if last := p.Steps[n-2]; last.Kind != TestTakeover || !slices.Equal(last.Needs, []string{stepID("", Verify)}) {
		t.Errorf("the last step but one is %s and needs %v", last.Kind, last.Needs)
	}
	// A run that is cut short before its end is followed by another verification.
	if last := p.Steps[n-1]; last.Kind != RecordVerified || !slices.Equal(last.Needs, []string{stepID("", Verify), stepID("", TestTakeover)}) {
		t.Errorf("the last step is %s and needs %v", last.Kind, last.Needs)
	}
}

// TestEveryInterruption plans from states between nothing and everything: whatever was done is not lost, and what is
// left leads to the whole.
func TestEveryInterruption(t *testing.T) {
	const empt, kubelet, away, whole, wholeAway = 0, 1, 2, 3, 4 // what a control plane has: nothing, etcd and the kubelet, or all
	c := testCluster()
	cps := c.HostsWith(spec.RoleControlPlane)
	for n := range 5 * 5 * 5 {
		states := []int{n / 25, n / 5 % 5, n % 5}
		obs := empty(c)
		var start, turn []string
		for i, h := range cps {
			f := obs.Hosts[h.Name].Facts
			f.Kubernetes.CA, f.Kubernetes.SharedPKI = "CA", true
			if states[i] != empt {
				f.Binaries, f.Images = testBundle.Digest, testBundle.Digest
				f.Kubernetes.KubeletConfig, f.Kubernetes.EtcdData, f.Kubernetes.Manifests = true, true, []string{"etcd"}
				f.Kubernetes.Begun = true
			}
			f.Kubernetes.KubeletAway = states[i] == away || states[i] == wholeAway
			if states[i] >= whole {
				f.Kubernetes.Manifests = podsWithEtcd
			} else {
				start = append(start, h.Name)
			}
			if f.Kubernetes.KubeletAway || states[i] == empt && i > 0 {
				turn = append(turn, h.Name)
			}
		}
		p := build(t, c, obs)
		kinds := kindsOf(p)
		if !slices.Equal(kinds[StartControlPlane], start) || !slices.Equal(kinds[RegisterNode], start) {
			t.Errorf("%v: starts %v and registers %v, want %v", states, kinds[StartControlPlane], kinds[RegisterNode], start)
		}
		if !slices.Equal(kinds[UseLocalAPI], turn) {
			t.Errorf("%v: the kubelets of %v turn to their API servers, want %v", states, kinds[UseLocalAPI], turn)
		}
		if len(kinds[MakePKI]) != 0 {
			t.Errorf("%v: makes keys again", states)
		}
		if !slices.Equal(kinds[InitCluster], []string{"cp-a"}) || len(kinds[JoinControlPlane]) != 0 {
			t.Errorf("%v: the bootstrap is not finished: %v", states, kinds)
		}
		for _, s := range p.Steps {
			for _, need := range s.Needs {
				if !slices.ContainsFunc(p.Steps, func(o Step) bool { return o.ID == need }) {
					t.Errorf("%v: %s waits for %s, which nobody does", states, s.ID, need)
				}
			}
		}
	}
}

func TestKeysComeFromWhoeverHasThem(t *testing.T) {
	c := testCluster()
	obs := empty(c)
	obs.Hosts["cp-b"].Facts.Kubernetes = facts.Kubernetes{CA: "CA", SharedPKI: true}
	kinds := kindsOf(build(t, c, obs))
	if !slices.Equal(kinds[MakePKI], []string{"cp-b"}) || !slices.Equal(kinds[SharePKI], []string{"cp-a", "cp-c"}) {
		t.Fatalf("keys made on %v, handed to %v", kinds[MakePKI], kinds[SharePKI])
	}
}

func TestLaterAdditions(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for _, h := range []spec.Host{
		{Name: "cp-d", Address: "10.0.0.51", Zone: "a", Roles: []string{spec.RoleControlPlane}},
		{Name: "cp-e", Address: "10.0.0.52", Zone: "b", Roles: []string{spec.RoleControlPlane}},
		{Name: "worker-c", Address: "10.0.0.53", Zone: "c", Roles: []string{spec.RoleWorker}},
	} {
		c.Spec.Hosts = append(c.Spec.Hosts, h)
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}}}
	}
	p := build(t, c, obs)
	kinds := kindsOf(p)
	if !slices.Equal(kinds[JoinControlPlane], []string{"cp-d", "cp-e"}) || !slices.Equal(kinds[JoinWorker], []string{"worker-c"}) {
		t.Fatalf("joins %v and %v", kinds[JoinControlPlane], kinds[JoinWorker])
	}
	if len(kinds[StartControlPlane]) != 0 || len(kinds[InitCluster]) != 0 {
		t.Error("a host added to an existing cluster must never be bootstrapped")
	}
	for _, s := range p.Steps {
		if s.Kind == JoinControlPlane && s.Host == "cp-e" && !slices.Contains(s.Needs, "cp-d/join-control-plane") {
			t.Error("two control planes join at once: etcd takes one learner at a time")
		}
		if s.Kind == JoinControlPlane && (s.Change == nil || *s.Change != cluster.Change{Verb: cluster.Add, Part: cluster.ControlPlane, Subject: s.Host}) {
			t.Errorf("%s carries the change %v", s.ID, s.Change)
		}
	}
}

func TestDeadWorkerOfALivingClusterIsLeftAlone(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.Hosts["worker-b"] = facts.Host{Error: "worker-b: no SSH connection"}
	p := build(t, c, obs)
	if !p.Empty() || p.Unreachable["worker-b"] == "" {
		t.Fatalf("steps %v, unreachable %v", kindsOf(p), p.Unreachable)
	}
}

func TestPoolsLabelAndTaint(t *testing.T) {
	c := testCluster()
	c.Spec.NodePools = []spec.NodePool{{Name: "web", Hosts: []string{"worker-a"}, Labels: map[string]string{"tier": "web"},
		Taints: []spec.Taint{{Key: "web", Effect: "NoSchedule"}}}}
	obs := finished(t, c)
	p := build(t, c, obs)
	if len(p.Steps) != 2 || p.Steps[0].Kind != LabelNode || p.Steps[0].Labels["tier"] != "web" || p.Steps[0].Labels[PoolLabel] != "web" || len(p.Steps[0].Taints) != 1 {
		t.Fatalf("%+v", p.Steps)
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*spec.Cluster, *facts.Observation)
		fresh  bool
		want   string
	}{
		"another version in a cluster that is not complete": {func(_ *spec.Cluster, o *facts.Observation) {
			for name, h := range o.Hosts {
				h.Facts.Kubernetes.Established, h.Facts.Kubernetes.Begun = false, true
				o.Hosts[name] = h
			}
			o.API.Verified, o.API.Version = "", "v1.36.0"
		}, false, RuleVersion},
		"two clusters": {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["cp-b"].Facts.Kubernetes.CA = "other" }, false, cluster.RuleOneCluster},
		"a node too many": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Nodes = append(o.API.Nodes, facts.Node{Name: "old"})
		}, false, cluster.RuleFixed},
		"an empty control plane that etcd knows": {func(_ *spec.Cluster, o *facts.Observation) {
			k := &o.Hosts["cp-c"].Facts.Kubernetes
			k.KubeletConfig, k.EtcdData = false, false
		}, false, RuleOldMember},
		"a dead host in a new cluster": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["cp-c"] = facts.Host{Error: "cp-c: no SSH connection"}
		}, true, RuleAllHosts},
		"a balancer without HAProxy": {func(_ *spec.Cluster, o *facts.Observation) {
			f := o.Hosts["lb-b"].Facts
			f.Lacks, f.OS = []string{"haproxy"}, "Slackware 15"
		}, true, RulePackages},
		"a balancer that is none any more": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"].Facts.Units[hostconfig.WatchdogUnit] = "active"
		}, false, cluster.RuleFixed},
		"balancers beside adopted API servers that do not share": {func(c *spec.Cluster, o *facts.Observation) {
			withoutBalancers(c)
			o.Hosts["cp-a"].Facts.Kubernetes.Adopted = true
		}, false, cluster.RuleFixed},
		"no quorum": {func(_ *spec.Cluster, o *facts.Observation) { o.API = nil }, false, RuleAnswer},
		"marks of a cluster that is gone": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["cp-b"].Facts.Kubernetes.Established = true
		}, true, cluster.RuleLostCluster},
		"no quorum, and an empty control plane": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API = nil
			k := &o.Hosts["cp-c"].Facts.Kubernetes
			*k = facts.Kubernetes{}
		}, false, RuleAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := empty(c)
			if !tc.fresh {
				obs = finished(t, c)
			}
			tc.change(c, obs)
			p, err := Build(cluster.Evaluate(c, obs), testBundle)
			var r *cluster.Refusal
			if !errors.As(err, &r) || r.Rule != tc.want {
				t.Fatalf("plan %+v, error %v, want the rule %q", p, err, tc.want)
			}
			if r.Why == "" || r.Fix == "" {
				t.Errorf("the refusal has no reason or no way out: %+v", r)
			}
		})
	}
}

func TestStoppedUnitIsStarted(t *testing.T) {
	c := testCluster()
	for _, api := range []bool{true, false} {
		obs := finished(t, c)
		obs.Hosts["cp-b"].Facts.Units["kubelet.service"] = "inactive"
		if !api {
			obs.API = nil
		}
		p := build(t, c, obs)
		if p.Steps[0].Kind != Configure || p.Steps[0].Host != "cp-b" || p.Steps[1].Kind != Verify {
			t.Errorf("with an API %v: %+v", api, kindsOf(p))
		}
	}
}

// withoutBalancers takes the hosts of the balancers away: the control planes then balance themselves.
func withoutBalancers(c *spec.Cluster) *spec.Cluster {
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
	return c
}

func TestBalancersBesideControlPlanes(t *testing.T) {
	c := withoutBalancers(testCluster())
	if p := build(t, c, finished(t, c)); !p.Empty() {
		t.Fatalf("a finished cluster has steps: %+v", kindsOf(p))
	}
	p := build(t, c, empty(c))
	for _, s := range p.Steps {
		h, _ := c.Host(s.Host)
		if s.Kind != Configure {
			continue
		}
		balances := slices.Contains(s.Desired.Enable, "keepalived.service")
		if balances != (s.Detail == "load-balancer") || balances && !h.Has(spec.RoleControlPlane) {
			t.Errorf("%s balances: %v", s.ID, balances)
		}
		// Each half brings its own settings.
		if !balances && s.Desired.Sysctls["net.ipv4.ip_forward"] != "1" || balances && s.Desired.Sysctls["net.ipv4.ip_nonlocal_bind"] != "1" {
			t.Errorf("%s: sysctls %v", s.ID, s.Desired.Sysctls)
		}
		if balances == slices.Contains(s.Desired.Enable, "containerd.service") {
			t.Errorf("%s: units %v", s.ID, s.Desired.Enable)
		}
	}
	if n := len(kindsOf(p)[Configure]); n != 8 { // five nodes, three of which balance
		t.Errorf("%d steps configure", n)
	}
	if kinds := kindsOf(p); len(kinds[TestTakeover]) != 1 {
		t.Errorf("no takeover is tested: %+v", kinds)
	}
	// Without the programs a balancer cannot be.
	obs := empty(c)
	obs.Hosts["cp-b"].Facts.Lacks = []string{"keepalived"}
	if _, err := Build(cluster.Evaluate(c, obs), testBundle); err == nil || !strings.Contains(err.Error(), "cp-b lacks keepalived") {
		t.Error(err)
	}
}

func TestExternalBalancerIsProbedBeforeAnythingElse(t *testing.T) {
	c := withoutBalancers(testCluster())
	c.Spec.LoadBalancer.Type = spec.BalancerExternal
	p := build(t, c, empty(c))
	if p.Steps[0].Kind != ProbeEndpoint {
		t.Fatalf("the first step is %s", p.Steps[0].ID)
	}
	for _, s := range p.Steps[1:] {
		if len(s.Needs) == 0 {
			t.Errorf("%s does not wait for the probe", s.ID)
		}
		if s.Kind == TestTakeover || s.Desired != nil && slices.Contains(s.Desired.Enable, "keepalived.service") {
			t.Errorf("%s, where the balancer is the user's own", s.ID)
		}
	}
	if p := build(t, c, finished(t, c)); !p.Empty() {
		t.Errorf("a finished cluster has steps: %+v", kindsOf(p))
	}
	obs := finished(t, c)
	obs.Hosts["worker-a"].Facts.Units["containerd.service"] = "failed"
	if kinds := kindsOf(build(t, c, obs)); len(kinds[ProbeEndpoint]) > 0 {
		t.Errorf("a cluster that is used is probed as if it were none: %+v", kinds)
	}
}

// TestBalancersRestartOneByOne would fail if a change of HAProxy's configuration reached all balancers at once.
func TestBalancersRestartOneByOne(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	for _, h := range c.BalancerHosts() {
		obs.Hosts[h.Name].Facts.Files["/etc/haproxy/haproxy.cfg"] = "other"
	}
	p := build(t, c, obs)
	if !slices.Contains(p.Steps[1].Needs, p.Steps[0].ID) {
		t.Errorf("%+v", p.Steps)
	}
}

// TestConnectionsChangeWithReloads: a new limit reloads HAProxy on one load balancer after another, the holder of the virtual IP
// last, and restarts nothing.
func TestConnectionsChangeWithReloads(t *testing.T) {
	for name, c := range map[string]*spec.Cluster{"own hosts": testCluster(), "control planes": withoutBalancers(testCluster())} {
		t.Run(name, func(t *testing.T) {
			obs := finished(t, c)
			for _, h := range c.BalancerHosts() {
				for _, unit := range []string{"haproxy.service", "keepalived.service", hostconfig.WatchdogUnit} {
					obs.Hosts[h.Name].Facts.Units[unit] = "active"
				}
			}
			c.Spec.LoadBalancer.MaxConnections = 20000
			p := build(t, c, obs)
			var reloaded []string
			for _, s := range p.Steps {
				switch {
				case s.Kind == Configure:
					if s.Change == nil || s.Change.Verb != cluster.Reload || s.Reason != "/etc/haproxy/haproxy.cfg differs; haproxy.service reloads" {
						t.Errorf("%s: %q, change %v", s.ID, s.Reason, s.Change)
					}
					if n := len(reloaded); n > 0 && !slices.Contains(s.Needs, stepID(reloaded[n-1], Configure)+"/load-balancer") {
						t.Errorf("%s needs %v", s.ID, s.Needs)
					}
					reloaded = append(reloaded, s.Host)
				case s.Change != nil:
					t.Errorf("%s changes %v", s.ID, s.Change)
				}
			}
			holder := c.BalancerHosts()[0].Name
			if len(reloaded) != len(c.BalancerHosts()) || reloaded[len(reloaded)-1] != holder {
				t.Errorf("reloaded: %v, the holder is %s", reloaded, holder)
			}
		})
	}
}

// TestOnlyANewClusterIsShaken: a build that was killed shortly before its end is still that of a new cluster.
func TestOnlyANewClusterIsShaken(t *testing.T) {
	for begun, want := range map[bool]int{true: 1, false: 0} {
		c := testCluster()
		obs := finished(t, c)
		for _, h := range c.Spec.Hosts {
			k := &obs.Hosts[h.Name].Facts.Kubernetes
			k.Begun, k.Established = begun && h.IsNode(), k.Established && !begun
			if begun {
				obs.API.Verified = ""
			}
		}
		if n := len(kindsOf(build(t, c, obs))[TestTakeover]); n != want {
			t.Errorf("begun %v: %d tests of the takeover", begun, n)
		}
	}
}

// TestABuildGoesOnWithoutAServer: the load balancers of an interrupted build are configured long before an API server runs.
func TestABuildGoesOnWithoutAServer(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.API, obs.Etcd, obs.Endpoint = nil, nil, facts.Endpoint{Unknown: "there is no cluster to ask for"}
	for _, h := range c.Spec.Hosts {
		seen := obs.Hosts[h.Name]
		k := facts.Kubernetes{Begun: true}
		if h.Has(spec.RoleControlPlane) {
			k.CA, k.SharedPKI = seen.Facts.Kubernetes.CA, true
		}
		seen.Facts.Kubernetes, seen.APIServer = k, nil
		if seen.Balancer != nil {
			for i := range seen.Balancer.Backends {
				seen.Balancer.Backends[i].Healthy = false
			}
		}
		obs.Hosts[h.Name] = seen
	}
	p := build(t, c, obs)
	kinds := kindsOf(p)
	if slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Detail == "load-balancer" }) || len(kinds[StartKubelet]) == 0 || len(kinds[TestTakeover]) != 1 {
		t.Errorf("steps %v", kinds)
	}
}

func TestImagesThatAreGoneAreImportedAgain(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	obs.Hosts["cp-b"].Facts.ImageProblems = []string{"registry.example/pause:3 is missing"}
	obs.Hosts["worker-a"].Facts.ImageProblems = []string{"a is damaged", "b is damaged", "c is damaged", "d is damaged", "e is missing"}
	p := build(t, c, obs)
	got := map[string]string{}
	for _, s := range p.Steps {
		if s.Kind != Verify {
			got[s.ID] = s.Reason
		}
	}
	want := map[string]string{
		"cp-b/import-images":     "registry.example/pause:3 is missing",
		"worker-a/import-images": "a is damaged, b is damaged, c is damaged and 2 more",
	}
	if !maps.Equal(got, want) {
		t.Errorf("steps %q, want %q", got, want)
	}
}
