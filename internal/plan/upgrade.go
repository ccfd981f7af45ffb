package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// An upgrade, and the way back, which is the same with the nodes first: a kubelet must never be newer than its API server.
// There is no record of how far it got. What is left to do follows from what every component runs, so it goes on, or back,
// from wherever it was interrupted.

// IDs of the rules by which a change of the version is refused.
const (
	RuleOneThing   = "version-alone"
	RuleOwnProgram = "programs-of-others"
)

// upgrade is the order of an upgrade. This function and controlPlaneInTurn are all of it.
func (b *builder) upgrade(hosts []spec.Host) error {
	if err := b.refuseUpgrade(); err != nil {
		return err
	}
	back := b.goesBack()
	b.out.Resumes = b.begun()
	snapshot := b.snapshotEtcd()
	b.beginWith(snapshot, b.checkStored(snapshot))
	for _, h := range hosts {
		b.installPackages(h)
		if b.comes(h) {
			b.installBundle(h)
		} else {
			b.unpack(h) // next to the one that runs
		}
	}
	pki, etcdPKI := b.sharePKI(), b.shareEtcdPKI()
	for _, h := range hosts {
		b.configureNode(h)
		b.importImages(h)
	}
	for _, h := range b.balancersInTurn() {
		if b.Reachable(h.Name) {
			b.configureBalancer(h, pki)
		}
	}
	remembered := b.removeDead()
	if !slices.ContainsFunc(b.c.EtcdHosts(), b.comes) {
		b.setEtcdServers(b.replacesSettings)
	}
	b.renewDue(b.all()...)
	b.publishEndpoint(b.all()...)
	b.warnOfReconciler()
	prepared := b.all()
	prepared = append(prepared, b.storeSettings("", prepared...))
	cps := b.controlPlanesInTurn()
	if back {
		addons := b.switchAddons(prepared)
		b.upgradeNodes(hosts, append(prepared, addons))
		b.convertEtcd(b.all())
		if err := b.heal(pki, etcdPKI, remembered); err != nil {
			return err
		}
		for _, h := range cps {
			b.controlPlaneInTurn(h, b.all())
		}
		b.etcdHostsInTurn(b.all())
		b.upgradeCluster(cps[0], b.all())
	} else {
		b.convertEtcd(prepared)
		if err := b.heal(pki, etcdPKI, remembered); err != nil {
			return err
		}
		b.etcdHostsInTurn(b.all())
		for _, h := range cps {
			b.controlPlaneInTurn(h, b.all())
		}
		b.upgradeCluster(cps[0], b.all())
		b.upgradeNodes(hosts, b.all())
	}
	b.restartKubelets(hosts, b.all()...)
	b.applyManifests(b.all()...)
	for _, h := range hosts {
		b.relabel(h)
	}
	b.uncordonKept(hosts)
	b.depart()
	b.onlyEndpoint(b.all()...)
	b.withdrawEndpoint(b.all()...)
	b.forget()
	b.forgetSettings(b.all()...)
	b.forgetEndpoints(b.all()...)
	b.scheduleBackups(b.all()...)
	b.watch(b.all()...)
	b.removePrometheus(b.all()...)
	b.recordSpec(b.all()...)
	b.finish()
	return nil
}

// controlPlaneInTurn is how one control plane gets another version: nobody uses it, and it leads nothing, while its static pods
// and its kubelet are replaced together.
func (b *builder) controlPlaneInTurn(h spec.Host, after []*Step) {
	stale, programs := b.stalePods(h), b.staleNode(h)
	reason := "of another version: " + strings.Join(slices.Concat(stale, programs), ", ") + "; other containers go on"
	if len(stale)+len(programs) == 0 && !b.APIServer(h.Name).OK { // an earlier run was interrupted when it had stopped
		stale, reason = controlPlanePods, "its API server does not work: "+b.APIServer(h.Name).Problem
	}
	if len(stale)+len(programs) == 0 { // it runs the version, perhaps with other settings
		if b.interrupted(h) && b.Facts(h.Name).Kubernetes.KubeletAway {
			b.useLocalAPI(h)
		}
		b.settingsInTurn(h, after)
		return
	}
	b.last = b.addAfter(b.last, after)
	b.replaceControlPlane(h, stale, programs, reason, after)
	b.returnFromReplacement(h, after)
}

// replaceControlPlane replaces everything that runs on a control plane, after nobody uses it and it leads nothing.
func (b *builder) replaceControlPlane(h spec.Host, stale, programs []string, reason string, after []*Step) {
	b.leaveForReplacement(h, after)
	b.switchTools(h, append(after, b.last)...)
	s := Step{Kind: UpgradeControlPlane, Host: h.Name, Title: "bring the control plane to " + b.bundle.Version, Pods: stale, Programs: programs,
		Reason: reason, Change: change(cluster.Restart, cluster.APIPrograms, h.Name)}
	s.Change.Kubernetes = b.bundle.Version
	if b.c.StackedEtcd() {
		s.Change.Part, s.Change.Etcd = cluster.ControlPlane, b.bundle.Etcd
	}
	at := b.at[h.Name]
	at.controlPlane = b.addInTurn(s, append(after, at.bundle, at.images, at.configure)...)
}

// leaveForReplacement has nobody use a control plane that works, and others lead, unless it is the only one.
func (b *builder) leaveForReplacement(h spec.Host, after []*Step) {
	if len(b.c.HostsWith(spec.RoleControlPlane)) > 1 && b.APIServer(h.Name).OK {
		b.leavePools(h.Name, "its API server is about to restart", after...)
		b.moveLeadership(h.Name, "whoever leads is not stopped", after...)
	}
}

func (b *builder) returnFromReplacement(h spec.Host, after []*Step) {
	returns := slices.ContainsFunc(b.steps, func(s *Step) bool { return s.Kind == JoinPools && s.Host == h.Name })
	if len(b.c.HostsWith(spec.RoleControlPlane)) > 1 && !returns {
		b.joinPools(h.Name, "it serves again", after...)
	}
}

// addAfter is the later of two points in the plan: a step that comes after either.
func (b *builder) addAfter(last *Step, after []*Step) *Step {
	if last == nil && len(after) > 0 {
		return after[len(after)-1]
	}
	return last
}

// oneThing refuses two changes at the same time that work one after the other.
func oneThing(both string) *cluster.Refusal {
	return refused(RuleOneThing, both, "Do one thing at a time: run `quorate apply` with one of the two changes, then with both.")
}

// refuseUpgrade is everything because of which no upgrade begins.
func (b *builder) refuseUpgrade() error {
	if r := b.Path(b.bundle.Version, b.bundle.Versions); r != nil {
		return r
	}
	if away := b.InMaintenance(); len(away) > 0 {
		return refused(RuleOneThing, "the version is to change, and these hosts are in maintenance: "+strings.Join(away, ", "), "End the maintenance first: `quorate maintain --undo "+away[0]+"`.")
	}
	if moving := b.movingBalancers(); len(moving) > 0 {
		return oneThing("the version is to change, and load balancers are to come to hosts of the cluster, or to leave them: " + strings.Join(moving, ", "))
	}
	for _, h := range b.Departing() { // one that is down is removed first: an upgrade may be interrupted because it died
		if b.Reachable(h.Name) && !b.hasLeft(h) {
			return oneThing(fmt.Sprintf("the version is to change from %s, and %s is to leave", b.Seen.API.Version, h.Name))
		}
	}
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		switch {
		case f == nil && (h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd)):
			fix := "Bring it up: an API server or etcd member that stays behind would soon be too old for the others. "
			if b.Dead(h) == nil {
				fix += "If it is lost for good"
			} else {
				fix += "If it is lost for good, power it off"
			}
			r := refused(RuleAPIServers, fmt.Sprintf("the version is to change, and %s cannot be reached: %s", h.Name, b.Unreachable()[h.Name]),
				fix+", put a new host into the spec in its place, and run `quorate apply`: the new one joins first, and then the version changes. If the others can be spared one at a time without it, it is enough to take it out of the spec.")
			r.Transient = true
			return r
		case f == nil:
		case b.leftAsItIs(h):
			return refused(RuleOwnProgram, fmt.Sprintf("the version is to change, and the programs on %s were installed without Quorate", h.Name),
				"Upgrade this cluster as it was installed (`kubeadm upgrade`). Then write the version that it runs into the spec.")
		case (h.IsNode() && !f.Kubernetes.KubeletConfig || b.comes(h)) && !(b.comes(h) && b.heals(h)):
			return oneThing(fmt.Sprintf("the version is to change from %s, and %s is to join: a host joins with the version that the cluster runs", b.Seen.API.Version, h.Name))
		}
	}
	return nil
}

// changesVersion says that a program of the cluster runs another version of Kubernetes, or of etcd, than the bundle has.
func (b *builder) changesVersion() bool {
	if k := b.Seen.API.Kubeadm; k != nil && differs(k.Version, b.bundle.Version) || len(b.staleAddons()) > 0 {
		return true
	}
	return slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool {
		f := b.Facts(h.Name)
		if f == nil || b.leftAsItIs(h) {
			return false
		}
		return h.Has(spec.RoleControlPlane) && f.Kubernetes.KubeletConfig && slices.ContainsFunc(b.stalePods(h), func(pod string) bool { return f.Kubernetes.PodImages[pod] != "" }) ||
			h.IsNode() && f.Kubernetes.KubeletConfig && differs(b.Runs(h.Name, facts.Kubelet), b.bundle.Version) ||
			h.Has(spec.RoleEtcd) && b.staleMember(h)
	})
}

// otherPods says that a control plane has static pods of another version.
func (b *builder) otherPods() bool {
	return slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool {
		f := b.Facts(h.Name)
		return f != nil && slices.ContainsFunc(controlPlanePods, func(pod string) bool { return differs(f.Kubernetes.PodImages[pod], b.bundle.Images[pod]) })
	})
}

// differs says that two versions are known and not the same.
func differs(have, want string) bool { return have != "" && want != "" && have != want }

// goesBack says that something runs a newer version than the bundle has.
func (b *builder) goesBack() bool {
	newer := func(v string) bool { return cluster.Older(b.bundle.Version, v) }
	if k := b.Seen.API.Kubeadm; k != nil && newer(k.Version) {
		return true
	}
	return slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool {
		return newer(b.Runs(h.Name, facts.Kubelet)) || newer(b.Runs(h.Name, "kube-apiserver"))
	})
}

// stalePods are the static pods of a control plane that are not those of the bundle, or are missing.
func (b *builder) stalePods(h spec.Host) (out []string) {
	k := b.Facts(h.Name).Kubernetes
	pods := controlPlanePods
	if b.c.StackedEtcd() {
		pods = append([]string{"etcd"}, pods...)
	}
	for _, pod := range pods {
		missing := !slices.Contains(k.Manifests, pod)
		if missing && (pod != "etcd" || k.EtcdData) || differs(k.PodImages[pod], b.bundle.Images[pod]) {
			out = append(out, pod)
		}
	}
	return out
}

// staleNode are the programs of a node that do not run from the bundle, if its kubelet runs another version.
func (b *builder) staleNode(h spec.Host) (out []string) {
	f := b.Facts(h.Name)
	for _, p := range []string{facts.RuncProgram, facts.Containerd, facts.Kubelet} {
		if f.Programs[p] != b.bundleFor(f) {
			out = append(out, p)
		}
	}
	return out
}

// staleMember says that a member of an external etcd runs another version.
func (b *builder) staleMember(h spec.Host) bool {
	return differs(b.Runs(h.Name, "etcd"), b.bundle.Etcd)
}

// switchedEtcd says that a member of an external etcd runs from the bundle. Its host can be reached.
func (b *builder) switchedEtcd(h spec.Host) bool {
	f := b.Facts(h.Name)
	return f.Programs[facts.EtcdProgram] == b.bundleFor(f) && !b.staleMember(h)
}

// addons are kube-proxy and CoreDNS, by what the API calls them.
const (
	proxyAddon = "kube-proxy"
	dnsAddon   = "coredns"
)

// staleAddons are those that run another image than the bundle's.
func (b *builder) staleAddons() (out []string) {
	for _, d := range b.Seen.API.DaemonSets {
		if d.Namespace == "kube-system" && d.Name == proxyAddon && differs(d.Version, cluster.ImageTag(b.bundle.Images[proxyAddon])) {
			out = append(out, proxyAddon)
		}
	}
	if differs(b.Seen.API.DNSVersion, cluster.ImageTag(b.bundle.Images[dnsAddon])) {
		out = append(out, dnsAddon)
	}
	return out
}

func (b *builder) inMaintenance(host string) bool { return slices.Contains(b.InMaintenance(), host) }

// controlPlanesInTurn are the control planes in the order in which they are upgraded: those that do not serve come first, such
// as the one at which an earlier run was interrupted. As long as it is away, no other one may be.
func (b *builder) controlPlanesInTurn() []spec.Host {
	hosts := slices.DeleteFunc(b.c.HostsWith(spec.RoleControlPlane), b.comes) // a new one joins with the version
	rank := func(h spec.Host) int {
		switch {
		case !b.APIServer(h.Name).OK:
			return 0
		case b.drained(h.Name):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(hosts, func(x, y spec.Host) int { return cmp.Compare(rank(x), rank(y)) })
	return hosts
}

// unpack brings the bundle to a host. Nothing that runs changes.
func (b *builder) unpack(h spec.Host) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	if (h.IsNode() || h.Has(spec.RoleEtcd)) && !slices.Contains(f.Bundles, b.bundleFor(f)) {
		at.bundle = b.add(Step{Kind: InstallBundle, Host: h.Name, Title: "install " + b.bundle.Version, Reason: installReason(f)})
	}
}

// switchTools switches what no unit runs: kubeadm before what it configures.
func (b *builder) switchTools(h spec.Host, after ...*Step) *Step {
	f := b.Facts(h.Name)
	tools := []string{facts.KubeadmProgram, facts.KubectlProgram, facts.CNIPlugins, facts.OtherPrograms}
	if !h.Has(spec.RoleEtcd) {
		tools = append(tools, facts.EtcdProgram)
	}
	if !h.IsNode() {
		tools = append(tools, facts.RuncProgram, facts.Containerd, facts.Kubelet)
	}
	differ := slices.DeleteFunc(tools, func(p string) bool { return f.Programs[p] == b.bundleFor(f) })
	if len(differ) == 0 || slices.ContainsFunc(b.steps, func(s *Step) bool { return s.Kind == SwitchPrograms && s.Host == h.Name && s.Detail == "tools" }) {
		return b.at[h.Name].bundle
	}
	s := b.add(Step{Kind: SwitchPrograms, Host: h.Name, Detail: "tools", Title: "switch tools to " + b.bundle.Version, Programs: differ, Reason: "kubeadm comes before what it configures"},
		append(after, b.at[h.Name].bundle)...)
	b.at[h.Name].bundle = s
	return s
}

// upgradeNode switches containerd and the kubelet of one node. Containers go on while both restart.
func (b *builder) upgradeNode(h spec.Host, programs []string, after ...*Step) *Step {
	tools := b.switchTools(h, after...)
	s := Step{Kind: UpgradeNode, Host: h.Name, Title: "bring the kubelet to " + b.bundle.Version, Programs: programs, Restart: []string{"containerd.service", "kubelet.service"},
		Reason: "it runs another version; its containers go on while it restarts", Change: change(cluster.Restart, cluster.Node, h.Name)}
	if !slices.Contains(programs, facts.Kubelet) {
		s.Title, s.Reason = "bring containerd to "+b.bundle.Version, "it runs from another bundle; containers go on while it restarts"
	}
	s.Change.Kubernetes = b.bundle.Version
	at := b.at[h.Name]
	return b.add(s, append(after, tools, at.bundle, at.images, at.configure)...)
}

// nodesAtOnce is how many of so many nodes restart their kubelets at the same time.
func nodesAtOnce(nodes int) int { return min(max(nodes/10, 2), 10) }

// upgradeNodes upgrades the workers, several at the same time: as many lanes as nodesAtOnce.
func (b *builder) upgradeNodes(hosts []spec.Host, after []*Step) {
	workers := slices.DeleteFunc(slices.Clone(hosts), func(h spec.Host) bool {
		return !h.IsNode() || h.Has(spec.RoleControlPlane) || len(b.staleNode(h)) == 0
	})
	b.inLanes(workers, after, func(h spec.Host, after ...*Step) *Step { return b.upgradeNode(h, b.staleNode(h), after...) })
}

// inLanes adds a step for each of the hosts, in as many lanes as nodesAtOnce says.
func (b *builder) inLanes(hosts []spec.Host, after []*Step, add func(spec.Host, ...*Step) *Step) {
	lanes := make([]*Step, nodesAtOnce(len(hosts)))
	begin := append(slices.Clone(after), b.last)
	for i, h := range hosts {
		lane := i % len(lanes)
		lanes[lane] = add(h, append(slices.Clone(begin), lanes[lane])...)
	}
	if len(hosts) > 0 {
		b.last = lanes[(len(hosts)-1)%len(lanes)]
	}
}

// etcdHostsInTurn upgrades the members of an external etcd, one after another, the leader when it leads no longer.
func (b *builder) etcdHostsInTurn(after []*Step) {
	if !b.c.ManagedEtcd() {
		return
	}
	for _, h := range b.c.EtcdHosts() {
		if b.comes(h) || b.switchedEtcd(h) { // the one joins with the version
			continue
		}
		if m, ok := b.Member(h.Name); ok && m.Healthy && len(b.c.EtcdHosts()) > 1 {
			b.moveLeadership(h.Name, "the leader is not stopped", after...)
		}
		tools := b.switchTools(h, after...)
		s := Step{Kind: SwitchPrograms, Host: h.Name, Detail: "etcd", Title: "bring etcd to " + b.bundle.Etcd, Programs: []string{facts.EtcdProgram}, Restart: []string{hostconfig.EtcdUnit},
			Reason: "it runs another version; " + hostconfig.EtcdUnit + " restarts", Change: change(cluster.Restart, cluster.EtcdMember, h.Name)}
		s.Change.Etcd = b.bundle.Etcd
		b.addInTurn(s, append(after, tools)...)
	}
}

// snapshotEtcd saves everything before anything is changed. A run that goes on with a change saves nothing more: what was saved before the
// change is what the cluster could be restored from, and later snapshots would take its place (see facts.KeptSnapshots).
func (b *builder) snapshotEtcd() *Step {
	if b.out.Resumes && b.saved() {
		return nil
	}
	at := b.SnapshotHost()
	if at == "" {
		if b.c.ExistingEtcd() {
			b.out.Warnings = append(b.out.Warnings, "etcd is yours, so Quorate saves no snapshot of it. Save one before the version of Kubernetes changes (`etcdctl snapshot save`)")
		}
		return nil
	}
	return b.add(Step{Kind: SnapshotEtcd, Host: at, Title: "save a snapshot of etcd", Detail: b.bundle.Version,
		Reason: "if the worst comes to the worst, the cluster can be restored from it; it is read again after it was written"})
}

// saved says that the newest snapshot on any host is the one from before the change that this run goes on with: to the version of the bundle or, if
// the cluster had that version and goes back to it, to another one.
func (b *builder) saved() bool {
	newest := ""
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f != nil {
			newest = max(newest, slices.Max(append([]string{""}, f.Snapshots...)))
		}
	}
	return newest != "" && (b.ComesFrom(b.bundle.Version) || facts.SnapshotBefore(newest) == b.bundle.Version)
}

// checkStored finds objects that the API servers of the version could not read, before anything is changed.
func (b *builder) checkStored(after *Step) *Step {
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if b.Reachable(h.Name) && b.APIServer(h.Name).OK {
			return b.add(Step{Kind: CheckStored, Host: h.Name, Title: "look for objects that " + b.bundle.Version + " cannot read", Detail: b.bundle.Version,
				Reason: "an API server cannot serve what is stored in a version that it does not know"}, after)
		}
	}
	return nil
}

// convertEtcd has etcd bring its data to the version that is to take over, where that is older, and ends a downgrade that is no
// longer wanted.
func (b *builder) convertEtcd(after []*Step) {
	if b.bundle.Etcd == "" || b.c.ExistingEtcd() {
		return
	}
	newer, under := "", ""
	members := slices.DeleteFunc(slices.Clone(b.Seen.Etcd), func(m facts.EtcdMember) bool { // without those that are removed before
		return slices.ContainsFunc(b.ofKind(RemoveMember), func(s *Step) bool { return s.MemberID == m.ID })
	})
	if all := members; len(all) > 0 && !slices.ContainsFunc(all, func(m facts.EtcdMember) bool {
		return m.Version == "" || !cluster.Older(b.bundle.Etcd, m.Version) || cluster.SameMinor(b.bundle.Etcd, m.Version)
	}) {
		newer = all[0].Version // if not yet, then within seconds
	}
	for _, m := range members {
		if m.StorageVersion != "" && cluster.Older(b.bundle.Etcd, m.StorageVersion) && !cluster.SameMinor(b.bundle.Etcd, m.StorageVersion) {
			newer = m.StorageVersion
		}
		if m.DowngradeTo != "" {
			under = m.DowngradeTo
		}
	}
	s := Step{Kind: ConvertEtcd, Title: "have etcd prepare for " + b.bundle.Etcd, Change: change(cluster.Downgrade, cluster.EtcdMember, ""), Etcd: b.bundle.Etcd,
		Reason: "its data has the version " + newer + ", which older members cannot read"}
	switch {
	case newer != "":
	case under != "" && !cluster.SameMinor(under, b.bundle.Etcd):
		s.Title, s.Etcd, s.Reason = "end the downgrade of etcd", "", "it was begun, to "+under+", and is no longer wanted"
	default:
		return
	}
	s.Change.Etcd = b.bundle.Etcd
	b.addInTurn(s, after...)
}

// switchAddons gives the addons the bundle's images before the API servers go back: kube-proxy must not be newer than they are.
func (b *builder) switchAddons(after []*Step) *Step {
	stale := b.staleAddons()
	if len(stale) == 0 {
		return nil
	}
	return b.addInTurn(Step{Kind: SwitchAddons, Title: "switch " + cluster.List(stale) + " to " + b.bundle.Version, Pods: stale,
		Reason: "they must not be newer than the API servers; their pods are replaced one after another", Change: change(cluster.Restart, cluster.PodNetwork, "")}, after...)
}

// upgradeCluster is what kubeadm does once when all control planes are upgraded.
func (b *builder) upgradeCluster(h spec.Host, after []*Step) {
	stale := b.staleAddons()
	var why []string
	if k := b.Seen.API.Kubeadm; k != nil && differs(k.Version, b.bundle.Version) {
		why = append(why, "kubeadm's configuration in the cluster says "+k.Version)
	} else if record, err := b.Record(); err == nil && record != nil && b.goesBack() && differs(record.Cluster().Spec.Kubernetes.Version, b.bundle.Version) {
		// A host that joined in between needed the version there, and nothing else was done.
		why = append(why, "kubeadm's configuration in the cluster was made by "+record.Cluster().Spec.Kubernetes.Version)
	}
	if len(stale) > 0 {
		why = append(why, "of another version: "+strings.Join(stale, ", "))
	}
	if len(why) == 0 {
		return
	}
	b.switchTools(h, after...)
	s := b.addInTurn(Step{Kind: UpgradeCluster, Host: h.Name, Title: "bring kubeadm's configuration, kube-proxy and CoreDNS to " + b.bundle.Version, Reason: strings.Join(why, "; ") + "; addons are replaced one pod after another",
		Change: change(cluster.Restart, cluster.PodNetwork, "")}, append(after, b.at[h.Name].bundle)...)
	b.spreadDNS(s)
}
