package observe

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/inspect"
)

// NodeTokens is what a node has of the tokens of its pods' service accounts.
type NodeTokens struct {
	// Old are the pods, as namespace/name, whose token a former key signed, and those that run with a token that nobody found.
	Old []string
	// Youngest is for how long the file of the others that changed last has had its token; nil if there is none.
	Youngest *time.Duration
}

// Tokens looks on a node for the tokens of the pods that run there, and which of them a former key signed.
func Tokens(ctx context.Context, client kubernetes.Interface, conn *host.Conn, node, former string) (NodeTokens, error) {
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return NodeTokens{}, err
	}
	have, err := inspect.ReadTokens.On(ctx, conn, struct{}{})
	if err != nil {
		return NodeTokens{}, err
	}
	return judgeTokens(pods.Items, have, former), nil
}

// judgeTokens compares pods with the tokens that were found after them. What pods that have ended left does not count, and a pod that has not
// begun to run need not have a token yet.
func judgeTokens(pods []corev1.Pod, have []facts.PodToken, former string) (out NodeTokens) {
	for _, p := range pods {
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil
		if ended || !MountsToken(&p) {
			continue
		}
		found, old := false, false
		for _, token := range have {
			if token.Pod != string(p.UID) {
				continue
			}
			found, old = true, old || token.SignedBy == former
			if token.SignedBy != former && (out.Youngest == nil || token.Age < *out.Youngest) {
				out.Youngest = new(token.Age)
			}
		}
		if old || !found && p.Status.Phase == corev1.PodRunning {
			out.Old = append(out.Old, p.Namespace+"/"+p.Name)
		}
	}
	slices.Sort(out.Old)
	return out
}

// MountsToken says that a pod has a token of its service account in a file that the kubelet keeps up to date.
func MountsToken(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil })
	})
}
