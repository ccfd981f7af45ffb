package main

import (
	"bytes"
	"context"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/byhand"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/test/guide"
)

// runDocumented runs what `quorate plan --by-hand` prints for this cluster: kubeadm's documentation for highly available
// clusters, in its order, with upstream's own timings.
func runDocumented(ctx context.Context, c *spec.Cluster, _ *bundle.Bundle, _ progress.Sink) error {
	plain := *c
	plain.Spec.Failover.Profile = spec.ProfileStandard
	transcript, err := byhand.Guide(&plain)
	if err != nil {
		return err
	}
	var script bytes.Buffer
	if err := transcript.Script(&script); err != nil {
		return err
	}
	return guide.Run(ctx, script.Bytes())
}
