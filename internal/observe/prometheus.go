package observe

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/monitoring"
)

// readPrometheus reads how what monitoring.Install installs runs. An answer that fails leaves that unknown, and the rest of the observation as it is.
func readPrometheus(ctx context.Context, client kubernetes.Interface, version string) *facts.Prometheus {
	all := metav1.ListOptions{ResourceVersion: version}
	deployments, err := client.AppsV1().Deployments(monitoring.Namespace).List(ctx, all)
	if err != nil {
		return &facts.Prometheus{Unknown: err.Error()}
	}
	sets, err := client.AppsV1().DaemonSets(monitoring.Namespace).List(ctx, all)
	if err != nil {
		return &facts.Prometheus{Unknown: err.Error()}
	}
	pods, err := client.CoreV1().Pods(monitoring.Namespace).List(ctx, all)
	if err != nil {
		return &facts.Prometheus{Unknown: err.Error()}
	}
	budgets, err := client.PolicyV1().PodDisruptionBudgets(monitoring.Namespace).List(ctx, all)
	if err != nil {
		return &facts.Prometheus{Unknown: err.Error()}
	}
	out := &facts.Prometheus{}
	for _, b := range budgets.Items {
		if _, relaxed := b.Annotations[facts.RelaxedAnnotation]; relaxed {
			out.Relaxed = append(out.Relaxed, b.Namespace+"/"+b.Name)
		}
	}
	slices.Sort(out.Relaxed)
	var said map[types.UID]string
	if slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return isCreated(&p) }) {
		said = podEvents(ctx, client)
	}
	for _, w := range monitoring.Workloads {
		out.Workloads = append(out.Workloads, workloadOf(w, deployments.Items, sets.Items, pods.Items, said))
	}
	return out
}

// workloadOf finds a workload and its pods. Pods that end count only for a DaemonSet: there, no other one runs on their node before they are gone.
func workloadOf(w monitoring.Workload, deployments []appsv1.Deployment, sets []appsv1.DaemonSet, pods []corev1.Pod, said map[types.UID]string) facts.Workload {
	out := facts.Workload{Kind: w.Kind, Namespace: monitoring.Namespace, Name: w.Name, Title: w.Title}
	d := slices.IndexFunc(deployments, func(d appsv1.Deployment) bool { return w.Kind == "Deployment" && d.Name == w.Name })
	s := slices.IndexFunc(sets, func(s appsv1.DaemonSet) bool { return w.Kind == "DaemonSet" && s.Name == w.Name })
	switch {
	case d >= 0:
		spec, st := deployments[d].Spec, deployments[d].Status
		out.Desired, out.Ready, out.Updated, out.Stale = 1, int(st.ReadyReplicas), int(st.UpdatedReplicas), st.ObservedGeneration < deployments[d].Generation
		if spec.Replicas != nil {
			out.Desired = int(*spec.Replicas)
		}
		for _, c := range st.Conditions {
			if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
				out.Problem = c.Message
			}
		}
	case s >= 0:
		st := sets[s].Status
		out.Desired, out.Ready, out.Updated, out.Stale = int(st.DesiredNumberScheduled), int(st.NumberReady), int(st.UpdatedNumberScheduled), st.ObservedGeneration < sets[s].Generation
	default:
		out.Missing = true
		return out
	}
	for i := range pods {
		p := &pods[i]
		why := whyNotReady(p)
		ends := p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
		switch {
		case p.Labels["app.kubernetes.io/name"] != w.Name || ends && s < 0:
			continue
		case why == "":
			out.On = append(out.On, p.Spec.NodeName)
			continue
		}
		if more := cmp.Or(lastEnd(p), said[p.UID]); more != "" {
			why += ": " + more
		}
		out.NotReady = append(out.NotReady, facts.WaitingPod{Node: p.Spec.NodeName, Why: why})
	}
	slices.Sort(out.On)
	slices.SortFunc(out.NotReady, func(a, b facts.WaitingPod) int { return strings.Compare(a.Why, b.Why) })
	return out
}

// lastEnd is how the last run of a container ended that does not run now; empty if none has run.
func lastEnd(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if end := c.LastTerminationState.Terminated; end != nil && !c.Ready {
			return fmt.Sprintf("%s ended with exit status %d (%s)", c.Name, end.ExitCode, cmp.Or(end.Reason, "no reason is given"))
		}
	}
	return ""
}

// isCreated says that the kubelet prepares the pod, and that only its events tell what it waits for: a volume, for example, or a Secret.
func isCreated(p *corev1.Pod) bool {
	return p.Spec.NodeName != "" && slices.ContainsFunc(p.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Waiting != nil && c.State.Waiting.Message == "" && c.LastTerminationState.Terminated == nil
	})
}

// podEvents are the last warnings about pods. Events only explain, and where they cannot be read, the rest of the observation is as it is. Apply then also waits
// for what it recognizes by an event alone, a Secret that is missing.
func podEvents(ctx context.Context, client kubernetes.Interface) map[types.UID]string {
	list, err := client.CoreV1().Events(monitoring.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.kind=Pod"})
	if err != nil {
		return nil
	}
	last := map[types.UID]corev1.Event{}
	for _, e := range list.Items {
		if have, ok := last[e.InvolvedObject.UID]; !ok || !e.LastTimestamp.Time.Before(have.LastTimestamp.Time) {
			last[e.InvolvedObject.UID] = e
		}
	}
	out := make(map[types.UID]string, len(last))
	for uid, e := range last {
		out[uid] = e.Reason + ": " + e.Message
	}
	return out
}
