package spof

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// lines are the findings of a report as the tables have them: severity, elements, capabilities, and what they contain.
func lines(r Report) (out []string) {
	for _, f := range r.Findings {
		text := fmt.Sprintf("%s: %s: %s", f.Severity, strings.Join(words(f.Elements), " + "), strings.Join(f.Capabilities, ", "))
		if len(f.Contains) > 0 {
			text += " (contains " + strings.Join(words(f.Contains), " + ") + ")"
		}
		if f.Possible {
			text += " (possible)"
		}
		out = append(out, text)
	}
	return out
}

func compareLines(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// noBackup is the finding of every spec without backups.
const noBackup = "warning: a single command of an administrator: cluster data"

// host adds a host to a spec or takes it away.
func without(names ...string) func(*spec.Cluster) {
	return func(c *spec.Cluster) {
		c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return slices.Contains(names, h.Name) })
	}
}

func change(name string, f func(*spec.Host)) func(*spec.Cluster) {
	return func(c *spec.Cluster) {
		for i := range c.Spec.Hosts {
			if c.Spec.Hosts[i].Name == name {
				f(&c.Spec.Hosts[i])
			}
		}
	}
}

var backups = spec.Backup{Recipients: []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"}, Directory: "/srv/backups", Every: "6h"}

func TestSpecs(t *testing.T) {
	for _, tc := range []struct {
		name    string
		changes []func(*spec.Cluster)
		want    []string
	}{
		{"default", nil, []string{noBackup}},
		{"with-backups", []func(*spec.Cluster){func(c *spec.Cluster) { c.Spec.Backup = backups }}, nil},
		{"one-load-balancer", []func(*spec.Cluster){without("lb-b")}, []string{
			"warning: the load balancer on lb-a: API reads, API writes, scheduling, new pods",
			noBackup,
			"warning: host lb-a: API reads, API writes, scheduling, new pods (contains the load balancer on lb-a)",
			"warning: zone a: API reads, API writes, scheduling, new pods (contains the load balancer on lb-a)"}},
		{"two-etcd-members", []func(*spec.Cluster){without("cp-c")}, []string{
			"warning: the etcd member on cp-a: API reads, API writes, scheduling, new pods",
			"warning: the etcd member on cp-b: API reads, API writes, scheduling, new pods",
			noBackup,
			"warning: host cp-a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
			"warning: host cp-b: API reads, API writes, scheduling, new pods (contains the etcd member on cp-b)",
			"warning: zone a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
			"warning: zone b: API reads, API writes, scheduling, new pods (contains the etcd member on cp-b)",
		}},
		{"all-control-planes-in-one-zone", []func(*spec.Cluster){
			change("cp-b", func(h *spec.Host) { h.Zone = "a" }), change("cp-c", func(h *spec.Host) { h.Zone = "a" }),
			func(c *spec.Cluster) { c.Spec.ControlPlane.Placement = spec.PlacementZonal }}, []string{
			"warning: zone a: API reads, API writes, scheduling, new pods",
			noBackup,
		}},
		{"zone-with-the-quorum", []func(*spec.Cluster){change("cp-b", func(h *spec.Host) { h.Zone = "a" })}, []string{
			"warning: zone a: API reads, API writes, scheduling, new pods",
			noBackup,
		}},
		{"rack-with-the-quorum", []func(*spec.Cluster){
			change("cp-a", func(h *spec.Host) { h.FailsWith = []string{"rack-1"} }), change("cp-c", func(h *spec.Host) { h.FailsWith = []string{"rack-1"} })}, []string{
			"warning: rack-1: API reads, API writes, scheduling, new pods",
			noBackup,
		}},
		{"single", []func(*spec.Cluster){without("cp-b", "cp-c", "lb-b"), func(c *spec.Cluster) { c.Spec.ControlPlane.Placement = spec.PlacementSingle }}, []string{
			"warning: the API server on cp-a: API reads, API writes, scheduling, new pods",
			"warning: the etcd member on cp-a: API reads, API writes, scheduling, new pods",
			"warning: the load balancer on lb-a: API reads, API writes, scheduling, new pods",
			"warning: the scheduler on cp-a: scheduling, new pods",
			"warning: the controller manager on cp-a: new pods",
			noBackup,
			"warning: the disk of cp-a: cluster data",
			"warning: host cp-a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
			"warning: host lb-a: API reads, API writes, scheduling, new pods (contains the load balancer on lb-a)",
			"warning: zone a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
		}},
		{"one-worker", []func(*spec.Cluster){without("worker-b")}, []string{
			"warning: host worker-a: scheduling, new pods, service traffic",
			noBackup,
			"warning: zone a: scheduling, new pods, service traffic (contains host worker-a)",
		}},
		{"load-balancers-on-control-planes", []func(*spec.Cluster){without("lb-a", "lb-b")}, []string{noBackup}},
		{"one-zone", []func(*spec.Cluster){func(c *spec.Cluster) {
			for i := range c.Spec.Hosts {
				c.Spec.Hosts[i].Zone = "a"
			}
			c.Spec.ControlPlane.Placement = spec.PlacementZonal
		}}, []string{noBackup}},
		{"external-load-balancer", []func(*spec.Cluster){without("lb-a", "lb-b"), func(c *spec.Cluster) {
			c.Spec.LoadBalancer = spec.LoadBalancer{Type: spec.BalancerExternal, Address: "10.0.0.100"}
		}}, []string{noBackup}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := spec.DefaultLab("test")
			for _, f := range tc.changes {
				f(c)
			}
			compareLines(t, lines(Audit(Input{Spec: c})), tc.want)
		})
	}
}

// live is the fixture with the pods of a default cluster.
func live() (clustertest.Fixture, *facts.Workloads) {
	f := clustertest.Whole()
	f.Backups()
	w := &facts.Workloads{Images: map[string][]string{"w-a": {"docker.io/library/web:1"}, "w-b": {"docker.io/library/web:1"}}, Pods: []facts.Pod{
		{Namespace: "kube-system", Name: "coredns-1", Kind: "Deployment", Owner: "coredns", Node: "cp-a", Ready: true, DNS: true},
		{Namespace: "kube-system", Name: "coredns-2", Kind: "Deployment", Owner: "coredns", Node: "w-b", Ready: true, DNS: true},
	}}
	return f, w
}

func pod(name, owner, node string) facts.Pod {
	kind := "Deployment"
	if owner == "" {
		kind = ""
	}
	return facts.Pod{Namespace: "default", Name: name, Kind: kind, Owner: owner, Node: node, Ready: true, Images: []facts.PodImage{{Name: "docker.io/library/web:1"}}, Evicted: new(int64(5))}
}

func TestClusters(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(clustertest.Fixture, *facts.Workloads)
		want   []string
	}{
		{"whole", func(clustertest.Fixture, *facts.Workloads) {}, nil},
		{"load-balancer-down", func(f clustertest.Fixture, _ *facts.Workloads) {
			f.Change("lb-b", func(h *facts.Host) { h.Balancer.Healthy = false })
		}, []string{
			"warning: the load balancer on lb-a: API reads, API writes, scheduling, new pods",
			"warning: host lb-a: API reads, API writes, scheduling, new pods (contains the load balancer on lb-a)",
			"warning: zone a: API reads, API writes, scheduling, new pods (contains the load balancer on lb-a)",
		}},
		{"two-etcd-members", func(f clustertest.Fixture, _ *facts.Workloads) { f.Seen.Etcd = f.Seen.Etcd[:2] }, []string{
			"warning: the etcd member on cp-a: API reads, API writes, scheduling, new pods",
			"warning: the etcd member on cp-b: API reads, API writes, scheduling, new pods",
			"warning: host cp-a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
			"warning: host cp-b: API reads, API writes, scheduling, new pods (contains the etcd member on cp-b)",
			"warning: zone a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
			"warning: zone b: API reads, API writes, scheduling, new pods (contains the etcd member on cp-b)",
		}},
		{"control-plane-outside-of-the-pool", func(f clustertest.Fixture, _ *facts.Workloads) {
			for _, lb := range []string{"lb-a", "lb-b"} {
				f.Seen.Hosts[lb].Balancer.Backends = f.Seen.Hosts[lb].Balancer.Backends[:2]
			}
		}, nil},
		{"two-control-planes-outside-of-the-pool", func(f clustertest.Fixture, _ *facts.Workloads) {
			for _, lb := range []string{"lb-a", "lb-b"} {
				f.Seen.Hosts[lb].Balancer.Backends = f.Seen.Hosts[lb].Balancer.Backends[:1]
			}
		}, []string{
			"warning: the API server on cp-a: API reads, API writes, scheduling, new pods",
			"warning: the etcd member on cp-a: API reads, API writes, scheduling, new pods",
			"warning: host cp-a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
			"warning: zone a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a)",
		}},
		{"coredns-on-one-node", func(_ clustertest.Fixture, w *facts.Workloads) { w.Pods[1].Node = "cp-a" }, []string{
			"warning: host cp-a: cluster DNS",
			"warning: zone a: cluster DNS (contains host cp-a)",
		}},
		{"coredns-in-one-zone", func(_ clustertest.Fixture, w *facts.Workloads) { w.Pods[1].Node = "w-a" }, []string{"warning: zone a: cluster DNS"}},
		{"host-unreachable", func(f clustertest.Fixture, _ *facts.Workloads) { f.Dies("cp-b") }, []string{
			"info: host cp-a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a) (possible)",
			"info: host cp-c: API reads, API writes, scheduling, new pods (contains the etcd member on cp-c) (possible)",
			"info: the etcd member on cp-a: API reads, API writes, scheduling, new pods (possible)",
			"info: the etcd member on cp-c: API reads, API writes, scheduling, new pods (possible)",
			"info: zone a: API reads, API writes, scheduling, new pods (contains the etcd member on cp-a) (possible)",
			"info: zone c: API reads, API writes, scheduling, new pods (contains the etcd member on cp-c) (possible)",
			"unknown: API server on cp-b: dial tcp: i/o timeout",
			"unknown: controller manager on cp-b: dial tcp: i/o timeout",
			"unknown: scheduler on cp-b: dial tcp: i/o timeout",
			"unknown: etcd member on cp-b: the session to its host ended",
		}},
		{"majority-lost", func(f clustertest.Fixture, _ *facts.Workloads) {
			for i := range 2 {
				f.Seen.Etcd[i].Healthy, f.Seen.Etcd[i].Problem = false, "connection refused"
			}
		}, []string{
			"lost: API reads: etcd has no majority: 2 of 3 members fail; etcd member on cp-a (connection refused); etcd member on cp-b (connection refused)",
			"lost: API writes: etcd has no majority: 2 of 3 members fail; etcd member on cp-a (connection refused); etcd member on cp-b (connection refused)",
			"lost: scheduling: etcd has no majority: 2 of 3 members fail; etcd member on cp-a (connection refused); etcd member on cp-b (connection refused)",
			"lost: new pods: etcd has no majority: 2 of 3 members fail; etcd member on cp-a (connection refused); etcd member on cp-b (connection refused)",
		}},
		{"certificates", func(f clustertest.Fixture, _ *facts.Workloads) {
			for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
				f.Kubernetes(cp).Certificates = []facts.Certificate{{Name: "pki/apiserver.crt", Expires: clustertest.Now.AddDate(1, 0, 0)}}
			}
		}, nil},
		{"certificates-expire-soon", func(f clustertest.Fixture, _ *facts.Workloads) {
			for _, cp := range []string{"cp-a", "cp-b", "cp-c"} {
				f.Kubernetes(cp).Certificates = []facts.Certificate{{Name: "pki/apiserver.crt", Expires: clustertest.Now.AddDate(0, 0, 20)}}
			}
		}, []string{"warning: the certificates that expire on 2026-08-23: API reads, API writes, scheduling, new pods"}},
		{"no-good-backup", func(f clustertest.Fixture, _ *facts.Workloads) { f.Seen.Backups.Report.Last = nil }, []string{noBackup}},
		{"shared-machine", func(f clustertest.Fixture, _ *facts.Workloads) {
			for _, h := range []string{"cp-a", "cp-b"} {
				f.Seen.Hosts[h].Facts.Container, f.Seen.Hosts[h].Facts.BootID = "lxc", "0e8a0b2c-1111-2222-3333-444455556666-"+h
			}
		}, []string{"warning: the machine below cp-a and cp-b: API reads, API writes, scheduling, new pods"}},

		// Workloads.
		{"spread", func(_ clustertest.Fixture, w *facts.Workloads) {
			w.Pods = append(w.Pods, pod("web-1", "web", "w-a"), pod("web-2", "web", "w-b"))
		}, nil},
		{"one-replica", func(_ clustertest.Fixture, w *facts.Workloads) { w.Pods = append(w.Pods, pod("web-1", "web", "w-a")) }, []string{
			"warning: pod default/web-1: workload default/web",
			"warning: host w-a: workload default/web (contains pod default/web-1)",
			"warning: zone a: workload default/web (contains pod default/web-1)",
		}},
		{"on-one-node", func(_ clustertest.Fixture, w *facts.Workloads) {
			w.Pods = append(w.Pods, pod("web-1", "web", "w-a"), pod("web-2", "web", "w-a"))
		}, []string{
			"warning: host w-a: workload default/web",
			"warning: zone a: workload default/web (contains host w-a)",
		}},
		{"nobody-creates-it-again", func(_ clustertest.Fixture, w *facts.Workloads) { w.Pods = append(w.Pods, pod("tool", "", "w-a")) }, []string{
			"warning: pod default/tool: workload Pod default/tool",
			"warning: host w-a: workload Pod default/tool (contains pod default/tool)",
			"warning: zone a: workload Pod default/tool (contains pod default/tool)",
			"warning: host w-a: replacement of Pod default/tool",
			"warning: zone a: replacement of Pod default/tool (contains host w-a)",
		}},
		{"volume", func(_ clustertest.Fixture, w *facts.Workloads) {
			p, q := pod("db-0", "db", "w-a"), pod("db-1", "db", "w-b")
			p.Kind, q.Kind, p.Volumes = "StatefulSet", "StatefulSet", []string{"pv-1"}
			w.Pods = append(w.Pods, p, q)
			w.Volumes = []facts.Volume{{Name: "pv-1", Zones: []string{"a"}}}
		}, []string{"warning: zone a: replacement of StatefulSet default/db"}},
		{"registry", func(_ clustertest.Fixture, w *facts.Workloads) {
			p, q := pod("web-1", "web", "w-a"), pod("web-2", "web", "w-b")
			p.Images = []facts.PodImage{{Name: "registry.example.com/web:1", Always: true}}
			w.Pods = append(w.Pods, p, q)
		}, []string{"warning: registry registry.example.com: replacement of default/web"}},
		{"mirrored-registry", func(f clustertest.Fixture, w *facts.Workloads) {
			f.Spec.Spec.Settings.Registries = []spec.Registry{{Name: "registry.example.com", Mirrors: []string{"https://mirror.example.com/x"}}}
			p, q := pod("web-1", "web", "w-a"), pod("web-2", "web", "w-b")
			p.Images = []facts.PodImage{{Name: "registry.example.com/web:1", Always: true}}
			w.Pods = append(w.Pods, p, q)
		}, nil},
		{"webhooks", func(_ clustertest.Fixture, w *facts.Workloads) {
			w.Webhooks = []facts.Webhook{
				{Name: "all.example.com", Configuration: "all", Resources: []string{"*"}, Service: "policy/all", Ready: 2, Nodes: []string{
					"w-a",
					"w-b",
				}},
				{Name: "pods.example.com", Configuration: "pods", Resources: []string{"pods"}, Service: "policy/pods", Ready: 1, Nodes: []string{"w-a"}},
				{Name: "some.example.com", Configuration: "some", Resources: []string{"pods"}, Selective: true, Service: "policy/some", Ready: 2, Nodes: []string{
					"w-b",
					"w-b",
				}},
				{Name: "gone.example.com", Configuration: "gone", Resources: []string{"things.example.com"}, Service: "policy/gone"},
				{Name: "away.example.com", Configuration: "away", Resources: []string{"deployments.apps"}, URL: "https://away.example.com/x"},
			}
		}, []string{
			"lost: changes of things.example.com (webhook gone.example.com): webhook gone.example.com does not answer; webhook gone.example.com (its Service policy/gone has no ready endpoint)",
			"warning: host w-a: new pods (contains webhook endpoint policy/pods 1)",
			"warning: host w-b: changes of some pods (webhook some.example.com)",
			"warning: webhook endpoint policy/pods 1: new pods",
			"warning: zone a: new pods (contains webhook endpoint policy/pods 1)",
			"warning: zone b: changes of some pods (webhook some.example.com) (contains host w-b)",
		}},
		{"budgets", func(_ clustertest.Fixture, w *facts.Workloads) {
			w.Pods = append(w.Pods, pod("web-1", "web", "w-a"), pod("web-2", "web", "w-b"))
			w.Budgets = []facts.Budget{
				{Namespace: "default", Name: "strict", Expected: 2, Desired: 2, Pods: []string{
					"web-1",
					"web-2",
				}},
				{Namespace: "default", Name: "loose", Expected: 2, Desired: 1, Allowed: 1, Pods: []string{"web-1"}},
			}
		}, []string{
			"warning: disruption budget default/loose + disruption budget default/strict: maintenance",
			"warning: disruption budget default/strict: maintenance",
		}},
		{"pods-unknown", func(_ clustertest.Fixture, w *facts.Workloads) {
			w.Pods, w.Unknown = nil, map[string]string{facts.PodsPart: "no answer within 30s"}
		}, []string{
			"unknown: maintenance: pods or disruption budgets could not be read",
			"unknown: pods: no answer within 30s",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, w := live()
			tc.change(f, w)
			r := Audit(Input{Spec: f.Spec, State: cluster.Evaluate(f.Spec, f.Seen), Workloads: w})
			got := lines(r)
			for _, c := range r.Capabilities {
				if c.State != Works {
					got = append(got, fmt.Sprintf("%s: %s: %s", c.State, c.Name, strings.Join(c.Because, "; ")))
				}
			}
			for what, why := range r.Unknown {
				got = append(got, "unknown: "+what+": "+why)
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(tc.want))
			compareLines(t, got, want)
		})
	}
}

// CoreDNS runs elsewhere soon after its node was lost, and its containers are started again: it is not away for as long as they are.
func TestHowLongDNSIsAway(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*facts.Workloads)
		want   string
	}{
		"both on one node": {func(w *facts.Workloads) { w.Pods[1].Node = "cp-a" }, "host cp-a: Pods cannot resolve names. It lasts about 11 s and the time that the pods need to start on other nodes"},
		"one replica":      {func(w *facts.Workloads) { w.Pods = w.Pods[:1] }, "CoreDNS replica coredns-1: Pods cannot resolve names. It lasts seconds"},
		"never evicted":    {func(w *facts.Workloads) { w.Pods[1].Node, w.Pods[0].Evicted = "cp-a", nil }, "host cp-a: Pods cannot resolve names. It lasts until host cp-a works again: the pods tolerate"},
	} {
		f, w := live()
		f.Spec.Spec.Failover.Profile = spec.ProfileFast
		for i := range w.Pods {
			w.Pods[i].Evicted = new(int64(5))
		}
		tc.change(w)
		found := []string{}
		for _, x := range Audit(Input{Spec: f.Spec, State: cluster.Evaluate(f.Spec, f.Seen), Workloads: w}).Findings {
			if slices.Contains(x.Capabilities, ClusterDNS) {
				found = append(found, x.Elements[0].String()+": "+x.Loss)
			}
		}
		if !slices.ContainsFunc(found, func(text string) bool { return strings.HasPrefix(text, tc.want) }) {
			t.Errorf("%s: %q, want %q", name, found, tc.want)
		}
	}
}
