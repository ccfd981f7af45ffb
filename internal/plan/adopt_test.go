package plan

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// byHand observes a cluster that an operator built with plain kubeadm, packages of the distribution, a HAProxy that only
// connects, and flannel as the project publishes it.
func byHand(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	observed := finished
	if !c.StackedEtcd() {
		observed = finishedExternal
	}
	obs := observed(t, c)
	obs.API.Record, obs.API.Verified = "", ""
	obs.API.Applied, obs.API.DNSSpread, obs.API.DNSInZones = nil, false, false
	obs.API.Networks = []facts.Network{{Namespace: "kube-flannel", Name: "kube-flannel-ds", Images: []string{"ghcr.example/flannel:v0.27.0"}}}
	obs.API.Kubeadm = &facts.Kubeadm{Endpoint: c.Spec.ControlPlane.Endpoint, PodCIDR: c.Spec.Network.PodCIDR, ServiceCIDR: c.Spec.Network.ServiceCIDR}
	if !c.StackedEtcd() {
		obs.API.Kubeadm.EtcdEndpoints = hostconfig.EtcdEndpoints(c)
	}
	servers := []string{"cp-b:6443"} // by name or by address
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		servers = append(servers, h.Address+":6443")
	}
	for i, n := range obs.API.Nodes {
		h, _ := c.Host(n.Name)
		obs.API.Nodes[i].Address, obs.API.Nodes[i].Version = h.Address, testBundle.Version
		delete(n.Labels, ZoneLabel)
	}
	for _, h := range c.Spec.Hosts {
		o := obs.Hosts[h.Name]
		f := o.Facts
		f.Binaries, f.Images, f.Kubernetes.Established = "", "", false
		f.Files = map[string]string{}
		f.Units = map[string]string{"containerd.service": "active", "kubelet.service": "active"}
		if h.IsNode() {
			f.Kubernetes.NodeName = h.Name
		}
		if h.Has(spec.RoleControlPlane) {
			o.APIServer, f.Kubernetes.ProbesEtcd = &facts.Answer{OK: true}, true
		}
		if c.Balances(h) {
			f.Units = map[string]string{"haproxy.service": "active", "keepalived.service": "active"}
			o.Balancer = &facts.Balancer{Healthy: true, Active: h.Name == "lb-a", Others: &facts.OthersBalancing{
				Services:   []facts.Service{{Name: "frontend api", Bind: "*:6443"}, {Name: "listen stats", Bind: ":9000", Statistics: true}},
				Servers:    servers,
				VirtualIPs: []string{c.Spec.LoadBalancer.Address}}}
		}
		obs.Hosts[h.Name] = o
	}
	return obs
}

// take does to the observation what a step does to the cluster.
func take(c *spec.Cluster, obs *facts.Observation, s Step) {
	o := obs.Hosts[s.Host]
	switch s.Kind {
	case Configure, Mark:
		for _, f := range s.Desired.Files {
			o.Facts.Files[f.Key()] = f.Sum()
			k := &o.Facts.Kubernetes
			k.Adopted = k.Adopted || f.Path == facts.AdoptedFile
			k.Established = k.Established || f.Path == facts.EstablishedFile
		}
		if s.Desired.EtcdGuard && o.Facts.Kubernetes.Established {
			o.Facts.Kubernetes.EtcdGuard = true
		}
		for _, u := range s.Desired.Enable {
			o.Facts.Units[u] = "active"
		}
		if s.Detail == "load-balancer" {
			o.Balancer.WrittenFor, o.Balancer.Others = c.Metadata.Name, nil
			for _, cp := range c.HostsWith(spec.RoleControlPlane) {
				o.Balancer.Backends = append(o.Balancer.Backends, facts.Backend{Name: cp.Name, Healthy: true})
			}
			o.Facts.Units["keepalived.service"] = "active"
		}
	case LabelNode:
		for i := range obs.API.Nodes {
			if obs.API.Nodes[i].Name == s.Host {
				maps.Copy(obs.API.Nodes[i].Labels, s.Labels)
			}
		}
	case SpreadDNS:
		obs.API.DNSSpread, obs.API.DNSInZones = true, s.Zones
	case RecordSpec:
		obs.API.Record = s.Record
	case RecordVerified:
		obs.API.Verified = s.Record
	}
}

// rebuilds are the kinds of steps that an adoption must never have.
var rebuilds = []Kind{InstallPackages, InstallBundle, ImportImages, MakePKI, SharePKI, MakeEtcdPKI, ShareEtcdPKI, StartEtcd, ClaimEtcd, StartControlPlane,
	InitCluster, InstallAddons, MakeToken, JoinWorker, JoinControlPlane, ApplyManifest, TestTakeover, SetEncryptionKeys, RewriteSecrets}

func mustNotRebuild(t *testing.T, c *spec.Cluster, p *Plan) {
	t.Helper()
	for _, s := range p.Steps {
		if slices.Contains(rebuilds, s.Kind) {
			t.Errorf("%s in a cluster that is to stay as it is", s.ID)
		}
		h, _ := c.Host(s.Host)
		if s.Kind != Configure || c.Balances(h) {
			continue
		}
		for _, f := range s.Desired.Files {
			if len(f.Restart) > 0 || strings.HasPrefix(f.Path, "/etc/containerd") || strings.HasSuffix(f.Path, "/kubelet.service") || strings.HasSuffix(f.Path, "10-kubeadm.conf") {
				t.Errorf("%s touches %s", s.ID, f.Path)
			}
		}
		for _, u := range s.Desired.Enable {
			if u != hostconfig.ApproverTimer {
				t.Errorf("%s starts %s", s.ID, u)
			}
		}
	}
}

func TestAdoption(t *testing.T) {
	c := testCluster()
	p := build(t, c, byHand(t, c))
	if !p.Adopts || len(p.Notes) != 7 || !slices.ContainsFunc(p.Notes, func(s string) bool { return strings.Contains(s, "instead of "+hostconfig.LivePath) }) {
		t.Errorf("adopts %v, notes %q", p.Adopts, p.Notes)
	}
	mustNotRebuild(t, c, p)
	kinds := kindsOf(p)
	for kind, want := range map[Kind][]string{
		LabelNode: {"cp-a", "cp-b", "cp-c", "worker-a", "worker-b"},
		SpreadDNS: {""},
		Verify:    {""},
	} {
		if !slices.Equal(kinds[kind], want) {
			t.Errorf("%s on %v, want %v", kind, kinds[kind], want)
		}
	}
	steps := map[string]Step{}
	for _, s := range p.Steps {
		steps[s.ID] = s
	}
	for _, h := range []string{"cp-a", "cp-b", "cp-c", "worker-a", "worker-b"} {
		if !slices.Contains(steps["cp-b/mark/established"].Needs, h+"/mark/adopted") {
			t.Errorf("cp-b is marked before %s", h)
		}
		if !slices.Contains(steps[h+"/configure"].Needs, "cp-c/mark/established") {
			t.Errorf("%s is configured before the cluster is adopted: %v", h, steps[h+"/configure"].Needs)
		}
	}
	if n := steps["lb-a/configure/load-balancer"].Needs; !slices.Contains(n, "lb-b/configure/load-balancer") {
		t.Errorf("the balancer with the virtual IP does not come last: %v", n)
	}
	if ch := steps["lb-a/configure/load-balancer"].Change; ch == nil || ch.Verb != cluster.Restart || ch.Part != cluster.LoadBalancer {
		t.Errorf("nobody checks whether another load balancer is ready: %v", ch)
	}
	kept := 0
	for _, f := range steps["lb-a/configure/load-balancer"].Desired.Files {
		if f.Keep {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d of the operator's files are kept", kept)
	}
}

// TestAdoptionWithoutUnits: on a host whose systemd did not answer, the units that Quorate adds start all the same. Nothing else would start them.
func TestAdoptionWithoutUnits(t *testing.T) {
	c := testCluster()
	obs := byHand(t, c)
	f := obs.Hosts["cp-a"].Facts
	f.Units, f.Enabled, f.Unknown = nil, nil, map[string]string{facts.UnitsPart: "no answer within 2s"}
	steps := stepsOf(build(t, c, obs), "cp-a", Configure)
	if len(steps) != 1 || steps[0].Change == nil {
		t.Errorf("nothing starts what is enabled: %+v", steps)
	}
}

// TestAdoptionSurvivesBeingKilled stops after every step, in many orders: what follows never rebuilds anything, asks for
// the word again only while nothing but marks was changed, and ends with nothing to do.
func TestAdoptionSurvivesBeingKilled(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		c := testCluster()
		obs := byHand(t, c)
		for killed := 0; ; killed++ {
			p := build(t, c, obs)
			mustNotRebuild(t, c, p)
			changed := obs.API.DNSSpread || obs.Hosts["lb-b"].Balancer.Others == nil
			if p.Adopts && changed {
				t.Fatalf("seed %d: changed before it was adopted", seed)
			}
			if p.Empty() {
				break
			}
			if killed > 100 {
				t.Fatalf("seed %d: never done: %v", seed, kindsOf(p))
			}
			run(c, obs, p, 1+r.IntN(4), r)
		}
	}
}

// run takes some steps, each of them after what it needs.
func run(c *spec.Cluster, obs *facts.Observation, p *Plan, n int, r *rand.Rand) {
	done := map[string]bool{}
	for ; n > 0; n-- {
		var ready []Step
		for _, s := range p.Steps {
			if !done[s.ID] && !slices.ContainsFunc(s.Needs, func(id string) bool { return !done[id] }) {
				ready = append(ready, s)
			}
		}
		if len(ready) == 0 {
			return
		}
		s := ready[r.IntN(len(ready))]
		take(c, obs, s)
		done[s.ID] = true
	}
}

func TestAdoptionNeedsAWord(t *testing.T) {
	c := testCluster()
	adoption, first := build(t, c, byHand(t, c)), build(t, c, empty(c))
	for name, tc := range map[string]struct {
		plan    *Plan
		adopt   bool
		refused bool
	}{
		"a cluster of others":            {adoption, false, true},
		"a cluster of others, with it":   {adoption, true, false},
		"empty hosts":                    {first, false, false},
		"empty hosts, with it":           {first, true, true},
		"an adopted cluster, once more":  {build(t, c, finished(t, c)), true, false},
		"a cluster of ours, without any": {build(t, c, finished(t, c)), false, false},
	} {
		if err := tc.plan.Allowed(tc.adopt); (err != nil) != tc.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAdoptionIsRefused(t *testing.T) {
	node := func(o *facts.Observation, name string) *facts.Node {
		return &o.API.Nodes[slices.IndexFunc(o.API.Nodes, func(n facts.Node) bool { return n.Name == name })]
	}
	others := func(o *facts.Observation) *facts.OthersBalancing { return o.Hosts["lb-b"].Balancer.Others }
	for name, tc := range map[string]struct {
		change func(*spec.Cluster, *facts.Observation)
		rule   string
		words  string
	}{
		"another endpoint": {func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm.Endpoint = "k8s.example.com:6443" }, cluster.RuleDescribed, "k8s.example.com:6443"},
		"an address":       {func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm.Endpoint = "10.0.0.100:6443" }, cluster.RuleDescribed, "built on an address cannot be adopted"},
		"no endpoint":      {func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm.Endpoint = "" }, cluster.RuleDescribed, "controlPlaneEndpoint"},
		"other pods":       {func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm.PodCIDR = "10.1.0.0/16" }, cluster.RuleDescribed, "10.1.0.0/16"},
		"other Services":   {func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm.ServiceCIDR = "10.2.0.0/16" }, cluster.RuleDescribed, "10.2.0.0/16"},
		"no configuration": {func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm = nil }, cluster.RuleDescribed, "kubeadm-config"},
		"external etcd":    {func(_ *spec.Cluster, o *facts.Observation) { o.API.Kubeadm.EtcdEndpoints = []string{"https://e:2379"} }, cluster.RuleDescribed, "https://e:2379"},
		"a node too many": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Nodes = append(o.API.Nodes, facts.Node{Name: "old", Address: "10.0.0.77", Ready: true})
		}, cluster.RuleDescribed, "old at 10.0.0.77"},
		"another address": {func(_ *spec.Cluster, o *facts.Observation) { node(o, "worker-a").Address = "10.9.0.1" }, cluster.RuleDescribed, "10.9.0.1"},
		"another role": {func(_ *spec.Cluster, o *facts.Observation) {
			delete(node(o, "cp-c").Labels, controlPlaneLabel)
		}, cluster.RuleDescribed, "cp-c is not a control plane"},
		"another kubelet": {func(_ *spec.Cluster, o *facts.Observation) { node(o, "worker-b").Version = "v1.35.0" }, cluster.RuleDescribed, "v1.35.0"},
		"another zone":    {func(_ *spec.Cluster, o *facts.Observation) { node(o, "worker-b").Labels[ZoneLabel] = "eu-1" }, cluster.RuleDescribed, ZoneLabel + "=eu-1"},
		"another name": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"].Facts.Kubernetes.NodeName = "worker-a.example.com"
		}, cluster.RuleDescribed, "worker-a.example.com in its cluster. Nodes with dots in their names cannot be adopted"},
		"a host of another cluster": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"].Facts.Kubernetes.CA = "other"
		}, cluster.RuleOneCluster, "worker-a"},
		"a host of another cluster that has lost its CA": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"].Facts.Kubernetes.CA = ""
		}, cluster.RuleDescribed, "worker-a"},
		"a host that no node stands for": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Nodes = slices.DeleteFunc(o.API.Nodes, func(n facts.Node) bool { return n.Name == "worker-a" })
		}, cluster.RuleDescribed, "no node with that name"},
		"an API server on a worker": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"].Facts.Kubernetes.Manifests = podsWithEtcd
		}, cluster.RuleDescribed, "worker-a is a control plane"},
		"a member too many": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Etcd = append(o.Etcd, facts.EtcdMember{Name: "cp-x", Healthy: true, Started: true})
		}, cluster.RuleDescribed, "cp-x"},
		"a dead host": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"] = facts.Host{Error: "worker-a: no SSH connection"}
		}, RuleAllHosts, "worker-a"},
		"a node that is not Ready": {func(_ *spec.Cluster, o *facts.Observation) { node(o, "worker-a").Ready = false }, RuleWhole, "worker-a is not ready"},
		"an API server that is not": {func(_ *spec.Cluster, o *facts.Observation) {
			*o.Hosts["cp-b"].APIServer = facts.Answer{Problem: "it answers 500"}
		}, RuleWhole, "kube-apiserver on cp-b does not work"},
		"no anonymous requests": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["cp-b"].Facts.Kubernetes.Flags = map[string]string{"kube-apiserver/anonymous-auth": "false"}
		}, RuleWhole, "--anonymous-auth=false"},
		"a sick member": {func(_ *spec.Cluster, o *facts.Observation) { o.Etcd[1].Healthy = false }, RuleWhole, "etcd member cp-b does not work"},
		"a learner":     {func(_ *spec.Cluster, o *facts.Observation) { o.Etcd[1].Learner = true }, RuleWhole, "learner"},
		"a silent endpoint": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Endpoint = facts.Endpoint{Hosts: map[string]facts.Answer{"worker-a": {Problem: "refused"}}}
		}, RuleWhole, "refused"},
		"a scheduler that is not": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["cp-b"].Components[facts.Scheduler] = facts.Component{Answer: facts.Answer{Problem: "it answers 500"}}
		}, RuleWhole, "kube-scheduler on cp-b does not work: it answers 500 (" + cluster.RuleControlPlane + ")"},
		"an API server that could not be asked": {func(_ *spec.Cluster, o *facts.Observation) {
			*o.Hosts["cp-b"].APIServer = facts.Answer{Unknown: "the stream was refused"}
		}, RuleWhole, "kube-apiserver on cp-b could not be queried: the stream was refused"},
		"two holders":          {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["lb-b"].Balancer.Active = true }, RuleWhole, "lb-a and lb-b have the virtual IP"},
		"another frontend":     {func(_ *spec.Cluster, o *facts.Observation) { others(o).Services[0].Bind = "*:443" }, RuleBalancers, "frontend api *:443"},
		"another virtual IP":   {func(_ *spec.Cluster, o *facts.Observation) { others(o).VirtualIPs = []string{"10.0.0.200"} }, RuleBalancers, "10.0.0.200"},
		"another server":       {func(_ *spec.Cluster, o *facts.Observation) { others(o).Servers[0] = "10.7.0.1:6443" }, RuleBalancers, "10.7.0.1"},
		"another's balancer":   {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["lb-b"].Balancer.WrittenFor = "prod" }, cluster.RuleBalancersOf, "prod"},
		"a balancer elsewhere": {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["lb-a"].Balancer.Active = false }, RuleBalancers, "10.0.0.100"},
		"a static pod": {func(_ *spec.Cluster, o *facts.Observation) {
			k := &o.Hosts["cp-b"].Facts.Kubernetes
			k.Manifests = append(slices.Clone(k.Manifests), "kube-vip")
		}, RuleBalancers, "kube-vip"},
		"another network": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Networks = []facts.Network{{Namespace: "kube-system", Name: "calico-node"}}
		}, RuleNetwork, "calico-node"},
		"two networks": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Networks = append(o.API.Networks, facts.Network{Namespace: "kube-system", Name: "cilium"})
		}, RuleNetwork, "cilium"},
		"a network of its own": {func(_ *spec.Cluster, o *facts.Observation) { o.API.Networks = nil }, RuleNetwork, "no DaemonSet"},
		"another version":      {func(_ *spec.Cluster, o *facts.Observation) { o.API.Version = "v1.36.0" }, RuleVersion, "v1.36.0"},
		"no API":               {func(_ *spec.Cluster, o *facts.Observation) { o.API = nil }, RuleAnswer, "did not build"},
		"no kubeadm":           {func(_ *spec.Cluster, o *facts.Observation) { o.API.Initialised = false }, RuleAnswer, "did not build"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := byHand(t, c)
			tc.change(c, obs)
			p, err := Build(cluster.Evaluate(c, obs), testBundle)
			var r *cluster.Refusal
			if !errors.As(err, &r) || r.Rule != tc.rule || !strings.Contains(r.Why, tc.words) || r.Fix == "" {
				t.Fatalf("plan %+v, error %v, want the rule %q and %q", p, err, tc.rule, tc.words)
			}
		})
	}
}

// TestWhatIsRightIsLeft adopts clusters that need less.
func TestWhatIsRightIsLeft(t *testing.T) {
	t.Run("a balancer of their own", func(t *testing.T) {
		c := testCluster()
		obs := byHand(t, c)
		c.Spec.LoadBalancer.Type = spec.BalancerExternal
		withoutBalancers(c)
		for _, s := range build(t, c, obs).Steps {
			if strings.HasPrefix(s.Host, "lb-") {
				t.Errorf("%s", s.ID)
			}
		}
	})
	t.Run("an external etcd", func(t *testing.T) {
		c := external()
		obs := byHand(t, c)
		for _, name := range []string{"etcd-b", "etcd-c"} { // kubeadm's documentation leaves the key on one host
			obs.Hosts[name].Facts.Kubernetes.EtcdCAKey = false
		}
		p := build(t, c, obs)
		mustNotRebuild(t, c, p)
		run(c, obs, p, len(p.Steps), rand.New(rand.NewPCG(1, 1)))
		for _, h := range c.EtcdHosts() {
			if k := obs.Hosts[h.Name].Facts.Kubernetes; !k.Adopted || !k.Established {
				t.Errorf("%s has no marks", h.Name)
			}
		}
		if p := build(t, c, obs); !p.Empty() {
			t.Errorf("afterwards: %v", kindsOf(p))
		}
	})
	t.Run("no flannel", func(t *testing.T) {
		c := testCluster()
		obs := byHand(t, c)
		c.Spec.Network.CNI = spec.CNINone
		obs.API.Networks, obs.API.Kubeadm.PodCIDR = []facts.Network{{Name: "cilium"}}, ""
		if p, err := Build(cluster.Evaluate(c, obs), Bundle{Digest: "sha256:b", Version: spec.DefaultVersion}); err != nil || !p.Adopts {
			t.Error(err)
		}
	})
	t.Run("the bundle's own flannel", func(t *testing.T) {
		c := testCluster()
		obs := byHand(t, c)
		b := testBundle
		b.Flannel = "example/flannel:v1"
		n := OwnFlannel
		n.Images = []string{b.Flannel}
		obs.API.Networks = []facts.Network{n}
		p, err := Build(cluster.Evaluate(c, obs), b)
		if err != nil || len(kindsOf(p)[ApplyManifest]) != 1 || slices.ContainsFunc(p.Notes, func(s string) bool { return strings.Contains(s, "network") }) {
			t.Errorf("%v, %v", p, err)
		}
	})
	t.Run("as Quorate configures it", func(t *testing.T) {
		c := testCluster()
		obs := byHand(t, c)
		for _, h := range c.HostsWith(spec.RoleControlPlane) {
			obs.Hosts[h.Name].Facts.Kubernetes.ProbesEtcd = false
			obs.Hosts[h.Name].Facts.Kubernetes.Flags = map[string]string{
				facts.EncryptionFlag: hostconfig.EncryptionFile, "kube-apiserver/audit-policy-file": "p", "kube-apiserver/authentication-config": "a",
				"kube-apiserver/kubelet-certificate-authority": "ca", "kube-controller-manager/node-monitor-grace-period": hostconfig.FastGracePeriod,
			}
		}
		if p := build(t, c, obs); len(p.Notes) != 1 {
			t.Errorf("notes %q", p.Notes)
		}
	})
}

// TestAdoptedClusterGrows joins hosts that are Quorate's from the beginning to one that is not.
func TestAdoptedClusterGrows(t *testing.T) {
	c := testCluster()
	obs := byHand(t, c)
	for killed := 0; killed < 2; killed++ {
		p := build(t, c, obs)
		run(c, obs, p, len(p.Steps), rand.New(rand.NewPCG(1, 1)))
	}
	for i, h := range []spec.Host{
		{Name: "cp-d", Zone: "a", Roles: []string{spec.RoleControlPlane}},
		{Name: "cp-e", Zone: "b", Roles: []string{spec.RoleControlPlane}},
		{Name: "worker-c", Zone: "c", Roles: []string{spec.RoleWorker}},
	} {
		h.Address = fmt.Sprintf("10.0.0.5%d", i)
		c.Spec.Hosts = append(c.Spec.Hosts, h)
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}}}
	}
	kinds := kindsOf(build(t, c, obs))
	for kind, want := range map[Kind][]string{
		InstallBundle: {"cp-d", "cp-e", "worker-c"}, MakePKI: {"cp-a"}, SharePKI: {"cp-d", "cp-e"},
		JoinControlPlane: {"cp-d", "cp-e"}, JoinWorker: {"worker-c"}, InitCluster: nil, ApplyManifest: nil,
	} {
		if !slices.Equal(kinds[kind], want) {
			t.Errorf("%s on %v, want %v", kind, kinds[kind], want)
		}
	}
	if files := SharedPKI(c, obs); slices.Contains(files, encryption.File) || !slices.Contains(files, "ca.key") {
		t.Errorf("without encryption at rest: %v", files)
	}
	obs.API.Kubeadm.Paths = []string{hostconfig.AuditLogDir, "/etc/kubernetes/webhook"}
	var r *cluster.Refusal
	if _, err := Build(cluster.Evaluate(c, obs), testBundle); !errors.As(err, &r) || !strings.Contains(r.Why, "/etc/kubernetes/webhook") || strings.Contains(r.Why, hostconfig.AuditLogDir) {
		t.Errorf("a control plane with files of its own: %v", err)
	}
}
