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
	if r := b.refuseReturning(hosts); r != nil {
		r.Fix += " Then end the maintenance."
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

// restartReturning restarts what runs on a control plane in maintenance: its member of etcd, which reads what it trusts only when it starts,
// and its kubelet, which would make programs wait that ended again and again. On other hosts, whatever reads certificates is stopped.
func (b *builder) restartReturning(h spec.Host, after []*Step) {
	readers := slices.DeleteFunc(b.readersOf(h), func(program string) bool { return !slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, program) })
	changed := slices.ContainsFunc(b.steps, func(s *Step) bool { return s.Host == h.Name && (s.Kind == SetTrust || s.Kind == RenewCertificates) })
	if !h.Has(spec.RoleControlPlane) || !changed && len(readers) == 0 {
		return
	}
	reason := "certificates had expired"
	if len(readers) > 0 {
		reason = "an authority had expired, and they read what they trust only when they start"
	}
	verb := cluster.Start
	if m, has := b.Member(h.Name); has && m.Healthy && slices.Contains(readers, facts.Etcd) || b.protected(h) && len(readers) > 0 {
		verb = cluster.Restart
	}
	s := withKubelet(restartStep(h, readers, verb, reason))
	s.Change.Part = restartedPart(readers)
	b.addInTurn(s, append(slices.Clone(after), b.ofKind(RenewKubelet)...)...)
}

// etcdClientExpired says that a control plane has a copy of the client certificate for an etcd on other hosts, and that it has expired.
func (b *builder) etcdClientExpired(h spec.Host) bool {
	f := b.Facts(h.Name)
	return h.Has(spec.RoleControlPlane) && !b.c.StackedEtcd() && f != nil && slices.ContainsFunc(f.Kubernetes.Certificates, func(c facts.Certificate) bool {
		return c.Name == facts.EtcdClientCertificate && b.Expired(c)
	})
}

// refuseReturning holds where a host needs a certificate that it cannot get: the cluster has none, or the key that signs is elsewhere.
func (b *builder) refuseReturning(hosts []spec.Host) *cluster.Refusal {
	for _, r := range b.AuthorityRenewals() {
		for _, h := range hosts {
			// One that all hosts lack is renewed with all of them, and members that use none go together.
			if slices.Contains(r.Hosts, h.Name) && (r.On != "" || r.Authority == facts.EtcdAuthority && b.EtcdExpired()) {
				return b.AuthorityExpired(h.Name, facts.Certificate{Name: r.Authority.Certificate(), Expires: r.Expired})
			}
		}
	}
	if r := b.refuseExpiredAuthority(hosts); r != nil {
		return r
	}
	for _, h := range hosts {
		switch {
		case h.IsNode() && b.IdentityExpired(h.Name) && !b.MaySignFor(h.Name):
			return &cluster.Refusal{Rule: cluster.RuleAuthorityKey, Subjects: []string{h.Name},
				Why: fmt.Sprintf("the certificate of the kubelet on %s has expired, and no host that can be reached and signs for it has the key of its authority, /etc/kubernetes/pki/ca.key", h.Name),
				Fix: "If the key is kept offline, put it on a control plane (for the kubelet of a control plane, on that one), and remove it again afterwards."}
		case !b.etcdClientExpired(h):
		case b.c.ManagedEtcd() && b.validEtcdClient() == "":
			return refused(cluster.RuleCertificate, fmt.Sprintf("the client certificate for etcd on %s has expired, and no etcd host that can be reached has a valid one", h.Name), "Run `quorate apply`: it renews the certificates of etcd hosts.")
		case b.c.ExistingEtcd() && (b.Seen.ExistingEtcd == nil || b.Seen.ExistingEtcd.Client == b.Facts(h.Name).Kubernetes.EtcdClient):
			return refused(cluster.RuleCertificate, fmt.Sprintf("the client certificate for etcd on %s has expired, and %s has no other one", h.Name, b.c.Spec.Etcd.CertFile), "Put a new one into "+b.c.Spec.Etcd.CertFile+" and its key into "+b.c.Spec.Etcd.KeyFile+".")
		}
	}
	return nil
}
