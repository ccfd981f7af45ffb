package run

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// TestTheLeaseComesFirst: a plan that was made before the lease may describe a cluster that another run has changed since. The
// host does not answer, so the run must end at the lease; without a bundle, making a plan would panic.
func TestTheLeaseComesFirst(t *testing.T) {
	keyFile, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	server, err := sshtest.Start(t.Context(), sshtest.Options{Key: public})
	if err != nil {
		t.Fatal(err)
	}
	c := spec.DefaultLab("test")
	c.Spec.Hosts = c.Spec.Hosts[:1]
	conns := host.DialAll(t.Context(), []host.Target{server.Target(c.Spec.Hosts[0].Name, keyFile, filepath.Join(t.TempDir(), "known_hosts"))})
	t.Cleanup(conns.Close)
	if _, err := conns.Get(c.Spec.Hosts[0].Name); err != nil {
		t.Fatal(err)
	}
	server.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	e := &Engine{Cluster: c, Conns: conns, Progress: progress.Discard}
	if _, err := e.Apply(ctx, nil, Options{}); err == nil || !strings.Contains(err.Error(), "acquiring the lease") {
		t.Errorf("%v", err)
	}
}

// TestNothingToDoIsVerified: what no step changes may be broken all the same.
func TestNothingToDoIsVerified(t *testing.T) {
	w := &Work{Plan: &plan.Plan{Cluster: "test"}}
	if p := w.toRun(); len(p.Steps) != 1 || p.Steps[0].Kind != plan.Verify {
		t.Errorf("%+v", p.Steps)
	}
	w.Plan.Steps = []plan.Step{{ID: "x", Kind: plan.LabelNode}}
	if p := w.toRun(); p != w.Plan {
		t.Errorf("%+v", p.Steps)
	}
}

// TestWhatIsPostponedIsNotDone: a run that had to postpone a part of the spec goes on with it, and does not end as if the cluster matched.
func TestWhatIsPostponedIsNotDone(t *testing.T) {
	for name, tc := range map[string]struct {
		p    plan.Plan
		want bool
	}{
		"all is done":                {plan.Plan{}, false},
		"the API answers again":      {plan.Plan{Continues: true}, true},
		"postponed":                  {plan.Plan{Postpones: true}, true},
		"postponed until hosts come": {plan.Plan{Postpones: true, Unreachable: map[string]string{"cp-b": "timeout"}}, false},
	} {
		if goesOn(&tc.p) != tc.want {
			t.Errorf("%s: it goes on: %t", name, !tc.want)
		}
	}
	steps := func(ids ...string) *plan.Plan {
		p := &plan.Plan{}
		for _, id := range ids {
			p.Steps = append(p.Steps, plan.Step{ID: id})
		}
		return p
	}
	if !sameSteps(steps("a", "b"), steps("a", "b")) || sameSteps(steps("a", "b"), steps("a")) || sameSteps(steps(), steps()) {
		t.Error("plans with the same steps are not told from others")
	}
}

// TestWarningsAreShown: a run shows the warnings of its plan before its first step, also if there is nothing to do, and each of them once.
func TestWarningsAreShown(t *testing.T) {
	f := clustertest.Whole()
	var shown []string
	e := &Engine{Cluster: f.Spec, Progress: progress.Func(func(ev progress.Event) { shown = append(shown, ev.Title+": "+ev.Detail) })}
	w := &Work{State: cluster.Evaluate(f.Spec, f.Seen), Plan: &plan.Plan{Warnings: []string{"it costs this", "and that"}}}
	if run := w.toRun(); !slices.Equal(run.Warnings, w.Plan.Warnings) {
		t.Errorf("the verification of a cluster for which nothing is to do warns of %q", run.Warnings)
	}
	for range 2 {
		if err := e.execute(t.Context(), w.Plan, w); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"warning: it costs this", "warning: and that"}; !slices.Equal(shown, want) {
		t.Errorf("shown: %q, want %q", shown, want)
	}
}

// TestANewClusterIsCreatedOnWhatTheLeaseProtects: steps that create it do not observe again, and are refused where there is a
// cluster.
func TestANewClusterIsCreatedOnWhatTheLeaseProtects(t *testing.T) {
	create := plan.Step{ID: "x", Change: &cluster.Change{Verb: cluster.Create, Part: cluster.ControlPlane, Subject: "cp-a"}}
	f := clustertest.Whole()
	f.Empty()
	r := &runner{Engine: &Engine{Progress: progress.Discard}, work: &Work{State: cluster.Evaluate(f.Spec, f.Seen)}}
	if permit, err := r.permit(t.Context(), create); err != nil || permit.Covers("cp-a") != nil {
		t.Errorf("%v", err)
	}
	f = clustertest.Whole()
	r.work.State = cluster.Evaluate(f.Spec, f.Seen)
	var refused *cluster.Refusal
	if _, err := r.permit(t.Context(), create); !errors.As(err, &refused) || refused.Rule != cluster.RuleNewCluster {
		t.Errorf("%v", err)
	}
}
