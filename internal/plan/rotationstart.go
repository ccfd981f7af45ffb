package plan

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file plans the stages of authorities that programs read only when they start: etcd's, which members and API servers read, and the
// service account key, which API servers read. Their stages are those of the others. A host has reached one when its files show that, and
// when the programs that read them were started after they had been written. So in some stages programs restart, one host after another:
//
//	        etcd-ca                                    sa
//	trust   members and API servers                    API servers
//	sign    nothing; all certificates are reissued     API servers, then controller managers and kubelets
//	drop    members and API servers                    API servers

// trustAtStart is the first stage.
func (b *builder) trustAtStart(r cluster.Rotation) string {
	both := []string{r.New, facts.NextKey} // the key that there is, and the one that this plan makes
	if r.Begun {
		both = []string{r.Old, r.New}
	}
	begin := b.shareAuthority(r)
	for _, h := range b.readersInTurn(r.Authority) {
		b.readAgain(h, r, both, "", "what the new key will sign must be trusted before it signs", begin)
	}
	return ""
}

// readersInTurn are the hosts on which something reads the authority: members of an external etcd come before API servers, which wait
// for them.
func (b *builder) readersInTurn(a facts.Authority) (out []spec.Host) {
	if a == facts.EtcdAuthority && b.c.ManagedEtcd() {
		out = append(out, b.c.EtcdHosts()...)
	}
	for _, h := range b.controlPlanesInTurn() {
		if !slices.ContainsFunc(out, func(o spec.Host) bool { return o.Name == h.Name }) {
			out = append(out, h)
		}
	}
	return out
}

// readAgain brings a host to a stage, and restarts those of its programs that have to read what changed. Nobody uses them then, and they
// lead nothing. What an earlier run took out of the load balancers' pools comes back.
func (b *builder) readAgain(h spec.Host, r cluster.Rotation, keys []string, former, reason string, after []*Step) {
	stale, programs, serves := b.trustStale(h, r, keys), r.Unread[h.Name], h.Has(spec.RoleControlPlane)
	if stale || serves && slices.Contains(programs, facts.Etcd) {
		programs = b.Readers(h.Name, r.Authority) // an API server would keep its clients waiting while the member on its host restarts
	}
	if len(programs) == 0 {
		if serves && b.drained(h.Name) {
			b.returnFromReplacement(h, after)
		}
		return
	}
	if serves {
		b.leaveForReplacement(h, after) // nothing, if its API server does not serve
	}
	m, has := b.Member(h.Name)
	if slices.Contains(programs, facts.Etcd) && !(serves && b.APIServer(h.Name).OK) && has && m.Healthy && len(b.c.EtcdHosts()) > 1 {
		b.moveLeadership(h.Name, "the leader is not stopped", after...)
	}
	part := restartedPart(programs)
	if stale {
		b.addInTurn(b.trustStep(h, r, keys, former, reason, change(cluster.Restart, part, h.Name)), after...)
	}
	restart := restartStep(h, programs, cluster.Restart, "what changed is read only at a start")
	restart.Change = change(cluster.Restart, part, h.Name)
	b.addInTurn(restart, after...)
	if serves {
		b.returnFromReplacement(h, after)
	}
}

// restartedPart is what goes away when these programs restart.
func restartedPart(programs []string) cluster.Part {
	switch member, api := slices.Contains(programs, facts.Etcd), slices.Contains(programs, facts.APIServer); {
	case member && api:
		return cluster.ControlPlane
	case member:
		return cluster.EtcdMember
	}
	return cluster.APIPrograms
}

// SignsDetail is the detail of a CheckKeys that asks with which key API servers sign, too.
const SignsDetail = "signs"

// checkKeys asks what runs which keys it trusts. That a program was started after a file had been written is no proof that it uses the file.
func (b *builder) checkKeys(r cluster.Rotation, keys []string, former string, after ...*Step) *Step {
	s := Step{Kind: CheckKeys, Authority: r.Authority, Trusted: keys, Former: former, Title: "check that running programs trust " + bothKeysOf(r.Authority),
		Reason: "what reads a file only at its start may use another one"}
	if former != "" {
		s.Title, s.Reason = "check that no running program trusts "+keyOf("old", r.Authority), "a rotation is complete when nothing that runs accepts what the old key signed"
	}
	return b.add(s, after...)
}

// signEtcd is the second stage of etcd's authority. Members and API servers read their certificates again for each connection.
func (b *builder) signEtcd(r cluster.Rotation) string {
	keys := []string{r.New, r.Old}
	begin := b.shareAuthority(r)
	signs := func(h spec.Host) bool { return b.trustStale(h, r, keys) || len(b.SignedBefore(h.Name, r)) > 0 }
	copies := func(h spec.Host) bool { return b.clientSource(h, r) != "" }
	// An earlier run may have asked, but a program may have been started since, with other files.
	if slices.ContainsFunc(b.SigningHosts(r.Authority), signs) || slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), copies) {
		begin = append(begin, b.checkKeys(r, keys, "", begin...))
	}
	part := cluster.EtcdMember
	if b.c.StackedEtcd() {
		part = cluster.ControlPlane
	}
	renewed := map[string]*Step{}
	for _, h := range b.SigningHosts(r.Authority) {
		if b.trustStale(h, r, keys) {
			b.addInTurn(b.trustStep(h, r, keys, "", "everything that runs trusts what it signs; nothing restarts", change(cluster.Restart, part, h.Name)), begin...)
		}
		if all := b.SignedBefore(h.Name, r); len(all) > 0 {
			renewed[h.Name] = b.reissue(h, all, part, begin)
		}
	}
	if b.c.ManagedEtcd() {
		b.copyReissuedClients(r, renewed, begin)
	}
	return ""
}

// copyReissuedClients gives control planes the client certificate for an external etcd that the new key signed: that of the host from which
// they have theirs, as far as that shows, so that its key stays and the two fit at every moment.
func (b *builder) copyReissuedClients(r cluster.Rotation, renewed map[string]*Step, after []*Step) {
	for _, h := range b.controlPlanesInTurn() {
		if source := b.clientSource(h, r); source != "" {
			b.last = b.copyEtcdClient(h, source, "the old key signed its own; the API server reads it again for each connection", append(slices.Clone(after), renewed[source], b.last)...)
		}
	}
}

// clientSource is the host of an external etcd from which a control plane gets a client certificate that the new key signed; empty if it has one,
// or if no host has any.
func (b *builder) clientSource(h spec.Host, r cluster.Rotation) (source string) {
	if !b.c.ManagedEtcd() || !slices.ContainsFunc(b.SignedBefore(h.Name, r), func(c facts.Certificate) bool { return c.Name == facts.EtcdClientCertificate }) {
		return ""
	}
	for _, e := range b.c.EtcdHosts() {
		client := b.Facts(e.Name).Kubernetes.EtcdClient
		if client != "" && (source == "" || client == b.Facts(h.Name).Kubernetes.EtcdClient) {
			source = e.Name
		}
	}
	return source
}

// signTokens is the second stage of the service account key, in two parts, each planned on a fresh observation. First, every API
// server signs with the new key. What gets tokens from them then gets new ones only: controller managers, which also sign tokens of secrets,
// and kubelets, which request the tokens of their pods again when they restart.
func (b *builder) signTokens(r cluster.Rotation, o RotateOptions) string {
	if where := b.verifiedElsewhere(); where != "" && len(r.Signs) == 0 && !o.Published {
		return "both keys are accepted by the API servers, and tokens may be verified elsewhere, too: " + where + ". Publish the new key there (`kubectl get --raw /openid/v1/jwks` lists both), " +
			"and wait until whoever reads it has done so again. Then run the command with --keys-published: the new key signs"
	}
	keys := []string{r.New, r.Old}
	begin := b.shareAuthority(r)
	if slices.ContainsFunc(b.SigningHosts(r.Authority), func(h spec.Host) bool { return b.trustStale(h, r, keys) }) { // also in a run that goes on
		begin = append(begin, b.checkKeys(r, keys, "", begin...))
	}
	for _, h := range b.controlPlanesInTurn() {
		b.readAgain(h, r, keys, "", "every API server accepts what it signs", begin)
	}
	since, all := b.SignsSince(r)
	switch {
	case len(b.steps) > 0:
		return ""
	case !all:
		return "nobody can tell since when API servers sign with the new key"
	case o.OldTokens == nil:
		return "nobody has asked which key signed the tokens of pods"
	}
	var managers, nodes []spec.Host
	for _, h := range b.controlPlanesInTurn() {
		if slices.Contains(b.Facts(h.Name).Kubernetes.Manifests, facts.ControllerManager) && !b.StartedSince(h.Name, facts.ControllerManager, since) {
			managers = append(managers, h)
		}
	}
	for _, h := range b.c.Spec.Hosts {
		if len(o.OldTokens[h.Name]) > 0 {
			nodes = append(nodes, h)
		}
	}
	if len(managers)+len(nodes) == 0 {
		return ""
	}
	// What starts later than that is known to have started after the last API server, whatever the clocks of hosts say.
	wait := since.Add(2 * cluster.ClockMargin).Sub(b.Seen.Time)
	proof := b.add(Step{Kind: CheckKeys, Detail: SignsDetail, Authority: r.Authority, Trusted: keys, Record: b.SignsRecord(r, since), WaitSeconds: int64(max(0, wait.Seconds())), Title: "ask API servers whether they sign with " + keyOf("new", r.Authority),
		Reason: "what gets a token from them from now on must get one that the new key signed"})
	for _, h := range managers {
		if len(b.c.HostsWith(spec.RoleControlPlane)) > 1 && b.APIServer(h.Name).OK {
			b.moveLeadership(h.Name, "whoever leads is not restarted", proof)
		}
		b.addInTurn(restartStep(h, []string{facts.ControllerManager}, cluster.Restart, "it reads the key with which it signs tokens of secrets only when it starts, and its own tokens were signed by the old one"), proof)
	}
	refresh := func(h spec.Host) Step {
		n := len(o.OldTokens[h.Name])
		reason := fmt.Sprintf("the old key signed the token of the pod %s", o.OldTokens[h.Name][0])
		if n > 1 {
			reason += fmt.Sprintf(" and %d more", n-1)
		}
		return Step{Kind: RefreshTokens, Host: h.Name, Title: "have the kubelet request its pods' tokens again", Authority: r.Authority, Former: r.Old, Change: change(cluster.Restart, cluster.Node, h.Name),
			Reason: reason + "; the kubelet restarts, and containers go on"}
	}
	after := append(b.ofKind(RestartPrograms), proof)
	for _, h := range nodes {
		if h.Has(spec.RoleControlPlane) {
			b.addInTurn(refresh(h), after...)
		}
	}
	b.inLanes(slices.DeleteFunc(nodes, func(h spec.Host) bool { return h.Has(spec.RoleControlPlane) }), after,
		func(h spec.Host, after ...*Step) *Step { return b.add(refresh(h), after...) })
	return ""
}

// verifiedElsewhere says where tokens may be verified besides the API: API servers name an issuer that is not the Service of the API, or a
// place where the keys are published. Empty if they do not.
func (b *builder) verifiedElsewhere() string {
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		k := b.Facts(h.Name).Kubernetes
		if place := k.Arguments[facts.APIServer][facts.AccountPublishedKeysFlag]; place != "" && !isOwnService(place) {
			return "--" + facts.AccountPublishedKeysFlag + "=" + place
		}
		for _, issuer := range k.Issuers {
			if !isOwnService(issuer) {
				return "--" + facts.AccountIssuerFlag + "=" + issuer
			}
		}
	}
	return ""
}

// isOwnService says that an address is that of the Service of the API, which only the cluster itself can reach.
func isOwnService(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	const service = "kubernetes.default.svc"
	return u.Hostname() == service || strings.HasPrefix(u.Hostname(), service+".")
}

// dropAtStart is the last stage. When nothing that runs trusts the old key any more, hosts forget it.
func (b *builder) dropAtStart(r cluster.Rotation, o RotateOptions) string {
	if !r.Begun {
		return ""
	}
	for _, h := range b.TrustingHosts(r.Authority) {
		if all := b.SignedBefore(h.Name, r); len(all) > 0 {
			return stillSigned(h, all[0])
		}
	}
	var begin []*Step
	if !b.LastStage(r) {
		if waits := waitsAtStart(r, o); waits != "" {
			return waits
		}
		if o.Settle > 0 {
			begin = append(begin, b.add(Step{Kind: AwaitReload, Authority: r.Authority, WaitSeconds: int64(o.Settle.Seconds()) + 1, Title: "wait until clients in pods have read their token again",
				Reason: "they do so every minute, and the tokens were renewed a moment ago"}))
		}
	}
	keys := []string{r.New}
	for _, h := range b.readersInTurn(r.Authority) {
		b.readAgain(h, r, keys, r.Old, "nothing that the hosts have is signed by it", begin)
	}
	if len(b.steps) > len(begin) {
		return ""
	}
	check := b.checkKeys(r, keys, r.Old)
	for _, h := range b.TrustingHosts(r.Authority) {
		if b.Facts(h.Name).Kubernetes.Trust[r.Authority].Former != "" {
			b.add(Step{Kind: ForgetAuthority, Host: h.Name, Title: "forget " + keyOf("old", r.Authority), Authority: r.Authority, Reason: "nothing that runs trusts it any more; this is the end of the rotation"}, check)
		}
	}
	return ""
}

// waitsAtStart is what has to be done before the last stage; empty if it may begin.
func waitsAtStart(r cluster.Rotation, o RotateOptions) string {
	switch {
	case len(o.TokenSecrets) > 0:
		return fmt.Sprintf("the old key signed the tokens in these secrets, and nothing signs them again: %s. Remove the token from each that is used, and the controller manager writes a new one: `kubectl -n NAMESPACE patch secret NAME --type json -p '[{\"op\": \"remove\", \"path\": \"/data/token\"}]'`. "+
			"Give it to whoever has a copy, and restart pods that use it. Delete those that nobody uses. "+againThen, strings.Join(o.TokenSecrets, ", "))
	case len(o.StaleClients) > 0:
		return restartStale(o.StaleClients, "have pods from before the new key signed, and may have read their token then", "it again, as clients that are built with client-go do every minute")
	case o.Drop:
		return ""
	case r.Authority == facts.EtcdAuthority:
		return "everything that runs trusts both keys, and the new one has signed all certificates on the hosts. Replace what depends on the old one elsewhere: copies of /etc/kubernetes/pki/etcd/ca.crt, and client certificates that it signed, as monitoring and backup programs have them. Then run the command with --yes: the old key is not trusted any more"
	}
	return "API servers accept both keys, and the new one signs. Replace tokens that were requested from the API for use elsewhere, for example with `kubectl create token`. Then run the command with --yes: tokens that the old key signed are refused"
}

// usesUsualFiles refuses a rotation where a program reads another file than the one that would be replaced.
func (b *builder) usesUsualFiles(h spec.Host, a facts.Authority) error {
	k := b.Facts(h.Name).Kubernetes
	type use struct{ program, flag, have, want string }
	var uses []use
	at := func(file string) string { return pkiDir + file }
	if args := k.Arguments[facts.APIServer]; h.Has(spec.RoleControlPlane) {
		switch a {
		case facts.EtcdAuthority:
			uses = append(uses, use{facts.APIServer, facts.EtcdCAFileFlag, args[facts.EtcdCAFileFlag], at(a.Public())})
		case facts.ServiceAccountKey:
			uses = append(uses, use{facts.APIServer, facts.AccountKeyFileFlag, args[facts.AccountKeyFileFlag], at(a.Public())},
				use{facts.APIServer, facts.AccountSigningKeyFlag, args[facts.AccountSigningKeyFlag], at(a.Key())},
				use{facts.ControllerManager, facts.AccountPrivateKeyFlag, k.Arguments[facts.ControllerManager][facts.AccountPrivateKeyFlag], at(a.Key())})
		}
	}
	if a == facts.EtcdAuthority && b.c.StackedEtcd() {
		for _, flag := range []string{facts.EtcdTrustedCAFlag, facts.EtcdPeerTrustedCAFlag} {
			uses = append(uses, use{facts.Etcd, strings.TrimPrefix(flag, facts.Etcd+"/"), k.Flags[flag], at(a.Public())})
		}
	}
	if a == facts.EtcdAuthority && h.Has(spec.RoleEtcd) && b.leftAsItIs(h) {
		return refused(RuleOwnProgram, "the etcd on "+h.Name+" was installed without Quorate", "Replace its authority with what manages it: docs/certificates.md, section \"An etcd of your own\".")
	}
	for _, u := range uses {
		if u.have != u.want {
			return refused(cluster.RuleRotationSigner, fmt.Sprintf("%s on %s has --%s=%s, and not %s", u.program, h.Name, u.flag, u.have, u.want),
				"Quorate replaces "+a.Title()+" only where programs use the files that kubeadm configures.")
		}
	}
	return nil
}
