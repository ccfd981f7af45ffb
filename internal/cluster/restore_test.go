package cluster

import (
	"slices"
	"strings"
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

// TestAnUnfinishedRestoreSaysHowItIsFinished, from a backup and from data.
func TestAnUnfinishedRestoreSaysHowItIsFinished(t *testing.T) {
	for want, r := range map[string]facts.Restore{
		"the backup prod.age (taken":                               {Backup: "1", File: "prod.age"},
		"the data of etcd in cp-a:/mnt/var/lib/etcd (last written": {Backup: "2", File: "cp-a:/mnt/var/lib/etcd", Data: true},
	} {
		f := clustertest.Whole()
		f.Kubernetes("cp-a").Restore = &r
		refused := Evaluate(f.Spec, f.Seen).UnfinishedRestore("")
		if refused == nil || !strings.Contains(refused.Why, want) || strings.Contains(refused.Fix, "--from-data") != r.Data {
			t.Errorf("%+v", refused)
		}
		if again := Evaluate(f.Spec, f.Seen).UnfinishedRestore(r.Backup); again != nil {
			t.Errorf("the same restore: %+v", again)
		}
	}
}

// TestTwoRestoresOfOneBackup: a host was off while the others were restored again from the same backup. Nobody goes on with both.
func TestTwoRestoresOfOneBackup(t *testing.T) {
	f := clustertest.Whole()
	f.Kubernetes("cp-a").Restore = &facts.Restore{Backup: "1", Nonce: "a"}
	f.Kubernetes("cp-b").Restore = &facts.Restore{Backup: "1", Nonce: "a"}
	if r := Evaluate(f.Spec, f.Seen).UnfinishedRestore("1"); r != nil {
		t.Errorf("one restore: %+v", r)
	}
	f.Kubernetes("cp-c").Restore = &facts.Restore{Backup: "1", Nonce: "b"}
	r := Evaluate(f.Spec, f.Seen).UnfinishedRestore("1")
	if r == nil || r.Rule != RuleUnfinishedRestore || !strings.Contains(r.Why, "one on cp-a and cp-b, one on cp-c") || !strings.Contains(r.Fix, "`quorate reset --all`") {
		t.Errorf("two: %+v", r)
	}
	// The other restore has ended, and cp-c is what is left of the one that was given up. The cluster that works is not to be reset.
	for _, host := range []string{"cp-a", "cp-b"} {
		f.Kubernetes(host).Restore.Complete = true
	}
	for _, backup := range []string{"", "1"} {
		r := Evaluate(f.Spec, f.Seen).UnfinishedRestore(backup)
		if r == nil || r.Rule != RuleUnfinishedRestore || !slices.Equal(r.Subjects, []string{"cp-c"}) || !strings.Contains(r.Fix, "`quorate reset cp-c`") || strings.Contains(r.Fix, "--all") {
			t.Errorf("one was given up: %+v", r)
		}
	}
	for _, x := range Evaluate(f.Spec, f.Seen).Findings() {
		if x.Rule == RuleUnfinishedRestore && strings.Contains(x.Fix, "--all") {
			t.Errorf("%+v", x)
		}
	}
}
