package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Set holds the sessions to the hosts of one cluster. It is safe for use by several goroutines.
type Set struct {
	dialer *dialer

	mu    sync.Mutex
	conns map[string]*Conn
	errs  map[string]unreachable
}

// unreachable is a host without a session.
type unreachable struct {
	target Target
	err    error
}

// DialAll connects to all targets in parallel. Unreachable hosts do not prevent the use of the others: Get returns the reason
// for each.
func DialAll(ctx context.Context, targets []Target) *Set {
	s := &Set{dialer: newDialer(accessOf(ctx)), conns: map[string]*Conn{}, errs: map[string]unreachable{}}
	s.Add(ctx, targets)
	return s
}

// Add connects to more hosts. One that the set knows already stays as it is.
func (s *Set) Add(ctx context.Context, targets []Target) {
	s.dial(ctx, slices.DeleteFunc(slices.Clone(targets), func(t Target) bool { return s.knows(t.Name) }), false)
}

// Retry connects again to the hosts that could not be reached, with the patience of a command that changes nothing, and returns the
// names of those that can be reached now. A host that answers and does not let the caller in, or has the wrong key, is left alone: it
// may lock out who tries often.
func (s *Set) Retry(ctx context.Context) []string {
	s.mu.Lock()
	var targets []Target
	for _, u := range s.errs {
		_, wrongKey := errors.AsType[*HostKeyError](u.err)
		_, unconfirmed := errors.AsType[*UnconfirmedError](u.err)
		if !wrongKey && !unconfirmed && !errors.Is(u.err, errNoKey) && !errors.Is(u.err, errKeyAlone) {
			targets = append(targets, u.target)
		}
	}
	s.mu.Unlock()
	s.dialer.forget()
	return s.dial(ctx, targets, true)
}

// dial connects to targets in parallel and returns the names of those that can be reached. With brief, a host that cannot be reached
// yet costs little.
func (s *Set) dial(ctx context.Context, targets []Target, brief bool) (reached []string) {
	var wg sync.WaitGroup
	for _, t := range targets {
		wg.Go(func() {
			now := t
			if brief {
				now.Patience = Brief
			}
			session, err := s.dialer.session(ctx, now)
			s.mu.Lock()
			defer s.mu.Unlock()
			if err != nil {
				s.errs[t.Name] = unreachable{t, err}
				return
			}
			delete(s.errs, t.Name)
			s.conns[t.Name] = s.dialer.conn(t, session)
			reached = append(reached, t.Name)
		})
	}
	wg.Wait()
	slices.Sort(reached)
	return reached
}

func (s *Set) knows(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[name] != nil || s.errs[name].err != nil
}

// Get returns the session to a host, or why there is no connection.
func (s *Set) Get(name string) (*Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.conns[name]; ok {
		return c, nil
	}
	if u, ok := s.errs[name]; ok {
		return nil, u.err
	}
	return nil, fmt.Errorf("%s: no session to this host", name)
}

// Close ends all sessions.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.dialer.close()
}
