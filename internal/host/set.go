package host

import (
	"context"
	"fmt"
	"sync"
)

// Set holds the sessions to the hosts of one cluster. It is safe for use by several goroutines.
type Set struct {
	dialer *dialer

	mu    sync.Mutex
	conns map[string]*Conn
	errs  map[string]error
}

// DialAll connects to all targets in parallel. Unreachable hosts do not prevent the use of the others: Get returns the reason
// for each.
func DialAll(ctx context.Context, targets []Target) *Set {
	s := &Set{dialer: newDialer(accessOf(ctx)), conns: map[string]*Conn{}, errs: map[string]error{}}
	s.Add(ctx, targets)
	return s
}

// Add connects to more hosts. One that the set knows already stays as it is.
func (s *Set) Add(ctx context.Context, targets []Target) {
	var wg sync.WaitGroup
	for _, t := range targets {
		if s.knows(t.Name) {
			continue
		}
		wg.Go(func() {
			session, err := s.dialer.session(ctx, t)
			s.mu.Lock()
			defer s.mu.Unlock()
			if err != nil {
				s.errs[t.Name] = err
				return
			}
			s.conns[t.Name] = s.dialer.conn(t, session)
		})
	}
	wg.Wait()
}

func (s *Set) knows(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[name] != nil || s.errs[name] != nil
}

// Get returns the session to a host, or why there is no connection.
func (s *Set) Get(name string) (*Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.conns[name]; ok {
		return c, nil
	}
	if err, ok := s.errs[name]; ok {
		return nil, err
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
