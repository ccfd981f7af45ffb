package engine

import (
	"context"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/progress"
)

// Preflight checks the hosts and changes nothing. Quick leaves out what takes time and is never an error.
func (e *Engine) Preflight(ctx context.Context, obs *facts.Observation, quick bool, ignore []string) (*preflight.Report, error) {
	seen := observe.Preflight(ctx, e.Cluster, e.Conns, obs, quick)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return preflight.NewReport(e.Cluster, preflight.Judge(e.Cluster, obs, seen), ignore), nil
}

// Check refuses to build a cluster on hosts that cannot become it. A cluster that exists has passed, or has grown beyond,
// what can be asked of empty hosts.
func (e *Engine) Check(ctx context.Context, w *Work, ignore []string) error {
	if w.Plan.Empty() || preflight.Built(w.Seen) {
		return nil
	}
	return progress.Track(ctx, e.Progress, "", "preflight", "check the hosts", func(ctx context.Context) error {
		r, err := e.Preflight(ctx, w.Seen, true, ignore)
		if err != nil {
			return err
		}
		return r.Err()
	})
}
