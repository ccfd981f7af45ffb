package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

const (
	// quotaWarning and quotaCritical are parts of etcd's quota; at the whole quota etcd refuses every write.
	quotaWarning, quotaCritical = 0.8, 0.95
	// defaultQuota is etcd's own, where a member does not tell.
	defaultQuota = 2 << 30
)

const apiServer = "kube-apiserver"

// controlPlanePrograms are the static pods of a control plane, without etcd.
var controlPlanePrograms = []string{apiServer, facts.ControllerManager, facts.Scheduler}

// Program is how a program of a control plane answers.
func (s *State) Program(host, name string) facts.Answer {
	if name == apiServer {
		return s.APIServer(host)
	}
	return s.component(host, name)
}

// etcdMajority reports that etcd cannot decide anything, or that nobody can tell.
func (f *findings) etcdMajority() {
	voters, up := quorum.Count(f.working(), quorum.Member)
	need := quorum.Majority(voters)
	if up >= need {
		return
	}
	if voters == 0 {
		if f.Spec.ExistingEtcd() {
			f.unmet(RuleEtcdMajority, Critical, "no endpoint of your etcd could be queried"+after(": ", f.Seen.EtcdError)+"; without it nothing can be changed in the cluster",
				"Bring it back: "+strings.Join(f.Spec.Spec.Etcd.Endpoints, ", ")+".")
		}
		return
	}
	unknown, alarmed := 0, 0
	var failed []string
	for _, p := range f.placements {
		switch p.Member {
		case quorum.Unknown:
			unknown++
		case quorum.Down:
			failed = append(failed, p.Host)
		}
	}
	for _, m := range f.Seen.Etcd {
		if !m.Learner && !m.Healthy && onlyAlarms(m) {
			alarmed++
		}
	}
	switch {
	case up+alarmed >= need: // the members work and refuse to write: the alarms are reported
	case up+unknown >= need:
		f.unmet(RuleEtcdMajority, Critical, fmt.Sprintf("it is unknown whether etcd has a majority: %d of %d members are known to work, and %d are needed%s", up, voters, need, f.membersText()),
			"Make the members reachable: Quorate queries them through SSH sessions to their hosts."+f.fixRecover())
	default:
		f.unmet(RuleEtcdMajority, Critical, fmt.Sprintf("etcd has lost its majority: %d of %d members work, and %d are needed; nothing can be changed in the cluster%s", up, voters, need, f.membersText()),
			fmt.Sprintf("Bring back at least %d of: %s.", need-up, strings.Join(failed, ", "))+f.fixRecover())
	}
}

// fixRecover is what to do when members do not come back.
func (f *findings) fixRecover() string {
	if f.Spec.ExistingEtcd() {
		return ""
	}
	return " If too many of them are lost for good, `quorate recover` shows what is left of etcd and how to bring the cluster back."
}

// api reports that the API could not be read, and tells API servers that are down from ones that nobody could ask.
func (f *findings) api() {
	if f.Seen.API != nil {
		return
	}
	down, unknown := 0, 0
	for _, h := range f.present.HostsWith(spec.RoleControlPlane) {
		switch a := f.APIServer(h.Name); {
		case a.OK:
			// It is ready, so whatever kept the API from being read is not the server.
			f.unmet(RuleAPI, Critical, "the API server on "+h.Name+" is ready, but the API could not be read"+after(": ", f.Seen.APIError), fixStatus, h.Name)
			return
		case a.Known():
			down++
		default:
			unknown++
		}
	}
	fix := "Bring the control planes back. `quorate apply` then starts what is stopped and restores what is misconfigured on them."
	if !f.Marked() {
		fix = "Bring the control planes back. Quorate did not build this cluster, and changes nothing while its API does not answer."
	}
	if unknown > 0 {
		f.unmet(RuleAPI, Critical, fmt.Sprintf("it is unknown whether any API server answers: %s%d of %d could not be queried%s", failed("answer", down), unknown, down+unknown, after("; ", f.Seen.APIError)), fix)
		return
	}
	f.unmet(RuleAPI, Critical, "no API server answers"+after(": ", f.Seen.APIError), fix)
}

// failed counts what does not do something, in front of what could not be queried.
func failed(verb string, n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s not %s, and ", n, plural(n, "does", "do"), verb)
}

// controllers reports that no controller manager or no scheduler works. Without an API neither can.
func (f *findings) controllers() {
	if f.Seen.API == nil {
		return
	}
	for _, k := range []struct {
		part      quorum.Part
		name, use string
	}{
		{quorum.ControllerManager, "controller manager", "nothing that fails is replaced"},
		{quorum.Scheduler, "scheduler", "new pods are not started"},
	} {
		total, up := quorum.Count(f.working(), k.part)
		if total == 0 || up > 0 {
			continue
		}
		unknown := 0
		for i := range f.placements {
			if *k.part(&f.placements[i]) == quorum.Unknown {
				unknown++
			}
		}
		if unknown > 0 {
			f.unmet(RuleControllers, Critical, fmt.Sprintf("it is unknown whether any %s works: %s%d of %d could not be queried", k.name, failed("work", total-unknown), unknown, total), fixStatus)
			continue
		}
		f.unmet(RuleControllers, Critical, fmt.Sprintf("no %s works, so %s", k.name, k.use), "What is wrong with each of them is listed here.")
	}
}

// etcd reports the members that do not work, one by one, and their databases.
func (f *findings) etcd() {
	judge := f.unmet
	if f.Spec.ExistingEtcd() {
		judge = f.add // that etcd is the user's own: the spec asks no more of it than that it answers
	}
	alarms := map[string][]string{}
	full := map[Severity][]string{}
	var members []facts.EtcdMember
	for _, m := range f.Seen.Etcd {
		name := f.MemberHost(m)
		for _, alarm := range m.Alarms {
			alarms[alarm] = append(alarms[alarm], name)
		}
		if m.DBSizeBytes > 0 {
			members = append(members, m)
		}
		if _, ours := f.present.Host(name); ours && !f.Reachable(name) {
			continue
		}
		switch {
		case m.Unknown != "": // reported with the other programs that could not be queried
		case !m.Started:
			fix := "`quorate apply` finishes its join."
			if _, interrupted := f.InterruptedJoin(name); !interrupted {
				fix = "Start it. Or, if nobody is adding it, remove it: on a host with a working member, " + f.removeMember(m) + "."
			}
			judge(RuleEtcdMember, Warning, "etcd member "+name+" was added, but has never started", fix, name)
		case f.UntrustedData(m) != "":
			f.unmet(RuleEtcdData, Critical, "the data of etcd member "+name+" must not be used: "+f.UntrustedData(m), f.untrustedFix(m), name)
		case m.Learner:
			fix := "Wait until it has caught up. If it does not, run `quorate apply`."
			if f.stage == Foreign {
				fix = "Wait until it has caught up and is promoted. If nobody is adding it, remove it: on a host with a working member, " + f.removeMember(m) + "."
			}
			judge(RuleEtcdLearner, Warning, "etcd member "+name+" is still a learner and has no vote"+after(": ", m.Problem), fix, name)
		case !m.Healthy && f.Facts(name) != nil && f.Facts(name).Kubernetes.EtcdDataMissing():
			f.unmet(RuleEtcdMember, Warning, "the data of etcd member "+name+" is missing (there is no "+hostconfig.EtcdWAL+"), and the member does not start without it", f.missingDataFix(name, m), name)
		case !m.Healthy && !onlyAlarms(m):
			judge(RuleEtcdMember, Warning, "etcd member "+name+" does not work"+after(": ", m.Problem), f.etcdFix(name), name)
		case f.Lags(m) && m.CatchesUp:
			judge(RuleEtcdLag, Warning, fmt.Sprintf("etcd member %s is %d entries of the log behind the leader, and catches up", name, m.Behind),
				"Wait until it has caught up. Until then, nothing is stopped that etcd would need instead of it.", name)
		case f.Lags(m):
			judge(RuleEtcdLag, Warning, fmt.Sprintf("etcd member %s is %d entries of the log behind the leader, and does not catch up", name, m.Behind), f.lagFix(m), name)
		}
	}
	f.patience()
	f.differences()
	f.reportedData()
	for _, alarm := range f.StrayAlarms() {
		f.unmet(RuleEtcdAlarm, Critical, fmt.Sprintf("etcd still has the alarm %s of a member that was removed, and it counts for all members", alarm), f.repairFix("ends it", f.etcdctl("alarm disarm")))
		delete(alarms, alarm)
	}
	for _, alarm := range slices.Sorted(maps.Keys(alarms)) {
		f.unmet(RuleEtcdAlarm, Critical, fmt.Sprintf("etcd has raised the alarm %s on %s", alarm, List(alarms[alarm])), f.alarmFix(alarm), alarms[alarm]...)
	}
	for _, m := range members {
		used := float64(m.DBSizeBytes) / float64(cmp.Or(m.QuotaBytes, defaultQuota))
		switch {
		case used >= quotaCritical:
			full[Critical] = append(full[Critical], f.MemberHost(m))
		case used >= quotaWarning:
			full[Warning] = append(full[Warning], f.MemberHost(m))
		}
	}
	for _, limit := range []struct {
		severity Severity
		part     float64
	}{{Critical, quotaCritical}, {Warning, quotaWarning}} {
		if on := full[limit.severity]; len(on) > 0 {
			f.add(RuleEtcdQuota, limit.severity, fmt.Sprintf("etcd's database uses more than %.0f %% of its quota on %s; when it uses all of it, etcd refuses every write", 100*limit.part, List(on)), f.quotaFix(members), on...)
		}
	}
	if f.Seen.Etcd == nil {
		return
	}
	for _, h := range f.Spec.EtcdHosts() {
		if _, is := f.Member(h.Name); is || !f.Reachable(h.Name) {
			continue
		}
		switch {
		case f.Spec.StackedEtcd() && !f.wasControlPlane(h.Name): // it joins with its node, which is reported as missing, or cannot become a control plane
		case f.Spec.StackedEtcd():
			f.unmet(RuleEtcdMember, Warning, "control plane "+h.Name+" has no etcd member",
				"`quorate repair` has it join etcd again, with an empty directory. What it has is kept aside.", h.Name)
		case f.Facts(h.Name).Kubernetes.EtcdData:
			f.unmet(RuleEtcdMember, Warning, "etcd has no member on "+h.Name+", and the data of an earlier one is there",
				f.repairFix("keeps that data aside, and has the host join etcd again", "clear "+h.Name+", and add the member again"), h.Name)
		default:
			f.unmet(RuleEtcdMember, Warning, "etcd has no member on "+h.Name, "`quorate apply` adds it.", h.Name)
		}
	}
}

const fixNoMajority = "Change nothing, and do not restart any member. Take a backup now (`quorate backup`), and find out which member has the data that you need."

// differences reports who has which data where members were compared for this observation, they differ, and no member can be replaced for it.
func (f *findings) differences() {
	groups, agreed := f.groups()
	left := slices.ContainsFunc(f.Seen.Etcd, func(m facts.EtcdMember) bool { return f.otherHash(m) != "" && f.UntrustedData(m) == "" })
	switch {
	case len(groups) < 2:
	case !agreed:
		f.unmet(RuleEtcdData, Critical, "the data of the etcd members differs, and no majority agrees on it: "+strings.Join(groups, "; "), fixNoMajority)
	case left:
		f.unmet(RuleEtcdData, Critical, "the data of the etcd members differs, and too few of those that agree are known to work for another one to be replaced: "+strings.Join(groups, "; "),
			"Bring the other members back first. "+f.repairFix("then replaces those that differ", "then remove those that differ, and add them again with an empty directory"))
	}
}

// reportedData reports what the units of control planes found about the data of members, and what this observation does not show: how they last
// compared the members, and which members went back. The cluster may match its spec all the same: the reports are older, and apply changes nothing
// about it.
func (f *findings) reportedData() {
	const compare = "`quorate status --compare-etcd` compares it again. "
	f.reportedBack()
	if f.compared() {
		return
	}
	at, by, age := f.reported()
	if at == nil {
		return
	}
	when := by + " compared the data of the etcd members " + span(time.Duration(age)*time.Second) + " ago"
	if groups, agreed := at.groups(); len(groups) > 1 && !agreed {
		f.add(RuleEtcdData, Critical, when+": it differs, and no majority agrees on it: "+strings.Join(groups, "; "), compare+fixNoMajority)
	}
	for _, m := range at.Seen.Etcd {
		if why := at.otherHash(m); why != "" && f.UntrustedData(m) == "" {
			name := f.MemberHost(m)
			f.add(RuleEtcdData, Critical, when+", and the data of "+name+" must not be used: "+why, compare+"`quorate repair` does, too, and replaces the member if its data still differs.", name)
		}
	}
}

// reportedBack reports members that the unit that leads saw go back.
func (f *findings) reportedBack() {
	leader := f.WatchLeader()
	if leader == "" {
		return
	}
	for _, m := range f.Seen.Etcd {
		if why := f.Facts(leader).Watch.Report.WentBack[m.ID]; why != "" && f.UntrustedData(m) == "" {
			name := f.MemberHost(m)
			f.add(RuleEtcdData, Critical, leader+", which repairs, saw that the data of etcd member "+name+" must not be used: "+why,
				leader+" replaces the member as soon as that is safe; on "+leader+", `journalctl -u quorate-watch` shows what keeps it from that.", name)
		}
	}
}

// etcdctl is the command as an operator types it on a host with a member.
func (f *findings) etcdctl(arguments string) string {
	if f.Spec.ExistingEtcd() {
		return "`etcdctl " + arguments + "`"
	}
	const pki = "/etc/kubernetes/pki/etcd/"
	return "`etcdctl --cacert " + pki + "ca.crt --cert " + pki + "server.crt --key " + pki + "server.key " + arguments + "`"
}

func (f *findings) removeMember(m facts.EtcdMember) string {
	return f.etcdctl("member remove " + cmp.Or(m.ID, "ID"))
}

func (f *findings) quotaFix(members []facts.EtcdMember) string {
	defragment := f.repairFix("compacts and defragments it, one member after the other, the leader last", "on each etcd host, "+f.etcdctl("defrag"))
	for _, m := range members {
		if float64(m.InUseBytes) >= quotaWarning*float64(cmp.Or(m.QuotaBytes, defaultQuota)) || m.InUseBytes == 0 {
			return "Delete objects that are not needed (`kubectl get --raw /metrics | grep apiserver_storage_objects` counts them by kind). Then: " + defragment
		}
	}
	return "Most of it is free space inside the file. " + defragment
}

// repairFix is a fix that `quorate repair` makes, or else the operator by hand: in an etcd or a cluster that Quorate does not manage.
func (f *findings) repairFix(does, byHand string) string {
	if f.Spec.ExistingEtcd() || f.stage == Foreign {
		return "Do this by hand: " + byHand + "."
	}
	return "`quorate repair` " + does + "."
}

func (f *findings) alarmFix(alarm string) string {
	switch alarm {
	case facts.AlarmCorrupt:
		return "While it is raised, etcd refuses every read and write. " + f.repairFix("compares the data of all members, and replaces a member whose data differs from that of a majority", "stop this member and do not copy its data anywhere: "+strings.TrimSuffix(f.stopEtcd(), "."))
	case facts.AlarmNoSpace:
		return "etcd refuses every write. " + f.repairFix("compacts it, defragments one member after the other, and ends the alarm", f.etcdctl("defrag")+" on each member, then "+f.etcdctl("alarm disarm")) + " If that is not enough, delete objects that are not needed."
	}
	return "When its cause is removed, end the alarm: " + f.etcdctl("alarm disarm") + "."
}

func (f *findings) untrustedFix(m facts.EtcdMember) string {
	return f.repairFix("removes the member, keeps its data aside, and has it join again as a new one", "on a host with a working member, "+f.removeMember(m)+"; then add it again with an empty directory")
}

// lagFix is what to do about a member that stays behind. Where its host is too slow, nothing but another one helps.
func (f *findings) lagFix(m facts.EtcdMember) string {
	return f.repairFix("restarts it, and replaces it if that does not help", "restart it; if that does not help, "+f.removeMember(m)+", and add it again with an empty directory") +
		" If it falls behind again, the disk, the CPUs, or the network of its host are too slow: in its metrics, `etcd_disk_wal_fsync_duration_seconds` shows how slow the disk is."
}

// etcdFix is what to do about a member that does not work.
func (f *findings) etcdFix(host string) string {
	switch {
	case f.Spec.StackedEtcd():
		if s := f.Facts(host); s != nil && s.Kubernetes.KubeletConfig && !slices.Contains(s.Kubernetes.Manifests, "etcd") && s.Kubernetes.EtcdData {
			return "The manifest of etcd is missing on " + host + ". " + f.byApply("writes it again")
		}
		return "On " + host + ", `tail /var/log/pods/kube-system_etcd-*/etcd/*.log` shows why."
	case f.Spec.ManagedEtcd():
		return "`quorate apply` starts it if it is stopped. On " + host + ", `journalctl -u etcd -n 50` shows why."
	}
	return "Check it on " + host + ". It is your etcd; Quorate does not change it."
}

// missingDataFix is for a member that is kept from starting empty.
func (f *findings) missingDataFix(host string, m facts.EtcdMember) string {
	fix := "If the data is on a disk that is not mounted, mount it: the member then starts. If it is lost, "
	if !f.Spec.StackedEtcd() {
		return fix + "take the host out of the spec, run `quorate apply`, add it again, and run `quorate apply` once more."
	}
	return fix + "have the host leave the cluster and join again: `quorate reset " + host + "`, then `quorate apply`."
}

// wasControlPlane says that the host joined as a control plane: parts of one are still there.
func (s *State) wasControlPlane(host string) bool {
	f := s.Facts(host)
	if f == nil || !f.Kubernetes.KubeletConfig {
		return false
	}
	k := f.Kubernetes
	return k.EtcdData && s.Spec.StackedEtcd() || len(k.Withdrawn) > 0 || slices.ContainsFunc(controlPlanePrograms, func(pod string) bool { return slices.Contains(k.Manifests, pod) })
}

// controlPlanes reports the programs of control planes that do not work. A host that has not joined yet has a finding as a
// node.
func (f *findings) controlPlanes() {
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if !f.wasControlPlane(h.Name) {
			continue
		}
		for _, name := range controlPlanePrograms {
			a := f.Program(h.Name, name)
			switch {
			case !slices.Contains(f.Facts(h.Name).Kubernetes.Manifests, name):
				f.unmet(RuleControlPlane, Warning, fmt.Sprintf("%s is not running on %s: its manifest is missing", name, h.Name), f.byApply("writes it again"), h.Name)
			case a.OK, !a.Known():
			default:
				f.unmet(RuleControlPlane, Warning, fmt.Sprintf("%s on %s does not work: %s", name, h.Name, a.Problem),
					fmt.Sprintf("On %s, `tail /var/log/pods/kube-system_%s-*/%s/*.log` shows why.", h.Name, name, name), h.Name)
			}
		}
	}
}
