package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// RotateOptions are what the user decides about the rotation of an authority.
type RotateOptions struct {
	// Drop lets the last stage begin.
	Drop bool
	// SkipWorkloads lets the last stage begin although workloads may have read what is trusted, or their token, before the new key was in
	// there, and although secrets have tokens that the old one signed.
	SkipWorkloads bool
	// Published says that whoever verifies tokens of service accounts outside of the cluster has the new key.
	Published bool
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

// Unfinished says that another run has to go on with the rotation, when what it waits for was done.
func (r Rotated) Unfinished() bool { return !r.Complete }

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
	var before *plan.Plan
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
		if before != nil && sameSteps(before, w.Plan) {
			return out, fmt.Errorf("rotating %s: the steps of the stage %q succeeded, and the hosts do not show it: `quorate plan` and `quorate certs` show what they have", a.Title(), w.Plan.Rotation)
		}
		before = w.Plan
		if n := len(out.Stages); n == 0 || out.Stages[n-1] != w.Plan.Rotation {
			out.Stages = append(out.Stages, w.Plan.Rotation)
		}
	}
}

// rotation plans the next stage. Before API servers serve with the new key, or accept tokens of that alone, workloads must be able to go on.
func (e *Engine) rotation(ctx context.Context, s *cluster.State, a facts.Authority, o RotateOptions) (*plan.Plan, error) {
	options := plan.RotateOptions{Drop: o.Drop, Published: o.Published}
	p, err := plan.RotateAuthority(s, a, options)
	r := s.Rotation(a)
	if err != nil || s.LastStage(r) {
		return p, err
	}
	if since, all := s.SignsSince(r); all {
		if err := e.tokensSince(ctx, s, r, since, o.SkipWorkloads, &options); err != nil {
			return nil, fmt.Errorf("looking for tokens that the old key signed: %w", err)
		}
		return plan.RotateAuthority(s, a, options)
	}
	if p.Rotation != cluster.DropStage || !a.Shared() {
		return p, nil
	}
	client, err := e.client(ctx)
	if err != nil {
		return nil, err
	}
	workloads, err := staleWorkloads(ctx, client, r.New)
	if err != nil {
		return nil, fmt.Errorf("looking for workloads that trust only the old certificate: %w", err)
	}
	staleFor(workloads, ownClients(s), o.SkipWorkloads, &options)
	return plan.RotateAuthority(s, a, options)
}

// tokenReload is how often a client of client-go reads its token again (transport/token_source.go), and some more.
const tokenReload = 75 * time.Second

// tokensSince finds out, when every API server has signed with the new key since a moment by the clock of the caller, who may still use tokens
// that the old one signed.
func (e *Engine) tokensSince(ctx context.Context, s *cluster.State, r cluster.Rotation, since time.Time, skip bool, out *plan.RotateOptions) error {
	client, err := e.client(ctx)
	if err != nil {
		return err
	}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs []error
	)
	out.OldTokens = map[string][]string{}
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); !h.IsNode() || f == nil || !f.Kubernetes.KubeletConfig {
			continue
		}
		wg.Go(func() {
			var have observe.NodeTokens
			conn, err := e.Conns.Get(h.Name)
			if err == nil {
				have, err = observe.Tokens(ctx, client, conn, h.Name, r.Old)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", h.Name, err))
			}
			if len(have.Old) > 0 {
				out.OldTokens[h.Name] = have.Old
			}
			if have.Youngest != nil {
				out.Settle = max(out.Settle, tokenReload-*have.Youngest)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil || skip {
		return err
	}
	workloads, err := staleTokens(ctx, client, s.ByControlPlanes(since).Add(cluster.ClockMargin), ownClients(s))
	if err != nil {
		return err
	}
	out.StaleClients = words(workloads)
	secrets, err := client.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)})
	if err != nil {
		return err
	}
	out.TokenSecrets = signedSecrets(secrets.Items, r.Old)
	return nil
}

// signedSecrets are the secrets with a token that a key signed, and those of which nobody can tell.
func signedSecrets(secrets []corev1.Secret, key string) (out []string) {
	for _, s := range secrets {
		text := s.Data[corev1.ServiceAccountTokenKey]
		token, is := pkifile.ReadToken(text)
		if len(text) > 0 && (!is || token.SignedBy == "" || token.SignedBy == key) {
			out = append(out, s.Namespace+"/"+s.Name)
		}
	}
	slices.Sort(out)
	return out
}

// ownClients are the clients of the API that kubeadm and Quorate installed in pods. They are built with client-go, and read their token again. What they trust, the
// first stage of a rotation has them read. The pod network of somebody else may have requested tokens for a day and written them to its nodes, where nobody sees
// them: Calico does so.
func ownClients(s *cluster.State) []workload {
	out := []workload{{"Deployment", metav1.NamespaceSystem, "coredns"}, {"DaemonSet", metav1.NamespaceSystem, facts.KubeProxy}}
	if s.Spec.Spec.Network.CNI == spec.CNIFlannel {
		out = append(out, workload{"DaemonSet", plan.OwnFlannel.Namespace, plan.OwnFlannel.Name})
	}
	if s.Spec.InstallsPrometheus() {
		out = append(out, workload{"Deployment", monitoring.Namespace, monitoring.StateMetrics}, server)
	}
	return out
}

// server is that of the Prometheus that Quorate installs. It reads what it trusts again, and loses its samples with its pod.
var server = workload{"Deployment", monitoring.Namespace, monitoring.Server}

// staleTokens are the workloads with a pod that has a token, and that was made before a moment by the clock of API servers, but for some.
func staleTokens(ctx context.Context, client kubernetes.Interface, since time.Time, but []workload) ([]workload, error) {
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	found, err := workloadsOf(ctx, client, pods.Items, func(p *corev1.Pod) bool { return observe.MountsToken(p) && !p.CreationTimestamp.After(since) })
	return slices.DeleteFunc(found, func(w workload) bool { return slices.Contains(but, w) }), err
}

// workload is what creates pods again, or a pod that nothing creates again.
type workload struct{ kind, namespace, name string }

func (w workload) String() string { return w.kind + " " + w.namespace + "/" + w.name }

// staleFor tells apart which workloads Quorate restarts, and which their owners, unless they are left as they are.
func staleFor(workloads, own []workload, skip bool, out *plan.RotateOptions) {
	for _, w := range workloads {
		switch {
		case !slices.Contains(own, w):
			if !skip {
				out.StaleClients = append(out.StaleClients, w.String())
			}
		case w == server:
		case w.kind == "DaemonSet":
			out.RestartOwn, out.StaleOwn = true, append(out.StaleOwn, w.namespace+"/"+w.name)
		default:
			out.RestartOwn = true
		}
	}
}

// staleWorkloads are the workloads with a container that mounts what pods trust and that was started before it had a new key. The controller manager publishes
// it again when the new key begins to sign, in another order. So what was started after the first pod that Quorate restarted when the new key was published
// everywhere is not stale either, and no pod that Quorate restarted for it is.
func staleWorkloads(ctx context.Context, client kubernetes.Interface, key string) (out []workload, err error) {
	published, err := client.CoreV1().ConfigMaps(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + facts.RootCA})
	if err != nil {
		return nil, err
	}
	since := map[string]time.Time{}
	for _, m := range published.Items {
		if since[m.Namespace] = observe.WrittenAt(&m); since[m.Namespace].IsZero() {
			since[m.Namespace] = m.CreationTimestamp.Time
		}
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	told := func(p *corev1.Pod) bool { return p.Annotations[facts.AuthorityAnnotation] == key }
	var first time.Time
	for _, p := range pods.Items {
		if made := p.CreationTimestamp.Time; told(&p) && (first.IsZero() || made.Before(first)) {
			first = made
		}
	}
	return workloadsOf(ctx, client, pods.Items, func(p *corev1.Pod) bool {
		at := since[p.Namespace]
		if !first.IsZero() && first.Before(at) {
			at = first
		}
		return mountsAuthority(p) && !told(p) && startedBefore(p, at)
	})
}

func words(workloads []workload) (out []string) {
	for _, w := range workloads {
		out = append(out, w.String())
	}
	return out
}

// workloadsOf are the workloads with a pod that has not ended and of which something holds. Pods that are only simulated trust nothing, and use no token.
func workloadsOf(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod, holds func(*corev1.Pod) bool) (out []workload, err error) {
	sets, err := client.AppsV1().ReplicaSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil
		if ended || p.Spec.NodeSelector[facts.SimulatedLabel] != "" || !holds(&p) {
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
