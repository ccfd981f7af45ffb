package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/pods"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

const (
	// trafficTimeout is how long pods may take to reach each other for the first time.
	trafficTimeout = 30 * time.Second
	// trialPodTimeout is how long a pod may take to start.
	trialPodTimeout = time.Minute
	trialLabel      = "quorate.dev/trial"
)

// pair is one way to try: from a pod on one node to a pod on another.
type pair struct{ from, to string }

// tryPodTraffic tests that pods on the new nodes reach pods on other nodes, with packets of full size, and names the pair of
// nodes between which this fails.
func tryPodTraffic(ctx context.Context, e *Env, s plan.Step) error {
	pairs := e.trafficPairs(s.Nodes)
	if len(pairs) == 0 {
		return nil
	}
	var nodes []string
	for _, p := range pairs {
		nodes = append(nodes, p.from, p.to)
	}
	slices.Sort(nodes)
	t := traffic{e: e, pods: map[string]pods.Opened{}}
	defer t.close(ctx)
	if err := t.open(ctx, slices.Compact(nodes)); err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, trafficTimeout, "testing pod traffic")
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		failed, left := t.try(ctx, pairs)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pairs = left
		if err := e.waiting(s, failed); err != nil {
			return fmt.Errorf("%w. %s", err, wayForPods(e.Cluster))
		}
		return nil
	})
}

// wayForPods is what to check if pods do not reach each other.
func wayForPods(c *spec.Cluster) string {
	if c.Spec.Network.CNI == spec.CNIFlannel {
		return "Allow UDP port 8472 (VXLAN) between the nodes, with packets as large as the MTU of their interfaces"
	}
	return "The plugin's own documentation says which ports and protocols must pass between the nodes, and how its MTU is set"
}

// trafficPairs makes a ring of the new nodes: each is at both ends once, which costs no more with many nodes than with few
// for each of them. A single new node is paired with one that is there, best in another zone.
func (e *Env) trafficPairs(joined []string) (out []pair) {
	reachable := func(name string) bool { return e.Seen.Hosts[name].Facts != nil }
	ring := slices.DeleteFunc(slices.Clone(joined), func(name string) bool { return !reachable(name) })
	if len(ring) == 1 {
		self, _ := e.Cluster.Host(ring[0])
		others := slices.DeleteFunc(slices.Clone(e.Cluster.Spec.Hosts), func(h spec.Host) bool { return !h.IsNode() || h.Name == self.Name || !reachable(h.Name) })
		if len(others) == 0 {
			return nil
		}
		other := others[0]
		if i := slices.IndexFunc(others, func(h spec.Host) bool { return h.Zone != self.Zone }); i >= 0 {
			other = others[i]
		}
		ring = append(ring, other.Name)
	}
	for i := range ring {
		out = append(out, pair{ring[i], ring[(i+1)%len(ring)]})
	}
	return out
}

// traffic is a test with an open pod on each of its nodes.
type traffic struct {
	e *Env

	mu   sync.Mutex
	pods map[string]pods.Opened // by node
}

// open makes the ends. Plugins that only connect network namespaces get throw-away ones. Those that a user brings may look
// a pod up in the API: for them there are real pods, of the image that every node has.
func (t *traffic) open(ctx context.Context, nodes []string) error {
	ctx, cancel := withDeadline(ctx, trialPodTimeout, "connecting test pods to the network")
	defer cancel()
	uids := map[string]string{}
	if t.e.Cluster.Spec.Network.CNI != spec.CNIFlannel {
		var err error
		if uids, err = t.startPods(ctx, nodes); err != nil {
			return err
		}
	}
	return together(nodes, func(name string) error {
		c, err := t.e.Conns.Get(name)
		if err != nil {
			return err
		}
		// A node can be Ready a moment before its plugin answers every question.
		return retry(ctx, time.Second, func(ctx context.Context) error {
			p, err := pods.Open.On(ctx, c, pods.Request{UID: uids[name]})
			if err != nil {
				return err
			}
			t.mu.Lock()
			defer t.mu.Unlock()
			t.pods[name] = p
			return nil
		})
	})
}

func (t *traffic) try(ctx context.Context, pairs []pair) (failed []string, left []pair) {
	var mu sync.Mutex
	_ = together(pairs, func(p pair) error {
		c, err := t.e.Conns.Get(p.from)
		if err == nil {
			_, err = pods.Reach.On(ctx, c, pods.ReachRequest{Token: t.pods[p.from].Token, To: t.pods[p.to].Address})
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			why := err.Error()
			if said, ok := errors.AsType[*host.Error](err); ok {
				why = said.Message // which host that is stands before it
			}
			failed, left = append(failed, fmt.Sprintf("pods on %s cannot reach pods on %s: %s", p.from, p.to, why)), append(left, p)
		}
		return nil
	})
	slices.Sort(failed)
	return failed, left
}

// close takes everything away again, also after an interrupt. What it cannot take away ends by itself.
func (t *traffic) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var nodes []string
	for name := range t.pods {
		nodes = append(nodes, name)
	}
	_ = together(nodes, func(name string) error {
		c, err := t.e.Conns.Get(name)
		if err == nil {
			_, err = pods.Close.On(ctx, c, t.pods[name].Token)
		}
		return err
	})
	if client, err := t.e.api(ctx); err == nil && t.e.Cluster.Spec.Network.CNI != spec.CNIFlannel {
		_ = deleteTrialPods(ctx, client)
	}
}

// startPods runs one pod on each node and returns their UIDs.
func (t *traffic) startPods(ctx context.Context, nodes []string) (map[string]string, error) {
	client, err := t.e.api(ctx)
	if err != nil {
		return nil, err
	}
	if err := deleteTrialPods(ctx, client); err != nil {
		return nil, err
	}
	for _, name := range nodes {
		c, err := t.e.Conns.Get(name)
		if err != nil {
			return nil, err
		}
		image, err := containerd.PauseImage.On(ctx, c, struct{}{}) // not from the bundle: a maintenance has none
		if err != nil {
			return nil, fmt.Errorf("an image for the test pod on %s: %w", name, err)
		}
		err = retry(ctx, time.Second, func(ctx context.Context) error {
			_, err := client.CoreV1().Pods(metav1.NamespaceSystem).Create(ctx, trialPod(name, image), metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil // by an attempt whose answer was lost
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("the test pod on %s: %w", name, err)
		}
	}
	uids := map[string]string{}
	err = retry(ctx, 500*time.Millisecond, func(ctx context.Context) error {
		list, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: trialLabel})
		if err != nil {
			return err
		}
		var waiting []string
		for _, p := range list.Items {
			if p.Status.PodIP != "" && p.Status.Phase == corev1.PodRunning {
				uids[p.Spec.NodeName] = string(p.UID)
			}
		}
		for _, name := range nodes {
			if uids[name] == "" {
				waiting = append(waiting, "the test pod is not running yet on "+name)
			}
		}
		if len(waiting) > 0 {
			return errors.New(strings.Join(waiting, "; "))
		}
		return nil
	})
	return uids, err
}

// trialPod only provides a network namespace. It ends automatically if it is not deleted.
func trialPod(on, image string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "quorate-trial-" + on, Labels: map[string]string{trialLabel: "pod-traffic"}},
		Spec: corev1.PodSpec{
			NodeName: on, ActiveDeadlineSeconds: new(int64((trafficTimeout + trialPodTimeout).Seconds())), TerminationGracePeriodSeconds: new(int64(0)),
			AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false), RestartPolicy: corev1.RestartPolicyNever,
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:  []corev1.Container{{Name: "pause", Image: image, ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
}

func deleteTrialPods(ctx context.Context, client *kube.Client) error {
	list, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: trialLabel})
	if err != nil {
		return err
	}
	for _, p := range list.Items {
		if err := client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// together runs a function for each in parallel and joins the errors.
func together[T any](all []T, f func(T) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, v := range all {
		wg.Go(func() { errs[i] = f(v) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
