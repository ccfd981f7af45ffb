package run

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/drill"
)

// KnownForDrill reads, through the sessions to the hosts, what drill.Place needs besides an observation.
func (e *Engine) KnownForDrill(ctx context.Context) drill.Known {
	client, err := e.client(ctx)
	if err != nil {
		return drill.Known{}
	}
	return knownFor(ctx, client)
}

// knownFor reads what an observation does not say and faults need: which controller manager and which scheduler lead, and where CoreDNS
// runs. What could not be read is left out: a fault that needs it is skipped, with the reason.
func knownFor(ctx context.Context, api kubernetes.Interface) drill.Known {
	ctx, cancel := context.WithTimeout(ctx, podsPatience)
	defer cancel()
	out := drill.Known{Leaders: map[drill.Target]string{}}
	for _, program := range []drill.Target{drill.ControllerManager, drill.Scheduler} {
		lease, err := api.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, string(program), metav1.GetOptions{})
		if err == nil && lease.Spec.HolderIdentity != nil {
			// The identity is the name of the host and something unique.
			out.Leaders[program], _, _ = strings.Cut(*lease.Spec.HolderIdentity, "_")
		}
	}
	pods, err := api.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil {
		return out
	}
	for _, p := range pods.Items {
		ready := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
		if ready && !slices.Contains(out.DNS, p.Spec.NodeName) {
			out.DNS = append(out.DNS, p.Spec.NodeName)
		}
	}
	slices.Sort(out.DNS)
	return out
}
