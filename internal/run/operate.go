package run

import (
	"context"
	"errors"
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// Operate carries out an operation that is not "make the cluster match its spec", such as a maintenance. It takes the lease,
// observes, has decide make the plan, and runs it. It waits for a while if the plan is refused for something that may pass.
func (e *Engine) Operate(ctx context.Context, decide func(*cluster.State) (*plan.Plan, error)) (*Work, error) {
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return nil, err
	}
	return e.operate(ctx, decide)
}

// operate is Operate for a run that has the lease.
func (e *Engine) operate(ctx context.Context, decide func(*cluster.State) (*plan.Plan, error)) (*Work, error) {
	w, err := e.decide(ctx, decide)
	if err != nil {
		return w, err
	}
	return w, e.execute(ctx, w.Plan, w)
}

// decide observes the cluster and makes a plan. It waits for a while if the plan is refused for something that may pass, and tries to
// reach more hosts before each look. A reader that finds nothing to do, and something wrong all the same, looks twice: one probe that a busy
// host answered late is no reason to say that the cluster differs from its spec.
func (e *Engine) decide(ctx context.Context, decide func(*cluster.State) (*plan.Plan, error)) (*Work, error) {
	w, longest := &Work{}, patience
	if e.reads {
		longest = readPatience
	}
	again := e.reads
	for begin := time.Now(); ; {
		w.State = e.State(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var (
			err     error
			refused *cluster.Refusal
		)
		w.Plan, err = decide(w.State)
		switch {
		case err == nil && again && w.Plan.Empty() && len(w.Plan.Unmet)+len(w.Plan.Unreachable) > 0:
			again = false
		case err == nil, !errors.As(err, &refused), !refused.Transient, time.Since(begin) > longest:
			return w, err
		default:
			e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/wait", Title: "wait for the cluster", Detail: refused.Why})
		}
		if err := pause(ctx, lookEach); err != nil {
			return nil, err
		}
		if err := e.reach(ctx); err != nil {
			return nil, err
		}
	}
}

// reach connects to hosts that could not be reached until now. A run that holds the leases of the others takes those of these hosts
// before it observes them.
func (e *Engine) reach(ctx context.Context) error {
	reached := e.Conns.Retry(ctx)
	e.mu.Lock()
	leased, hosts := e.leased, slices.Concat(e.Cluster.Spec.Hosts, e.more.Departing, e.more.Removed)
	e.mu.Unlock()
	if !leased || len(reached) == 0 {
		return nil
	}
	return e.takeLeases(ctx, slices.DeleteFunc(hosts, func(h spec.Host) bool { return !slices.Contains(reached, h.Name) }))
}
