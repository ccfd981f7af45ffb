package run

import (
	"context"

	"quorate.dev/quorate/internal/plan"
)

// PlanRotation observes the cluster and plans the replacement of the key that encrypts secrets.
func (e *Engine) PlanRotation(ctx context.Context) (*Work, error) {
	w := &Work{State: e.State(ctx)}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var err error
	w.Plan, err = plan.RotateEncryption(w.State)
	return w, err
}

// Rotate replaces the key that encrypts secrets. Hosts that it does not concern may be down.
func (e *Engine) Rotate(ctx context.Context) (*Work, error) {
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return nil, err
	}
	w, err := e.PlanRotation(ctx)
	if err != nil {
		return nil, err
	}
	return w, e.execute(ctx, w.Plan, w)
}
