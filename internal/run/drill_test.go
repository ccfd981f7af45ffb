package run

import (
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/hostside/fault"
)

// A program that is stopped in order takes its time to end. It is away for as long as was asked for all the same, and its host does not heal the fault before.
func TestAStoppedProgramIsAwayForAsLongAsItShouldBe(t *testing.T) {
	const lasts, ends = 10 * time.Second, 40 * time.Second
	f := clustertest.Whole()
	d := &drilling{Engine: &Engine{Cluster: f.Spec}, options: DrillOptions{AbortAfter: time.Minute}}
	h, _ := f.Spec.Host("cp-a")
	began := time.Now()
	injected := began.Add(ends)
	for _, kind := range []drill.Kind{drill.Stop, drill.Hang, drill.Cut, drill.Kill} {
		i := drill.Injection{Fault: drill.Fault{Kind: kind, Target: drill.APIServer, Role: drill.Follower}, Host: h.Name, Lasts: lasts}
		over, switched := d.over(i, began, injected), d.request(i, h).Lasts
		want := lasts + switchAfter
		switch {
		case i.Once():
			want = 0
		case kind == drill.Stop:
			want += fault.EndPatience
		}
		if switched != want {
			t.Errorf("%s: the host heals it after %s, want %s", kind, switched, want)
		}
		if away := over.Sub(injected); !i.Once() && away != lasts || i.Once() && over.Sub(began) != time.Minute {
			t.Errorf("%s: it is over %s after it was injected", kind, away)
		}
		if kind == drill.Stop && began.Add(switched).Before(over) {
			t.Error("its host heals the fault while it should last")
		}
	}
}

// TestOneLateAnswerRefusesNoDrill: a host has to be out of reach at several looks, which are not repeated for ever.
func TestOneLateAnswerRefusesNoDrill(t *testing.T) {
	for name, c := range map[string]struct{ late, looks, away int }{"in time": {0, 1, 0}, "late once": {1, 2, 0}, "away": {100, drillLooks, 1}} {
		looks := 0
		s := reached(t.Context(), time.Millisecond, func() *cluster.State {
			f := clustertest.Whole()
			if looks++; looks <= c.late {
				f.Dies("w-a")
			}
			return cluster.Evaluate(f.Spec, f.Seen)
		})
		if looks != c.looks || len(s.Unreachable()) != c.away {
			t.Errorf("%s: %d looks, out of reach are %v", name, looks, s.Unreachable())
		}
	}
}
