package cluster_test

import (
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

// versions sets what runs on the hosts of a fixture. API servers and kubelets are given by host; etcd as member=version/data.
func versions(f clustertest.Fixture, apiServers, kubelets, etcd map[string]string) {
	for host, v := range apiServers {
		f.Change(host, func(h *facts.Host) { h.APIServerVersion = v })
	}
	for host, v := range kubelets {
		c := f.Seen.Hosts[host].Components[facts.Kubelet]
		c.Version = v
		f.Seen.Hosts[host].Components[facts.Kubelet] = c
		for i, n := range f.Seen.API.Nodes {
			if n.Name == host {
				f.Seen.API.Nodes[i].Version = v
			}
		}
	}
	for i := range f.Seen.Etcd {
		m := &f.Seen.Etcd[i]
		if v, ok := etcd[m.Name]; ok {
			m.Version, m.StorageVersion, _ = strings.Cut(v, "/")
		}
	}
}

func all(v string) map[string]string {
	return map[string]string{"cp-a": v, "cp-b": v, "cp-c": v, "w-a": v, "w-b": v}
}

func only(v string, hosts ...string) map[string]string {
	out := map[string]string{}
	for _, h := range hosts {
		out[h] = v
	}
	return out
}

func with(base map[string]string, v string, hosts ...string) map[string]string {
	for _, h := range hosts {
		base[h] = v
	}
	return base
}

var cps = []string{"cp-a", "cp-b", "cp-c"}

func TestSkew(t *testing.T) {
	controlPlane := func(host, kubernetes, etcd string) cluster.Change {
		return cluster.Change{Verb: cluster.Restart, Part: cluster.ControlPlane, Subject: host, Kubernetes: kubernetes, Etcd: etcd}
	}
	node := func(host, kubernetes string) cluster.Change {
		return cluster.Change{Verb: cluster.Restart, Part: cluster.Node, Subject: host, Kubernetes: kubernetes}
	}
	for name, tc := range map[string]struct {
		apiServers, kubelets, etcd map[string]string
		change                     cluster.Change
		refused                    string // part of the reason; empty if it is allowed
	}{
		"the first control plane":                {only("v1.36.3", cps...), all("v1.36.3"), only("3.6.16/3.6.0", cps...), controlPlane("cp-a", "v1.37.2", "v3.7.3"), ""},
		"the second":                             {with(only("v1.36.3", cps...), "v1.37.2", "cp-a"), with(all("v1.36.3"), "v1.37.2", "cp-a"), with(only("3.6.16/3.6.0", cps...), "3.7.3/3.6.0", "cp-a"), controlPlane("cp-b", "v1.37.2", "v3.7.3"), ""},
		"two minors":                             {only("v1.35.3", cps...), all("v1.35.3"), only("3.6.16/3.6.0", cps...), controlPlane("cp-a", "v1.37.2", ""), "at most one minor release apart"},
		"two minors down":                        {only("v1.37.2", cps...), all("v1.35.3"), nil, controlPlane("cp-a", "v1.35.2", ""), "at most one minor release apart"},
		"a patch":                                {only("v1.37.1", cps...), all("v1.37.1"), nil, controlPlane("cp-a", "v1.37.2", ""), ""},
		"another major":                          {only("v1.37.1", cps...), all("v1.37.1"), nil, controlPlane("cp-a", "v2.0.0", ""), "at most one minor release apart"},
		"no version":                             {only("v1.37.1", cps...), all("v1.37.1"), nil, controlPlane("cp-a", "latest", ""), "is not a version"},
		"a kubelet three older":                  {only("v1.36.3", cps...), with(all("v1.36.3"), "v1.34.9", "w-a"), nil, controlPlane("cp-a", "v1.37.2", ""), ""},
		"a kubelet four older":                   {only("v1.36.3", cps...), with(all("v1.36.3"), "v1.33.9", "w-a"), nil, controlPlane("cp-a", "v1.37.2", ""), "at most 3 minor releases older"},
		"a newer kubelet of a worker":            {only("v1.37.2", cps...), all("v1.37.2"), nil, controlPlane("cp-a", "v1.36.3", ""), "never be newer than its API server"},
		"newer kubelets of other control planes": {only("v1.37.2", cps...), with(all("v1.36.3"), "v1.37.2", "cp-b", "cp-c"), with(only("3.7.3/3.6.0", cps...), "3.6.16/3.6.0", "cp-b"), controlPlane("cp-a", "v1.36.3", "v3.6.16"), ""},
		"a newer kubelet beside it, which moves along": {only("v1.37.2", cps...), with(all("v1.36.3"), "v1.37.2", "cp-a"), nil, controlPlane("cp-a", "v1.36.3", ""), ""},
		"a control plane's kubelet":                    {with(only("v1.36.3", cps...), "v1.37.2", "cp-a"), all("v1.36.3"), nil, node("cp-a", "v1.37.2"), ""},
		"a control plane's kubelet before it":          {with(only("v1.36.3", cps...), "v1.37.2", "cp-b"), all("v1.36.3"), nil, node("cp-a", "v1.37.2"), "the API server on cp-a runs v1.36.3"},
		"a worker's kubelet":                           {only("v1.37.2", cps...), all("v1.36.3"), nil, node("w-a", "v1.37.2"), ""},
		"a worker's kubelet too early":                 {with(only("v1.37.2", cps...), "v1.36.3", "cp-c"), all("v1.36.3"), nil, node("w-a", "v1.37.2"), "the API server on cp-c runs v1.36.3"},
		"a kubelet back":                               {only("v1.37.2", cps...), all("v1.37.2"), nil, node("w-a", "v1.36.3"), ""},
		"a kubelet too far back":                       {only("v1.37.2", cps...), all("v1.37.2"), nil, node("w-a", "v1.33.3"), "at most 3 minor releases older"},
		"etcd too old":                                 {only("v1.36.3", cps...), all("v1.36.3"), with(only("3.6.16/3.6.0", cps...), "3.6.8/3.6.0", "cp-b"), controlPlane("cp-a", "v1.37.2", "v3.7.3"), "every member must run 3.6.11 or later"},
		"etcd two minors":                              {only("v1.36.3", cps...), all("v1.36.3"), only("3.5.24/3.5.0", cps...), controlPlane("cp-a", "v1.37.2", "v3.7.3"), "at most one minor release apart"},
		"etcd unknown":                                 {only("v1.36.3", cps...), all("v1.36.3"), with(only("3.6.16/3.6.0", cps...), "/", "cp-b"), controlPlane("cp-a", "v1.37.2", "v3.7.3"), "the version of the etcd member on cp-b is not known"},
		"etcd down where it is started":                {only("v1.36.3", cps...), all("v1.36.3"), with(only("3.6.16/3.6.0", cps...), "/", "cp-a"), controlPlane("cp-a", "v1.37.2", "v3.7.3"), ""},
		"etcd back, cluster never upgraded":            {with(only("v1.36.3", cps...), "v1.37.2", "cp-a"), all("v1.36.3"), with(only("3.6.16/3.6.0", cps...), "3.7.3/3.6.0", "cp-a"), controlPlane("cp-a", "v1.36.3", "v3.6.16"), ""},
		"etcd back with newer data":                    {only("v1.37.2", cps...), all("v1.36.3"), only("3.7.3/3.7.0", cps...), controlPlane("cp-a", "v1.36.3", "v3.6.16"), "which etcd v3.6.16 cannot read"},
		"etcd back with data that nobody tells":        {only("v1.37.2", cps...), all("v1.36.3"), only("3.7.3/", cps...), controlPlane("cp-a", "v1.36.3", "v3.6.16"), "which etcd v3.6.16 cannot read"},
		"etcd back, all upgraded a moment ago":         {only("v1.37.2", cps...), all("v1.36.3"), only("3.7.3/3.6.0", cps...), controlPlane("cp-a", "v1.36.3", "v3.6.16"), "which etcd v3.6.16 cannot read"},
		"external etcd":                                {nil, nil, only("3.6.16/3.6.0", cps...), cluster.Change{Verb: cluster.Restart, Part: cluster.EtcdMember, Subject: "cp-b", Etcd: "v3.7.3"}, ""},
		"a downgrade of etcd":                          {nil, nil, only("3.7.3/3.7.0", cps...), cluster.Change{Verb: cluster.Downgrade, Part: cluster.EtcdMember, Etcd: "v3.6.16"}, ""},
		"a downgrade of etcd by two":                   {nil, nil, only("3.7.3/3.7.0", cps...), cluster.Change{Verb: cluster.Downgrade, Part: cluster.EtcdMember, Etcd: "v3.5.24"}, "at most one minor release apart"},
		"an API server that does not run any more":     {map[string]string{"cp-a": "", "cp-b": "v1.36.3", "cp-c": "v1.36.3"}, all("v1.36.3"), nil, controlPlane("cp-a", "v1.37.2", ""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			versions(f, tc.apiServers, tc.kubelets, tc.etcd)
			_, r := cluster.Evaluate(f.Spec, f.Seen).Allow(tc.change)
			switch {
			case tc.refused == "" && r != nil:
				t.Errorf("refused: %v", r)
			case tc.refused != "" && (r == nil || r.Rule != cluster.RuleSkew || !strings.Contains(r.Why, tc.refused)):
				t.Errorf("not refused because %q: %v", tc.refused, r)
			}
		})
	}
}

// TestFoldedVersions: a plan is judged on the versions that its earlier steps bring.
func TestFoldedVersions(t *testing.T) {
	f := clustertest.Whole()
	versions(f, only("v1.37.2", cps...), all("v1.37.2"), only("3.7.3/3.7.0", cps...))
	s := cluster.Evaluate(f.Spec, f.Seen)
	back := cluster.Change{Verb: cluster.Restart, Part: cluster.ControlPlane, Subject: "cp-a", Kubernetes: "v1.36.3", Etcd: "v3.6.16"}
	if _, r := s.Allow(back); r == nil {
		t.Fatal("an API server goes back before the kubelets")
	}
	for _, node := range []string{"cp-a", "cp-b", "cp-c", "w-a", "w-b"} {
		s = s.After(cluster.Change{Verb: cluster.Restart, Part: cluster.Node, Subject: node, Kubernetes: "v1.36.3"})
	}
	if _, r := s.Allow(back); r == nil || !strings.Contains(r.Why, "cannot read") {
		t.Fatalf("etcd goes back with newer data: %v", r)
	}
	s = s.After(cluster.Change{Verb: cluster.Downgrade, Part: cluster.EtcdMember, Etcd: "v3.6.16"})
	if _, r := s.Allow(back); r != nil {
		t.Fatal(r)
	}
	s = s.After(back)
	if got := s.Runs("cp-a", "kube-apiserver"); got != "v1.36.3" {
		t.Errorf("the API server runs %s", got)
	}
	if _, r := s.Allow(cluster.Change{Verb: cluster.Restart, Part: cluster.Node, Subject: "w-a", Kubernetes: "v1.37.2"}); r == nil {
		t.Error("a worker's kubelet may be newer than one of the API servers")
	}
}

func TestPath(t *testing.T) {
	buildable := []string{"v1.36.3", "v1.37.2"}
	for name, tc := range map[string]struct {
		runs   map[string]string
		target string
		want   string // part of the reason or the fix; empty if it is possible
	}{
		"up one":           {only("v1.36.3", cps...), "v1.37.2", ""},
		"down one":         {only("v1.37.2", cps...), "v1.36.3", ""},
		"half done":        {with(only("v1.36.3", cps...), "v1.37.2", "cp-b"), "v1.37.2", ""},
		"half done, back":  {with(only("v1.36.3", cps...), "v1.37.2", "cp-b"), "v1.36.3", ""},
		"up two":           {only("v1.35.4", cps...), "v1.37.2", "`kubernetes: {version: v1.36.3}` first"},
		"down two":         {only("v1.38.0", cps...), "v1.36.3", "`kubernetes: {version: v1.37.2}` first"},
		"up from mixed":    {with(only("v1.35.4", cps...), "v1.36.3", "cp-b"), "v1.37.2", "the API server on cp-a runs v1.35.4"},
		"up three":         {only("v1.34.4", cps...), "v1.37.2", "The path is v1.35, v1.36.3 and v1.37.2. This version of Quorate cannot build v1.35,"},
		"down three":       {only("v1.39.0", cps...), "v1.36.3", "The path is v1.38, v1.37.2 and v1.36.3. This version of Quorate cannot build v1.38,"},
		"no bundle of it":  {only("v1.34.4", cps...), "v1.36.3", "cannot build v1.35, and accepts no other versions"},
		"no bundle of two": {only("v1.33.4", cps...), "v1.36.3", "cannot build v1.34 and v1.35, and"},
		"another major":    {only("v1.36.3", cps...), "v2.0.0", "of the same major release"},
		"nothing to judge": {map[string]string{"cp-a": "", "cp-b": "", "cp-c": ""}, "v1.36.3", ""},
		"no version":       {only("v1.36.3", cps...), "latest", "is not a version"},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			versions(f, tc.runs, nil, nil)
			r := cluster.Evaluate(f.Spec, f.Seen).Path(tc.target, buildable)
			if tc.want == "" && r != nil || tc.want != "" && (r == nil || !strings.Contains(r.Why+r.Fix, tc.want)) {
				t.Errorf("%v", r)
			}
			// A version that cannot be built is no valid spec, whatever bundles are on the machine.
			if r != nil && strings.Contains(r.Fix, "import") {
				t.Errorf("the advice cannot be followed: %s", r.Fix)
			}
		})
	}
}

// TestLongPath names every version on the way.
func TestLongPath(t *testing.T) {
	f := clustertest.Whole()
	versions(f, only("v1.35.4", cps...), nil, nil)
	r := cluster.Evaluate(f.Spec, f.Seen).Path("v1.38.1", []string{"v1.36.3", "v1.37.0", "v1.37.2", "v1.38.1"})
	if want := "Write `kubernetes: {version: v1.36.3}` first and run `quorate apply`; then do the same with v1.37.2, then with v1.38.1."; r == nil || r.Fix != want {
		t.Errorf("%v, want %s", r, want)
	}
}

// TestRuns: what does not answer runs what its static pod says.
func TestRuns(t *testing.T) {
	f := clustertest.Whole()
	f.Change("cp-a", func(h *facts.Host) { h.APIServerVersion = "" })
	f.Kubernetes("cp-a").PodImages = map[string]string{"kube-apiserver": "registry.example.com:5000/kube-apiserver:v1.36.3@sha256:abc", "kube-scheduler": "kube-scheduler"}
	s := cluster.Evaluate(f.Spec, f.Seen)
	for _, c := range []struct{ host, program, want string }{
		{"cp-a", "kube-apiserver", "v1.36.3"}, {"cp-b", "kube-apiserver", "v1.37.2"}, {"cp-a", "kube-scheduler", ""},
		{"cp-a", "kubelet", "v1.37.2"}, {"cp-a", "etcd", "v3.7.3"}, {"w-a", "etcd", ""}, {"lb-a", "kubelet", ""},
	} {
		if got := s.Runs(c.host, c.program); got != c.want {
			t.Errorf("%s on %s: %q instead of %q", c.program, c.host, got, c.want)
		}
	}
}

// TestUnreadable: what appeared in a minor release is not known to the one before it, and what is gone not to the release itself.
func TestUnreadable(t *testing.T) {
	has := func(version, apiVersion string) bool {
		for _, x := range cluster.Unreadable(version) {
			if x.APIVersion == apiVersion {
				return true
			}
		}
		return false
	}
	for _, c := range []struct {
		version, apiVersion string
		want                bool
	}{
		{"v1.36.3", "scheduling.k8s.io/v1beta1", true}, {"v1.37.2", "scheduling.k8s.io/v1beta1", false},
		{"v1.37.2", "scheduling.k8s.io/v1alpha2", true}, {"v1.36.3", "scheduling.k8s.io/v1alpha2", false},
		{"v1.36.3", "certificates.k8s.io/v1", true}, {"v1.38.0", "scheduling.k8s.io/v1beta1", false}, {"latest", "certificates.k8s.io/v1", false},
	} {
		if got := has(c.version, c.apiVersion); got != c.want {
			t.Errorf("%s knows no %s: %t", c.version, c.apiVersion, got)
		}
	}
}
