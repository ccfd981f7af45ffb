package ui

import (
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/progress"
)

type state int

const (
	running state = iota
	done
	failed
)

// step is what is known about one step.
type step struct {
	host, title, detail, err string

	state   state
	begin   time.Time
	elapsed time.Duration // once it has ended
}

func (s *step) age(now time.Time) time.Duration {
	if s.state == running {
		return max(now.Sub(s.begin), 0)
	}
	return s.elapsed
}

// branch holds the steps of one host, or of the caller, in the order in which they began.
type branch struct {
	host  string
	steps []*step
	ended time.Time // when its last step ended
}

func (b *branch) count(want state) (n int) {
	for _, s := range b.steps {
		if s.state == want {
			n++
		}
	}
	return n
}

// worked is the sum of the times that its steps took.
func (b *branch) worked() (sum time.Duration) {
	for _, s := range b.steps {
		if s.state == done {
			sum += s.elapsed
		}
	}
	return sum
}

// model collects events. It cleans all text: titles, details and errors come from other machines and may contain anything.
type model struct {
	begin    time.Time
	branches []*branch // the caller's own first, then hosts by name
	byID     map[string]*step
}

func newModel(now time.Time) *model {
	return &model{begin: now, branches: []*branch{{}}, byID: map[string]*step{}}
}

func (m *model) branch(host string) *branch {
	i, found := slices.BinarySearchFunc(m.branches, host, func(b *branch, host string) int { return strings.Compare(b.host, host) })
	if !found {
		m.branches = slices.Insert(m.branches, i, &branch{host: host})
	}
	return m.branches[i]
}

// event adds one event and returns its step, or nil for a note that belongs to no step.
func (m *model) event(now time.Time, e progress.Event) *step {
	s := m.byID[e.ID]
	switch {
	case s == nil && e.Kind == progress.Note:
		return nil
	case s == nil:
		s = &step{host: clean(e.Host)}
		m.byID[e.ID] = s
		b := m.branch(s.host)
		b.steps = append(b.steps, s)
		fallthrough
	case e.Kind == progress.Start: // begun again
		s.state, s.begin, s.detail, s.err = running, e.Time, "", ""
	}
	if e.Title != "" {
		s.title = clean(e.Title)
	}
	if s.title == "" {
		s.title = clean(e.ID)
	}
	switch e.Kind {
	case progress.Note:
		s.detail = clean(e.Detail)
	case progress.Done, progress.Fail:
		s.state, s.elapsed = done, e.Elapsed
		if e.Kind == progress.Fail {
			s.state, s.err = failed, cleanLines(e.Err)
		}
		if s.elapsed == 0 {
			s.elapsed = max(e.Time.Sub(s.begin), 0)
		}
		m.branch(s.host).ended = now
	}
	return s
}

// noteLine is a note that belongs to no step.
func noteLine(e progress.Event) string {
	parts := []string{clean(e.Host), clean(e.Title), clean(e.Detail)}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}
