package step

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/manifest"

	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
)

// agentTimeout is how long a DaemonSet's pods may take to be replaced.
const agentTimeout = 3 * time.Minute

// restoreControlPlane writes manifests again that are missing, with kubeadm's configuration as the cluster has it; only while
// the API cannot be read, with the one that Quorate renders.
func restoreControlPlane(ctx context.Context, e *Env, s plan.Step) error {
	_, c, config, err := e.storedConfig(ctx, s)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.RestoreControlPlane.Make(ctx, c, permit, kubeadm.RestoreRequest{Config: config, Pods: s.Pods})
	return err
}

// renewKubelet signs a new client certificate for a kubelet whose own has expired, and restarts the kubelet.
func renewKubelet(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	if s.Authority != "" {
		return reissueKubelet(ctx, e, s)
	}
	if err := certify(ctx, e, s, kubeadmconfig.Client); err != nil {
		return err
	}
	if e.servingExpired(s.Host) { // it would ask for one as soon as it reaches the API, and serve nobody until then
		if err := certify(ctx, e, s, kubeadmconfig.Serving); err != nil {
			return err
		}
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.RestartKubelet.Make(ctx, c, permit, struct{}{})
	return err
}

// restartAgent replaces a DaemonSet's pod on one node.
func restartAgent(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	pods, err := podsOn(ctx, client, s.Pods[0], s.Host)
	if err != nil {
		return err
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	return replaceOn(ctx, client, s.Pods[0], s.Host, pods)
}

// podsOn are the pods of a DaemonSet (namespace/name) on one node.
func podsOn(ctx context.Context, client *kube.Client, set, node string) ([]corev1.Pod, error) {
	namespace, name, _ := strings.Cut(set, "/")
	d, err := client.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the DaemonSet %s: %w", set, err)
	}
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector), FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// replaceOn deletes the pods of a DaemonSet on one node, and waits until another one is ready there.
func replaceOn(ctx context.Context, client *kube.Client, set, node string, pods []corev1.Pod) error {
	old := map[string]bool{}
	for _, p := range pods {
		old[string(p.UID)] = true
		if err := client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	ctx, cancel := withDeadline(ctx, agentTimeout, "restarting "+set+" on "+node)
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		pods, err := podsOn(ctx, client, set, node)
		if err != nil {
			return err
		}
		for _, p := range pods {
			if !old[string(p.UID)] && ready(&p) {
				return nil
			}
		}
		return errors.New("its new pod is not ready yet")
	})
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// rolledOut waits until every DaemonSet of the manifest runs its new version on every node.
func rolledOut(ctx context.Context, client *kube.Client, m manifest.Manifest) error {
	objects, err := m.Decode()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if o.GroupVersionKind().GroupKind() != appsv1.SchemeGroupVersion.WithKind("DaemonSet").GroupKind() {
			continue
		}
		set, err := client.AppsV1().DaemonSets(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if st := set.Status; st.ObservedGeneration < set.Generation || st.UpdatedNumberScheduled < st.DesiredNumberScheduled || st.NumberUnavailable > 0 {
			return fmt.Errorf("the DaemonSet %s/%s runs its new version on %d of %d nodes", set.Namespace, set.Name, st.UpdatedNumberScheduled-st.NumberUnavailable, st.DesiredNumberScheduled)
		}
	}
	return nil
}

// undoJoin removes what an interrupted join of a control plane left: its etcd member, and its files on the host. The member
// goes first: it must not come back with data that etcd no longer knows.
func undoJoin(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	if s.MemberID != "" {
		if err := e.leaveEtcd(ctx, s); err != nil {
			return err
		}
	}
	_, err = kubeadm.AbandonJoin.Make(ctx, c, permit, kubeadm.AbandonRequest{Stacked: e.Cluster.StackedEtcd()})
	return err
}
