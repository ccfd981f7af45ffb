package run

import (
	"context"

	"quorate.dev/quorate/internal/endpoint"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/sources"
)

// Preflight checks the hosts and changes nothing. Quick leaves out what takes time and is never an error.
func (e *Engine) Preflight(ctx context.Context, obs *facts.Observation, quick bool, ignore []string) (*preflight.Report, error) {
	seen := observe.Preflight(ctx, e.Cluster, e.Conns, obs, quick)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	findings := preflight.Judge(e.Cluster, obs, seen)
	if !quick {
		// In a build this is a step of the plan, where it can be needed.
		for _, f := range endpoint.Judge(e.Cluster, obs, endpoint.Everywhere(ctx, e.Cluster, obs, e.Conns)) {
			findings = append(findings, preflight.Finding{Severity: preflight.Severity(f.Severity), Check: preflight.EndpointCheck, Hosts: where(f.Host), Summary: f.Summary, Fix: f.Fix})
		}
		for _, f := range sources.Check(ctx, e.Cluster) {
			findings = append(findings, preflight.Finding{Severity: preflight.Error, Check: preflight.SourcesCheck, Summary: f.Summary, Fix: f.Fix})
		}
	}
	return preflight.NewReport(e.Cluster, findings, ignore), nil
}

// where names a finding's host; the caller's machine is none.
func where(host string) []string {
	if host == "" {
		return nil
	}
	return []string{host}
}

// Check refuses to build a cluster on hosts that cannot become it. A cluster that exists has passed, or has grown beyond,
// what can be asked of empty hosts.
func (e *Engine) Check(ctx context.Context, w *Work, ignore []string) error {
	if w.Plan.Empty() || w.State.Exists() {
		return nil
	}
	return progress.Track(ctx, e.Progress, "", "preflight", "check the hosts", func(ctx context.Context) error {
		r, err := e.Preflight(ctx, w.State.Seen, true, ignore)
		if err != nil {
			return err
		}
		return r.Err()
	})
}
