package preflight

import (
	"slices"
	"strconv"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Up to meshAll nodes every node tries every other; beyond, each tries meshSome of them.
const meshAll, meshSome = 16, 12

// flannelPort is where VXLAN packets go.
const flannelPort = 8472

func endpointPort(c *spec.Cluster) int {
	port, err := strconv.Atoi(hostconfig.EndpointPort(c))
	if err != nil {
		return 6443
	}
	return port
}

// sharesPort says whether HAProxy and kube-apiserver share a port on the host, and so one path to it.
func sharesPort(c *spec.Cluster, h spec.Host) bool {
	return h.Has(spec.RoleControlPlane) && hostconfig.SharesAPIPort(c)
}

// Uses of paths between all nodes.
const (
	podPackets  = "pods"
	nodeMetrics = "node metrics"
)

type inlet struct {
	port  int
	proto string
	use   string
	from  func(spec.Host) bool
	// at is the address of a host in the network that is used; nil for its address as a node.
	at func(spec.Host) string
}

func (in inlet) address(h spec.Host) string {
	if in.at == nil {
		return h.Address
	}
	return in.at(h)
}

// inbound is what other hosts will open connections to on a host, and which of them. The state knows which addresses hosts use for the packets of pods and for the virtual IP;
// without it, they are those that the spec names.
func inbound(c *spec.Cluster, h spec.Host, s *cluster.State) []inlet {
	podTraffic, vipAddress := spec.Host.Addresses, spec.Host.VIPAddress
	if s != nil {
		podTraffic, vipAddress = s.PodTrafficAddresses, s.VIPAddress
	}
	cp := func(o spec.Host) bool { return o.Has(spec.RoleControlPlane) }
	member := func(o spec.Host) bool { return hasMember(c, o) }
	var out []inlet
	if cp(h) {
		out = append(out, inlet{6443, facts.TCP, "API", func(o spec.Host) bool { return o.IsNode() || c.Balances(o) }, nil})
	}
	if cp(h) && c.Spec.Monitoring.Exporter { // Prometheus may run on any node
		out = append(out, inlet{spec.ExporterPort, facts.TCP, "metrics", spec.Host.IsNode, nil})
	}
	if member(h) {
		out = append(out, inlet{2379, facts.TCP, "etcd clients", func(o spec.Host) bool { return member(o) || cp(o) }, nil},
			inlet{2380, facts.TCP, "etcd members", member, nil})
	}
	if h.IsNode() {
		out = append(out, inlet{10250, facts.TCP, "kubelet", cp, nil})
		if c.InstallsPrometheus() {
			out = append(out, inlet{10250, facts.TCP, nodeMetrics, func(o spec.Host) bool { return o.IsNode() && !cp(o) }, nil},
				inlet{spec.NodeExporterPort, facts.TCP, nodeMetrics, spec.Host.IsNode, nil})
		}
		if c.Spec.Network.CNI == spec.CNIFlannel {
			for family := range podTraffic(h) { // flannel sends the packets of each family over that family
				at := func(o spec.Host) string {
					if all := podTraffic(o); family < len(all) {
						return all[family]
					}
					return ""
				}
				out = append(out, inlet{flannelPort, facts.UDP, podPackets, spec.Host.IsNode, at})
			}
		}
	}
	if c.Balances(h) {
		out = append(out, inlet{0, facts.VRRP, "virtual IP", c.Balances, vipAddress})
		if !sharesPort(c, h) || vipAddress(h) != h.Address {
			out = append(out, inlet{endpointPort(c), facts.TCP, "endpoint", spec.Host.IsNode, vipAddress})
		}
	}
	return out
}

// Paths are the network paths between hosts that are tried, each once; with names, only those from or to these hosts. Their number grows with the number of hosts, not with its
// square: control planes, etcd members and load balancers are few, and of the paths between nodes a sample is tried.
func Paths(c *spec.Cluster, only []string, s *cluster.State) []facts.Path {
	var out []facts.Path
	wanted := func(h spec.Host) bool { return only == nil || slices.Contains(only, h.Name) }
	near := neighbours(c)
	for _, to := range c.Spec.Hosts {
		for _, in := range inbound(c, to, s) {
			for _, from := range c.Spec.Hosts {
				if from.Name == to.Name || !wanted(from) && !wanted(to) || !in.from(from) || (in.use == podPackets || in.use == nodeMetrics) && !near[[2]string{from.Name, to.Name}] {
					continue
				}
				if in.address(to) == "" || in.address(from) == "" { // one that is not known, which is a finding of its own
					continue
				}
				out = append(out, facts.Path{From: from.Name, To: to.Name, Address: in.address(to), Proto: in.proto, Port: in.port, For: in.use})
			}
		}
	}
	return out
}

// neighbours are the pairs of nodes between which pod traffic is tried: every node as often in either role.
func neighbours(c *spec.Cluster) map[[2]string]bool {
	var nodes []string
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			nodes = append(nodes, h.Name)
		}
	}
	n := len(nodes)
	var offsets []int
	for i := 1; i < n; i++ {
		offsets = append(offsets, i)
	}
	if n > meshAll {
		offsets = nil
		for i := range meshSome {
			offsets = append(offsets, 1+i*(n-1)/meshSome)
		}
	}
	pairs := map[[2]string]bool{}
	for i, from := range nodes {
		for _, o := range offsets {
			pairs[[2]string{from, nodes[(i+o)%n]}] = true
		}
	}
	return pairs
}

// Listener is what a host has to listen on at one of its addresses so that the paths to it can be tried.
type Listener struct {
	Address  string
	TCP, UDP []int
	VRRP     bool
}

// BalancerListener is that of a host of the cluster that becomes a load balancer.
func BalancerListener(c *spec.Cluster, h spec.Host, s *cluster.State) Listener {
	l := Listener{Address: s.VIPAddress(h), VRRP: true}
	if !sharesPort(c, h) {
		l.TCP = []int{endpointPort(c)}
	}
	return l
}

// Listeners are those of a host that is not yet a part of the cluster.
func Listeners(c *spec.Cluster, h spec.Host, s *cluster.State) (out []Listener) {
	for _, in := range inbound(c, h, s) {
		address := in.address(h)
		if address == "" {
			continue
		}
		i := slices.IndexFunc(out, func(l Listener) bool { return l.Address == address })
		if i < 0 {
			i, out = len(out), append(out, Listener{Address: address})
		}
		switch l := &out[i]; in.proto {
		case facts.TCP:
			l.TCP = append(l.TCP, in.port)
		case facts.UDP:
			l.UDP = append(l.UDP, in.port)
		case facts.VRRP:
			l.VRRP = true
		}
	}
	return out
}
