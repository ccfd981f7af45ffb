package observe

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/components"
	"quorate.dev/quorate/internal/spec"
)

// TestBusyHostsAreNotGone: a host that gives a sign of life is asked again, and one that gives none is not waited for.
func TestBusyHostsAreNotGone(t *testing.T) {
	p := patience{first: 50 * time.Millisecond, alive: 50 * time.Millisecond, busy: 10 * time.Second}
	hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
	signs := func(context.Context) (int, error) { return 1, nil }
	asked := 0
	busy := func(ctx context.Context) (int, error) {
		if asked++; asked == 1 {
			return hang(ctx)
		}
		return 42, nil
	}
	if got, err := patiently(t.Context(), p, busy, signs); err != nil || got != 42 || asked != 2 {
		t.Errorf("busy: %d, %v, asked %d times", got, err, asked)
	}
	asked = 0
	if _, err := patiently(t.Context(), p, busy, hang); !errors.Is(err, errNoAnswer) || asked != 1 {
		t.Errorf("gone: %v, asked %d times", err, asked)
	}
	p.busy = p.first
	if _, err := patiently(t.Context(), p, hang, signs); err == nil || !strings.Contains(err.Error(), "it is alive, but too busy") {
		t.Errorf("too busy: %v", err)
	}
	failure := errors.New("permission denied")
	asked = 0
	_, err := patiently(t.Context(), p, func(context.Context) (int, error) { asked++; return 0, failure }, signs)
	if !errors.Is(err, failure) || asked != 1 {
		t.Errorf("an answer that is an error: %v, asked %d times", err, asked)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := patiently(gone, p, hang, signs); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller went: %v", err)
	}
}

func fixture() *spec.Cluster {
	c := &spec.Cluster{}
	c.Spec.Network.CNI = spec.CNIFlannel
	c.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerManaged, Address: "10.0.0.100"}
	c.Spec.Hosts = []spec.Host{
		{Name: "cp-a", Address: "10.0.0.11", Roles: []string{spec.RoleControlPlane}},
		{Name: "w-a", Address: "10.0.0.21", Roles: []string{spec.RoleWorker}},
		{Name: "lb-a", Address: "10.0.0.31", Roles: []string{spec.RoleLoadBalancer}},
		{Name: "etcd-a", Address: "10.0.0.41", Roles: []string{spec.RoleEtcd}},
	}
	return c
}

func TestExpected(t *testing.T) {
	c := fixture()
	node := []string{facts.Containerd, facts.Flannel, facts.KubeProxy, facts.Kubelet}
	for i, want := range [][]string{
		append([]string{facts.Approver, facts.ControllerManager, facts.Scheduler}, node...), node,
		{facts.HAProxy, facts.Keepalived, facts.Watchdog}, nil,
	} {
		got := expected(c, c.Spec.Hosts[i]).Expect
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", c.Spec.Hosts[i].Name, got, want)
		}
	}
	c.Spec.Network.CNI = spec.CNINone
	if slices.Contains(expected(c, c.Spec.Hosts[1]).Expect, facts.Flannel) {
		t.Error("flannel is expected without being chosen")
	}
}

// answers are a report in which everything works, but for what a test says.
func answers(c *spec.Cluster, h spec.Host, spoil map[string]facts.Answer) components.Report {
	r := components.Report{Components: map[string]facts.Component{}, Overlay: &facts.Overlay{Backend: "vxlan"}}
	for _, name := range expected(c, h).Expect {
		r.Components[name] = facts.Component{Answer: facts.Answer{OK: true}, Version: "v1"}
		if a, ok := spoil[name]; ok {
			r.Components[name] = facts.Component{Answer: a}
		}
	}
	return r
}

func TestAddComponents(t *testing.T) {
	c := fixture()
	obs := &facts.Observation{API: &facts.API{}, Hosts: map[string]facts.Host{
		"cp-a": {Facts: &facts.Facts{Kubernetes: facts.Kubernetes{Begun: true}}}, "w-a": {Facts: &facts.Facts{}}, "lb-a": {Error: "no route"}, "etcd-a": {Facts: &facts.Facts{}},
	}}
	seen := programs{}
	for _, h := range c.Spec.Hosts[:2] {
		s := seen[h.Name]
		s.Report = answers(c, h, map[string]facts.Answer{facts.Scheduler: {Problem: "down"}})
		seen[h.Name] = s
	}
	w := seen["w-a"]
	w.err = errors.New("session lost")
	seen["w-a"] = w
	addComponents(t.Context(), c, &host.Set{}, obs, seen)

	cp := obs.Hosts["cp-a"]
	if len(cp.Components) != 7 || cp.Components[facts.Scheduler].Problem != "down" || !cp.Components[facts.Approver].OK || cp.Overlay == nil {
		t.Errorf("cp-a: %+v", cp.Components)
	}
	for name, c := range obs.Hosts["w-a"].Components {
		if c.OK || c.Problem != "" || c.Unknown != "session lost" {
			t.Errorf("w-a, which could not be asked: %s is %+v", name, c)
		}
	}
	if n := len(obs.Hosts["w-a"].Components); n != 4 {
		t.Errorf("w-a has %d components", n)
	}
	if obs.Hosts["lb-a"].Components != nil || len(obs.Hosts["etcd-a"].Components) != 0 {
		t.Errorf("%+v", obs.Hosts)
	}
	// A host that was not asked at all.
	addComponents(t.Context(), c, &host.Set{}, obs, programs{})
	if got := obs.Hosts["cp-a"].Components[facts.Kubelet]; got.Unknown == "" || got.Problem != "" {
		t.Errorf("%+v", got)
	}
}

// TestWhatOthersSetUp has no parts of Quorate's, and not always kube-proxy.
func TestWhatOthersSetUp(t *testing.T) {
	c := fixture()
	foreign := facts.Host{Facts: &facts.Facts{}, Balancer: &facts.Balancer{Others: &facts.OthersBalancing{}}}
	adopted := facts.Host{Facts: &facts.Facts{Kubernetes: facts.Kubernetes{Adopted: true}}, Balancer: &facts.Balancer{WrittenFor: "x"}}
	proxied := &facts.Observation{API: &facts.API{DaemonSets: []facts.DaemonSet{{Namespace: "kube-system", Name: "kube-proxy"}}}}
	without := &facts.Observation{API: &facts.API{}}
	for i, tc := range []struct {
		cni  string
		obs  *facts.Observation
		host facts.Host
		name string
		want bool
	}{
		{spec.CNIFlannel, proxied, foreign, facts.Approver, false},
		{spec.CNIFlannel, proxied, adopted, facts.Approver, true},
		{spec.CNIFlannel, proxied, foreign, facts.Watchdog, false},
		{spec.CNIFlannel, proxied, adopted, facts.Watchdog, true},
		{spec.CNIFlannel, without, adopted, facts.KubeProxy, true}, // flannel does not do without it
		{spec.CNINone, without, adopted, facts.KubeProxy, false},
		{spec.CNINone, proxied, adopted, facts.KubeProxy, true},
		{spec.CNINone, &facts.Observation{}, adopted, facts.KubeProxy, true}, // nobody knows: it is not taken for absent
		{spec.CNIFlannel, without, foreign, facts.Kubelet, true},
	} {
		c.Spec.Network.CNI = tc.cni
		if got := belongs(c, tc.obs, tc.host, tc.name); got != tc.want {
			t.Errorf("%d: %s: %v", i, tc.name, got)
		}
	}
}

func TestWrongRoutes(t *testing.T) {
	c := fixture()
	own := c.Spec.Hosts[1]
	nodes := func() []facts.Node {
		return []facts.Node{
			{Name: "w-a", Ready: true, PodCIDR: "10.244.1.0/24", OverlayAddress: "10.0.0.21"},
			{Name: "cp-a", Ready: true, PodCIDR: "10.244.0.0/24", OverlayAddress: "10.0.0.11"},
		}
	}
	right := facts.PodRoute{Subnet: "10.244.0.0/24", Node: "10.0.0.11"}
	for name, tc := range map[string]struct {
		backend string
		routes  []facts.PodRoute
		change  func([]facts.Node)
		want    string
	}{
		"right":          {"vxlan", []facts.PodRoute{right}, nil, ""},
		"missing":        {"vxlan", nil, nil, "the route to the pods of cp-a (10.244.0.0/24) is missing"},
		"missing, too":   {"host-gw", nil, nil, "is missing"},
		"elsewhere":      {"vxlan", []facts.PodRoute{{Subnet: "10.244.0.0/24", Node: "10.0.0.99"}}, nil, "leads to 10.0.0.99 instead of 10.0.0.11"},
		"nowhere":        {"vxlan", []facts.PodRoute{{Subnet: "10.244.0.0/24", Lacks: "the entry for 10.244.0.0"}}, nil, "leads nowhere: the entry for 10.244.0.0 is missing"},
		"not Ready":      {"vxlan", nil, func(n []facts.Node) { n[1].Ready = false }, ""},
		"no flannel yet": {"vxlan", nil, func(n []facts.Node) { n[1].OverlayAddress = "" }, ""},
		"no range yet":   {"vxlan", nil, func(n []facts.Node) { n[1].PodCIDR = "" }, ""},
		"no routes":      {"wireguard", nil, nil, ""},
	} {
		all := nodes()
		if tc.change != nil {
			tc.change(all)
		}
		seen := facts.Host{Facts: &facts.Facts{}, Overlay: &facts.Overlay{Backend: tc.backend, Routes: tc.routes}}
		got := wrongRoutes(own, seen, &facts.API{Nodes: all})
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if got := wrongRoutes(own, facts.Host{Facts: &facts.Facts{}, Overlay: &facts.Overlay{Backend: "vxlan"}}, nil); got != "" {
		t.Errorf("without the API: %q", got)
	}
}

// TestRoutesAreReadTwice: only what is wrong the second time, too, is a problem.
func TestRoutesAreReadTwice(t *testing.T) {
	h := fixture().Spec.Hosts[1]
	api := &facts.API{Nodes: []facts.Node{{Name: "cp-a", Ready: true, PodCIDR: "10.244.0.0/24", OverlayAddress: "10.0.0.11"}}}
	report := func(o *facts.Overlay, a facts.Answer) components.Report {
		return components.Report{Overlay: o, Components: map[string]facts.Component{facts.Flannel: {Answer: a, Version: "v0.28.10"}}}
	}
	whole := &facts.Overlay{Backend: "vxlan", Routes: []facts.PodRoute{{Subnet: "10.244.0.0/24", Node: "10.0.0.11"}}}
	for name, tc := range map[string]struct {
		again components.Report
		err   error
		want  facts.Answer
	}{
		"there now":     {report(whole, facts.Answer{OK: true}), nil, facts.Answer{OK: true}},
		"still missing": {report(&facts.Overlay{Backend: "vxlan"}, facts.Answer{OK: true}), nil, facts.Answer{Problem: "the route to the pods of cp-a (10.244.0.0/24) is missing"}},
		"down now":      {report(nil, facts.Answer{Problem: "flanneld does not run"}), nil, facts.Answer{Problem: "flanneld does not run"}},
		"session lost":  {components.Report{}, errors.New("session lost"), facts.Answer{Unknown: "session lost"}},
	} {
		obs := &facts.Observation{API: api, Hosts: map[string]facts.Host{h.Name: {Facts: &facts.Facts{}, Components: map[string]facts.Component{facts.Kubelet: {}}}}}
		judgeRoutes(h, obs, tc.again, tc.err)
		if got := obs.Hosts[h.Name].Components; got[facts.Flannel].Answer != tc.want || !slices.Contains(slices.Collect(maps.Keys(got)), facts.Kubelet) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestDaemonSetCounts(t *testing.T) {
	set := func(namespace, name, path, image string, desired, ready int32) appsv1.DaemonSet {
		d := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: 2}}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Image: image}}
		d.Spec.Template.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}}
		d.Status = appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: desired, CurrentNumberScheduled: desired, NumberReady: ready, UpdatedNumberScheduled: desired}
		return d
	}
	sets := []appsv1.DaemonSet{
		set("kube-system", "kube-proxy", "/lib/modules", "registry.k8s.io/kube-proxy:v1.37.2", 5, 5),
		set("kube-flannel", "kube-flannel", "/etc/cni/net.d/", "quorate.dev/flannel:v0.28.10", 5, 4),
		set("monitoring", "node-exporter", "/proc", "x:v1", 5, 5),
	}
	sets[1].Generation = 3
	want := []facts.DaemonSet{
		{Namespace: "kube-system", Name: "kube-proxy", Desired: 5, Current: 5, Ready: 5, Updated: 5, Version: "v1.37.2"},
		{Namespace: "kube-flannel", Name: "kube-flannel", Desired: 5, Current: 5, Ready: 4, Updated: 5, Stale: true, Version: "v0.28.10"},
	}
	if got := counts(sets); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	if got := networks(sets); len(got) != 1 || got[0].Name != "kube-flannel" {
		t.Errorf("%+v", got)
	}
}
