package run

import (
	"context"

	"quorate.dev/quorate/internal/certs"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
)

// Certificates reads all certificates of the cluster; it changes nothing.
func (e *Engine) Certificates(ctx context.Context) certs.Report {
	s := e.State(ctx)
	webhooks, err := observe.Webhooks(ctx, s, e.Conns)
	return certs.Of(s, webhooks, err)
}

// PlanRenewal observes the cluster and plans new certificates.
func (e *Engine) PlanRenewal(ctx context.Context) (*Work, error) { return e.decide(ctx, plan.Renew) }

// Renew gives the cluster new certificates. In a cluster whose API does not answer because certificates have expired, it needs only the
// hosts.
func (e *Engine) Renew(ctx context.Context) (*Work, error) {
	w, err := e.Operate(ctx, plan.Renew)
	if err == nil && len(w.Plan.Unreachable) > 0 {
		err = &UnreachableError{w.Plan.Unreachable, "quorate certs renew"}
	}
	return w, err
}
