// Package run ties a spec to its hosts: observe, plan and apply for every command that needs them. It runs the steps of a
// plan under the lease: what is independent in parallel, on all hosts; what needs something, after it.
package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cni"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/step"
)

// Engine is a cluster's spec with open sessions to its hosts.
type Engine struct {
	Cluster  *spec.Cluster
	Conns    *host.Set
	Progress progress.Sink
	// Adopt is the caller's word that a cluster which somebody else built is to be adopted.
	Adopt bool
}

// Open connects to all hosts at once; those that cannot be reached say so when they are observed.
func Open(ctx context.Context, c *spec.Cluster, sink progress.Sink) *Engine {
	var targets []host.Target
	for _, h := range c.Spec.Hosts {
		targets = append(targets, host.Target{
			Name: h.Name, Address: h.Address, Port: h.SSH.Port, User: h.SSH.User, KeyFile: h.SSH.KeyFile,
			KnownHostsFile: h.SSH.KnownHostsFile, Jump: h.SSH.Jump,
			Notice: func(s string) {
				sink.Emit(progress.Event{Kind: progress.Note, Host: h.Name, ID: h.Name + "/ssh", Detail: s})
			},
		})
	}
	return &Engine{Cluster: c, Conns: host.DialAll(ctx, targets), Progress: sink}
}

// Close ends all sessions, and with them the lease.
func (e *Engine) Close() { e.Conns.Close() }

// Observe reads what is.
func (e *Engine) Observe(ctx context.Context) *facts.Observation {
	return observe.Observe(ctx, e.Cluster, e.Conns)
}

// Work is a plan with what it was made of.
type Work struct {
	Plan      *plan.Plan
	Seen      *facts.Observation
	bundle    *bundle.Bundle
	manifests map[string]manifest.Manifest
}

// How long a cluster that exists and does not answer is given before that counts as the loss of its quorum: machines
// that were all switched on a moment ago need about a minute.
const (
	patience = 2 * time.Minute
	lookEach = 2 * time.Second
)

// Plan observes and says what there is to do with the bundle.
func (e *Engine) Plan(ctx context.Context, b *bundle.Bundle) (*Work, error) {
	described, manifests, err := Describe(e.Cluster, b)
	if err != nil {
		return nil, err
	}
	w := &Work{bundle: b, manifests: manifests}
	for begin := time.Now(); ; {
		w.Seen = e.Observe(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		w.Plan, err = plan.Build(e.Cluster, w.Seen, described)
		var refused *plan.Refusal
		if !errors.As(err, &refused) || refused.Rule != plan.RuleQuorum || time.Since(begin) > patience {
			return w, err
		}
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/wait", Title: "wait for an apiserver", Detail: refused.Why})
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lookEach):
		}
	}
}

// Verify waits until the cluster is seen to be as the spec says.
func (e *Engine) Verify(ctx context.Context, w *Work) error {
	return execute(ctx, plan.Verification(w.Plan), e.env(w))
}

func (e *Engine) env(w *Work) *step.Env {
	return step.NewEnv(e.Cluster, e.Conns, w.Seen, w.bundle, w.manifests, e.Progress)
}

// Describe tells a plan what it has to know of a bundle, and renders the manifests that refer to its images.
func Describe(c *spec.Cluster, b *bundle.Bundle) (plan.Bundle, map[string]manifest.Manifest, error) {
	if b.Version() != c.Spec.Kubernetes.Version {
		return plan.Bundle{}, nil, fmt.Errorf("the bundle holds Kubernetes %s, the spec asks for %s", b.Version(), c.Spec.Kubernetes.Version)
	}
	image := func(short string) string { i, _ := b.Image(short); return i.Name }
	manifests, err := manifest.Render(c, image, b.IsPublished())
	if err != nil {
		return plan.Bundle{}, nil, err
	}
	out := plan.Bundle{Digest: b.Digest(), Version: b.Version(), Pause: image("pause"), Flannel: image("flannel"), Manifests: map[string]string{}}
	own, given, err := cni.Read(c)
	if err != nil {
		return plan.Bundle{}, nil, err
	}
	if given {
		manifests[manifest.CNI] = own
		out.Warnings = foreignImages(own, b)
	}
	if c.Spec.Network.Policies == spec.PoliciesEnforced && b.IsPublished() {
		out.Warnings = append(out.Warnings, "network policies are not enforced: the flannel of this bundle is its project's own, which has nothing for that; write `policies: ignored`, or use a bundle that was compiled")
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

// UnreachableError says which hosts an otherwise finished run had to leave alone.
type UnreachableError struct{ Hosts map[string]string }

func (e *UnreachableError) Error() string {
	msg := "these hosts could not be reached and were left as they are; run apply again when they are back:"
	for _, h := range slices.Sorted(maps.Keys(e.Hosts)) {
		msg += "\n  " + e.Hosts[h]
	}
	return msg
}

// Apply executes the plan. With nothing to do it only tells of hosts that were left out.
func (e *Engine) Apply(ctx context.Context, w *Work) error {
	if err := w.Plan.Allowed(e.Adopt); err != nil {
		return err
	}
	if !w.Plan.Empty() {
		if err := w.sound(ctx); err != nil {
			return err
		}
		if err := execute(ctx, w.Plan, e.env(w)); err != nil {
			return err
		}
	}
	if len(w.Plan.Unreachable) > 0 {
		return &UnreachableError{w.Plan.Unreachable}
	}
	return nil
}

// Kubeconfig reads an administrator's kubeconfig from the first control plane that has one.
func (e *Engine) Kubeconfig(ctx context.Context) ([]byte, error) {
	var last error
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		conn, err := e.Conns.Get(h.Name)
		if err == nil {
			var raw []byte
			if raw, err = kubeadm.Admin.On(ctx, conn, struct{}{}); err == nil {
				return raw, nil
			}
		}
		last = err
	}
	return nil, fmt.Errorf("no control plane has an administrator's kubeconfig: %w", last)
}
