package preflight

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestMetricsNeedAPort of control planes, which nodes must reach: Prometheus may run on any of them.
func TestMetricsNeedAPort(t *testing.T) {
	c := labSpec()
	cp := c.HostsWith(spec.RoleControlPlane)[0]
	needs := func() (port, path bool) {
		return slices.ContainsFunc(Ports(c, cp), func(p Port) bool { return p.Number == spec.ExporterPort }),
			slices.ContainsFunc(Paths(c, nil, nil), func(p facts.Path) bool { return p.Port == spec.ExporterPort && p.From == "worker-a" && p.To == cp.Name })
	}
	if port, path := needs(); port || path {
		t.Errorf("without metrics: %t, %t", port, path)
	}
	c.Spec.Monitoring.Exporter = true
	if port, path := needs(); !port || !path {
		t.Errorf("with metrics: %t, %t", port, path)
	}
}

// TestPrometheusNeedsPorts of all nodes, which other nodes must reach. Of the paths between them, a sample is tried.
func TestPrometheusNeedsPorts(t *testing.T) {
	c := labSpec()
	count := func(port int) (n int) {
		for _, p := range Paths(c, nil, nil) {
			if p.Port == port {
				n++
			}
		}
		return n
	}
	worker, _ := c.Host("worker-a")
	needs := func() bool {
		return slices.ContainsFunc(Ports(c, worker), func(p Port) bool { return p.Number == spec.NodeExporterPort })
	}
	kubelets := count(10250)
	if needs() || count(spec.NodeExporterPort) > 0 {
		t.Error("a cluster without it needs its port")
	}
	c.Spec.Monitoring.Prometheus.Install = true
	nodes := 0
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			nodes++
		}
	}
	if !needs() || count(spec.NodeExporterPort) != nodes*(nodes-1) || count(10250) <= kubelets || count(10250) > nodes*(nodes-1) {
		t.Errorf("%d nodes: %d and %d paths", nodes, count(spec.NodeExporterPort), count(10250))
	}
	for i := range 500 {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("w", i), Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Roles: []string{spec.RoleWorker}, Zone: "a"})
	}
	if n := count(spec.NodeExporterPort); n > 2*meshSome*len(c.Spec.Hosts) {
		t.Errorf("%d paths", n)
	}
}

func TestWatch(t *testing.T) {
	c := labSpec()
	obs, _ := healthy(c)
	state := func() *cluster.State { return cluster.Evaluate(c, obs) }
	if paths := WatchPaths(state(), true); len(paths) > 0 {
		t.Errorf("without units: %v", paths)
	}
	c.Spec.Repair.Watch = true
	cps := len(c.HostsWith(spec.RoleControlPlane))
	if paths := WatchPaths(state(), false); len(paths) != cps*len(c.Spec.Hosts) || paths[0].Port != 22 || paths[0].From != "cp-a" || paths[0].To != "cp-a" {
		t.Errorf("%v", paths)
	}
	for _, h := range c.Spec.Hosts {
		w := &facts.Watch{Admits: &facts.WatchAdmits{}}
		if h.Has(spec.RoleControlPlane) {
			w.Config = &facts.WatchNote{}
		}
		obs.Hosts[h.Name].Facts.Watch = w
	}
	if paths := WatchPaths(state(), false); len(paths) > 0 {
		t.Errorf("nothing is new: %v", paths)
	}
	obs.Hosts["worker-a"].Facts.Watch = nil
	if paths := WatchPaths(state(), false); len(paths) != cps || paths[0].To != "worker-a" {
		t.Errorf("a new host: %v", paths)
	}
	obs.Hosts["worker-a"] = facts.Host{Error: "no route to host"}
	if paths := WatchPaths(state(), false); len(paths) > 0 {
		t.Errorf("a host that cannot be asked: %v", paths)
	}
	obs, _ = healthy(c)

	for i := range c.Spec.Hosts {
		if c.Spec.Hosts[i].Name == "worker-a" {
			c.Spec.Hosts[i].SSH.Jump, c.Spec.Hosts[i].SSH.User = "ops@bastion", "ops"
		}
	}
	var seen facts.WatchProbe
	for _, p := range WatchPaths(state(), true) {
		r := facts.Reach{Path: p, Outcome: facts.Reached}
		if p.To == "worker-a" && p.From != "cp-c" {
			r.Outcome = facts.TimedOut
		}
		seen.Reach = append(seen.Reach, r)
	}
	seen.SudoAsks, seen.Errors = []string{"worker-a"}, map[string]string{"cp-b": "the session ended"}
	found := JudgeWatch(state(), seen)
	for _, want := range []string{"cp-a and cp-b cannot log in to worker-a", "through ops@bastion", "whether cp-b can log in to the others", "sudo on worker-a wants a password of ops"} {
		if !slices.ContainsFunc(found, func(f cluster.Finding) bool {
			return f.Severity == failure && f.Rule == WatchCheck && strings.Contains(f.Summary, want) && f.Fix != ""
		}) {
			t.Errorf("%q is not in %+v", want, found)
		}
	}
	if len(found) != 3 {
		t.Errorf("%+v", found)
	}
	for i, h := range c.Spec.Hosts {
		if h.Name == "worker-a" { // behind a gateway
			c.Spec.Hosts[i].SSH = spec.SSH{Address: "203.0.113.1", Port: 2201, User: "ops"}
		}
	}
	if found := JudgeWatch(state(), facts.WatchProbe{Reach: seen.Reach}); len(found) != 1 || !strings.Contains(found[0].Summary, "at 203.0.113.1, which control planes do not use") || !strings.Contains(found[0].Fix, "sshd listen at 10.0.0.") || !strings.Contains(found[0].Fix, "on port 2201") || !strings.Contains(found[0].Fix, "ssh.hostPort") {
		t.Errorf("%+v", found)
	}
	for i, h := range c.Spec.Hosts {
		if h.Name == "worker-a" { // whose gateway has a port for each host
			c.Spec.Hosts[i].SSH.HostPort = 2022
		}
	}
	for _, p := range WatchPaths(state(), true) {
		if want := map[bool]int{true: 2022, false: 22}[p.To == "worker-a"]; p.Port != want {
			t.Errorf("%s is tried on port %d, want %d", p.To, p.Port, want)
		}
	}
	if found := JudgeWatch(state(), facts.WatchProbe{Reach: seen.Reach}); len(found) != 1 || !strings.Contains(found[0].Summary, ":2022)") || !strings.Contains(found[0].Fix, "on port 2022") {
		t.Errorf("%+v", found)
	}
	if found := JudgeWatch(state(), facts.WatchProbe{Reach: seen.Reach[:1]}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}
