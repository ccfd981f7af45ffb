package cluster

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/vip"
)

// Stage says whether there is a cluster on the hosts of a spec.
type Stage string

const (
	// Absent: every host was queried, and none carries any part of a cluster.
	Absent Stage = "absent"
	// Partial: Quorate began to build this cluster, and it was not complete yet.
	Partial Stage = "partial"
	// Complete: the cluster was complete once, and its API answers.
	Complete Stage = "complete"
	// Unresponsive: there is a cluster, and its API does not answer or could not be queried.
	Unresponsive Stage = "unresponsive"
	// Foreign: there is a kubeadm cluster that Quorate neither built nor adopted, and its API answers.
	Foreign Stage = "foreign"
	// Undetermined: nobody can tell, because hosts that would know could not be queried. The others carry no part of a
	// cluster, or parts of one that may have been complete.
	Undetermined Stage = "undetermined"
)

// State is a cluster as a single value: one spec and one observation, evaluated once. Make one with Evaluate.
type State struct {
	Spec *spec.Cluster
	Seen *facts.Observation

	record    *spec.Record
	recordErr error
	// present is what Present returns.
	present         *spec.Cluster
	departing       []spec.Host
	removed, listed []spec.Host
	stage           Stage
	ca              string // PEM
	placements      []quorum.Placement
	// What changes have done since the observation; only After adds to it. configured are load balancers that were
	// configured and started, cleared are hosts from which old data was removed.
	configured, cleared map[string]bool
	// withdrawn are the hosts that are in maintenance, as they were observed and as changes have made it since.
	withdrawn map[string]bool
	// pooled says of control planes whether changes have put them into the load balancers' pools or taken them out.
	pooled map[string]bool
	// restarted are the control planes whose API programs changes have restarted, with what their manifests say since.
	restarted map[string]bool
	// moved are the versions that changes have brought, by host/program.
	moved map[string]string
	// gone are the members (host/etcd) and nodes (host/kubelet) that changes have removed: what they run counts no longer.
	gone map[string]bool
}

// Evaluate derives the state from what was observed. The observation must be one of this spec.
func Evaluate(c *spec.Cluster, seen *facts.Observation) *State {
	seen = WithoutPast(seen)
	s := &State{Spec: c, Seen: seen}
	s.record, s.recordErr = s.readRecord()
	s.depart()
	s.ca = s.commonCA()
	s.stage = s.evaluateStage()
	if seen.API != nil {
		for name := range seen.API.Maintenance {
			s.withdrawn = with(s.withdrawn, name, true)
		}
	}
	s.placements = s.place()
	return s
}

// Facts are what the host reported; nil if it could not be queried.
func (s *State) Facts(host string) *facts.Facts { return s.Seen.Hosts[host].Facts }

// Reachable says whether the host could be queried.
func (s *State) Reachable(host string) bool { return s.Facts(host) != nil }

// Unreachable maps the hosts that could not be queried to the reason.
func (s *State) Unreachable() map[string]string {
	out := map[string]string{}
	for _, h := range s.Spec.Spec.Hosts {
		if !s.Reachable(h.Name) {
			out[h.Name] = s.whyUnreachable(h.Name)
		}
	}
	return out
}

func (s *State) whyUnreachable(host string) string {
	why := strings.TrimPrefix(s.Seen.Hosts[host].Error, host+": ")
	if why == "" {
		why = "it was not queried"
	}
	return why
}

// Stage says whether there is a cluster.
func (s *State) Stage() Stage { return s.stage }

// Exists says that there is a cluster that was complete once, whoever built it.
func (s *State) Exists() bool {
	return s.stage == Complete || s.stage == Unresponsive || s.stage == Foreign
}

// CA is the cluster's CA certificate in PEM; empty if no host has one. If hosts have different ones, it is that of the hosts
// that are marked as a complete cluster's, then that of most hosts, then that of the first host. Of several for one key, it is the one that
// expires last: hosts that have not got it yet have one that was renewed.
func (s *State) CA() string { return s.ca }

func (s *State) commonCA() string {
	type holders struct{ established, hosts int }
	count := map[string]holders{}
	best, text, until := "", "", time.Time{}
	for _, h := range s.present.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil || f.Kubernetes.CA == "" {
			continue
		}
		key := authorityKeys(f.Kubernetes.CA)[0]
		c, _ := s.certificateOn(h.Name, facts.ClusterCA)
		n := count[key]
		n.hosts++
		if f.Kubernetes.Established {
			n.established++
		}
		count[key] = n
		most := count[best]
		more := best == "" || cmp.Or(cmp.Compare(n.established, most.established), cmp.Compare(n.hosts, most.hosts)) > 0
		if more && key != best || key == best && c.Expires.After(until) {
			best, text, until = key, f.Kubernetes.CA, c.Expires
		}
	}
	return text
}

// SameAuthority says whether two PEM texts have certificates for the same key. While an authority is replaced, hosts trust two, and not all
// of them the same first one. While its certificate is renewed, they have different ones for the key. Comments and line ends do not count.
func SameAuthority(a, b string) bool {
	return slices.ContainsFunc(authorityKeys(a), func(key string) bool { return slices.Contains(authorityKeys(b), key) })
}

// EqualAuthorities says whether two PEM texts have the same certificates, in any order. Comments and line ends do not count.
func EqualAuthorities(a, b string) bool {
	of := func(text string) []string { return slices.Compact(slices.Sorted(slices.Values(fingerprints(text)))) }
	return slices.Equal(of(a), of(b))
}

// authorityKeys are the public keys of the certificates in a PEM text. What cannot be read stands for itself.
func authorityKeys(text string) []string {
	return digests(text, func(certificate []byte) []byte {
		if c, err := x509.ParseCertificate(certificate); err == nil {
			return c.RawSubjectPublicKeyInfo
		}
		return certificate
	})
}

// fingerprints are those of the certificates in a PEM text, or that of a text which holds none.
func fingerprints(text string) []string {
	return digests(text, func(certificate []byte) []byte { return certificate })
}

// digests are those of a part of each certificate in a PEM text, or that of a text which holds none.
func digests(text string, part func(certificate []byte) []byte) (out []string) {
	of := func(data []byte) string {
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, of(part(block.Bytes)))
		}
	}
	if len(out) == 0 {
		out = append(out, of([]byte(text)))
	}
	return out
}

// anyHost says whether a host that could be queried has the property.
func (s *State) anyHost(has func(facts.Kubernetes) bool) bool {
	return slices.ContainsFunc(s.present.Spec.Hosts, func(h spec.Host) bool {
		f := s.Facts(h.Name)
		return f != nil && has(f.Kubernetes)
	})
}

func (s *State) evaluateStage() Stage {
	api := s.Seen.API
	initialised := api != nil && api.Initialised
	established := s.anyHost(func(k facts.Kubernetes) bool { return k.Established })
	begun := s.anyHost(func(k facts.Kubernetes) bool { return k.Begun })
	runs := s.anyHost(func(k facts.Kubernetes) bool {
		return k.KubeletConfig && slices.Contains(k.Manifests, "kube-apiserver")
	})
	switch {
	case api != nil && (established || api.Verified != ""):
		return Complete
	case established:
		return Unresponsive
	case begun && initialised && s.hasStrangers():
		// The run that completed it was cut short before it could leave its marks, and others joined since.
		return Complete
	case begun && initialised:
		return Partial
	case begun && s.marksUnknown():
		// Only control planes and etcd hosts have the marks of a complete cluster. A host that was joining such a cluster, or
		// one of its workers, looks like a part of an interrupted build as long as the others cannot be queried.
		return Undetermined
	case begun:
		return Partial
	case initialised:
		return Foreign
	case runs:
		return Unresponsive
	case s.anyHost(carriesCluster) && s.marksUnknown():
		return Undetermined
	case s.anyHost(carriesCluster):
		return Partial
	case len(s.Unreachable()) > 0:
		return Undetermined
	}
	return Absent
}

// marksUnknown says that a host that would be marked in a complete cluster could not be queried.
func (s *State) marksUnknown() bool {
	return slices.ContainsFunc(s.present.Spec.Hosts, func(h spec.Host) bool {
		return (h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd)) && !s.Reachable(h.Name)
	})
}

// carriesCluster says that a host has something that only a cluster leaves there.
func carriesCluster(k facts.Kubernetes) bool {
	return k.KubeletConfig || k.EtcdData || len(k.Manifests) > 0
}

// Carries says that a host has anything of a cluster, whole or not, whoever left it there.
func (s *State) Carries(host string) bool {
	f := s.Facts(host)
	if f == nil {
		return false
	}
	k := f.Kubernetes
	return carriesCluster(k) || k.Begun || k.Established || k.Adopted || k.Resetting || k.CA != ""
}

// hasStrangers says that the API knows nodes that the spec does not.
func (s *State) hasStrangers() bool { return len(s.Strangers()) > 0 }

// Strangers are nodes of the cluster that neither the spec nor the recorded one names as nodes.
func (s *State) Strangers() (out []facts.Node) {
	if s.Seen.API == nil {
		return nil
	}
	for _, n := range s.Seen.API.Nodes {
		if h, ok := s.present.Host(n.Name); !ok || !h.IsNode() {
			out = append(out, n)
		}
	}
	return out
}

// Node finds a node in the API; nil if it is not there or the API could not be read.
func (s *State) Node(name string) *facts.Node {
	if s.Seen.API == nil {
		return nil
	}
	for i, n := range s.Seen.API.Nodes {
		if n.Name == name {
			return &s.Seen.API.Nodes[i]
		}
	}
	return nil
}

// JoinedControlPlane says that the host is a control plane of the cluster already.
func (s *State) JoinedControlPlane(host string) bool {
	f := s.Facts(host)
	return f != nil && f.Kubernetes.KubeletConfig && slices.Contains(f.Kubernetes.Manifests, "kube-apiserver")
}

// Joined says that the host carries its part of the cluster already: a node has its kubelet's identity, an etcd host its
// data, a load balancer the configuration that Quorate wrote for this cluster. It is false for a host that could not be
// queried.
func (s *State) Joined(h spec.Host) bool {
	f := s.Facts(h.Name)
	switch {
	case f == nil:
		return false
	case h.IsNode():
		return f.Kubernetes.KubeletConfig
	case h.Has(spec.RoleEtcd):
		return f.Kubernetes.EtcdData
	}
	b := s.Seen.Hosts[h.Name].Balancer
	return b != nil && (b.WrittenFor == s.Spec.Metadata.Name || b.Others != nil && b.Balances() && s.Exists())
}

// InterruptedJoin says that a run was cut short while the host joined a complete cluster as a control plane with stacked
// etcd: etcd has a member for it, and the host has no identity in the cluster yet.
func (s *State) InterruptedJoin(host string) (facts.EtcdMember, bool) {
	f := s.Facts(host)
	if s.stage != Complete || !s.Spec.StackedEtcd() || f == nil || f.Kubernetes.KubeletConfig || !f.Kubernetes.Begun {
		return facts.EtcdMember{}, false
	}
	return s.Member(host)
}

// Member finds the etcd member of a host. One of another cluster that the others do not have in their list is none.
func (s *State) Member(host string) (facts.EtcdMember, bool) {
	i := slices.IndexFunc(s.Seen.Etcd, func(m facts.EtcdMember) bool { return s.MemberHost(m) == host && !m.Stranger() })
	if i < 0 {
		return facts.EtcdMember{}, false
	}
	return s.Seen.Etcd[i], true
}

// MemberUnknown says that nobody could be asked whether etcd has a member for a host that is to have one.
func (s *State) MemberUnknown(host string) bool {
	return s.Seen.Etcd == nil && slices.Contains(Names(s.present.EtcdHosts()), host)
}

// MemberHost is the host of a member: by its name, or by its peer URL as long as it has never started and told its name.
func (s *State) MemberHost(m facts.EtcdMember) string {
	for _, h := range s.present.EtcdHosts() {
		if !m.Started && m.PeerURL == spec.PeerURL(h.Address) {
			return h.Name
		}
	}
	return m.Name
}

// component is how a program on a host answers. A program of which nothing is known is unknown.
func (s *State) component(host, name string) facts.Answer {
	seen := s.Seen.Hosts[host]
	if seen.Facts == nil {
		return facts.Answer{Unknown: s.whyUnreachable(host)}
	}
	c, ok := seen.Components[name]
	if !ok {
		return facts.Answer{Unknown: "it was not queried"}
	}
	return c.Answer
}

// podsStart is longer than a kubelet takes after its own start until the pods of its node run: it has to find the containers, or to start them, and they
// have to get ready.
const podsStart = 2 * time.Minute

// StartsPods says that the kubelet of a host was started a moment ago, as after a boot, or does not run. That a program in a pod does not work is no
// failure of that program then, and only a kubelet can start a new pod. Where nobody knows whether the kubelet runs, it is false.
func (s *State) StartsPods(host string) bool {
	f, kubelet := s.Facts(host), s.Seen.Hosts[host].Components[facts.Kubelet]
	switch {
	case f == nil:
		return false
	case kubelet.Started.IsZero():
		return kubelet.Problem != ""
	}
	return f.Time.Sub(kubelet.Started) < podsStart // the host's own clock tells both times
}

// APIServer is how the host's own API server answers.
func (s *State) APIServer(host string) facts.Answer {
	switch seen := s.Seen.Hosts[host]; {
	case seen.Facts == nil:
		return facts.Answer{Unknown: s.whyUnreachable(host)}
	case seen.APIServer == nil:
		return facts.Answer{Problem: "it was never started"}
	default:
		return *seen.APIServer
	}
}

// LoadBalancer is how the load balancer on a host answers. Serves judges whether clients can use it.
func (s *State) LoadBalancer(host string) facts.Answer {
	switch seen := s.Seen.Hosts[host]; {
	case seen.Facts == nil:
		return facts.Answer{Unknown: s.whyUnreachable(host)}
	case seen.Balancer != nil && seen.Balancer.Healthy:
		return facts.Answer{OK: true}
	case seen.Balancer != nil:
		if c := seen.Components[facts.HAProxy]; c.Problem != "" {
			return facts.Answer{Problem: c.Problem}
		}
		return facts.Answer{Problem: "HAProxy does not answer"}
	case seen.BalancerError != "":
		return facts.Answer{Unknown: seen.BalancerError}
	}
	return facts.Answer{Problem: "it was never set up"}
}

// Serves says whether the load balancer on the host could serve clients now: it works, it has a server that works, and the
// programs that move the virtual IP run.
func (s *State) Serves(host string) facts.Answer {
	a := s.LoadBalancer(host)
	if !a.OK {
		return a
	}
	b := s.Seen.Hosts[host].Balancer
	if b.Others != nil && len(b.Backends) == 0 {
		return facts.Answer{Unknown: "it was not set up by Quorate, so its servers are not known"}
	}
	if !slices.ContainsFunc(b.Backends, func(x facts.Backend) bool { return x.Healthy && !x.Drained }) {
		return facts.Answer{Problem: "none of its servers is up"}
	}
	return s.keepalived(host)
}

// keepalived is how the program answers that moves the virtual IP; as long as it was not asked, what systemd says of its unit.
func (s *State) keepalived(host string) facts.Answer {
	seen := s.Seen.Hosts[host]
	if seen.Facts == nil {
		return facts.Answer{Unknown: s.whyUnreachable(host)}
	}
	if h, _ := s.present.Host(host); h.FrontAddress != "" {
		switch lost := seen.Facts.LostFor(s.present.Endpoint().Address, h.VIPAddresses()...); lost {
		case "":
		case h.FrontAddress:
			return facts.Answer{Problem: "no interface has its frontAddress " + lost + ", so that it cannot have the virtual IP"}
		default:
			return facts.Answer{Problem: "no interface has its address " + lost + ", so that it cannot have the virtual IP"}
		}
	}
	c, asked := seen.Components[facts.Keepalived]
	if asked && c.Known() {
		return c.Answer
	}
	const unit = "keepalived.service"
	if state := seen.Facts.Units[unit]; state != "" && state != "active" {
		return facts.Answer{Problem: unit + " is " + state}
	} else if asked && state == "" {
		return c.Answer
	}
	return facts.Answer{OK: true}
}

// Holders are the hosts of the spec that have the virtual IP, and unknown those load balancers of which nobody can tell.
func (s *State) Holders() (holders, unknown []string) {
	answers := s.answersForVirtualIP()
	for _, h := range slices.Concat(s.present.Spec.Hosts, s.removed) {
		seen := s.Seen.Hosts[h.Name]
		switch {
		case seen.Facts != nil && (seen.Balancer != nil && seen.Balancer.Active || s.hasAddress(seen.Facts)):
			holders = append(holders, h.Name)
		case seen.Facts == nil && slices.ContainsFunc(answers, func(a vip.Holder) bool { return a.Host == h.Name }):
			holders = append(holders, h.Name) // it cannot be asked, and it answers for the address all the same
		case s.present.Balances(h) && (seen.Facts == nil || seen.Balancer == nil && seen.BalancerError != ""):
			unknown = append(unknown, h.Name)
		}
	}
	return holders, unknown
}

// VirtualIPs are the addresses that load balancers may have: one, or several while the endpoint changes.
func (s *State) VirtualIPs() (out []string) {
	if s.Spec.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return nil
	}
	add := func(address string) {
		if address != "" && !slices.Contains(out, address) {
			out = append(out, address)
		}
	}
	add(s.present.Endpoint().Address)
	add(s.Spec.Endpoint().Address)
	for _, e := range s.FormerEndpoints() {
		add(e.Address)
	}
	for _, h := range slices.Concat(s.present.Spec.Hosts, s.removed) {
		seen := s.Seen.Hosts[h.Name].Balancer
		if seen == nil || seen.WrittenFor != s.Spec.Metadata.Name {
			continue
		}
		for _, text := range seen.Endpoints {
			if e, err := hostconfig.ParseServed(text); err == nil {
				add(e.Address)
			}
		}
	}
	return out
}

// HeldBy are those of the virtual IPs that a host has, as far as it can be queried.
func (s *State) HeldBy(host string) []string {
	f := s.Facts(host)
	return slices.DeleteFunc(s.VirtualIPs(), func(address string) bool {
		if f == nil {
			return true
		}
		_, has := f.Interface(address)
		b := s.Seen.Hosts[host].Balancer
		return !has && !(b != nil && b.Active && address == s.present.Endpoint().Address)
	})
}

// Holds says that the host has a virtual IP, that of the endpoint or another one while the endpoint changes.
func (s *State) Holds(host string) bool {
	holders, _ := s.Holders()
	return slices.Contains(holders, host) || len(s.HeldBy(host)) > 0
}

// answersForVirtualIP are the machines that answer for the virtual IP in the networks of the load balancers.
func (s *State) answersForVirtualIP() []vip.Holder {
	return vip.Holders(s.present, s.Seen, s.virtualIPAnswers())
}

func (s *State) virtualIPAnswers() map[string]facts.AddressHolders {
	out := map[string]facts.AddressHolders{}
	for name, seen := range s.Seen.Hosts {
		if seen.VirtualIP != nil && seen.VirtualIP.Unknown == "" {
			out[name] = *seen.VirtualIP
		}
	}
	return out
}

// StrangersWithVirtualIP are machines outside the spec that have the virtual IP, such as a load balancer that left the spec and
// was never stopped, or another cluster's. As long as no host of the spec is known to have it, a machine of unknown identity
// may be a load balancer of the spec that cannot be asked, and nothing is claimed.
func (s *State) StrangersWithVirtualIP() []vip.Holder {
	strangers := slices.DeleteFunc(s.answersForVirtualIP(), func(h vip.Holder) bool { return h.Host != "" })
	if holders, _ := s.Holders(); len(holders) > 0 {
		return strangers
	}
	known := vip.Names(s.present, s.Seen, s.virtualIPAnswers())
	unidentified := slices.DeleteFunc(s.present.BalancerHosts(), func(h spec.Host) bool {
		return slices.Contains(slices.Collect(maps.Values(known)), h.Name)
	})
	if len(strangers) <= len(unidentified) {
		return nil
	}
	return strangers
}

// hasAddress says that one of the host's interfaces has the virtual IP, whether or not the host is a load balancer.
func (s *State) hasAddress(f *facts.Facts) bool {
	if s.Spec.Spec.LoadBalancer.Type != spec.BalancerManaged || s.present.Spec.LoadBalancer.Address == "" {
		return false
	}
	_, has := f.Interface(s.present.Spec.LoadBalancer.Address)
	return has
}

// Endpoint is how the endpoint answers requests from the hosts: it is OK if it answers any of them, and unknown if nobody could ask.
func (s *State) Endpoint() facts.Answer {
	e := s.Seen.Endpoint
	if len(e.Hosts) == 0 {
		why := e.Unknown
		if why == "" {
			why = "no host could query it"
		}
		return facts.Answer{Unknown: why}
	}
	var problem, unknown string
	for _, h := range s.present.Spec.Hosts {
		a, asked := e.Hosts[h.Name]
		switch {
		case !asked:
		case a.OK:
			return a
		case a.Known() && problem == "":
			problem = a.Problem
		case !a.Known() && unknown == "":
			unknown = a.Unknown
		}
	}
	if problem == "" {
		return facts.Answer{Unknown: unknown}
	}
	return facts.Answer{Problem: problem}
}

// Margins are how many more failures of each kind the cluster survives now. What could not be queried counts as failed, and so does a member of
// etcd that is far behind. A replica of CoreDNS that is being restarted counts as one that works.
func (s *State) Margins() quorum.Margins {
	m := quorum.Survives(s.keepingUp(Change{}).placements)
	if m.LoadBalancers == nil && s.managed() {
		m.LoadBalancers = new(-1) // there is none yet
	}
	return m
}

// Placements say which parts run on which hosts, and in which condition they are.
func (s *State) Placements() []quorum.Placement { return slices.Clone(s.placements) }

func (s *State) place() (out []quorum.Placement) {
	if s.stage == Absent {
		return nil
	}
	member, resolving := s.memberStates(), s.resolving()
	for _, h := range s.present.Spec.Hosts {
		p := quorum.Placement{Host: h.Name, Zone: h.Zone, Member: member[h.Name]}
		delete(member, h.Name)
		if h.Has(spec.RoleControlPlane) && (s.wasControlPlane(h.Name) || !s.Reachable(h.Name) || s.stage == Partial) {
			p.APIServer = partState(s.APIServer(h.Name))
			p.ControllerManager = partState(s.component(h.Name, facts.ControllerManager))
			p.Scheduler = partState(s.component(h.Name, facts.Scheduler))
		}
		if s.present.Balances(h) {
			p.Balancer = min(partState(s.LoadBalancer(h.Name)), partState(s.keepalived(h.Name)))
		}
		if h.Has(spec.RoleWorker) {
			p.Worker = s.worker(h.Name)
		}
		if slices.Contains(resolving, h.Name) {
			p.DNS = quorum.Up
		}
		if ServesAbandoned(s.present, s.Seen, h.Name) { // it may serve, but not this cluster
			p.APIServer, p.ControllerManager, p.Scheduler = quorum.Down, quorum.Down, quorum.Down
		}
		if s.withdrawn[h.Name] {
			p = withdraw(p)
		}
		out = append(out, p)
	}
	for _, m := range s.Seen.Etcd { // members that the spec does not name vote all the same
		if state, left := member[s.MemberHost(m)]; left {
			out = append(out, quorum.Placement{Host: s.MemberHost(m), Member: state})
		}
	}
	for _, node := range resolving {
		if !slices.ContainsFunc(out, func(p quorum.Placement) bool { return p.Host == node }) {
			out = append(out, quorum.Placement{Host: node, DNS: quorum.Up})
		}
	}
	return out
}

// resolving are the nodes whose replicas of CoreDNS count. Where different zones are only a wish for them, none does: the scheduler would not bring
// back the margin after the first zone was lost, and neither would Quorate.
func (s *State) resolving() (out []string) {
	if s.Seen.API == nil || !s.Spec.DNSInZones() {
		return nil
	}
	for _, name := range s.Seen.API.DNSOn {
		if n := s.Node(name); n != nil && n.Ready {
			out = append(out, name)
		}
	}
	return out
}

// dnsZone is the zone in which all replicas of CoreDNS are that count; empty if they are in more than one, or if none counts.
func (s *State) dnsZone() (zone string) {
	for _, p := range s.placements {
		switch {
		case p.DNS == quorum.Absent:
		case p.Zone == "" || zone != "" && p.Zone != zone:
			return ""
		default:
			zone = p.Zone
		}
	}
	return zone
}

// worker is the condition of a node as a place for workloads.
func (s *State) worker(host string) quorum.State {
	switch n := s.Node(host); {
	case s.Seen.API == nil:
		return quorum.Unknown
	case n == nil:
		return quorum.Absent // it has not joined yet
	case n.Ready && !n.Unschedulable:
		return quorum.Up
	}
	return quorum.Down
}

// withdraw marks what works on a host that is in maintenance.
func withdraw(p quorum.Placement) quorum.Placement {
	for _, part := range quorum.Parts {
		if *part(&p) == quorum.Up {
			*part(&p) = quorum.Withdrawn
		}
	}
	return p
}

// Maintenance is what the cluster remembers of a host that is in maintenance.
func (s *State) Maintenance(host string) (facts.Maintenance, bool) {
	if s.Seen.API == nil {
		return facts.Maintenance{}, false
	}
	m, in := s.Seen.API.Maintenance[host]
	return m, in
}

// NotesMaintenance says that a host itself notes that it is in maintenance, while the API cannot be read.
func (s *State) NotesMaintenance(host string) bool {
	f := s.Facts(host)
	return s.Seen.API == nil && f != nil && f.Kubernetes.Maintenance != nil
}

// InMaintenance are the hosts that are in maintenance, in the spec's order. None is known while the API cannot be read.
func (s *State) InMaintenance() (out []string) {
	for _, h := range s.present.Spec.Hosts {
		if _, in := s.Maintenance(h.Name); in {
			out = append(out, h.Name)
		}
	}
	return out
}

// leaving says that the host is in maintenance, or will be when the changes so far have been made.
func (s *State) leaving(host string) bool { return s.withdrawn[host] }

// memberStates maps the name of every etcd member to its condition. When no member could be asked, the members that the
// spec expects are unknown.
func (s *State) memberStates() map[string]quorum.State {
	out := map[string]quorum.State{}
	for _, m := range s.Seen.Etcd {
		switch {
		case m.Stranger():
		case m.Learner:
			out[s.MemberHost(m)] = quorum.Learner
		case m.Healthy:
			out[s.MemberHost(m)] = quorum.Up
		case m.Unknown != "":
			out[s.MemberHost(m)] = quorum.Unknown
		default:
			out[s.MemberHost(m)] = quorum.Down
		}
	}
	if s.Seen.Etcd == nil {
		for _, h := range s.present.EtcdHosts() {
			if f := s.Facts(h.Name); f == nil || f.Kubernetes.EtcdData || s.stage != Partial {
				out[h.Name] = quorum.Unknown
			}
		}
	}
	return out
}

func partState(a facts.Answer) quorum.State {
	switch {
	case a.OK:
		return quorum.Up
	case !a.Known():
		return quorum.Unknown
	}
	return quorum.Down
}
