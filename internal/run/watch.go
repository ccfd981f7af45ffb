package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/lease"
	"quorate.dev/quorate/internal/plan"
)

// forgetAfter is for how long a problem must be gone before it is news again: longer than the time between two comparisons of etcd's members, which
// are what shows some of them.
const forgetAfter = 25 * time.Minute

// Watcher observes a cluster and repairs what breaks, until its context ends.
type Watcher struct {
	// Interval is the time between two observations. CompareEach is how often the data of etcd's members is compared; 0 for never.
	Interval, CompareEach time.Duration
	// OnlyLook has it observe, and repair nothing.
	OnlyLook bool
	// Open opens sessions. They are kept until something is repaired.
	Open func(context.Context) *Engine
	// Turn says whether this watcher is the one that observes and repairs now; nil if there is no other. Its error ends Run.
	Turn func(context.Context) (bool, error)
	// Looked is called with each observation, also with those that a repair makes, and Compared with each comparison of the data of etcd's members; nil if nobody wants to know.
	Looked   func(*cluster.State)
	Compared func(facts.EtcdComparison)
	// Tell is called with each repair that was made, that failed, or that was not made for another reason than before. Note says what
	// else keeps it from repairing.
	Tell func(Mended)
	Note func(string)

	observer Observer
	// undecided is what the last comparison showed and nobody decides.
	undecided string
	// told is what was last told of each repair that was not made, and until when one is not tried again.
	told  map[string]string
	until map[string]time.Time
	// absent is since when a repair that was told of has not been due.
	absent   map[string]time.Time
	noted    string
	compared time.Time
}

// memory is what earlier observations say about later ones.
type memory struct {
	terms map[string]uint64 // by member
	back  map[string]string // members that went back, and how: that stays so, although they catch up within a moment
}

// recall compares the members of etcd with what they said before. The term of a member never goes back, not even if it is restarted,
// unless its data was replaced by an older copy.
func (m *memory) recall(members []facts.EtcdMember) {
	if m.terms == nil {
		m.terms, m.back = map[string]uint64{}, map[string]string{}
	}
	for i, e := range members {
		if e.RaftTerm == 0 || e.ID == "" {
			continue
		}
		if before := m.terms[e.ID]; before > e.RaftTerm {
			m.back[e.ID] = fmt.Sprintf("it was in term %d of etcd before, and later in term %d: its data was replaced by an older copy", before, e.RaftTerm)
		}
		m.terms[e.ID] = max(m.terms[e.ID], e.RaftTerm)
		members[i].WentBack = m.back[e.ID]
	}
}

// Run observes and repairs until the context ends, which is no error.
func (w *Watcher) Run(ctx context.Context) error {
	w.told, w.until, w.absent = map[string]string{}, map[string]time.Time{}, map[string]time.Time{}
	w.observer.Open = w.Open
	defer w.observer.Close()
	for ctx.Err() == nil {
		turn, err := true, error(nil)
		if w.Turn != nil {
			if turn, err = w.Turn(ctx); err != nil {
				return err
			}
		}
		if turn {
			err = w.pass(ctx)
		} else {
			w.observer.Close()
			w.observer.Forget()
		}
		if err != nil && ctx.Err() == nil {
			w.note("nothing is repaired now: " + err.Error())
		}
		if pause(ctx, w.Interval) != nil {
			break
		}
	}
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return nil
	}
	return context.Cause(ctx)
}

func (w *Watcher) note(text string) {
	if text == w.noted {
		return
	}
	if w.noted = text; text != "" {
		w.Note(time.Now().UTC().Format(time.RFC3339) + " " + text)
	}
}

// pass observes once, without holding anything, and repairs if something may be broken.
func (w *Watcher) pass(ctx context.Context) error {
	e := w.observer.Engine(ctx)
	s := e.State(ctx)
	if w.Looked != nil {
		w.Looked(s)
	}
	compare := w.CompareEach > 0 && time.Since(w.compared) >= w.CompareEach
	if compare {
		w.compared = time.Now()
		if c := e.Compare(ctx, s); c != nil && w.Compared != nil {
			w.Compared(*c)
		}
	}
	if w.OnlyLook {
		w.note("")
		return nil
	}
	due, _, err := plan.Repairs(s, plan.Bundle{})
	if err != nil {
		return err
	}
	w.forget(due, time.Now())
	if w.news(due) == 0 {
		if compare { // what only a comparison shows is true until the next one
			w.undecided = undecided(s, due)
		}
		w.note(w.undecided)
		return nil
	}
	defer w.observer.Close() // and with the sessions, the leases end
	_, err = e.Repair(ctx, RepairOptions{Compare: compare, Tell: w.tell, Compared: w.Compared, Looked: w.Looked})
	if errors.Is(err, lease.ErrLeased) {
		return fmt.Errorf("another run is changing the hosts: %w", err)
	}
	if err == nil {
		w.note("")
	}
	return err
}

// undecided says what is wrong with the data of etcd's members that no repair is due for: a person has to decide.
func undecided(s *cluster.State, due []plan.Repair) string {
	for _, f := range s.Findings() {
		about := func(r plan.Repair) bool { return slices.Contains(f.Subjects, r.Host) }
		if f.Rule == cluster.RuleEtcdData && !slices.ContainsFunc(due, about) {
			return "not repaired: " + f.Summary + ". " + f.Fix
		}
	}
	return ""
}

// news counts the repairs that are due. One that is refused is looked at again only when its reason changes, and one that was tried too
// often only when it may be tried again, so that the hosts are not held again and again for nothing.
func (w *Watcher) news(due []plan.Repair) (n int) {
	for _, r := range due {
		if r.Refused == nil && time.Now().After(w.until[r.Key()]) || r.Refused != nil && w.told[r.Key()] != string(RepairRefused)+r.Refused.Error() {
			n++
		}
	}
	return n
}

func (w *Watcher) tell(m Mended) {
	text := string(m.Outcome) + m.Detail
	if m.Outcome == RepairLimited {
		text = string(m.Outcome) // the time in its reason changes
		w.until[m.Key()] = m.Next
	}
	if (m.Outcome == RepairLimited || m.Outcome == RepairRefused) && w.told[m.Key()] == text {
		return
	}
	w.told[m.Key()] = text
	w.Tell(m)
}

// forget drops what was told of repairs that have not been due for a while: if they are again, that is news.
func (w *Watcher) forget(due []plan.Repair, now time.Time) {
	for key := range w.told {
		since, absent := w.absent[key]
		switch {
		case slices.ContainsFunc(due, func(r plan.Repair) bool { return r.Key() == key }):
			delete(w.absent, key)
		case !absent:
			w.absent[key] = now
		case now.Sub(since) >= forgetAfter:
			delete(w.told, key)
			delete(w.until, key)
			delete(w.absent, key)
		}
	}
}
