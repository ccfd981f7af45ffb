package dashboard

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
)

const (
	// lookTimeout is how long one look may take with everything that belongs to it. Hosts that do not answer take some ten seconds of it.
	lookTimeout = 40 * time.Second
	// mostChanges is how many findings that came and went are remembered.
	mostChanges = 500
)

// Look is what one look at a cluster found.
type Look struct {
	State   *cluster.State
	Plan    Planned
	Repairs Repairs
}

// Feed looks at a cluster again and again, and has the page of what it found.
type Feed struct {
	look  func(context.Context) (Look, error)
	every time.Duration
	in    Input // of the goroutine that runs

	mu      sync.Mutex
	view    *View
	changed chan struct{} // closed when the view is replaced
}

// View is a page as it is shown.
type View struct {
	page     *Page
	parts    map[string]template.HTML
	announce string
}

// NewFeed makes a feed that has seen nothing yet. look returns what it found, or why it found nothing. every is the time between the beginnings of two looks.
func NewFeed(look func(context.Context) (Look, error), every time.Duration, drills []Drill) (*Feed, error) {
	f := &Feed{look: look, every: every, changed: make(chan struct{})}
	f.in = Input{Drills: drills, Plan: Planned{Unknown: "the cluster was not observed yet"}}
	return f, f.publish()
}

// View is the page as it is now, and a channel that is closed when there is another one.
func (f *Feed) View() (*View, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view, f.changed
}

// Run looks until the context ends, which is no error. An error says that the page cannot be rendered.
func (f *Feed) Run(ctx context.Context) error {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for ctx.Err() == nil {
		if err := f.once(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

// once looks once. A look that takes too long makes the page stale while it goes on.
func (f *Feed) once(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, lookTimeout, fmt.Errorf("the observation did not end within %s", lookTimeout))
	defer cancel()
	type found struct {
		Look
		err error
	}
	done := make(chan found, 1)
	go func() {
		l, err := f.look(limited)
		if err == nil && limited.Err() != nil { // what it found is no more than that there was no time
			err = context.Cause(limited)
		}
		done <- found{l, err}
	}()
	select {
	case x := <-done:
		if ctx.Err() != nil {
			return nil
		}
		return f.next(x.Look, x.err)
	case <-limited.Done():
	}
	if ctx.Err() == nil {
		if err := f.next(Look{}, context.Cause(limited)); err != nil {
			return err
		}
	}
	// The next look uses the same sessions, and so does whoever closes them.
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-done:
	case <-time.After(endTimeout):
	}
	return nil
}

func (f *Feed) next(l Look, err error) error {
	f.in = f.in.after(l, err, time.Now())
	return f.publish()
}

func (f *Feed) publish() error {
	p := Of(f.in)
	parts, err := p.parts()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view != nil && maps.Equal(f.view.parts, parts) {
		return nil
	}
	f.view = &View{page: p, parts: parts, announce: p.announcement()}
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// after is what there is to show after another look. A look that failed, or in which no host could be reached, says nothing of the cluster: what is known
// stays, and is stale. But if nothing is known, a look without any host is shown, because its findings say what to do.
func (in Input) after(l Look, err error, now time.Time) Input {
	if err == nil && in.State != nil && len(reached(l.State)) == 0 && len(reached(in.State)) > 0 {
		err = noHost(l.State)
	}
	if err != nil {
		since := now
		switch {
		case in.Stale != nil:
			since = in.Stale.Since
		case in.State != nil:
			since = in.State.Seen.Time
		}
		in.Stale = &Stale{Since: since, Why: err.Error()}
		return in
	}
	if in.State == nil {
		in.Since = l.State.Seen.Time
	} else {
		fresh := Changes(in.State.Findings(), l.State.Findings(), l.State.Seen.Time)
		hidden := l.State.Unreachable()
		for i, c := range fresh {
			fresh[i].Unknown = c.Gone && slices.ContainsFunc(c.Finding.Subjects, func(name string) bool { _, is := hidden[name]; return is })
		}
		in.Changes = slices.Concat(fresh, in.Changes)
		in.Changes = in.Changes[:min(len(in.Changes), mostChanges)]
	}
	in.State, in.Stale, in.Plan, in.Repairs = l.State, nil, l.Plan, l.Repairs
	return in
}

// reached are the hosts that could be asked.
func reached(s *cluster.State) (out []string) {
	for _, h := range s.Spec.Spec.Hosts {
		if s.Reachable(h.Name) {
			out = append(out, h.Name)
		}
	}
	return out
}

// noHost says that no host could be reached, with the reason of one of them.
func noHost(s *cluster.State) error {
	why := s.Unreachable()
	for _, name := range slices.Sorted(maps.Keys(why)) {
		return fmt.Errorf("no host can be reached from here (%s: %s)", name, strings.TrimPrefix(why[name], name+": "))
	}
	return errors.New("no host can be reached from here")
}

// announcement is what a screen reader says when it changes: what matters most, and nothing that changes with each observation.
func (p *Page) announcement() string {
	switch {
	case p.Stale != nil:
		return "Stale: nothing can be observed."
	case !p.Known:
		return ""
	case p.Survives.Words == "":
		return p.Cluster + ": " + p.Verdict.Words + "."
	}
	return p.Cluster + ": " + p.Verdict.Words + ". It survives " + p.Survives.Words + "."
}

// since is the message with the parts that differ from those that were sent, which it notes.
func (v *View) since(sent map[string]string) message {
	m := message{Title: v.page.Title, Stale: v.page.Stale != nil, Parts: []part{}}
	for _, id := range append([]string{summary}, sections...) {
		if text := string(v.parts[id]); sent[id] != text {
			sent[id] = text
			m.Parts = append(m.Parts, part{id, text})
		}
	}
	const announced = " announced" // no part has this name
	if sent[announced] != v.announce {
		sent[announced] = v.announce
		m.Announce = v.announce
	}
	return m
}
