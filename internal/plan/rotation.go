package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how an authority is replaced, in stages. A plan reaches one stage, and the next plan is made of what was observed
// then: no stage begins before every host, every load balancer, and the API have reached the one before it. There is no record of
// how far it got. What is left to do follows from what the hosts trust, and from who signed their certificates:
//
//	trust   old, new   everybody trusts what the new key will sign; the old one signs
//	sign    new, old   the new key signs, and every certificate but those with which API servers serve is issued again
//	drop    new        API servers serve with certificates of the new key, and then nobody trusts the old one any more
//
// So a client that trusts the old key alone, or has a certificate of it, goes on until the last stage.
// cluster.State.Rotation reads the stage of each host. Authorities that programs read only when they start are in rotationstart.go.

// RotateOptions are what the user decides, and what was found out for this stage besides the state.
type RotateOptions struct {
	// Drop says that the last stage may begin: what trusts the old key alone, and what it signed outside of the hosts, stops working, such
	// as kubeconfigs of people.
	Drop bool
	// Published says that whoever verifies tokens of service accounts outside of the cluster has the new key.
	Published bool
	// StaleClients are workloads that may have read what is trusted, or their token, before the new key was in it. As long as there are any,
	// the last stage does not begin.
	StaleClients []string
	// RestartOwn says that clients of the API that kubeadm or Quorate installed in pods are such workloads: Deployments, or the DaemonSets in StaleOwn
	// (namespace/name). The last stage restarts them before anything else.
	RestartOwn bool
	StaleOwn   []string
	// TokenSecrets are secrets with tokens that the old service account key signed. As long as there are any, the last stage does not begin.
	TokenSecrets []string
	// OldTokens are pods whose token the old service account key signed, or may have, by node. They matter when every API server signs with
	// the new one.
	OldTokens map[string][]string
	// Settle is for how long clients that read their token again may still have the former one.
	Settle time.Duration
}

// RotateAuthority plans the next stage of a rotation, or the rest of the one that was interrupted. A plan without steps says in Waits
// what the next stage waits for; without that, the rotation is complete.
func RotateAuthority(s *cluster.State, a facts.Authority, o RotateOptions) (*Plan, error) {
	r := s.Rotation(a)
	b, err := rotationBuilder(s, r)
	if err != nil {
		return nil, err
	}
	reached := cluster.TrustStage
	if r.Begun {
		reached = r.Stage()
	}
	for _, stage := range b.stagesOf(r, o) {
		if stage.name != reached && b.out.Rotation == "" {
			continue // it is over
		}
		b.out.Rotation, b.out.Waits = stage.name, stage.plan()
		if len(b.steps) > 0 || b.out.Waits != "" {
			break
		}
	}
	if len(b.steps) == 0 && b.out.Waits == "" {
		b.out.Rotation = "" // nothing is left
	}
	if len(b.steps) > 0 && b.out.Rotation == cluster.DropStage {
		b.add(verification(nil), b.all()...)
	}
	return b.folded()
}

// stage is a stage of a rotation with what plans it, and what it waits for.
type stage struct {
	name cluster.RotationStage
	plan func() string
}

// stagesOf are those of an authority, in their order.
func (b *builder) stagesOf(r cluster.Rotation, o RotateOptions) []stage {
	switch r.Authority {
	case facts.EtcdAuthority:
		return []stage{{cluster.TrustStage, func() string { return b.trustAtStart(r) }}, {cluster.SignStage, func() string { return b.signEtcd(r) }},
			{cluster.DropStage, func() string { return b.dropAtStart(r, o) }}}
	case facts.ServiceAccountKey:
		return []stage{{cluster.TrustStage, func() string { return b.trustAtStart(r) }}, {cluster.SignStage, func() string { return b.signTokens(r, o) }},
			{cluster.DropStage, func() string { return b.dropAtStart(r, o) }}}
	}
	return []stage{{cluster.TrustStage, func() string { return b.trustBoth(r) }}, {cluster.SignStage, func() string { return b.signAgain(r) }},
		{cluster.DropStage, func() string { return b.dropFormer(r, o) }}}
}

// rotationBuilder refuses a rotation that could not reach every host, or that would not end.
func rotationBuilder(s *cluster.State, r cluster.Rotation) (*builder, error) {
	if expired := s.AuthorityRenewals(); s.Stage() == cluster.Unresponsive && len(expired) > 0 { // which is why
		return nil, s.AuthorityExpired(expired[0].Hosts[0], facts.Certificate{Name: expired[0].Authority.Certificate(), Expires: expired[0].Expired})
	}
	b, err := operation(s)
	if err != nil {
		return nil, err
	}
	b.out.Unreachable, b.at = b.Unreachable(), map[string]*hostSteps{}
	again := "Then run `quorate certs rotate " + string(r.Authority) + "` again."
	hosts := func(why, fix string) error { return refused(cluster.RuleRotationHosts, why, fix+" "+again) }
	if s.Stage() == cluster.Foreign {
		return nil, refused(RuleAnswer, "this cluster was not built or adopted by Quorate", "`quorate apply --adopt` adopts it.")
	}
	if r.Authority == facts.EtcdAuthority && b.c.ExistingEtcd() {
		return nil, refused(cluster.RuleRotationEtcd, "the etcd of this cluster is your own, and so is its authority", "Replace it with what manages that etcd: docs/certificates.md, section \"An etcd of your own\".")
	}
	if r.Unclear != "" {
		return nil, cluster.RotationUnclear(r)
	}
	for _, other := range s.Rotations() {
		if other.Authority != r.Authority {
			return nil, cluster.RotationUnfinished(other, "one authority is replaced at a time")
		}
	}
	if len(b.out.Unreachable) > 0 {
		var why []string
		for _, h := range b.c.Spec.Hosts {
			if reason, down := b.out.Unreachable[h.Name]; down {
				why = append(why, h.Name+": "+reason)
			}
		}
		return nil, hosts("every host has to reach each stage, and nobody knows what these hosts have: "+strings.Join(why, "; "), "Bring them back, or remove them from the spec and run `quorate apply`.")
	}
	if left := s.Departing(); len(left) > 0 {
		return nil, hosts("these hosts are still part of the cluster, and the spec does not name them: "+cluster.List(cluster.Names(left)), "Run `quorate apply`.")
	}
	if strangers := s.Strangers(); len(strangers) > 0 {
		return nil, hosts(fmt.Sprintf("the cluster has the node %s, which is not in the spec: it would not get the new certificates", strangers[0].Name), "Add it to the spec, or remove it from the cluster.")
	}
	if r.Authority == facts.KubernetesAuthority && s.Seen.API.Kubeadm == nil {
		return nil, refused(cluster.RuleRotationSigner, "the ConfigMap kubeadm-config contains no ClusterConfiguration, in which the rotation is noted until it ends", "`kubeadm init phase upload-config kubeadm` writes it again.")
	}
	trusting := s.TrustingHosts(r.Authority)
	for _, h := range b.c.Spec.Hosts {
		joins := !slices.ContainsFunc(trusting, func(x spec.Host) bool { return x.Name == h.Name })
		if joins && s.Concerned(h, r.Authority) {
			fix := "Run `quorate apply`, or remove it from the spec."
			if r.Begun {
				fix = "No host can join before the rotation is finished: remove it from the spec."
			}
			return nil, hosts(h.Name+" is in the spec and has not joined the cluster", fix)
		}
	}
	for _, h := range s.SigningHosts(r.Authority) {
		if err := b.mayRotateOn(h, r); err != nil {
			return nil, err
		}
	}
	for _, h := range trusting {
		if err := b.usesUsualFiles(h, r.Authority); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// mayRotateOn refuses where the key is kept elsewhere, where new certificates would be accepted by nobody, and where somebody else decides
// with what the controller manager signs.
func (b *builder) mayRotateOn(h spec.Host, r cluster.Rotation) error {
	k := b.Facts(h.Name).Kubernetes
	t := k.Trust[r.Authority]
	signs := r.Begun && t.Key == r.New || len(t.Trusted) > 0 && t.Key == t.Trusted[0] || r.Begun && t.Key != "" && t.Key == r.Old
	if !signs {
		return &cluster.Refusal{Rule: cluster.RuleAuthorityKey, Subjects: []string{h.Name},
			Why: fmt.Sprintf("the private key of %s, /etc/kubernetes/pki/%s, is not on %s, or does not belong to /etc/kubernetes/pki/%s", r.Authority.Title(), r.Authority.Key(), h.Name, r.Authority.Public()),
			Fix: "If the key is kept offline, replace the authority by hand: docs/certificates.md, section \"An offline CA\". If another host has it and this one should too, copy it to this host."}
	}
	for _, c := range k.Certificates {
		if c.Name == r.Authority.Certificate() && b.Expired(c) {
			return b.AuthorityExpired(h.Name, c)
		}
	}
	if r.Authority != facts.KubernetesAuthority || !slices.Contains(k.Manifests, facts.ControllerManager) {
		return nil
	}
	for name, usual := range facts.SigningArguments(false) {
		if have := k.Arguments[facts.ControllerManager][name]; have != usual && have != facts.SigningArguments(true)[name] {
			return refused(cluster.RuleRotationSigner, fmt.Sprintf("the controller manager on %s signs with %s (--%s), and not with %s", h.Name, have, name, usual),
				"Quorate replaces the Kubernetes CA only where it signs everything, as kubeadm configures it.")
		}
	}
	return nil
}

// trustBoth is the first stage. The new key is on every control plane before anybody trusts it, so that a control plane that is lost
// does not take the only copy with it.
func (b *builder) trustBoth(r cluster.Rotation) string {
	both := []string{r.New, facts.NextKey} // the key that there is, and the one that this plan makes
	if r.Begun {
		both = []string{r.Old, r.New}
	}
	var made *Step
	shared := b.shareAuthority(r)
	if len(shared) > 0 {
		made = shared[0]
	}
	begin := append(shared, b.signSeparately(r, made))
	for _, h := range b.controlPlanesInTurn() {
		b.setTrustInTurn(h, r, both, "", "what the new key will sign must be trusted before it signs", begin)
	}
	b.setTrustOnWorkers(r, both, "", "what the new key will sign must be trusted before it signs", begin)
	b.trustOnBalancers(r, both)
	b.publishTrust(r, both, "")
	b.restartClients(r, both)
	return ""
}

// shareAuthority plans that every host that signs has the key that is to follow.
func (b *builder) shareAuthority(r cluster.Rotation) (out []*Step) {
	var leader string
	var lack []spec.Host
	for _, h := range b.SigningHosts(r.Authority) {
		switch t := b.Facts(h.Name).Kubernetes.Trust[r.Authority]; {
		case t.Next != "" && leader == "":
			leader = h.Name
		case t.Next == "" && (!r.Begun || t.Key != r.New):
			lack = append(lack, h)
		}
	}
	if len(lack) == 0 {
		return nil
	}
	s := Step{Kind: MakeAuthority, Host: leader, Title: "read " + keyOf("new", r.Authority), Reason: "other hosts need it", Authority: r.Authority}
	if leader == "" {
		s.Host, lack = lack[0].Name, lack[1:]
		s.Title, s.Reason = "create a new key and certificate for "+r.Authority.Title(), "they are stored next to the current ones, and sign nothing yet"
		if r.Authority == facts.ServiceAccountKey {
			s.Title, s.Reason = "create a new service account key", "it is stored next to the current one, and signs nothing yet"
		}
	}
	out = append(out, b.add(s))
	for _, h := range lack {
		out = append(out, b.add(Step{Kind: ShareAuthority, Host: h.Name, Title: "copy " + keyOf("new", r.Authority), Authority: r.Authority,
			Reason: "the hosts that sign share it, and it leaves them for no other host"}, out[0]))
	}
	return out
}

// keyOf names the new or the old key of an authority.
func keyOf(which string, a facts.Authority) string {
	if a == facts.ServiceAccountKey {
		return "the " + which + " service account key"
	}
	return "the " + which + " key of " + a.Title()
}

// bothKeysOf names the two.
func bothKeysOf(a facts.Authority) string {
	if a == facts.ServiceAccountKey {
		return "both service account keys"
	}
	return "both keys of " + a.Title()
}

// signSeparately stores in kubeadm's configuration with what controller managers sign: one that is restored in the middle of a rotation
// would not start with the file that holds both certificates.
func (b *builder) signSeparately(r cluster.Rotation, after ...*Step) *Step {
	k := b.Seen.API.Kubeadm
	want := facts.SigningArguments(true)
	if r.Authority != facts.KubernetesAuthority || k == nil || len(differences(facts.ControllerManager, k.Arguments[facts.ControllerManager], want)) == 0 {
		return nil
	}
	return b.add(Step{Kind: StoreSettings, Detail: "signer", Title: "store the controller manager's key file in kubeadm's configuration",
		Settings: &SettingsChange{Arguments: map[string]map[string]string{facts.ControllerManager: want}},
		Reason:   "a controller manager that is restored meanwhile signs with one certificate, and trusts two. Nothing restarts"}, after...)
}

// setTrustInTurn brings a control plane to a stage. Its controller manager and its scheduler read what they trust only when they start, so
// they lead nothing then. The API server goes on.
func (b *builder) setTrustInTurn(h spec.Host, r cluster.Rotation, keys []string, former, reason string, after []*Step) {
	var restart []string
	f := b.Facts(h.Name)
	stale := b.trustStale(h, r, keys)
	for _, program := range []string{facts.ControllerManager, facts.Scheduler} {
		if r.Authority.Shared() && stale && slices.Contains(f.Kubernetes.Manifests, program) || slices.Contains(b.Outdated(h.Name), program) {
			restart = append(restart, program)
		}
	}
	if !stale && len(restart) == 0 {
		return
	}
	if len(restart) > 0 && len(b.c.HostsWith(spec.RoleControlPlane)) > 1 && b.APIServer(h.Name).OK {
		b.moveLeadership(h.Name, "whoever leads is not restarted", after...)
	}
	if stale {
		b.addInTurn(b.trustStep(h, r, keys, former, reason, change(cluster.Restart, cluster.APIPrograms, h.Name)), after...)
	}
	if len(restart) > 0 {
		b.addInTurn(restartStep(h, restart, cluster.Restart, "they read what they trust only when they start; the API server goes on"), after...)
	}
}

// trustStale says that a host has not reached a stage.
func (b *builder) trustStale(h spec.Host, r cluster.Rotation, keys []string) bool {
	k := b.Facts(h.Name).Kubernetes
	t := k.Trust[r.Authority]
	signs := t.Key == "" || t.Key == keys[0]
	apart := facts.SigningArguments(len(keys) > 1)[facts.SigningCertificateFlag]
	have := k.Arguments[facts.ControllerManager][facts.SigningCertificateFlag]
	separate := r.Authority == facts.KubernetesAuthority && have != "" && have != apart
	waits := len(keys) > 1 && t.Next == keys[0] // it is to sign now
	return !t.Trusts(keys...) || !signs || separate || waits || len(keys) < 2 && (t.Next != "" || t.Apart) || r.Authority.Shared() && k.KubeletDue
}

func (b *builder) trustStep(h spec.Host, r cluster.Rotation, keys []string, former, reason string, change *cluster.Change) Step {
	title := "trust " + bothKeysOf(r.Authority)
	switch {
	case len(keys) == 1:
		title = "stop trusting " + keyOf("old", r.Authority)
	case r.Begun && keys[0] == r.New:
		title = "sign with " + keyOf("new", r.Authority)
	}
	s := Step{Kind: SetTrust, Host: h.Name, Authority: r.Authority, Trusted: keys, Former: former, Title: title, Reason: reason, Change: change}
	if r.Authority.Shared() {
		s.Reason += "; the kubelet restarts, and containers go on"
	}
	return s
}

// setTrustOnWorkers brings nodes without a control plane to a stage, several at the same time.
func (b *builder) setTrustOnWorkers(r cluster.Rotation, keys []string, former, reason string, after []*Step) {
	workers := slices.DeleteFunc(b.TrustingHosts(r.Authority), func(h spec.Host) bool {
		return h.Has(spec.RoleControlPlane) || !b.trustStale(h, r, keys)
	})
	b.inLanes(workers, after, func(h spec.Host, after ...*Step) *Step {
		return b.add(b.trustStep(h, r, keys, former, reason, change(cluster.Restart, cluster.Node, h.Name)), after...)
	})
}

// trustOnBalancers has the managed load balancers verify API servers with other certificates.
func (b *builder) trustOnBalancers(r cluster.Rotation, keys []string) {
	if r.Authority != facts.KubernetesAuthority || b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return
	}
	ca := b.trustedText(r, keys)
	for _, h := range b.c.BalancerHosts() {
		f := b.Facts(h.Name)
		d := hostconfig.BalancerAuthority(ca)
		if ca != "" && len(hostconfig.Missing(d, f)) == 0 {
			continue
		}
		b.addInTurn(Step{Kind: Configure, Host: h.Name, Detail: "authority", Title: "have HAProxy trust the authority", Desired: &d, Change: change(cluster.Reload, cluster.LoadBalancer, h.Name),
			Reason: "it verifies the certificates of API servers; HAProxy reloads"}, b.ofKind(SetTrust)...)
	}
}

// trustedText is the file that every host of a stage has; empty while no host has it.
func (b *builder) trustedText(r cluster.Rotation, keys []string) string {
	for _, h := range b.TrustingHosts(r.Authority) {
		if t := b.Facts(h.Name).Kubernetes.Trust[r.Authority]; slices.Equal(t.Trusted, keys) {
			return t.PEM
		}
	}
	return ""
}

// publishTrust has the API tell clients what to trust: those that join, pods, and servers of aggregated APIs.
func (b *builder) publishTrust(r cluster.Rotation, keys []string, former string) {
	told := len(b.ofKind(SetTrust)) == 0
	for _, name := range r.Authority.Published() {
		if have, known := b.Seen.API.Trusted[name]; known && !(facts.Trust{Trusted: have}).Trusts(keys...) {
			told = false
		}
	}
	if told {
		return
	}
	b.addInTurn(Step{Kind: PublishTrust, Title: "publish what clients trust", Authority: r.Authority, Trusted: keys, Former: former,
		Reason: "clients read it from ConfigMaps: hosts that join, pods in every namespace, and servers of aggregated APIs"}, b.all()...)
}

// restartClients restarts the pods that kubeadm and Quorate installed and that use the API. Some of them read what they trust only when
// they start.
func (b *builder) restartClients(r cluster.Rotation, keys []string) {
	if r.Authority != facts.KubernetesAuthority {
		return
	}
	var pods []string
	for _, d := range b.Seen.API.DaemonSets {
		if d.Authority != keys[1] {
			pods = append(pods, d.Namespace+"/"+d.Name)
		}
	}
	if len(pods) == 0 {
		return
	}
	b.addInTurn(b.restartClientsStep(r, keys, pods), b.all()...)
}

// restartClientsTitle names the cluster's own clients of the API in pods.
func (b *builder) restartClientsTitle() string {
	if b.c.InstallsPrometheus() {
		return "restart kube-proxy, the pod network, CoreDNS, and kube-state-metrics"
	}
	return "restart kube-proxy, the pod network, and CoreDNS"
}

func (b *builder) restartClientsStep(r cluster.Rotation, keys, pods []string) Step {
	return Step{Kind: RestartClients, Title: b.restartClientsTitle(), Pods: pods, Authority: r.Authority, Trusted: keys, Change: change(cluster.Restart, cluster.PodNetwork, ""),
		Reason: "clients of the API may read what they trust only when they start; pods are replaced one after another"}
}

// signAgain is the second stage.
func (b *builder) signAgain(r cluster.Rotation) string {
	keys := []string{r.New, r.Old}
	begin := append(b.shareAuthority(r), b.awaitReload(r))
	for _, h := range b.controlPlanesInTurn() {
		b.signOn(h, r, keys, begin)
	}
	signs := b.all()
	workers := slices.DeleteFunc(b.TrustingHosts(r.Authority), func(h spec.Host) bool {
		return h.Has(spec.RoleControlPlane) || !b.kubeletSignedBefore(h, r)
	})
	b.inLanes(workers, signs, func(h spec.Host, after ...*Step) *Step { return b.add(b.reissueKubelet(h, r), after...) })
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if slices.ContainsFunc(b.SignedBefore(h.Name, r), func(c facts.Certificate) bool { return c.Name == facts.ApproverCertificate }) {
			b.add(Step{Kind: RenewApprover, Host: h.Name, Title: "renew the approver's certificate", Reason: "the old key signed it", Authority: r.Authority}, b.all()...)
		}
	}
	return ""
}

// awaitReload comes before any kubelet serves with a certificate that the new key signed. API servers read again every few minutes with
// what they verify kubelets.
func (b *builder) awaitReload(r cluster.Rotation) *Step {
	verifies := slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool {
		return b.Facts(h.Name).Kubernetes.Arguments[facts.APIServer]["kubelet-certificate-authority"] != ""
	})
	serves := slices.ContainsFunc(b.TrustingHosts(r.Authority), func(h spec.Host) bool { return b.kubeletSignedBefore(h, r) })
	if !r.Authority.Shared() || !verifies || !serves {
		return nil
	}
	s := Step{Kind: AwaitReload, Title: "wait until API servers verify kubelets with the new certificate", Authority: r.Authority, Reason: "they have read it before"}
	if len(r.Signs) == 0 { // otherwise, an earlier run has waited before it went on
		s.Detail, s.Reason = "from-the-file", "they read it again within five minutes; until then, they would refuse connections to kubelets that serve with it"
	}
	return b.add(s)
}

// signOn has the new key sign on a control plane, and issues its certificates again.
func (b *builder) signOn(h spec.Host, r cluster.Rotation, keys []string, after []*Step) {
	var renew []facts.Certificate
	restart := b.Outdated(h.Name)
	manifests := b.Facts(h.Name).Kubernetes.Manifests
	for _, c := range b.SignedBefore(h.Name, r) {
		if b.Renewer(cluster.Certificate{Host: h.Name, Certificate: c}) != cluster.ByQuorate || c.Name == facts.ServingCertificate {
			continue
		}
		renew = append(renew, c)
		for _, program := range c.Programs() {
			if !slices.Contains(restart, program) && slices.Contains(manifests, program) {
				restart = append(restart, program)
			}
		}
	}
	if len(restart) > 0 && len(b.c.HostsWith(spec.RoleControlPlane)) > 1 && b.APIServer(h.Name).OK {
		b.moveLeadership(h.Name, "whoever leads is not restarted", after...)
	}
	if b.trustStale(h, r, keys) {
		s := b.trustStep(h, r, keys, "", "every host trusts it", change(cluster.Restart, cluster.APIPrograms, h.Name))
		s.Reason = "every host trusts what it signs; nothing restarts"
		b.addInTurn(s, after...)
	}
	if len(renew) > 0 {
		b.reissue(h, renew, cluster.APIPrograms, after)
	}
	if len(restart) > 0 {
		b.addInTurn(restartStep(h, restart, cluster.Restart, "they read their certificate only when they start; the API server goes on"), after...)
	}
	if b.kubeletSignedBefore(h, r) {
		b.addInTurn(b.reissueKubelet(h, r), after...)
	}
}

// reissue signs certificates of a host again, which a part of the cluster uses.
func (b *builder) reissue(h spec.Host, all []facts.Certificate, part cluster.Part, after []*Step) *Step {
	s := b.renewOn(h, all, change(cluster.Restart, part, h.Name), after)
	s.Title, s.Reason = "sign certificates with the new key", "the old key signed "+all[0].Name
	if n := len(all) - 1; n > 0 {
		s.Reason += fmt.Sprintf(" and %d more", n)
	}
	s.Reason += "; what serves with them reads them again, and nothing restarts"
	return s
}

// kubeletSignedBefore says that a kubelet has a certificate that the old key signed, or has not read the new one yet.
func (b *builder) kubeletSignedBefore(h spec.Host, r cluster.Rotation) bool {
	return r.Authority.Shared() && (b.Facts(h.Name).Kubernetes.KubeletDue || slices.ContainsFunc(b.SignedBefore(h.Name, r), ofKubelet))
}

func ofKubelet(c facts.Certificate) bool {
	return c.Name == facts.KubeletClient || c.Name == facts.KubeletServer || c.Name == facts.KubeletKubeconfig
}

func (b *builder) reissueKubelet(h spec.Host, r cluster.Rotation) Step {
	s := renewKubeletStep(h)
	s.Title, s.Authority = "renew the kubelet's certificates", r.Authority
	s.Reason = "the old key signed them; the kubelet restarts, and containers go on"
	for _, c := range b.SignedBefore(h.Name, r) {
		switch {
		case c.Name == facts.KubeletKubeconfig:
			s.Certificates = append(s.Certificates, facts.KubeletClient)
		case ofKubelet(c):
			s.Certificates = append(s.Certificates, c.Name)
		}
	}
	if len(s.Certificates) == 0 {
		s.Reason = "its certificates were renewed after it had started; the kubelet restarts, and containers go on"
	}
	return s
}

// dropFormer is the last stage. Everything else that could be observed is signed by the new key then.
func (b *builder) dropFormer(r cluster.Rotation, o RotateOptions) string {
	if !r.Begun {
		return ""
	}
	serve := map[string][]facts.Certificate{}
	for _, h := range b.TrustingHosts(r.Authority) {
		for _, c := range b.SignedBefore(h.Name, r) {
			if c.Name != facts.ServingCertificate {
				return stillSigned(h, c)
			}
			serve[h.Name] = append(serve[h.Name], c)
		}
	}
	if !b.LastStage(r) {
		if o.RestartOwn {
			b.addInTurn(b.restartClientsStep(r, []string{r.Old, r.New}, o.StaleOwn))
			return ""
		}
		if waits := waitsForClients(r, o); waits != "" {
			return waits
		}
	}
	keys, former := []string{r.New}, r.Old
	const reason = "nothing that the hosts have is signed by it"
	for _, h := range b.controlPlanesInTurn() {
		if len(serve[h.Name]) > 0 {
			b.reissue(h, serve[h.Name], cluster.APIPrograms, nil)
		}
	}
	for _, h := range b.controlPlanesInTurn() {
		b.setTrustInTurn(h, r, keys, former, reason, b.ofKind(RenewCertificates))
	}
	b.setTrustOnWorkers(r, keys, former, reason, b.ofKind(RenewCertificates))
	b.trustOnBalancers(r, keys)
	b.publishTrust(r, keys, former)
	k := b.Seen.API.Kubeadm
	if usual := facts.SigningArguments(false); r.Authority == facts.KubernetesAuthority && k != nil && k.Arguments[facts.ControllerManager][facts.SigningCertificateFlag] == facts.SigningArguments(true)[facts.SigningCertificateFlag] {
		gone := map[string]string{}
		for name := range usual {
			gone[name] = ""
		}
		b.addInTurn(Step{Kind: StoreSettings, Detail: "signer", Title: "remove the controller manager's key file from kubeadm's configuration",
			Settings: &SettingsChange{Arguments: map[string]map[string]string{facts.ControllerManager: gone}},
			Reason:   "controller managers sign with kubeadm's files again; this is the end of the rotation"}, b.all()...)
	}
	return ""
}

func stillSigned(h spec.Host, c facts.Certificate) string {
	if c.Name == facts.EtcdClientCertificate {
		return fmt.Sprintf("%s on %s is still signed by the old key, and no host of etcd has a client certificate to copy: see `quorate certs`", c.Name, h.Name)
	}
	return fmt.Sprintf("%s on %s is still signed by the old key; who renews it does so automatically", c.Name, h.Name)
}

// waitsForClients is what has to be done before the last stage; empty if it may begin.
func waitsForClients(r cluster.Rotation, o RotateOptions) string {
	switch {
	case len(o.StaleClients) > 0:
		return restartStale(o.StaleClients, "were started before the new certificate was published, and may trust only the old one", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt again")
	case o.Drop:
		return ""
	case r.Authority == facts.KubernetesAuthority:
		return "both keys are trusted, and all that the old one still signed on the hosts is the certificates with which API servers serve. Replace what depends on it elsewhere: kubeconfigs of people and of machines (`quorate kubeconfig` writes a new one), and certificates that it signed for others. Then run the command with --yes: the old key is not trusted any more"
	}
	return "both keys are trusted, and the new one signs. If a server of an aggregated API has its own copy of front-proxy-ca.crt, replace it. Then run the command with --yes: the old key is not trusted any more"
}

// againThen ends what a rotation waits for, if workloads may go on without it.
const againThen = "Then run the command again. With --skip-workloads, it leaves those that are left as they are"

// restartStale names workloads whose pods may go on with what they read when they started: why that may be so, and what they would have to read.
func restartStale(workloads []string, why, read string) string {
	return fmt.Sprintf("these workloads %s: %s. Restart those that use the API and do not read %s, for example with `kubectl rollout restart`. %s", why, strings.Join(workloads, ", "), read, againThen)
}

// refuseDuringRotation keeps hosts from joining, and versions from changing, while an authority is being replaced: they would not get all
// of what the rotation has given to the others.
func (b *builder) refuseDuringRotation() error {
	all := b.Rotations()
	if len(all) == 0 {
		return nil
	}
	b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("the rotation of %s is not finished: %s. `quorate certs rotate %s` goes on with it", all[0].Authority.Title(), all[0].Progress(), all[0].Authority))
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f != nil && (h.IsNode() && !f.Kubernetes.KubeletConfig || b.comes(h)) {
			r := cluster.RotationUnfinished(all[0], h.Name+" is to join the cluster")
			r.Fix = fmt.Sprintf("Take %s out of the spec, and finish the rotation: `quorate certs rotate %s`.", h.Name, all[0].Authority)
			return r
		}
	}
	if b.Stage() != cluster.Foreign && b.changesVersion() {
		return cluster.RotationUnfinished(all[0], "the version is to change")
	}
	return nil
}
