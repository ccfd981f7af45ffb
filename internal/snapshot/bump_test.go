package snapshot

import (
	"testing"
	"time"
)

// TestRevisionsGoForwardAgain: whatever makes a new cluster begins above everything that clients have seen of those before, in whichever
// order backups and copies are used, and however old they are.
func TestRevisionsGoForwardAgain(t *testing.T) {
	const perSecond = 50_000 // writes
	built := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	type moment struct {
		at       time.Time
		revision int64
	}
	now := moment{built, 1}
	write := func(d time.Duration) {
		now = moment{now.at.Add(d), now.revision + int64(d/time.Second)*perSecond}
	}
	var copies []moment
	seen := int64(0)
	for _, step := range []struct {
		lasts time.Duration // of the cluster until the next copy is taken
		then  time.Duration // until the cluster is made again
		of    int           // copy
	}{
		{3 * time.Hour, time.Minute, 0},         // of a backup
		{time.Minute, time.Minute, 0},           // of the same one
		{time.Hour, 2 * time.Second, 2},         // of one that was taken since
		{time.Second, 2 * time.Second, 0},       // of the first one again, a moment later
		{1000 * time.Hour, 30 * time.Hour, 1},   // of an older one
		{time.Second, 1000 * 24 * time.Hour, 4}, // after years
	} {
		write(step.lasts)
		copies = append(copies, now)
		write(step.then)
		seen = max(seen, now.revision)
		from := copies[step.of]
		now.revision = from.revision + BumpAt(now.at, from.revision)
		if now.revision <= seen {
			t.Errorf("%s after the build, the cluster begins at %d, and clients have seen %d", now.at.Sub(built), now.revision, seen)
		}
	}
	if got := BumpAt(time.Unix(0, 0), now.revision); got != RevisionBump {
		t.Errorf("with a clock that is behind: %d", got)
	}
}
