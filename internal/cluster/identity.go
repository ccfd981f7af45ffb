package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// IDs of the rules that say which cluster this is.
const (
	RuleOneCluster   = "one-cluster"        // all hosts belong to the cluster of the spec
	RuleOneEtcd      = "one-etcd"           // all etcd members belong to one etcd
	RuleFixed        = "fixed-field"        // what cannot be changed in a cluster that exists is as it was built
	RuleDescribed    = "described"          // the spec matches the cluster that it adopts
	RuleNewerRecord  = "newer-record"       // the cluster was last changed by a quorate that this one understands
	RuleBalancersOf  = "own-load-balancers" // the load balancers serve no other cluster
	controlPlaneNode = "node-role.kubernetes.io/control-plane"
)

// fixForeignHost is what to do with a host that belongs to another cluster.
func fixForeignHost() string {
	return "Take the host out of the spec. Or clear it, with the spec of its own cluster: `quorate reset`. If Quorate did not build that cluster: " + facts.HowToClear() + "."
}

// Conflicts are the reasons why these hosts cannot be one cluster: some belong to another one. They stand in the way of
// every change.
func (s *State) Conflicts() (out []*Refusal) {
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil {
			continue
		}
		k := f.Kubernetes
		for _, name := range k.Clusters {
			if name != s.Spec.Metadata.Name {
				out = append(out, &Refusal{Rule: RuleOneCluster, Subjects: []string{h.Name}, Why: fmt.Sprintf("%s is marked as a host of the cluster %s, but this is the spec of %s", h.Name, name, s.Spec.Metadata.Name), Fix: fixForeignHost()})
			}
		}
		if b := s.Seen.Hosts[h.Name].Balancer; b != nil && s.Spec.Balances(h) && b.WrittenFor != "" && b.WrittenFor != s.Spec.Metadata.Name {
			out = append(out, &Refusal{Rule: RuleBalancersOf, Subjects: []string{h.Name}, Why: fmt.Sprintf("%s is a load balancer of the cluster %s; configuring it for %s would take that cluster's endpoint away", h.Name, b.WrittenFor, s.Spec.Metadata.Name),
				Fix: "Use other hosts as load balancers. If nobody needs that cluster, reset the host with its spec (`quorate reset`)."})
		}
		if k.CA != "" && !SameAuthority(s.ca, k.CA) {
			owner := s.hostWithCA()
			out = append(out, &Refusal{Rule: RuleOneCluster, Subjects: []string{h.Name}, Why: fmt.Sprintf("%s and %s belong to different clusters: their CA certificates differ", owner, h.Name), Fix: fixForeignHost()})
		}
	}
	if !s.Spec.ExistingEtcd() {
		out = append(out, s.etcdCAs()...)
	}
	return out
}

// hostWithCA is the first host that has the cluster's CA certificate.
func (s *State) hostWithCA() string {
	i := slices.IndexFunc(s.Spec.Spec.Hosts, func(h spec.Host) bool {
		f := s.Facts(h.Name)
		return f != nil && f.Kubernetes.CA != "" && SameAuthority(f.Kubernetes.CA, s.ca)
	})
	if i < 0 {
		return ""
	}
	return s.Spec.Spec.Hosts[i].Name
}

func (s *State) etcdCAs() (out []*Refusal) {
	owner, ca := "", ""
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil || f.Kubernetes.EtcdCA == "" || !h.Has(spec.RoleEtcd) && !h.Has(spec.RoleControlPlane) {
			continue
		}
		if ca != "" && !SameAuthority(ca, f.Kubernetes.EtcdCA) {
			out = append(out, &Refusal{Rule: RuleOneEtcd, Subjects: []string{h.Name}, Why: fmt.Sprintf("%s and %s belong to different etcds: their etcd CA certificates differ", owner, h.Name), Fix: fixForeignHost()})
			continue
		}
		owner, ca = h.Name, f.Kubernetes.EtcdCA
	}
	return out
}

// Record is the spec by which the cluster was last built or changed, as the cluster itself has it; nil if it has none. It must not
// be modified.
func (s *State) Record() (*spec.Record, error) { return s.record, s.recordErr }

func (s *State) readRecord() (*spec.Record, error) {
	text := s.Seen.LastRecord
	if s.Seen.API != nil {
		text = s.Seen.API.Record
	}
	if text == "" {
		return nil, nil
	}
	return spec.ParseRecord([]byte(text))
}

// Edits are the differences between the spec and the one that the cluster recorded; none if it recorded none.
func (s *State) Edits() ([]spec.Edit, error) {
	r, err := s.Record()
	if r == nil || err != nil {
		return nil, err
	}
	return r.Compare(s.Spec), nil
}

// Difference is something in which the cluster that exists differs from the spec, and that cannot be changed in a cluster
// that exists.
type Difference struct {
	// What is the difference: what the cluster has and what the spec says.
	What string
	// How is how to make the change, or to do without it.
	How string
	// extra says that it is a node or an etcd member that the spec does not name.
	extra bool
}

const fixDescribe = "Change the spec to match the cluster."

// Fixed refuses a spec that asks for something that cannot be changed in the cluster that exists; nil if there is no such
// thing. It compares with the recorded spec, and with the cluster itself: with kubeadm's configuration, with the nodes, with
// what the hosts run, and with etcd's members.
func (s *State) Fixed() *Refusal {
	differences, r := s.fixed()
	if r != nil || len(differences) == 0 {
		return r
	}
	var why, how []string
	for _, d := range differences {
		why, how = append(why, d.What), append(how, cmp.Or(d.How, fixDescribe))
	}
	slices.Sort(how)
	return &Refusal{Rule: RuleFixed, Why: "this cannot be changed in an existing cluster: " + strings.Join(why, "; "), Fix: strings.Join(slices.Compact(how), "\n")}
}

// fixed lists what Fixed refuses, or refuses to compare.
func (s *State) fixed() (out []Difference, _ *Refusal) {
	edits, err := s.Edits()
	if err != nil {
		return nil, &Refusal{Rule: RuleNewerRecord, Why: err.Error(), Fix: "Use the version of quorate that changed the cluster last, or a newer one."}
	}
	strangers := s.Strangers()
	for _, e := range edits {
		if e.Meaning == spec.Fixed {
			extra := e.Kind == spec.Removed && slices.ContainsFunc(strangers, func(n facts.Node) bool { return n.Name == e.Host })
			out = append(out, Difference{What: e.String(), How: e.How, extra: extra})
		}
	}
	if len(out) == 0 { // otherwise the same differences would be named twice
		out = s.Differences()
	}
	return out, nil
}

// OtherMachines refuses an operation on hosts while the spec has them at other machines than the cluster: what is done to a host through the API, by its
// name, and what is done on its machine would be done to two of them. It is nil if no host was renamed, and none has another address.
func (s *State) OtherMachines() *Refusal {
	why, fix, on := s.otherMachines()
	if len(why) == 0 {
		return nil
	}
	return &Refusal{Rule: RuleFixed, Subjects: on, Why: whyOtherMachines(why), Fix: strings.Join(slices.Compact(fix), "\n")}
}

func whyOtherMachines(why []string) string {
	return "the spec has hosts at other machines than the cluster: " + strings.Join(why, "; ")
}

// otherMachines are the differences, what to do about each of them, and the hosts.
func (s *State) otherMachines() (why, fix, on []string) {
	edits, err := s.Edits()
	if err != nil {
		return nil, nil, nil // nothing can be compared; apply says why
	}
	for _, e := range edits {
		if e.Meaning == spec.Fixed && e.Host != "" && (e.Kind == spec.Added || e.Path == "spec.hosts["+e.Host+"].address") {
			why, fix, on = append(why, e.String()), append(fix, e.How), append(on, e.Host)
		}
	}
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil && f.Kubernetes.NodeName != "" && f.Kubernetes.NodeName != h.Name && !slices.Contains(on, h.Name) {
			why, on = append(why, fmt.Sprintf("the machine at %s, which is %s in the spec, is called %s in its cluster", h.Address, h.Name, f.Kubernetes.NodeName)), append(on, h.Name)
			fix = append(fix, "Give each host in the spec the address that it has in the cluster.")
		}
	}
	return why, fix, on
}

// Differences compares everything that says which cluster this is with the spec, by what was observed.
func (s *State) Differences() []Difference {
	if s.Seen.API == nil {
		return nil
	}
	d := &differences{State: s}
	d.config()
	d.nodes()
	d.hosts()
	d.etcd()
	return d.out
}

type differences struct {
	*State
	out []Difference
}

func (d *differences) add(how, format string, args ...any) {
	d.out = append(d.out, Difference{What: fmt.Sprintf(format, args...), How: how})
}

func (d *differences) config() {
	k := d.Seen.API.Kubeadm
	if k == nil {
		if d.Seen.API.Initialised {
			d.add("", "the ConfigMap kubeadm-config contains no ClusterConfiguration")
		}
		return
	}
	network := d.Spec.Spec.Network
	want := d.Spec.Endpoint().HostPort()
	switch {
	case k.Endpoint == "":
		d.add("", "it was built without a controlPlaneEndpoint (kubeadm init --control-plane-endpoint): its clients know one control plane only")
	case k.Endpoint != want && !slices.ContainsFunc(d.FormerEndpoints(), func(e spec.Endpoint) bool { return e.HostPort() == k.Endpoint }):
		limit := ""
		if _, err := netip.ParseAddrPort(k.Endpoint); err == nil && d.stage == Foreign {
			limit = ". A cluster that was built on an address cannot be adopted, because an endpoint has to be a name, and kubeadm cannot change it in a running cluster"
		}
		d.add("", "the cluster's endpoint is %s, but the spec says %s (controlPlane.endpoint)%s", k.Endpoint, want, limit)
	}
	if (k.PodCIDR != "" || network.CNI == spec.CNIFlannel) && !sameRange(k.PodCIDR, network.PodCIDR) {
		d.add("", "the cluster's pods are in %s, but the spec says %s (network.podCIDR)", cmp.Or(k.PodCIDR, "no range that kubeadm knows"), network.PodCIDR)
	}
	if !sameRange(k.ServiceCIDR, network.ServiceCIDR) {
		d.add("", "the cluster's Services are in %s, but the spec says %s (network.serviceCIDR)", k.ServiceCIDR, network.ServiceCIDR)
	}
	var should []string
	if !d.Spec.StackedEtcd() {
		should = slices.Sorted(slices.Values(hostconfig.EtcdEndpoints(d.Spec)))
	}
	have := slices.Sorted(slices.Values(k.EtcdEndpoints))
	// The members of an etcd that Quorate manages may change, but not all of them in one edit.
	changing := d.Spec.ManagedEtcd() && d.stage != Foreign && slices.ContainsFunc(have, func(e string) bool { return slices.Contains(hostconfig.EtcdEndpoints(d.present), e) })
	if !slices.Equal(have, should) && !changing {
		how := ""
		switch {
		case len(have) == 0:
			how = fixTopology(spec.TopologyStacked)
		case len(should) == 0:
			how = fixTopology(spec.TopologyExternal)
		}
		d.add(how, "the cluster's etcd is at %s, but the spec's is at %s", onControlPlanes(have), onControlPlanes(should))
	}
	if e := d.Seen.ExistingEtcd; e != nil && e.Error == "" {
		for _, h := range d.Spec.HostsWith(spec.RoleControlPlane) {
			if f := d.Facts(h.Name); f != nil && f.Kubernetes.EtcdCA != "" && f.Kubernetes.KubeletConfig && !SameAuthority(f.Kubernetes.EtcdCA, e.CA) && d.stage == Foreign {
				d.add("", "%s trusts a different etcd CA than the spec's etcd.caFile", h.Name)
			}
		}
	}
}

// fixTopology is what to do about another topology than the one that the cluster has.
func fixTopology(has string) string {
	return "Put `topology: " + has + "` back into the spec. To change the topology, see changing-hosts.md."
}

func onControlPlanes(endpoints []string) string {
	return cmp.Or(strings.Join(endpoints, ", "), "the control planes (topology stacked)")
}

func sameRange(a, b string) bool {
	one, other := strings.Split(a, ","), strings.Split(b, ",")
	return slices.EqualFunc(one, other, func(a, b string) bool {
		x, errX := netip.ParsePrefix(strings.TrimSpace(a))
		y, errY := netip.ParsePrefix(strings.TrimSpace(b))
		return errX == nil && errY == nil && x.Masked() == y.Masked()
	})
}

// nodes expects that every node in the API is a host of the spec, at its address, in its role.
func (d *differences) nodes() {
	for _, n := range d.Seen.API.Nodes {
		h, known := d.present.Host(n.Name)
		if !known || !h.IsNode() {
			how := "Neither your spec nor the one that the cluster has recorded has it, so Quorate does not remove it. Add it to the spec, or remove it by hand: `kubectl drain " + n.Name + " --ignore-daemonsets`, `kubeadm reset` on the host, `kubectl delete node " + n.Name + "`."
			d.add(how, "the cluster has the node %s%s, which is not in the spec", n.Name, after(" at ", n.Address))
			d.out[len(d.out)-1].extra = true
			continue
		}
		if n.Address != "" && n.Address != h.Address {
			d.add("", "the node %s is at %s, but in the spec at %s", n.Name, n.Address, h.Address)
		}
		// A node without an address is not registered completely yet. A cluster of one family uses no other addresses.
		if n.Address != "" && h.SecondaryAddress != "" && n.SecondaryAddress != h.SecondaryAddress {
			d.add("", "the node %s has %s, but in the spec the secondary address %s", n.Name, cmp.Or(after("the secondary address ", n.SecondaryAddress), "only one address"), h.SecondaryAddress)
		}
		if _, controls := n.Labels[controlPlaneNode]; controls && !h.Has(spec.RoleControlPlane) {
			d.add("", "the node %s is a control plane, but not in the spec", n.Name)
		}
		if d.stage != Foreign {
			continue
		}
		if _, controls := n.Labels[controlPlaneNode]; !controls && h.Has(spec.RoleControlPlane) {
			d.add("", "the node %s is not a control plane, but it is in the spec", n.Name)
		}
		labels := map[string]string{"topology.kubernetes.io/zone": h.Zone}
		if h.Region != "" {
			labels["topology.kubernetes.io/region"] = h.Region
		}
		for key, want := range labels {
			if have, set := n.Labels[key]; set && have != want {
				d.add("", "the node %s has the label %s=%s, but the spec says %s", n.Name, key, have, want)
			}
		}
	}
}

// hosts expects that every host that carries a part of a cluster has its role in this one.
func (d *differences) hosts() {
	for _, h := range d.Spec.Spec.Hosts {
		f := d.Facts(h.Name)
		if f == nil {
			continue
		}
		k := f.Kubernetes
		retires := d.stage == Complete && d.present.Balances(h) // apply stops it
		if !d.Spec.Balances(h) && !retires && f.Units[hostconfig.WatchdogUnit] == "active" {
			d.add("Give it the role back. Or, when other load balancers or one of your own can take over, stop it there: `systemctl disable --now keepalived haproxy "+hostconfig.WatchdogUnit+"`.",
				"%s is still a load balancer of this cluster, but no longer in the spec: it would contend for the virtual IP", h.Name)
		}
		if h.Has(spec.RoleControlPlane) && d.Spec.Balances(h) && hostconfig.SharesAPIPort(d.Spec) && k.KubeletConfig && slices.Contains(k.Manifests, "kube-apiserver") && !k.SharesPort && d.stage != Foreign &&
			(d.stage != Complete || k.Adopted) { // otherwise apply restarts it with that setting
			d.add("Use separate hosts for the role load-balancer. Or let the API servers share the port first: add permit-port-sharing=true to apiServer.extraArgs in the ConfigMap kubeadm-config, and "+
				"--permit-port-sharing=true to /etc/kubernetes/manifests/kube-apiserver.yaml on one control plane at a time; wait each time until `quorate status` is healthy.",
				"kube-apiserver on %s was not set up to share port %s with HAProxy, which could not start next to it", h.Name, hostconfig.APIPort)
		}
		if !k.KubeletConfig || !h.IsNode() {
			continue
		}
		known := slices.ContainsFunc(d.Seen.API.Nodes, func(n facts.Node) bool { return n.Name == h.Name })
		switch {
		case k.CA == "":
			d.add("", "%s is set up as a node, but has no CA certificate in /etc/kubernetes/pki", h.Name)
		case k.NodeName != "" && k.NodeName != h.Name:
			limit := ""
			if d.stage == Foreign && strings.HasPrefix(k.NodeName, h.Name+".") {
				limit = ". Nodes with dots in their names cannot be adopted: first have it leave, and join again with `kubeadm join --node-name " + h.Name + "`"
			}
			d.add("", "%s is called %s in its cluster%s", h.Name, k.NodeName, limit)
		case !known && d.stage == Foreign:
			d.add("", "%s is set up as a node, but this cluster has no node with that name", h.Name)
		}
		runs := slices.ContainsFunc(controlPlanePrograms, func(pod string) bool { return slices.Contains(k.Manifests, pod) })
		switch {
		case runs && !h.Has(spec.RoleControlPlane):
			d.add(roleHow(h.Name), "%s is a control plane, but not in the spec", h.Name)
		case !d.wasControlPlane(h.Name) && h.Has(spec.RoleControlPlane) && d.stage != Partial:
			d.add(roleHow(h.Name), "%s joined the cluster as a worker, but is a control plane in the spec", h.Name)
		}
	}
}

func roleHow(host string) string {
	return "The role of a joined host cannot be changed. Put the role back into the spec. Or, with the old role in the spec, have it leave the cluster (`quorate reset " + host + "`), and then change the role and run `quorate apply`."
}

func (d *differences) etcd() {
	if d.Spec.ExistingEtcd() {
		return
	}
	for _, h := range d.Spec.HostsWith(spec.RoleControlPlane) {
		f := d.Facts(h.Name)
		if f == nil || !f.Kubernetes.KubeletConfig || len(f.Kubernetes.Manifests) == 0 || d.stage == Partial {
			continue
		}
		if stacked := slices.Contains(f.Kubernetes.Manifests, "etcd"); stacked && !d.Spec.StackedEtcd() {
			d.add(fixTopology(spec.TopologyStacked), "the cluster's etcd is stacked, as %s shows, but the spec says external (controlPlane.topology)", h.Name)
			return
		}
	}
	for _, m := range d.Seen.Etcd {
		if name := d.MemberHost(m); !slices.ContainsFunc(d.present.EtcdHosts(), func(h spec.Host) bool { return h.Name == name }) {
			d.add("Neither your spec nor the one that the cluster has recorded has such a host, so Quorate does not remove the member. Add its host to the spec, or remove the member by hand: `etcdctl member remove "+m.ID+"`.", "etcd has the member %s, for which the spec has no host", cmp.Or(name, m.PeerURL))
			d.out[len(d.out)-1].extra = true
		}
	}
}
