//go:build e2e

package e2e

import (
	"testing"
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
			part.test(t, c)
			if t.Failed() {
				c.collect(t, "failed")
			}
		})
	}
}
