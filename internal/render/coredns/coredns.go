// Package coredns says how CoreDNS is changed after kubeadm has installed it. It is pure.
package coredns

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Spread is the change to the Deployment of CoreDNS, which has that many replicas, as a JSON merge patch: it replaces the whole list of
// constraints, because a strategic merge has room for one with each key. CoreDNS is scaled if scale is not 0.
//
// Different nodes are a condition for its replicas, and so is more than one zone if zones says so. That the zones have
// equal numbers is a wish: a small zone would keep a large one from having enough. During a rolling update the constraints count only
// replicas of one version, or an update on two nodes would never end. As long as there is one node or zone only, the second replica waits
// for another: without a least number, both would be on the first for good.
func Spread(has, scale int, zones bool) map[string]any {
	constraint := func(key string, skew int, when corev1.UnsatisfiableConstraintAction) corev1.TopologySpreadConstraint {
		return corev1.TopologySpreadConstraint{MaxSkew: int32(skew), TopologyKey: key, WhenUnsatisfiable: when,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}}, MatchLabelKeys: []string{appsv1.DefaultDeploymentUniqueLabelKey}}
	}
	nodes := constraint(corev1.LabelHostname, 1, corev1.DoNotSchedule)
	nodes.MinDomains = new(int32(2))
	constraints := []corev1.TopologySpreadConstraint{nodes, constraint(corev1.LabelTopologyZone, 1, corev1.ScheduleAnyway)}
	if zones {
		replicas := has
		if scale > 0 {
			replicas = scale
		}
		// All but one may be in one zone. Zones that take none, because they are down or have other taints, are not counted.
		apart := constraint(corev1.LabelTopologyZone, max(1, replicas-1), corev1.DoNotSchedule)
		apart.MinDomains, apart.NodeTaintsPolicy = new(int32(2)), new(corev1.NodeInclusionPolicyHonor)
		constraints = append(constraints, apart)
	}
	deployment := map[string]any{"template": map[string]any{"spec": map[string]any{"topologySpreadConstraints": constraints}}}
	if scale > 0 {
		deployment["replicas"] = scale
	}
	return map[string]any{"spec": deployment}
}
