package run

import (
	"context"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
)

// TestOneLookIsNotEnough: a member that crashes again and again looks healthy now and then. What relies on it waits until it
// was seen to work twice in a row.
func TestOneLookIsNotEnough(t *testing.T) {
	restart := cluster.Change{Verb: cluster.Restart, Part: cluster.ControlPlane, Subject: "cp-a"}
	for name, tc := range map[string]struct {
		change cluster.Change
		works  []bool // cp-b's etcd member, at each look; as at the last one afterwards
		looks  int
	}{
		"it works":             {restart, []bool{true}, 2},
		"it crashes":           {restart, []bool{true, false, true, true}, 4},
		"it did not start yet": {restart, []bool{false, true, true}, 3},
		"a load balancer":      {cluster.Change{Verb: cluster.Restart, Part: cluster.LoadBalancer, Subject: "lb-b"}, []bool{true}, 2},
		"nothing relies on it": {cluster.Change{Verb: cluster.Restart, Part: cluster.Node, Subject: "w-a"}, []bool{true}, 1},
		"what is started":      {cluster.Change{Verb: cluster.Start, Part: cluster.APIPrograms, Subject: "cp-a"}, []bool{true}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			looks := 0
			r := &runner{Engine: &Engine{Progress: progress.Discard}, look: func(context.Context) *cluster.State {
				f := clustertest.Whole()
				if !tc.works[min(looks, len(tc.works)-1)] {
					m := &f.Seen.Etcd[1]
					*m = facts.EtcdMember{Name: m.Name, ID: m.ID, PeerURL: m.PeerURL, Started: true, Problem: "connection refused"}
				}
				looks++
				return cluster.Evaluate(f.Spec, f.Seen)
			}}
			permit, err := r.permit(t.Context(), plan.Step{ID: "x", Change: &tc.change})
			if err != nil || permit.Covers(tc.change.Subject) != nil || looks != tc.looks {
				t.Errorf("after %d looks, want %d: %v", looks, tc.looks, err)
			}
		})
	}
}

// TestARefusalEndsTheWait where waiting does not help.
func TestARefusalEndsTheWait(t *testing.T) {
	f := clustertest.Whole()
	looks := 0
	r := &runner{Engine: &Engine{Progress: progress.Discard}, look: func(context.Context) *cluster.State {
		looks++
		return cluster.Evaluate(f.Spec, f.Seen)
	}}
	_, err := r.permit(t.Context(), plan.Step{ID: "x", Change: &cluster.Change{Verb: cluster.Remove, Part: cluster.EtcdMember, Subject: "w-a"}})
	if err == nil || looks != 1 {
		t.Errorf("after %d looks: %v", looks, err)
	}
}
