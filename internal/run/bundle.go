package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/inspect"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// sound refuses to start with an incomplete or damaged bundle: half of the hosts would have it before the first one noticed. A
// plan that brings nothing to any host does not read it.
func (w *Work) sound(ctx context.Context) error {
	if !slices.ContainsFunc(w.Plan.Steps, func(s plan.Step) bool { return s.Kind == plan.InstallBundle || s.Kind == plan.ImportImages }) {
		return nil
	}
	return whole(ctx, w.bundles)
}

// decideWith is decide for a plan that brings a bundle to hosts. It gets the bundles for all architectures that hosts have before anything is
// changed, and observes again afterwards, because that can take a while.
func (e *Engine) decideWith(ctx context.Context, b *bundle.Bundle, decide func(*cluster.State, plan.Bundle) (*plan.Plan, error)) (*Work, error) {
	bundles := bundle.Set{b}
	e.mu.Lock()
	for _, arch := range slices.Sorted(maps.Keys(e.bundles)) {
		bundles = append(bundles, e.bundles[arch])
	}
	e.mu.Unlock()
	for {
		described, manifests, err := Describe(e.Cluster, bundles)
		if err != nil {
			return nil, err
		}
		var lacks []string
		w, err := e.decide(ctx, func(s *cluster.State) (*plan.Plan, error) {
			if lacks = lacking(s, bundles); len(lacks) > 0 {
				return nil, errLacking
			}
			return decide(s, described)
		})
		if !errors.Is(err, errLacking) {
			if w != nil {
				w.bundles, w.described, w.manifests = bundles, described, manifests
			}
			return w, err
		}
		for _, arch := range lacks {
			other, err := e.bundleFor(ctx, arch)
			if err != nil {
				return nil, fmt.Errorf("getting the bundle for hosts whose architecture is %s: %w", arch, err)
			}
			bundles = append(bundles, other)
		}
	}
}

// errLacking says that no plan was made, because a bundle has to be obtained first.
var errLacking = errors.New("a bundle for the architecture of a host is missing")

// lacking are the architectures of hosts for which bundles can be made and that are not in the set.
func lacking(s *cluster.State, have bundle.Set) (out []string) {
	for _, arch := range Architectures(s) {
		if have.For(arch) == nil && slices.Contains(components.Architectures, arch) {
			out = append(out, arch)
		}
	}
	return out
}

// Architectures are those of the hosts that get a bundle, as far as they are known.
func Architectures(s *cluster.State) (out []string) {
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil && f.Arch != "" && (h.IsNode() || h.Has(spec.RoleEtcd)) && !slices.Contains(out, f.Arch) {
			out = append(out, f.Arch)
		}
	}
	slices.Sort(out)
	return out
}

// bundleFor gets the bundle of the spec for an architecture, and keeps it for the other plans of a run. Like the commands themselves, it compiles one only
// for those that change something.
func (e *Engine) bundleFor(ctx context.Context, arch string) (*bundle.Bundle, error) {
	get := sources.BundleFor
	if e.reads {
		get = sources.PreparedFor
	}
	b, err := get(ctx, e.Cluster, arch, e.Progress)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bundles == nil {
		e.bundles = map[string]*bundle.Bundle{}
	}
	e.bundles[arch] = b
	return b, nil
}

// agree refuses bundles for two architectures with which hosts would not be nodes of one cluster: the manifests name the images once.
func agree(a, b *bundle.Bundle) error {
	why := ""
	switch {
	case a.Version() != b.Version():
		why = fmt.Sprintf("one contains Kubernetes %s, the other %s", a.Version(), b.Version())
	case a.IsPublished() != b.IsPublished():
		why = "one was compiled, and the other was assembled from published releases"
	case a.Etcd() != b.Etcd():
		why = fmt.Sprintf("one contains etcd %s, the other %s", a.Etcd(), b.Etcd())
	case !slices.Equal(imageNames(a), imageNames(b)):
		why = "they contain images with different names"
	default:
		return nil
	}
	return fmt.Errorf("the bundles for %s (%s) and for %s (%s) cannot be used in one cluster: %s; get both from the same source, with the same version of quorate", a.Arch(), a.Dir(), b.Arch(), b.Dir(), why)
}

func imageNames(b *bundle.Bundle) (out []string) {
	for _, i := range b.Images() {
		out = append(out, i.Name)
	}
	slices.Sort(out)
	return out
}

// whole refuses bundles of which one is damaged.
func whole(ctx context.Context, bundles bundle.Set) error {
	for _, b := range bundles {
		if err := intact(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func intact(ctx context.Context, b *bundle.Bundle) error {
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

// VerifyImages reads, on all nodes at once, every blob of the images in containerd's store that the bundle for the node's architecture has.
func (e *Engine) VerifyImages(ctx context.Context, bundles bundle.Set) []HostImages {
	var out []HostImages
	for _, h := range e.Cluster.Spec.Hosts {
		if h.IsNode() {
			out = append(out, HostImages{Host: h.Name, Problems: []containerd.ImageProblem{}})
		}
	}
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() {
			found, err := e.verifyImages(ctx, out[i].Host, bundles)
			if len(found) > 0 {
				out[i].Problems = found
			}
			if err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

func (e *Engine) verifyImages(ctx context.Context, name string, bundles bundle.Set) ([]containerd.ImageProblem, error) {
	c, err := e.Conns.Get(name)
	if err != nil {
		return nil, err
	}
	f, err := inspect.ReadFacts.On(ctx, c, facts.Request{})
	if err != nil {
		return nil, err
	}
	b := bundles.For(f.Arch)
	if b == nil {
		return nil, fmt.Errorf("its architecture is %s, and this machine has no intact bundle for that; `quorate apply` gets it", f.Arch)
	}
	return containerd.VerifyImages.On(ctx, c, b.Images())
}
