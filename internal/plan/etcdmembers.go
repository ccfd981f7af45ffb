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

// This file plans how the members of an external etcd change: a new one joins as a learner and is promoted, then the API servers
// learn of it, one control plane at a time, and only then do members leave (see depart).

// joinEtcd adds the members that etcd lacks, and finishes joins that were interrupted.
func (b *builder) joinEtcd() error {
	if !b.c.ManagedEtcd() || b.Seen.Etcd == nil {
		return nil
	}
	for _, h := range b.c.EtcdHosts() {
		f, at := b.Facts(h.Name), b.at[h.Name]
		if f == nil {
			continue
		}
		m, has := b.Member(h.Name)
		data := f.Kubernetes.EtcdData
		if data && has && (!m.Learner || b.UntrustedData(m) != "") {
			continue // a repair replaces a learner whose data cannot be trusted
		}
		if b.Stage() == cluster.Foreign {
			return refused(cluster.RuleFixed, fmt.Sprintf("%s is an etcd host in the spec, and the etcd of this cluster has the members %s", h.Name, memberNames(b.Seen.Etcd)),
				"Take the host out of the spec until the cluster is adopted.")
		}
		var former *Step
		if lost := has && m.Started && !m.Learner; lost {
			if err := b.lostMember(h, m); err != nil {
				return err
			}
			former = b.addInTurn(b.removeMember(h, m, "the host is empty, so this is what is left of the machine that had its name before: "+memberState(m)), at.configure)
		}
		at.join = b.addInTurn(Step{Kind: JoinEtcd, Host: h.Name, Title: "join etcd", Reason: "it is in the spec and not in etcd: it joins as a learner, and gets its vote when it has caught up",
			Change: change(cluster.Add, cluster.EtcdMember, h.Name)}, former, at.bundle, at.configure, at.etcdPKI)
		b.markEstablishedOn(h, at.join)
	}
	return nil
}

// rejoins says that a control plane of the cluster has neither data of etcd nor a member with a vote, as after a recovery of the quorum,
// or after that was interrupted. A learner whose data cannot be trusted does not go on with it: a repair replaces it.
func (b *builder) rejoins(h spec.Host) bool {
	f := b.Facts(h.Name)
	if !b.c.StackedEtcd() || b.Seen.Etcd == nil || b.Stage() != cluster.Complete || f == nil || !h.Has(spec.RoleControlPlane) || !f.Kubernetes.KubeletConfig {
		return false
	}
	m, has := b.Member(h.Name)
	return has && m.Learner && b.UntrustedData(m) == "" || !has && !f.Kubernetes.EtcdData
}

// former says that a host has data that must not start again. Either etcd does not have its member any more: it was removed while the host
// was down, or the quorum was recovered without it. Such a member may have voted for what the others forgot, or have forgotten what it
// acknowledged, and together with others of its kind it could become a second etcd. Or etcd has the member, and its data cannot be trusted.
// What it has is kept aside when a repair has the host join again.
func (b *builder) former(h spec.Host) bool {
	f := b.Facts(h.Name)
	if b.c.ExistingEtcd() || f == nil || !f.Kubernetes.EtcdData || !slices.ContainsFunc(b.c.EtcdHosts(), func(o spec.Host) bool { return o.Name == h.Name }) {
		return false
	}
	if m, has := b.Member(h.Name); has {
		return b.UntrustedData(m) != ""
	}
	return b.Abandoned(h.Name) || slices.ContainsFunc(b.Seen.Etcd, func(m facts.EtcdMember) bool { return m.Healthy })
}

// rejoinEtcd plans new members for these control planes. Those whose static pods the same plan replaces afterwards get clients when that is done.
func (b *builder) rejoinEtcd(replaced func(spec.Host) bool) {
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if b.rejoins(h) {
			if !b.APIServer(h.Name).OK {
				b.stopAPIServer(h, b.at[h.Name].configure)
			}
			b.at[h.Name].controlPlane = b.addInTurn(Step{Kind: RejoinEtcd, Host: h.Name, Title: "join etcd again", Change: change(cluster.Add, cluster.EtcdMember, h.Name),
				Reason: "it has neither data of etcd nor a member with a vote: it joins as a learner, and gets its vote when it has caught up"}, b.at[h.Name].configure)
			if b.drained(h.Name) && !b.inMaintenance(h.Name) && !replaced(h) && b.c.Spec.LoadBalancer.Type == spec.BalancerManaged {
				// The detail tells it from the same step of a change of settings.
				b.addInTurn(Step{Kind: JoinPools, Host: h.Name, Detail: "rejoin", Title: "join the load balancers' pools", Change: change(cluster.Start, cluster.PoolServer, h.Name),
					Reason: "the load balancers send it no clients since the quorum was recovered without it"}, b.at[h.Name].controlPlane)
			}
		}
	}
}

// stopAPIServer ends the API server of a control plane before it is without its etcd member: one that waits for etcd keeps its clients,
// and the kubelet of the host, waiting, too. RejoinEtcd starts it again.
func (b *builder) stopAPIServer(h spec.Host, after ...*Step) {
	stops := func(s *Step) bool { return s.Host == h.Name }
	if !b.c.StackedEtcd() || !slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, facts.APIServer) || slices.ContainsFunc(b.ofKind(StopPrograms), stops) {
		return
	}
	b.addInTurn(Step{Kind: StopPrograms, Host: h.Name, Title: "stop the API server", Pods: []string{facts.APIServer},
		Reason: "without its etcd member it answers nobody, and keeps everybody waiting", Change: change(cluster.Stop, cluster.APIPrograms, h.Name)}, after...)
}

// lostMember refuses to remove the member of a host that is empty, unless the member is known not to work.
func (b *builder) lostMember(h spec.Host, m facts.EtcdMember) error {
	switch {
	case b.Facts(h.Name).Kubernetes.Established:
		return refused(RuleOldMember, fmt.Sprintf("%s is empty, but etcd has a member of that name, and the host is marked as part of this cluster: the member's data is missing", h.Name),
			"If the data is on a disk that is not mounted, mount it. If it is lost, take the host out of the spec, run `quorate apply`, add it again, and run `quorate apply` once more.")
	case m.Healthy:
		return refused(RuleOldMember, fmt.Sprintf("%s is empty, but etcd has a member of that name, and %s", h.Name, memberState(m)),
			"Look on which machine it runs: "+m.PeerURL+". If that is another machine, give this one another name.")
	case m.Unknown != "":
		r := refused(RuleOldMember, fmt.Sprintf("%s is empty, but etcd has a member of that name, and %s", h.Name, memberState(m)), "Run it again in a moment.")
		r.Transient = true
		return r
	}
	return nil
}

// etcdServers are the client URLs of the members that stay or join.
func (b *builder) etcdServers() (out []string) {
	for _, h := range b.c.EtcdHosts() {
		if _, has := b.Member(h.Name); has || b.at[h.Name].join != nil {
			out = append(out, hostconfig.EtcdClientURL(h))
		}
	}
	slices.Sort(out)
	return out
}

// setEtcdServers gives API servers the members of today. kubeadm's configuration is first: whoever joins takes the list from there. So do static
// pods that the same plan replaces for another reason.
func (b *builder) setEtcdServers(replaced func(spec.Host) bool) {
	if !b.c.ManagedEtcd() || b.Seen.Etcd == nil || b.Stage() == cluster.Foreign {
		return
	}
	want := b.etcdServers()
	joined := b.ofKind(JoinEtcd)
	sorted := func(list []string) []string { return slices.Sorted(slices.Values(list)) }
	var stored *Step
	if k := b.Seen.API.Kubeadm; k != nil && !slices.Equal(sorted(k.EtcdEndpoints), want) {
		stored = b.add(Step{Kind: StoreEtcdServers, Title: "store etcd's members in kubeadm's configuration", Reason: "control planes that join take the list from there", Servers: want}, append(joined, b.last)...)
	}
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		f := b.Facts(h.Name)
		if f == nil {
			continue
		}
		have := f.Kubernetes.Flags[facts.EtcdServersFlag]
		if have == "" || slices.Equal(sorted(strings.Split(have, ",")), want) {
			continue
		}
		if replaced(h) {
			continue
		}
		const reason = "its API server restarts with etcd's members of today"
		b.leavePools(h.Name, reason, stored)
		b.addInTurn(Step{Kind: SetEtcdServers, Host: h.Name, Title: "set etcd's members", Reason: "its API server was started with " + have, Servers: want,
			Change: change(cluster.Restart, cluster.APIPrograms, h.Name)}, stored)
		b.joinPools(h.Name, reason)
	}
}
