package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestPodsDoNotMoveToANodeThatIsDrainedNext: each step names the other nodes, which are cordoned before the first pod is evicted.
func TestPodsDoNotMoveToANodeThatIsDrainedNext(t *testing.T) {
	c := testCluster()
	b := &builder{State: cluster.Evaluate(c, finished(t, c)), c: c, out: &Plan{}}
	var together []spec.Host
	for _, name := range []string{"worker-a", "cp-b", "lb-a"} {
		h, _ := c.Host(name)
		together = append(together, h)
	}
	first, alone := b.drainNode("worker-a", "test", false, together), b.drainNode("worker-b", "test", false, together[:0])
	if !slices.Equal(first.Nodes, []string{"cp-b"}) || alone.Nodes != nil {
		t.Errorf("%v, %v", first.Nodes, alone.Nodes)
	}
}

// TestNotEveryWorkerIsDrained: the changes of a plan are folded, so that a plan which would drain the last worker is refused as a
// whole.
func TestNotEveryWorkerIsDrained(t *testing.T) {
	c := testCluster()
	s := cluster.Evaluate(c, finished(t, c))
	for hosts, refused := range map[string]bool{"worker-a": false, "worker-b": false, "both": true, "and-back": false} {
		b := &builder{State: s, c: c, out: &Plan{}}
		switch hosts {
		case "both":
			b.drainNode("worker-a", "test", false, nil)
			b.drainNode("worker-b", "test", false, nil)
		case "and-back":
			b.drainNode("worker-a", "test", false, nil)
			b.uncordonNode("worker-a", "test")
			b.drainNode("worker-b", "test", false, nil)
		default:
			b.drainNode(hosts, "test", false, nil)
		}
		var r *cluster.Refusal
		if err := b.fold(); (err != nil) != refused || err != nil && (!errors.As(err, &r) || r.Rule != cluster.RuleEnough) {
			t.Errorf("%s: %v", hosts, err)
		}
	}
}

// TestADrainThatPrometheusHolds is named: the host has the last replica, and the other one is not ready.
func TestADrainThatPrometheusHolds(t *testing.T) {
	for name, tc := range map[string]struct {
		on      []string
		desired int
		hosts   []string
		want    string
	}{
		"both run":                  {[]string{"worker-a", "worker-b"}, 2, []string{"worker-a"}, ""},
		"the other node":            {[]string{"worker-b"}, 2, []string{"worker-a"}, ""},
		"the last one":              {[]string{"worker-a"}, 2, []string{"worker-a"}, "Prometheus runs in 1 of 2 replicas: prometheus-2: Unschedulable. Its disruption budget holds the drain of worker-a until"},
		"somebody wants one only":   {[]string{"worker-a"}, 1, []string{"worker-a"}, ""},
		"none runs":                 {nil, 2, []string{"worker-a"}, ""},
		"both nodes of a zone, one": {[]string{"worker-a"}, 2, []string{"worker-a", "cp-a"}, "Its disruption budget holds the drain of cp-a and worker-a until"},
	} {
		c := testCluster()
		obs := finished(t, c)
		obs.API.Prometheus = &facts.Prometheus{Workloads: []facts.Workload{{Kind: "Deployment", Name: "prometheus", Title: "Prometheus", Desired: tc.desired, Ready: len(tc.on), Updated: 2, On: tc.on,
			NotReady: []facts.WaitingPod{{Why: "prometheus-2: Unschedulable"}}}}}
		b := &builder{State: cluster.Evaluate(c, obs), c: c, out: &Plan{}}
		var together []spec.Host
		for _, name := range tc.hosts {
			h, _ := c.Host(name)
			together = append(together, h)
		}
		for _, name := range tc.hosts {
			b.drainNode(name, "test", false, together)
		}
		if len(b.out.Warnings) > 1 || tc.want == "" && len(b.out.Warnings) > 0 || tc.want != "" && (len(b.out.Warnings) == 0 || !strings.Contains(b.out.Warnings[0], tc.want)) {
			t.Errorf("%s: %q", name, b.out.Warnings)
		}
	}
}
