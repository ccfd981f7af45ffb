package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// release is one of two bundles between which clusters move in these tests.
func release(version, etcd, etcdTag, dnsTag string) Bundle {
	b := testBundle
	b.Digest, b.Version, b.Etcd, b.Versions = "sha256:"+version, version, etcd, []string{"v1.36.3", "v1.37.2"}
	b.Images = map[string]string{"etcd": "registry.k8s.io/etcd:" + etcdTag, dnsAddon: "registry.k8s.io/coredns/coredns:" + dnsTag}
	for _, name := range append([]string{proxyAddon}, controlPlanePods...) {
		b.Images[name] = "registry.k8s.io/" + name + ":" + version
	}
	return b
}

var (
	older = release("v1.36.3", "v3.6.16", "3.6.8-0", "v1.14.2")
	newer = release("v1.37.2", "v3.7.3", "3.7.0-0", "v1.14.6")
)

// upgraded observes a finished cluster that runs a release.
func upgraded(t *testing.T, c *spec.Cluster, r Bundle) *facts.Observation {
	t.Helper()
	c.Spec.Kubernetes.Version = r.Version
	obs := finished(t, c)
	if !c.StackedEtcd() {
		obs = finishedExternal(t, c)
	}
	obs.API.Version, obs.API.Kubeadm.Version, obs.API.DNSVersion = r.Version, r.Version, cluster.ImageTag(r.Images[dnsAddon])
	obs.API.Kubeadm.Arguments, obs.API.KubeletConfig = map[string]map[string]string{facts.APIServer: {}, facts.ControllerManager: {}, facts.Scheduler: {}}, map[string]any{}
	withProfile(c, obs)
	obs.API.DaemonSets = []facts.DaemonSet{{Namespace: "kube-system", Name: proxyAddon, Version: r.Version}}
	for i := range obs.API.Nodes {
		obs.API.Nodes[i].Version = r.Version
	}
	runningFrom(c, obs, r.Digest)
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		if h.IsNode() {
			f.Images = r.Digest
		}
		if h.Has(spec.RoleControlPlane) {
			f.Kubernetes.PodImages = map[string]string{}
			for _, pod := range f.Kubernetes.Manifests {
				f.Kubernetes.PodImages[pod] = r.Images[pod]
			}
			seen := obs.Hosts[h.Name]
			seen.APIServerVersion = r.Version
			obs.Hosts[h.Name] = seen
		}
	}
	for i := range obs.Etcd {
		obs.Etcd[i].Version = strings.TrimPrefix(r.Etcd, "v")
	}
	settleEtcd(obs)
	state := cluster.Evaluate(c, obs)
	b := &builder{State: state, c: c, bundle: r}
	text, err := spec.NewRecord(c).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	obs.API.Record, obs.API.Verified = string(text), b.verifiedMark()
	return obs
}

// settleEtcd applies what etcd does on its own: its data has the version of the oldest member, and a downgrade ends when all members
// are old.
func settleEtcd(obs *facts.Observation) {
	oldest := ""
	for _, m := range obs.Etcd {
		if oldest == "" || cluster.Older(m.Version, oldest) {
			oldest = m.Version
		}
	}
	minor := strings.Join(strings.Split(oldest, ".")[:2], ".") + ".0"
	for i := range obs.Etcd {
		m := &obs.Etcd[i]
		if m.DowngradeTo == minor {
			m.DowngradeTo = ""
		}
		if m.DowngradeTo == "" {
			m.StorageVersion = minor
		}
	}
}

func clone(t *testing.T, obs *facts.Observation) *facts.Observation {
	t.Helper()
	raw, err := json.Marshal(obs)
	if err != nil {
		t.Fatal(err)
	}
	var out facts.Observation
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

// carryOut does to an observation what a step does to the cluster.
func carryOut(t *testing.T, c *spec.Cluster, obs *facts.Observation, r Bundle, s Step) {
	t.Helper()
	seen := obs.Hosts[s.Host]
	f := seen.Facts
	switchTo := func(programs []string) {
		for _, p := range programs {
			f.Programs[p] = r.Digest
		}
		if !slices.ContainsFunc(facts.SwitchOrder, func(p string) bool { return f.Programs[p] != r.Digest }) {
			f.Binaries = r.Digest
		} else {
			f.Binaries = ""
		}
	}
	kubelet := func() {
		for i := range obs.API.Nodes {
			if obs.API.Nodes[i].Name == s.Host {
				obs.API.Nodes[i].Version = r.Version
			}
		}
	}
	switch s.Kind {
	case InstallBundle:
		f.Bundles = append(f.Bundles, r.Digest)
	case PruneBundles:
		f.Bundles = []string{r.Digest}
	case ImportImages:
		f.Images = r.Digest
	case SwitchPrograms:
		switchTo(s.Programs)
		if slices.Contains(s.Restart, "etcd.service") {
			for i := range obs.Etcd {
				if obs.Etcd[i].Name == s.Host {
					obs.Etcd[i].Version = strings.TrimPrefix(r.Etcd, "v")
				}
			}
			settleEtcd(obs)
		}
	case LeavePools, JoinPools:
		for _, h := range c.BalancerHosts() {
			for i, b := range obs.Hosts[h.Name].Balancer.Backends {
				if b.Name == s.Host {
					obs.Hosts[h.Name].Balancer.Backends[i].Drained = s.Kind == LeavePools
				}
			}
		}
	case UpgradeControlPlane:
		if f.Programs[facts.KubeadmProgram] != r.Digest {
			t.Errorf("%s runs with the kubeadm of another version", s.ID)
		}
		switchTo(s.Programs)
		kubelet()
		f.Kubernetes.Manifests, f.Units["kubelet.service"] = slices.Clone(podsWithEtcd), "active"
		f.Kubernetes.ProbesEtcd = false // kubeadm writes the manifests with the patches
		if !c.StackedEtcd() {
			f.Kubernetes.Manifests = slices.Clone(controlPlanePods)
		}
		for _, pod := range f.Kubernetes.Manifests {
			f.Kubernetes.PodImages[pod] = r.Images[pod]
		}
		seen.APIServer, seen.APIServerVersion = &facts.Answer{OK: true}, r.Version
		obs.Hosts[s.Host] = seen
		startedWith(obs, f)
		for i := range obs.Etcd {
			if m := &obs.Etcd[i]; m.Name == s.Host && s.Change.Etcd != "" {
				*m = facts.EtcdMember{Name: m.Name, Healthy: true, Started: true, Version: strings.TrimPrefix(s.Change.Etcd, "v"), StorageVersion: m.StorageVersion, DowngradeTo: m.DowngradeTo}
			}
		}
		settleEtcd(obs)
		for _, h := range c.BalancerHosts() {
			for i, b := range obs.Hosts[h.Name].Balancer.Backends {
				if b.Name == s.Host {
					obs.Hosts[h.Name].Balancer.Backends[i].Healthy = true
				}
			}
		}
	case Configure:
		f.Units["kubelet.service"] = "active"
		for _, file := range s.Desired.Files {
			f.Files[file.Key()] = file.Sum()
		}
		for _, path := range s.Desired.Absent {
			delete(f.Files, path)
		}
		if f.Sysctls != nil {
			maps.Copy(f.Sysctls, s.Desired.Sysctls)
		}
		f.Registries = registriesOf(f)
	case StoreSettings:
		store(obs, s)
	case RestartKubelet:
		f.Kubernetes.Kubelet, f.Kubernetes.KubeletDue = maps.Clone(obs.API.KubeletConfig), false
	case UpgradeNode:
		switchTo(s.Programs)
		kubelet()
		f.Kubernetes.Kubelet = maps.Clone(obs.API.KubeletConfig)
	case ConvertEtcd:
		for i := range obs.Etcd {
			if m := &obs.Etcd[i]; s.Etcd == "" {
				m.DowngradeTo = ""
			} else {
				m.DowngradeTo = strings.Join(strings.Split(strings.TrimPrefix(s.Etcd, "v"), ".")[:2], ".") + ".0"
				m.StorageVersion = m.DowngradeTo
			}
		}
		settleEtcd(obs)
	case SwitchAddons, UpgradeCluster:
		obs.API.DNSVersion, obs.API.DaemonSets[0].Version = cluster.ImageTag(r.Images[dnsAddon]), r.Version
		if s.Kind == UpgradeCluster {
			obs.API.Kubeadm.Version, obs.API.DNSSpread, obs.API.DNSInZones = r.Version, false, false
			if f.Programs[facts.KubeadmProgram] != r.Digest {
				t.Errorf("%s runs with the kubeadm of another version", s.ID)
			}
		}
	case SpreadDNS:
		obs.API.DNSSpread, obs.API.DNSInZones = true, s.Zones
		if s.Replicas > 0 {
			obs.API.DNSReplicas = s.Replicas
		}
	case RecordSpec:
		obs.API.Record = s.Record
	case RecordVerified:
		obs.API.Verified = s.Record
	case SnapshotEtcd:
		f.Snapshots = append(f.Snapshots, fmt.Sprintf("202611%02dT000000Z-before-%s.db", 20+len(f.Snapshots), s.Detail))
	case PublishEndpoint:
		publishIn(obs, s)
	case WithdrawEndpoint:
		delete(obs.API.Service.Slices, facts.OwnSlice)
	case SetEtcdTimers:
		setTimers(f, s)
		f.Kubernetes.EtcdRuns = f.Kubernetes.EtcdTimers
	case CheckStored, CheckFit, MoveLeadership, Verify, TryEndpoint:
	default:
		t.Fatalf("an upgrade has the step %s", s.ID)
	}
}

// interrupt leaves what a run leaves that is killed in the middle of a step.
func interrupt(c *spec.Cluster, obs *facts.Observation, s Step, half bool) bool {
	if s.Kind != UpgradeControlPlane {
		return false
	}
	seen := obs.Hosts[s.Host]
	seen.Facts.Units["kubelet.service"] = "inactive"
	if half { // one manifest was being written
		k := &seen.Facts.Kubernetes
		k.Manifests = slices.DeleteFunc(slices.Clone(k.Manifests), func(pod string) bool { return pod == "kube-apiserver" })
		delete(k.PodImages, "kube-apiserver")
		delete(k.Arguments, "kube-apiserver")
		k.ProbesEtcd = false
	}
	seen.APIServer, seen.APIServerVersion = &facts.Answer{Problem: "connection refused"}, ""
	obs.Hosts[s.Host] = seen
	for _, h := range c.BalancerHosts() {
		for i, b := range obs.Hosts[h.Name].Balancer.Backends {
			if b.Name == s.Host {
				obs.Hosts[h.Name].Balancer.Backends[i].Healthy = false
			}
		}
	}
	return true
}

// planFor plans a release for a cluster.
func planFor(c *spec.Cluster, obs *facts.Observation, r Bundle) (*Plan, error) {
	c.Spec.Kubernetes.Version = r.Version
	return Build(cluster.Evaluate(c, obs), r)
}

func mustPlan(t *testing.T, c *spec.Cluster, obs *facts.Observation, r Bundle) *Plan {
	t.Helper()
	p, err := planFor(c, obs, r)
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, p)
	return p
}

// outline is a plan without the steps that every plan has.
func outline(p *Plan) (out []string) {
	for _, s := range p.Steps {
		switch s.Kind {
		case InstallBundle, ImportImages, SwitchPrograms, Verify, RecordSpec, RecordVerified, PruneBundles, SpreadDNS:
			if s.Kind != SwitchPrograms || len(s.Restart) == 0 {
				continue
			}
		}
		out = append(out, strings.TrimPrefix(s.ID, "cluster/"))
	}
	return out
}

func stackedLab() *spec.Cluster { return testCluster() }

func TestUpgradeOrder(t *testing.T) {
	c := stackedLab()
	forward := outline(mustPlan(t, c, upgraded(t, c, older), newer))
	turn := func(h string) []string {
		return []string{h + "/leave-pools", h + "/move-leadership", h + "/upgrade-control-plane", h + "/join-pools"}
	}
	want := slices.Concat([]string{"cp-a/snapshot-etcd/v1.37.2", "cp-a/check-stored-objects/v1.37.2"}, turn("cp-a"), turn("cp-b"), turn("cp-c"),
		[]string{"cp-a/upgrade-cluster", "worker-a/upgrade-node", "worker-b/upgrade-node"})
	if !slices.Equal(forward, want) {
		t.Errorf("forward:\n%s\nwant\n%s", strings.Join(forward, "\n"), strings.Join(want, "\n"))
	}
	back := outline(mustPlan(t, c, upgraded(t, c, newer), older))
	want = slices.Concat([]string{"cp-a/snapshot-etcd/v1.36.3", "cp-a/check-stored-objects/v1.36.3", "switch-addons", "worker-a/upgrade-node", "worker-b/upgrade-node", "convert-etcd"}, turn("cp-a"), turn("cp-b"), turn("cp-c"), []string{"cp-a/upgrade-cluster"})
	if !slices.Equal(back, want) {
		t.Errorf("back:\n%s\nwant\n%s", strings.Join(back, "\n"), strings.Join(want, "\n"))
	}
}

// TestExternalEtcdMovesBeforeTheAPIServersAndGoesBackAfterThem: an API server may rely on what a newer etcd can do.
func TestExternalEtcdMovesBeforeTheAPIServersAndGoesBackAfterThem(t *testing.T) {
	c, obs := externalAt(t, older)
	position := func(p *Plan, id string) int {
		i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == id })
		if i < 0 {
			t.Fatalf("no step %s in %v", id, outline(p))
		}
		return i
	}
	p := mustPlan(t, c, obs, newer)
	if position(p, "etcd-c/switch-programs/etcd") > position(p, "cp-a/upgrade-control-plane") {
		t.Error(outline(p))
	}
	c, obs = externalAt(t, newer)
	p = mustPlan(t, c, obs, older)
	if position(p, "etcd-a/switch-programs/etcd") < position(p, "cp-b/upgrade-control-plane") || position(p, "cluster/convert-etcd") > position(p, "etcd-a/switch-programs/etcd") {
		t.Error(outline(p))
	}
}

func externalAt(t *testing.T, r Bundle) (*spec.Cluster, *facts.Observation) {
	t.Helper()
	c := external()
	return c, upgraded(t, c, r)
}

// TestAnUpgradeGoesOnAndBackFromEverywhere: after every step, and in the middle of every replacement of a control plane, there is
// a plan that finishes what was begun and one that goes back. Both end with nothing left to do, and no step of them is refused.
func TestAnUpgradeGoesOnAndBackFromEverywhere(t *testing.T) {
	for _, own := range []bool{false, true} {
		for _, way := range []struct{ from, to Bundle }{{older, newer}, {newer, older}} {
			t.Run(fmt.Sprintf("etcd of its own %t, to %s", own, way.to.Version), func(t *testing.T) {
				c := stackedLab()
				var obs *facts.Observation
				if own {
					c, obs = externalAt(t, way.from)
				} else {
					obs = upgraded(t, c, way.from)
				}
				p := mustPlan(t, c, obs, way.to)
				for i, s := range p.Steps {
					for _, half := range []bool{false, true} {
						if cut := clone(t, obs); interrupt(c, cut, s, half) {
							finish(t, c, clone(t, cut), way.to, s.ID+" interrupted, on")
							finish(t, c, cut, way.from, s.ID+" interrupted, back")
						}
					}
					carryOut(t, c, obs, way.to, s)
					if i%2 == 0 || s.Change != nil {
						finish(t, c, clone(t, obs), way.to, "on after "+s.ID)
						finish(t, c, clone(t, obs), way.from, "back after "+s.ID)
					}
				}
			})
		}
	}
}

// finish plans and carries out until nothing is left to do.
func finish(t *testing.T, c *spec.Cluster, obs *facts.Observation, r Bundle, what string) {
	t.Helper()
	for range 3 {
		p, err := planFor(c, obs, r)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if p.Empty() {
			state := cluster.Evaluate(c, obs)
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				if got := state.Runs(h.Name, "kube-apiserver"); got != r.Version {
					t.Errorf("%s: %s ends with an API server %s", what, h.Name, got)
				}
			}
			for _, m := range obs.Etcd {
				if "v"+m.Version != r.Etcd || m.DowngradeTo != "" {
					t.Errorf("%s: ends with etcd %+v", what, m)
				}
			}
			return
		}
		for _, s := range p.Steps {
			carryOut(t, c, obs, r, s)
		}
	}
	p, err := planFor(c, obs, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Fatalf("%s: it never ends: %v", what, outline(p))
}

// TestARunThatGoesOnSavesNoSnapshot: the one that counts is from before the version began to change, and hosts keep only a few. On the way
// back from the middle, it is the same one.
func TestARunThatGoesOnSavesNoSnapshot(t *testing.T) {
	for _, own := range []bool{false, true} {
		for _, way := range []struct{ from, to Bundle }{{older, newer}, {newer, older}} {
			t.Run(fmt.Sprintf("etcd of its own %t, to %s", own, way.to.Version), func(t *testing.T) {
				c := stackedLab()
				var obs *facts.Observation
				if own {
					c, obs = externalAt(t, way.from)
				} else {
					obs = upgraded(t, c, way.from)
				}
				for _, s := range mustPlan(t, c, obs, way.to).Steps {
					carryOut(t, c, obs, way.to, s)
					for _, to := range []Bundle{way.to, way.from} {
						in := slices.ContainsFunc(c.Spec.Hosts, func(h spec.Host) bool {
							return slices.Contains(slices.Collect(maps.Values(obs.Hosts[h.Name].Facts.Programs)), to.Digest)
						})
						p := mustPlan(t, c, obs, to)
						if in && slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == SnapshotEtcd }) {
							t.Errorf("after %s, a run to %s saves another snapshot: %v", s.ID, to.Version, outline(p))
						}
					}
				}
			})
		}
	}
}

// TestTheSnapshotIsSavedOnceMore where the host that had it is gone.
func TestTheSnapshotIsSavedOnceMore(t *testing.T) {
	c := stackedLab()
	obs := upgraded(t, c, older)
	for _, s := range mustPlan(t, c, obs, newer).Steps {
		carryOut(t, c, obs, newer, s)
		if s.Kind == UpgradeControlPlane {
			break
		}
	}
	saves := func(r Bundle) bool {
		return len(stepsOf(mustPlan(t, c, obs, r), "cp-b", SnapshotEtcd))+len(stepsOf(mustPlan(t, c, obs, r), "cp-a", SnapshotEtcd)) > 0
	}
	if saves(newer) || saves(older) {
		t.Error("a run that goes on, or back, saves another snapshot")
	}
	obs.Hosts["cp-a"].Facts.Snapshots = nil
	if !saves(newer) || !saves(older) {
		t.Error("nobody has a snapshot, and none is saved")
	}
}

// TestAWorkerThatMissedAChangeIsNoBeginning: it was off during an upgrade, and is back when the cluster is to go back. The snapshot from before that
// upgrade is old.
func TestAWorkerThatMissedAChangeIsNoBeginning(t *testing.T) {
	c := stackedLab()
	obs := upgraded(t, c, newer)
	obs.Hosts["cp-a"].Facts.Snapshots = []string{"20260101T000000Z-before-" + newer.Version + ".db"}
	f := obs.Hosts["worker-a"].Facts
	f.Images = older.Digest
	for program := range f.Programs {
		f.Programs[program] = older.Digest
	}
	for i := range obs.API.Nodes {
		if obs.API.Nodes[i].Name == "worker-a" {
			obs.API.Nodes[i].Version = older.Version
		}
	}
	p := mustPlan(t, c, obs, older)
	if p.Resumes || !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == SnapshotEtcd }) {
		t.Errorf("resumes %v: %v", p.Resumes, outline(p))
	}
}

// TestAnOldSnapshotDoesNotCount: the host that saved one before this change is gone, and another one has that of a change long ago.
func TestAnOldSnapshotDoesNotCount(t *testing.T) {
	c := stackedLab()
	obs := upgraded(t, c, older)
	obs.Hosts["cp-b"].Facts.Snapshots = []string{"20260101T000000Z-before-" + older.Version + ".db"}
	for _, s := range mustPlan(t, c, obs, newer).Steps {
		carryOut(t, c, obs, newer, s)
		if s.Kind == UpgradeControlPlane {
			break
		}
	}
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Snapshots = slices.DeleteFunc(f.Snapshots, func(name string) bool { return facts.SnapshotBefore(name) == newer.Version })
	}
	if p := mustPlan(t, c, obs, newer); !p.Resumes || !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == SnapshotEtcd }) {
		t.Errorf("resumes %v: %v", p.Resumes, outline(p))
	}
}

// TestAPatchReleaseWithTheSameEtcdIsSaved: its members have the version from the beginning, and nothing is halfway.
func TestAPatchReleaseWithTheSameEtcdIsSaved(t *testing.T) {
	c, obs := externalAt(t, older)
	patch := release("v1.36.4", older.Etcd, "3.6.8-0", "v1.14.2")
	patch.Versions = append(patch.Versions, patch.Version)
	p := mustPlan(t, c, obs, patch)
	if len(p.Steps) == 0 || p.Steps[0].Kind != SnapshotEtcd {
		t.Error(outline(p))
	}
	b := &builder{State: cluster.Evaluate(c, obs), c: c, bundle: patch}
	if b.halfway() || b.begun() {
		t.Error("nothing has the version yet")
	}
}

func TestWorkersAreUpgradedSeveralAtATime(t *testing.T) {
	c := stackedLab()
	for i := range 40 {
		h := c.Spec.Hosts[slices.IndexFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "worker-a" })]
		h.Name, h.Address = fmt.Sprintf("more-%02d", i), fmt.Sprintf("10.0.1.%d", i+1)
		c.Spec.Hosts = append(c.Spec.Hosts, h)
	}
	p := mustPlan(t, c, upgraded(t, c, older), newer)
	begin, total := 0, 0
	for _, s := range p.Steps {
		if s.Kind != UpgradeNode || strings.HasPrefix(s.Host, "cp-") {
			continue
		}
		total++
		if !slices.ContainsFunc(s.Needs, func(id string) bool { return strings.HasSuffix(id, "/upgrade-node") && !strings.HasPrefix(id, "cp-") }) {
			begin++
		}
	}
	if total != 42 || begin != nodesAtOnce(42) {
		t.Errorf("%d of %d workers begin", begin, total)
	}
	for nodes, want := range map[int]int{0: 2, 1: 2, 20: 2, 42: 4, 1000: 10} {
		if got := nodesAtOnce(nodes); got != want {
			t.Errorf("%d of %d nodes at once", got, nodes)
		}
	}
}

// TestBundlesComeToHostsInTurn: unpacking on all control planes at the same time would slow all of them down, and with them everybody.
func TestBundlesComeToHostsInTurn(t *testing.T) {
	c := stackedLab()
	updated := finished(t, c)
	runningFrom(c, updated, "sha256:old")
	external, older36 := externalAt(t, older)
	for name, p := range map[string]*Plan{
		"upgrade":          mustPlan(t, c, upgraded(t, c, older), newer),
		"update":           build(t, c, updated),
		"of external etcd": mustPlan(t, external, older36, newer),
	} {
		of := c
		if name == "of external etcd" {
			of = external
		}
		var hosts []spec.Host // that serve
		for _, h := range of.Spec.Hosts {
			if serves(h) {
				hosts = append(hosts, h)
			}
		}
		for _, kinds := range [][]Kind{{InstallBundle, ImportImages}, {PruneBundles}} {
			steps := func(host string) []Step { return stepsOf(p, host, kinds...) }
			for i, h := range hosts {
				later := append(steps("worker-a"), steps("worker-b")...)
				for _, o := range hosts[i+1:] {
					later = append(later, steps(o.Name)...)
				}
				for _, s := range steps(h.Name) {
					for _, l := range later {
						if !before(p, s.ID, l.ID) {
							t.Errorf("%s: %s does not wait for %s", name, l.ID, s.ID)
						}
					}
				}
			}
			for _, a := range steps("worker-a") {
				for _, b := range steps("worker-b") {
					if before(p, a.ID, b.ID) || before(p, b.ID, a.ID) {
						t.Errorf("%s: two workers wait for each other: %s, %s", name, a.ID, b.ID)
					}
				}
			}
		}
		if len(stepsOf(p, "cp-a", ImportImages, PruneBundles)) == 0 {
			t.Errorf("%s: nothing is imported or removed", name)
		}
	}
}

func TestUpgradeRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*spec.Cluster, *facts.Observation)
		want   string
	}{
		"two minors": {func(_ *spec.Cluster, o *facts.Observation) {
			h := o.Hosts["cp-b"]
			h.APIServerVersion = "v1.35.1"
			o.Hosts["cp-b"] = h
		}, cluster.RulePath},
		"a control plane that cannot be reached": {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["cp-b"] = facts.Host{Error: "cp-b: timeout"} }, RuleAPIServers},
		"a host that is to join": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-b"].Facts.Kubernetes = facts.Kubernetes{}
		}, RuleOneThing},
		"a host that is to leave": {func(c *spec.Cluster, _ *facts.Observation) {
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "worker-b" })
		}, RuleOneThing},
		"a host in maintenance": {func(_ *spec.Cluster, o *facts.Observation) {
			o.API.Maintenance = map[string]facts.Maintenance{"worker-b": {}}
		}, RuleOneThing},
		"load balancers that move": {func(c *spec.Cluster, o *facts.Observation) {
			unshared(o, "cp-a", "cp-b", "cp-c")
			for i, h := range c.Spec.Hosts {
				if h.Has(spec.RoleControlPlane) {
					c.Spec.Hosts[i].Roles = []string{spec.RoleControlPlane, spec.RoleLoadBalancer}
				}
			}
		}, RuleOneThing},
		"an adopted host": {func(_ *spec.Cluster, o *facts.Observation) { o.Hosts["worker-b"].Facts.Kubernetes.Adopted = true }, RuleOwnProgram},
		"etcd too old":    {func(_ *spec.Cluster, o *facts.Observation) { o.Etcd[1].Version = "3.6.8" }, cluster.RuleSkew},
		"a kubelet too old": {func(_ *spec.Cluster, o *facts.Observation) {
			for i := range o.API.Nodes {
				if o.API.Nodes[i].Name == "worker-b" {
					o.API.Nodes[i].Version = "v1.33.1"
				}
			}
		}, cluster.RuleSkew},
		"a member of etcd that is down": {func(_ *spec.Cluster, o *facts.Observation) {
			o.Etcd[1].Healthy, o.Etcd[1].Problem = false, "it is dead"
		}, cluster.RuleEnough},
	} {
		t.Run(name, func(t *testing.T) {
			c := stackedLab()
			obs := upgraded(t, c, older)
			tc.change(c, obs)
			p, err := planFor(c, obs, newer)
			r, ok := err.(*cluster.Refusal)
			if !ok || r.Rule != tc.want {
				t.Errorf("plan %v, error %v", p, err)
			}
		})
	}
}

// TestADeadHostIsRemovedBeforeAnUpgrade: an upgrade may have been interrupted because a host died, so it must be possible to go on
// without it. Its node is removed, and the cluster remembers it.
func TestADeadHostIsRemovedBeforeAnUpgrade(t *testing.T) {
	c := stackedLab()
	obs := upgraded(t, c, older)
	dies(obs, "worker-b")
	without(c, "worker-b")
	p := mustPlan(t, c, obs, newer)
	first := func(kind Kind) int {
		return slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == kind })
	}
	if gone := first(DeleteNode); gone < 0 || first(UpgradeControlPlane) < gone || first(RememberHosts) < 0 || first(ResetHost) >= 0 {
		t.Error(outline(p))
	}
}

// TestAnUnreachableWorkerStaysBehind: it does not keep the others from being upgraded.
func TestAnUnreachableWorkerStaysBehind(t *testing.T) {
	c := stackedLab()
	obs := upgraded(t, c, older)
	obs.Hosts["worker-b"] = facts.Host{Error: "worker-b: timeout"}
	p := mustPlan(t, c, obs, newer)
	if len(stepsOf(p, "worker-a", UpgradeNode)) != 1 || len(stepsOf(p, "worker-b", UpgradeNode, InstallBundle)) != 0 {
		t.Error(outline(p))
	}
}
