package plan

import (
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how an authority whose certificate has expired comes back. It is not replaced, as in rotation.go: that needs an API, and
// that somebody accepts what the authority signs. Its certificate is signed again, for the same key and name. One host does that, and all
// others get the result, which is no secret. There is no record of how far it got: hosts whose file has the expired certificate, or whose
// kubeconfigs have, are left (see cluster.State.AuthorityRenewals), and so are what the API publishes and clients in pods that were started
// before (see cluster.State.FormerClients). ConfigMaps that only Quorate changes are written last.

// renewAuthorities gives some hosts a valid certificate of authorities that have expired, as far as they lack one. Nothing restarts but the kubelet:
// what reads such files only when it starts is restarted with new certificates of its own.
func (b *builder) renewAuthorities(hosts []spec.Host) {
	for _, r := range b.AuthorityRenewals() {
		if !slices.ContainsFunc(hosts, func(h spec.Host) bool { return slices.Contains(r.Hosts, h.Name) }) {
			continue // nobody would get it
		}
		a := r.Authority
		var begin []*Step
		if r.On != "" {
			if a == facts.KubernetesAuthority {
				b.out.Warnings = append(b.out.Warnings, "the certificate of "+a.Title()+" is renewed: what has a copy of it outside of the hosts trusts only the one that has expired. `quorate kubeconfig --to FILE --merge` writes a new kubeconfig")
			}
			begin = append(begin, b.add(Step{Kind: RenewAuthority, Host: r.On, Detail: string(a), Authority: a, Title: "sign the certificate of " + a.Title() + " again",
				Reason: "it expired on " + r.Expired.Format(time.DateOnly) + "; its key stays, so what it signed is accepted again"}))
		}
		step := func(h spec.Host, verb cluster.Verb, part cluster.Part) Step {
			return Step{Kind: SetTrust, Host: h.Name, Detail: string(a), Authority: a, Trusted: b.Facts(h.Name).Kubernetes.Trust[a].Trusted, Title: "trust the renewed certificate of " + a.Title(),
				Reason: "the one that it has expired on " + r.Expired.Format(time.DateOnly), Change: change(verb, part, h.Name)}
		}
		var workers []spec.Host
		for _, h := range hosts {
			if !slices.Contains(r.Hosts, h.Name) || !b.Reachable(h.Name) {
				continue
			}
			member, _ := b.Member(h.Name)
			var s Step
			switch {
			case h.Has(spec.RoleControlPlane) && b.protected(h):
				s = step(h, cluster.Restart, cluster.APIPrograms)
			case h.Has(spec.RoleControlPlane):
				s = step(h, cluster.Start, cluster.APIPrograms)
			case !h.IsNode() && member.Healthy:
				s = step(h, cluster.Restart, cluster.EtcdMember)
			case !h.IsNode():
				s = step(h, cluster.Start, cluster.EtcdMember)
			default:
				workers = append(workers, h)
				continue
			}
			after := append(slices.Clone(begin), b.at[h.Name].configure)
			if (b.Seen.API == nil || b.EtcdExpired()) && !s.Change.Disruptive() {
				b.add(s, after...) // on all hosts together
				continue
			}
			b.addInTurn(s, after...)
		}
		b.inLanes(workers, begin, func(h spec.Host, after ...*Step) *Step {
			return b.add(step(h, cluster.Restart, cluster.Node), after...)
		})
	}
}

// renewsOn says that the plan gives a host a valid certificate of an authority.
func (b *builder) renewsOn(h spec.Host, a facts.Authority) bool {
	return slices.ContainsFunc(b.steps, func(s *Step) bool {
		return s.Kind == SetTrust && s.Host == h.Name && s.Authority == a && s.Detail != ""
	})
}

// readersOf are the programs on a host that have to restart for a renewed authority, because they read it only when they start. API servers read the
// others again, and so do kubelets, which restart all the same for their kubeconfig.
func (b *builder) readersOf(h spec.Host) (out []string) {
	if b.renewsOn(h, facts.EtcdAuthority) {
		out = append(out, b.Readers(h.Name, facts.EtcdAuthority)...)
	} else {
		out = append(out, b.FormerReaders(h.Name)...) // an earlier run did not get that far
	}
	if b.renewsOn(h, facts.KubernetesAuthority) && h.Has(spec.RoleControlPlane) {
		out = append(out, facts.ControllerManager, facts.Scheduler)
	}
	return out
}

// renewOnBalancers has managed load balancers verify API servers with the certificate that the plan makes. If a host has it already, because an
// earlier run was interrupted, configureBalancer gives it to them; where the plan does not configure load balancers (alone), this does.
func (b *builder) renewOnBalancers(alone bool) {
	makes := slices.ContainsFunc(b.ofKind(RenewAuthority), func(s *Step) bool { return s.Authority == facts.KubernetesAuthority })
	if !makes && !alone || b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return
	}
	for _, h := range b.balancersInTurn() {
		b.renewOnBalancer(h, makes, b.all()...)
	}
}

// renewOnBalancer does it for one host. Makes says that steps before have the certificate, and not the observation.
func (b *builder) renewOnBalancer(h spec.Host, makes bool, after ...*Step) {
	if !b.Reachable(h.Name) || b.keepsServing(h) || b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return
	}
	d := hostconfig.BalancerAuthority("")
	if !makes {
		d = hostconfig.BalancerAuthority(b.CA())
		if b.CA() == "" || !b.balances(h) || len(hostconfig.Missing(d, b.Facts(h.Name))) == 0 {
			return
		}
	}
	b.addInTurn(Step{Kind: Configure, Host: h.Name, Detail: "authority", Title: "have HAProxy trust the renewed certificate", Desired: &d, Change: change(cluster.Reload, cluster.LoadBalancer, h.Name),
		Reason: "it verifies the certificates of API servers; HAProxy reloads"}, after...)
}

// renewInAPI has the API tell clients to trust certificates that were renewed: those that this plan gives to hosts, or, after a run that was
// interrupted, those that hosts have. Quorate's own clients in pods restart: they may read what they trust only when they start.
func (b *builder) renewInAPI() {
	for _, a := range []facts.Authority{facts.KubernetesAuthority, facts.FrontProxyAuthority} {
		trusted := b.renewedKeys(a)
		if len(trusted) == 0 {
			continue
		}
		published := b.publishesExpired(a, trusted[0])
		if a == facts.KubernetesAuthority {
			b.restartFormerClients(trusted, published)
		}
		if !published {
			continue
		}
		b.addInTurn(Step{Kind: PublishTrust, Detail: string(a), Title: "publish the renewed certificate of " + a.Title(), Authority: a, Trusted: trusted,
			Reason: "clients read what they trust from ConfigMaps: hosts that join, pods in every namespace, and servers of aggregated APIs"}, b.all()...)
	}
}

// restartFormerClients restarts the clients of the API in pods that were started before the renewed certificate was published. All says that it
// is not published everywhere yet: then the step finds out which ones these are. After that, some may be left that a run could not restart.
func (b *builder) restartFormerClients(trusted []string, all bool) {
	nodes, dns := b.FormerClients()
	if !all && len(nodes) == 0 && !dns {
		return
	}
	var which []string
	if len(nodes) > 0 {
		which = append(which, "kube-proxy or flannel on "+cluster.List(nodes))
	}
	if dns {
		which = append(which, "CoreDNS")
	}
	s := Step{Kind: RestartClients, Detail: string(facts.KubernetesAuthority), Title: b.restartClientsTitle(), Authority: facts.KubernetesAuthority, Trusted: trusted,
		Change: change(cluster.Restart, cluster.PodNetwork, ""), Reason: "clients of the API may read what they trust only when they start, and that has expired; pods are replaced on some nodes at a time"}
	if len(which) > 0 {
		s.Reason = "these were started before the certificate was renewed, and may have read only the former one: " + reasons(which)
	}
	if b.Seen.API != nil {
		for _, d := range b.Seen.API.DaemonSets {
			s.Pods = append(s.Pods, d.Namespace+"/"+d.Name)
		}
	}
	b.addInTurn(s, b.all()...)
}

// renewedKeys are the keys that hosts trust of an authority whose key that signs has a valid certificate, or gets one in this plan. While the
// authority is being replaced, these are those of the last stage that a host has reached; empty if hosts sign with different keys.
func (b *builder) renewedKeys(a facts.Authority) (out []string) {
	signs := ""
	for _, h := range b.TrustingHosts(a) {
		k := b.State.Facts(h.Name).Kubernetes
		keys := k.Trust[a].Trusted
		switch {
		case len(keys) == 0:
			continue
		case signs == "":
			signs = keys[0]
		case signs != keys[0]:
			return nil
		}
		valid := slices.ContainsFunc(k.Certificates, func(c facts.Certificate) bool { return c.Name == a.Certificate() && !b.Expired(c) })
		if (valid || b.renewsOn(h, a)) && len(keys) > len(out) {
			out = keys
		}
	}
	return out
}

// publishesExpired says that the API tells clients to trust a certificate that has expired of the key that signs, and no other one of it. While
// nobody can ask it, it does so if hosts do.
func (b *builder) publishesExpired(a facts.Authority, signs string) bool {
	if b.Seen.API == nil {
		return slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool { return b.renewsOn(h, a) })
	}
	return slices.ContainsFunc(a.Published(), func(name string) bool {
		until, known := b.Seen.API.TrustedUntil[name][signs]
		return known && !until.After(b.Seen.Time)
	})
}
