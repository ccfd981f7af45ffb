package run

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cni"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// Work is a plan with the state from which it was made.
type Work struct {
	Plan  *plan.Plan
	State *cluster.State

	bundles   bundle.Set
	described plan.Bundle // what the plan was made from
	manifests map[string]manifest.Manifest
	// look observes what the changes of the plan are evaluated on, if that is more than Engine.State.
	look func(context.Context) *cluster.State
}

// How long a run waits for what may pass: machines that were all switched on a moment ago need about a minute until their
// API answers, and a member that restarts needs seconds.
const (
	patience = 2 * time.Minute
	lookEach = 2 * time.Second
	// readPatience is for commands that change nothing. It is enough for several observations, and for conditions that a working
	// cluster resolves without help, such as an election. The user wants to see now what is wrong.
	readPatience = 10 * time.Second
)

// Plan observes the cluster and decides what there is to do with the bundle. It waits for a while if the plan is refused for
// something that may pass.
func (e *Engine) Plan(ctx context.Context, b *bundle.Bundle) (*Work, error) {
	return e.decideWith(ctx, b, plan.Build)
}

// showTimeout is how long hosts may take to show their files. A plan is of use without them.
const showTimeout = 15 * time.Second

// CompareFiles adds to the plan how the contents of files would change: it reads those that differ from the hosts.
func (e *Engine) CompareFiles(ctx context.Context, w *Work) error {
	limited, cancel := context.WithTimeoutCause(ctx, showTimeout, fmt.Errorf("no answer within %s", showTimeout))
	defer cancel()
	writes := w.Plan.Writes(w.State)
	have := map[string]map[string]facts.Shown{}
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for host, changed := range writes {
		wg.Go(func() {
			keys := slices.Sorted(maps.Keys(changed))
			shown, err := e.shown(limited, host, keys)
			if err != nil {
				shown = map[string]facts.Shown{}
				for _, key := range keys {
					shown[key] = facts.Shown{Withheld: "it could not be read: " + err.Error()}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			have[host] = shown
		})
	}
	wg.Wait()
	w.Plan.Compare(writes, have)
	return ctx.Err()
}

func (e *Engine) shown(ctx context.Context, host string, keys []string) (map[string]facts.Shown, error) {
	c, err := e.Conns.Get(host)
	if err != nil {
		return nil, err
	}
	return files.Show.On(ctx, c, keys)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Describe returns what a plan needs to know about the bundles of a version, and renders the manifests that refer to their images. There must be
// one bundle.
func Describe(c *spec.Cluster, bundles bundle.Set) (plan.Bundle, map[string]manifest.Manifest, error) {
	b := bundles.Main()
	if b.Version() != c.Spec.Kubernetes.Version {
		return plan.Bundle{}, nil, fmt.Errorf("the bundle contains Kubernetes %s, but the spec says %s", b.Version(), c.Spec.Kubernetes.Version)
	}
	image := func(short string) string { i, _ := b.Image(short); return i.Name }
	if lacks := monitoring.Lacking(c, image, b.Arch()); lacks != "" {
		return plan.Bundle{}, nil, fmt.Errorf("%s. %s", lacks, monitoring.MakeBundle(b.Arch()))
	}
	manifests, err := manifest.Render(c, image, b.IsPublished())
	if err != nil {
		return plan.Bundle{}, nil, err
	}
	for _, other := range bundles[1:] {
		if err := agree(b, other); err != nil {
			return plan.Bundle{}, nil, err
		}
	}
	out := plan.Bundle{Digest: b.Digest(), Arch: b.Arch(), Version: b.Version(), Pause: image("pause"), Flannel: image("flannel"), Manifests: map[string]string{},
		Etcd: b.Etcd(), Images: map[string]string{}, Versions: bundle.Versions()}
	for _, other := range bundles[1:] {
		if out.Others == nil {
			out.Others = map[string]string{}
		}
		out.Others[other.Arch()] = other.Digest()
	}
	for _, short := range []string{"etcd", "kube-apiserver", facts.ControllerManager, facts.Scheduler, "kube-proxy", "coredns"} {
		out.Images[short] = image(short)
	}
	if b.IsPublished() && c.StackedEtcd() { // its members run from the image, which is kubeadm's choice and not the bundle's
		version, _, _ := strings.Cut(cluster.ImageTag(out.Images["etcd"]), "-")
		out.Etcd = "v" + version
	}
	own, given, err := cni.Read(c)
	if err != nil {
		return plan.Bundle{}, nil, err
	}
	if given {
		manifests[manifest.CNI] = own
		out.Warnings = foreignImages(own, b)
	}
	if c.Spec.Network.Policies == spec.PoliciesEnforced && b.IsPublished() {
		out.Warnings = append(out.Warnings, "network policies are not enforced: this bundle contains flannel as its project publishes it, which does not enforce them; set `policies: ignored`, or use a compiled bundle")
	}
	for name, m := range manifests {
		out.Manifests[name] = m.Digest()
	}
	return out, manifests, nil
}

// foreignImages warns of what hosts will have to pull from elsewhere.
func foreignImages(m manifest.Manifest, b *bundle.Bundle) []string {
	var known []string
	for _, i := range b.Images() {
		known = append(known, i.Name)
	}
	unknown := cni.Unknown(m, known)
	if len(unknown) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the pod network's manifest names images that the bundle does not have: %s; every node pulls them from there, or must have them already (`ctr -n k8s.io images import`)", strings.Join(unknown, ", "))}
}
