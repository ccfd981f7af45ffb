package probe

import (
	"context"
	"sync"
	"time"
)

// lagPace is the time between two measurements of how late this process runs. A delay that is shorter may stay unseen.
const lagPace = 20 * time.Millisecond

// lag is how late this process ran: by how much it was woken too late. A computer that has too little time for its programs delays answers as
// much as requests, and a gap that clients see may be its own.
type lag struct {
	mu   sync.Mutex
	late []delay // the oldest first
}

// delay is a time in which this process should have run.
type delay struct{ from, to time.Time }

// measure measures until ctx is done.
func (l *lag) measure(ctx context.Context) {
	timer := time.NewTimer(lagPace)
	defer timer.Stop()
	for due := time.Now().Add(lagPace); ; {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		l.add(due, now)
		due = now.Add(lagPace)
		timer.Reset(lagPace)
	}
}

// add notes a delay, unless every program has such delays.
func (l *lag) add(due, now time.Time) {
	if now.Sub(due) < time.Millisecond {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = append(l.late, delay{due, now})
}

// between is the longest delay that touches an interval.
func (l *lag) between(from, to time.Time) (longest time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.late {
		if d.from.Before(to) && !d.to.Before(from) {
			longest = max(longest, d.to.Sub(d.from))
		}
	}
	return longest
}

// forget drops what no longer matters for intervals that begin later.
func (l *lag) forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.late) && l.late[n].to.Before(before) {
		n++
	}
	l.late = l.late[n:]
}
