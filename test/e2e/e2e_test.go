//go:build e2e

package e2e

import (
	"context"
	"testing"

	"quorate.dev/quorate/internal/lab"
)

// TestCluster is the life of the default cluster, from `quorate up` to `quorate down`.
func TestCluster(t *testing.T) {
	c := newCluster(t, "e2e")
	before := traces(t, c.name)
	up(t, c)
	var key rotation
	for _, part := range []struct {
		name string
		test func(*testing.T, *cluster)
	}{
		{"status", statusKeys},
		{"dashboard", dashboards},
		{"nothing to do", nothingToDo},
		{"audit", singlePoints},
		{"edits", edits},
		{"labels and taints", pools},
		{"lost parts", lostParts},
		{"callers", callers},
		{"kubectl", kubectl},
		{"secure", key.begin},
		{"workloads", workloads},
		{"backups", backups}, // while the key is rotated
		{"key", key.end},
		{"backup schedule", backupSchedule},
		{"kubeadm", kubeadmByHand},
		{"refusals", refusals},
		{"maintenance", maintenance},
		{"packages", packages},
		{"repairs", repairsOfStacked},
		{"repairs by control planes", repairsByControlPlanes},
		{"metrics", exportedMetrics},
		{"drill", drills},
		{"restore", restoreSame},
		{"down", func(t *testing.T, c *cluster) { down(t, c, before) }},
	} {
		t.Run(part.name, func(t *testing.T) {
			inTimePart(t)
			defer c.healIfFailed(t)
			defer c.collectIfFailed(t)
			part.test(t, c)
		})
	}
}

// collectIfFailed keeps what can explain why a part has failed. It is deferred: a part also ends at a fatal error, and later ones change what can be seen.
func (c *cluster) collectIfFailed(t *testing.T) {
	if t.Failed() {
		c.collect(t, "failed")
	}
}

// healIfFailed ends the faults that a part has left: those after it must not fail for the same reason.
func (c *cluster) healIfFailed(t *testing.T) {
	if _, err := lab.Open(c.name); !t.Failed() || err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleaningUp)
	defer cancel()
	if r := c.run(ctx, "lab", "--lab", c.name, "heal"); r.code != 0 {
		t.Log(r)
	}
}
