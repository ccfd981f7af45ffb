package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// IDs of the rules of findings, besides those of refusals.
const (
	RuleNoHost           = "no-host"
	RuleNoCluster        = "no-cluster"
	RuleClusterUnknown   = "cluster-unknown"
	RuleIncomplete       = "incomplete"
	RuleUnfinishedReset  = "unfinished-reset"
	RuleUnownedParts     = "unowned-parts"
	RuleLostCluster      = "lost-cluster"
	RuleForeignCluster   = "foreign-cluster"
	RuleHost             = "host"
	RuleZone             = "zone"
	RuleNode             = "node"
	RuleNodePressure     = "node-pressure"
	RuleFullDisk         = "full-disk"
	RuleCordoned         = "cordoned"
	RuleStranger         = "stranger"
	RuleDeparting        = "departing"
	RuleRemoved          = "removed-host"
	RuleEtcdMajority     = "etcd-majority"
	RuleEtcdMember       = "etcd-member"
	RuleEtcdLearner      = "etcd-learner"
	RuleEtcdAlarm        = "etcd-alarm"
	RuleEtcdData         = "etcd-data"
	RuleEtcdLag          = "etcd-lag"
	RuleEtcdQuota        = "etcd-quota"
	RuleAPI              = "api"
	RuleControllers      = "controllers"
	RuleControlPlane     = "control-plane"
	RuleEndpoint         = "endpoint"
	RuleEndpointFromHere = "endpoint-from-here"
	RuleVirtualIP        = "virtual-ip"
	RuleAPIService       = "api-service"
	RuleLoadBalancer     = "load-balancer"
	RuleBalancerServer   = "load-balancer-server"
	RuleDrained          = "drained"
	RuleMaintenance      = "maintenance"
	RuleDNS              = "dns"
	RuleComponent        = "component"
	RuleNotQueried       = "not-queried"
	RuleVersions         = "versions"
	RuleWrongVersion     = "kubernetes-version"
	RuleSettings         = "host-settings"
	RulePrograms         = "programs"
	RuleMargin           = "margin"
	RuleChosen           = "chosen"
	RuleCertificate      = "certificate"
	RuleClock            = "clock"
	RuleSwap             = "swap"
	RuleAddress          = "host-address"
	RuleSuperAdmin       = "super-admin"
	RuleBackupAge        = "backup-age"
	RuleBackupFailed     = "backup-failed"
	RuleBackupSchedule   = "backup-schedule"
	RuleWatch            = "watch"
	RulePrometheus       = "prometheus"
	RuleSources          = "sources" // of package sources
)

// Rule is a rule of findings: a reference, and what tests walk.
type Rule struct {
	ID         string
	Severities []Severity
	// What says what is looked at.
	What string
}

// Rules are the rules of all findings of State.Findings.
var Rules = []Rule{
	{RuleNoHost, []Severity{Critical}, "a host of the spec can be reached"},
	{RuleOneCluster, []Severity{Error}, "all hosts belong to the cluster of the spec"},
	{RuleOneEtcd, []Severity{Critical, Error}, "all etcd members belong to one etcd: their CA certificates and the cluster IDs that they report are the same"},
	{RuleBalancersOf, []Severity{Error}, "the load balancers serve no other cluster"},
	{RuleInitial, []Severity{Error}, "an etcd whose first start was interrupted is completed with the members that it was started with"},
	{RuleFixed, []Severity{Warning}, "the spec changes nothing that cannot be changed in an existing cluster"},
	{RuleNewerRecord, []Severity{Warning}, "this version of Quorate understands what the cluster recorded"},
	{RuleNoCluster, []Severity{Info}, "there is a cluster"},
	{RuleClusterUnknown, []Severity{Critical, Warning}, "it is known whether there is a cluster"},
	{RuleIncomplete, []Severity{Warning}, "the first build was not interrupted"},
	{RuleUnfinishedReset, []Severity{Warning}, "every reset of a host was finished"},
	{RuleUnfinishedRestore, []Severity{Warning}, "every restore was finished"},
	{RuleUnownedParts, []Severity{Warning}, "hosts outside a cluster carry no parts of one that Quorate did not build"},
	{RuleLostCluster, []Severity{Critical}, "hosts that are marked as part of a cluster still carry parts of it"},
	{RuleForeignCluster, []Severity{Info}, "Quorate built or adopted the cluster"},
	{RuleEtcdMajority, []Severity{Critical}, "a majority of etcd's members works"},
	{RuleAPI, []Severity{Critical}, "an API server answers, and the API can be read"},
	{RuleControllers, []Severity{Critical}, "a controller manager and a scheduler work"},
	{RuleEndpoint, []Severity{Critical, Warning}, "the endpoint answers requests from the hosts"},
	{RuleEndpointFromHere, []Severity{Info}, "the endpoint answers requests from the machine that runs quorate"},
	{RuleVirtualIP, []Severity{Critical, Warning, Info}, "exactly one load balancer has the virtual IP, and no machine outside the spec has it"},
	{RuleAPIService, []Severity{Critical, Warning}, "the Service through which pods reach the API has an address, and none that is left over"},
	{RuleLoadBalancer, []Severity{Critical, Warning, Info}, "every load balancer works, and Quorate configured it"},
	{RuleBalancerServer, []Severity{Warning}, "every load balancer knows and reaches every API server"},
	{RuleHost, []Severity{Warning}, "the host can be reached"},
	{RuleZone, []Severity{Warning}, "at least one host of the zone can be reached"},
	{RuleNotQueried, []Severity{Warning}, "the programs on reachable hosts could be queried"},
	{RuleComponent, []Severity{Warning}, "the kubelet, containerd, kube-proxy, the pod network's agent and Quorate's own programs work on every host"},
	{RuleNode, []Severity{Warning}, "every node of the spec is in the cluster, and Ready"},
	{RuleNodePressure, []Severity{Warning}, "no node is short of disk, memory or process IDs"},
	{RuleFullDisk, []Severity{Warning}, fmt.Sprintf("every file system below /var/lib has %d GiB free or, if it is smaller than %d GiB, %.0f %% of its space", fullBytes>>30, fullBytes>>30*10, 100*fullPart)},
	{RuleCordoned, []Severity{Warning}, "no node is left cordoned by a departure, or a reset, that was given up"},
	{RuleStranger, []Severity{Warning}, "every node and etcd member of the cluster is in the spec"},
	{RuleDeparting, []Severity{Warning}, "every host of the cluster is in the spec"},
	{RuleRemoved, []Severity{Warning, Info}, "hosts that were removed while they were down are still down, or were reset"},
	{RuleEtcdMember, []Severity{Warning}, "every etcd member works"},
	{RuleEtcdData, []Severity{Critical}, "the data of every etcd member can be read, is as new as what the member has acknowledged, and is the same as that of the others, as far as it was compared"},
	{RuleEtcdLag, []Severity{Warning}, "no etcd member stays thousands of entries of the log behind the leader, in several looks in a row"},
	{RuleEtcdPatience, []Severity{Warning}, fmt.Sprintf("`%s` is at least %d round trips between etcd's members, and %d times what 99 of 100 fsyncs of a member take", spec.ElectionTimeoutPath, electionPerRoundTrip, electionPerFsync)},
	{RuleEtcdLearner, []Severity{Warning}, "no etcd member is a learner"},
	{RuleEtcdAlarm, []Severity{Critical}, "no etcd member has raised an alarm"},
	{RuleEtcdQuota, []Severity{Critical, Warning}, fmt.Sprintf("etcd's database uses less than %.0f %% of its quota (warning) or %.0f %% (critical)", 100*quotaWarning, 100*quotaCritical)},
	{RuleControlPlane, []Severity{Warning}, "the API server, the controller manager and the scheduler work on every control plane"},
	{RuleDNS, []Severity{Critical, Warning}, "two replicas of CoreDNS are ready, on different nodes, and in different zones where nodes are in three or more"},
	{RuleDrained, []Severity{Info}, "no control plane is drained"},
	{RuleMaintenance, []Severity{Warning, Info}, "no host is in maintenance"},
	{RuleWrongVersion, []Severity{Warning}, "every node and control plane runs the Kubernetes version of the spec"},
	{RuleVersions, []Severity{Info}, "each program runs in the same version everywhere, and from the file that is installed"},
	{RuleSettings, []Severity{Warning}, "the files, modes, kernel settings, kernel modules and enabled units that Quorate set up on a host are unchanged"},
	{RulePrograms, []Severity{Warning}, "the installed programs are intact and in place, and so is the copy of their bundle"},
	{RuleMargin, []Severity{Warning}, "the cluster survives the loss of any control plane, etcd member, load balancer and zone"},
	{RuleChosen, []Severity{Info}, "choices in the spec that reduce availability are reported"},
	{RuleCertificate, []Severity{Critical, Warning}, fmt.Sprintf("no certificate expires within %d days (warning) or %d days (critical), and no authority within %d or %d; for one that is valid for less than four months in all (an authority: two years), within a quarter or an eighth of that",
		int(ExpiresSoon.Hours()/24), int(expiresNow.Hours()/24), int(authorityExpiresSoon.Hours()/24), int(ExpiresSoon.Hours()/24))},
	{RuleRotation, []Severity{Warning}, "no rotation of an authority was interrupted"},
	{RuleSuperAdmin, []Severity{Warning}, "super-admin.conf, whose rights no role takes away, is on one control plane at most"},
	{RuleClock, []Severity{Warning}, "the clocks of the hosts agree"},
	{RuleSwap, []Severity{Warning}, "swap is off on nodes"},
	{RuleAddress, []Severity{Warning}, "the hosts can use their addresses: no other machine has the same address of IPv6"},
	{RuleBackupAge, []Severity{Critical, Warning}, fmt.Sprintf("if the spec has a schedule of backups, the last good one is known, and not older than %d times the interval (warning) or %d times (critical)", backupLate, backupLost)},
	{RuleBackupFailed, []Severity{Warning, Info}, "no control plane failed to take a backup when it last tried"},
	{RuleBackupSchedule, []Severity{Warning}, "every control plane has the schedule of backups, and the credentials for their store, that the spec says"},
	{RuleWatch, []Severity{Warning}, "if the spec has the control planes repair the cluster, or serve metrics of it, the unit for it works on every control plane, one of them leads, the metrics can be read, and the hosts admit them"},
	{RulePrometheus, []Severity{Warning}, "if the spec installs Prometheus, all replicas of it, of Alertmanager and of kube-state-metrics run, and a node exporter on every node, in their current configuration, as far as nodes can run them"},
}

const (
	fixPower  = "Power it on, or repair its network (in a lab: `quorate lab heal`). It rejoins automatically."
	fixStatus = "Run `quorate status` again in a moment. If this persists, check the host."
)

// findings collects what is wrong.
type findings struct {
	*State
	out []Finding
}

// add notes something that is wrong, although the cluster matches its spec.
func (f *findings) add(rule string, sev Severity, summary, fix string, subjects ...string) {
	f.out = append(f.out, Finding{Rule: rule, Severity: sev, Subjects: subjects, Summary: summary, Fix: fix})
}

// unmet notes something because of which the cluster does not match its spec.
func (f *findings) unmet(rule string, sev Severity, summary, fix string, subjects ...string) {
	f.out = append(f.out, Finding{Rule: rule, Severity: sev, Subjects: subjects, Summary: summary, Fix: fix, Unmet: true})
}

// Findings lists everything that is wrong, the worst first, and causes before their consequences. What follows from a host
// that cannot be reached is left out: whoever brings that host back has repaired it too.
func (s *State) Findings() []Finding {
	f := &findings{State: s, out: []Finding{}}
	if f.blind() {
		return f.out
	}
	f.conflicts()
	switch s.stage {
	case Absent:
		f.unmet(RuleNoCluster, Info, "there is no cluster on these hosts yet", "`quorate apply` builds it.")
		f.hosts()
	case Undetermined:
		f.undetermined()
		f.hosts()
	case Partial:
		f.partial()
		f.edits()
		f.hosts()
	default:
		if r := f.Vanished(); r != nil {
			f.unmet(r.Rule, Critical, r.Why, r.Fix, r.Subjects...)
			break
		}
		f.all()
	}
	f.resets()
	f.restores()
	for _, w := range spec.Warnings(s.Spec) {
		f.add(RuleChosen, Info, w.Message, w.Fix)
	}
	f.certificates()
	f.rotations()
	f.superAdmins()
	f.skews()
	f.swap()
	f.addresses()
	f.out = f.besidesMaintenance()
	slices.SortStableFunc(f.out, func(a, b Finding) int { return cmp.Compare(a.Severity.Rank(), b.Severity.Rank()) })
	return f.out
}

// all judges every part of a cluster that was complete once.
func (f *findings) all() {
	if f.stage == Foreign {
		f.add(RuleForeignCluster, Info, "this cluster was not built by Quorate", "`quorate plan` shows what adoption would change; `quorate apply --adopt` adopts it.")
	} else {
		f.edits()
	}
	f.etcdMajority()
	f.api()
	f.controllers()
	f.noLoadBalancer()
	f.endpoint()
	f.virtualIP()
	f.apiService()
	f.hosts()
	f.notQueried()
	f.components(facts.Containerd, facts.Kubelet)
	f.nodes()
	f.disks()
	f.cordoned()
	f.strangers()
	f.departures()
	f.etcd()
	f.controlPlanes()
	f.components(facts.KubeProxy, facts.Flannel)
	f.loadBalancers()
	f.components("")
	f.settings()
	f.programs()
	f.dns()
	f.drained()
	f.maintenance()
	f.versions()
	f.margins()
	f.backups()
	f.watch()
	f.prometheus()
}

// NotWhole are the findings that keep a cluster of somebody else from being adopted: etcd, an API server, a controller manager,
// a scheduler, a node, or the endpoint does not work, or could not be queried. What adoption itself sets right, such as the
// load balancers, is not among them.
func (s *State) NotWhole() (out []Finding) {
	f := &findings{State: s}
	f.etcdMajority()
	f.api()
	f.controllers()
	f.endpoint()
	if holders, _ := s.Holders(); len(holders) > 0 {
		f.virtualIP()
	} else {
		f.othersWithVirtualIP(s.present.Spec.LoadBalancer.Address)
	}
	f.couldNotBeQueried(append(f.controlPlaneAnswers(), f.etcdAnswers()...))
	f.nodes()
	f.etcd()
	f.controlPlanes()
	return slices.DeleteFunc(f.out, func(x Finding) bool {
		joins := x.Rule == RuleNode && len(x.Subjects) == 1 && s.Node(x.Subjects[0]) == nil
		return joins || x.Severity == Info || x.Rule == RuleEtcdQuota
	})
}

// Unmet are the findings because of which the cluster does not match its spec. What cannot be reached is left out: whoever
// asks learns of it from Unreachable.
func (s *State) Unmet() (out []Finding) {
	for _, f := range s.Findings() {
		if f.Unmet {
			out = append(out, f)
		}
	}
	return out
}

// UnmetInAPI is what the API alone tells of Unmet: nodes, CoreDNS, Prometheus, and whether as many API servers are ready as there must be.
// Which of them is not, its host tells.
func (s *State) UnmetInAPI() (out []Finding) {
	f := &findings{State: s}
	if s.Seen.API == nil {
		f.api()
	}
	f.nodes()
	f.dns()
	f.registered()
	f.prometheus()
	for _, x := range f.besidesMaintenance() {
		if x.Unmet {
			out = append(out, x)
		}
	}
	return out
}

// blind reports that no host can be reached.
func (f *findings) blind() bool {
	hosts := f.Spec.Spec.Hosts
	if len(hosts) == 0 || slices.ContainsFunc(hosts, func(h spec.Host) bool { return f.Reachable(h.Name) }) {
		return false
	}
	f.unmet(RuleNoHost, Critical, fmt.Sprintf("no host can be reached, so nothing is known about the cluster; %s: %s", hosts[0].Name, f.whyUnreachable(hosts[0].Name)),
		"Check the network of this machine, and the SSH keys in the spec.")
	return true
}

// conflicts reports hosts and load balancers that belong to another cluster, and etcds that must not be joined.
func (f *findings) conflicts() {
	for _, r := range f.Conflicts() {
		f.unmet(r.Rule, Error, r.Why, r.Fix, r.Subjects...)
	}
	if r := f.InitialMembers(); r != nil {
		f.unmet(r.Rule, Error, r.Why, r.Fix, r.Subjects...)
	}
	if r := f.NoneAbandoned(); r != nil {
		f.unmet(r.Rule, Critical, r.Why, r.Fix, r.Subjects...)
	}
	ids, clusters := f.etcdClusters()
	if len(ids) < 2 {
		return
	}
	var parts []string
	for _, id := range ids {
		parts = append(parts, List(clusters[id])+" in "+id)
	}
	f.unmet(RuleOneEtcd, Critical, "the etcd members belong to different clusters, and clients may write to either: "+strings.Join(parts, "; "),
		"Find out which of them has the data that you need, and stop the others: "+f.stopEtcd())
}

func (f *findings) stopEtcd() string {
	switch {
	case f.Spec.StackedEtcd():
		return "on their hosts, move /etc/kubernetes/manifests/etcd.yaml out of that directory."
	case f.Spec.ManagedEtcd():
		return "on their hosts, `systemctl stop etcd`."
	}
	return "it is your etcd; Quorate does not change it."
}

// byApply is the fix of what `quorate apply` does. In a cluster that it has not adopted, it does nothing.
func (f *findings) byApply(does string) string {
	if f.stage == Foreign {
		return "Repair it with the tools that built the cluster: Quorate changes nothing before it has adopted it."
	}
	return "`quorate apply` " + does + "."
}

// edits reports what the spec asks for and what cannot be changed any more.
func (f *findings) edits() {
	differences, r := f.fixed()
	if r != nil {
		f.unmet(r.Rule, Warning, r.Why, r.Fix)
	}
	for _, d := range differences {
		if !d.extra { // reported as a stranger
			f.unmet(RuleFixed, Warning, "the spec changes what cannot be changed in an existing cluster: "+d.What, cmp.Or(d.How, fixDescribe))
		}
	}
}

// undetermined reports that nobody can tell whether there is a cluster.
func (f *findings) undetermined() {
	if !f.anyHost(func(k facts.Kubernetes) bool { return k.Begun || carriesCluster(k) }) {
		f.unmet(RuleClusterUnknown, Warning, "it is unknown whether there is a cluster: the hosts that could be queried carry no part of one, and others could not be queried",
			"Bring the other hosts back, or take them out of the spec.")
		return
	}
	var unknown []string
	for _, h := range f.Spec.Spec.Hosts {
		if (h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd)) && !f.Reachable(h.Name) {
			unknown = append(unknown, h.Name)
		}
	}
	f.unmet(RuleClusterUnknown, Critical, "it is unknown whether the cluster works, or was ever complete: "+List(unknown)+" could not be queried", "Bring them back.", unknown...)
	if !f.Endpoint().Known() {
		return // nothing that could be queried says more
	}
	f.endpoint()
}

// Vanished refuses to go on where hosts are marked as part of a cluster that was complete once, and no host carries any part of
// it any more; nil if it is not so. An empty data directory is then a loss, and not a beginning, until somebody says otherwise.
func (s *State) Vanished() *Refusal {
	if s.stage != Unresponsive || s.anyHost(carriesCluster) || len(s.Unreachable()) > 0 {
		return nil
	}
	var on []string
	for _, h := range s.Spec.Spec.Hosts {
		if s.Facts(h.Name).Kubernetes.Established {
			on = append(on, h.Name)
		}
	}
	return &Refusal{Rule: RuleLostCluster, Subjects: on, Why: List(on) + plural(len(on), " is", " are") + " marked as part of a cluster that was once complete, but no host carries any part of it now",
		Fix: "If its disks can be brought back, do that first. If the cluster is gone for good, run `quorate reset --all`; `quorate apply` then builds a new one."}
}

// partial reports a cluster whose first build did not end.
func (f *findings) partial() {
	if marks, _ := f.Restores(); len(marks) > 0 {
		return // it is reported as an unfinished restore
	}
	if f.Marked() {
		f.unmet(RuleIncomplete, Warning, "the cluster is not complete: the run that built it was interrupted", "`quorate apply` finishes the build. All hosts must be reachable for that.")
		return
	}
	var on []string
	for _, h := range f.Spec.Spec.Hosts {
		if s := f.Facts(h.Name); s != nil && carriesCluster(s.Kubernetes) {
			on = append(on, h.Name)
		}
	}
	f.unmet(RuleUnownedParts, Warning, List(on)+plural(len(on), " carries", " carry")+" parts of a cluster that Quorate did not build, and no API answers",
		"If this is a cluster that Quorate is to adopt, bring its API up first. If nobody needs it any more, clear the hosts: "+facts.HowToClear()+".", on...)
}

// Marked says that a host has a mark of Quorate's: it built this cluster, or began to, or adopted it.
func (s *State) Marked() bool {
	return s.anyHost(func(k facts.Kubernetes) bool { return k.Established || k.Begun || k.Adopted })
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// hosts reports what cannot be reached, by zone or by host.
func (f *findings) hosts() {
	// What is in maintenance may be powered off.
	all := slices.DeleteFunc(slices.Clone(f.Spec.Spec.Hosts), func(h spec.Host) bool { return f.leaving(h.Name) })
	dead := map[string]int{}
	for _, h := range all {
		if !f.Reachable(h.Name) {
			dead[h.Zone]++
		}
	}
	for _, h := range all {
		if f.Reachable(h.Name) {
			continue
		}
		var mates []string
		for _, o := range all {
			if o.Zone == h.Zone {
				mates = append(mates, o.Name)
			}
		}
		switch {
		case h.Zone == "" || len(mates) == 1 || dead[h.Zone] < len(mates):
			f.add(RuleHost, Warning, fmt.Sprintf("host %s cannot be reached: %s", h.Name, f.whyUnreachable(h.Name)), fixPower, h.Name)
		case mates[0] == h.Name:
			f.add(RuleZone, Warning, fmt.Sprintf("no host of zone %s can be reached (%s): %s", h.Zone, strings.Join(mates, ", "), f.whyUnreachable(h.Name)),
				"Restore the power or the network of the zone (in a lab: `quorate lab heal`). Its hosts rejoin automatically.", h.Zone)
		}
	}
}

// answer is one program's answer, with the host that it runs on and what it is called.
type answer struct {
	host, program string
	facts.Answer
}

// notQueried reports the programs on hosts that can be reached that could not be queried.
func (f *findings) notQueried() {
	all := f.controlPlaneAnswers()
	for _, h := range f.Spec.Spec.Hosts {
		if !f.Reachable(h.Name) {
			continue
		}
		if f.present.Balances(h) {
			all = append(all, answer{h.Name, facts.HAProxy, f.LoadBalancer(h.Name)}, answer{h.Name, facts.Keepalived, f.keepalived(h.Name)})
		}
		for _, name := range f.componentsOf(h) {
			if !slices.Contains(balancerPrograms, name) {
				all = append(all, answer{h.Name, name, f.component(h.Name, name)})
			}
		}
		for _, part := range slices.Sorted(maps.Keys(f.Facts(h.Name).Unknown)) {
			all = append(all, answer{h.Name, part, facts.Answer{Unknown: f.Facts(h.Name).Unknown[part]}})
		}
	}
	f.couldNotBeQueried(append(all, f.etcdAnswers()...))
}

// controlPlaneAnswers are those of the programs of control planes, on hosts that can be reached.
func (f *findings) controlPlaneAnswers() (all []answer) {
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if !f.Reachable(h.Name) || !f.wasControlPlane(h.Name) {
			continue
		}
		for _, p := range controlPlanePrograms {
			all = append(all, answer{h.Name, p, f.Program(h.Name, p)})
		}
	}
	return all
}

// etcdAnswers are those of etcd's members, unless their host cannot be reached.
func (f *findings) etcdAnswers() (all []answer) {
	for _, m := range f.Seen.Etcd {
		name := f.MemberHost(m)
		if _, ours := f.present.Host(name); !ours || f.Reachable(name) {
			all = append(all, answer{name, "etcd", facts.Answer{Unknown: m.Unknown}})
		}
	}
	return all
}

// couldNotBeQueried reports the answers that are unknown. Programs that could not be queried for one reason are one finding.
func (f *findings) couldNotBeQueried(all []answer) {
	type group struct{ hosts, programs []string }
	groups := map[string]*group{}
	var reasons []string
	for _, a := range all {
		if a.Known() {
			continue
		}
		why := strings.TrimPrefix(a.Unknown, a.host+": ")
		g := groups[why]
		if g == nil {
			g = &group{}
			groups[why] = g
			reasons = append(reasons, why)
		}
		if !slices.Contains(g.hosts, a.host) {
			g.hosts = append(g.hosts, a.host)
		}
		if !slices.Contains(g.programs, a.program) {
			g.programs = append(g.programs, a.program)
		}
	}
	for _, why := range reasons {
		g := groups[why]
		f.unmet(RuleNotQueried, Warning, fmt.Sprintf("%s on %s could not be queried: %s", List(g.programs), List(g.hosts), why),
			"Run `quorate status` again in a moment. If this persists, check the hosts: whether these programs work is not known.", g.hosts...)
	}
}

// nodes reports the nodes of the spec. A host that belongs to no node yet is going to join.
func (f *findings) nodes() {
	if f.Seen.API == nil {
		return
	}
	noNetwork := f.Spec.Spec.Network.CNI == spec.CNINone
	for _, h := range f.Spec.Spec.Hosts {
		if !h.IsNode() || !f.Reachable(h.Name) {
			continue
		}
		switch n := f.Node(h.Name); {
		case n == nil:
			f.unmet(RuleNode, Warning, "node "+h.Name+" is not in the cluster", "`quorate apply` joins it.", h.Name)
		case !n.Ready && n.NoNetwork && noNetwork:
			f.add(RuleNode, Warning, "node "+h.Name+" is not ready: "+n.NotReady, "Install a pod network: the spec tells Quorate to install none (network.cni).", h.Name)
		case !n.Ready && n.NoNetwork:
			f.unmet(RuleNode, Warning, "node "+h.Name+" is not ready: "+n.NotReady, "Check the firewalls and the network between it and the other nodes, and the pods of the pod network on it.", h.Name)
		case !n.Ready:
			f.unmet(RuleNode, Warning, "node "+h.Name+" is not ready"+after(": ", n.NotReady), "On "+h.Name+", `journalctl -u kubelet -n 50` shows why.", h.Name)
		case n.Short != "":
			f.unmet(RuleNodePressure, Warning, "node "+h.Name+" accepts no new pods and may evict those that it has: "+n.Short,
				"Free what "+h.Name+" is short of; `df -h /var/lib`, `free -m` and `journalctl -u kubelet | grep -i evict` show it."+f.pressureText(h.Name), h.Name)
		}
	}
}

// registered reports that fewer API servers than there must be have registered with the API's own Service. Where pods use the endpoint,
// they need not.
func (f *findings) registered() {
	if f.Seen.API == nil || f.Seen.API.APIServers == nil || f.podsUseEndpoint() {
		return
	}
	want := 0
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if f.Reachable(h.Name) && !f.leaving(h.Name) {
			want++
		}
	}
	if n := *f.Seen.API.APIServers; n < want {
		f.unmet(RuleControlPlane, Warning, fmt.Sprintf("%d of %d API servers are ready", n, want), "`quorate status` says why an API server is not ready.")
	}
}

// strangers reports nodes and etcd members that the spec does not name.
func (f *findings) strangers() {
	nodes := map[string]bool{}
	for _, n := range f.Strangers() {
		nodes[n.Name] = true
		fix := "Add it to the spec. Or remove it: `kubectl drain " + n.Name + " --ignore-daemonsets --delete-emptydir-data`, `kubeadm reset` on the host, `kubectl delete node " + n.Name + "`."
		if m, member := f.Member(n.Name); member {
			fix = "Add it to the spec. Or remove it, with its etcd member: `kubectl drain " + n.Name + " --ignore-daemonsets --delete-emptydir-data`; `kubeadm reset` on the host, which removes the member (if the host is lost: " + f.removeMember(m) + "); `kubectl delete node " + n.Name + "`."
		}
		f.unmet(RuleStranger, Warning, "node "+n.Name+" is in the cluster, but not in the spec", fix, n.Name)
	}
	if f.Spec.ExistingEtcd() {
		return
	}
	for _, m := range f.Seen.Etcd {
		name := f.MemberHost(m)
		if nodes[name] || slices.Contains(Names(f.present.EtcdHosts()), name) {
			continue
		}
		f.unmet(RuleStranger, Warning, "etcd has the member "+name+", for which the spec has no host",
			"Put its host into the spec. Or, if nobody needs the member, remove it: on a host with a working member, "+f.removeMember(m)+".", name)
	}
}

// componentsOf are the programs that were observed on a host besides those of the control plane. A node that has not joined
// yet runs none.
func (f *findings) componentsOf(h spec.Host) (out []string) {
	seen := f.Seen.Hosts[h.Name]
	if seen.Facts == nil || h.IsNode() && !seen.Facts.Kubernetes.KubeletConfig {
		return nil
	}
	for name := range seen.Components {
		if name != facts.ControllerManager && name != facts.Scheduler {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// balancerPrograms are judged as the load balancer that they are together.
var balancerPrograms = []string{facts.HAProxy, facts.Keepalived}

// components reports programs that do not work: those of these names, or with an empty name all that have no turn of their
// own.
func (f *findings) components(names ...string) {
	own := append([]string{facts.Containerd, facts.Kubelet, facts.KubeProxy, facts.Flannel}, balancerPrograms...)
	for _, h := range f.Spec.Spec.Hosts {
		for _, name := range f.componentsOf(h) {
			if names[0] == "" && slices.Contains(own, name) || names[0] != "" && !slices.Contains(names, name) {
				continue
			}
			if c := f.component(h.Name, name); !c.OK && c.Known() {
				fix := componentFix(name, h.Name)
				if slices.Contains([]string{facts.KubeProxy, facts.Flannel}, name) && f.StartsPods(h.Name) {
					fix = fmt.Sprintf("Wait: the kubelet on %s, which starts it, does not run yet, or was started less than %.0f minutes ago, as after a boot. If %s still does not work when the kubelet has run for that long, `quorate apply` and `quorate repair` restart it.",
						h.Name, podsStart.Minutes(), name)
				}
				f.unmet(RuleComponent, Warning, fmt.Sprintf("%s on %s does not work: %s", name, h.Name, c.Problem), fix, h.Name)
			}
		}
	}
}

func componentFix(name, host string) string {
	unit := name
	switch name {
	case facts.KubeProxy:
		return "`quorate apply` restarts it. `kubectl -n kube-system logs -l k8s-app=kube-proxy --tail=50` shows why."
	case facts.Flannel:
		return "`quorate apply` restarts the agent of the pod network on " + host + ". `kubectl -n kube-flannel logs -l app=flannel --tail=50` shows why."
	case facts.Approver:
		unit = "quorate-approver.timer -u quorate-approver"
	}
	return "`quorate apply` starts it. On " + host + ", `journalctl -u " + unit + " -n 50` shows why."
}

// versions reports programs that run in different versions.
func (f *findings) versions() {
	for _, v := range f.wrongVersion() {
		f.unmet(RuleWrongVersion, Warning, fmt.Sprintf("%s runs %s on %s, and the spec says %s", v.Program, v.Version, List(v.Hosts), f.Spec.Spec.Kubernetes.Version),
			"`quorate plan` shows how it gets there; `quorate apply` does it.", v.Hosts...)
	}
	for all := f.Versions(); len(all) > 0; {
		n := slices.IndexFunc(all, func(v Version) bool { return v.Program != all[0].Program })
		if n < 0 {
			n = len(all)
		}
		same := all[:n]
		all = all[n:]
		if len(same) < 2 {
			continue
		}
		var parts, hosts []string
		for _, v := range same {
			parts, hosts = append(parts, v.Version+" on "+List(v.Hosts)), append(hosts, v.Hosts...)
		}
		f.add(RuleVersions, Info, same[0].Program+" runs in different versions: "+strings.Join(parts, ", "),
			"Finish the upgrade, or restart the program that was replaced.", hosts...)
	}
	replaced := map[string][]string{}
	for _, h := range f.Spec.Spec.Hosts {
		for name, c := range f.Seen.Hosts[h.Name].Components {
			if c.Replaced {
				replaced[name] = append(replaced[name], h.Name)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(replaced)) {
		f.add(RuleVersions, Info, name+" on "+List(replaced[name])+" was started from a file that has been replaced since: its next restart, planned or not, starts another version",
			"Restart it at a convenient time, on one host at a time.", replaced[name]...)
	}
}

// margins reports, in one finding, what must not fail next. In a zonal placement a failed zone stops the cluster by design.
func (f *findings) margins() {
	counted := f.keepingUp(Change{})
	now := f.atRisk(counted.placements)
	if len(now) == 0 {
		return
	}
	// What could not be queried may work: only what is at risk all the same is certain. What is withdrawn does not count.
	best := slices.Clone(counted.placements)
	for i := range best {
		for _, part := range quorum.Parts {
			if *part(&best[i]) == quorum.Unknown && !f.leaving(best[i].Host) {
				*part(&best[i]) = quorum.Up
			}
		}
	}
	certain := f.atRisk(best)
	possible := slices.DeleteFunc(now, func(what string) bool { return slices.Contains(certain, what) })
	var parts []string
	if len(certain) > 0 {
		parts = append(parts, "does not survive the loss of "+strings.Join(certain, ", or "))
	}
	fix := "Repair what is listed here before anything else is stopped."
	away := f.InMaintenance()
	switch {
	case len(f.atRisk(withoutDNS(counted.placements))) == 0:
		parts[len(parts)-1] += ", which has all CoreDNS replicas that work"
		fix = f.fixDNS()
	case len(away) > 0 && !counted.anyNotUp():
		parts[len(parts)-1] += " while " + List(away) + plural(len(away), " is", " are") + " in maintenance"
		fix = "`quorate maintain --undo " + away[0] + "` ends the maintenance."
	case len(possible) > 0:
		parts = append(parts, "is not known to survive the loss of "+strings.Join(possible, ", or "))
	case !counted.anyNotUp():
		fix = "Spread more hosts over more zones in the spec (three control planes in three zones, two load balancers in two), then run `quorate apply`."
	}
	f.add(RuleMargin, Warning, "the cluster "+strings.Join(parts, ", and "), fix)
}

// withoutDNS are placements in which CoreDNS does not count.
func withoutDNS(placements []quorum.Placement) []quorum.Placement {
	out := slices.Clone(placements)
	for i := range out {
		out[i].DNS = quorum.Absent
	}
	return out
}

// working are the placements as they are now: a part on a host that is in maintenance works, although nothing may rely on it.
func (s *State) working() []quorum.Placement {
	out := slices.Clone(s.placements)
	for i := range out {
		out[i] = working(out[i])
	}
	return out
}

// atRisk names what the cluster does not survive the loss of. A cluster that does not work survives nothing, which is said by
// other findings.
func (f *findings) atRisk(placements []quorum.Placement) (out []string) {
	m := quorum.Survives(placements)
	single := f.Spec.Spec.ControlPlane.Placement == spec.PlacementSingle // the spec chose it, which is said elsewhere
	if m.ControlPlanes == 0 && !single {
		out = append(out, "a control plane")
	}
	if m.Etcd == 0 && !(single && f.Spec.StackedEtcd()) {
		out = append(out, "an etcd member")
	}
	if m.LoadBalancers != nil && *m.LoadBalancers == 0 && !(single && len(f.Spec.BalancerHosts()) == 1) {
		out = append(out, "a load balancer")
	}
	if m.Zones == 0 && f.Spec.Spec.ControlPlane.Placement != spec.PlacementZonal && !single {
		_, worst := quorum.ZoneMargin(placements)
		out = append(out, "zone "+strings.Join(worst, ", zone "))
	}
	return out
}
