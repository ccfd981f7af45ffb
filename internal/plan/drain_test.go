package plan

import (
	"errors"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/cluster"
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
