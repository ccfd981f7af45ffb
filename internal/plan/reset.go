package plan

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// Reset plans the reset of hosts: each leaves the cluster in order, and is then left as it was found before Quorate came. It
// refuses what the cluster cannot do without.
func Reset(s *cluster.State, hosts []string) (*Plan, error) {
	b := resetBuilder(s)
	b.out.Unreachable = nil // the other hosts are left alone anyway
	b.resets = hosts
	for _, r := range []*cluster.Refusal{s.NotOurs(), s.OtherMachines()} {
		if r != nil {
			return nil, r
		}
	}
	var all []spec.Host
	for _, name := range hosts {
		h, known := s.Spec.Host(name)
		if !known {
			return nil, refused(RuleReachable, name+" is not in the spec", "A host that left the spec is reset by `quorate apply` when it leaves the cluster.")
		}
		if why, dead := s.Unreachable()[name]; dead {
			return nil, refused(RuleReachable, name+" cannot be reached: "+why, "A host is reset by a program that runs on it: bring it up. If it is lost for good, take it out of the spec and run `quorate apply`.")
		}
		if !slices.ContainsFunc(all, func(o spec.Host) bool { return o.Name == name }) {
			all = append(all, h)
		}
	}
	if r := b.tooManyMembers(all); r != nil {
		return nil, r
	}
	for _, h := range all {
		if rotations := b.Rotations(); len(rotations) > 0 && (h.IsNode() || h.Has(spec.RoleEtcd)) && b.takesPart(h) {
			return nil, cluster.RotationUnfinished(rotations[0], h.Name+" could not join again after its reset")
		}
	}
	slices.SortStableFunc(all, func(x, y spec.Host) int { return b.departureRank(x) - b.departureRank(y) })
	b.checkDrains(slices.DeleteFunc(slices.Clone(all), func(h spec.Host) bool { return !b.takesPart(h) }))
	for _, h := range all {
		if b.takesPart(h) {
			b.leaveCluster(h, all, nil)
		} else {
			b.addInTurn(Step{Kind: ResetHost, Host: h.Name, Title: "reset the host", Reason: "no cluster counts on it", Change: change(cluster.Clear, cluster.WholeHost, h.Name)})
			if b.Node(h.Name) != nil { // its reset was interrupted
				b.addInTurn(b.deleteNode(h, "the host has left the cluster"))
			}
		}
		if _, in := b.Maintenance(h.Name); in {
			b.addInTurn(b.endMaintenance(h))
		}
	}
	b.recordWithout(cluster.Names(all))
	if err := b.fold(); err != nil {
		return nil, err
	}
	b.out.Steps = b.list()
	return b.out, nil
}

// recordWithout has the cluster record that hosts are no part of it any more, so that they join as any new host does: their addresses, their roles,
// and their names may be others then.
func (b *builder) recordWithout(hosts []string) {
	record, err := b.Record()
	if err != nil || record == nil || b.Seen.API == nil || b.Stage() != cluster.Complete {
		return
	}
	left := record.Cluster().With()
	left.Spec.Hosts = slices.DeleteFunc(left.Spec.Hosts, func(h spec.Host) bool { return slices.Contains(hosts, h.Name) })
	if len(left.Spec.Hosts) < len(record.Cluster().Spec.Hosts) {
		b.add(recordStep(left, "", "record that "+cluster.List(hosts)+" left the cluster", "a host that joins again may have another address, other roles, or another name"), b.all()...)
	}
}

// tooManyMembers refuses to reset hosts together if fewer etcd members were left than a majority of those that the spec has. Members
// leave one after another, so etcd would go on. But the hosts stay in the spec, and until they have joined again the data would be
// on so few hosts that the loss of one may be the loss of all.
func (b *builder) tooManyMembers(hosts []spec.Host) *cluster.Refusal {
	var left, leave []string
	for _, h := range b.c.EtcdHosts() {
		switch _, member := b.Member(h.Name); {
		case !member:
		case slices.ContainsFunc(hosts, func(o spec.Host) bool { return o.Name == h.Name }):
			leave = append(leave, h.Name)
		default:
			left = append(left, h.Name)
		}
	}
	all := len(b.c.EtcdHosts())
	if need := quorum.Majority(all); len(leave) > 0 && len(left) < need {
		r := refused(cluster.RuleEnough, fmt.Sprintf("resetting %s would leave %d of %d etcd members", cluster.List(leave), len(left), all),
			"Reset one of them, run `quorate apply`, which adds it again, and then the next. To remove the whole cluster, use `quorate reset --all`. To make the cluster smaller, take hosts out of the spec.")
		r.Have, r.Need, r.Subjects = len(left), need, leave
		return r
	}
	return nil
}

// takesPart says that a cluster that was complete once counts on a host. One whose reset began left it before.
func (b *builder) takesPart(h spec.Host) bool {
	k := b.Facts(h.Name).Kubernetes
	if b.Stage() != cluster.Complete {
		return false
	}
	_, member := b.Member(h.Name)
	return member && !b.c.ExistingEtcd() || !k.Resetting && (b.Node(h.Name) != nil && k.KubeletConfig || b.balancerRuns(h))
}

// ResetAll plans the end of the whole cluster, in whatever condition it is. Hosts that cannot be reached are left as they are.
func ResetAll(s *cluster.State) (*Plan, error) {
	for _, r := range []*cluster.Refusal{s.NotOurs(), s.MissesMachines()} {
		if r != nil {
			return nil, r
		}
	}
	b := resetBuilder(s)
	b.out.Notes = append(b.out.Notes, s.Beyond()...)
	var before []*Step
	all := s.Present().Spec.Hosts
	for _, h := range s.Removed() { // they were removed while they were down
		if s.Ours(h.Name) {
			all = append(slices.Clone(all), h)
		}
	}
	for _, group := range resetOrder(all) {
		var now []*Step
		for _, h := range group {
			if s.Reachable(h.Name) {
				now = append(now, b.add(Step{Kind: ResetHost, Host: h.Name, Title: "reset the host", Reason: "the whole cluster is removed: " + strings.Join(h.Roles, ", "),
					Change: change(cluster.Remove, cluster.WholeCluster, "")}, before...))
			}
		}
		if len(now) > 0 {
			before = now
		}
	}
	if s.Spec.ExistingEtcd() {
		b.out.Notes = append(b.out.Notes, "the existing etcd keeps what the cluster stored there, because it is not Quorate's: `etcdctl del --prefix /registry/` and `etcdctl del --prefix /quorate.dev/` empty it for another cluster")
	}
	if err := b.fold(); err != nil {
		return nil, err
	}
	b.out.Steps = b.list()
	return b.out, nil
}

func resetBuilder(s *cluster.State) *builder {
	b := &builder{State: s, c: s.Spec, at: map[string]*hostSteps{}}
	b.out = &Plan{Cluster: s.Spec.Metadata.Name, Unreachable: s.Unreachable()}
	for _, h := range s.Present().Spec.Hosts {
		b.at[h.Name] = &hostSteps{}
	}
	return b
}

// resetOrder groups the hosts of a cluster: those of one group are reset together, one group after the other. Workers go first,
// because their pods use everything else, and hosts that are only load balancers last: until then, the API is where it was.
func resetOrder(all []spec.Host) [][]spec.Host {
	var workers, controlPlanes, etcd, balancers []spec.Host
	for _, h := range all {
		switch {
		case h.Has(spec.RoleControlPlane):
			controlPlanes = append(controlPlanes, h)
		case h.Has(spec.RoleEtcd):
			etcd = append(etcd, h)
		case h.Has(spec.RoleWorker):
			workers = append(workers, h)
		default:
			balancers = append(balancers, h)
		}
	}
	return slices.DeleteFunc([][]spec.Host{workers, controlPlanes, etcd, balancers}, func(g []spec.Host) bool { return len(g) == 0 })
}
