package coredns

import (
	"encoding/json"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestSpread: what becomes of CoreDNS's constraints and replicas.
func TestSpread(t *testing.T) {
	for name, tc := range map[string]struct {
		has      int // the replicas of the Deployment
		scale    int
		zones    bool
		skew     int32 // of the condition for zones; 0 if there is none
		replicas *int32
	}{
		"one zone":                  {2, 0, false, 0, nil},
		"three zones":               {2, 0, true, 1, nil},
		"three zones, one replica":  {1, 0, true, 1, nil},
		"nobody knows how many":     {0, 0, true, 1, nil},
		"scaled up by somebody":     {9, 0, true, 8, nil},
		"scaled up by this":         {2, 13, true, 12, new(int32(13))},
		"scaled up, but in no zone": {2, 13, false, 0, new(int32(13))},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(Spread(tc.has, tc.scale, tc.zones))
			if err != nil {
				t.Fatal(err)
			}
			var patch appsv1.Deployment
			if err := json.Unmarshal(text, &patch); err != nil {
				t.Fatal(err)
			}
			var nodes, wish, zones *corev1.TopologySpreadConstraint
			for _, c := range patch.Spec.Template.Spec.TopologySpreadConstraints {
				if c.LabelSelector == nil || c.LabelSelector.MatchLabels["k8s-app"] != "kube-dns" || len(c.MatchLabelKeys) != 1 {
					t.Errorf("the constraint of %s does not count CoreDNS's replicas of one version: %+v", c.TopologyKey, c)
				}
				switch {
				case c.TopologyKey == corev1.LabelHostname && c.WhenUnsatisfiable == corev1.DoNotSchedule:
					nodes = &c
				case c.TopologyKey == corev1.LabelTopologyZone && c.WhenUnsatisfiable == corev1.DoNotSchedule:
					zones = &c
				case c.TopologyKey == corev1.LabelTopologyZone:
					wish = &c
				}
			}
			if nodes == nil || nodes.MaxSkew != 1 || *nodes.MinDomains != 2 || wish == nil || wish.MaxSkew != 1 {
				t.Errorf("nodes %+v, the wish for zones %+v", nodes, wish)
			}
			switch {
			case zones == nil && tc.skew != 0, zones != nil && zones.MaxSkew != tc.skew:
				t.Errorf("the condition for zones is %+v, want a skew of %d", zones, tc.skew)
			case zones != nil && (*zones.MinDomains != 2 || *zones.NodeTaintsPolicy != corev1.NodeInclusionPolicyHonor):
				t.Errorf("a zone that is down would count: %+v", zones)
			}
			if got := patch.Spec.Replicas; (got == nil) != (tc.replicas == nil) || got != nil && *got != *tc.replicas {
				t.Errorf("replicas %v, want %v", got, tc.replicas)
			}
		})
	}
}
