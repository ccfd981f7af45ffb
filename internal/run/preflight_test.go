package run

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// silent is an engine whose sessions all failed. A check that asks a host finds that out, so it shows whom it asked.
func silent(t *testing.T, c *spec.Cluster) *Engine {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	local := *c
	local.Spec.Hosts = slices.Clone(c.Spec.Hosts)
	for i := range local.Spec.Hosts { // nothing leaves this machine, whatever is dialed
		local.Spec.Hosts[i].Address, local.Spec.Hosts[i].SSH.Port = "127.0.0.1", 1
	}
	e := Open(ctx, &local, progress.Discard)
	t.Cleanup(e.Close)
	return e
}

// checked are the hosts that Check asked, and that it refuses because they did not answer.
func checked(t *testing.T, f clustertest.Fixture, steps ...plan.Step) []string {
	t.Helper()
	w := &Work{State: cluster.Evaluate(f.Spec, f.Seen), Plan: &plan.Plan{Steps: steps}}
	err := silent(t, f.Spec).Check(t.Context(), w, nil)
	if err == nil {
		return nil
	}
	var refused *cluster.Refusal
	if !errors.As(err, &refused) || refused.Rule != preflight.RulePreflight {
		t.Fatal(err)
	}
	return refused.Subjects
}

func TestHostsThatJoinAreChecked(t *testing.T) {
	step := func(host string) plan.Step {
		return plan.Step{ID: host + "/configure", Kind: plan.Configure, Host: host}
	}
	f := clustertest.Whole()
	if got := checked(t, f, step("cp-a")); got != nil {
		t.Errorf("hosts of the cluster were checked again: %v", got)
	}
	f.Spec.Spec.Hosts = append(f.Spec.Spec.Hosts, spec.Host{Name: "cp-d", Address: "10.0.0.21", Roles: []string{spec.RoleControlPlane}, Zone: "d"},
		spec.Host{Name: "w-c", Address: "10.0.0.22", Roles: []string{spec.RoleWorker}, Zone: "d"})
	f.Seen.Hosts["cp-d"], f.Seen.Hosts["w-c"] = facts.Host{Facts: &facts.Facts{}}, facts.Host{Facts: &facts.Facts{}}
	if got := checked(t, f, step("cp-a"), step("cp-d")); !slices.Equal(got, []string{"cp-d"}) {
		t.Errorf("checked %v, and cp-d joins", got)
	}
	if got := checked(t, f); got != nil {
		t.Errorf("an empty plan checked %v", got)
	}
}

// TestUnitsThatRepairAreChecked before they are set up, and only where they are new.
func TestUnitsThatRepairAreChecked(t *testing.T) {
	admit := plan.Step{ID: "w-a/admit-watch", Kind: plan.AdmitWatch, Host: "w-a"}
	f := clustertest.Whole()
	f.Spec.Spec.Repair.Watch = true
	if got := checked(t, f, admit); len(got) != len(f.Spec.HostsWith(spec.RoleControlPlane)) {
		t.Errorf("checked %v", got)
	}
	if got := checked(t, f, plan.Step{ID: "cp-a/configure", Kind: plan.Configure, Host: "cp-a"}); got != nil {
		t.Errorf("nothing of the units is planned, and %v were checked", got)
	}
	f.Watch("1")
	if got := checked(t, f, admit); got != nil {
		t.Errorf("the units know the hosts, and %v were checked", got)
	}
}

// TestNothingIsGivenUpUnchecked: hosts on which nobody looked are not reset for a cluster that may not be possible there.
func TestNothingIsGivenUpUnchecked(t *testing.T) {
	f := clustertest.Whole()
	f.Spec.Spec.LoadBalancer.Address, f.Spec.Spec.ControlPlane.Endpoint = "127.0.0.1", "localhost:1"
	err := silent(t, f.Spec).checkReplacement(t.Context(), cluster.Evaluate(f.Spec, f.Seen), 1<<30, nil)
	var refused *cluster.Refusal
	if !errors.As(err, &refused) || refused.Rule != preflight.RulePreflight || len(refused.Subjects) != len(f.Spec.Spec.Hosts) || !strings.Contains(refused.Why, "nothing was changed") {
		t.Errorf("%v", err)
	}
}

func TestAFirstBuildChecksEveryHostAndTheVirtualIP(t *testing.T) {
	f := clustertest.Whole()
	f.Empty()
	f.Spec.Spec.LoadBalancer.Address, f.Spec.Spec.ControlPlane.Endpoint = "127.0.0.1", "localhost:1"
	w := &Work{State: cluster.Evaluate(f.Spec, f.Seen), Plan: &plan.Plan{Steps: []plan.Step{{ID: "x", Kind: plan.Configure, Host: "cp-a"}}}}
	err := silent(t, f.Spec).Check(t.Context(), w, nil)
	var refused *cluster.Refusal
	if !errors.As(err, &refused) || len(refused.Subjects) != len(f.Spec.Spec.Hosts) {
		t.Fatalf("%v", err)
	}
	if !strings.Contains(refused.Why, "("+preflight.VirtualIPCheck+")") {
		t.Errorf("the virtual IP was not probed: %s", refused.Why)
	}
}

// TestPrometheusIsCheckedWhenItComes into a cluster that exists, when its servers are to store more, and when nodes leave it; not with every other change.
func TestPrometheusIsCheckedWhenItComes(t *testing.T) {
	apply := plan.Step{ID: "prometheus", Kind: plan.ApplyManifest, Manifest: manifest.Prometheus}
	record := plan.Step{ID: "record", Kind: plan.RecordSpec}
	leaves := func(f clustertest.Fixture, name string) {
		f.Spec.Spec.Hosts = slices.DeleteFunc(slices.Clone(f.Spec.Spec.Hosts), func(h spec.Host) bool { return h.Name == name })
	}
	down := func(f clustertest.Fixture, name string) {
		for i := range f.Seen.API.Nodes {
			f.Seen.API.Nodes[i].Ready = f.Seen.API.Nodes[i].Ready && f.Seen.API.Nodes[i].Name != name
		}
	}
	runs := func(f clustertest.Fixture) {
		f.Spec.Spec.Monitoring.Prometheus.Install = true
		f.Seen.API.Prometheus = &facts.Prometheus{}
	}
	for name, tc := range map[string]struct {
		change func(clustertest.Fixture)
		steps  []plan.Step
		want   bool
	}{
		"an edit installs it": {func(f clustertest.Fixture) {
			f.Record()
			f.Spec.Spec.Monitoring.Prometheus.Install = true
		}, []plan.Step{apply}, true},
		"a run that installed it was interrupted": {func(f clustertest.Fixture) { f.Record(); runs(f) }, []plan.Step{apply}, true},
		"it is to store more": {func(f clustertest.Fixture) {
			runs(f)
			f.Record()
			f.Spec.Spec.Monitoring.Prometheus.Storage = "50Gi"
		}, []plan.Step{apply}, true},
		"it comes with another version": {func(f clustertest.Fixture) {
			f.Record()
			f.Spec.Spec.Monitoring.Prometheus.Install = true
		}, []plan.Step{apply, {ID: "stored", Kind: plan.CheckStored}}, true},
		"another version of it": {func(f clustertest.Fixture) { runs(f); f.Record() }, []plan.Step{apply}, false},
		"something else changes": {func(f clustertest.Fixture) {
			runs(f)
			f.Record()
		}, []plan.Step{{ID: "cp-a/configure", Kind: plan.Configure, Host: "cp-a"}}, false},
		"a node leaves":                   {func(f clustertest.Fixture) { runs(f); f.Record(); leaves(f, "w-b") }, []plan.Step{record}, true},
		"a node leaves later":             {func(f clustertest.Fixture) { runs(f); f.Record(); leaves(f, "w-b") }, []plan.Step{{ID: "renew", Kind: plan.RenewCertificates}}, false},
		"a load balancer leaves":          {func(f clustertest.Fixture) { runs(f); f.Record(); leaves(f, "lb-b") }, []plan.Step{record}, false},
		"a node leaves that is down":      {func(f clustertest.Fixture) { runs(f); f.Record(); leaves(f, "w-b"); down(f, "w-b") }, []plan.Step{record}, false},
		"a node leaves, and nothing runs": {func(f clustertest.Fixture) { f.Record(); leaves(f, "w-b") }, []plan.Step{record}, false},
		"a node gets a taint": {func(f clustertest.Fixture) {
			runs(f)
			f.Record()
			f.Spec.Spec.NodePools = []spec.NodePool{{Name: "gpu", Hosts: []string{"w-b"}, Taints: []spec.Taint{{Key: "gpu", Effect: "NoSchedule"}}}}
		}, []plan.Step{record}, true},
		"it is not wanted": {func(f clustertest.Fixture) { f.Record() }, nil, false},
	} {
		f := clustertest.Whole()
		tc.change(f)
		e, made := silent(t, f.Spec), false
		e.Progress = progress.Func(func(ev progress.Event) { made = made || ev.ID == "preflight/prometheus" })
		w := &Work{State: cluster.Evaluate(f.Spec, f.Seen), Plan: &plan.Plan{Steps: tc.steps}}
		if err := e.checkPrometheus(t.Context(), w, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if made != tc.want {
			t.Errorf("%s: checked: %t", name, made)
		}
	}
}
