package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/golden"
	"quorate.dev/quorate/internal/spec"
)

func of(f clustertest.Fixture) Status { return Of(cluster.Evaluate(f.Spec, f.Seen)) }

// What is wrong is tested in package cluster; these are the shapes of a page.
var pages = map[string]struct {
	change  func(clustertest.Fixture)
	verdict string
}{
	"healthy":                {func(clustertest.Fixture) {}, "healthy"},
	"dead-zone":              {func(f clustertest.Fixture) { f.Dies("cp-b", "w-b", "lb-b") }, "degraded"},
	"no-api":                 {func(f clustertest.Fixture) { f.Silent() }, "critical"},
	"unknown":                {func(f clustertest.Fixture) { f.AllUnknown() }, "critical"},
	"fresh":                  {func(f clustertest.Fixture) { f.Empty() }, "not built"},
	"fresh-with-a-dead-host": {func(f clustertest.Fixture) { f.Empty(); f.Dies("w-b") }, "unknown"},
	"interrupted": {func(f clustertest.Fixture) {
		f.Empty()
		f.Kubernetes("cp-a").Begun = true
	}, "not complete"},
	"nothing-reachable": {func(f clustertest.Fixture) {
		f.Dies("cp-a", "cp-b", "cp-c", "w-a", "w-b", "lb-a", "lb-b")
		f.Seen.API, f.Seen.Etcd, f.Seen.Endpoint = nil, nil, facts.Endpoint{Unknown: "no host could query it"}
	}, "critical"},
	"no-member-known": {func(f clustertest.Fixture) { f.Seen.Etcd, f.Seen.EtcdError = nil, "tls: bad certificate" }, "critical"},
	"etcd": {func(f clustertest.Fixture) {
		f.Seen.Etcd[0] = facts.EtcdMember{Name: "10.0.0.11", PeerURL: "https://10.0.0.11:2380"}
		f.Seen.Etcd[1] = facts.EtcdMember{Name: "cp-b", Started: true, Unknown: "no answer within 2s"}
		f.Seen.Etcd[2].Healthy, f.Seen.Etcd[2].Problem = false, "it has no leader"
		f.Seen.Etcd = append(f.Seen.Etcd, facts.EtcdMember{Name: "cp-d", Started: true, Healthy: true, Learner: true})
	}, "critical"},
	"load-balancers": {func(f clustertest.Fixture) {
		f.Change("lb-a", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "no answer within 5s" })
		b := f.Seen.Hosts["lb-b"].Balancer
		b.Active, b.Backends[0].Healthy, b.Backends[1].Drained, b.Backends[2].Sessions = true, false, true, 4
	}, "degraded"},
	"drained": {func(f clustertest.Fixture) {
		for _, name := range []string{"lb-a", "lb-b"} {
			b := f.Seen.Hosts[name].Balancer.Backends
			b[0].Sessions, b[1].Drained, b[2].Sessions = 3, true, 4
		}
	}, "healthy"},
	"stranger": {func(f clustertest.Fixture) {
		f.Seen.API.Nodes[3].Ready, f.Seen.API.Nodes = false, append(f.Seen.API.Nodes[:4:4], facts.Node{Name: "cp-d", Ready: true, Version: "v1.37.2",
			Labels: map[string]string{"node-role.kubernetes.io/control-plane": "", "topology.kubernetes.io/zone": "d"}})
	}, "degraded"},
	"two-clusters": {func(f clustertest.Fixture) { f.Kubernetes("w-a").CA = "OTHER" }, "degraded"},
	"versions": {func(f clustertest.Fixture) {
		f.Seen.Hosts["w-a"].Components[facts.Containerd] = facts.Component{Answer: clustertest.OK(), Version: "v2.4.1"}
	}, "healthy"},
	"external-load-balancer": {func(f clustertest.Fixture) {
		f.Spec.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal}
		f.Spec.Spec.Hosts = f.Spec.Spec.Hosts[:5]
	}, "healthy"},
	"backups": {func(f clustertest.Fixture) { f.Backups() }, "healthy"},
	"old-backup": {func(f clustertest.Fixture) {
		r := f.Backups()
		r.Last.Time = r.Now.Add(-5 * 24 * time.Hour)
		r.Failed = map[string]facts.FailedBackup{"cp-a": {Time: r.Now.Add(-5 * time.Minute), Error: "connection refused"}}
	}, "critical"},
	"no-backup-yet":  {func(f clustertest.Fixture) { r := f.Backups(); r.Last, r.Since = nil, r.Now }, "healthy"},
	"manual-backups": {func(f clustertest.Fixture) { f.Backups(); f.Spec.Spec.Backup.Every = spec.BackupNever }, "healthy"},
	"backups-unknown": {func(f clustertest.Fixture) {
		f.Backups()
		f.Seen.Backups.Report, f.Seen.Backups.Unknown = nil, "cp-a: no answer within 5s"
	}, "degraded"},
	"existing-etcd-gone": {func(f clustertest.Fixture) {
		f.Existing()
		f.Silent()
		f.Seen.Etcd, f.Seen.EtcdError = nil, "connection refused"
	}, "critical"},
}

func TestText(t *testing.T) {
	for name, c := range pages {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			c.change(f)
			s := of(f)
			var out bytes.Buffer
			if err := Text(&out, s, 100, false); err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, name+".golden", out.String())
			if head, _, _ := strings.Cut(out.String(), "\n"); !strings.HasSuffix(head, "  "+c.verdict) {
				t.Errorf("the verdict of %q is not %s", head, c.verdict)
			}
		})
	}
}

// A status shows nothing of its own: every problem is a finding of the state, and all of them are shown.
func TestProblemsAreTheFindings(t *testing.T) {
	for name, c := range pages {
		f := clustertest.Whole()
		c.change(f)
		got, want := of(f).Problems, cluster.Evaluate(f.Spec, f.Seen).Findings()
		if !slices.EqualFunc(got, want, func(a, b cluster.Finding) bool {
			return a.Rule == b.Rule && a.Summary == b.Summary && a.Fix == b.Fix && a.Severity == b.Severity
		}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestJSON(t *testing.T) {
	f := clustertest.Whole()
	f.Backups().Failed = map[string]facts.FailedBackup{"cp-a": {Time: clustertest.Now.Add(-2 * time.Hour), Error: "connection refused"}}
	f.Dies("lb-b")
	f.Component("w-a", facts.KubeProxy, clustertest.Unknown("no answer within 2s"))
	b, err := json.MarshalIndent(of(f), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "json.golden", string(b)+"\n")
}

// TestArraysAreNeverNull also holds where nothing at all is known.
func TestArraysAreNeverNull(t *testing.T) {
	f := clustertest.Whole()
	f.Seen = &facts.Observation{Time: clustertest.Now}
	for _, h := range []func(){func() {}, func() { f.Spec.Spec.Hosts = nil }} {
		h()
		s := of(f)
		s.Margins.LoadBalancers = new(0) // which is a number or null
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "null") {
			t.Errorf("%s", b)
		}
	}
}

// What was unknown is never shown as unhealthy, absent or not ready.
func TestUnknownIsShownAsUnknown(t *testing.T) {
	f := clustertest.Whole()
	f.AllUnknown()
	var out bytes.Buffer
	if err := Text(&out, of(f), 0, false); err != nil {
		t.Fatal(err)
	}
	tables, _, _ := strings.Cut(out.String(), "✘")
	for _, claim := range []string{"unhealthy", "absent", " no "} {
		if strings.Contains(tables, claim) {
			t.Errorf("%q in\n%s", claim, tables)
		}
	}
	if n := strings.Count(tables, "unknown"); n < 10 { // five nodes, three members, two load balancers
		t.Errorf("%d of ten are shown as unknown:\n%s", n, tables)
	}
}

func TestTextFits(t *testing.T) {
	f := clustertest.Whole()
	f.Dies("cp-b", "w-b", "lb-b")
	s := of(f)
	var out bytes.Buffer
	if err := Text(&out, s, 40, false); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "narrow.golden", out.String())
	out.Reset()
	if err := Text(&out, s, 0, true); err != nil {
		t.Fatal(err)
	}
	golden.Compare(t, "color.golden", out.String())
}

func TestSummary(t *testing.T) {
	f := clustertest.Whole()
	parts := []Part{{"requirements", 300 * time.Millisecond}, {"bundle", 400 * time.Millisecond}, {"lab", 9800 * time.Millisecond}, {"cluster", 24100 * time.Millisecond}}
	for _, c := range []struct {
		name string
		use  Use
	}{
		{"summary-lab", Use{Kubeconfig: "/var/lib/quorate/lab/kubeconfig", Spec: "/var/lib/quorate/lab/cluster.yaml", Lab: true, Parts: parts}},
		{"summary-hosts", Use{Kubeconfig: "/home/me/my kube/config", Spec: "prod.yaml", Parts: parts[1:2]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := Summary(&out, of(f), c.use, 80, false); err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, c.name+".golden", out.String())
		})
	}
}

// The goldens of pages that no test writes any more would stay forever.
func TestEveryGoldenIsUsed(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	others := []string{"json", "narrow", "color", "summary-lab", "summary-hosts"}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".golden")
		if _, used := pages[name]; !used && !slices.Contains(others, name) {
			t.Error(fmt.Sprint(file, " is not used"))
		}
	}
}

// TestComparisons of the members' data are shown with who made them, and who differs.
func TestComparisons(t *testing.T) {
	same := map[string]string{"cp-a": "01", "cp-b": "01", "cp-c": "01"}
	differ := map[string]string{"cp-a": "01", "cp-b": "01", "cp-c": "02"}
	for want, c := range map[string]*cluster.Comparison{
		"the same on cp-a, cp-b and cp-c, at revision 9":                              {Revision: 9, Hashes: same, Agreed: true},
		"the same on cp-a, cp-b and cp-c, at revision 9, compared by cp-b 4m00s ago":  {By: "cp-b", AgeSeconds: 240, Revision: 9, Hashes: same, Agreed: true},
		"cp-c differs from a majority, at revision 9":                                 {Revision: 9, Hashes: differ, Agreed: true, Differ: []string{"cp-c"}},
		"it differs, and no majority agrees, at revision 9; not compared: cp-d, cp-e": {Revision: 9, Hashes: differ, Missing: []string{"cp-d", "cp-e"}},
		"only cp-a could be asked, at revision 9; not compared: cp-b":                 {Revision: 9, Hashes: map[string]string{"cp-a": "01"}, Missing: []string{"cp-b"}},
	} {
		if got := Compared(c).Text; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f := clustertest.Whole()
	for i := range f.Seen.Etcd {
		f.Seen.Etcd[i].Hash = &facts.EtcdHash{Revision: 9, Hash: 1}
	}
	s := of(f)
	var out bytes.Buffer
	if err := Text(&out, s, 0, false); err != nil || s.Etcd.Compared == nil || !strings.Contains(out.String(), "etcd data      the same on cp-a, cp-b and cp-c, at revision 9\n") {
		t.Errorf("%v, %+v:\n%s", err, s.Etcd.Compared, out.String())
	}
}
