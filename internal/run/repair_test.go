package run

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/repairs"
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

// TestOneBadJournalBlocksNothing: of several journals, a majority has to note an attempt, and each that can be read may limit it. Where there is
// only one, it has to.
func TestOneBadJournalBlocksNothing(t *testing.T) {
	full := errors.New("b: write /var/lib/quorate/repairs.json: no space left on device")
	tried := repairs.Decision{Wait: time.Minute, Until: time.Unix(60, 0), Tried: 3, Last: "no"}
	for name, tc := range map[string]struct {
		hosts    string
		optional bool
		asks     map[string]error            // what reading the journal of a host ends with
		notes    map[string]error            // and writing it
		limits   map[string]repairs.Decision // what it says
		noted    string
		unnoted  string
		limited  string // part of the reason; empty if it may be made
		until    time.Time
	}{
		"all can be written":            {hosts: "a b c", noted: "a b c"},
		"a full disk":                   {hosts: "a b c", notes: map[string]error{"b": full}, noted: "a c", unnoted: "b"},
		"a journal that cannot be read": {hosts: "a b c", asks: map[string]error{"b": full}, noted: "a c", unnoted: "b"},
		"one cannot be read, and another one not be written": {hosts: "a b c", asks: map[string]error{"b": full}, notes: map[string]error{"c": full}, noted: "a", unnoted: "b c",
			limited: "it can be noted on 1 of 3 hosts, and 2 are needed, because what is not noted is not limited; it could not be noted on b (write"},
		"two cannot be read": {hosts: "a b c", asks: map[string]error{"a": full, "b": full}, unnoted: "a b", limited: "on 1 of 3 hosts"},
		"one of two":         {hosts: "a b", notes: map[string]error{"b": full}, noted: "a", unnoted: "b", limited: "on 1 of 2 hosts, and 2 are needed"},
		"the only one":       {hosts: "b", notes: map[string]error{"b": full}, unnoted: "b", limited: "it could not be noted, and what is not noted is not limited: on b (write /var"},
		"the only one, on a disk that is to be freed": {hosts: "b", optional: true, notes: map[string]error{"b": full}, unnoted: "b"},
		"one of them limits it":                       {hosts: "a b c", limits: map[string]repairs.Decision{"c": tried}, limited: "it was tried 3 times within an hour", until: tried.Until},
		"one limits it, and one is full":              {hosts: "a b c", notes: map[string]error{"b": full}, limits: map[string]repairs.Decision{"a": tried}, limited: "the last one failed: no", until: tried.Until},
		"the longest limit": {hosts: "a b c", limits: map[string]repairs.Decision{"a": {Wait: time.Second, Until: time.Unix(1, 0), Tried: 1}, "b": tried, "c": {Wait: time.Second, Tried: 1}},
			limited: "it was tried 3 times", until: tried.Until},
		"a limit counts also for what need not be noted": {hosts: "a", optional: true, limits: map[string]repairs.Decision{"a": tried}, limited: "it was tried 3 times", until: tried.Until},
	} {
		var written []string
		noted, unnoted, l := begin(strings.Fields(tc.hosts), tc.optional, func(h string, only bool) (repairs.Decision, error) {
			if err := tc.asks[h]; err != nil {
				return repairs.Decision{}, err
			}
			if d := tc.limits[h]; d.Wait > 0 || only {
				return d, nil
			}
			if tc.notes[h] == nil {
				written = append(written, h)
			}
			return repairs.Decision{}, tc.notes[h]
		})
		if got := strings.Join(noted, " "); got != tc.noted || !slices.Equal(written, noted) {
			t.Errorf("%s: noted on %q, and written on %q", name, got, written)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(unnoted)), " "); got != tc.unnoted {
			t.Errorf("%s: not noted on %q", name, got)
		}
		switch {
		case (l != nil) != (tc.limited != ""):
			t.Errorf("%s: limited by %+v", name, l)
		case l != nil && (!strings.Contains(l.why, tc.limited) || !l.until.Equal(tc.until) || l.wait <= 0):
			t.Errorf("%s: %+v", name, l)
		}
	}
	m := Mended{Repair: plan.Repair{Name: "etcd-space", Problem: "no space"}, Outcome: Repaired, Unnoted: map[string]string{"cp-b": "the disk is full"}}
	if want := "repaired: etcd-space: no space; it could not be noted on cp-b (the disk is full)"; m.String() != want {
		t.Errorf("%q", m)
	}
}
