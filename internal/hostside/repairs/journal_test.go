package repairs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

var noon = time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)

// TestAttemptsBackOff: pauses double, and after so many attempts in an hour there are no more.
func TestAttemptsBackOff(t *testing.T) {
	j := journal{filepath.Join(t.TempDir(), "quorate", "repairs.json")}
	begin := func(repair string, at time.Duration) Decision {
		t.Helper()
		d, err := j.begin(Begin{Attempt: Attempt{Repair: repair, Problem: "p", By: "me"}, AnHour: 3}, noon.Add(at))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, step := range []struct {
		at, wait time.Duration
		tried    int
	}{
		{0, 0, 0},
		{10 * time.Second, 20 * time.Second, 1},
		{30 * time.Second, 0, 1},
		{40 * time.Second, 50 * time.Second, 2},
		{90 * time.Second, 0, 2},
		{10 * time.Minute, 50 * time.Minute, 3}, // until the first one is an hour ago
		{time.Hour, 0, 2},
		{-time.Minute, 0, 0}, // the clock was set back: nothing is known
	} {
		d := begin("units", step.at)
		if d.Wait != step.wait || d.Tried != step.tried {
			t.Errorf("at %s: %+v, want to wait %s after %d", step.at, d, step.wait, step.tried)
		}
		// When the limit ends is the same, whenever somebody asks: it is announced once.
		if step.wait > 0 && !d.Until.Equal(noon.Add(step.at+step.wait)) || step.wait == 0 && !d.Until.IsZero() {
			t.Errorf("at %s: until %s", step.at, d.Until)
		}
		if step.wait > 0 && !begin("units", step.at+time.Second).Until.Equal(d.Until) {
			t.Errorf("a second after %s, the limit is another one", step.at)
		}
	}
	if d := begin("manifest", 0); d.Wait != 0 {
		t.Errorf("another repair waits: %+v", d)
	}
}

// TestAttemptsThatWereDroppedDoNotCount: another host limited them.
func TestAttemptsThatWereDroppedDoNotCount(t *testing.T) {
	j := journal{filepath.Join(t.TempDir(), "repairs.json")}
	in := Begin{Attempt: Attempt{Repair: "space"}, AnHour: 2}
	for n := range 4 {
		at := noon.Add(time.Duration(n) * time.Second)
		if d, err := j.begin(in, at); err != nil || d.Wait != 0 {
			t.Fatalf("attempt %d waits: %+v, %v", n, d, err)
		}
		if err := j.end(Attempt{Repair: "space", Dropped: true}, at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTheJournalSays why an attempt failed, and survives being cut short or damaged.
func TestTheJournal(t *testing.T) {
	j := journal{filepath.Join(t.TempDir(), "repairs.json")}
	in := Begin{Attempt: Attempt{Repair: "units"}, AnHour: 3}
	if _, err := j.begin(in, noon); err != nil {
		t.Fatal(err)
	}
	if err := j.end(Attempt{Repair: "units", Error: "no"}, noon.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if j.end(Attempt{Repair: "units"}, noon) == nil || j.end(Attempt{Repair: "other"}, noon) == nil {
		t.Error("what did not begin cannot end")
	}
	in.Ask = true
	for range 3 { // asking changes nothing
		if d, err := j.begin(in, noon.Add(2*time.Second)); err != nil || d.Tried != 1 || d.Last != "no" {
			t.Errorf("%+v, %v", d, err)
		}
	}
	in.Ask = false
	for i := range keptMost + 50 {
		in.AnHour = 1 << 20
		if _, err := j.begin(in, noon.Add(time.Duration(i+1)*2*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := j.read(); err != nil || len(all) > keptMost || noon.Add((keptMost+50)*2*time.Hour).Sub(all[0].Began) > kept {
		t.Errorf("%d attempts are kept, %v", len(all), err)
	}
	if err := os.WriteFile(j.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := j.begin(in, noon); err != nil || d.Wait != 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestWhatWasTried: remedies that were made count, whether they helped or not. What was refused, or interrupted, was not made.
func TestWhatWasTried(t *testing.T) {
	root := t.TempDir()
	j := journal{filepath.Join(root, JournalFile)}
	try := func(repair, how string, at time.Duration, made, ends bool) {
		t.Helper()
		if _, err := j.begin(Begin{Attempt: Attempt{Repair: repair, How: how, Made: true}, AnHour: 9}, noon.Add(at)); err != nil {
			t.Fatal(err)
		}
		if !ends {
			return
		}
		if err := j.end(Attempt{Repair: repair, Made: made, Error: "still so"}, noon.Add(at+time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if got := Tried(root, noon); len(got) > 0 {
		t.Errorf("%+v without a journal", got)
	}
	try("etcd-lag", "restart", 0, true, true)
	try("etcd-lag", "restart", 2*time.Hour, true, true)
	try("units", "", 3*time.Hour, true, true)
	try("etcd-lag", "replace", 4*time.Hour, false, true)
	try("etcd-lag", "replace", 5*time.Hour, true, false)
	want := []facts.Tried{{Repair: "etcd-lag", How: "restart", AgoSeconds: int64((4*time.Hour - time.Minute).Seconds())}}
	if got := Tried(root, noon.Add(6*time.Hour)); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := Tried(root, noon.Add(-time.Hour)); len(got) > 0 {
		t.Errorf("%+v in the future", got)
	}
	f := &facts.Facts{Tried: want}
	if !f.TriedWithin("etcd-lag", "restart", 4*time.Hour) || f.TriedWithin("etcd-lag", "restart", time.Hour) || f.TriedWithin("etcd-lag", "replace", 24*time.Hour) {
		t.Errorf("%+v", want)
	}
}
