package scale

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

const (
	// watchTimeout is how long the list of all pods may take, and lookEach the time between two looks at what is still to come.
	watchTimeout = 2 * time.Minute
	lookEach     = 500 * time.Millisecond
	// atOnce is how many requests are made at the same time. The rate of pods does not depend on it.
	atOnce = 16
	// forgottenAfter is how long a pod may be on a simulated node without becoming ready, which takes a second or a few. On a busy computer, kwok
	// has missed 3 of 6000, and it does not look at them again. forgottenAtMost is how many of those that are wanted may be replaced: more than that is no miss.
	forgottenAfter  = 30 * time.Second
	forgottenAtMost = 0.01
	// agentsTimeout is how long the agents of the pod network may take to restart one after another.
	agentsTimeout = 10 * time.Minute
)

// Scaler scales the cluster of a lab.
type Scaler struct {
	Client  kubernetes.Interface
	Cluster *spec.Cluster
	Sink    progress.Sink
	// Patience is how long nothing may come closer to what is wanted: 2 minutes if it is zero. It is no limit for the whole.
	Patience time.Duration
}

func (s *Scaler) patience() time.Duration {
	if s.Patience > 0 {
		return s.Patience
	}
	return 2 * time.Minute
}

func (s *Scaler) note(id, format string, args ...any) {
	s.Sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: id, Detail: fmt.Sprintf(format, args...)})
}

// Access is what kwok needs to reach the API: a kubeconfig, and the token that it names.
type Access struct {
	Kubeconfig []byte
	Token      string
}

// Account makes the service account of kwok, and returns how kwok reaches the API.
func (s *Scaler) Account(ctx context.Context, ca []byte) (Access, error) {
	meta := metav1.ObjectMeta{Name: account, Namespace: metav1.NamespaceSystem}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: account}, Rules: rules}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: account}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: account},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: account, Namespace: metav1.NamespaceSystem}}}
	_, err := s.Client.CoreV1().ServiceAccounts(meta.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if existing(err) == nil {
		if _, err = s.Client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			_, err = s.Client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
		}
	}
	if existing(err) == nil {
		_, err = s.Client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})
	}
	if existing(err) != nil {
		return Access{}, fmt.Errorf("making the account of the simulator: %w", err)
	}
	seconds := int64(tokenLifetime / time.Second)
	made, err := s.Client.CoreV1().ServiceAccounts(meta.Namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return Access{}, fmt.Errorf("making a token for the simulator: %w", err)
	}
	config, err := kubeconfig(s.Cluster, ca)
	return Access{config, made.Status.Token}, err
}

// existing forgives that something exists already.
func existing(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Exclude keeps the DaemonSets of the cluster off simulated nodes, and waits until the agents that restart for that are ready again.
func (s *Scaler) Exclude(ctx context.Context) error {
	list, err := s.Client.AppsV1().DaemonSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var changed []types.NamespacedName
	for i := range list.Items {
		d := &list.Items[i]
		affinity := exclude(d)
		if affinity == nil {
			continue
		}
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"affinity": affinity}}}})
		if err != nil {
			return err
		}
		if _, err := s.Client.AppsV1().DaemonSets(d.Namespace).Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: account}); err != nil {
			return fmt.Errorf("keeping %s/%s off simulated nodes: %w", d.Namespace, d.Name, err)
		}
		changed = append(changed, types.NamespacedName{Namespace: d.Namespace, Name: d.Name})
	}
	ctx, cancel := context.WithTimeoutCause(ctx, agentsTimeout, fmt.Errorf("they were not ready again within %s", agentsTimeout))
	defer cancel()
	for _, name := range changed {
		err := look(ctx, func(ctx context.Context) (bool, error) {
			d, err := s.Client.AppsV1().DaemonSets(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			s.note("scale/agents", "%s: %d of %d agents restarted", name, d.Status.UpdatedNumberScheduled, d.Status.DesiredNumberScheduled)
			return settled(d), nil
		})
		if err != nil {
			return fmt.Errorf("restarting the agents of %s: %w", name, err)
		}
	}
	return nil
}

func settled(d *appsv1.DaemonSet) bool {
	st := d.Status
	return st.ObservedGeneration >= d.Generation && st.UpdatedNumberScheduled == st.DesiredNumberScheduled && st.NumberAvailable == st.DesiredNumberScheduled
}

// look asks again and again until the answer is yes, and returns the error that comes with it. Until then, errors are forgiven: a fault
// may be drilled meanwhile.
func look(ctx context.Context, done func(context.Context) (bool, error)) error {
	tick := time.NewTicker(lookEach)
	defer tick.Stop()
	var last error
	for {
		ok, err := done(ctx)
		if ok {
			return err
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// progressing waits until nothing is left to come, without a limit for the whole: it ends with an error when what is left has not changed for
// the patience. what says of what so much is left, and step which one it is in the progress of the command.
func (s *Scaler) progressing(ctx context.Context, step, what string, left func(context.Context) (int, error)) error {
	before, since := -1, time.Now()
	var last error
	return look(ctx, func(ctx context.Context) (bool, error) {
		asking, end := context.WithTimeout(ctx, s.patience()) // an answer that does not come is no progress, either
		n, err := left(asking)
		end()
		switch {
		case err != nil:
			last = err
		case n == 0:
			return true, nil
		case n != before:
			before, since = n, time.Now()
			s.note(step, "%d %s", n, what)
		}
		if time.Since(since) > s.patience() {
			count := fmt.Sprint(before)
			if before < 0 {
				count = "an unknown number of"
			}
			return true, errors.Join(fmt.Errorf("%s %s, and nothing has changed for %s", count, what, s.patience()), last)
		}
		return false, nil
	})
}

func distance(a, b int) int { return max(a-b, b-a) }

// again repeats what fails in a way that may pass, for as long as the patience is.
func (s *Scaler) again(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.patience(), fmt.Errorf("it did not succeed within %s", s.patience()))
	defer cancel()
	return look(ctx, func(ctx context.Context) (bool, error) {
		err := do(ctx)
		permanent := apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsBadRequest(err)
		return err == nil || permanent, err
	})
}

// each does the same with every item, several at the same time, and ends with the first error.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for _, item := range items {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			if err := do(ctx, item); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// NodesReport is how simulated nodes became as many as they are to be.
type NodesReport struct {
	Wanted  int     `json:"wanted"`
	Added   int     `json:"added"`
	Removed int     `json:"removed"`
	Ready   int     `json:"ready"`
	Seconds float64 `json:"seconds"`
}

// Nodes adds simulated nodes, or removes them, until there are so many, and waits until all are ready. Those that an interrupted run left failed
// come back.
func (s *Scaler) Nodes(ctx context.Context, wanted int) (NodesReport, error) {
	r, begin := NodesReport{Wanted: wanted}, time.Now()
	have, err := s.simulated(ctx)
	if err != nil {
		return r, err
	}
	want := map[string]int{}
	for i := range wanted {
		want[nodeName(i)] = i
	}
	var surplus, dead []string
	for name, n := range have {
		_, ok := want[name]
		switch {
		case !ok:
			surplus = append(surplus, name)
		case n.Labels[facts.SimulatedLabel] != running:
			dead = append(dead, name)
		}
		delete(want, name)
	}
	slices.Sort(surplus)
	var missing []int
	for _, i := range want {
		missing = append(missing, i)
	}
	slices.Sort(missing)
	r.Added, r.Removed = len(missing), len(surplus)
	if err := errors.Join(
		each(ctx, dead, func(ctx context.Context, name string) error { return s.mark(ctx, name, running) }),
		each(ctx, missing, func(ctx context.Context, i int) error {
			return s.again(ctx, func(ctx context.Context) error {
				_, err := s.Client.CoreV1().Nodes().Create(ctx, node(i, s.Cluster), metav1.CreateOptions{})
				return existing(err)
			})
		}),
		each(ctx, surplus, func(ctx context.Context, name string) error {
			return s.again(ctx, func(ctx context.Context) error {
				return gone(s.Client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}))
			})
		})); err != nil {
		return r, fmt.Errorf("changing the simulated nodes: %w", err)
	}
	err = s.progressing(ctx, "scale/nodes", "simulated nodes are to come, to go, or to become ready", func(ctx context.Context) (int, error) {
		have, err := s.simulated(ctx)
		if err != nil {
			return 0, err
		}
		ready := 0
		for _, n := range have {
			if nodeReady(n) {
				ready++
			}
		}
		r.Ready = ready
		return distance(len(have), wanted) + len(have) - ready, nil
	})
	r.Seconds = time.Since(begin).Seconds()
	return r, err
}

func (s *Scaler) simulated(ctx context.Context) (map[string]*corev1.Node, error) {
	list, err := s.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: facts.SimulatedLabel, ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	out := map[string]*corev1.Node{}
	for i := range list.Items {
		out[list.Items[i].Name] = &list.Items[i]
	}
	return out, nil
}

func (s *Scaler) mark(ctx context.Context, name, value string) error {
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%q}}}`, facts.SimulatedLabel, value)
	return s.again(ctx, func(ctx context.Context) error {
		_, err := s.Client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return gone(err)
	})
}

// PodsReport is how the pods of the load became as many as they are to be. Durations are what a watcher saw: from when a pod was there until it was
// on a node, and until it was ready.
type PodsReport struct {
	Wanted  int     `json:"wanted"`
	Ready   int     `json:"ready"`
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"podsPerSecond"`
	// Replaced are pods that the simulator had missed.
	Replaced   int       `json:"replaced"`
	Scheduling Quantiles `json:"scheduling"`
	Startup    Quantiles `json:"startup"`
	// Scheduled is how many pods per second the schedulers placed, from the first to the last.
	Scheduled float64 `json:"scheduledPerSecond"`
}

// Pods creates pods for simulated nodes, or removes them, at a rate, until there are so many, and waits until all are ready.
func (s *Scaler) Pods(ctx context.Context, wanted int, perSecond float64) (PodsReport, error) {
	r, begin := PodsReport{Wanted: wanted, Rate: perSecond}, time.Now()
	watching, end := context.WithCancel(ctx)
	defer end()
	t := newTracker()
	if err := watch(watching, s.Client, t); err != nil {
		return r, err
	}
	if err := s.change(ctx, sets(wanted), perSecond); err != nil {
		return r, fmt.Errorf("changing the pods of the load: %w", err)
	}
	err := s.progressing(ctx, "scale/pods", "pods are to come, to go, or to become ready", func(ctx context.Context) (int, error) {
		all, ready := t.counts()
		r.Ready = ready
		for _, pod := range t.forgotten(forgottenAfter) {
			if float64(r.Replaced) >= forgottenAtMost*float64(wanted) {
				break
			}
			if err := gone(s.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *metav1.NewDeleteOptions(0))); err != nil {
				return 0, err
			}
			r.Replaced++
		}
		return distance(all, wanted) + all - ready, nil
	})
	r.Seconds = time.Since(begin).Seconds()
	r.Scheduling, r.Startup, r.Scheduled = t.measured(begin)
	return r, err
}

// change brings the Deployments to what is wanted, one after the other: each waits for as long as its pods take at the rate.
func (s *Scaler) change(ctx context.Context, want []set, perSecond float64) error {
	have, err := s.deployments(ctx)
	if err != nil {
		return err
	}
	for _, name := range namespaces(want) {
		if _, err := s.Client.CoreV1().Namespaces().Create(ctx, namespace(name), metav1.CreateOptions{}); existing(err) != nil {
			return err
		}
	}
	pace := func(pods int) error {
		pods = distance(pods, 0)
		return pause(ctx, time.Duration(float64(pods)/perSecond*float64(time.Second)))
	}
	for _, w := range want {
		key := types.NamespacedName{Namespace: w.namespace(), Name: w.name()}
		replicas, exists := have[key]
		delete(have, key)
		if exists && replicas == w.replicas {
			continue
		}
		if err := s.again(ctx, func(ctx context.Context) error { return s.put(ctx, w, exists) }); err != nil {
			return err
		}
		if err := pace(w.replicas - replicas); err != nil {
			return err
		}
	}
	var surplus []types.NamespacedName
	for key := range have {
		surplus = append(surplus, key)
	}
	slices.SortFunc(surplus, func(a, b types.NamespacedName) int { return strings.Compare(b.String(), a.String()) })
	background := metav1.DeletePropagationBackground
	for _, key := range surplus {
		err := s.again(ctx, func(ctx context.Context) error {
			if err := gone(s.Client.CoreV1().Services(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{})); err != nil {
				return err
			}
			return gone(s.Client.AppsV1().Deployments(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{PropagationPolicy: &background}))
		})
		if err != nil {
			return err
		}
		if err := pace(have[key]); err != nil {
			return err
		}
	}
	return nil
}

// gone forgives that something does not exist.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// put creates a Deployment with its Service, or changes how many pods it has.
func (s *Scaler) put(ctx context.Context, w set, exists bool) error {
	if exists {
		_, err := s.Client.AppsV1().Deployments(w.namespace()).Patch(ctx, w.name(), types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, w.replicas), metav1.PatchOptions{})
		return err
	}
	_, err := s.Client.CoreV1().Services(w.namespace()).Create(ctx, w.service(), metav1.CreateOptions{})
	if existing(err) != nil {
		return err
	}
	_, err = s.Client.AppsV1().Deployments(w.namespace()).Create(ctx, w.deployment(), metav1.CreateOptions{})
	return existing(err)
}

// deployments are how many pods each Deployment of the load is to have.
func (s *Scaler) deployments(ctx context.Context) (map[types.NamespacedName]int, error) {
	list, err := s.Client.AppsV1().Deployments(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: loadLabel})
	if err != nil {
		return nil, err
	}
	out := map[types.NamespacedName]int{}
	for _, d := range list.Items {
		if d.Spec.Replicas != nil {
			out[types.NamespacedName{Namespace: d.Namespace, Name: d.Name}] = int(*d.Spec.Replicas)
		}
	}
	return out, nil
}

// Remove removes everything that was added to the cluster, apart from the affinity of DaemonSets. It needs no kwok: pods that nothing confirms to have
// ended are removed by the controller manager when their nodes are gone.
func (s *Scaler) Remove(ctx context.Context) error {
	list, err := s.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: loadLabel})
	if err != nil {
		return err
	}
	var own []string
	for _, n := range list.Items {
		if isNamespace(n.Name) {
			own = append(own, n.Name)
		}
	}
	if err := each(ctx, own, func(ctx context.Context, name string) error {
		return gone(s.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}))
	}); err != nil {
		return fmt.Errorf("removing the load: %w", err)
	}
	stuck := s.unloaded(ctx)
	if _, err := s.Nodes(ctx, 0); err != nil {
		return errors.Join(stuck, err)
	}
	if stuck != nil {
		if err := s.unloaded(ctx); err != nil {
			return err
		}
	}
	return errors.Join(gone(s.Client.RbacV1().ClusterRoleBindings().Delete(ctx, account, metav1.DeleteOptions{})), gone(s.Client.RbacV1().ClusterRoles().Delete(ctx, account, metav1.DeleteOptions{})),
		gone(s.Client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).Delete(ctx, account, metav1.DeleteOptions{})))
}

// unloaded waits until the namespaces of the load are gone, with everything in them.
func (s *Scaler) unloaded(ctx context.Context) error {
	return s.progressing(ctx, "scale/remove", "pods and namespaces are left", func(ctx context.Context) (int, error) {
		list, err := s.Client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: loadLabel})
		if err != nil {
			return 0, err
		}
		n := len(list.Items)
		for _, namespace := range list.Items {
			pods, err := s.Client.CoreV1().Pods(namespace.Name).List(ctx, metav1.ListOptions{Limit: 1})
			if err != nil {
				return 0, err
			}
			n += len(pods.Items)
			if more := pods.RemainingItemCount; more != nil {
				n += int(*more)
			}
		}
		return n, nil
	})
}

// Faster is a client's configuration for as many requests as a load takes.
func Faster(config *rest.Config) *rest.Config {
	out := rest.CopyConfig(config)
	out.QPS, out.Burst = 500, 1000
	return out
}
