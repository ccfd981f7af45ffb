package preflight

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
)

func TestUpgrade(t *testing.T) {
	for name, tc := range map[string]struct {
		seen          facts.Upgrade
		free          int64
		resumes       bool
		severity      cluster.Severity
		check, expect string // empty: nothing is found
	}{
		"nothing":                      {},
		"an API that goes":             {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Group: "networking.k8s.io", Version: "v1beta1", Resource: "ipaddresses", RemovedIn: "1.37"}}}, severity: failure, check: DeprecatedCheck, expect: "ipaddresses.v1beta1.networking.k8s.io"},
		"an API that went before":      {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Version: "v1", Resource: "widgets", RemovedIn: "1.36"}}}, severity: failure, check: DeprecatedCheck, expect: "widgets.v1, which"},
		"an API that goes later":       {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Version: "v1", Resource: "endpoints", RemovedIn: "1.38"}}}},
		"an API that stays so far":     {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Version: "v1", Resource: "endpoints"}}}},
		"an API server that is silent": {seen: facts.Upgrade{DeprecatedError: "cp-b: timeout"}, severity: warning, check: DeprecatedCheck, expect: "cp-b: timeout"},
		"a webhook that is down":       {seen: facts.Upgrade{Webhooks: []facts.Webhook{{Configuration: "policy", Name: "check.example.com", Service: "policy/hook"}}}, severity: failure, check: WebhooksCheck, expect: "policy/hook has no endpoint"},
		"a webhook that the interrupted run may have taken down": {seen: facts.Upgrade{Webhooks: []facts.Webhook{{Service: "policy/hook"}}}, resumes: true, severity: warning, check: WebhooksCheck, expect: "policy/hook has no endpoint"},
		"an API that goes, on the way":                           {seen: facts.Upgrade{Deprecated: []facts.DeprecatedAPI{{Version: "v1", Resource: "widgets", RemovedIn: "1.37"}}}, resumes: true, severity: failure, check: DeprecatedCheck, expect: "widgets.v1, which"},
		"a webhook with one endpoint":                            {seen: facts.Upgrade{Webhooks: []facts.Webhook{{Service: "policy/hook", Ready: 1}}}, severity: warning, check: WebhooksCheck, expect: "a single endpoint"},
		"a webhook with two":                                     {seen: facts.Upgrade{Webhooks: []facts.Webhook{{Service: "policy/hook", Ready: 2}}}},
		"webhooks that are not known":                            {seen: facts.Upgrade{Error: "timeout"}, severity: warning, check: WebhooksCheck, expect: "timeout"},
		"a budget":                                               {seen: facts.Upgrade{Budgets: []string{"web/front"}}, severity: info, check: BudgetsCheck, expect: "web/front"},
		"a full disk":                                            {free: 200 << 20, severity: failure, check: SpaceCheck, expect: "cp-a has 200.0 MiB of free space below /var/lib, and the new bundle needs 1.0 GiB"},
	} {
		t.Run(name, func(t *testing.T) {
			c := labSpec()
			c.Spec.Kubernetes.Version = "v1.37.2"
			obs, _ := healthy(c)
			if tc.free > 0 {
				obs.Hosts["cp-a"].Facts.DiskFreeBytes = tc.free
			}
			state := cluster.Evaluate(c, obs)
			work := ExpectedWork(state)
			work.Resumes = tc.resumes
			found := JudgeUpgrade(state, &tc.seen, work)
			if tc.check == "" {
				if len(found) > 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			if len(found) != 1 || found[0].Severity != tc.severity || found[0].Rule != tc.check || !strings.Contains(found[0].Summary, tc.expect) || found[0].Fix == "" {
				t.Errorf("%+v", found)
			}
		})
	}
}

// TestUpgradeSpace: only what is still to come needs space, on the host and the file system to which it comes.
func TestUpgradeSpace(t *testing.T) {
	own := func(f *facts.Facts, free int64) {
		f.ProgramsDisk, f.Disks = &facts.Disk{FreeBytes: free}, map[string]facts.Disk{containerdDir: {FreeBytes: free}}
	}
	for name, tc := range map[string]struct {
		work   UpgradeWork
		change func(*facts.Facts) // of cp-a
		want   []string           // empty: it fits
	}{
		"nothing is to come": {UpgradeWork{Unpacks: []string{"cp-b"}, Imports: []string{"cp-b"}, Snapshot: "cp-b", Resumes: true},
			func(f *facts.Facts) { f.DiskFreeBytes = 1 }, nil},
		"everything": {UpgradeWork{Unpacks: []string{"cp-a"}, Imports: []string{"cp-a"}, Snapshot: "cp-a"},
			func(f *facts.Facts) { f.DiskFreeBytes = 2 * gib }, []string{"cp-a has 2.0 GiB of free space below /var/lib, and the new bundle together with the snapshot of etcd needs 3.0 GiB"}},
		"another host saves the snapshot": {UpgradeWork{Unpacks: []string{"cp-a"}, Imports: []string{"cp-a"}, Snapshot: "cp-b"},
			func(f *facts.Facts) { f.DiskFreeBytes = 2 * gib }, nil},
		"only the images are missing": {UpgradeWork{Imports: []string{"cp-a"}},
			func(f *facts.Facts) { f.DiskFreeBytes = 600 * mib }, nil},
		"file systems of their own": {UpgradeWork{Unpacks: []string{"cp-a"}, Imports: []string{"cp-a"}},
			func(f *facts.Facts) { f.DiskFreeBytes = 300 * mib; own(f, 2*gib) }, nil},
		"file systems of their own that are full": {UpgradeWork{Unpacks: []string{"cp-a"}, Imports: []string{"cp-a"}},
			func(f *facts.Facts) { own(f, 100*mib) }, []string{"below /opt/quorate/programs, and the new bundle needs 256.0 MiB", "below /var/lib/containerd, and the new bundle needs 512.0 MiB"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := labSpec()
			obs, _ := healthy(c)
			obs.Etcd = []facts.EtcdMember{{Name: "cp-a", Healthy: true, Started: true, DBSizeBytes: 2 * gib}}
			tc.change(obs.Hosts["cp-a"].Facts)
			found := JudgeUpgrade(cluster.Evaluate(c, obs), &facts.Upgrade{}, tc.work)
			if len(found) != len(tc.want) {
				t.Fatalf("%+v", found)
			}
			for i, f := range found {
				if f.Severity != failure || f.Rule != SpaceCheck || !strings.Contains(f.Summary, tc.want[i]) || !strings.Contains(tc.want[i], strings.TrimSuffix(strings.TrimPrefix(f.Fix, "Free some space "), ".")) {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// TestExpectedWork is what can be told without the bundle of the spec's version.
func TestExpectedWork(t *testing.T) {
	c := labSpec()
	c.Spec.Kubernetes.Version = "v1.37.2"
	obs, _ := healthy(c)
	obs.Etcd = []facts.EtcdMember{{Name: "cp-a", Healthy: true, Started: true, Leader: true}, {Name: "cp-b", Healthy: true, Started: true}}
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			f := obs.Hosts[h.Name].Facts
			f.Bundles, f.Programs = []string{"old"}, map[string]string{facts.Kubelet: "old"}
		}
	}
	before := ExpectedWork(cluster.Evaluate(c, obs))
	if before.Resumes || before.Snapshot != "cp-b" || !slices.Contains(before.Unpacks, "cp-a") || !slices.Contains(before.Imports, "worker-a") {
		t.Errorf("at the beginning: %+v", before)
	}
	// cp-a was upgraded, and worker-a has the bundle by now.
	seen := obs.Hosts["cp-a"]
	seen.APIServerVersion, seen.Facts.Bundles, seen.Facts.Programs = "v1.37.2", []string{"old", "new"}, map[string]string{facts.Kubelet: "new"}
	obs.Hosts["cp-a"] = seen
	obs.Hosts["worker-a"].Facts.Bundles = []string{"old", "new"}
	after := ExpectedWork(cluster.Evaluate(c, obs))
	if !after.Resumes || after.Snapshot != "" || slices.Contains(after.Unpacks, "cp-a") || slices.Contains(after.Unpacks, "worker-a") || !slices.Contains(after.Unpacks, "cp-b") {
		t.Errorf("on the way: %+v", after)
	}
}
