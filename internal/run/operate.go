package run

import (
	"context"
	"errors"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
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

// decide observes the cluster and makes a plan. It waits for a while if the plan is refused for something that may pass.
func (e *Engine) decide(ctx context.Context, decide func(*cluster.State) (*plan.Plan, error)) (*Work, error) {
	w := &Work{}
	for begin := time.Now(); ; {
		w.State = e.State(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		var (
			err     error
			refused *cluster.Refusal
		)
		if w.Plan, err = decide(w.State); err == nil {
			return w, nil
		}
		if !errors.As(err, &refused) || !refused.Transient || time.Since(begin) > patience {
			return w, err
		}
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/wait", Title: "wait for the cluster", Detail: refused.Why})
		if err := pause(ctx, lookEach); err != nil {
			return nil, err
		}
	}
}
