package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
)

// maintain brings a cluster that exists to its spec. This function is the order of everything after the first build. Steps
// that take something away carry a change and are made one at a time (addInTurn).
func (b *builder) maintain() error {
	for _, refuse := range []func() error{b.refuseDepartures, b.refuseRetiring, b.refuseLostKeys, b.refuseNetwork, b.refuseProfile, b.refuseTimers, b.refuseSettings, b.refusePrometheus, b.refuseEndpoint, b.refuseFronts, b.refuseDuringRotation} {
		if err := refuse(); err != nil {
			return err
		}
	}
	if b.onlyServes {
		b.serveAgain()
		return nil
	}
	b.outgrown()
	b.restoreBudgets()
	b.checkDrains(b.alive())
	b.adopt() // a foreign cluster: marks come first
	hosts := slices.DeleteFunc(slices.Clone(b.c.Spec.Hosts), func(h spec.Host) bool { return !b.Reachable(h.Name) })
	slices.SortStableFunc(hosts, func(x, y spec.Host) int { // a worker's steps can wait for those of the others
		switch {
		case serves(x) == serves(y):
			return 0
		case serves(x):
			return -1
		}
		return 1
	})
	if b.Stage() != cluster.Foreign {
		b.renewAuthorities(b.c.Spec.Hosts)
	}
	if b.Stage() != cluster.Foreign && b.changesVersion() {
		return b.upgrade(hosts)
	}
	var remembered *Step
	moves := b.endpointMoves()
	if moves {
		remembered = b.removeDead()
		b.moveEndpoint(hosts)
	}
	for _, h := range hosts {
		b.installPackages(h)
		b.installBundle(h)
	}
	pki, etcdPKI := b.sharePKI(), b.shareEtcdPKI()
	for _, h := range hosts {
		b.configureNode(h)
		b.importImages(h)
	}
	for _, h := range b.balancersInTurn() {
		if b.Reachable(h.Name) && !b.waitsForPort(h) {
			b.configureBalancer(h, pki)
		}
	}
	b.shareEtcdClient(pki, etcdPKI)
	for _, h := range hosts {
		b.restore(h)
	}
	if b.Stage() != cluster.Foreign {
		b.markEstablished()
	}
	if !moves {
		remembered = b.removeDead()
	}
	if err := b.joinEtcd(); err != nil {
		return err
	}
	b.rejoinEtcd(b.replacesSettings)
	b.setEtcdServers(b.replacesSettings)
	if b.Stage() != cluster.Foreign {
		b.renewDue(b.all()...)
		b.renewInAPI()
	}
	var stored *Step
	if b.Stage() != cluster.Foreign {
		b.publishEndpoint(b.all()...) // before an API server stops listing itself
		b.warnOfReconciler()
		b.warnOfProbes()
		stored = b.changeTimers(b.changeSettings(hosts))
	}
	for _, h := range b.balancersInTurn() {
		if b.waitsForPort(h) { // its API server shares the port by now
			b.configureBalancer(h, pki)
		}
	}
	token := b.makeToken(remembered, stored)
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if err := b.joinControlPlane(h, pki, token); err != nil {
			return err
		}
	}
	b.applyManifests()
	for _, h := range hosts {
		b.joinWorker(h, token)
		b.relabel(h)
	}
	b.tuneDNS(b.ofKind(LabelNode, JoinControlPlane, JoinWorker)...) // where zones are, and which, comes first
	b.removeTokens(token)
	b.uncordonKept(hosts)
	b.retire(false)
	b.depart()
	b.retire(true)
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

// revive restores what is stopped or misconfigured on the hosts of a cluster whose API does not answer.
func (b *builder) revive() error {
	if r := b.refuseExpiredAuthority(b.c.Spec.Hosts); r != nil {
		return r
	}
	b.keepEndpoints()
	b.restoreHosts()
	b.renewOnBalancers(false)
	b.renewInAPI()
	// A run that was interrupted may have left only certificates to renew.
	b.out.Continues = len(b.ofKind(SetTrust))+len(b.ofKind(RenewCertificates)) > 0 || b.EtcdExpired()
	if len(b.steps) > 0 {
		b.add(verification(nil), b.all()...)
	}
	return nil
}

// restoreHosts restores what is stopped or misconfigured on the hosts of a cluster that was complete once.
func (b *builder) restoreHosts() {
	hosts := slices.DeleteFunc(slices.Clone(b.c.Spec.Hosts), func(h spec.Host) bool { return !b.Reachable(h.Name) || b.mends && !b.partOf(h) })
	for _, h := range hosts {
		b.installPackages(h)
		if !b.otherPods() { // programs wait until there is an API again: a kubelet must not be newer than its API server
			b.installBundle(h)
		}
		b.configureNode(h)
		b.importImages(h)
	}
	if !b.mends { // a repair is made alone, and these steps need each other
		b.reissueExpired()
	}
	for _, h := range hosts {
		b.restore(h)
	}
	for _, h := range b.balancersInTurn() {
		if b.Reachable(h.Name) && !b.waitsForPort(h) && !b.keepsServing(h) && (!b.mends || b.partOf(h)) {
			b.configureBalancer(h, nil)
		}
	}
}

// restore plans what brings back the programs of a host that joined.
func (b *builder) restore(h spec.Host) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	k := f.Kubernetes
	if !h.IsNode() || !k.KubeletConfig {
		return
	}
	if h.Has(spec.RoleControlPlane) {
		if k.KubeletAway && !b.leftAsItIs(h) {
			b.useLocalAPI(h)
		}
		var missing []string
		pods := controlPlanePods
		if b.c.StackedEtcd() {
			pods = append([]string{"etcd"}, pods...)
		}
		for _, pod := range pods {
			aside := (b.mends || b.rejoins(h) || b.former(h)) && slices.Contains(k.Withdrawn, pod) // for a maintenance, or for a repair or a join that goes on
			if pod == "etcd" && b.former(h) {
				continue // its data must not start again: it has to join etcd as a new member
			}
			if !slices.Contains(k.Manifests, pod) && !aside {
				missing = append(missing, pod)
			}
		}
		switch {
		case len(missing) == 0:
		case b.interrupted(h) && b.Seen.API != nil:
			// They are replaced in turn: see changeSettings.
		case slices.Contains(missing, "etcd") && !k.EtcdData:
			// It has to join etcd again: see rejoinEtcd.
		default:
			part := cluster.APIPrograms
			if slices.Contains(missing, "etcd") {
				part = cluster.ControlPlane
			}
			at.controlPlane = b.addInTurn(Step{Kind: RestoreControlPlane, Host: h.Name, Title: "restore the control plane", Pods: missing,
				Reason: "the manifests of " + strings.Join(missing, " and ") + " are missing", Change: change(cluster.Start, part, h.Name)}, at.configure)
		}
	}
	if b.rejoins(h) {
		return // until it has, its kubelet has no API server
	}
	b.renewKubelet(h, at.configure)
	if b.StartsPods(h.Name) {
		return // nothing says yet that an agent does not work: whoever verifies the cluster waits for it
	}
	for _, agent := range agents {
		c, known := b.Seen.Hosts[h.Name].Components[agent.component]
		if known && !c.OK && c.Known() && b.Seen.API != nil {
			b.addInTurn(Step{Kind: RestartAgent, Host: h.Name, Detail: agent.component, Title: "restart " + agent.component, Reason: c.Problem, Pods: []string{agent.daemonSet},
				Change: change(cluster.Restart, cluster.PodNetwork, h.Name)}, at.configure)
		}
	}
}

// agents are the programs that a DaemonSet runs on every node, as namespace/name.
var agents = []struct{ component, daemonSet string }{
	{facts.Flannel, OwnFlannel.Namespace + "/" + OwnFlannel.Name},
	{facts.KubeProxy, "kube-system/kube-proxy"},
}

func (b *builder) useLocalAPI(h spec.Host) {
	s := Step{Kind: UseLocalAPI, Host: h.Name, Title: "use the local API server", Change: change(cluster.Create, cluster.Node, h.Name),
		Reason: "a kubelet must not be newer than its API server, and the local one is upgraded before it"}
	if b.exists() {
		s.Change.Verb = cluster.Restart
		b.addInTurn(s, b.at[h.Name].controlPlane)
		return
	}
	b.add(s, b.at[h.Name].controlPlane)
}

// joinControlPlane adds a control plane to the cluster, after it has removed what an interrupted join left.
func (b *builder) joinControlPlane(h spec.Host, pki, token *Step) error {
	f, at := b.Facts(h.Name), b.at[h.Name]
	if f == nil || f.Kubernetes.KubeletConfig {
		return nil
	}
	if err := b.knownPaths(h); err != nil {
		return err
	}
	var undo *Step
	member, has := b.Member(h.Name)
	_, interrupted := b.InterruptedJoin(h.Name)
	switch {
	case interrupted:
		undo = b.addInTurn(Step{Kind: UndoJoin, Host: h.Name, Title: "undo an interrupted join", MemberID: member.ID, Change: change(cluster.Remove, cluster.EtcdMember, h.Name),
			Reason: "etcd has a member for it, and the host did not finish joining"}, at.configure)
	case has && b.c.StackedEtcd() && member.Healthy:
		return refused(RuleOldMember, fmt.Sprintf("%s has no control plane, but etcd has a member of that name, and %s", h.Name, memberState(member)),
			"Look on which machine it runs: "+member.PeerURL+". If that is another machine, give this one another name.")
	case has && b.c.StackedEtcd() && member.Unknown != "":
		r := refused(RuleOldMember, fmt.Sprintf("%s has no control plane, but etcd has a member of that name, and %s", h.Name, memberState(member)), "Run it again in a moment.")
		r.Transient = true
		return r
	case f.Kubernetes.Begun && f.Kubernetes.EtcdData && b.c.StackedEtcd():
		undo = b.addInTurn(Step{Kind: UndoJoin, Host: h.Name, Title: "undo an interrupted join", Change: change(cluster.Clear, cluster.Node, h.Name),
			Reason: "an earlier run of Quorate left etcd data, and etcd has no member for it"}, at.configure)
	}
	replaced := undo
	if undo == nil {
		replaced = b.replaceMachine(h)
	}
	reason := "it is in the spec but not in the cluster"
	if b.c.StackedEtcd() {
		reason += "; etcd takes one learner at a time"
	}
	at.join = b.addInTurn(Step{Kind: JoinControlPlane, Host: h.Name, Title: "join as a control plane", Reason: reason, Change: change(cluster.Add, cluster.ControlPlane, h.Name)},
		replaced, at.images, at.configure, at.balancer, at.pki, at.etcdClient, pki, token)
	b.markEstablishedOn(h, at.join)
	if b.drained(h.Name) {
		b.joinPools(h.Name, "the load balancers still send it no clients, as before it was reset", at.join)
	}
	return nil
}

// RuleOldMember refuses to join a host while a member of its name works elsewhere.
const RuleOldMember = "old-member"

func memberState(m facts.EtcdMember) string {
	switch {
	case m.Healthy:
		return "it works"
	case m.Unknown != "":
		return "it could not be queried: " + m.Unknown
	case !m.Started:
		return "it has never started"
	}
	return "it is not healthy" + after(": ", m.Problem)
}

func (b *builder) joinWorker(h spec.Host, token *Step) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	if !h.Has(spec.RoleWorker) || h.Has(spec.RoleControlPlane) || f.Kubernetes.KubeletConfig {
		return
	}
	at.join = b.add(Step{Kind: JoinWorker, Host: h.Name, Title: "join as a worker", Reason: "it is in the spec but not in the cluster", Change: change(cluster.Add, cluster.Node, h.Name)},
		b.replaceMachine(h), at.images, at.configure, at.balancer, token)
	b.labelWorker(h, at.join)
}

func (b *builder) makeToken(after ...*Step) *Step {
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f != nil && h.IsNode() && !f.Kubernetes.KubeletConfig {
			return b.add(Step{Kind: MakeToken, Title: "create a bootstrap token", Reason: "hosts are waiting to join"}, after...)
		}
	}
	return nil
}

// removeTokens ends the time in which hosts can join as soon as those of this plan have. A run that was killed left its token
// behind.
func (b *builder) removeTokens(made *Step) {
	left := b.Seen.API != nil && len(b.Seen.API.JoinTokens) > 0
	if made == nil && !left {
		return
	}
	b.add(Step{Kind: RemoveTokens, Title: "remove the bootstrap token", Reason: "it is no longer needed, and anyone who has it could join a host"}, append(b.ofKind(JoinWorker, JoinControlPlane), made)...)
}

// BeingApplied is noted instead of the digest of a manifest while a run applies its objects.
const BeingApplied = "being-applied"

func (b *builder) applyManifests(after ...*Step) {
	for _, name := range slices.Sorted(maps.Keys(b.bundle.Manifests)) {
		applied, removed := "", false
		if api := b.Seen.API; api != nil {
			applied = api.Applied[name]
			removed = name == manifest.Prometheus && api.Prometheus != nil && api.Prometheus.Missing()
		}
		planned := slices.ContainsFunc(b.steps, func(s *Step) bool { return s.Kind == ApplyManifest && s.Manifest == name })
		if planned || applied == b.bundle.Manifests[name] && !removed || applied == "" && manifest.IsNetwork(name) && b.keepsNetwork() {
			continue
		}
		s := Step{Kind: ApplyManifest, Detail: name, Manifest: name, Title: "apply " + name, Reason: "it is not applied yet"}
		switch {
		case removed:
			s.Reason = "somebody removed a part of it"
		case applied == BeingApplied:
			s.Reason = "a run that applied it was interrupted"
		case applied != "":
			s.Reason = "another version is applied"
		}
		if applied != "" && manifest.IsNetwork(name) {
			s.Reason += "; the pod network's agents restart one after another"
			s.Change = change(cluster.Restart, cluster.PodNetwork, "")
			b.addInTurn(s, after...)
			continue
		}
		if name == manifest.Prometheus { // no registry has its images; and the budgets of this version come last
			b.add(s, append(slices.Clone(after), b.ofKind(ImportImages, RestoreBudgets)...)...)
			continue
		}
		b.add(s, after...)
	}
}

// spreadDNS spreads CoreDNS after kubeadm has installed it, and gives it the replicas that the cluster is to have.
func (b *builder) spreadDNS(after ...*Step) {
	s := Step{Kind: SpreadDNS, Title: "spread CoreDNS", Zones: b.c.DNSInZones(), Reason: "kubeadm only prefers different nodes: two replicas on one node would be a single point of failure"}
	if s.Zones {
		s.Reason = "kubeadm only prefers different nodes: two replicas on one node, or in one zone, would be a single point of failure"
	}
	if n, why := b.dnsReplicas(); n > 0 {
		s.Replicas, s.Title, s.Reason = n, fmt.Sprintf("spread CoreDNS over %d replicas", n), s.Reason+"; "+why
	}
	b.add(s, after...)
}

// tuneDNS does what is missing of that in a cluster that exists.
func (b *builder) tuneDNS(after ...*Step) {
	n, why := b.dnsReplicas()
	zones := b.c.DNSInZones()
	switch {
	case !b.DNSSpread():
		b.spreadDNS(after...)
	case n > 0 && zones:
		b.add(Step{Kind: SpreadDNS, Detail: "replicas", Replicas: n, Zones: zones, Title: fmt.Sprintf("scale CoreDNS to %d replicas", n), Reason: why + "; its replicas restart one after another, because their number decides how many may be in one zone"}, after...)
	case n > 0:
		b.add(Step{Kind: SpreadDNS, Detail: "replicas", Replicas: n, Title: fmt.Sprintf("scale CoreDNS to %d replicas", n), Reason: why + "; the replicas that stay do not restart"}, after...)
	}
}

// dnsReplicas are the replicas that CoreDNS is to have, with the reason; 0 if it has them. What the spec says is exact. What the size
// asks for is the least: others may have scaled it up. In a small cluster it asks for nothing: somebody who has scaled it down keeps that.
func (b *builder) dnsReplicas() (int, string) {
	have, want := size.DNSReplicas, b.c.DNSReplicas() // kubeadm's
	if b.Seen.API != nil && b.Seen.API.DNSReplicas > 0 {
		have = b.Seen.API.DNSReplicas
	}
	switch given := b.c.Spec.Settings.DNS.Replicas > 0; {
	case given && want != have:
		return want, fmt.Sprintf("spec.settings.dns.replicas is %d, and there are %d", want, have)
	case !given && want > size.DNSReplicas && want > have:
		return want, fmt.Sprintf("there are %d, and one for each 16 nodes answers their lookups in time (%s)", have, b.size())
	}
	return 0, ""
}

// recordSpec stores the spec in the cluster when it is not the stored one.
func (b *builder) recordSpec(after ...*Step) *Step {
	step := recordStep(b.c, "", "record the spec in the cluster", "later edits of the spec are compared with it")
	if b.Seen.API != nil && b.Seen.API.Record == step.Record {
		return nil
	}
	if b.Seen.API != nil && b.Seen.API.Record != "" {
		if edits, err := b.Edits(); err == nil && len(edits) > 0 {
			var list []string
			for _, e := range edits {
				list = append(list, e.String())
			}
			step.Reason = "it was edited: " + strings.Join(list, "; ")
		}
	}
	return b.add(step, after...)
}

// recordStep stores a spec in the cluster.
func recordStep(c *spec.Cluster, detail, title, reason string) Step {
	text, err := spec.NewRecord(c).Marshal()
	if err != nil {
		panic(fmt.Sprintf("plan: the spec cannot be recorded: %v", err)) // it was read from the same format
	}
	return Step{Kind: RecordSpec, Detail: detail, Title: title, Reason: reason, Record: string(text)}
}

// finish verifies the cluster after all other steps, and also when a former run did not get that far: then the plan is not
// empty although nothing else is to do.
func (b *builder) finish() {
	want := b.verifiedMark()
	untested := b.untestedTakeover()
	if len(b.steps) == 0 && b.Seen.API != nil && b.Seen.API.Verified == want && untested == "" && len(b.superseded()) == 0 {
		return
	}
	s := verification(b.untried())
	if len(b.steps) == 0 {
		s.Reason = "the last run did not verify that the cluster matches its spec"
	}
	last := b.add(s, b.all()...)
	b.pruneBundles(last)
	var tested *Step
	if untested != "" {
		tested = b.add(Step{Kind: TestTakeover, Title: "test the takeover of the virtual IP", Record: untested, Change: change(cluster.Move, cluster.VirtualIP, ""),
			Reason: "a load balancer that never had the address is not known to work, and nobody uses the cluster yet"}, last)
	}
	if b.Seen.API != nil && b.Seen.API.Verified == want {
		return
	}
	b.add(Step{Kind: RecordVerified, Title: "record that the cluster was verified", Reason: "if a run ends before this step, the next run verifies the cluster again", Record: want}, last, tested)
}

// verifiedMark is what the cluster notes when it was seen to match this spec with this bundle.
func (b *builder) verifiedMark() string {
	text, err := spec.NewRecord(b.c).Marshal()
	if err != nil {
		panic(fmt.Sprintf("plan: the spec cannot be recorded: %v", err))
	}
	return facts.Sum(append(text, strings.Join(b.bundle.all(), "")...))
}

// untestedTakeover names the load balancers among which the virtual IP has never moved; empty if it has, if there is no other
// one, or if the cluster is in use: then it is not shaken for a test.
func (b *builder) untestedTakeover() string {
	var names []string
	for _, h := range b.c.BalancerHosts() {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	all := strings.Join(names, ",")
	api := b.Seen.API
	inUse := b.Stage() == cluster.Foreign || api != nil && (api.Verified != "" || b.any(func(k facts.Kubernetes) bool { return k.Adopted }))
	if len(names) < 2 || inUse || api != nil && api.TakeoverTested == all {
		return ""
	}
	return all
}
