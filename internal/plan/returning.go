package plan

import (
	"fmt"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file plans what hosts have to get before they can come back from a maintenance during which certificates expired. Apply leaves such
// hosts as they are, so they missed what all others got. Programs there would be refused, and would refuse others, and nobody could wait for
// them to work.

// renewReturning gives hosts valid certificates, of authorities as other hosts have them, and of their own. Nothing on them is relied on, so
// nothing is taken away.
func (b *builder) renewReturning(hosts []spec.Host) error {
	maintained := b.State
	b.State = maintained.Returned(cluster.Names(hosts)...)
	defer func() { b.State = maintained }()
	if r := b.refuseReturning(hosts, maintained); r != nil {
		return r
	}
	b.renewAuthorities(hosts)
	trusted := b.ofKind(SetTrust)
	for _, h := range hosts {
		after := slices.Clone(trusted)
		due := b.toRenew(h, func(host string, c facts.Certificate) bool {
			return b.Expired(c) && b.MayRenew(host, []facts.Certificate{c}) == nil
		})
		if len(due) > 0 {
			part := cluster.EtcdMember
			if h.Has(spec.RoleControlPlane) {
				part = cluster.APIPrograms
			}
			after = append(after, b.renewOn(h, due, change(cluster.Start, part, h.Name), trusted))
		}
		if b.etcdClientExpired(h) {
			source := ""
			if b.c.ManagedEtcd() {
				source = b.validEtcdClient()
			}
			after = append(after, b.copyEtcdClient(h, source, "its own has expired", trusted...))
		}
		b.renewKubelet(h, after...)
		b.restartReturning(h, after)
		b.renewOnBalancer(h, false, after...)
	}
	return nil
}

// restartReturning restarts what runs on a host in maintenance: its member of etcd, which reads what it trusts only when it starts, and the
// kubelet of a control plane, which would make programs wait that ended again and again. The member on an etcd host was stopped, but it runs
// again since the host has booted.
func (b *builder) restartReturning(h spec.Host, after []*Step) {
	readers := b.readersOf(h)
	controls := h.Has(spec.RoleControlPlane)
	if controls {
		readers = slices.DeleteFunc(readers, func(program string) bool { return !slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, program) })
	}
	changed := slices.ContainsFunc(b.steps, func(s *Step) bool { return s.Host == h.Name && (s.Kind == SetTrust || s.Kind == RenewCertificates) })
	if len(readers) == 0 && !(controls && changed) {
		return
	}
	reason := "certificates had expired"
	if len(readers) > 0 {
		reason = "an authority had expired, and its certificate is read only at the start"
	}
	s := restartStep(h, readers, cluster.Start, reason)
	s.Change.Part = restartedPart(readers)
	if b.mayWork(h, readers) {
		s.Change.Verb = cluster.Restart
	}
	if controls {
		s = withKubelet(s)
	}
	b.addInTurn(s, append(slices.Clone(after), b.ofKind(RenewKubelet)...)...)
}

// mayWork says that the member of etcd or the API server on a host, if it is among some programs, is not known to be down.
func (b *builder) mayWork(h spec.Host, programs []string) bool {
	m, has := b.Member(h.Name)
	down := has && !m.Healthy && m.Unknown == ""
	api := b.APIServer(h.Name)
	return slices.Contains(programs, facts.Etcd) && !down || slices.Contains(programs, facts.APIServer) && (api.OK || !api.Known())
}

// etcdClientExpired says that a control plane has a copy of the client certificate for an etcd on other hosts, and that it has expired. That of an
// adopted one is none of Quorate's.
func (b *builder) etcdClientExpired(h spec.Host) bool {
	f := b.Facts(h.Name)
	return h.Has(spec.RoleControlPlane) && !b.c.StackedEtcd() && f != nil && !b.leftAsItIs(h) && slices.ContainsFunc(f.Kubernetes.Certificates, func(c facts.Certificate) bool {
		return c.Name == facts.EtcdClientCertificate && b.Expired(c)
	})
}

// refuseReturning holds where a host needs a certificate that it cannot get: the cluster has none, or the key that signs is elsewhere. What apply
// can do about it follows from the state with the maintenance.
func (b *builder) refuseReturning(hosts []spec.Host, maintained *cluster.State) *cluster.Refusal {
	const then = " Then end the maintenance."
	for _, r := range b.AuthorityRenewals() {
		for _, h := range hosts {
			// If no host has a valid one, apply renews it on all of them. If most members of etcd have to restart for it, they do that together.
			if slices.Contains(r.Hosts, h.Name) && (r.On != "" || r.Authority == facts.EtcdAuthority && b.EtcdExpired()) {
				out := b.AuthorityExpired(h.Name, facts.Certificate{Name: r.Authority.Certificate(), Expires: r.Expired})
				if r.On != "" && !maintained.RenewsAuthority(r.Authority.Certificate()) {
					out.Why += fmt.Sprintf("; of the hosts that have its key, such as %s, each is in maintenance", r.On)
					out.Fix = fmt.Sprintf("Copy /etc/kubernetes/pki/%s from %s to another host that signs with it, and run `quorate apply`: it renews the authority's certificate.", r.Authority.Key(), r.On)
				}
				out.Fix += then
				return out
			}
		}
	}
	if r := b.refuseExpiredAuthority(hosts); r != nil {
		r.Fix += then
		return r
	}
	for _, h := range hosts {
		switch {
		case h.IsNode() && b.IdentityExpired(h.Name) && !b.MaySignFor(h.Name):
			return &cluster.Refusal{Rule: cluster.RuleAuthorityKey, Subjects: []string{h.Name},
				Why: fmt.Sprintf("the certificate of the kubelet on %s has expired, and no host that can be reached and signs for it has the key of its authority, /etc/kubernetes/pki/ca.key", h.Name),
				Fix: "If the key is kept offline, put it on a control plane (for the kubelet of a control plane, on that one), end the maintenance, and remove the key again."}
		case !b.etcdClientExpired(h):
		case b.c.ManagedEtcd() && b.validEtcdClient() == "":
			return refused(cluster.RuleCertificate, fmt.Sprintf("the client certificate for etcd on %s has expired, and no etcd host that can be reached has a valid one", h.Name), "Run `quorate apply`: it renews the certificates of etcd hosts."+then)
		case b.c.ExistingEtcd() && !b.hasOtherEtcdClient(h):
			return refused(cluster.RuleCertificate, fmt.Sprintf("the client certificate for etcd on %s has expired, and %s has no other one that can be used", h.Name, b.c.Spec.Etcd.CertFile), "Put a new one into "+b.c.Spec.Etcd.CertFile+" and its key into "+b.c.Spec.Etcd.KeyFile+"."+then)
		}
	}
	return nil
}

// hasOtherEtcdClient says that the files that the spec names for an etcd of the user's own have another client certificate than a control plane.
func (b *builder) hasOtherEtcdClient(h spec.Host) bool {
	files := b.Seen.ExistingEtcd
	return files != nil && files.Error == "" && files.Client != b.Facts(h.Name).Kubernetes.EtcdClient
}
