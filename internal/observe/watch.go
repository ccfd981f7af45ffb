package observe

import (
	"context"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/reach"
	"quorate.dev/quorate/internal/spec"
)

// Watch finds out whether units on control planes could log in on these paths, each from a control plane to sshd on a host. Nothing is decided
// on a single attempt: a path that failed is tried again.
func Watch(ctx context.Context, s *cluster.State, conns *host.Set, paths []facts.Path) (out facts.WatchProbe) {
	p := &probe{ctx: ctx, s: s, c: s.Spec, conns: conns, seen: &facts.Preflight{Errors: map[string]string{}}}
	targets := map[string][]reach.DialTarget{}
	for _, path := range paths {
		targets[path.From] = append(targets[path.From], reach.DialTarget{Path: path})
		if c, err := conns.Get(path.To); err == nil && c.SudoAsked() && !slices.Contains(out.SudoAsks, path.To) {
			out.SudoAsks = append(out.SudoAsks, path.To)
		}
	}
	again := map[string][]reach.DialTarget{}
	for _, r := range p.dial(s.Spec.HostsWith(spec.RoleControlPlane), targets) {
		if r.Outcome == facts.Reached {
			out.Reach = append(out.Reach, r)
		} else {
			again[r.From] = append(again[r.From], reach.DialTarget{Path: r.Path})
		}
	}
	out.Reach = append(out.Reach, p.dial(s.Spec.HostsWith(spec.RoleControlPlane), again)...)
	out.Errors = p.seen.Errors
	return out
}
