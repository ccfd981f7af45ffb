package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// The rules of an adoption.
const (
	RuleDescribed  = "the spec describes the cluster"
	RuleWhole      = "a whole cluster"
	RuleBalancers  = "balancers for this endpoint alone"
	RuleOneNetwork = "one network for the pods"
	RuleWord       = "a word for an adoption"
)

// Allowed refuses to adopt a cluster without the caller's word for it, and to build one where the word was given.
func (p *Plan) Allowed(adopt bool) error {
	switch {
	case p.Adopts && !adopt:
		return &Refusal{RuleWord, "the cluster on these hosts was not built by Quorate",
			"quorate plan shows what would be changed and what stays as it is; quorate apply --adopt does it."}
	case adopt && slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == InitCluster }):
		return &Refusal{RuleWord, "there is no cluster on these hosts that could be adopted, and this would build one",
			"Name the hosts of the cluster in the spec, or leave --adopt out."}
	}
	return nil
}

// lookForOthers finds out whether the hosts carry a cluster that somebody else built, and refuses one that cannot be
// taken on safely.
func (p *builder) lookForOthers() error {
	if p.established || p.any(func(k facts.Kubernetes) bool { return k.Begun }) {
		return nil
	}
	if !p.obs.Others() {
		if p.any(func(k facts.Kubernetes) bool {
			return k.KubeletConfig && slices.Contains(k.Manifests, "kube-apiserver")
		}) {
			return &Refusal{RuleQuorum, "there are control planes on these hosts that Quorate did not build, and no kubeadm cluster answers there",
				"If the cluster is to be adopted, bring it up first. If it is of no use any more, clear the hosts: kubeadm reset."}
		}
		return nil
	}
	p.adopting, p.established, p.out.Adopts = true, true, true
	for _, check := range []func() error{p.allReachable, p.described, p.wholeForAdoption, p.balancersForAdoption, p.networkForAdoption} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (p *builder) any(is func(facts.Kubernetes) bool) bool {
	return slices.ContainsFunc(p.c.Spec.Hosts, func(h spec.Host) bool { f := p.facts(h.Name); return f != nil && is(f.Kubernetes) })
}

func (p *builder) allReachable() error {
	if len(p.out.Unreachable) == 0 {
		return nil
	}
	return &Refusal{"all hosts for an adoption", strings.Join(slices.Sorted(maps.Values(p.out.Unreachable)), "; "),
		"A cluster is adopted when all of it can be looked at: bring these hosts up, or take them out of the spec if they are no part of it."}
}

// mismatches collects in what the spec and the cluster differ.
type mismatches []string

func (m *mismatches) add(format string, args ...any) { *m = append(*m, fmt.Sprintf(format, args...)) }

// described holds everything that says which cluster this is against the spec. What Quorate could not change in a cluster
// that exists has to be the same.
func (p *builder) described() error {
	var m mismatches
	p.compareConfig(&m)
	p.compareNodes(&m)
	p.compareHosts(&m)
	if len(m) == 0 {
		return nil
	}
	return &Refusal{RuleDescribed, "this is not the cluster of the spec: " + strings.Join(m, "; "),
		"Put into the spec what the cluster has: Quorate changes none of this in a cluster that exists. If it is another cluster, take its hosts out of the spec."}
}

func (p *builder) compareConfig(m *mismatches) {
	k := p.obs.API.Kubeadm
	if k == nil {
		m.add("the ConfigMap kubeadm-config holds no ClusterConfiguration")
		return
	}
	want := hostconfig.EndpointHost(p.c) + ":" + hostconfig.EndpointPort(p.c)
	switch {
	case k.Endpoint == "":
		m.add("it was built without a controlPlaneEndpoint (kubeadm init --control-plane-endpoint): its clients know one control plane only")
	case k.Endpoint != want:
		m.add("its endpoint is %s, the spec's %s", k.Endpoint, want)
	}
	if (k.PodCIDR != "" || p.c.Spec.Network.CNI == spec.CNIFlannel) && !sameRange(k.PodCIDR, p.c.Spec.Network.PodCIDR) {
		m.add("its pods are in %s, the spec's in %s (network.podCIDR)", cmp.Or(k.PodCIDR, "no range that kubeadm knows"), p.c.Spec.Network.PodCIDR)
	}
	if !sameRange(k.ServiceCIDR, p.c.Spec.Network.ServiceCIDR) {
		m.add("its Services are in %s, the spec's in %s (network.serviceCIDR)", k.ServiceCIDR, p.c.Spec.Network.ServiceCIDR)
	}
	var should []string
	if !p.c.StackedEtcd() {
		should = slices.Clone(hostconfig.EtcdEndpoints(p.c))
	}
	have := slices.Clone(k.EtcdEndpoints)
	slices.Sort(have)
	slices.Sort(should)
	if !slices.Equal(have, should) {
		m.add("its etcd is at %s, the spec's at %s", onControlPlanes(have), onControlPlanes(should))
	}
	if e := p.obs.ExistingEtcd; e != nil && e.Error == "" {
		for _, h := range p.c.HostsWith(spec.RoleControlPlane) {
			if f := p.facts(h.Name); f.Kubernetes.EtcdCA != "" && strings.TrimSpace(f.Kubernetes.EtcdCA) != strings.TrimSpace(e.CA) {
				m.add("%s trusts another etcd CA than the spec's etcd.caFile", h.Name)
			}
		}
	}
}

func onControlPlanes(endpoints []string) string {
	return cmp.Or(strings.Join(endpoints, ", "), "the control planes (topology stacked)")
}

func sameRange(a, b string) bool {
	x, errX := netip.ParsePrefix(a)
	y, errY := netip.ParsePrefix(b)
	return errX == nil && errY == nil && x.Masked() == y.Masked()
}

// compareNodes asks of every node in the API that it is a host of the spec, at its address, in its place.
func (p *builder) compareNodes(m *mismatches) {
	for _, n := range p.obs.API.Nodes {
		h, known := p.c.Host(n.Name)
		if !known || !h.IsNode() {
			m.add("it has the node %s%s, which the spec does not name", n.Name, at(n.Address))
			continue
		}
		if n.Address != h.Address {
			m.add("its node %s is at %s, in the spec at %s", n.Name, cmp.Or(n.Address, "no address"), h.Address)
		}
		if _, controls := n.Labels[controlPlaneLabel]; controls != h.Has(spec.RoleControlPlane) {
			m.add("its node %s is %s, in the spec %s", n.Name, controlPlaneOrNot(controls), controlPlaneOrNot(!controls))
		}
		if n.Version != p.bundle.Version {
			m.add("the kubelet of %s is %s, and the spec asks for %s (kubernetes.version; an upgrade that was begun has to be finished)", n.Name, n.Version, p.bundle.Version)
		}
		for key, want := range NodeLabels(h) {
			if have, set := n.Labels[key]; set && have != want {
				m.add("its node %s has the label %s=%s, by the spec %s", n.Name, key, have, want)
			}
		}
	}
}

func at(address string) string {
	if address == "" {
		return ""
	}
	return " at " + address
}

func controlPlaneOrNot(is bool) string {
	if is {
		return "a control plane"
	}
	return "no control plane"
}

// compareHosts asks of every host that carries a part of a cluster that it is this one's. CA certificates that differ were
// refused before.
func (p *builder) compareHosts(m *mismatches) {
	for _, h := range p.c.Spec.Hosts {
		k := p.facts(h.Name).Kubernetes
		if !k.KubeletConfig || !h.IsNode() {
			continue
		}
		known := slices.ContainsFunc(p.obs.API.Nodes, func(n facts.Node) bool { return n.Name == h.Name })
		switch {
		case k.CA == "":
			m.add("%s is set up as a node and has no CA certificate in /etc/kubernetes/pki", h.Name)
		case k.NodeName != h.Name:
			m.add("%s is called %s in its cluster", h.Name, cmp.Or(k.NodeName, "nothing"))
		case !known:
			m.add("%s is set up as a node, and this cluster has none of that name", h.Name)
		}
		if runs := slices.Contains(k.Manifests, "kube-apiserver"); runs != h.Has(spec.RoleControlPlane) {
			m.add("%s runs %s, in the spec it is %s", h.Name, map[bool]string{true: "an API server", false: "no API server"}[runs], controlPlaneOrNot(!runs))
		}
	}
	for _, e := range p.obs.Etcd {
		if !p.c.ExistingEtcd() && !slices.ContainsFunc(p.c.EtcdHosts(), func(h spec.Host) bool { return h.Name == e.Name }) {
			m.add("its etcd has the member %s, for which the spec has no host", e.Name)
		}
	}
}

// wholeForAdoption leaves what is broken to those who built it: nothing must be put down to the adoption that was wrong before.
func (p *builder) wholeForAdoption() error {
	var m mismatches
	for _, n := range p.obs.API.Nodes {
		if !n.Ready {
			m.add("the node %s is not Ready", n.Name)
		}
	}
	for _, h := range p.c.HostsWith(spec.RoleControlPlane) {
		if p.facts(h.Name).Kubernetes.Flags["kube-apiserver/anonymous-auth"] == "false" {
			m.add("the API server of %s answers nobody without credentials (--anonymous-auth=false), and balancers ask for /readyz without any", h.Name)
			continue
		}
		if o := p.obs.Hosts[h.Name]; o.Facts.Kubernetes.KubeletConfig && (o.APIServer == nil || !*o.APIServer) {
			m.add("the API server of %s is not ready", h.Name)
		}
	}
	for _, e := range p.obs.Etcd {
		switch {
		case !e.Healthy:
			m.add("the etcd member %s is not healthy", e.Name)
		case e.Learner:
			m.add("the etcd member %s is a learner", e.Name)
		}
	}
	if len(p.obs.Etcd) == 0 {
		m.add("no etcd member answers")
	}
	if e := p.obs.Endpoint; !e.Reachable {
		m.add("the endpoint does not answer as this cluster's: %s", e.Error)
	}
	if len(m) == 0 {
		return nil
	}
	return &Refusal{RuleWhole, strings.Join(m, "; "), "Put this right first, then run it again: an adoption begins with a cluster that works. quorate status says more."}
}

// balancersForAdoption sees that the balancers which would be set up anew have nothing else to do, and that they are those
// behind the endpoint.
func (p *builder) balancersForAdoption() error {
	const keep = "Or leave the balancers to yourself: loadBalancer.type external, with the same address."
	if p.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return nil
	}
	var m mismatches
	holders := 0
	for _, h := range p.c.BalancerHosts() {
		b := p.obs.Hosts[h.Name].Balancer
		if b == nil {
			m.add("%s could not be asked what it balances", h.Name)
			continue
		}
		holders += p.holds(h.Name)
		if b.WrittenFor != "" && b.WrittenFor != p.c.Metadata.Name {
			m.add("%s balances for the cluster %s", h.Name, b.WrittenFor)
		}
		if b.Others != nil {
			p.judgeBalancer(&m, h, b.Others)
		}
	}
	for _, h := range p.c.HostsWith(spec.RoleControlPlane) {
		for _, pod := range []string{"haproxy", "keepalived", "kube-vip"} {
			if slices.Contains(p.facts(h.Name).Kubernetes.Manifests, pod) {
				m.add("%s runs %s as a static pod", h.Name, pod)
			}
		}
	}
	if holders == 0 {
		m.add("none of the spec's balancers has the virtual IP %s, and something answers there", p.c.Spec.LoadBalancer.Address)
	}
	if len(m) == 0 {
		return nil
	}
	return &Refusal{RuleBalancers, strings.Join(m, "; "), "Quorate's own configuration would take all of that away: move it elsewhere first. " + keep}
}

func (p *builder) judgeBalancer(m *mismatches, h spec.Host, o *facts.OthersBalancing) {
	for _, s := range o.Services {
		if !s.Statistics && s.Port() != hostconfig.EndpointPort(p.c) {
			m.add("the balancer %s also serves %s", h.Name, strings.TrimSpace(s.Name+" "+s.Bind))
		}
	}
	for _, s := range o.Servers {
		host, port, _ := strings.Cut(s, ":")
		if port != "" && port != hostconfig.APIPort || !slices.ContainsFunc(p.c.HostsWith(spec.RoleControlPlane), func(cp spec.Host) bool { return host == cp.Address || host == cp.Name }) {
			m.add("the balancer %s sends connections to %s, which is no API server of the spec", h.Name, s)
		}
	}
	for _, ip := range o.VirtualIPs {
		if ip != p.c.Spec.LoadBalancer.Address {
			m.add("the balancer %s also has the virtual IP %s", h.Name, ip)
		}
	}
}

// networkForAdoption keeps two networks for pods apart.
func (p *builder) networkForAdoption() error {
	networks := p.obs.API.Networks
	if p.c.Spec.Network.CNI != spec.CNIFlannel || p.obs.API.Applied[spec.CNIFlannel] != "" {
		return nil
	}
	why := "the pods have a network that no DaemonSet of the cluster sets up"
	for _, n := range networks {
		if !n.Flannel() {
			why = fmt.Sprintf("the pods' network is set up by %s/%s", n.Namespace, n.Name)
		}
	}
	if len(networks) == 1 && networks[0].Flannel() {
		return nil
	}
	return &Refusal{RuleOneNetwork, why + ", and the spec asks for flannel", "Put network.cni none into the spec: the network stays yours."}
}

// keepsNetwork says that the pods of an adopted cluster have a flannel that is not the bundle's. To replace it would cut
// pods off, and its image may not even be there.
func (p *builder) keepsNetwork() bool {
	if p.obs.API == nil || !p.adopting && !p.any(func(k facts.Kubernetes) bool { return k.Adopted }) {
		return false
	}
	return slices.ContainsFunc(p.obs.API.Networks, func(n facts.Network) bool {
		return n.Namespace != ownFlannel.Namespace || n.Name != ownFlannel.Name || !slices.Contains(n.Images, p.bundle.Flannel)
	})
}

// ownFlannel is the DaemonSet of the manifest that Quorate applies.
var ownFlannel = facts.Network{Namespace: "kube-flannel", Name: "kube-flannel"}

// leftAsItIs says that the host came with an adopted cluster: its programs, its runtime and its kubelet are not Quorate's.
func (p *builder) leftAsItIs(h spec.Host) bool {
	f := p.facts(h.Name)
	if f == nil {
		return false
	}
	k := f.Kubernetes
	joined := h.IsNode() && k.KubeletConfig || h.Has(spec.RoleEtcd) && k.EtcdData
	return joined && (k.Adopted || p.adopting)
}

// adopt puts the marks before everything else: a run that is killed has either adopted the cluster, and the next one goes
// on like any other, or has changed nothing.
func (p *builder) adopt() {
	if !p.adopting {
		return
	}
	p.out.Notes = p.notes()
	var marks, rest []Step
	var adopted, established []string
	for _, h := range p.c.Spec.Hosts {
		if f := p.facts(h.Name); p.leftAsItIs(h) && !f.Kubernetes.Adopted {
			s := Step{ID: h.Name + "/adopt", Kind: Configure, Host: h.Name, Title: "adopt the host",
				Reason:  "set up without Quorate, and right: its programs, containerd, kubelet, certificates and static pods stay as they are",
				Desired: &facts.Desired{Files: []facts.File{{Path: facts.AdoptedFile, Mode: 0o600, Content: p.c.Metadata.Name + "\n"}}}}
			marks, adopted = append(marks, s), append(adopted, s.ID)
		}
	}
	for _, s := range p.out.Steps {
		if strings.HasSuffix(s.ID, establishSuffix) && len(s.Needs) == 0 { // not of a host that is yet to join
			s.Needs = slices.Clone(adopted)
			marks, established = append(marks, s), append(established, s.ID)
		} else {
			rest = append(rest, s)
		}
	}
	for i := range rest {
		if len(rest[i].Needs) == 0 {
			rest[i].Needs = slices.Clone(established)
		}
	}
	p.out.Steps = append(marks, rest...)
}

// notes say what of the cluster is not as Quorate would have built it, and is not changed: each of these would restart what
// works, or needs a decision.
func (p *builder) notes() (out []string) {
	add := func(when bool, note string) {
		if when {
			out = append(out, note)
		}
	}
	cps := slices.DeleteFunc(p.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool { return !p.leftAsItIs(h) })
	lacks := func(flag string) bool {
		return slices.ContainsFunc(cps, func(h spec.Host) bool { return p.facts(h.Name).Kubernetes.Flags[flag] == "" })
	}
	anonymous := slices.ContainsFunc(cps, func(h spec.Host) bool {
		flags := p.facts(h.Name).Kubernetes.Flags
		return flags["kube-apiserver/authentication-config"] == "" && flags["kube-apiserver/anonymous-auth"] != "false"
	})
	slow := slices.ContainsFunc(cps, func(h spec.Host) bool {
		return p.facts(h.Name).Kubernetes.Flags["kube-controller-manager/node-monitor-grace-period"] != hostconfig.FastGracePeriod
	})
	add(lacks(facts.EncryptionFlag), "secrets in etcd: they are not encrypted (--encryption-provider-config of the API servers)")
	add(lacks("kube-apiserver/audit-policy-file"), "the audit log: there is none (--audit-policy-file of the API servers)")
	add(anonymous, "anonymous requests: the API servers take them for every path that RBAC allows")
	add(lacks("kube-apiserver/kubelet-certificate-authority"), "kubelets' serving certificates: the API servers do not verify them")
	add(slow && p.c.Spec.Failover.Profile == spec.ProfileFast,
		"failover: the spec says fast, and the flags and kubelets of this cluster have other timings, by which pods of a dead node wait for minutes")
	for _, n := range p.obs.API.Networks {
		add(p.c.Spec.Network.CNI != spec.CNINone && p.keepsNetwork(), fmt.Sprintf("the pods' network: %s/%s (%s)", n.Namespace, n.Name, strings.Join(n.Images, ", ")))
	}
	return out
}

// SharedPKI are the files that control planes of this cluster have in common: one that was set up without encryption at rest
// has no keys for it.
func SharedPKI(c *spec.Cluster, obs *facts.Observation) []string {
	all := hostconfig.SharedPKI(c)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		f := obs.Hosts[h.Name].Facts
		if f == nil || !slices.Contains(f.Kubernetes.Manifests, "kube-apiserver") {
			continue
		}
		if f.Kubernetes.Flags[facts.EncryptionFlag] != hostconfig.EncryptionFile {
			return slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == encryption.File })
		}
	}
	return all
}

// knownPaths refuses to join a control plane whose static pods would need files that somebody else keeps on the others.
func (p *builder) knownPaths(h spec.Host) error {
	if p.obs.API.Kubeadm == nil {
		return nil
	}
	const pki = "/etc/kubernetes/pki/"
	known := []string{"", hostconfig.APIServerDir, hostconfig.AuditLogDir, pki + facts.EtcdPKI[0], pki + facts.EtcdClientPKI[0], pki + facts.EtcdClientPKI[1]}
	own := slices.DeleteFunc(slices.Clone(p.obs.API.Kubeadm.Paths), func(path string) bool { return slices.Contains(known, path) })
	if len(own) == 0 {
		return nil
	}
	return &Refusal{"files of your own", fmt.Sprintf("%s is to join, and kubeadm's configuration of this cluster needs %s on every control plane, which only you can bring there", h.Name, strings.Join(own, ", ")),
		"Bring them to the host and join it by hand (kubeadm join --control-plane), then run it again."}
}
