package step

import (
	"context"
	"strings"
	"time"

	"quorate.dev/quorate/internal/hostside/reset"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// resetHost removes everything of the cluster, and of Quorate, from a host.
func resetHost(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	request := reset.Request{Cluster: e.Cluster.Metadata.Name, PodCIDR: e.Cluster.Spec.Network.PodCIDR}
	if e.Cluster.Spec.LoadBalancer.Type == spec.BalancerManaged {
		request.VirtualIP = e.Cluster.Spec.LoadBalancer.Address
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	report, err := reset.Reset.Make(ctx, c, permit, request)
	if len(report.Notes) > 0 {
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: s.Host, ID: s.ID, Title: s.Title, Detail: strings.Join(report.Notes, "; ")})
	}
	return err
}
