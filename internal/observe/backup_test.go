package observe

import (
	"errors"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// One answer is enough, in whatever order the answers and errors come. The oldest schedule counts, by the clock of its own host.
func TestReportsOfBackups(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	last := &facts.LastBackup{File: "last"}
	at := func(clock, since time.Duration) facts.BackupReport {
		return facts.BackupReport{Now: now.Add(clock), Since: now.Add(clock - since), Last: last}
	}
	joined := at(0, 0)
	joined.Since = time.Time{}
	silent := errors.New("cp-a: no answer within 5s")
	type answer struct {
		r   facts.BackupReport
		err error
	}
	for name, tc := range map[string]struct {
		answers []answer
		unknown string
		since   time.Duration // -1 if there is no schedule
	}{
		"nobody answers":         {[]answer{{err: silent}, {err: silent}}, "cp-a: no answer within 5s", 0},
		"the first answers":      {[]answer{{r: at(0, time.Hour)}, {err: silent}}, "", time.Hour},
		"the last answers":       {[]answer{{err: silent}, {r: at(0, time.Hour)}}, "", time.Hour},
		"one joined a while ago": {[]answer{{r: at(0, time.Minute)}, {r: at(time.Second, time.Hour)}, {r: joined}}, "", time.Hour},
		"one has just joined":    {[]answer{{r: joined}, {r: at(0, time.Hour)}}, "", time.Hour},
		"there is no schedule":   {[]answer{{r: joined}, {r: joined}}, "", -1},
	} {
		out := &facts.Backups{}
		for _, a := range tc.answers {
			merge(out, a.r, a.err)
		}
		switch r := out.Report; {
		case out.Unknown != tc.unknown || (r == nil) != (tc.unknown != ""):
			t.Errorf("%s: %+v", name, out)
		case r == nil:
		case r.Last != last:
			t.Errorf("%s: the last backup is lost", name)
		case r.Since.IsZero() != (tc.since < 0) || tc.since >= 0 && r.Now.Sub(r.Since) != tc.since:
			t.Errorf("%s: %s", name, r.Now.Sub(r.Since))
		}
	}
}
