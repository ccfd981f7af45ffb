package reset

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/spec"
)

// interfaces of pod networks outlive the pods; each is a pattern. Those that the kernel makes for itself, such as tunl0, cannot be
// removed.
var interfaces = []string{"cni0", "flannel.*", "flannel-v6.*", "flannel-wg*", "kube-ipvs0", "cali*", "vxlan.calico", "cilium_*", "lxc_health", "nodelocaldns"}

// tables of nftables belong to programs of the cluster as a whole.
var tables = []string{"kube-proxy", "flannel-ipv4", "flannel-ipv6", "kube-network-policies", "kube-network-policies-xt", "cni_plugins_masquerade", "cni_hostport"}

// chains in tables that others use as well (those of iptables) belong to the cluster by the beginning of their names.
var chains = []string{"KUBE-", "CNI-", "FLANNEL-", "cali-"}

// clearNetwork removes what kube-proxy, the kubelet, pod networks, and keepalived left in the kernel.
func clearNetwork(in Request) (removed []string, err error) {
	links, err := clearLinks()
	if err != nil {
		return links, err
	}
	addresses, err := clearAddresses(in.VirtualIPs)
	removed = append(links, addresses...)
	if err != nil {
		return removed, err
	}
	routes, err := clearRoutes(in.PodCIDR)
	removed = append(removed, routes...)
	if err != nil {
		return removed, err
	}
	rules, err := clearRules()
	return append(removed, rules...), err
}

// ofCluster says whether an interface was made for pods: by its name, or because it is a pod's end on such a bridge.
func ofCluster(name, master string) bool {
	return strings.HasPrefix(name, "veth") && master == "cni0" || slices.ContainsFunc(interfaces, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

func clearLinks() (removed []string, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	byIndex := map[int]string{}
	for _, l := range all {
		byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range all {
		name := l.Attrs().Name
		if !ofCluster(name, byIndex[l.Attrs().MasterIndex]) {
			continue
		}
		var missing netlink.LinkNotFoundError
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, &missing) && !errors.Is(err, unix.ENODEV) {
			return removed, fmt.Errorf("removing the interface %s: %w", name, err)
		}
		removed = append(removed, "interface "+name)
	}
	return removed, nil
}

// clearAddresses removes the virtual IP, which a keepalived that was killed leaves behind.
func clearAddresses(virtualIPs []string) (removed []string, err error) {
	if len(virtualIPs) == 0 {
		return nil, nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return removed, fmt.Errorf("listing the addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range addresses {
			if !slices.ContainsFunc(virtualIPs, func(address string) bool { return a.IP.Equal(net.ParseIP(address)) }) {
				continue
			}
			if err := netlink.AddrDel(l, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return removed, fmt.Errorf("removing the address %s: %w", a.IP, err)
			}
			removed = append(removed, "address "+a.IP.String())
		}
	}
	return removed, nil
}

// clearRoutes removes routes to the pods of other nodes: those of flannel's host-gw do not go with an interface.
func clearRoutes(podCIDR string) (removed []string, err error) {
	pods := spec.Network{PodCIDR: podCIDR}.PodCIDRs()
	if len(pods) == 0 {
		return nil, nil // the pod network is somebody else's
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Gw == nil || !slices.ContainsFunc(pods, func(p netip.Prefix) bool { return within(p, r.Dst) }) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return removed, fmt.Errorf("removing the route to %s: %w", r.Dst, err)
		}
		removed = append(removed, "route "+r.Dst.String())
	}
	return removed, nil
}

func within(network netip.Prefix, dst *net.IPNet) bool {
	address, ok := netip.AddrFromSlice(dst.IP)
	bits, _ := dst.Mask.Size()
	return ok && network.Contains(address.Unmap()) && bits > network.Bits()
}

func clearRules() (removed []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	all, err := conn.ListTables()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil, nil // a kernel without nftables
	}
	if err != nil {
		return nil, fmt.Errorf("listing tables of nftables: %w", err)
	}
	for _, t := range all {
		if slices.Contains(tables, t.Name) {
			conn.DelTable(t)
			if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
				return removed, fmt.Errorf("removing the table %s: %w", t.Name, err)
			}
			removed = append(removed, "table "+t.Name)
			continue
		}
		gone, err := clearChains(conn, t)
		removed = append(removed, gone...)
		if err != nil {
			return removed, fmt.Errorf("table %s: %w", t.Name, err)
		}
	}
	return removed, nil
}

func clusterChain(name string) bool {
	return slices.ContainsFunc(chains, func(p string) bool { return strings.HasPrefix(name, p) })
}

// clearChains removes the cluster's chains from a table that others use, and the rules that lead to them.
func clearChains(conn *nftables.Conn, t *nftables.Table) (removed []string, err error) {
	if t.Family != nftables.TableFamilyIPv4 && t.Family != nftables.TableFamilyIPv6 {
		return nil, nil
	}
	all, err := conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, err
	}
	var gone []*nftables.Chain
	for _, c := range all {
		if c.Table.Name != t.Name {
			continue
		}
		if clusterChain(c.Name) {
			gone = append(gone, c)
			conn.FlushChain(c)
			continue
		}
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if slices.ContainsFunc(r.Exprs, leadsToCluster) {
				if err := conn.DelRule(r); err != nil {
					return nil, err
				}
			}
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	for _, c := range gone {
		conn.DelChain(c)
		removed = append(removed, "chain "+t.Name+" "+c.Name)
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	idle, err := doesNothing(conn, t)
	if err == nil && idle { // it was made for these chains
		conn.DelTable(t)
		removed, err = append(removed, "table "+t.Name), conn.Flush()
	}
	return removed, err
}

// doesNothing says that a table has no rules and accepts everything.
func doesNothing(conn *nftables.Conn, t *nftables.Table) (bool, error) {
	all, err := conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if c.Table.Name != t.Name {
			continue
		}
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return false, err
		}
		if len(rules) > 0 || c.Policy != nil && *c.Policy != nftables.ChainPolicyAccept {
			return false, nil
		}
	}
	sets, err := conn.GetSets(t)
	return len(sets) == 0, err
}

func leadsToCluster(e expr.Any) bool {
	v, is := e.(*expr.Verdict)
	return is && clusterChain(v.Chain)
}
