package run

import (
	"context"

	"quorate.dev/quorate/internal/plan"
)

// PlanRotation observes and says what it takes to replace the key that encrypts secrets.
func (e *Engine) PlanRotation(ctx context.Context) (*Work, error) {
	w := &Work{Seen: e.Observe(ctx)}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var err error
	w.Plan, err = plan.RotateEncryption(e.Cluster, w.Seen)
	return w, err
}

// Rotate executes a plan of PlanRotation. Hosts that it does not concern may be away.
func (e *Engine) Rotate(ctx context.Context, w *Work) error {
	return execute(ctx, w.Plan, e.env(w))
}
