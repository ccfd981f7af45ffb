package step

import (
	"context"
	"errors"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
)

// verifyTimeout is how long a cluster may take to settle after the last change.
const verifyTimeout = 5 * time.Minute

// verify waits until nothing that the spec says is unmet, and until pods on new nodes reach the others.
func verify(ctx context.Context, e *Env, s plan.Step) error {
	ctx, cancel := withDeadline(ctx, verifyTimeout, "settling")
	defer cancel()
	// The API alone is cheap to ask. Asking every host for everything, again and again, would take processor time from the very
	// programs that are waited for.
	err := retry(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		client, err := e.api(ctx)
		if err != nil {
			return err
		}
		api, err := observe.API(ctx, client)
		if err != nil {
			return err
		}
		seen := cluster.Rebuilt(e.Seen) // a restore that goes on begins on hosts that have its marks
		seen.API = api
		return e.lacking(s, cluster.Evaluate(e.Cluster, seen).UnmetInAPI())
	})
	if err != nil {
		return err
	}
	whole := func() error {
		return retry(ctx, time.Second, func(ctx context.Context) error {
			return e.lacking(s, e.observe(ctx).Unmet())
		})
	}
	traffic := func() error { return tryPodTraffic(ctx, e, s) }
	if err := together([]func() error{whole, traffic}, func(f func() error) error { return f() }); err != nil {
		return err
	}
	return meetAll(ctx, e, s)
}

// observe evaluates the cluster as it is now.
func (e *Env) observe(ctx context.Context) *cluster.State {
	for {
		at := e.at()
		seen := observe.Observe(ctx, at, e.Conns, observe.Hosts{Present: e.Present, Departing: e.Departing})
		e.remember(seen)
		s := cluster.Evaluate(e.Cluster, seen)
		reached := s.Reached()
		if s.Seen.API == nil || reached.Endpoint() == at.Endpoint() || ctx.Err() != nil {
			return s
		}
		e.mu.Lock()
		e.reached = reached
		e.mu.Unlock()
	}
}

// remember gives an observation in which the API did not answer what the cluster recorded when it last did.
func (e *Env) remember(seen *facts.Observation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if seen.API != nil {
		e.lastRecord, e.lastRemoved = seen.API.Record, seen.API.Removed
	}
	seen.LastRecord, seen.LastRemoved = e.lastRecord, e.lastRemoved
}

// lacking shows what is still unmet, and is an error as long as anything is.
func (e *Env) lacking(s plan.Step, unmet []cluster.Finding) error {
	var all []string
	for _, f := range unmet {
		all = append(all, f.Summary)
	}
	return e.waiting(s, all)
}

// waiting shows what a step waits for, and is an error as long as that is anything.
func (e *Env) waiting(s plan.Step, lacks []string) error {
	if len(lacks) == 0 {
		return nil
	}
	all := strings.Join(lacks, "; ")
	e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: s.Host, ID: s.ID, Title: s.Title, Detail: all})
	return errors.New(all)
}
