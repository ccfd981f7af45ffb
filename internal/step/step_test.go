package step

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

func TestTokensAreKubeadms(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)
	seen := map[string]bool{}
	letters := map[rune]int{}
	for range 2000 {
		token := newToken()
		if !form.MatchString(token) || seen[token] {
			t.Fatalf("token %q", token)
		}
		seen[token] = true
		for _, r := range token {
			letters[r]++
		}
	}
	for r, n := range letters {
		// 44,000 letters of 36: 1,222 each. A modulo of a byte would favour the first four by a seventh.
		if r != '.' && (n < 1000 || n > 1450) {
			t.Errorf("letter %c occurs %d times", r, n)
		}
	}
}

// TestEveryKindIsDone keeps plans and their execution together.
func TestEveryKindIsDone(t *testing.T) {
	for _, k := range []plan.Kind{plan.InstallBundle, plan.ImportImages, plan.Configure, plan.MakePKI, plan.SharePKI, plan.MakeEtcdPKI, plan.ShareEtcdPKI, plan.StartEtcd, plan.ShareEtcdClient, plan.ClaimEtcd, plan.StartKubelet, plan.StartControlPlane, plan.RegisterNode, plan.UseLocalAPI, plan.AwaitAPI, plan.AwaitControllers, plan.InitCluster, plan.InstallAddons,
		plan.MakeToken, plan.JoinWorker, plan.JoinControlPlane, plan.LabelNode, plan.ApplyManifest, plan.SpreadDNS, plan.ProbeEndpoint, plan.TestTakeover, plan.Verify,
		plan.RemoveTokens, plan.ReadEncryptionKeys, plan.SetEncryptionKeys, plan.RewriteSecrets} {
		if kinds[k] == nil {
			t.Errorf("nothing does %s", k)
		}
	}
}

func whole(c *spec.Cluster) *facts.Observation {
	yes := true
	obs := &facts.Observation{Hosts: map[string]facts.Host{}, API: &facts.API{DNSReady: 2, DNSNodes: 2}, Endpoint: facts.Endpoint{Reachable: true}}
	var backends []facts.Backend
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: h.Name, Healthy: true})
		backends = append(backends, facts.Backend{Name: h.Name, Healthy: true})
	}
	for i, h := range c.Spec.Hosts {
		seen := facts.Host{Facts: &facts.Facts{}}
		if h.IsNode() {
			obs.API.Nodes = append(obs.API.Nodes, facts.Node{Name: h.Name, Ready: true})
		}
		if h.Has(spec.RoleControlPlane) {
			seen.APIServer = &yes
		}
		if c.Balances(h) {
			seen.Balancer = &facts.Balancer{Healthy: true, Active: i == len(c.Spec.Hosts)-1, Backends: backends}
		}
		obs.Hosts[h.Name] = seen
	}
	return obs
}

func TestShortcomingsOfExternalEtcd(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.ControlPlane.Topology = spec.TopologyExternal
	c.Spec.Hosts = append([]spec.Host{{Name: "etcd-a", Roles: []string{spec.RoleEtcd}}}, c.Spec.Hosts...)
	obs := whole(c)
	lacks := func(want string) {
		t.Helper()
		if got := Shortcomings(c, obs); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
	lacks("etcd member etcd-a is not a healthy voter") // those that whole names are not on etcd hosts
	obs.Etcd = []facts.EtcdMember{{Name: "etcd-a", Healthy: true}}
	if got := Shortcomings(c, obs); len(got) != 0 {
		t.Errorf("a whole cluster lacks %q", got)
	}
	c.Spec.Etcd.Endpoints = []string{"https://10.0.0.1:2379"}
	obs.Etcd[0] = facts.EtcdMember{Name: "theirs"} // ill, which is not ours to wait for
	if got := Shortcomings(c, obs); len(got) != 0 {
		t.Errorf("a whole cluster on an existing etcd lacks %q", got)
	}
	obs.Etcd = nil
	lacks("no endpoint of the existing etcd answers")
}

func TestShortcomings(t *testing.T) {
	c := spec.DefaultLab("test")
	if got := Shortcomings(c, whole(c)); len(got) != 0 {
		t.Fatalf("a whole cluster lacks %q", got)
	}
	for want, break_ := range map[string]func(*facts.Observation){
		"no apiserver answers":                                     func(o *facts.Observation) { o.API = nil },
		"node worker-a is not Ready":                               func(o *facts.Observation) { o.API.Nodes[3].Ready = false },
		"node worker-b takes no pods: kubelet has disk":            func(o *facts.Observation) { o.API.Nodes[4].Short = "kubelet has disk pressure" },
		"2 ready replicas on 1 nodes (dns on cp-b: Unschedulable)": func(o *facts.Observation) { o.API.DNSNodes, o.API.DNSNotReady = 1, "dns on cp-b: Unschedulable" },
		"etcd member cp-b is not a":                                func(o *facts.Observation) { o.Etcd[1].Learner = true },
		"etcd member cp-a is not a":                                func(o *facts.Observation) { o.Etcd[0].Healthy = false },
		"the endpoint does not answer":                             func(o *facts.Observation) { o.Endpoint.Reachable = false },
		"CoreDNS has 2 ready replicas on 1":                        func(o *facts.Observation) { o.API.DNSNodes = 1 },
		"apiserver on cp-c is not ready":                           func(o *facts.Observation) { h := o.Hosts["cp-c"]; h.APIServer = nil; o.Hosts["cp-c"] = h },
		"0 balancers hold":                                         func(o *facts.Observation) { o.Hosts["lb-b"].Balancer.Active = false },
		"2 balancers hold":                                         func(o *facts.Observation) { o.Hosts["lb-a"].Balancer.Active = true },
		"HAProxy on lb-a does not":                                 func(o *facts.Observation) { o.Hosts["lb-a"].Balancer.Healthy = false },
		"does not see cp-a":                                        func(o *facts.Observation) { o.Hosts["lb-a"].Balancer.Backends = nil },
	} {
		obs := whole(c)
		break_(obs)
		got := Shortcomings(c, obs)
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
	external := spec.DefaultLab("test")
	external.Spec.LoadBalancer.Type = spec.BalancerExternal
	external.Spec.Hosts = external.Spec.Hosts[:5]
	if got := Shortcomings(external, whole(external)); len(got) != 0 {
		t.Errorf("a cluster without balancers of its own lacks %q", got)
	}
	obs := whole(c)
	obs.Hosts["cp-c"] = facts.Host{Error: "dead"}
	obs.Etcd, obs.API.Nodes[2].Ready = obs.Etcd[:2], false
	if got := Shortcomings(c, obs); len(got) != 0 {
		t.Errorf("a host that cannot be reached is held against the others: %q", got)
	}
}

// TestTakeoverGate: a balancer that has the address is not touched before another one can have it, and one that nobody
// uses, or that is beyond help, is not kept from being put right.
func TestTakeoverGate(t *testing.T) {
	c := spec.DefaultLab("test")
	ready := &facts.Balancer{Healthy: true, Backends: []facts.Backend{{Name: "cp-a", Healthy: true}}}
	for name, tc := range map[string]struct {
		own, other  *facts.Balancer
		unreachable bool
		silent      bool
		waits       bool
	}{
		"without the address":        {own: &facts.Balancer{Healthy: true}, other: nil},
		"with it, the other ready":   {own: &facts.Balancer{Healthy: true, Active: true}, other: ready},
		"with it, the other without": {own: &facts.Balancer{Healthy: true, Active: true}, other: &facts.Balancer{Healthy: true}, waits: true},
		"with it, the other silent":  {own: &facts.Balancer{Healthy: true, Active: true}, other: &facts.Balancer{}, waits: true},
		"with it, the other dead":    {own: &facts.Balancer{Healthy: true, Active: true}, unreachable: true},
		"with it, and of no use":     {own: &facts.Balancer{Active: true}, other: &facts.Balancer{}, silent: true},
	} {
		obs := &facts.Observation{Endpoint: facts.Endpoint{Reachable: !tc.silent}, Hosts: map[string]facts.Host{
			"lb-a": {Facts: &facts.Facts{}, Balancer: tc.own}, "lb-b": {Facts: &facts.Facts{}, Balancer: tc.other}}}
		if tc.unreachable {
			obs.Hosts["lb-b"] = facts.Host{Error: "no way"}
		}
		if got := takeoverProblems(c, "lb-a", obs); len(got) > 0 != tc.waits {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// immutable is an object that the API does not let change, and that takes a moment to go.
type immutable struct {
	dynamic.ResourceInterface
	there int // how often it can still be seen; at first as if for ever
	calls []string
}

func (i *immutable) Apply(_ context.Context, name string, o *unstructured.Unstructured, _ metav1.ApplyOptions, _ ...string) (*unstructured.Unstructured, error) {
	i.calls = append(i.calls, "apply")
	if i.there > 0 {
		return nil, apierrors.NewInvalid(o.GroupVersionKind().GroupKind(), name, nil)
	}
	return o, nil
}

func (i *immutable) Delete(_ context.Context, _ string, o metav1.DeleteOptions, _ ...string) error {
	i.calls = append(i.calls, "delete in "+string(*o.PropagationPolicy))
	i.there = 2
	return nil
}

func (i *immutable) Get(_ context.Context, name string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	i.calls = append(i.calls, "get")
	if i.there--; i.there > 0 {
		return &unstructured.Unstructured{}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{}, name)
}

func TestChangedJobsAreExchanged(t *testing.T) {
	object := func(version, kind string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{"name": "a"}}}
	}
	synctest.Test(t, func(t *testing.T) {
		job := &immutable{there: 1}
		if err := applyObject(t.Context(), job, object("batch/v1", "Job")); err != nil {
			t.Error(err)
		}
		if want := []string{"apply", "delete in Background", "get", "get", "apply"}; !slices.Equal(job.calls, want) {
			t.Errorf("got %q, want %q", job.calls, want)
		}
		other := &immutable{there: 1}
		if err := applyObject(t.Context(), other, object("v1", "ConfigMap")); !apierrors.IsInvalid(err) || len(other.calls) != 1 {
			t.Errorf("what is no Job is let be: %v, %q", err, other.calls)
		}
	})
}
