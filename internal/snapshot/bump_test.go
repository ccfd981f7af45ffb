package snapshot

import (
	"testing"
	"time"
)

// TestRevisionsGoForwardAgain: a second restore, of the same backup or of an older one, begins above everything that the first one wrote.
func TestRevisionsGoForwardAgain(t *testing.T) {
	taken := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	const revision, perSecond = 1_000_000, 50_000
	first := taken.Add(3 * time.Hour)
	begun := revision + BumpAt(first, taken)
	for _, later := range []time.Duration{time.Minute, 30 * time.Hour, 1000 * time.Hour} {
		reached := begun + int64(later/time.Second)*perSecond
		for _, older := range []time.Duration{0, time.Hour} {
			if got := revision - int64(older/time.Second)*100 + BumpAt(first.Add(later), taken.Add(-older)); got <= reached {
				t.Errorf("a backup that is %s older, restored %s later, begins at %d, and clients have seen %d", older, later, got, reached)
			}
		}
	}
	if got := BumpAt(taken.Add(-time.Hour), taken); got != RevisionBump {
		t.Errorf("with a clock that is behind: %d", got)
	}
}
