package run

import (
	"context"
	"errors"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/lease"
)

// TestElection: who has the consent of a majority leads, and a candidate that meets another one gives back what it has.
func TestElection(t *testing.T) {
	down := errors.New("no route to host")
	for name, tc := range map[string]struct {
		answers []any // a Leader, or an error
		leads   bool
		leader  string
		why     string
		asked   int
	}{
		"all agree":                  {answers: []any{lease.Leader{Granted: true}, lease.Leader{Granted: true}, lease.Leader{Granted: true}}, leads: true, leader: "cp-b", asked: 3},
		"a majority agrees":          {answers: []any{down, lease.Leader{Granted: true}, lease.Leader{Granted: true}}, leads: true, leader: "cp-b", asked: 3},
		"a minority agrees":          {answers: []any{down, lease.Leader{Granted: true}, down}, why: "1 of 3 could be asked: no route to host", asked: 3},
		"another one leads":          {answers: []any{lease.Leader{Held: "cp-a"}}, leader: "cp-a", asked: 1},
		"another one leads the rest": {answers: []any{lease.Leader{Granted: true}, lease.Leader{Held: "cp-a"}}, leader: "cp-a", asked: 2},
		"nobody can be asked":        {answers: []any{down, down, down}, why: "0 of 3", asked: 3},
	} {
		asked := 0
		e := newElection("cp-b", []host.Target{{Name: "cp-a", KeyFile: "/nonexistent"}, {Name: "cp-b", KeyFile: "/nonexistent"}, {Name: "cp-c", KeyFile: "/nonexistent"}})
		e.ask = func(context.Context, *host.Set, string) (lease.Leader, error) {
			asked++
			switch x := tc.answers[asked-1].(type) {
			case lease.Leader:
				return x, nil
			case error:
				return lease.Leader{}, x
			}
			return lease.Leader{}, nil
		}
		leads, leader, why := e.hold(t.Context())
		if leads != tc.leads || leader != tc.leader || !strings.Contains(why, tc.why) || tc.why == "" && why != "" || asked != tc.asked {
			t.Errorf("%s: %t, %q, %q after %d", name, leads, leader, why, asked)
		}
		if (e.set != nil) != leads {
			t.Errorf("%s: it keeps what it has: %t", name, e.set != nil)
		}
		e.resign()
	}
}

// TestTurns: a watcher whose turn it is not observes nothing, and one that was replaced ends.
func TestTurns(t *testing.T) {
	ended := errors.New("replaced")
	turns := 0
	w := Watcher{Interval: 1, Open: func(context.Context) *Engine { t.Error("it observes"); return &Engine{} }, Note: func(string) {}, Tell: func(Mended) {},
		Turn: func(context.Context) (bool, error) {
			if turns++; turns > 3 {
				return false, ended
			}
			return false, nil
		}}
	if err := w.Run(t.Context()); !errors.Is(err, ended) || turns != 4 {
		t.Errorf("%v after %d turns", err, turns)
	}
}
