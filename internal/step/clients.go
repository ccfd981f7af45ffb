package step

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
)

// clients are the Deployments of kubeadm and of Quorate whose pods use the API, and read what they trust only when they start. Prometheus reads it again, and loses
// its samples with its pod.
func (e *Env) clients() []client {
	out := []client{{metav1.NamespaceSystem, "coredns", "CoreDNS", "k8s-app=kube-dns"}}
	if e.Cluster.InstallsPrometheus() {
		out = append(out, client{monitoring.Namespace, monitoring.StateMetrics, monitoring.StateMetrics, "app.kubernetes.io/name=" + monitoring.StateMetrics})
	}
	return out
}

// client is a Deployment, with the labels of its pods.
type client struct{ namespace, name, title, pods string }

// restartClients replaces the pods of DaemonSets, and those of Deployments, one after another. Those that need a renewed certificate restart when it
// is published to them.
func restartClients(ctx context.Context, e *Env, s plan.Step) error {
	in, err := e.trust(s)
	if err != nil {
		return err
	}
	api, err := e.api(ctx)
	if err != nil {
		return err
	}
	if renews(s) {
		return e.restartFormerClients(ctx, api, s, in)
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	patch, err := authorityPatch(pkifile.KeyIDs(in.Trusted)[len(s.Trusted)-1])
	if err != nil {
		return err
	}
	for _, d := range e.clients() {
		if err := e.restartDeployment(ctx, api, d, patch); err != nil {
			return err
		}
	}
	return e.replacePods(ctx, s.Pods, patch)
}

// authorityPatch has a controller replace pods for another authority.
func authorityPatch(value string) ([]byte, error) {
	return json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{facts.AuthorityAnnotation: value}}}}})
}

// restartDeployment changes the template of a Deployment, and waits until its pods were replaced. A cluster may not have it.
func (e *Env) restartDeployment(ctx context.Context, api *kube.Client, of client, patch []byte) error {
	deployments := api.AppsV1().Deployments(of.namespace)
	err := e.onAPI(ctx, "restarting "+of.title, func(ctx context.Context) error {
		_, err := deployments.Patch(ctx, of.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
		return ignoreAbsent(err)
	})
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, rolloutTimeout, "restarting "+of.title)
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		d, err := deployments.Get(ctx, of.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil && !deploymentRolledOut(d) {
			err = fmt.Errorf("%d of %d pods of %s were replaced", d.Status.UpdatedReplicas, d.Status.Replicas, of.title)
		}
		return err
	})
}

// restartFormerClients replaces the pods that may have read what they trust before a renewed certificate was published, and no others. A rollout
// would wait for all nodes. What cannot be replaced now is left, and noted: nobody else must wait for it to get the certificate, and a later
// plan finds it again (see cluster.State.FormerClients).
func (e *Env) restartFormerClients(ctx context.Context, api *kube.Client, s plan.Step, in kubeadm.TrustRequest) error {
	trusted, only := awaited(s, in)
	if err := awaitPublished(ctx, api, trusted, only); err != nil {
		return err
	}
	sets := s.Pods
	if len(sets) == 0 {
		var err error
		if sets, err = observe.AgentSets(ctx, api); err != nil {
			return err
		}
	}
	published := map[string]time.Time{}
	for _, d := range e.clients() {
		published[d.namespace] = time.Time{}
	}
	for _, set := range sets {
		namespace, _, _ := strings.Cut(set, "/")
		published[namespace] = time.Time{}
	}
	for namespace := range published {
		if err := e.onAPI(ctx, "reading what pods in "+namespace+" trust", func(ctx context.Context) error {
			m, err := api.CoreV1().ConfigMaps(namespace).Get(ctx, facts.RootCA, metav1.GetOptions{})
			if err == nil {
				published[namespace] = observe.WrittenAt(m)
			}
			return ignoreAbsent(err) // a namespace that is not there yet has no pods
		}); err != nil {
			return err
		}
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	left := map[string]string{} // why, by node, or by the title of a Deployment
	for _, d := range e.clients() {
		if err := e.restartFormerDeployment(ctx, api, d, in.Trusted, published[d.namespace]); err != nil {
			if ctx.Err() != nil {
				return err
			}
			left[d.title] = err.Error()
		}
	}
	nodes := e.nodesWithAgents(left)
	ready, err := readyNodes(ctx, api, nodes, readyPatience)
	if err != nil {
		return err
	}
	failed, err := onNodes(ctx, ready, func(ctx context.Context, node string) error {
		return e.replaceFormer(ctx, api, sets, node, published)
	})
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if !slices.Contains(ready, node) {
			left[node] = "the node is not Ready"
		}
	}
	maps.Copy(left, failed)
	for _, name := range slices.Sorted(maps.Keys(left)) {
		e.report(s, "left as it is, for a later `quorate apply`: "+name+": "+firstLine(left[name]))
	}
	return nil
}

// nodesWithAgents are the nodes of hosts that could be queried, and are not in maintenance. It notes why the others are left.
func (e *Env) nodesWithAgents(left map[string]string) (out []string) {
	for _, h := range e.Cluster.Spec.Hosts {
		f := e.Seen.Hosts[h.Name].Facts
		away := false
		if e.Seen.API != nil {
			_, away = e.Seen.API.Maintenance[h.Name]
		}
		switch {
		case !h.IsNode():
		case f == nil:
			left[h.Name] = "the host could not be queried"
		case away:
			left[h.Name] = "the host is in maintenance"
		case f.Kubernetes.KubeletConfig:
			out = append(out, h.Name)
		}
	}
	return out
}

// filesFollow is more than what a kubelet takes to change the files of pods that run when a ConfigMap changes.
const filesFollow = 3 * time.Minute

// startedBefore says that a pod may have read what it trusts before that was published at some time, or that nobody can tell. A kubelet gives a new
// pod what is published, and changes the files of others some time later. One that has ended, such as one that was evicted, trusts nothing any more.
func startedBefore(p *corev1.Pod, published time.Time) bool {
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return false
	}
	if published.IsZero() {
		return true
	}
	if p.CreationTimestamp.Time.After(published) {
		return false
	}
	for _, c := range p.Status.ContainerStatuses {
		if running := c.State.Running; running == nil || !running.StartedAt.Time.After(published.Add(filesFollow)) {
			return true
		}
	}
	return len(p.Status.ContainerStatuses) == 0
}

// restartFormerDeployment replaces the pods of a Deployment if one of them was started before the certificate was published.
func (e *Env) restartFormerDeployment(ctx context.Context, api *kube.Client, of client, trusted []byte, published time.Time) error {
	former := false
	if err := e.onAPI(ctx, "reading the pods of "+of.title, func(ctx context.Context) error {
		pods, err := api.CoreV1().Pods(of.namespace).List(ctx, metav1.ListOptions{LabelSelector: of.pods})
		if err == nil {
			former = slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp == nil && startedBefore(&p, published) })
		}
		return err
	}); err != nil || !former {
		return err
	}
	key := pkifile.KeyIDs(trusted)[0]
	patch, err := authorityPatch(key + pkifile.Expiries(trusted)[key].UTC().Format("-20060102T150405Z"))
	if err != nil {
		return err
	}
	return e.restartDeployment(ctx, api, of, patch)
}

// replaceFormer replaces the pods of DaemonSets on one node that were started before the certificate was published in their namespace.
func (e *Env) replaceFormer(ctx context.Context, client *kube.Client, sets []string, node string, published map[string]time.Time) error {
	for _, set := range sets {
		var pods []corev1.Pod
		if err := e.onAPI(ctx, "reading the pods of "+set+" on "+node, func(ctx context.Context) (err error) {
			pods, err = podsOn(ctx, client, set, node)
			return err
		}); err != nil {
			return err
		}
		namespace, _, _ := strings.Cut(set, "/")
		pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return !startedBefore(&p, published[namespace]) })
		if len(pods) == 0 {
			continue // it has none on this node, or the new one is there
		}
		if err := replaceOn(ctx, client, set, node, pods); err != nil {
			return err
		}
	}
	return nil
}

// readyPatience is how long nodes may take, all together, until they are Ready: their kubelets may have restarted a moment ago.
const readyPatience = 2 * time.Minute

// readyNodes are those of some nodes that are Ready, when all of them are or the time has passed.
func readyNodes(ctx context.Context, client *kube.Client, nodes []string, patience time.Duration) (ready []string, _ error) {
	limited, cancel := withDeadline(ctx, patience, "waiting until nodes are Ready")
	defer cancel()
	asked := false
	err := retry(limited, 2*time.Second, func(ctx context.Context) error {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		asked, ready = true, nil
		for i := range list.Items {
			if n := &list.Items[i]; slices.Contains(nodes, n.Name) && nodeReady(n) {
				ready = append(ready, n.Name)
			}
		}
		if len(ready) < len(nodes) {
			return errors.New("some nodes are not Ready")
		}
		return nil
	})
	if ctx.Err() != nil || !asked {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return ready, nil
}

// agentsAtOnce is on how many nodes agents are replaced at the same time, if they need to be on all.
const agentsAtOnce = 10

// onNodes does something on nodes, on some at the same time, and returns why it failed, by node. It is an error if that was not possible on any node.
// When it has failed on agentsAtOnce of them and succeeded on none, it is not the nodes that are wrong, and no more are tried.
func onNodes(ctx context.Context, nodes []string, do func(ctx context.Context, node string) error) (map[string]string, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		done   int
		errs   []error
		failed = map[string]string{}
		slots  = make(chan struct{}, agentsAtOnce)
	)
	for _, node := range nodes {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			mu.Lock()
			hopeless := done == 0 && len(errs) >= agentsAtOnce
			mu.Unlock()
			var err error
			if !hopeless && ctx.Err() == nil {
				err = do(ctx, node)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case hopeless:
				failed[node] = "it was not tried, because it failed on others"
			case err != nil:
				errs = append(errs, fmt.Errorf("%s: %w", node, err))
				failed[node] = err.Error()
			default:
				done++
			}
		})
	}
	wg.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case done == 0:
		return nil, errors.Join(errs...)
	}
	return failed, nil
}
