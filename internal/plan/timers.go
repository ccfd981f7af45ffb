package plan

import (
	"fmt"
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how another election timeout reaches the members of an etcd that exists. Members read their timers when they start,
// so one after another restarts, and meanwhile any of them may lead any other. A member that waits only a few heartbeats of its leader
// gives up a leader that works. So the invariant is that every member waits at least patience heartbeats of every other one. Where
// the old and the new timers together violate it, all members first get the shorter of the heartbeats and the longer of the election timeouts,
// which go with either, and then the new ones.
//
// There is no record of how far it got: what is left to do follows from what the members have. Every mixture that this order can leave behind satisfies the
// invariant, so a run that was interrupted can go on, go back, and go elsewhere. What the cluster has stored counts as a member, because whoever joins
// or is replaced gets it.

// RuleEveryMember is the rule that refuses to change etcd's timers while a member cannot follow.
const RuleEveryMember = "every-member"

// patience is how many heartbeats of any leader a member waits at least. It is what etcd requires of one member's own timers before
// it starts with them.
const patience = 5

// patient says that members with these timers can lead each other.
func patient(all []facts.EtcdTimers) bool { return shortest(all) >= patience*longest(all) }

// shortest is the election timeout of the least patient, and longest the rarest heartbeat, in milliseconds.
func shortest(all []facts.EtcdTimers) int {
	out := all[0].Effective().Election
	for _, t := range all {
		out = min(out, t.Effective().Election)
	}
	return out
}

func longest(all []facts.EtcdTimers) (out int) {
	for _, t := range all {
		out = max(out, t.Effective().Heartbeat)
	}
	return out
}

// envelope are timers that go with all others: nobody has to wait for heartbeats longer than for one of theirs, and they wait as
// long as the most patient.
func envelope(all []facts.EtcdTimers) facts.EtcdTimers {
	out := all[0].Effective()
	for _, t := range all[1:] {
		out.Heartbeat, out.Election = min(out.Heartbeat, t.Effective().Heartbeat), max(out.Election, t.Effective().Election)
	}
	return out
}

// timerPasses are the timers that all members get, one pass after the other. A single member leads nobody.
func timerPasses(have []facts.EtcdTimers, to facts.EtcdTimers, members int) []facts.EtcdTimers {
	all := append(slices.Clone(have), to)
	switch {
	case !slices.ContainsFunc(have, func(t facts.EtcdTimers) bool { return !t.Same(to) }):
		return nil
	case members == 1 || patient(all):
		return []facts.EtcdTimers{to}
	}
	return []facts.EtcdTimers{envelope(all), to}
}

// managesTimers says that the spec sets the timers, or has set them: then they are etcd's defaults again. Others are not Quorate's.
func (b *builder) managesTimers() bool {
	return len(b.settings().managed.Arguments[facts.Etcd]) > 0
}

// timersOf are those of the member on a host, in its configuration and as it runs; none if nobody can tell.
func (b *builder) timersOf(h spec.Host) (out []facts.EtcdTimers) {
	f := b.Facts(h.Name)
	if f == nil || f.Kubernetes.EtcdTimers == nil {
		return nil
	}
	out = append(out, *f.Kubernetes.EtcdTimers)
	if runs := f.Kubernetes.EtcdRuns; runs != nil {
		out = append(out, *runs)
	}
	return out
}

// haveTimers are the timers of all members, and what members get that join or are replaced.
func (b *builder) haveTimers() (out []facts.EtcdTimers) {
	for _, h := range b.c.EtcdHosts() {
		out = append(out, b.timersOf(h)...)
	}
	if stored := b.storedTimers(); stored != nil {
		out = append(out, *stored)
	}
	return out
}

// storedTimers are those of a stacked etcd in kubeadm's configuration; nil if there are none.
func (b *builder) storedTimers() *facts.EtcdTimers {
	if b.Seen.API == nil || b.Seen.API.Kubeadm == nil || !b.c.StackedEtcd() {
		return nil
	}
	return b.Seen.API.Kubeadm.EtcdTimers
}

// beginTimers are those with which a member begins that joins a cluster: those of the spec, unless members have others, as after a run
// that was interrupted.
func (b *builder) beginTimers() facts.EtcdTimers {
	to := hostconfig.EtcdTimers(b.c)
	if have := b.haveTimers(); b.exists() && slices.ContainsFunc(have, func(t facts.EtcdTimers) bool { return !t.Same(to) }) {
		return envelope(have)
	}
	return to
}

// withTimers are facts of an etcd host when the plan is done, as far as its timers go.
func (b *builder) withTimers(f *facts.Facts) *facts.Facts {
	if b.etcdEnds == nil {
		return f
	}
	out := *f
	out.Kubernetes.EtcdTimers = b.etcdEnds
	return &out
}

// otherTimers says that a member does not have the timers of the spec, or that it is not known.
func (b *builder) otherTimers() bool {
	if b.Seen.API == nil || !b.managesTimers() {
		return false
	}
	to := hostconfig.EtcdTimers(b.c)
	if stored := b.storedTimers(); b.c.StackedEtcd() && (stored == nil || !stored.Same(to)) {
		return true
	}
	return slices.ContainsFunc(b.c.EtcdHosts(), func(h spec.Host) bool {
		f, have := b.Facts(h.Name), b.timersOf(h)
		return f != nil && f.Kubernetes.EtcdData && (len(have) == 0 || slices.ContainsFunc(have, func(t facts.EtcdTimers) bool { return !t.Same(to) }))
	})
}

// changesTimers says that the plan restarts members to change that.
func (b *builder) changesTimers() bool { return b.otherTimers() && b.blocksTimers() == nil }

// blocksTimers says why the timers cannot be changed now; nil if they can.
func (b *builder) blocksTimers() *cluster.Refusal {
	if stored := b.storedTimers(); b.c.StackedEtcd() && stored == nil {
		return refused(RuleEveryMember, "etcd's election timeout is to change, and kubeadm's configuration in the cluster, which members that join get it from, could not be read", "Correct the ConfigMap kube-system/kubeadm-config, and run it again.")
	}
	for _, h := range b.Present().EtcdHosts() {
		f := b.Facts(h.Name)
		m, has := b.Member(h.Name)
		why := ""
		switch {
		case f != nil && b.leftAsItIs(h):
			return refused(RuleOwnProgram, "etcd's election timeout is to change, and the member on "+h.Name+" was installed without Quorate",
				"Remove "+spec.ElectionTimeoutPath+", and change `--election-timeout` and `--heartbeat-interval` of its members as this etcd was installed. docs/failover.md says in which order.")
		case b.Departs(h.Name):
			why = h.Name + " is to leave the cluster"
		case f == nil:
			why = "the member on " + h.Name + " cannot be changed: " + b.Unreachable()[h.Name]
		case b.stopped(h):
			// It is the first that is started again.
		case !f.Kubernetes.EtcdData || b.rejoins(h):
			why = h.Name + " is to join etcd"
		case f.Kubernetes.EtcdTimers == nil:
			why = "the timers of the member on " + h.Name + " could not be read"
		case !has || m.Learner || !m.Healthy:
			why = "the member on " + h.Name + " does not work" + after(": ", m.Problem+m.Unknown)
		}
		if why != "" {
			r := refused(RuleEveryMember, "etcd's election timeout is to change, one member at a time, and "+why,
				"All members have to take part. Put the former value back until they do, and run `quorate apply`.")
			r.Transient = f == nil && !b.inMaintenance(h.Name)
			return r
		}
	}
	if r := b.slowMembers(); r != nil {
		return r
	}
	if why := b.delaysRestarts(); why != "" {
		return refused(RuleOneThing, "etcd's election timeout is to change, and its members do not restart now: "+why,
			"Do one thing at a time: run `quorate apply` with the former "+spec.ElectionTimeoutPath+" first, then with the new one.")
	}
	return nil
}

// slowMembers refuses an election timeout that is shorter than before and that members do not support.
func (b *builder) slowMembers() *cluster.Refusal {
	to, have := hostconfig.EtcdTimers(b.c).Effective(), b.haveTimers()
	if len(have) == 0 || to.Election >= shortest(have) || len(b.c.EtcdHosts()) < 2 {
		return nil
	}
	timeout := time.Duration(to.Election) * time.Millisecond
	for _, l := range cluster.Impatient(b.Patiences(), timeout) {
		return refused(cluster.RuleEtcdPatience, l.Summary, l.Fix)
	}
	return nil
}

// refuseTimers refuses an edit that cannot be carried out now. Without an edit, what differs is the remnant of an earlier run: that must
// not keep a lost host from being removed.
func (b *builder) refuseTimers() error {
	if !b.otherTimers() {
		return nil
	}
	r := b.blocksTimers()
	if r == nil {
		return nil
	}
	edits, err := b.Edits()
	if err != nil {
		return err
	}
	edited := slices.ContainsFunc(edits, func(e spec.Edit) bool { return e.Path == spec.ElectionTimeoutPath })
	if r.Rule == RuleOwnProgram || edited && !slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), b.stopped) {
		return r
	}
	b.blocked, b.onlyServes = r, b.onlyServes || edited
	b.out.Warnings = append(b.out.Warnings, "the timers of etcd do not match "+spec.ElectionTimeoutPath+", and stay as they are in this run: "+r.Why)
	return nil
}

// changeTimers brings the timers of the spec to all members. It returns the step after which hosts join with them.
func (b *builder) changeTimers(stored *Step) *Step {
	if !b.changesTimers() {
		return stored
	}
	to, have, hosts := hostconfig.EtcdTimers(b.c), b.haveTimers(), b.membersInTurn()
	b.etcdEnds = &to
	at, kept := map[string][]facts.EtcdTimers{}, b.storedTimers()
	for _, h := range hosts {
		at[h.Name] = b.timersOf(h)
		if b.stopped(h) { // it has what is stored by now: see changeSettings
			at[h.Name] = []facts.EtcdTimers{*kept}
		}
	}
	passes := timerPasses(have, to, len(hosts))
	for i, t := range passes {
		detail := "etcd-timers"
		if len(passes) > 1 {
			detail = fmt.Sprintf("etcd-timers-%d", i+1)
		}
		because := ""
		if i < len(passes)-1 {
			because = fmt.Sprintf("; all members restart once more after that, because one that waits %d ms must not follow one with a heartbeat every %d ms", shortest(append(have, to)), longest(append(have, to)))
		}
		if kept != nil && !kept.Same(t) {
			b.last = b.add(Step{Kind: StoreSettings, Detail: detail, Title: "store etcd's timers in kubeadm's configuration", Settings: &SettingsChange{Arguments: map[string]map[string]string{facts.Etcd: hostconfig.EtcdArguments(t)}},
				Reason: "members that join, or are replaced, get " + t.String() + ". Nothing restarts"}, b.all()...)
			kept = &t
		}
		after := b.all()
		for _, h := range hosts {
			former := at[h.Name]
			if slices.ContainsFunc(former, func(f facts.EtcdTimers) bool { return !f.Same(t) }) {
				b.timersInTurn(h, t, detail, "its etcd member gets "+t.String()+" instead of "+former[len(former)-1].String()+because, after)
			}
			at[h.Name] = []facts.EtcdTimers{t}
		}
	}
	return b.last
}

// membersInTurn are the hosts of members in the order in which they restart: the leader is last.
func (b *builder) membersInTurn() []spec.Host {
	hosts := b.c.EtcdHosts()
	slices.SortStableFunc(hosts, func(x, y spec.Host) int {
		leads := func(h spec.Host) int {
			if m, ok := b.Member(h.Name); ok && m.Leader {
				return 1
			}
			return 0
		}
		return leads(x) - leads(y)
	})
	return hosts
}

// timersInTurn is how one member gets other timers: it leads nothing, and nobody uses its API server, while it restarts.
func (b *builder) timersInTurn(h spec.Host, t facts.EtcdTimers, detail, reason string, after []*Step) {
	others := len(b.c.EtcdHosts()) > 1
	if !b.c.StackedEtcd() {
		if others {
			b.addInTurn(moveLeadershipStep(h.Name, detail, "the leader is not stopped"), after...)
		}
		b.addInTurn(Step{Kind: SetEtcdTimers, Host: h.Name, Detail: detail, Title: "restart etcd with other timers", Desired: &facts.Desired{Files: []facts.File{hostconfig.EtcdEnvironment(h, t)}}, Restart: []string{hostconfig.EtcdUnit},
			Reason: reason + "; " + hostconfig.EtcdUnit + " restarts", Change: change(cluster.Restart, cluster.EtcdMember, h.Name)}, after...)
		return
	}
	pools := others && b.c.Spec.LoadBalancer.Type == spec.BalancerManaged
	if pools {
		b.addInTurn(leavePoolsStep(h.Name, detail, "its API server is about to restart"), after...)
	}
	if others {
		b.addInTurn(moveLeadershipStep(h.Name, detail, "whoever leads is not stopped"), after...)
	}
	s := Step{Kind: UpgradeControlPlane, Host: h.Name, Detail: detail, Title: "replace the control plane's static pods, and give etcd other timers", Pods: append([]string{facts.Etcd}, controlPlanePods...),
		Change: change(cluster.Restart, cluster.ControlPlane, h.Name), Reason: reason + "; its etcd member, API server, controller manager, scheduler, and kubelet restart, and other containers go on"}
	s.Change.Kubernetes, s.Change.Etcd = b.bundle.Version, b.bundle.Etcd
	steps := b.at[h.Name]
	b.addInTurn(s, append(after, steps.bundle, steps.images, steps.configure)...)
	if pools {
		b.addInTurn(joinPoolsStep(h.Name, detail, "it serves again"), after...)
	}
}
