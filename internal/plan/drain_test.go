package plan

import (
	"errors"
	"testing"

	"quorate.dev/quorate/internal/cluster"
)

// TestNotEveryWorkerIsDrained: the changes of a plan are folded, so that a plan which would drain the last worker is refused as a
// whole.
func TestNotEveryWorkerIsDrained(t *testing.T) {
	c := testCluster()
	s := cluster.Evaluate(c, finished(t, c))
	for hosts, refused := range map[string]bool{"worker-a": false, "worker-b": false, "both": true, "and-back": false} {
		b := &builder{State: s, c: c, out: &Plan{}}
		switch hosts {
		case "both":
			b.drainNode("worker-a", "test", false)
			b.drainNode("worker-b", "test", false)
		case "and-back":
			b.drainNode("worker-a", "test", false)
			b.uncordonNode("worker-a", "test")
			b.drainNode("worker-b", "test", false)
		default:
			b.drainNode(hosts, "test", false)
		}
		var r *cluster.Refusal
		if err := b.fold(); (err != nil) != refused || err != nil && (!errors.As(err, &r) || r.Rule != cluster.RuleEnough) {
			t.Errorf("%s: %v", hosts, err)
		}
	}
}
