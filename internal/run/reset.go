package run

import (
	"context"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
)

// ResetOptions say what is reset.
type ResetOptions struct {
	// Hosts are names; none means the whole cluster.
	Hosts []string
	// Force has hosts drained although that deletes pods that no controller creates again. It says nothing about the whole cluster.
	Force bool
	// DryRun only plans.
	DryRun bool
	// Confirm is called with the plan before anything is changed. An error ends the run.
	Confirm func(*Work) error
}

// Reset takes hosts out of the cluster, or ends the cluster as a whole, and leaves its hosts as they were found. It holds the
// lease while the plan is confirmed, so that what was confirmed is what is done.
func (e *Engine) Reset(ctx context.Context, o ResetOptions) (*Work, error) {
	if !o.DryRun {
		if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
			return nil, err
		}
	}
	decide := func(s *cluster.State) (*plan.Plan, error) {
		p, err := plan.Reset(s, o.Hosts)
		if err == nil && o.Force {
			p.ForceDrains()
		}
		return p, err
	}
	if len(o.Hosts) == 0 {
		decide = plan.ResetAll
	}
	w, err := e.decide(ctx, decide)
	if more := e.others(); err == nil && !o.DryRun && len(o.Hosts) == 0 && len(more.Departing)+len(more.Removed) > 0 {
		// Only the cluster could tell that these hosts are part of it.
		if err := e.takeLeases(ctx, slices.Concat(more.Departing, more.Removed)); err != nil {
			return nil, err
		}
		w, err = e.decide(ctx, decide)
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
