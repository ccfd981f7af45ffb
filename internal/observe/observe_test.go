package observe

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"quorate.dev/quorate/internal/facts"
)

func TestReadiness(t *testing.T) {
	const plugin = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
	ready := func(s corev1.ConditionStatus, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeReady, Status: s, Message: message}
	}
	network := func(s corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: s, Message: "no answer from cp-b"}
	}
	for name, c := range map[string]struct {
		conditions []corev1.NodeCondition
		want       facts.Node
	}{
		"ready":                    {[]corev1.NodeCondition{network(corev1.ConditionFalse), ready(corev1.ConditionTrue, "fine")}, facts.Node{Ready: true}},
		"no network":               {[]corev1.NodeCondition{ready(corev1.ConditionFalse, plugin)}, facts.Node{NotReady: "its pod network is not there yet", NoNetwork: true}},
		"no network, and why":      {[]corev1.NodeCondition{ready(corev1.ConditionFalse, plugin), network(corev1.ConditionTrue)}, facts.Node{NotReady: "no answer from cp-b", NoNetwork: true}},
		"why in the other order":   {[]corev1.NodeCondition{network(corev1.ConditionTrue), ready(corev1.ConditionFalse, plugin)}, facts.Node{NotReady: "no answer from cp-b", NoNetwork: true}},
		"an ill kubelet":           {[]corev1.NodeCondition{network(corev1.ConditionTrue), ready(corev1.ConditionFalse, "PLEG is not healthy")}, facts.Node{NotReady: "PLEG is not healthy"}},
		"a kubelet that is silent": {[]corev1.NodeCondition{ready(corev1.ConditionUnknown, "Kubelet stopped posting node status.")}, facts.Node{NotReady: "Kubelet stopped posting node status."}},
	} {
		var got facts.Node
		readiness(&got, c.conditions)
		if got.Ready != c.want.Ready || got.NotReady != c.want.NotReady || got.NoNetwork != c.want.NoNetwork {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}
