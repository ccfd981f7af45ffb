package run

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
)

// TestAMemberThatWentBack is remembered, although it catches up within a moment. A restart is no step back.
func TestAMemberThatWentBack(t *testing.T) {
	var m memory
	at := func(terms ...uint64) []facts.EtcdMember {
		out := []facts.EtcdMember{{ID: "a", RaftTerm: terms[0]}, {ID: "b", RaftTerm: terms[1]}, {ID: "c"}}
		m.recall(out)
		return out
	}
	for i, step := range []struct {
		terms []uint64
		back  bool
	}{{[]uint64{3, 3}, false}, {[]uint64{4, 4}, false}, {[]uint64{4, 0}, false}, {[]uint64{4, 4}, false}, {[]uint64{4, 3}, true}, {[]uint64{4, 4}, true}} {
		out := at(step.terms...)
		if out[0].WentBack != "" || out[2].WentBack != "" || (out[1].WentBack != "") != step.back {
			t.Errorf("%d: %+v", i, out)
		}
	}
}

// TestWhatIsRefusedIsNews only when its reason changes; what can be repaired always is.
func TestNews(t *testing.T) {
	var told []Mended
	w := Watcher{told: map[string]string{}, until: map[string]time.Time{}, absent: map[string]time.Time{}, Tell: func(m Mended) { told = append(told, m) }}
	no := plan.Repair{Name: "units", Host: "cp-a", Refused: &cluster.Refusal{Rule: "x", Why: "two are down", Fix: "wait"}}
	yes := plan.Repair{Name: "manifest", Host: "cp-b"}
	if n := w.news([]plan.Repair{no, yes}); n != 2 {
		t.Errorf("%d", n)
	}
	w.tell(proposed(no))
	w.tell(proposed(no))
	if n := w.news([]plan.Repair{no}); n != 0 || len(told) != 1 {
		t.Errorf("%d, told %v", n, told)
	}
	other := no
	other.Refused = &cluster.Refusal{Rule: "x", Why: "three are down", Fix: "wait"}
	if n := w.news([]plan.Repair{other}); n != 1 {
		t.Errorf("%d", n)
	}
	now := time.Now()
	w.forget(nil, now)
	w.forget([]plan.Repair{no}, now.Add(forgetAfter/2)) // it comes and goes
	w.forget(nil, now.Add(forgetAfter))
	w.forget(nil, now.Add(forgetAfter*3/2))
	if n := w.news([]plan.Repair{no}); n != 0 {
		t.Errorf("%d after it was not seen for a moment", n)
	}
	w.forget(nil, now.Add(forgetAfter*2))
	if n := w.news([]plan.Repair{no}); n != 1 {
		t.Errorf("%d after it was gone", n)
	}
	for range 3 {
		w.tell(Mended{Repair: yes, Outcome: RepairLimited, Detail: time.Now().String(), Next: time.Now().Add(time.Hour)})
	}
	if n := w.news([]plan.Repair{yes}); n != 0 {
		t.Error("a repair is due that may not be tried")
	}
	if len(told) != 2 {
		t.Errorf("told %v", told)
	}
}

// TestEvents are about nodes where there is one, short enough, and say what was done.
func TestEvents(t *testing.T) {
	f := clustertest.Whole()
	f.External()
	for host, want := range map[string]string{"w-a": "Node w-a", "etcd-a": "ConfigMap quorate", "": "ConfigMap quorate"} {
		e := eventOf(Mended{Repair: plan.Repair{Name: "units", Host: host, Problem: strings.Repeat("x", 2000)}, Outcome: Repaired}, f.Spec, time.Now())
		if got := e.InvolvedObject.Kind + " " + e.InvolvedObject.Name; got != want || e.Type != corev1.EventTypeNormal || e.Reason != "Repaired" || len(e.Message) > 1024 || e.Namespace == "" {
			t.Errorf("%s: %+v", got, e)
		}
	}
	e := eventOf(Mended{Repair: plan.Repair{Name: "units"}, Outcome: RepairFailed, Detail: errors.New("no").Error()}, f.Spec, time.Now())
	if e.Type != corev1.EventTypeWarning || e.Reason != "RepairFailed" {
		t.Errorf("%+v", e)
	}
}

// TestWhatIsNotMadeIsAnnouncedOnce: one event for each limit, and for each reason of a refusal, whoever finds the repair due again. Each
// repair that was made has its own.
func TestWhatIsNotMadeIsAnnouncedOnce(t *testing.T) {
	f := clustertest.Whole()
	now := time.Date(2026, 8, 3, 12, 10, 0, 0, time.UTC)
	units := plan.Repair{Name: "units", Host: "cp-a"}
	at := func(m Mended, after time.Duration) string {
		e := eventOf(m, f.Spec, now.Add(after))
		if m.Outcome == RepairLimited && (e.Reason != "RepairLimited" || e.Type != corev1.EventTypeWarning) {
			t.Errorf("%+v", e)
		}
		return e.Name
	}
	until := now.Add(40 * time.Minute)
	limited := Mended{Repair: units, Outcome: RepairLimited, Detail: "tried 3 times", limit: until}
	other, unit, unnoted := limited, limited, limited
	other.limit, unnoted.limit, unit.Of = until.Add(time.Nanosecond), time.Time{}, "keepalived.service"
	refused := Mended{Repair: units, Outcome: RepairRefused, Detail: "two are down"}
	worse, failed := refused, Mended{Repair: units, Outcome: RepairFailed}
	worse.Detail = "three are down"
	for name, tc := range map[string]struct {
		one, two Mended
		after    time.Duration
		same     bool
	}{
		"one limit":             {limited, limited, 30 * time.Minute, true},
		"another limit":         {limited, other, 0, false},
		"another unit":          {limited, unit, 0, false},
		"it cannot be noted":    {unnoted, unnoted, 5 * time.Minute, true},
		"nor an hour later":     {unnoted, unnoted, time.Hour, false},
		"one refusal":           {refused, refused, 5 * time.Minute, true},
		"another refusal":       {refused, worse, 0, false},
		"each attempt":          {failed, failed, time.Second, false},
		"a limit and a refusal": {unnoted, refused, 0, false},
	} {
		if one, two := at(tc.one, 0), at(tc.two, tc.after); (one == two) != tc.same {
			t.Errorf("%s: %s and %s", name, one, two)
		}
	}
}
