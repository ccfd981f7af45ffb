// Package ui shows people and machines what Quorate does: progress as a live tree, as plain lines or as JSON,
// and text that fits the terminal.
package ui

import (
	"io"
	"sync"
	"time"

	"quorate.dev/quorate/internal/progress"
)

// Options say how progress is shown.
type Options struct {
	// Verbose shows every step and every note.
	Verbose bool
	// JSON writes each event as one line of JSON.
	JSON bool

	size func() (width, height int, err error) // of the terminal, in tests
}

// view turns events into bytes. It is never called by two goroutines at once.
type view interface {
	event(now time.Time, e progress.Event)
	log(now time.Time, line string)
	// render returns what is to be written now; final is the last call.
	render(now time.Time, final bool) []byte
	// pace is how often render is called, and whether it is also called immediately after an event.
	pace() (every time.Duration, eager bool)
}

// Progress shows events. It is a [progress.Sink]; what is written to it as an [io.Writer] are log lines,
// which come out above the live tree.
type Progress struct {
	w    io.Writer
	wake chan struct{}

	mu      sync.Mutex
	view    view
	partial []byte // a log line that has not ended yet
	closed  bool
}

// NewProgress shows progress on w: a live tree if w is a terminal that can show one, plain lines otherwise.
// One goroutine does all the writing, so that a slow terminal never holds up a step; it ends, after a last frame, with
// the returned function, which may be called more than once.
func NewProgress(w io.Writer, opts Options) (*Progress, func()) {
	p := &Progress{w: w, wake: make(chan struct{}, 1), view: newView(w, opts, time.Now())}
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		p.run(done)
	}()
	return p, sync.OnceFunc(func() {
		close(done)
		<-stopped
	})
}

func newView(w io.Writer, opts Options, now time.Time) view {
	if opts.JSON {
		return &jsonView{}
	}
	if opts.size == nil {
		opts.size = liveSize(w)
	}
	if opts.size == nil {
		return newLines(opts.Verbose, now)
	}
	return newTree(opts, now)
}

func (p *Progress) run(done <-chan struct{}) {
	every, eager := p.view.pace()
	tick := time.NewTicker(every)
	defer tick.Stop()
	wake := p.wake
	if !eager {
		wake = nil
	}
	for {
		select {
		case <-tick.C:
		case <-wake:
		case <-done:
			p.flush(true)
			return
		}
		p.flush(false)
	}
}

// flush writes outside the lock, so that it does not block Emit. A closed output is no reason to stop the work that it reports
// on.
func (p *Progress) flush(final bool) {
	p.mu.Lock()
	if final && len(p.partial) > 0 {
		p.view.log(time.Now(), string(p.partial))
		p.partial = nil
	}
	out := p.view.render(time.Now(), final)
	p.closed = final
	p.mu.Unlock()
	if len(out) > 0 {
		p.w.Write(out) //nolint:errcheck
	}
}

// Emit shows an event. Events after the end are dropped.
func (p *Progress) Emit(e progress.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if e.Time.IsZero() {
		e.Time = now
	}
	p.view.event(now, e)
	p.poke()
}

// Write prints whole lines of a log. After the end they go straight to the output.
func (p *Progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.w.Write(b)
	}
	p.partial = append(p.partial, b...)
	for line, rest, found := cut(p.partial); found; line, rest, found = cut(p.partial) {
		p.view.log(time.Now(), string(line))
		p.partial = rest
	}
	p.poke()
	return len(b), nil
}

func (p *Progress) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
