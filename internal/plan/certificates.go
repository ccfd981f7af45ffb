package plan

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how certificates are renewed: in a cluster that works, one host after the other, and in one whose API answers
// nobody because certificates have expired, on all hosts together. There is no record of how far it got: what is left to do follows
// from the certificates, and from when the programs were started that read theirs only then.

// Renew plans new certificates for the whole cluster, whether or not they are due. In a cluster whose API does not answer,
// it plans what apply would do about those that have expired.
func Renew(s *cluster.State) (*Plan, error) {
	b := &builder{State: s, c: s.Spec, out: &Plan{Cluster: s.Spec.Metadata.Name, Steps: []Step{}}, at: map[string]*hostSteps{}}
	b.out.Unreachable = b.Unreachable() // with those in maintenance, which keep their certificates, too
	for _, h := range s.Present().Spec.Hosts {
		b.at[h.Name] = &hostSteps{}
	}
	if (s.Stage() == cluster.Unresponsive || s.Stage() == cluster.Complete && s.EtcdExpired()) && s.Vanished() == nil && s.UnfinishedRestore("") == nil {
		if r := b.refuseExpiredAuthority(b.c.Spec.Hosts); r != nil {
			return nil, r
		}
		b.reissueExpired()
		b.renewOnBalancers(true)
		b.renewInAPI()
		if len(b.steps) > 0 {
			b.add(verification(nil), b.all()...)
			return b.folded()
		}
	}
	if _, err := operation(s); err != nil {
		return nil, err
	}
	for _, h := range b.c.Spec.Hosts {
		if r := b.MayRenew(h.Name, b.Renewable(h.Name)); r != nil {
			return nil, r
		}
	}
	b.renewAuthorities(b.c.Spec.Hosts)
	b.renewOnBalancers(true)
	b.renewCertificates(func(string, facts.Certificate) bool { return true }, b.ofKind(SetTrust)...)
	for _, h := range b.c.Spec.Hosts {
		b.renewKubelet(h)
	}
	b.renewInAPI()
	return b.folded()
}

// renewDue renews the certificates that are due. Those whose authority is elsewhere are left as they are; findings tell of them.
func (b *builder) renewDue(after ...*Step) {
	b.renewCertificates(func(host string, c facts.Certificate) bool {
		return b.Due(host, c) && b.MayRenew(host, []facts.Certificate{c}) == nil
	}, after...)
}

// renewCertificates is the order in which certificates are renewed. Nothing stops that serves clients: API servers and etcd read their
// files again. The steps carry changes all the same, as if the programs restarted, so that no mistake can take more than one host away.
func (b *builder) renewCertificates(which func(host string, c facts.Certificate) bool, after ...*Step) {
	from := map[string]*Step{} // etcd hosts with a new client certificate
	if b.c.ManagedEtcd() {
		for _, h := range b.c.EtcdHosts() {
			all := b.toRenew(h, which)
			if len(all) > 0 && b.Facts(h.Name).Kubernetes.EtcdData {
				s := b.renewOn(h, all, change(cluster.Restart, cluster.EtcdMember, h.Name), after)
				if slices.ContainsFunc(all, func(c facts.Certificate) bool { return c.Name == facts.EtcdClientCertificate }) {
					from[h.Name] = s
				}
			}
			if readers := b.readersOf(h); len(readers) > 0 && !h.Has(spec.RoleControlPlane) {
				b.restartPrograms(h, readers, false, after)
			}
		}
	}
	for _, h := range b.controlPlanesInTurn() {
		if !b.Reachable(h.Name) || !b.Facts(h.Name).Kubernetes.KubeletConfig {
			continue
		}
		b.copyRenewedClient(h, from)
		all := b.toRenew(h, which)
		restart := b.Outdated(h.Name)
		readers := b.readersOf(h)
		expired := len(readers) > 0 || slices.ContainsFunc(all, func(c facts.Certificate) bool { return b.Expired(c) && !ofAdministrator(c) })
		for _, program := range readers {
			if !slices.Contains(restart, program) && slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, program) {
				restart = append(restart, program)
			}
		}
		if len(all) > 0 {
			b.renewOn(h, all, change(cluster.Restart, cluster.APIPrograms, h.Name), after)
			for _, c := range all {
				for _, program := range c.Programs() {
					if !slices.Contains(restart, program) && slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, program) {
						restart = append(restart, program)
					}
				}
			}
		}
		if expired { // a kubelet that cannot restart could not start them
			b.renewKubelet(h, after...)
		}
		b.restartPrograms(h, restart, expired, after)
	}
}

// ofAdministrator says that no program of the cluster uses the certificate.
func ofAdministrator(c facts.Certificate) bool { return strings.HasSuffix(c.Name, "admin.conf") }

func (b *builder) toRenew(h spec.Host, which func(host string, c facts.Certificate) bool) []facts.Certificate {
	return slices.DeleteFunc(b.Renewable(h.Name), func(c facts.Certificate) bool { return !b.Reachable(h.Name) || !which(h.Name, c) })
}

// renewOn adds the step that renews certificates on one host.
func (b *builder) renewOn(h spec.Host, all []facts.Certificate, change *cluster.Change, after []*Step) *Step {
	s := Step{Kind: RenewCertificates, Host: h.Name, Title: "renew certificates", Change: change, LifetimeSeconds: int64(b.CertificateLifetime().Seconds())}
	first := all[0]
	for _, c := range all {
		s.Certificates = append(s.Certificates, c.Name)
		if c.Expires.Before(first.Expires) {
			first = c
		}
	}
	s.Reason = first.Name + " " + cluster.Expiry(first.Expires, b.Seen.Time)
	if n := len(all) - 1; n > 0 {
		s.Reason += fmt.Sprintf(", and %d more are renewed with it", n)
	}
	if !change.Disruptive() {
		return b.add(s, after...)
	}
	s.Reason += "; what serves with them reads them again, and nothing restarts"
	return b.addInTurn(s, after...)
}

// restartPrograms restarts those programs of a control plane that read their certificate only when they start. They lead nothing then. If
// certificates had expired, other programs may wait until the kubelet starts them.
func (b *builder) restartPrograms(h spec.Host, programs []string, expired bool, after []*Step) {
	if len(programs) == 0 && !expired {
		return
	}
	if len(programs) > 0 && len(b.c.HostsWith(spec.RoleControlPlane)) > 1 && b.APIServer(h.Name).OK {
		// The same plan may move leadership away from this host again, for an upgrade or other settings.
		b.addInTurn(moveLeadershipStep(h.Name, "certificates", "whoever leads is not restarted"), after...)
	}
	reason := "they read their certificate only when they start; the API server goes on"
	switch {
	case len(programs) == 0:
		reason = "certificates had expired"
	case len(b.readersOf(h)) > 0:
		reason = "an authority had expired, and they read what they trust only when they start"
	}
	s := restartStep(h, programs, cluster.Restart, reason)
	s.Change.Part = restartedPart(programs)
	if expired {
		s = withKubelet(s)
	}
	b.addInTurn(s, after...)
}

func restartStep(h spec.Host, programs []string, verb cluster.Verb, reason string) Step {
	return Step{Kind: RestartPrograms, Host: h.Name, Title: "restart " + cluster.List(programs), Pods: programs, Change: change(verb, cluster.APIPrograms, h.Name), Reason: reason}
}

// withKubelet restarts the kubelet with the programs of a control plane whose certificates had expired. Its own certificate is mostly valid
// then, because it renews that itself. But what ended again and again, also etcd's member, it starts only after a pause of up to five minutes.
func withKubelet(s Step) Step {
	s.Restart = []string{"kubelet.service"}
	s.Title = "restart " + cluster.List(append(slices.Clone(s.Pods), facts.Kubelet))
	s.Reason += "; a kubelet that restarts makes no program wait that ended again and again, and containers go on"
	return s
}

// copyRenewedClient gives a control plane the client certificate for an external etcd that was renewed: that which it has, so that
// the key stays and the two belong together at every moment.
func (b *builder) copyRenewedClient(h spec.Host, from map[string]*Step) {
	if len(from) == 0 || b.leftAsItIs(h) {
		return
	}
	source := ""
	for _, e := range b.c.EtcdHosts() {
		if from[e.Name] != nil && (source == "" || b.Facts(e.Name).Kubernetes.EtcdClient == b.Facts(h.Name).Kubernetes.EtcdClient) {
			source = e.Name
		}
	}
	b.copyEtcdClient(h, source, "it was renewed on "+source+"; the API server reads it again for each connection", from[source], b.last)
}

// copyEtcdClient gives a control plane the client certificate for an external etcd that a host of that etcd has.
func (b *builder) copyEtcdClient(h spec.Host, source, reason string, after ...*Step) *Step {
	return b.add(Step{Kind: ShareEtcdClient, Host: h.Name, Detail: source, Title: "copy etcd's client certificate", Reason: reason}, after...)
}

// validEtcdClient is a host of an external etcd that has a client certificate which has not expired; empty if none that can be reached has.
func (b *builder) validEtcdClient() string {
	for _, e := range b.c.EtcdHosts() {
		f := b.Facts(e.Name)
		if f == nil || f.Kubernetes.EtcdClient == "" || f.Kubernetes.EtcdCA == "" {
			continue
		}
		if !slices.ContainsFunc(f.Kubernetes.Certificates, func(c facts.Certificate) bool { return c.Name == facts.EtcdClientCertificate && b.Expired(c) }) {
			return e.Name
		}
	}
	return ""
}

// identityDue says that the kubelet of a host needs a new identity, and can get it: its own has expired, and there is a key to sign
// another one with. Without it, findings say what to do.
func (b *builder) identityDue(h spec.Host) bool {
	return b.Reachable(h.Name) && h.IsNode() && b.Facts(h.Name).Kubernetes.KubeletConfig && b.IdentityExpired(h.Name) && b.MaySignFor(h.Name)
}

func renewKubeletStep(h spec.Host) Step {
	return Step{Kind: RenewKubelet, Host: h.Name, Title: "renew the kubelet's certificate", Reason: "it has expired, and a kubelet cannot renew an expired certificate",
		Change: change(cluster.Restart, cluster.Node, h.Name)}
}

// renewKubelet plans a new identity for a kubelet that needs one, after whatever is disruptive.
func (b *builder) renewKubelet(h spec.Host, after ...*Step) {
	if b.identityDue(h) && !b.plans(RenewKubelet, h) {
		b.addInTurn(renewKubeletStep(h), append(after, b.ofKind(SetTrust)...)...)
	}
}

// refuseExpiredAuthority holds where hosts cannot work without new certificates: if the cluster's authority has expired, and nobody here can
// renew that, they would not help.
// Nothing uses super-admin.conf, so that one which nobody can renew keeps nobody from bringing the cluster back.
func (b *builder) refuseExpiredAuthority(hosts []spec.Host) *cluster.Refusal {
	for _, h := range hosts {
		for _, c := range b.ExpiredOn(h.Name) {
			if r := b.MayRenew(h.Name, []facts.Certificate{c}); r != nil && c.Name != facts.SuperAdminKubeconfig {
				return r
			}
		}
		if b.IdentityExpired(h.Name) {
			for _, ca := range b.State.Facts(h.Name).Kubernetes.Certificates {
				if ca.Name == facts.ClusterCA && b.Expired(ca) && !b.RenewsAuthority(ca.Name) {
					return b.AuthorityExpired(h.Name, ca)
				}
			}
		}
	}
	return nil
}

// reissueExpired plans new certificates where the API cannot be used and some have expired. It needs nothing but the hosts. Where nothing
// works, all hosts do it together, and programs that were refused are started again, because they try less and less often. An API
// server that works goes on: perhaps only the administrator's certificate has expired.
func (b *builder) reissueExpired() {
	b.renewAuthorities(b.c.Spec.Hosts)
	trusted := b.ofKind(SetTrust) // whoever signs has the renewed certificate of its authority
	var issued []*Step
	for _, h := range b.c.Spec.Hosts {
		// What is due as well is renewed with them. What nobody can renew here is left out: the others must not wait for it.
		all := b.toRenew(h, func(host string, c facts.Certificate) bool {
			return b.Due(host, c) && b.MayRenew(host, []facts.Certificate{c}) == nil
		})
		if len(b.ExpiredOn(h.Name)) == 0 || len(all) == 0 {
			continue
		}
		verb, part := cluster.Start, cluster.EtcdMember
		if h.Has(spec.RoleControlPlane) {
			part = cluster.APIPrograms
			if b.protected(h) {
				verb = cluster.Restart
			}
		}
		issued = append(issued, b.renewOn(h, all, change(verb, part, h.Name), append(slices.Clone(trusted), b.at[h.Name].configure)))
	}
	if b.c.ManagedEtcd() {
		issued = append(issued, b.copyExpiredClients()...)
	}
	issued = append(issued, trusted...)
	if b.c.ManagedEtcd() {
		issued = append(issued, b.restartRenewedMembers(issued)...)
	}
	cps := b.c.HostsWith(spec.RoleControlPlane)
	for _, h := range cps {
		b.renewKubelet(h, issued...)
	}
	renewed := append(b.ofKind(RenewKubelet), issued...)
	for _, h := range cps {
		if len(issued) == 0 && len(b.readersOf(h)) == 0 || !b.Reachable(h.Name) || !b.Facts(h.Name).Kubernetes.KubeletConfig {
			continue
		}
		// An API server whose etcd did not answer may have given up, too, whatever certificates its own host has.
		pods, verb, reason := controlPlanePods, cluster.Start, "certificates had expired, and programs that are refused try again less and less often"
		if b.protected(h) {
			pods, verb, reason = nil, cluster.Restart, "they read their certificate only when they start; the API server goes on"
			for _, c := range b.ExpiredOn(h.Name) {
				pods = append(pods, c.Programs()...)
			}
		}
		pods = slices.Clone(pods)
		for _, program := range b.readersOf(h) {
			if !slices.Contains(pods, program) {
				pods = append(pods, program)
			}
		}
		pods = slices.DeleteFunc(pods, func(pod string) bool { return !slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, pod) })
		s := withKubelet(restartStep(h, pods, verb, reason))
		s.Change.Part = restartedPart(pods)
		switch {
		case len(s.Pods) == 0:
		case s.Change.Disruptive():
			b.addInTurn(s, renewed...)
		default:
			b.add(s, renewed...)
		}
	}
	b.inLanes(slices.DeleteFunc(slices.Clone(b.c.Spec.Hosts), func(h spec.Host) bool { return !b.identityDue(h) || b.plans(RenewKubelet, h) }), renewed,
		func(h spec.Host, after ...*Step) *Step { return b.add(renewKubeletStep(h), after...) })
}

// protected says that the API server on a host works, and goes on to: what it needs is not about to end. If etcd's members accept no connection
// any more, it only uses one from before, and all of them restart together.
func (b *builder) protected(h spec.Host) bool { return b.APIServer(h.Name).OK && !b.EtcdExpired() }

// restartRenewedMembers restarts members of an external etcd that trust an authority which has expired: they read it only when they start.
func (b *builder) restartRenewedMembers(after []*Step) (out []*Step) {
	for _, h := range b.c.EtcdHosts() {
		if !slices.Contains(b.readersOf(h), facts.Etcd) || h.Has(spec.RoleControlPlane) {
			continue
		}
		s := restartStep(h, []string{facts.Etcd}, cluster.Start, "it reads what it trusts only when it starts")
		s.Change.Part = cluster.EtcdMember
		if m, has := b.Member(h.Name); has && m.Healthy {
			s.Change.Verb = cluster.Restart
			out = append(out, b.addInTurn(s, after...))
			continue
		}
		out = append(out, b.add(s, after...))
	}
	return out
}

// copyExpiredClients gives control planes the client certificate for an external etcd: that which is renewed in this plan, or, where
// theirs has expired, the one that an earlier run renewed before it was interrupted.
func (b *builder) copyExpiredClients() []*Step {
	from := map[string]*Step{}
	for _, h := range b.c.EtcdHosts() {
		if i := slices.IndexFunc(b.steps, func(s *Step) bool {
			return s.Kind == RenewCertificates && s.Host == h.Name && slices.Contains(s.Certificates, facts.EtcdClientCertificate)
		}); i >= 0 {
			from[h.Name] = b.steps[i]
		}
	}
	valid := b.validEtcdClient()
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		switch {
		case !b.Reachable(h.Name) || b.leftAsItIs(h):
		case len(from) > 0:
			b.copyRenewedClient(h, from)
		case valid != "" && slices.ContainsFunc(b.Facts(h.Name).Kubernetes.Certificates, func(c facts.Certificate) bool { return c.Name == facts.EtcdClientCertificate && b.Expired(c) }):
			b.copyEtcdClient(h, valid, "its own has expired, and that of "+valid+" has not", b.at[h.Name].configure)
		}
	}
	return b.ofKind(ShareEtcdClient)
}
