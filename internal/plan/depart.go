package plan

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how hosts leave that the spec does not name any more. The order, one host at a time:
//
//   - Whether the nodes of those that work can be drained is checked before anything is changed.
//   - A dead host first, so that the new ones join a sound etcd: its etcd member and its node are removed, and the cluster
//     remembers it.
//   - Then new hosts join (see maintain).
//   - Then the load balancers of hosts that stay are removed, where the spec does not have them any more (see retire).
//   - Then the hosts that work leave: drain, hand the virtual IP over, leave the load balancers' pools, move leaderships, stop
//     the API server, leave etcd, reset, delete the node.
//   - Then the load balancers forget them, and the spec is recorded. Until then the record names them, so that a run that was
//     killed is finished by the next one.

// refuseDepartures refuses to remove what may work as if it were dead.
func (b *builder) refuseDepartures() error {
	for _, h := range b.Departing() {
		if b.Reachable(h.Name) {
			continue
		}
		if r := b.Dead(h); r != nil {
			return r
		}
	}
	return nil
}

// dead are the departing hosts that are down. Build refuses those that only cannot be reached.
func (b *builder) dead() []spec.Host {
	return slices.DeleteFunc(b.Departing(), func(h spec.Host) bool { return b.Reachable(h.Name) })
}

// alive are the departing hosts that work and have not left completely.
func (b *builder) alive() []spec.Host {
	return slices.DeleteFunc(b.Departing(), func(h spec.Host) bool {
		return !b.Reachable(h.Name) || !b.carries(h) && b.Node(h.Name) == nil
	})
}

// removeDead removes hosts that are down. They are remembered before their nodes are deleted: a kubelet that comes back may
// register again only as long as nobody forbids it.
func (b *builder) removeDead() (remembered *Step) {
	dead := b.dead()
	for _, h := range dead {
		if m, has := b.Member(h.Name); has && !b.c.ExistingEtcd() {
			b.addInTurn(b.removeMember(h, m, "the host is down, and etcd counts a member for it: "+memberState(m)))
		}
	}
	remembered = b.remember("removed-hosts", slices.Concat(b.Removed(), dead), b.Listed(), "they are down and cannot be reset: the API must not let their nodes register again when they come back", b.last)
	for _, h := range dead {
		if b.Node(h.Name) != nil {
			b.addInTurn(b.deleteNode(h, "the host is down: it is neither drained nor reset, and its pods are replaced"), remembered)
		}
	}
	return remembered
}

// remember plans that the cluster remembers other hosts than it does; nil if it remembers these already.
func (b *builder) remember(detail string, hosts, before []spec.Host, reason string, after ...*Step) *Step {
	text, have := listOf(hosts), listOf(before)
	if text == have {
		return nil
	}
	title := "remember hosts that could not be reset"
	if len(hosts) < len(before) {
		title = "forget hosts that were removed"
	}
	return b.add(Step{Kind: RememberHosts, Detail: detail, Title: title, Reason: reason, Record: text, Nodes: cluster.Names(nodesAmong(hosts))}, after...)
}

func listOf(hosts []spec.Host) string {
	if len(hosts) == 0 {
		return ""
	}
	text, err := spec.MarshalHosts(hosts)
	if err != nil {
		panic(fmt.Sprintf("plan: hosts cannot be listed: %v", err)) // they were read from the same format
	}
	return text
}

func nodesAmong(hosts []spec.Host) []spec.Host {
	return slices.DeleteFunc(slices.Clone(hosts), func(h spec.Host) bool { return !h.IsNode() })
}

// removeMember is how the etcd member of a host leaves.
func (b *builder) removeMember(h spec.Host, m facts.EtcdMember, reason string) Step {
	part := cluster.EtcdMember
	if b.c.StackedEtcd() && b.Departs(h.Name) {
		part = cluster.ControlPlane
	}
	return Step{Kind: RemoveMember, Host: h.Name, Title: "remove the etcd member", Reason: reason, MemberID: m.ID, Change: change(cluster.Remove, part, h.Name)}
}

func (b *builder) deleteNode(h spec.Host, reason string) Step {
	return Step{Kind: DeleteNode, Host: h.Name, Title: "delete the node", Reason: reason, Change: change(cluster.Remove, cluster.Node, h.Name)}
}

// replaceMachine removes what the cluster still knows of the machine that had the name of a host before: the host is empty, so it
// is another machine, or its disk is. It returns the last step of that.
func (b *builder) replaceMachine(h spec.Host) (last *Step) {
	const reason = "the host is empty, so this is what is left of the machine that had its name before"
	if m, has := b.Member(h.Name); has && h.Has(spec.RoleControlPlane) && b.c.StackedEtcd() {
		last = b.addInTurn(b.removeMember(h, m, reason+": "+memberState(m)), b.at[h.Name].configure)
	}
	if b.Node(h.Name) != nil {
		last = b.addInTurn(b.deleteNode(h, reason), last, b.at[h.Name].configure)
	}
	return last
}

// depart plans how the hosts that work leave.
func (b *builder) depart() {
	leaving := b.alive()
	if len(leaving) == 0 {
		return
	}
	slices.SortStableFunc(leaving, func(x, y spec.Host) int { return b.departureRank(x) - b.departureRank(y) })
	before := b.all()
	if joined := b.joining(); len(joined) > 0 {
		before = append(before, b.add(Step{Kind: AwaitNodes, Title: "wait for the new nodes", Nodes: joined,
			Reason: "the pods of the hosts that leave need a place: " + strings.Join(cluster.Names(leaving), ", ")}, before...))
	}
	for _, h := range leaving {
		b.leaveCluster(h, leaving, before)
	}
}

// departureRank orders the hosts that leave: the fewer depend on one, the sooner it goes. The holder of the virtual IP and
// the leader of etcd go last, so that each moves once.
func (b *builder) departureRank(h spec.Host) int {
	rank := 0
	member, has := b.Member(h.Name)
	switch {
	case h.Has(spec.RoleControlPlane):
		rank = 20
	case h.Has(spec.RoleEtcd):
		rank = 30
	case b.Present().Balances(h):
		rank = 10
	}
	if has && member.Leader {
		rank++
	}
	if b.Holds(h.Name) {
		rank += 2
	}
	return rank
}

// joining are the nodes that join with this plan.
func (b *builder) joining() (out []string) {
	for _, s := range b.ofKind(JoinControlPlane, JoinWorker) {
		out = append(out, s.Host)
	}
	return out
}

// carries says that a host has something of the cluster left that a reset removes.
func (b *builder) carries(h spec.Host) bool {
	f := b.Facts(h.Name)
	if f == nil {
		return false
	}
	seen := b.Seen.Hosts[h.Name].Balancer
	return !b.Cleared(h.Name) || seen != nil && seen.WrittenFor != ""
}

// leaveCluster plans how one of several hosts leaves. A run that was killed left some of it done.
func (b *builder) leaveCluster(h spec.Host, together []spec.Host, before []*Step) {
	k := b.Facts(h.Name).Kubernetes
	node := b.Node(h.Name) != nil
	member, has := b.Member(h.Name)
	has = has && !b.c.ExistingEtcd()
	serves := h.Has(spec.RoleControlPlane) && slices.ContainsFunc(controlPlanePods, func(pod string) bool { return slices.Contains(k.Manifests, pod) })
	b.keepSnapshots(h, together, before)
	if b.drains(h) {
		b.drainNode(h.Name, "it leaves the cluster: its pods are evicted, and disruption budgets are respected", false, together, before...)
	}
	if b.balancerRuns(h) && b.Holds(h.Name) {
		b.moveVirtualIP(h.Name, "the load balancer leaves; connections through it are opened again", before...)
	}
	if serves {
		b.leavePools(h.Name, "new clients go to other control planes; those that it has follow when its API server stops", before...)
	}
	if b.balancerRuns(h) {
		b.stopBalancer(h, before...)
	}
	// What does not work leads nothing, and what belongs to another etcd leads nothing here.
	if b.Seen.OtherEtcdOn(h.Name) == "" && (has && member.Healthy || serves && b.APIServer(h.Name).OK) {
		b.moveLeadership(h.Name, "a leader that stops without notice costs an election", before...)
	}
	if kubelet, asked := b.Seen.Hosts[h.Name].Components[facts.Kubelet]; serves && (!asked || kubelet.OK || !kubelet.Known()) { // otherwise nobody ends static pods before the reset
		b.addInTurn(Step{Kind: StopControlPlane, Host: h.Name, Title: "stop the control plane", Pods: controlPlanePods, Change: change(cluster.Stop, cluster.APIPrograms, h.Name),
			Reason: "its API server ends its connections in order, while its etcd member still answers"}, before...)
	}
	if has {
		b.addInTurn(b.removeMember(h, member, "it leaves etcd before it stops, so that etcd does not count it as failed"), before...)
	}
	if b.carries(h) {
		b.addInTurn(b.resetHost(h, "it leaves the cluster as it was found"), before...)
	}
	if node {
		b.addInTurn(b.deleteNode(h, "the host has left the cluster"), before...)
	}
}

// keepSnapshots copies the snapshots of etcd that upgrades saved on a host that leaves, because its reset removes them and the cluster may need
// them. It comes first: nothing has stopped yet if there is no space for them.
func (b *builder) keepSnapshots(h spec.Host, together []spec.Host, before []*Step) {
	saved := b.Facts(h.Name).Snapshots
	if len(saved) == 0 || !b.carries(h) {
		return
	}
	for _, to := range b.c.EtcdHosts() {
		m, ok := b.Member(to.Name)
		if !ok || !m.Healthy || !b.Reachable(to.Name) || slices.ContainsFunc(together, func(o spec.Host) bool { return o.Name == to.Name }) {
			continue
		}
		have := b.Facts(to.Name).Snapshots
		all := slices.Concat(saved, have)
		slices.Sort(all)
		copied := slices.DeleteFunc(facts.KeptSnapshots(slices.Compact(all), facts.SnapshotsKept), func(name string) bool { return slices.Contains(have, name) })
		if len(copied) > 0 {
			b.addInTurn(Step{Kind: KeepSnapshots, Host: h.Name, Detail: to.Name, Title: "copy the snapshots of etcd to " + to.Name, Snapshots: copied,
				Reason: "upgrades saved them on this host, and its reset removes them"}, before...)
		}
		return
	}
	b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("the reset of %s removes the snapshots of etcd that upgrades saved there, and there is no etcd member that could keep them: copy what you want to keep from %s first", h.Name, facts.SnapshotDir))
}

// balancerRuns says that a load balancer of this cluster runs on the host, or a part of it.
func (b *builder) balancerRuns(h spec.Host) bool {
	seen, units := b.Seen.Hosts[h.Name].Balancer, b.Facts(h.Name).Units
	return b.Present().Balances(h) && seen != nil && seen.WrittenFor != "" &&
		(seen.Healthy || units["keepalived.service"] == "active" || units[hostconfig.WatchdogUnit] == "active" || b.Facts(h.Name).Unknown[facts.UnitsPart] != "")
}

func (b *builder) resetHost(h spec.Host, reason string) Step {
	return Step{Kind: ResetHost, Host: h.Name, Title: "reset the host", Reason: reason, Change: change(cluster.Remove, cluster.WholeHost, h.Name)}
}

// forget ends departures: the load balancers forget the hosts that have left, and hosts that were removed while they were down
// are reset when they are back.
func (b *builder) forget() {
	keep := b.dead()
	for _, h := range b.Removed() {
		switch {
		case !b.Reachable(h.Name) || !b.Cleared(h.Name) && !b.Ours(h.Name):
			keep = append(keep, h)
		case !b.Cleared(h.Name):
			b.addInTurn(b.resetHost(h, "it was removed while it was down, and it is back"))
		}
	}
	for _, h := range b.Departing() {
		if _, in := b.Maintenance(h.Name); in {
			b.addInTurn(b.endMaintenance(h), b.all()...)
		}
	}
	done := b.all()
	b.remember("reset-hosts", keep, slices.Concat(b.Removed(), b.dead()), "they were reset, or installed again", done...)
	for _, h := range b.balancersInTurn() {
		if b.Reachable(h.Name) && !b.retires(h) {
			b.balancerForgets(h, keep, done)
		}
	}
}

// endMaintenance forgets the maintenance of a host that leaves.
func (b *builder) endMaintenance(h spec.Host) Step {
	return Step{Kind: LeaveMaintenance, Host: h.Name, Title: "end the maintenance", Reason: "the host leaves; another one of its name must not begin in maintenance",
		Change: change(cluster.Start, cluster.WholeHost, h.Name)}
}

// balancersAmong are the hosts that were load balancers. Those that were removed while load balancers moved have the role.
func (b *builder) balancersAmong(hosts []spec.Host) []spec.Host {
	if b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return nil
	}
	own := len(b.c.HostsWith(spec.RoleLoadBalancer)) > 0
	return slices.DeleteFunc(slices.Clone(hosts), func(h spec.Host) bool {
		return !h.Has(spec.RoleLoadBalancer) && (own || !h.Has(spec.RoleControlPlane))
	})
}

// balancerForgets removes the hosts that have left from the configuration of a load balancer, where the step before put them.
func (b *builder) balancerForgets(h spec.Host, standbys []spec.Host, after []*Step) {
	f := b.Facts(h.Name)
	former := hostconfig.Balancer(b.Present(), h, f, b.CA(), b.balancersAmong(b.Removed())...)
	d := hostconfig.Balancer(b.c, h, f, b.CA(), b.balancersAmong(standbys)...)
	same := slices.EqualFunc(former.Files, d.Files, func(x, y facts.File) bool { return x.Path == y.Path && x.Content == y.Content })
	if same {
		return
	}
	b.addInTurn(Step{Kind: Configure, Host: h.Name, Detail: "load-balancer-final", Title: "forget the hosts that have left", Desired: &d,
		Reason: "HAProxy's servers and keepalived's peers are those of the spec; both reload", Change: change(cluster.Reload, cluster.LoadBalancer, h.Name)},
		append(slices.Clone(after), b.at[h.Name].balancer)...)
}
