package run

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
)

// RotateOptions are what the user decides about the rotation of an authority.
type RotateOptions struct {
	// Drop lets the last stage begin.
	Drop bool
	// SkipWorkloads lets the last stage begin although workloads may have read what is trusted before the new key was in there.
	SkipWorkloads bool
}

// Rotated is how far a rotation came.
type Rotated struct {
	Authority facts.Authority `json:"authority"`
	// Complete says that nobody trusts the old key any more.
	Complete bool `json:"complete"`
	// Stages are those that this run has reached.
	Stages []cluster.RotationStage `json:"stages"`
	// Waits is what the next stage waits for; empty if it is complete.
	Waits string `json:"waits,omitempty"`
}

// PlanAuthority observes the cluster and plans the next stage of the rotation of an authority.
func (e *Engine) PlanAuthority(ctx context.Context, a facts.Authority, o RotateOptions) (*Work, error) {
	return e.decide(ctx, func(s *cluster.State) (*plan.Plan, error) { return e.rotation(ctx, s, a, o) })
}

// RotateAuthority replaces an authority, stage by stage, each on a fresh observation of what the one before it has left. It ends when the
// rotation is complete, or when the next stage waits for something.
func (e *Engine) RotateAuthority(ctx context.Context, a facts.Authority, o RotateOptions) (Rotated, error) {
	out := Rotated{Authority: a, Stages: []cluster.RotationStage{}}
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return out, err
	}
	var before []string
	for {
		w, err := e.operate(ctx, func(s *cluster.State) (*plan.Plan, error) {
			if len(out.Stages) > 0 && !s.Rotation(a).Begun {
				return &plan.Plan{Cluster: s.Spec.Metadata.Name}, nil
			}
			return e.rotation(ctx, s, a, o)
		})
		if err != nil {
			return out, err
		}
		if w.Plan.Empty() {
			out.Waits, out.Complete = w.Plan.Waits, w.Plan.Waits == ""
			return out, nil
		}
		var steps []string
		for _, s := range w.Plan.Steps {
			steps = append(steps, s.ID)
		}
		if slices.Equal(steps, before) {
			return out, fmt.Errorf("rotating the authority %s: the steps of the stage %q succeeded, and the hosts do not show it: `quorate plan` and `quorate certs` show what they have", a, w.Plan.Rotation)
		}
		before = steps
		if n := len(out.Stages); n == 0 || out.Stages[n-1] != w.Plan.Rotation {
			out.Stages = append(out.Stages, w.Plan.Rotation)
		}
	}
}

// rotation plans the next stage. Before API servers serve with the new key, workloads must trust it.
func (e *Engine) rotation(ctx context.Context, s *cluster.State, a facts.Authority, o RotateOptions) (*plan.Plan, error) {
	options := plan.RotateOptions{Drop: o.Drop}
	p, err := plan.RotateAuthority(s, a, options)
	if err != nil || p.Rotation != cluster.DropStage || !a.Shared() || s.LastStage(s.Rotation(a)) || o.SkipWorkloads {
		return p, err
	}
	client, err := e.client(ctx)
	if err != nil {
		return nil, err
	}
	workloads, err := staleWorkloads(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("looking for workloads that trust only the old certificate: %w", err)
	}
	for _, w := range workloads {
		options.StaleClients = append(options.StaleClients, w.String())
	}
	return plan.RotateAuthority(s, a, options)
}

// workload is what creates pods again, or a pod that nothing creates again.
type workload struct{ kind, namespace, name string }

func (w workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

// staleWorkloads are the workloads with a container that mounts what pods trust and that was started before the controller manager
// published it as it is now.
func staleWorkloads(ctx context.Context, client kubernetes.Interface) (out []workload, err error) {
	published, err := client.CoreV1().ConfigMaps(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + facts.RootCA})
	if err != nil {
		return nil, err
	}
	since := map[string]time.Time{}
	for _, m := range published.Items {
		since[m.Namespace] = m.CreationTimestamp.Time
		for _, f := range m.ManagedFields {
			if f.Time != nil && f.Time.After(since[m.Namespace]) {
				since[m.Namespace] = f.Time.Time
			}
		}
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	sets, err := client.AppsV1().ReplicaSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, p := range pods.Items {
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil
		if ended || !mountsAuthority(&p) || !startedBefore(&p, since[p.Namespace]) {
			continue
		}
		w := workload{"Pod", p.Namespace, p.Name}
		if owner := metav1.GetControllerOf(&p); owner != nil {
			w.kind, w.name = owner.Kind, owner.Name
			i := slices.IndexFunc(sets.Items, func(s appsv1.ReplicaSet) bool {
				return owner.Kind == "ReplicaSet" && s.Namespace == p.Namespace && s.Name == owner.Name
			})
			if i >= 0 {
				if d := metav1.GetControllerOf(&sets.Items[i]); d != nil {
					w.kind, w.name = d.Kind, d.Name
				}
			}
		}
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b workload) int {
		return slices.Compare([]string{a.namespace, a.kind, a.name}, []string{b.namespace, b.kind, b.name})
	})
	return out, nil
}

// mountsAuthority says that a container of a pod has the file with what pods trust.
func mountsAuthority(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.ConfigMap != nil && v.ConfigMap.Name == facts.RootCA || v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ConfigMap != nil && s.ConfigMap.Name == facts.RootCA
		})
	})
}

// startedBefore says that a container of a pod runs since before a time. Times in the API are whole seconds.
func startedBefore(p *corev1.Pod, since time.Time) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil && c.State.Running.StartedAt.Time.Before(since)
	})
}
