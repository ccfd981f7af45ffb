package run

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/plan"
)

// sound refuses to start with an incomplete or damaged bundle: half of the hosts would have it before the first one noticed. A
// plan that brings nothing to any host does not read it.
func (w *Work) sound(ctx context.Context) error {
	if !slices.ContainsFunc(w.Plan.Steps, func(s plan.Step) bool { return s.Kind == plan.InstallBundle || s.Kind == plan.ImportImages }) {
		return nil
	}
	return whole(ctx, w.bundle)
}

// whole refuses a bundle that is damaged.
func whole(ctx context.Context, b *bundle.Bundle) error {
	damages, err := b.Verify(ctx)
	if err != nil {
		return err
	}
	if len(damages) == 0 {
		return nil
	}
	var all []string
	for _, d := range damages {
		all = append(all, d.String())
	}
	return &cluster.Refusal{Rule: "whole-bundle", Why: fmt.Sprintf("the bundle in %s is damaged: %s", b.Dir(), strings.Join(all, "; ")),
		Fix: "Nothing was changed. Run `quorate bundle build` again; for a bundle that came from elsewhere, `quorate bundle import` or `quorate bundle pull`."}
}

// HostImages is what one host's containerd has of a bundle.
type HostImages struct {
	Host string `json:"host"`
	// Error is set when the host could not be asked.
	Error    string                    `json:"error,omitempty"`
	Problems []containerd.ImageProblem `json:"problems"`
}

// OK says that every image was read and found as it should be.
func (h HostImages) OK() bool { return h.Error == "" && len(h.Problems) == 0 }

// VerifyImages reads, on every node at once, all blobs of the bundle's images in containerd's store.
func (e *Engine) VerifyImages(ctx context.Context, b *bundle.Bundle) []HostImages {
	var out []HostImages
	for _, h := range e.Cluster.Spec.Hosts {
		if h.IsNode() {
			out = append(out, HostImages{Host: h.Name, Problems: []containerd.ImageProblem{}})
		}
	}
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			c, err := e.Conns.Get(out[i].Host)
			if err == nil {
				var found []containerd.ImageProblem
				if found, err = containerd.VerifyImages.On(ctx, c, b.Images()); len(found) > 0 {
					out[i].Problems = found
				}
			}
			if err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}
