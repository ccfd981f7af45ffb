package step

import (
	"context"
	"fmt"

	"quorate.dev/quorate/internal/hostside/reset"
	"quorate.dev/quorate/internal/plan"
)

// resetHost removes everything of the cluster, and of Quorate, from a host.
func resetHost(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	report, err := reset.Reset.Make(ctx, c, permit, e.resetRequest(s))
	return e.cleared(s, report, err)
}

// removeBalancer leaves a host as it was before it became a load balancer. The rest of the cluster on it goes on.
func removeBalancer(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	report, err := reset.RemoveBalancer.Make(ctx, c, permit, e.resetRequest(s))
	return e.cleared(s, report, err)
}

func (e *Env) resetRequest(s plan.Step) reset.Request {
	request := reset.Request{Cluster: e.Cluster.Metadata.Name, PodCIDR: e.Cluster.Spec.Network.PodCIDR, Keep: s.Keep}
	request.VirtualIPs = e.virtualIPs
	return request
}

// cleared shows what a reset did.
func (e *Env) cleared(s plan.Step, report reset.Report, err error) error {
	if err != nil {
		return err
	}
	e.note(s, fmt.Sprintf("%d files, directories, units, interfaces and rules were removed, and %d were restored", len(report.Removed), len(report.Restored)))
	for _, n := range report.Notes {
		e.report(s, n)
	}
	return nil
}
