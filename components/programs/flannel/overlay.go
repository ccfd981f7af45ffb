package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"components.quorate.dev/flannel/health"
)

// leaseBook keeps the leases that flannel's backend is told of.
type leaseBook struct {
	subnet.Manager

	mu     sync.Mutex
	leases map[string]knownLease // by leaseKey
}

// leaseKey tells leases apart. A lease of an IPv6 cluster has no IPv4 subnet, and the other way round.
func leaseKey(l lease.Lease) string { return l.Subnet.String() + " " + l.IPv6Subnet.String() }

type knownLease struct {
	lease.Lease
	since time.Time
}

// WatchLeases notes each change before the backend acts on it.
func (b *leaseBook) WatchLeases(ctx context.Context, receiver chan []lease.LeaseWatchResult) error {
	inner := make(chan []lease.LeaseWatchResult)
	ended := make(chan error, 1)
	go func() { ended <- b.Manager.WatchLeases(ctx, inner) }()
	defer close(receiver)
	for results := range inner {
		for _, r := range results {
			b.note(r.Events)
		}
		receiver <- results
	}
	return <-ended
}

func (b *leaseBook) note(events []lease.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.leases == nil {
		b.leases = map[string]knownLease{}
	}
	for _, e := range events {
		if e.Type == lease.EventRemoved {
			delete(b.leases, leaseKey(e.Lease))
			continue
		}
		b.leases[leaseKey(e.Lease)] = knownLease{e.Lease, time.Now()}
	}
}

// settled are the leases that the backend has had its time to act on.
func (b *leaseBook) settled() (out []lease.Lease) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.leases {
		if time.Since(l.since) >= settling {
			out = append(out, l.Lease)
		}
	}
	slices.SortFunc(out, func(a, b lease.Lease) int {
		return cmp.Or(cmp.Compare(a.Subnet.IP, b.Subnet.IP), strings.Compare(leaseKey(a), leaseKey(b)))
	})
	return out
}

// settling is how long the backend may take to act on a change of a lease. It tries each of its calls several times.
const settling = 10 * time.Second

// ipFamily is what the families of the pod network differ in.
type ipFamily struct {
	netlink   int    // its number, for addresses, routes, neighbors, and tables of nftables
	links     string // how the backend names interfaces, before their VNI
	neighbors string // the protocol that finds them
	overhead  int    // what VXLAN adds to a packet
	// of flannel's annotations on nodes, without its prefix
	annotation string
	addressLen int // in bytes
}

var (
	ipv4Family = ipFamily{netlink.FAMILY_V4, "flannel.", "ARP", 50, "/public-ip", 4}
	ipv6Family = ipFamily{netlink.FAMILY_V6, "flannel-v6.", "neighbor discovery", 70, "/public-ipv6", 16}
)

// familiesOf are those of the pod network.
func familiesOf(config *subnet.Config) (out []ipFamily) {
	if config.EnableIPv4 {
		out = append(out, ipv4Family)
	}
	if config.EnableIPv6 {
		out = append(out, ipv6Family)
	}
	return out
}

func (f ipFamily) String() string {
	if f == ipv6Family {
		return "IPv6"
	}
	return "IPv4"
}

func (f ipFamily) of(a netip.Addr) bool { return a.BitLen() == 8*f.addressLen }

// leasePart is what a lease says about one family.
type leasePart struct {
	subnet *net.IPNet
	public net.IP
	data   json.RawMessage // of the backend
}

// part returns what a lease says about the family, and whether it says anything.
func (f ipFamily) part(l lease.Lease) (leasePart, bool) {
	if f == ipv4Family {
		return leasePart{l.Subnet.ToIPNet(), l.Attrs.PublicIP.ToIP(), l.Attrs.BackendData}, !l.Subnet.Empty()
	}
	if l.IPv6Subnet.Empty() || l.Attrs.PublicIPv6 == nil {
		return leasePart{}, false
	}
	return leasePart{l.IPv6Subnet.ToIPNet(), l.Attrs.PublicIPv6.ToIP(), l.Attrs.BackendV6Data}, true
}

// overlay is the VXLAN backend's part of the kernel's configuration, for one family.
type overlay struct {
	family  ipFamily
	leases  *leaseBook
	name    string // of the interface
	mac     net.HardwareAddr
	address *net.IPNet
	own     *net.IPNet
	direct  bool // whether nodes in the same network are reached without the overlay

	index atomic.Uint32 // of the interface; 0: there is none
	// recreate makes the interface again. Nil means that the backend does that.
	recreate func() error
}

// vxlanData is what the backend stores in a lease.
type vxlanData struct {
	VNI     uint32
	VtepMAC string
}

func (p leasePart) vxlan() (vni uint32, mac net.HardwareAddr, err error) {
	var d vxlanData
	if err := json.Unmarshal(p.data, &d); err != nil {
		return 0, nil, fmt.Errorf("read the VXLAN data of the lease of %s: %w", p.subnet, err)
	}
	mac, err = net.ParseMAC(d.VtepMAC)
	return d.VNI, mac, err
}

func newOverlay(family ipFamily, config *subnet.Config, own lease.Lease, leases *leaseBook) (*overlay, error) {
	var c struct{ DirectRouting bool }
	if len(config.Backend) > 0 {
		if err := json.Unmarshal(config.Backend, &c); err != nil {
			return nil, fmt.Errorf("read the configuration of the VXLAN backend: %w", err)
		}
	}
	part, ok := family.part(own)
	if !ok {
		return nil, fmt.Errorf("this node's lease has no subnet or address for the overlay %s<VNI>", family.links)
	}
	vni, mac, err := part.vxlan()
	if err != nil {
		return nil, err
	}
	o := &overlay{
		family: family, leases: leases, name: fmt.Sprintf("%s%d", family.links, vni), mac: mac, own: part.subnet, direct: c.DirectRouting,
		address: &net.IPNet{IP: part.subnet.IP, Mask: net.CIDRMask(8*family.addressLen, 8*family.addressLen)},
	}
	if family == ipv6Family {
		// The backend follows only the interface of IPv4.
		o.recreate, err = recreation(o.name)
	}
	return o, err
}

// recreation remembers how an interface is configured, and returns what makes it again. It gets the same index, because that is how
// the backend knows it.
func recreation(name string) (func() error, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	vxlan, ok := link.(*netlink.Vxlan)
	if !ok {
		return nil, fmt.Errorf("%s is not a VXLAN interface, but of type %s", name, link.Type())
	}
	again := netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, Index: vxlan.Index, HardwareAddr: vxlan.HardwareAddr, MTU: vxlan.MTU},
		VxlanId:   vxlan.VxlanId, SrcAddr: vxlan.SrcAddr, Port: vxlan.Port, Learning: vxlan.Learning, GBP: vxlan.GBP,
	}
	var below string
	if vxlan.VtepDevIndex != 0 {
		lower, err := netlink.LinkByIndex(vxlan.VtepDevIndex)
		if err != nil {
			return nil, fmt.Errorf("find the interface below %s: %w", name, err)
		}
		below = lower.Attrs().Name
	}
	return func() error {
		made := again
		if below != "" { // its index changes when it is made again, too
			lower, err := netlink.LinkByName(below)
			if err != nil {
				return fmt.Errorf("find %s: %w", below, err)
			}
			made.VtepDevIndex = lower.Attrs().Index
		}
		if err := netlink.LinkAdd(&made); err != nil {
			return err
		}
		// As the backend, which does not insist on it either.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_ra", []byte("0"), 0o644)
		return nil
	}, nil
}

// trial returns how to try this overlay. The kernel may have given its interface less than the backend's MTU: the headers of VXLAN over IPv6
// are larger than what the backend calculates with.
func (o *overlay) trial(mtu int) (*trial, error) {
	link, err := netlink.LinkByName(o.name)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", o.name, err)
	}
	own, _ := netip.AddrFromSlice(o.own.IP)
	return &trial{family: o.family, link: o.name, own: own.Unmap(), mtu: min(mtu, link.Attrs().MTU)}, nil
}

// compare is a part. The order of the faults is that in which the kernel takes what restores them.
func (o *overlay) compare(context.Context) ([]fault, error) {
	link, err := netlink.LinkByName(o.name)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		o.index.Store(0)
		// Routes and entries follow when the interface is there again.
		f := fault{health.Interface, []string{o.name + ": missing"}, nil}
		if o.recreate != nil {
			f.restore = func(context.Context) error {
				if err := o.recreate(); err != nil {
					return fmt.Errorf("recreate %s: %w", o.name, err)
				}
				return nil
			}
		}
		return []fault{f}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", o.name, err)
	}
	attrs := link.Attrs()
	o.index.Store(uint32(attrs.Index))
	var faults []fault
	wrong := func(kind health.Kind, what string, restore func() error) {
		faults = append(faults, fault{kind, []string{what}, func(context.Context) error {
			if err := restore(); err != nil {
				return fmt.Errorf("restore %s: %w", what, err)
			}
			return nil
		}})
	}
	if attrs.HardwareAddr.String() != o.mac.String() {
		wrong(health.Interface, fmt.Sprintf("%s: its MAC address is not %s", o.name, o.mac), func() error { return netlink.LinkSetHardwareAddr(link, o.mac) })
	}
	if attrs.Flags&net.FlagUp == 0 {
		wrong(health.Interface, o.name+": down", func() error { return netlink.LinkSetUp(link) })
	}
	addresses, err := netlink.AddrList(link, o.family.netlink)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", o.name, err)
	}
	own := netlink.Addr{IPNet: o.address}
	switch i := slices.IndexFunc(addresses, own.Equal); {
	case i < 0:
		wrong(health.Interface, fmt.Sprintf("%s: its address %s is missing", o.name, o.address), func() error { return netlink.AddrReplace(link, &own) })
	case addresses[i].Flags&unix.IFA_F_DADFAILED != 0: // the kernel looks for duplicates only when an address is added
		wrong(health.Interface, fmt.Sprintf("%s: another machine has its address %s, so that the kernel does not use it", o.name, o.address), func() error {
			return errors.Join(netlink.AddrDel(link, &own), netlink.AddrAdd(link, &own))
		})
	}
	err = o.comparePeers(attrs.Index, wrong)
	return faults, err
}

func (o *overlay) comparePeers(index int, wrong func(health.Kind, string, func() error)) error {
	routes, err := netlink.RouteListFiltered(o.family.netlink, &netlink.Route{}, 0)
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	neighbors, err := netlink.NeighList(index, o.family.netlink)
	if err != nil {
		return fmt.Errorf("list the entries of %s on %s: %w", o.family.neighbors, o.name, err)
	}
	fdb, err := netlink.NeighList(index, syscall.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list the forwarding entries of %s: %w", o.name, err)
	}
	var unknown []error
	for _, l := range o.leases.settled() {
		part, ok := o.family.part(l)
		if l.Attrs.BackendType != "vxlan" || !ok || part.subnet.String() == o.own.String() {
			continue
		}
		p, err := o.peer(part, index)
		if err != nil {
			unknown = append(unknown, err)
			continue
		}
		if p.neighbor != nil && !slices.ContainsFunc(neighbors, func(n netlink.Neigh) bool {
			return n.IP.Equal(p.neighbor.IP) && n.HardwareAddr.String() == p.neighbor.HardwareAddr.String() && n.State&netlink.NUD_PERMANENT != 0
		}) {
			wrong(health.Neighbors, fmt.Sprintf("%s entry %s %s on %s: missing or wrong", o.family.neighbors, p.neighbor.IP, p.neighbor.HardwareAddr, o.name),
				func() error { return netlink.NeighSet(p.neighbor) })
		}
		if p.fdb != nil && !slices.ContainsFunc(fdb, func(n netlink.Neigh) bool {
			return n.IP.Equal(p.fdb.IP) && n.HardwareAddr.String() == p.fdb.HardwareAddr.String()
		}) {
			wrong(health.Neighbors, fmt.Sprintf("forwarding entry %s to %s on %s: missing", p.fdb.HardwareAddr, p.fdb.IP, o.name), func() error { return netlink.NeighSet(p.fdb) })
		}
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool {
			return r.Dst != nil && r.Dst.String() == p.route.Dst.String() && r.Gw.Equal(p.route.Gw) && (p.route.LinkIndex == 0 || r.LinkIndex == p.route.LinkIndex)
		}) {
			wrong(health.Routes, fmt.Sprintf("route to %s (node %s): missing or wrong", p.route.Dst, part.public), func() error { return netlink.RouteReplace(p.route) })
		}
	}
	return errors.Join(unknown...)
}

// peerEntries is what the backend configures for another node.
type peerEntries struct {
	neighbor, fdb *netlink.Neigh // nil where the node is reached without the overlay
	route         *netlink.Route
}

func (o *overlay) peer(p leasePart, index int) (peerEntries, error) {
	if o.direct {
		direct, err := ip.DirectRouting(p.public)
		if err != nil {
			return peerEntries{}, err
		}
		if direct {
			return peerEntries{route: &netlink.Route{Dst: p.subnet, Gw: p.public}}, nil
		}
	}
	_, mac, err := p.vxlan()
	if err != nil {
		return peerEntries{}, err
	}
	route := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_UNIVERSE, Dst: p.subnet, Gw: p.subnet.IP}
	route.SetFlag(syscall.RTNH_F_ONLINK)
	return peerEntries{
		neighbor: &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Type: syscall.RTN_UNICAST, IP: p.subnet.IP, HardwareAddr: mac},
		fdb: &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Family: syscall.AF_BRIDGE, Flags: netlink.NTF_SELF,
			IP: p.public, HardwareAddr: mac},
		route: route,
	}, nil
}
