// Package progress carries what a long operation is doing from where it happens to
// whoever shows it: a live tree on a terminal, plain lines in a log, JSON for a machine.
package progress

import (
	"context"
	"sync"
	"time"
)

// Kind says what an Event reports about its step.
type Kind string

// The life of a step: Start, any number of Notes, then Done or Fail. A Note need not belong to a step.
const (
	Start Kind = "start"
	Note  Kind = "note"
	Done  Kind = "done"
	Fail  Kind = "fail"
)

// Event is one thing that happened. Host is empty for what is done on the caller's side.
// ID is unique within one run and joins the events of one step.
type Event struct {
	Time    time.Time     `json:"time"`
	Kind    Kind          `json:"kind"`
	Host    string        `json:"host,omitempty"`
	ID      string        `json:"id"`
	Title   string        `json:"title,omitempty"`
	Detail  string        `json:"detail,omitempty"`
	Elapsed time.Duration `json:"elapsedNanoseconds,omitempty"`
	Err     string        `json:"error,omitempty"`
}

// Sink receives events. Emit may be called from several goroutines at once and must not block for long.
type Sink interface{ Emit(Event) }

// Discard is the Sink for callers that do not care.
var Discard Sink = discard{}

type discard struct{}

func (discard) Emit(Event) {}

// Func makes a Sink of a function; calls are serialized.
func Func(f func(Event)) Sink { return &funcSink{f: f} }

type funcSink struct {
	mu sync.Mutex
	f  func(Event)
}

func (s *funcSink) Emit(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f(e)
}

// Tee sends every event to all sinks in order.
func Tee(sinks ...Sink) Sink {
	return Func(func(e Event) {
		for _, s := range sinks {
			s.Emit(e)
		}
	})
}

// Track runs f and emits its start and its end.
func Track(ctx context.Context, sink Sink, host, id, title string, f func(context.Context) error) error {
	begin := time.Now()
	sink.Emit(Event{Time: begin, Kind: Start, Host: host, ID: id, Title: title})
	err := f(ctx)
	end := Event{Time: time.Now(), Kind: Done, Host: host, ID: id, Title: title, Elapsed: time.Since(begin)}
	if err != nil {
		end.Kind, end.Err = Fail, err.Error()
	}
	sink.Emit(end)
	return err
}
