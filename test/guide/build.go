package guide

import (
	"bytes"
	"context"

	"quorate.dev/quorate/internal/byhand"
	"quorate.dev/quorate/internal/spec"
)

// Build runs what `quorate plan --by-hand` prints for this cluster: kubeadm's documentation for highly available clusters, in its
// order, with upstream's own timings.
func Build(ctx context.Context, c *spec.Cluster) error {
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
	return Run(ctx, script.Bytes())
}
