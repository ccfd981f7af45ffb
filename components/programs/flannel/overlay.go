package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"

	"components.quorate.dev/flannel/health"
)

// leaseBook keeps the leases that flannel's backend is told of.
type leaseBook struct {
	subnet.Manager

	mu     sync.Mutex
	leases map[ip.IP4Net]knownLease
}

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
		b.leases = map[ip.IP4Net]knownLease{}
	}
	for _, e := range events {
		if e.Type == lease.EventRemoved {
			delete(b.leases, e.Lease.Subnet)
			continue
		}
		b.leases[e.Lease.Subnet] = knownLease{e.Lease, time.Now()}
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
	slices.SortFunc(out, func(a, b lease.Lease) int { return int(int64(a.Subnet.IP) - int64(b.Subnet.IP)) })
	return out
}

// settling is how long the backend may take to act on a change of a lease. It tries each of its calls several times.
const settling = 10 * time.Second

// overlay is the VXLAN backend's part of the kernel's configuration, for IPv4.
type overlay struct {
	leases  *leaseBook
	name    string // of the interface
	mac     net.HardwareAddr
	address *net.IPNet
	own     ip.IP4Net
	direct  bool // whether nodes in the same network are reached without the overlay

	index atomic.Uint32 // of the interface; 0: there is none
}

// vxlanData is what the backend stores in a lease.
type vxlanData struct {
	VNI     uint32
	VtepMAC string
}

func vxlanDataOf(l lease.Lease) (vni uint32, mac net.HardwareAddr, err error) {
	var d vxlanData
	if err := json.Unmarshal(l.Attrs.BackendData, &d); err != nil {
		return 0, nil, fmt.Errorf("read the VXLAN data of the lease of %s: %w", l.Subnet, err)
	}
	mac, err = net.ParseMAC(d.VtepMAC)
	return d.VNI, mac, err
}

func newOverlay(config *subnet.Config, own lease.Lease, leases *leaseBook) (*overlay, error) {
	var c struct{ DirectRouting bool }
	if len(config.Backend) > 0 {
		if err := json.Unmarshal(config.Backend, &c); err != nil {
			return nil, fmt.Errorf("read the configuration of the VXLAN backend: %w", err)
		}
	}
	vni, mac, err := vxlanDataOf(own)
	if err != nil {
		return nil, err
	}
	return &overlay{
		leases: leases, name: fmt.Sprintf("flannel.%d", vni), mac: mac, own: own.Subnet, direct: c.DirectRouting,
		address: ip.IP4Net{IP: own.Subnet.IP, PrefixLen: 32}.ToIPNet(),
	}, nil
}

// compare is a part. The order of the faults is that in which the kernel takes what restores them.
func (o *overlay) compare(context.Context) ([]fault, error) {
	link, err := netlink.LinkByName(o.name)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		o.index.Store(0)
		// The backend follows its interface and makes it again; routes and entries follow from here.
		return []fault{{health.Interface, []string{o.name + ": missing"}, nil}}, nil
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
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", o.name, err)
	}
	own := netlink.Addr{IPNet: o.address}
	if !slices.ContainsFunc(addresses, own.Equal) {
		wrong(health.Interface, fmt.Sprintf("%s: its address %s is missing", o.name, o.address), func() error { return netlink.AddrReplace(link, &own) })
	}
	err = o.comparePeers(attrs.Index, wrong)
	return faults, err
}

func (o *overlay) comparePeers(index int, wrong func(health.Kind, string, func() error)) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	arp, err := netlink.NeighList(index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the ARP entries of %s: %w", o.name, err)
	}
	fdb, err := netlink.NeighList(index, syscall.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("list the forwarding entries of %s: %w", o.name, err)
	}
	var unknown []error
	for _, l := range o.leases.settled() {
		if l.Attrs.BackendType != "vxlan" || !l.EnableIPv4 || l.Subnet.Equal(o.own) {
			continue
		}
		p, err := o.peer(l, index)
		if err != nil {
			unknown = append(unknown, err)
			continue
		}
		if p.arp != nil && !slices.ContainsFunc(arp, func(n netlink.Neigh) bool {
			return n.IP.Equal(p.arp.IP) && n.HardwareAddr.String() == p.arp.HardwareAddr.String() && n.State&netlink.NUD_PERMANENT != 0
		}) {
			wrong(health.Neighbors, fmt.Sprintf("ARP entry %s %s on %s: missing or wrong", p.arp.IP, p.arp.HardwareAddr, o.name), func() error { return netlink.NeighSet(p.arp) })
		}
		if p.fdb != nil && !slices.ContainsFunc(fdb, func(n netlink.Neigh) bool {
			return n.IP.Equal(p.fdb.IP) && n.HardwareAddr.String() == p.fdb.HardwareAddr.String()
		}) {
			wrong(health.Neighbors, fmt.Sprintf("forwarding entry %s to %s on %s: missing", p.fdb.HardwareAddr, p.fdb.IP, o.name), func() error { return netlink.NeighSet(p.fdb) })
		}
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool {
			return r.Dst != nil && r.Dst.String() == p.route.Dst.String() && r.Gw.Equal(p.route.Gw) && (p.route.LinkIndex == 0 || r.LinkIndex == p.route.LinkIndex)
		}) {
			wrong(health.Routes, fmt.Sprintf("route to %s (node %s): missing or wrong", p.route.Dst, l.Attrs.PublicIP), func() error { return netlink.RouteReplace(p.route) })
		}
	}
	return errors.Join(unknown...)
}

// peerEntries is what the backend configures for another node.
type peerEntries struct {
	arp, fdb *netlink.Neigh // nil where the node is reached without the overlay
	route    *netlink.Route
}

func (o *overlay) peer(l lease.Lease, index int) (peerEntries, error) {
	if o.direct {
		direct, err := ip.DirectRouting(l.Attrs.PublicIP.ToIP())
		if err != nil {
			return peerEntries{}, err
		}
		if direct {
			return peerEntries{route: &netlink.Route{Dst: l.Subnet.ToIPNet(), Gw: l.Attrs.PublicIP.ToIP()}}, nil
		}
	}
	_, mac, err := vxlanDataOf(l)
	if err != nil {
		return peerEntries{}, err
	}
	route := &netlink.Route{LinkIndex: index, Scope: netlink.SCOPE_UNIVERSE, Dst: l.Subnet.ToIPNet(), Gw: l.Subnet.IP.ToIP()}
	route.SetFlag(syscall.RTNH_F_ONLINK)
	return peerEntries{
		arp: &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Type: syscall.RTN_UNICAST, IP: l.Subnet.IP.ToIP(), HardwareAddr: mac},
		fdb: &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Family: syscall.AF_BRIDGE, Flags: netlink.NTF_SELF,
			IP: l.Attrs.PublicIP.ToIP(), HardwareAddr: mac},
		route: route,
	}, nil
}
