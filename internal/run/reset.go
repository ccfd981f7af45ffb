package run

import (
	"context"

	"quorate.dev/quorate/internal/plan"
)

// ResetOptions say what is reset.
type ResetOptions struct {
	// Hosts are names; none means the whole cluster.
	Hosts []string
	// DryRun only plans.
	DryRun bool
	// Confirm is called with the plan before anything is changed. An error ends the run.
	Confirm func(*Work) error
}

// Reset takes hosts out of the cluster, or ends the cluster as a whole, and leaves its hosts as they were found. It holds the
// lease while the plan is confirmed, so that what was confirmed is what is done.
func (e *Engine) Reset(ctx context.Context, o ResetOptions) (*Work, error) {
	if !o.DryRun {
		if err := e.takeLeases(ctx); err != nil {
			return nil, err
		}
	}
	w := &Work{State: e.State(ctx)}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var err error
	if len(o.Hosts) == 0 {
		w.Plan, err = plan.ResetAll(w.State)
	} else {
		w.Plan, err = plan.Reset(w.State, o.Hosts)
	}
	if err != nil || o.DryRun {
		return w, err
	}
	if err := o.Confirm(w); err != nil {
		return w, err
	}
	if err := e.execute(ctx, w.Plan, w); err != nil {
		return w, err
	}
	if len(w.Plan.Unreachable) > 0 {
		return w, &UnreachableError{Hosts: w.Plan.Unreachable, Command: "quorate reset --all"}
	}
	return w, nil
}
