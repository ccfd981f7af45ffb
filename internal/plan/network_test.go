package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
)

// tries are the nodes between which the plan tries pod traffic.
func tries(t *testing.T, p *Plan) []string {
	t.Helper()
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == Verify })
	if i < 0 {
		t.Fatal("nothing is verified")
	}
	return p.Steps[i].Nodes
}

func TestNewNodesTryPodTraffic(t *testing.T) {
	c := testCluster()
	all := []string{"cp-a", "cp-b", "cp-c", "worker-a", "worker-b"}
	if got := tries(t, build(t, c, empty(c))); !slices.Equal(got, all) {
		t.Errorf("a new cluster tries %v", got)
	}

	obs := finished(t, c)
	obs.Hosts["worker-b"].Facts.Kubernetes.KubeletConfig = false
	if got := tries(t, build(t, c, obs)); !slices.Equal(got, []string{"worker-b"}) {
		t.Errorf("a node that joins tries %v", got)
	}

	obs = finished(t, c)
	obs.Hosts["lb-a"].Facts.Units = map[string]string{}
	if got := tries(t, build(t, c, obs)); len(got) != 0 {
		t.Errorf("a balancer that starts again lets nodes try: %v", got)
	}

	obs = finished(t, c)
	obs.API.Applied["flannel"] = "sha256:other"
	if got := tries(t, build(t, c, obs)); !slices.Equal(got, all) {
		t.Errorf("another flannel tries %v", got)
	}

	c.Spec.Network.CNI = spec.CNINone
	p, err := Build(cluster.Evaluate(c, empty(c)), Bundle{Digest: "sha256:b", Version: spec.DefaultVersion, Pause: "pause:1"})
	if err != nil {
		t.Fatal(err)
	}
	if got := tries(t, p); len(got) != 0 {
		t.Errorf("without a pod network %v are to try it", got)
	}
}

func TestOnePodNetwork(t *testing.T) {
	c := testCluster()
	for name, tc := range map[string]struct {
		applied, wanted map[string]string
		cni             string
		refused         bool
	}{
		"as it was":            {map[string]string{"flannel": "1"}, map[string]string{"flannel": "1"}, spec.CNIFlannel, false},
		"a newer one":          {map[string]string{"cni": "1"}, map[string]string{"cni": "2"}, spec.CNIManifest, false},
		"theirs over flannel":  {map[string]string{"flannel": "1"}, map[string]string{"cni": "1"}, spec.CNIManifest, true},
		"flannel over theirs":  {map[string]string{"cni": "1"}, map[string]string{"flannel": "1"}, spec.CNIFlannel, true},
		"none any longer":      {map[string]string{"flannel": "1"}, nil, spec.CNINone, true},
		"the first after none": {nil, map[string]string{"cni": "1"}, spec.CNIChart, false},
	} {
		c.Spec.Network.CNI = tc.cni
		obs := finished(t, c)
		obs.API.Applied = tc.applied
		b := testBundle
		b.Manifests = tc.wanted
		_, err := Build(cluster.Evaluate(c, obs), b)
		var refusal *cluster.Refusal
		if refused := errors.As(err, &refusal); refused != tc.refused || refused && (refusal.Rule != RuleNetwork || !strings.Contains(refusal.Fix, "configmap quorate")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWarningsOfManifestsAreThePlans(t *testing.T) {
	c := testCluster()
	b := testBundle
	b.Warnings = []string{"an image is missing"}
	p, err := Build(cluster.Evaluate(c, finished(t, c)), b)
	if err != nil || !slices.Contains(p.Warnings, "an image is missing") || !p.Empty() {
		t.Errorf("%v, %+v", err, p)
	}
}
