package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

var fromBackup = facts.Restore{Cluster: "test", Backup: "0123456789abcdef", File: "test.backup.age", Taken: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Revision: 4711}

const caOfBackup = "CA"

func restore(t *testing.T, c *spec.Cluster, obs *facts.Observation) *Plan {
	t.Helper()
	p, err := Restore(cluster.Evaluate(c, obs), testBundle, fromBackup, caOfBackup)
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, p)
	return p
}

// comesBefore says that a step waits, directly or not, for another one.
func comesBefore(p *Plan, first, then string) bool {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == then })
	return i >= 0 && slices.ContainsFunc(p.Steps[i].Needs, func(n string) bool { return n == first || comesBefore(p, first, n) })
}

func TestARestoreIsAFirstBuildWithTheBackup(t *testing.T) {
	external := testCluster()
	external.Spec.ControlPlane.Topology = spec.TopologyExternal
	for i, name := range []string{"etcd-a", "etcd-b", "etcd-c"} {
		external.Spec.Hosts = append(external.Spec.Hosts, spec.Host{Name: name, Address: "10.0.1.1" + string(rune('0'+i)), Roles: []string{spec.RoleEtcd}, Zone: name[5:]})
	}
	for name, c := range map[string]*spec.Cluster{"stacked": testCluster(), "external": external} {
		t.Run(name, func(t *testing.T) {
			p := restore(t, c, empty(c))
			cps, members := c.HostsWith(spec.RoleControlPlane), c.EtcdHosts()
			first := cps[0].Name
			start := stepID(members[0].Name, StartKubelet)
			if name == "external" {
				start = stepID(members[0].Name, StartEtcd)
			}
			var pairs [][2]string
			for _, h := range c.Spec.Hosts {
				if keepsState(h) {
					mark := stepID(h.Name, Mark) + "/restore-begun"
					pairs = append(pairs, [2]string{mark, stepID(first, RestorePKI)}, [2]string{mark, stepID("worker-a", StartKubelet)}, [2]string{mark, stepID("worker-a", Configure)},
						[2]string{stepID("", SettleRestored), stepID(h.Name, Mark) + "/restore-complete"})
				}
			}
			for _, h := range members {
				pairs = append(pairs, [2]string{stepID(h.Name, RestoreEtcd), start}, [2]string{stepID(h.Name, Configure), stepID(h.Name, RestoreEtcd)})
			}
			pairs = append(pairs, [2]string{stepID(first, RestorePKI), stepID(first, MakePKI)}, [2]string{stepID(first, MakePKI), stepID(cps[1].Name, SharePKI)},
				[2]string{stepID(first, RepairRestored), stepID(first, InitCluster)}, [2]string{stepID(first, RepairRestored), stepID("", ApplyManifest) + "/flannel"},
				[2]string{stepID(first, RepairRestored), stepID(cps[1].Name, StartControlPlane)}, [2]string{stepID(first, RepairRestored), stepID("", RecordSpec)},
				[2]string{stepID("", Verify), stepID("", SettleRestored)})
			for _, pair := range pairs {
				if !comesBefore(p, pair[0], pair[1]) {
					t.Errorf("%s does not come before %s", pair[0], pair[1])
				}
			}
			if !comesBefore(p, stepID(members[0].Name, RestoreEtcd), stepID(members[2].Name, map[string]Kind{"stacked": StartKubelet, "external": StartEtcd}[name])) {
				t.Error("a member starts before all of them have their data")
			}
		})
	}
}

func TestAnOrdinaryBuildRestoresNothing(t *testing.T) {
	c := testCluster()
	for _, s := range build(t, c, empty(c)).Steps {
		if slices.Contains([]Kind{RestorePKI, RestoreEtcd, RepairRestored, SettleRestored}, s.Kind) || strings.Contains(s.ID, "restore-") {
			t.Errorf("%s", s.ID)
		}
	}
}

// TestAMarkThatIsLeft protects nothing: it is replaced like one that is missing.
func TestAMarkThatIsLeft(t *testing.T) {
	c := testCluster()
	left := fromBackup
	left.Complete = true
	p := restore(t, c, begun(c, left))
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		if !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.ID == stepID(h.Name, Mark)+"/restore-begun" }) {
			t.Errorf("%s does not note that a restore began", h.Name)
		}
	}
}

// TestARestoreOfDataWithoutKeys creates the keys, as a first build does, and goes on with those of an earlier run.
func TestARestoreOfDataWithoutKeys(t *testing.T) {
	c := testCluster()
	from := fromBackup
	from.Data, from.File, from.NewKeys = true, "cp-a:/mnt/var/lib/etcd", true
	steps := func(obs *facts.Observation, ca string) map[string]Step {
		t.Helper()
		p, err := Restore(cluster.Evaluate(c, obs), testBundle, from, ca)
		if err != nil {
			t.Fatal(err)
		}
		checkOrder(t, p)
		out := map[string]Step{}
		for _, s := range p.Steps {
			out[s.ID] = s
			if strings.Contains(s.Title+s.Reason, "backup") {
				t.Errorf("%s speaks of a backup: %s, %s", s.ID, s.Title, s.Reason)
			}
		}
		return out
	}
	first := steps(empty(c), "")
	if _, restores := first[stepID("cp-a", RestorePKI)]; restores || first[stepID("cp-a", MakePKI)].Title != "create the shared keys" || first[stepID("cp-b", RestoreEtcd)].ID == "" {
		t.Errorf("%+v", first[stepID("cp-a", MakePKI)])
	}
	obs := begun(c, from)
	k := &obs.Hosts["cp-a"].Facts.Kubernetes
	k.Begun, k.CA, k.SharedPKI = true, "the CA of an earlier run", true
	if again := steps(obs, ""); again[stepID("cp-b", SharePKI)].ID == "" || again[stepID("cp-b", RestoreEtcd)].ID == "" {
		t.Errorf("%v", again)
	}
	from.NewKeys = false
	if _, restores := steps(empty(c), caOfBackup)[stepID("cp-a", RestorePKI)]; !restores {
		t.Error("the keys on the disk are not restored")
	}
}

// begun observes hosts on which a restore began.
func begun(c *spec.Cluster, mark facts.Restore) *facts.Observation {
	obs := empty(c)
	for _, h := range c.Spec.Hosts {
		if keepsState(h) {
			m := mark
			obs.Hosts[h.Name].Facts.Kubernetes.Restore = &m
		}
	}
	return obs
}

func TestAnInterruptedRestoreIsFinished(t *testing.T) {
	c := testCluster()
	obs := begun(c, fromBackup)
	k := &obs.Hosts["cp-a"].Facts.Kubernetes
	k.Begun, k.CA, k.SharedPKI, k.EtcdData = true, caOfBackup, true, true
	for _, h := range c.EtcdHosts() {
		k.EtcdInitial = append(k.EtcdInitial, h.Name+"=https://"+h.Address+":2380")
	}
	// The API has the cluster of before, with other hosts and another spec. Nothing may follow from that.
	obs.API = &facts.API{Initialised: true, Verified: "yes", Record: "nonsense", Nodes: []facts.Node{{Name: "old", Address: "192.0.2.1"}}}
	p := restore(t, c, obs)
	ids := map[string]bool{}
	for _, s := range p.Steps {
		ids[s.ID] = true
	}
	for id, want := range map[string]bool{
		stepID("cp-a", RestoreEtcd): false, stepID("cp-b", RestoreEtcd): true, stepID("cp-a", RestorePKI): false, stepID("cp-a", MakePKI): true, stepID("cp-b", SharePKI): true,
		stepID("cp-a", Mark) + "/restore-begun": false, stepID("cp-a", RepairRestored): true, stepID("", RecordSpec): true, stepID("", SettleRestored): true, stepID("cp-c", Mark) + "/restore-complete": true,
	} {
		if ids[id] != want {
			t.Errorf("%s is in the plan: %t", id, ids[id])
		}
	}

	// Late: the cluster is complete, and only the marks are missing.
	obs = finished(t, c)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		m := fromBackup
		m.Complete = h.Name == "cp-a"
		obs.Hosts[h.Name].Facts.Kubernetes.Restore = &m
	}
	p = restore(t, c, obs)
	if last := p.Steps[len(p.Steps)-1]; last.Kind != Mark || !strings.Contains(last.Desired.Files[0].Content, `"complete": true`) {
		t.Errorf("%+v", last)
	}
	if !Restored(cluster.Evaluate(c, finishedRestore(t, c)), fromBackup.Backup) || Restored(cluster.Evaluate(c, obs), fromBackup.Backup) {
		t.Error("nobody can tell whether the restore ended")
	}
	if p := build(t, c, finishedRestore(t, c)); !p.Empty() {
		t.Errorf("a restored cluster is like any other, and has to do %s", p.Steps[0].ID)
	}
}

// finishedRestore is a cluster that was restored.
func finishedRestore(t *testing.T, c *spec.Cluster) *facts.Observation {
	obs := finished(t, c)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		m := fromBackup
		m.Complete = true
		obs.Hosts[h.Name].Facts.Kubernetes.Restore = &m
	}
	return obs
}

func TestWhatIsNotRestoredOver(t *testing.T) {
	c := testCluster()
	another := fromBackup
	another.Backup, another.File = "fedcba9876543210", "other.backup.age"
	for name, tc := range map[string]struct {
		seen func() *facts.Observation
		rule string
	}{
		"a host that cannot be reached": {func() *facts.Observation {
			obs := empty(c)
			obs.Hosts["worker-a"] = facts.Host{Error: "no route"}
			return obs
		}, RuleAllHosts},
		"a cluster that runs": {func() *facts.Observation { return finished(t, c) }, RuleNoClusterThere},
		"a cluster whose API does not answer": {func() *facts.Observation {
			obs := finished(t, c)
			obs.API, obs.APIError = nil, "no answer"
			return obs
		}, RuleNoClusterThere},
		"an unfinished build": {func() *facts.Observation {
			obs := empty(c)
			obs.Hosts["cp-b"].Facts.Kubernetes.Begun = true
			return obs
		}, RuleNoClusterThere},
		"a worker of something": {func() *facts.Observation {
			obs := empty(c)
			obs.Hosts["worker-a"].Facts.Kubernetes.KubeletConfig = true
			return obs
		}, RuleNoClusterThere},
		"an unfinished reset": {func() *facts.Observation {
			obs := empty(c)
			obs.Hosts["cp-b"].Facts.Kubernetes.Resetting = true
			return obs
		}, RuleNoClusterThere},
		"a restore of another backup": {func() *facts.Observation { return begun(c, another) }, cluster.RuleUnfinishedRestore},
		"another CA during the restore": {func() *facts.Observation {
			obs := begun(c, fromBackup)
			obs.Hosts["cp-c"].Facts.Kubernetes.CA = "another"
			return obs
		}, RuleBackupsCA},
		"what this backup was restored to": {func() *facts.Observation { return finishedRestore(t, c) }, RuleNoClusterThere},
	} {
		_, err := Restore(cluster.Evaluate(c, tc.seen()), testBundle, fromBackup, caOfBackup)
		var r *cluster.Refusal
		if !errors.As(err, &r) || r.Rule != tc.rule || r.Fix == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, obs := range map[string]*facts.Observation{"at its beginning": begun(c, fromBackup), "at its end": func() *facts.Observation {
		obs := finished(t, c)
		obs.Hosts["cp-b"].Facts.Kubernetes.Restore = &fromBackup
		return obs
	}()} {
		var r *cluster.Refusal
		if _, err := Build(cluster.Evaluate(c, obs), testBundle); !errors.As(err, &r) || r.Rule != cluster.RuleUnfinishedRestore {
			t.Errorf("apply goes on with a restore %s: %v", name, err)
		}
	}
}

// TestAClusterIsNotGivenUpForNothing: what the plan of the restore would be refused for is found while the cluster is still there.
func TestAClusterIsNotGivenUpForNothing(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	p := func() (*Plan, error) {
		return Restore(cluster.Evaluate(c, cluster.Emptied(obs)), testBundle, fromBackup, caOfBackup)
	}
	if p, err := p(); err != nil || len(kindsOf(p)[RestoreEtcd]) != len(c.EtcdHosts()) {
		t.Fatalf("a sound cluster: %v, %v", p, err)
	}
	obs.Hosts["worker-a"].Facts.Lacks = []string{"mount"} // of a system whose package manager is unknown
	var r *cluster.Refusal
	if _, err := p(); !errors.As(err, &r) || r.Rule != RulePackages {
		t.Errorf("%v", err)
	}
}

// TestABackupFromBeforeItsCAWasReplaced is one of the same cluster, and the refusal says so where etcd tells it.
func TestABackupFromBeforeItsCAWasReplaced(t *testing.T) {
	c := testCluster()
	from := fromBackup
	from.EtcdCluster = "006f7a8b00112233"
	for want, id := range map[string]string{"it is the same cluster": "6f7a8b00112233", "either it is of another cluster, or the CA was replaced": "123"} {
		for name, marked := range map[string]bool{"a cluster": false, "a restore that began": true} {
			obs := finished(t, c)
			for i := range obs.Etcd {
				obs.Etcd[i].ClusterID = id
			}
			for _, h := range c.Spec.Hosts {
				if k := &obs.Hosts[h.Name].Facts.Kubernetes; k.CA != "" {
					k.CA = "the CA that followed"
				}
			}
			if marked {
				obs.Hosts["cp-a"].Facts.Kubernetes.Restore = &from
			}
			_, err := Restore(cluster.Evaluate(c, obs), testBundle, from, caOfBackup)
			var r *cluster.Refusal
			if !errors.As(err, &r) || !strings.Contains(r.Why, "another CA certificate than the backup") || !strings.Contains(r.Why, want) || !strings.Contains(r.Fix, "--replace-cluster") {
				t.Errorf("%s, etcd %s: %v", name, id, err)
			}
		}
	}
	if _, err := Restore(cluster.Evaluate(c, finished(t, c)), testBundle, from, caOfBackup); err == nil || strings.Contains(err.Error(), "another CA") {
		t.Errorf("with the same CA: %v", err)
	}
}

func TestOutdatedLabels(t *testing.T) {
	before, after := testCluster(), testCluster()
	before.Spec.NodePools = []spec.NodePool{{Name: "web", Labels: map[string]string{"tier": "front"}, Taints: []spec.Taint{{Key: "web", Effect: "NoSchedule"}}, Hosts: []string{"worker-a"}}}
	h, _ := after.Host("worker-a")
	labels, taints := Outdated(before, after, h, nil)
	if !slices.Equal(labels, []string{PoolLabel, "tier"}) || !slices.Equal(taints, []facts.Taint{{Key: "web", Effect: "NoSchedule"}}) {
		t.Errorf("%v, %v", labels, taints)
	}
	labels, taints = Outdated(nil, after, h, map[string]string{controlPlaneLabel: ""})
	if !slices.Equal(labels, []string{controlPlaneLabel, excludeLabel}) || !slices.Equal(taints, []facts.Taint{{Key: controlPlaneLabel, Effect: "NoSchedule"}}) {
		t.Errorf("%v, %v", labels, taints)
	}
	if labels, taints := Outdated(after, after, h, NodeLabels(h)); len(labels)+len(taints) > 0 {
		t.Errorf("%v, %v", labels, taints)
	}
}
