package preflight

import (
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
			slices.ContainsFunc(Paths(c, nil), func(p facts.Path) bool { return p.Port == spec.ExporterPort && p.From == "worker-a" && p.To == cp.Name })
	}
	if port, path := needs(); port || path {
		t.Errorf("without metrics: %t, %t", port, path)
	}
	c.Spec.Monitoring.Exporter = true
	if port, path := needs(); !port || !path {
		t.Errorf("with metrics: %t, %t", port, path)
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
	if found := JudgeWatch(state(), facts.WatchProbe{Reach: seen.Reach[:1]}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}
