// Package existing describes a running cluster that was built with kubeadm as a spec, and names what of it could not be found out and what
// stands in the way of its adoption. It is pure: what it describes was observed before.
package existing

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
	"k8s.io/apimachinery/pkg/util/validation"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// Given is what the caller says about a cluster.
type Given struct {
	// Login is the control plane through which the cluster is read, as the caller named it.
	Login string
	// SSH is how hosts are reached that do not say so themselves.
	SSH spec.SSH
	// Hosts add to what the cluster says of the nodes with their names. Those with other names are part of the cluster beside its nodes: load
	// balancers and etcd hosts.
	Hosts []spec.Host
	// Zones are given in turn to the nodes of each role that have no label with their zone.
	Zones []string
	// Options are what flags say. They count where they say something.
	Options spec.InitOptions
}

// Description is what a spec of the cluster says.
type Description struct {
	Options spec.InitOptions
	// Notes name what could not be found out, what cannot be adopted as it is, and what to do about each of them.
	Notes []string
}

// Names of labels and taints that the roles and the zone of a node follow from.
const (
	roleDomain   = "node-role.kubernetes.io/"
	controlPlane = roleDomain + "control-plane"
)

// Outline is as much of a spec as it takes to read the whole cluster, from what its API says. Hosts have the names of their nodes.
func Outline(api *facts.API, g Given) *spec.Cluster {
	c := &spec.Cluster{APIVersion: spec.APIVersion, Kind: spec.Kind}
	s := &c.Spec
	s.ControlPlane.Endpoint, s.ControlPlane.Topology = endpointOf(api), spec.TopologyStacked
	s.LoadBalancer.Type = spec.BalancerManaged // as long as nobody knows, every host is asked that could balance
	given := slices.Clone(g.Hosts)
	// Nodes may also have addresses of a family that the cluster does not use.
	dual := api.Kubeadm != nil && len(spec.Network{PodCIDR: api.Kubeadm.PodCIDR}.Families()) == 2
	var workers []spec.Host
	for _, n := range api.Nodes {
		h := spec.Host{Name: n.Name, Address: n.Address, Roles: rolesOf(n), Zone: n.Labels[plan.ZoneLabel], Region: n.Labels[plan.RegionLabel]}
		if dual {
			h.SecondaryAddress = n.SecondaryAddress
		}
		given = slices.DeleteFunc(given, func(more spec.Host) bool {
			if more.Name != n.Name && more.Name != short(n.Name) {
				return false
			}
			h = adding(h, more)
			return true
		})
		if h.Has(spec.RoleControlPlane) {
			s.Hosts = append(s.Hosts, h)
		} else {
			workers = append(workers, h)
		}
	}
	s.Hosts = slices.Concat(s.Hosts, workers, given)
	for i := range s.Hosts {
		s.Hosts[i].SSH = s.Hosts[i].SSH.Or(g.SSH)
	}
	if k := api.Kubeadm; k != nil && len(k.EtcdEndpoints) > 0 {
		s.ControlPlane.Topology = spec.TopologyExternal
		if len(c.HostsWith(spec.RoleEtcd)) == 0 {
			s.Etcd = etcdOf(k, g.Options.Etcd)
		}
	}
	return c
}

// endpointOf is where the cluster says that its API is.
func endpointOf(api *facts.API) string {
	if api.Kubeadm != nil && api.Kubeadm.Endpoint != "" {
		return api.Kubeadm.Endpoint
	}
	for _, name := range slices.Sorted(maps.Keys(api.Servers)) {
		if u, err := url.Parse(api.Servers[name]); err == nil && u.Host != "" {
			return u.Host
		}
	}
	return ""
}

func rolesOf(n facts.Node) []string {
	if _, controls := n.Labels[controlPlane]; !controls {
		return []string{spec.RoleWorker}
	}
	if slices.ContainsFunc(n.Taints, func(t facts.Taint) bool { return t.Key == controlPlane && t.Effect != "PreferNoSchedule" }) {
		return []string{spec.RoleControlPlane}
	}
	return []string{spec.RoleControlPlane, spec.RoleWorker}
}

// adding is a host with what the caller says of it.
func adding(h, more spec.Host) spec.Host {
	h.Address, h.SecondaryAddress = cmp.Or(more.Address, h.Address), cmp.Or(more.SecondaryAddress, h.SecondaryAddress)
	h.Zone, h.Region = cmp.Or(more.Zone, h.Zone), cmp.Or(more.Region, h.Region)
	for _, role := range more.Roles {
		if !h.Has(role) {
			h.Roles = append(h.Roles, role)
		}
	}
	h.FrontAddress, h.FailsWith, h.SSH = more.FrontAddress, more.FailsWith, more.SSH
	return h
}

// etcdOf is an etcd that the cluster uses and that is on none of its hosts, as far as kubeadm's configuration and the flags say.
func etcdOf(k *facts.Kubeadm, flags spec.Etcd) spec.Etcd {
	e := spec.Etcd{Endpoints: k.EtcdEndpoints, CAFile: cmp.Or(flags.CAFile, "etcd/ca.crt"), CertFile: cmp.Or(flags.CertFile, "etcd/client.crt"), KeyFile: cmp.Or(flags.KeyFile, "etcd/client.key")}
	if len(flags.Endpoints) > 0 {
		e.Endpoints = flags.Endpoints
	}
	return e
}

// short is the part of a name before the first dot.
func short(name string) string {
	name, _, _ = strings.Cut(name, ".")
	return name
}

// Describe writes down the cluster of an outline, from what was observed of it.
func Describe(c *spec.Cluster, obs *facts.Observation, g Given) Description {
	d := &describer{c: c, obs: obs, api: obs.API, g: g, names: map[string]string{}}
	o := &d.out.Options
	o.Topology, o.Etcd, o.Endpoint, o.Version = c.Spec.ControlPlane.Topology, c.Spec.Etcd, c.Spec.ControlPlane.Endpoint, d.api.Version
	d.whose()
	d.endpoint()
	d.hosts()
	d.unreachable()
	d.programs()
	d.network()
	d.etcd()
	d.balancers()
	d.zones()
	d.pools()
	d.settings()
	flags := g.Options
	flags.Etcd = spec.Etcd{} // which are in the outline already
	d.out.Options = d.out.Options.Over(flags)
	if d.out.Options.Name == "" && d.api.Kubeadm != nil {
		d.out.Options.Name = d.api.Kubeadm.Cluster
	}
	d.out.Notes = append(d.obstacles, d.out.Notes...)
	return d.out
}

type describer struct {
	c         *spec.Cluster
	obs       *facts.Observation
	api       *facts.API
	g         Given
	out       Description
	obstacles []string
	// names are those in the spec, by the names of the nodes.
	names map[string]string
}

func (d *describer) note(format string, args ...any) {
	d.out.Notes = append(d.out.Notes, fmt.Sprintf(format, args...))
}

// obstacle notes what keeps the cluster from being adopted.
func (d *describer) obstacle(format string, args ...any) {
	d.obstacles = append(d.obstacles, "Cannot be adopted as it is: "+fmt.Sprintf(format, args...))
}

func (d *describer) facts(host string) *facts.Facts { return d.obs.Hosts[host].Facts }

func (d *describer) controlPlanes() []spec.Host { return d.c.HostsWith(spec.RoleControlPlane) }

// where returns the control planes for which f holds, by name.
func (d *describer) where(f func(facts.Kubernetes) bool) (out []string) {
	for _, h := range d.controlPlanes() {
		if seen := d.facts(h.Name); seen != nil && f(seen.Kubernetes) {
			out = append(out, h.Name)
		}
	}
	return out
}

func (d *describer) whose() {
	if d.api.Record != "" {
		d.note("This cluster is managed by Quorate already, and has recorded the spec by which it was last changed. This file contains only what can be seen from outside. `quorate plan` compares it with the record.")
	}
}

func (d *describer) endpoint() {
	endpoint := d.out.Options.Endpoint
	host := endpoint
	if u, err := url.Parse("//" + endpoint); err == nil {
		host = u.Hostname()
	}
	_, notAddress := netip.ParseAddr(host)
	switch {
	case d.api.Kubeadm.Endpoint == "":
		d.obstacle("it was built without a controlPlaneEndpoint, so its clients know one control plane only. Build a new cluster with an endpoint, or follow kubeadm's documentation to give it one: a name in apiServer.certSANs, new API server certificates, the name in the ConfigMap kubeadm-config, and in every kubeconfig.")
	case notAddress == nil:
		d.obstacle("its endpoint is the address %s, and an endpoint has to be a name, because certificates and kubeconfigs contain it, and only a name can be moved. kubeadm cannot change the endpoint of a running cluster.", host)
	}
}

func (d *describer) hosts() {
	used := map[string]int{}
	for _, h := range d.c.Spec.Hosts {
		used[short(h.Name)]++
	}
	var dotted []string
	for _, h := range d.c.Spec.Hosts {
		name := h.Name
		if own := short(name); own != name && used[own] == 1 {
			name = own
		}
		if name != h.Name || strings.Contains(name, ".") {
			dotted = append(dotted, h.Name)
		}
		d.names[h.Name] = name
		h.Name = name
		d.out.Options.Hosts = append(d.out.Options.Hosts, h)
		if h.Address == "" {
			d.note("The address of %s is not known: its node has no InternalIP. Write it into the spec.", name)
		}
	}
	if len(dotted) > 0 {
		d.obstacle("the names of these nodes contain dots: %s. The spec has their short names where these differ. Each of them has to leave the cluster and join again with `kubeadm join --node-name` and its short name.", list(dotted))
	}
	regions := map[string]int{}
	for _, h := range d.out.Options.Hosts {
		if h.IsNode() {
			regions[h.Region]++
		}
	}
	if len(regions) != 1 {
		return
	}
	d.out.Options.Region = slices.Collect(maps.Keys(regions))[0]
	for i := range d.out.Options.Hosts {
		if d.out.Options.Hosts[i].Region == d.out.Options.Region {
			d.out.Options.Hosts[i].Region = ""
		}
	}
}

func (d *describer) unreachable() {
	for _, h := range d.c.Spec.Hosts {
		if why := d.obs.Hosts[h.Name].Error; why != "" {
			d.note("%s could not be reached from here: %s. It is in the spec all the same, but a cluster is adopted only if all of it can be examined. If this machine reaches the host elsewhere, such as at a gateway with a port for each host, set ssh.address and ssh.port. If it cannot reach the hosts directly, use a jump host (--ssh-jump, ssh.jump in the spec), such as %s.",
				d.names[h.Name], strings.TrimPrefix(why, h.Name+": "), d.g.Login)
		}
	}
}

// programs looks at versions, the container runtime, and what runs differently than Quorate can manage.
func (d *describer) programs() {
	if o := &d.out.Options; len(d.g.Options.Versions) > 0 && !slices.Contains(d.g.Options.Versions, o.Version) &&
		slices.ContainsFunc(d.g.Options.Versions, func(v string) bool { return semver.MajorMinor(v) == semver.MajorMinor(o.Version) }) {
		o.Source = spec.SourceOfficial
		d.note("Quorate can compile %s, and not %s. So the spec says `components: {source: official}`: its bundle is downloaded from the projects. On a machine that does not reach them, use mirror, or a bundle that was exported elsewhere.",
			list(d.g.Options.Versions), o.Version)
	}
	other := map[string][]string{}
	runtimes := map[string][]string{}
	for _, n := range d.api.Nodes {
		if n.Version != d.api.Version {
			other[n.Version] = append(other[n.Version], n.Name)
		}
		if name, _, _ := strings.Cut(n.Runtime, "://"); name != facts.Containerd && name != "" {
			runtimes[n.Runtime] = append(runtimes[n.Runtime], n.Name)
		}
	}
	for _, v := range slices.Sorted(maps.Keys(other)) {
		d.obstacle("the API is %s, but the kubelet of %s is %s. Finish the upgrade that was started (`kubeadm upgrade`).", d.api.Version, list(other[v]), v)
	}
	for _, r := range slices.Sorted(maps.Keys(runtimes)) {
		d.obstacle("%s uses %s, and Quorate manages only containerd. Replace the runtime on one host after the other, as the Kubernetes documentation describes.", list(runtimes[r]), r)
	}
	if closed := d.where(func(k facts.Kubernetes) bool { return k.Flags["kube-apiserver/anonymous-auth"] == "false" }); len(closed) > 0 {
		d.obstacle("the API server of %s rejects requests without credentials (--anonymous-auth=false), but load balancers check /readyz without any. Allow anonymous requests for /livez, /readyz and /healthz (--authentication-config), on every control plane.", list(closed))
	}
	port := func(k facts.Kubernetes) string {
		return cmp.Or(k.Arguments[facts.APIServer]["secure-port"], hostconfig.APIPort)
	}
	if moved := d.where(func(k facts.Kubernetes) bool { return port(k) != hostconfig.APIPort }); len(moved) > 0 {
		d.obstacle("the API server of %s listens on another port than %s (--secure-port).", list(moved), hostconfig.APIPort)
	}
}

func (d *describer) network() {
	o, k := &d.out.Options, d.api.Kubeadm
	o.PodCIDR, o.ServiceCIDR = k.PodCIDR, k.ServiceCIDR
	var names []string
	for _, n := range d.api.Networks {
		names = append(names, n.Namespace+"/"+n.Name)
	}
	_, applied := d.api.Applied[manifest.Flannel]
	switch {
	case len(names) == 0 && applied: // Quorate's own
		o.CNI = spec.CNIFlannel
	case len(d.api.Networks) == 1 && d.api.Networks[0].Flannel():
		o.CNI = spec.CNIFlannel
	case len(names) == 0 && d.api.Applied[manifest.CNI] != "":
		o.CNI = spec.CNINone
		d.note("Quorate installed the pod network from your files or your chart, which the cluster does not name. The spec says `cni: none`: write network.cni, and the files or the chart, as in the spec that it was built with.")
	case len(names) == 0:
		o.CNI = spec.CNINone
		d.note("No DaemonSet sets up a pod network, so the spec says `cni: none`: the network stays yours.")
	default:
		o.CNI = spec.CNINone
		d.note("The pod network is set up by %s, which Quorate does not manage, so the spec says `cni: none`: it stays yours.", list(names))
	}
	if k.PodCIDR == "" {
		if o.CNI == spec.CNIFlannel {
			d.obstacle("kubeadm's configuration has no range of pods (networking.podSubnet), which flannel needs. Add it to the ConfigMap kubeadm-config as flannel has it, and --cluster-cidr to the controller managers.")
		} else {
			d.note("kubeadm's configuration has no range of pods. Write the one that your pod network uses into network.podCIDR; the spec has the default.")
		}
	}
	if k.ServiceCIDR == "" {
		d.note("kubeadm's configuration has no range of Services. Write the one that the API servers have (--service-cluster-ip-range) into network.serviceCIDR; the spec has the default.")
	}
}

func (d *describer) etcd() {
	k := d.api.Kubeadm
	switch {
	case d.c.ExistingEtcd():
		d.note("etcd is at %s, and on no host of the spec: Quorate leaves it alone. Put copies of the files that kubeadm's configuration names (etcd.external: caFile, certFile, keyFile) on this machine, where the spec says, readable only by you. "+
			"If its hosts are yours to manage with Quorate, name them instead: --host name=etcd-a,address=…,role=etcd,zone=a.", list(k.EtcdEndpoints))
		return
	case d.c.ManagedEtcd():
		for _, endpoint := range k.EtcdEndpoints {
			u, err := url.Parse(endpoint)
			if err != nil || !slices.ContainsFunc(d.c.EtcdHosts(), func(h spec.Host) bool { return u.Hostname() == h.Address || u.Hostname() == h.Name }) {
				d.obstacle("the cluster uses the etcd at %s, which is on no host with the role etcd. Name it: --host name=…,address=…,role=etcd,zone=…", endpoint)
			}
		}
	}
	if d.obs.EtcdError != "" {
		d.note("etcd could not be asked for its members: %s.", d.obs.EtcdError)
	}
	for _, m := range d.obs.Etcd {
		at := m.PeerURL
		if u, err := url.Parse(m.PeerURL); err == nil {
			at = u.Hostname()
		}
		if !slices.ContainsFunc(d.c.EtcdHosts(), func(h spec.Host) bool { return h.Address == at || h.Name == at || h.Name == m.Name }) {
			d.obstacle("etcd has the member %s at %s, on no host of the cluster. If it is gone for good, remove it: `etcdctl member remove %s`.", cmp.Or(m.Name, "without a name"), m.PeerURL, m.ID)
		}
		if m.Learner {
			d.obstacle("the member %s of etcd is a learner. Promote it (`etcdctl member promote %s`), or remove it.", cmp.Or(m.Name, m.PeerURL), m.ID)
		}
	}
}

// balancers finds out what is between the endpoint and the API servers.
func (d *describer) balancers() {
	o := &d.out.Options
	var static []string
	for _, pod := range []string{"haproxy", "keepalived", "kube-vip"} {
		if len(d.where(func(k facts.Kubernetes) bool { return slices.Contains(k.Manifests, pod) })) > 0 {
			static = append(static, pod)
		}
	}
	var vips, silent, unseen []string
	found := len(d.c.HostsWith(spec.RoleLoadBalancer)) > 0
	for _, h := range d.c.BalancerHosts() {
		seen := d.obs.Hosts[h.Name]
		switch b := seen.Balancer; {
		case b.Balances():
			found = true
			if b.Others != nil {
				vips = append(vips, b.Others.VirtualIPs...)
			}
		case b == nil && h.Has(spec.RoleLoadBalancer):
			silent = append(silent, d.names[h.Name])
		case b == nil && (seen.Facts == nil || seen.BalancerError != ""):
			unseen = append(unseen, d.names[h.Name])
		}
	}
	slices.Sort(vips)
	vips = slices.Compact(vips)
	switch {
	case len(static) > 0:
		o.Balancer = spec.BalancerExternal
		d.note("The control planes run %s as static pods. Quorate does not manage these, so loadBalancer.type is external: they stay yours.", list(static))
	case found:
		o.Balancer = spec.BalancerManaged
		if d.g.Options.Balancer != spec.BalancerExternal {
			d.note("Quorate would manage the load balancers on %s: on adoption, they get its HAProxy and keepalived, one at a time. If they are to stay yours, use loadBalancer.type external (--balancer external).",
				list(d.balancerNames()))
		}
	default:
		o.Balancer = spec.BalancerExternal
		if len(unseen) > 0 {
			d.note("It is unknown whether load balancers run on %s. loadBalancer.type is fixed, so find out before you adopt the cluster.", list(unseen))
		}
		d.note("No load balancer was found on the hosts of the cluster, so loadBalancer.type is external: it stays yours, and the name of the endpoint must resolve through DNS everywhere. " +
			"If it has a fixed address, write that into loadBalancer.address. If it is HAProxy with keepalived on hosts that Quorate is to manage, name them: --host name=lb-a,address=…,role=load-balancer,zone=a.")
	}
	switch {
	case len(vips) == 1:
		o.VirtualIP = vips[0]
	case len(vips) > 1 && d.g.Options.VirtualIP == "":
		d.note("The load balancers have several virtual IPs: %s. Write the one that the endpoint's name resolves to into loadBalancer.address.", list(vips))
	case o.Balancer == spec.BalancerManaged && d.g.Options.VirtualIP == "":
		why := ""
		if len(silent) > 0 {
			why = ", because nothing is known of " + list(silent)
		}
		d.note("The virtual IP of the load balancers could not be found out%s. Write it into loadBalancer.address (--virtual-ip).", why)
	}
}

func (d *describer) balancerNames() (out []string) {
	for _, h := range d.c.BalancerHosts() {
		out = append(out, d.names[h.Name])
	}
	return out
}

// zones gives each node without a zone one.
func (d *describer) zones() {
	hosts := d.out.Options.Hosts
	var without []string
	known := false
	for _, h := range hosts {
		switch {
		case h.IsNode() && h.Zone == "":
			without = append(without, h.Name)
		case h.IsNode():
			known = true
		}
	}
	if len(without) == 0 {
		return
	}
	dealt := map[string]int{}
	for i := range hosts {
		h := &hosts[i]
		if h.Zone != "" || !h.IsNode() {
			continue
		}
		switch role := h.Roles[0]; {
		case len(d.g.Zones) > 0:
			h.Zone = d.g.Zones[dealt[role]%len(d.g.Zones)]
			dealt[role]++
		case !known:
			h.Zone = "a"
		}
	}
	const what = "These nodes have no label " + plan.ZoneLabel + ": %s. "
	switch {
	case len(d.g.Zones) > 0:
		d.note(what+"Their zones were assigned in turn, as --zones says. Check them: they become the label, and every decision about failures rests on them.", list(without))
	case known:
		d.note(what+"Write their zones into the spec: which hosts fail together is not visible from here.", list(without))
	default:
		d.note(what+"Which hosts fail together is not visible from here, so the spec has all of them in one zone, which claims nothing. Write the zones into the spec (or use --zones, or --host name=…,zone=…), and `placement: regional` if they are three or more.", list(without))
	}
}

// pools are workers with the same labels and taints, as far as these are the operator's.
func (d *describer) pools() {
	type group struct {
		labels map[string]string
		taints []spec.Taint
		hosts  []string
	}
	var groups []*group
	for _, n := range d.api.Nodes {
		i := slices.IndexFunc(d.c.Spec.Hosts, func(h spec.Host) bool { return h.Name == n.Name })
		labels, taints := keptLabels(n), keptTaints(n)
		if i < 0 || len(labels)+len(taints) == 0 {
			continue
		}
		if !d.c.Spec.Hosts[i].Has(spec.RoleWorker) {
			var keys []string
			for _, t := range taints {
				keys = append(keys, t.Key)
			}
			d.note("The control plane %s has labels or taints for which the spec has no field; they stay: %s.", d.names[n.Name], list(slices.Concat(slices.Sorted(maps.Keys(labels)), keys)))
			continue
		}
		g := slices.IndexFunc(groups, func(g *group) bool { return maps.Equal(g.labels, labels) && slices.Equal(g.taints, taints) })
		if g < 0 {
			g = len(groups)
			groups = append(groups, &group{labels: labels, taints: taints})
		}
		groups[g].hosts = append(groups[g].hosts, d.names[n.Name])
	}
	used := map[string]bool{}
	for i, g := range groups {
		name := fmt.Sprintf("pool-%d", i+1)
		for _, key := range slices.Sorted(maps.Keys(g.labels)) {
			if v := g.labels[key]; len(validation.IsDNS1123Label(v)) == 0 && !used[v] && v != "true" && v != "false" {
				name = v
				break
			}
		}
		used[name] = true
		d.out.Options.NodePools = append(d.out.Options.NodePools, spec.NodePool{Name: name, Hosts: g.hosts, Labels: g.labels, Taints: g.taints})
	}
	if len(groups) > 0 {
		d.note("The node pools are the workers that have the same labels and taints, apart from those of Kubernetes and of cloud providers. Rename, join, or remove them as you like: adoption adds the label %s, and nothing else is changed on nodes that have these already.", plan.PoolLabel)
	}
}

// keptLabels are the labels of a node that somebody gave it who operates the cluster.
func keptLabels(n facts.Node) map[string]string {
	out := maps.Clone(n.Labels)
	maps.DeleteFunc(out, func(key, value string) bool {
		domain, _, prefixed := strings.Cut(key, "/")
		switch {
		case value == n.Name || value == short(n.Name): // different on each node
			return true
		case !prefixed:
			return false
		case key == controlPlane || key == roleDomain+"master":
			return true
		case domain+"/" == roleDomain || domain == "node-restriction.kubernetes.io" || strings.HasSuffix(domain, ".node-restriction.kubernetes.io"):
			return false
		}
		return within(domain, "kubernetes.io") || within(domain, "k8s.io") || within(domain, "quorate.dev") || strings.Contains(domain, ".csi.")
	})
	return out
}

// keptTaints are the taints of a node that are not about its role or its condition.
func keptTaints(n facts.Node) (out []spec.Taint) {
	for _, t := range n.Taints {
		domain, _, prefixed := strings.Cut(t.Key, "/")
		if prefixed && (domain+"/" == roleDomain || within(domain, "node.kubernetes.io") || within(domain, "node.cloudprovider.kubernetes.io")) {
			continue
		}
		out = append(out, spec.Taint{Key: t.Key, Value: t.Value, Effect: t.Effect})
	}
	slices.SortFunc(out, func(a, b spec.Taint) int { return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Effect, b.Effect)) })
	return out
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

// settings names what kubeadm's configuration has beyond what the spec describes.
func (d *describer) settings() {
	k := d.api.Kubeadm
	for _, program := range slices.Sorted(maps.Keys(k.Arguments)) {
		d.note("kubeadm's configuration has arguments for %s: %s. They stay, and control planes that join get them. The spec does not have them: put those that Quorate is to manage into settings (see docs/settings.md).",
			program, list(slices.Sorted(maps.Keys(k.Arguments[program]))))
	}
	if own := plan.OwnFiles(k); len(own) > 0 {
		d.note("The static pods of the control planes need files that only you have: %s. Copy them to a control plane before it joins, and join it by hand (`kubeadm join --control-plane`).", list(own))
	}
	if k.DNSDomain != "" && k.DNSDomain != "cluster.local" {
		d.note("The domain of the cluster's DNS is %s. The spec has no field for it, and it stays: nodes that join get it from the kubelets' configuration in the cluster.", k.DNSDomain)
	}
}

// list writes names one after the other: all of them, because what is not named cannot be corrected.
func list(names []string) string { return strings.Join(names, ", ") }
