package cluster

import (
	"testing"

	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

// TestAnEmptiedClusterIsNone: whatever was on its hosts, a plan that is made for after their reset sees nothing of it.
func TestAnEmptiedClusterIsNone(t *testing.T) {
	for name, change := range map[string]func(clustertest.Fixture){
		"a cluster that works":    func(clustertest.Fixture) {},
		"one that does not":       clustertest.Fixture.Silent,
		"with an etcd of its own": clustertest.Fixture.External,
		"an unfinished reset":     func(f clustertest.Fixture) { f.Kubernetes("cp-a").Resetting = true },
		"an unfinished restore":   func(f clustertest.Fixture) { f.Kubernetes("cp-a").Restore = &facts.Restore{Backup: "other"} },
	} {
		f := clustertest.Whole()
		f.Record()
		change(f)
		s := Evaluate(f.Spec, Emptied(f.Seen))
		if s.Stage() != Absent || s.UnfinishedReset() != nil || s.UnfinishedRestore("") != nil || len(s.Conflicts()) > 0 {
			t.Errorf("%s: %s", name, s.Stage())
		}
		for _, h := range f.Spec.Spec.Hosts {
			if s.Carries(h.Name) || s.Joined(h) {
				t.Errorf("%s: %s carries something", name, h.Name)
			}
		}
		f.Dies("w-a")
		if s = Evaluate(f.Spec, Emptied(f.Seen)); s.Stage() != Undetermined {
			t.Errorf("%s: with a host that cannot be reached: %s", name, s.Stage())
		}
	}
}
