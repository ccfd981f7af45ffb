package drill

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

var historyEpoch = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// recordOf is the record of a drill that ended so many hours after historyEpoch.
func recordOf(hours int) Record {
	r := shown()
	r.Ended = historyEpoch.Add(time.Duration(hours) * time.Hour)
	r.Began = r.Ended.Add(-185 * time.Second)
	return r.Record()
}

// olderNote is the entry of the last drill as a Quorate without a history stores it.
func olderNote(t *testing.T, ended time.Time) string {
	t.Helper()
	text, err := json.Marshal(facts.LastDrill{Ended: ended, Pass: true, Lost: 3, Faults: map[string]facts.DrillVerdicts{"kill/etcd/leader": {Passed: 2, Invalid: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func remember(t *testing.T, entries map[string]string, last string, r Record) map[string]string {
	t.Helper()
	before := maps.Clone(entries)
	out, err := Remember(entries, last, r)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, entries) {
		t.Fatal("the entries that were given have changed")
	}
	return out
}

func endings(all []Record) (out []string) {
	for _, r := range all {
		if r.Unreadable != "" {
			out = append(out, "unreadable")
		} else {
			out = append(out, fmt.Sprint(r.Ended.Sub(historyEpoch).Hours()))
		}
	}
	return out
}

func TestRecordOfADrill(t *testing.T) {
	r := recordOf(1)
	if r.Began == nil || r.Ended.Sub(*r.Began) != 185*time.Second || r.Quorate != "v0.9.0 6b6585d" || r.Kubernetes != "v1.37.2" || *r.Pass || *r.Lost != 0 || *r.Acknowledged != 2410 || r.Linearizable != "yes" {
		t.Errorf("%+v", r)
	}
	if v := r.Faults["power-off/zone/b"]; v != (facts.DrillVerdicts{Invalid: 1}) || r.Faults["hang/etcd/leader"].Missed != 1 || r.Faults["kill/etcd/leader"].Passed != 1 {
		t.Errorf("%+v", r.Faults)
	}
	// Of the fault that cannot be judged, no figure counts.
	if r.OutagesMs["endpoint/read/new"] != 9800 || r.OutagesMs["endpoint/write/new"] != 700 || r.OutagesMs["kubernetes-service/read/new"] != 2200 {
		t.Errorf("%+v", r.OutagesMs)
	}
	unread := shown()
	unread.Ledger = Ledger{}
	if r := unread.Record(); r.Lost != nil || r.Acknowledged != nil {
		t.Errorf("no write was read back, and %d were lost", *r.Lost)
	}
	back := Recall(remember(t, nil, "", r), "")
	if len(back) != 1 || back[0].Entry == "" {
		t.Fatalf("%+v", back)
	}
	back[0].Entry = ""
	a, _ := json.Marshal(r)
	b, _ := json.Marshal(back[0])
	if string(a) != string(b) {
		t.Errorf("stored\n%s\nread\n%s", a, b)
	}
}

// TestHistoryIsBounded and the newest drills stay, in whichever order they were stored.
func TestHistoryIsBounded(t *testing.T) {
	var entries map[string]string
	hours := []int{}
	for n := range 2 * historyMost {
		hours = append(hours, n*7%(2*historyMost))
	}
	for _, n := range hours {
		entries = remember(t, entries, "", recordOf(n))
		again := remember(t, entries, "", recordOf(n))
		if !maps.Equal(entries, again) {
			t.Fatal("storing a drill again has changed the history")
		}
		if !slices.Contains(endings(Recall(entries, "")), fmt.Sprint(n)) {
			t.Fatalf("the drill that ended after %d h was not stored", n)
		}
	}
	got := Recall(entries, "")
	if len(got) != historyMost || !slices.IsSortedFunc(got, func(a, b Record) int { return b.Ended.Compare(*a.Ended) }) {
		t.Fatalf("%v", endings(got))
	}
	if first := endings(got)[0]; first != fmt.Sprint(2*historyMost-1) {
		t.Errorf("the newest is %s", first)
	}
}

func TestHistoryFitsItsObject(t *testing.T) {
	r := recordOf(1)
	r.Faults = map[string]facts.DrillVerdicts{}
	for n := range 3000 {
		r.Faults[fmt.Sprintf("stop/kubelet/on=worker-%d.frankfurt.example.com", n)] = facts.DrillVerdicts{Passed: 1, Missed: 2}
	}
	text, err := json.Marshal(r)
	if err != nil || len(text) < recordBytes {
		t.Fatalf("%d bytes: %v", len(text), err)
	}
	entries := remember(t, nil, string(text), recordOf(2)) // as a last drill
	entries = remember(t, entries, "", func() Record { r := r; ended := r.Ended.Add(2 * time.Hour); r.Ended = &ended; return r }())
	for name, value := range entries {
		if len(value) > recordBytes {
			t.Errorf("%s has %d bytes", name, len(value))
		}
	}
	got := Recall(entries, "")
	if len(got) != 3 || got[0].Faults["stop/kubelet"] != (facts.DrillVerdicts{Passed: 3000, Missed: 6000}) || got[2].Faults["stop/kubelet"].Passed != 3000 {
		t.Fatalf("%+v", got)
	}
	// What others have put there counts as well, and the new drill stays even then.
	entries["note"] = strings.Repeat("x", historyBytes)
	entries = remember(t, entries, "", recordOf(9))
	if _, there := entries["note"]; there || len(entries) != 4 {
		t.Errorf("%v", slices.Sorted(maps.Keys(entries)))
	}
	long := shown()
	long.Interrupted = strings.Repeat("é", recordBytes)
	if said := long.Record().Interrupted; len(said) > reasonBytes || !strings.HasPrefix(said, "éé") || strings.ContainsRune(said, '\ufffd') {
		t.Errorf("%d bytes", len(said))
	}
}

// TestHistoryOfAnOlderQuorate: what it stored as the last drill is shown, and the next drill does not drop it.
func TestHistoryOfAnOlderQuorate(t *testing.T) {
	entries := remember(t, nil, "", recordOf(1))
	old := olderNote(t, historyEpoch.Add(2*time.Hour))
	next := remember(t, entries, old, recordOf(3))
	note, err := json.Marshal(shownAt(3).Note())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		entries map[string]string
		last    string
		at      int // where the older record is
		want    []string
	}{
		{entries, old, 0, []string{"2", "1"}},
		{next, old, 1, []string{"3", "2", "1"}}, // the last drill is stored after the history
		{next, string(note), 1, []string{"3", "2", "1"}},
		{nil, old, 0, []string{"2"}},
		// The clock of whoever ran an older Quorate after a newer one was behind.
		{next, olderNote(t, historyEpoch.Add(150*time.Minute)), 2, []string{"3", "2.5", "2", "1"}},
	} {
		got := Recall(x.entries, x.last)
		if e := endings(got); !slices.Equal(e, x.want) {
			t.Fatalf("%v, want %v", e, x.want)
		}
		if r := got[x.at]; r.Began != nil || r.OutagesMs != nil || r.Quorate != "" || !*r.Pass || *r.Lost != 3 || r.Acknowledged != nil || r.Faults["kill/etcd/leader"].Invalid != 1 {
			t.Errorf("%+v", r)
		}
	}
	if len(next) != 3 {
		t.Errorf("%d entries", len(next))
	}
}

func shownAt(hours int) *Report {
	r := shown()
	r.Ended = historyEpoch.Add(time.Duration(hours) * time.Hour)
	return r
}

// TestDamagedRecords are shown as such, keep their place, and are not dropped by the next drill.
func TestDamagedRecords(t *testing.T) {
	damaged := []string{`{"ended":"2026-11-27T`, "", "[]", "{}", `{"ended":"2026-11-27T15:00:00Z","lost":"many"}`, `{"ended":null,"pass":true}`}
	for _, text := range damaged {
		entries := remember(t, remember(t, nil, "", recordOf(1)), "", recordOf(3))
		entries[entryName(historyEpoch.Add(2*time.Hour), text)] = text
		got := Recall(remember(t, entries, "", recordOf(4)), "")
		if e := endings(got); !slices.Equal(e, []string{"4", "3", "unreadable", "1"}) {
			t.Fatalf("%q: %v", text, e)
		}
		if r := got[2]; r.Pass != nil || r.Lost != nil || r.Faults != nil || !strings.HasPrefix(r.Entry, "20261127T14") {
			t.Errorf("%q: %+v", text, r)
		}
		if text == "" {
			continue // no last drill
		}
		entries = remember(t, nil, "", recordOf(1))
		if e := endings(Recall(entries, text)); !slices.Equal(e, []string{"unreadable", "1"}) {
			t.Errorf("%q as the last drill: %v", text, e)
		}
		kept := remember(t, entries, text, recordOf(2))
		for _, last := range []string{"", text} {
			if e := endings(Recall(kept, last)); !slices.Equal(e, []string{"2", "unreadable", "1"}) {
				t.Errorf("%q after the next drill: %v", text, e)
			}
		}
		// An API server whose answer was lost may have stored it.
		if again := remember(t, kept, text, recordOf(2)); !maps.Equal(again, kept) {
			t.Errorf("%q is there twice", text)
		}
	}
	partial := Recall(nil, `{"ended":"2026-11-27T15:00:00Z"}`)
	if len(partial) != 1 || partial[0].Unreadable != "" || partial[0].Pass != nil || partial[0].Lost != nil {
		t.Errorf("%+v", partial)
	}
	if none := Recall(nil, ""); none == nil || len(none) != 0 {
		t.Errorf("%#v", none)
	}
}

func TestHistoryAsText(t *testing.T) {
	good := shownAt(5)
	good.Faults = good.Faults[:1]
	good.Summarize()
	entries := remember(t, nil, "", good.Record())
	entries = remember(t, entries, "", recordOf(4))
	entries = remember(t, entries, "", func() Record {
		r := recordOf(3)
		r.Interrupted = "in\x1b[31mterrupt"
		r.Quorate = "devel 0123456789abcdef0123456789abcdef01234567"
		return r
	}())
	entries[entryName(historyEpoch.Add(2*time.Hour), "{")] = "{"
	entries = remember(t, entries, olderNote(t, historyEpoch), recordOf(4))
	text := func(history []Record, details bool) string {
		var b strings.Builder
		if err := WriteHistory(&b, "prod", history, details); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "\x1b") {
			t.Errorf("it steers the terminal: %q", b.String())
		}
		return b.String()
	}
	lines := strings.Split(text(Recall(entries, ""), false), "\n")
	for i, want := range [][]string{
		{"ENDED", "TOOK", "QUORATE", "KUBERNETES", "FAULTS", "LOST", "WORST OUTAGE", "VERDICT"},
		{"2026-11-27 17:00 UTC", "5h00m", "v0.9.0", "v1.37.2", "1 passed", "0", "0.90 s endpoint/read/http2", "passed"},
		{"2026-11-27 16:00 UTC", "3m05s", "v0.9.0", "v1.37.2", "1 passed, 1 missed, 1 invalid", "0", "10 s endpoint/read/http2", "did not pass"},
		{"2026-11-27 15:00 UTC", "devel 0123456789ab ", "did not pass, interrupted"},
		{"unknown", "unknown", "unknown", "cannot be read"},
		{"2026-11-27 12:00 UTC", "unknown", "2 passed, 1 invalid", "3", "unknown", "passed"},
		{""},
		{"Note: an older Quorate recorded 1 drill"},
		{"Note: the entry 20261127T140000", "cannot be read", "unexpected end of JSON"},
	} {
		rest := lines[i]
		for _, cell := range want {
			before, after, found := strings.Cut(rest, cell)
			if !found || strings.TrimSpace(before) != "" && i < 3 {
				t.Errorf("line %d: no %q in %q", i, cell, lines[i])
			}
			rest = after
		}
	}
	detailed := text(Recall(entries, ""), true)
	for _, want := range []string{"kill/etcd/leader", "1 missed", "endpoint/write/new", "kubernetes-service/read/new", "outages                              unknown", "2,410 acknowledged, 0 lost", "v0.9.0 6b6585d"} {
		if !strings.Contains(detailed, want) {
			t.Errorf("no %q in\n%s", want, detailed)
		}
	}
	if got := text(nil, true); got != "prod remembers no drill.\n" {
		t.Errorf("%q", got)
	}
}
