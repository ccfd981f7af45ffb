package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Inside the lab's namespace: the switch "core" with the gateway's address and a port "caller";
// per zone a switch "z0", whose uplink is the pair "u0" (zone's end) and "c0" (core's end); per
// machine a port "m11" on its zone's switch, named after the last byte of its address. Machines with more
// interfaces have ports "s11" and "t11" on the switches "second" and "third", which have no zones and no gateway.
const (
	coreSwitch = "core"
	callerPort = "caller"
)

func zoneSwitch(i int) string { return fmt.Sprintf("z%d", i) }
func zoneUplink(i int) string { return fmt.Sprintf("u%d", i) }
func corePort(i int) string   { return fmt.Sprintf("c%d", i) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addresses are those of a host number of the lab's own, such as the gateway's.
func (l *Lab) addresses(n int) []netip.Prefix { return l.Family().all(host(l.Subnet(), n)) }

// coreSysctls: frames are switched, never filtered by the IP tables; the gateway forwards, but has
// nowhere to forward to, so machines get "unreachable" immediately instead of waiting for a timeout.
var coreSysctls = map[string]string{
	"net/bridge/bridge-nf-call-iptables":  "0",
	"net/bridge/bridge-nf-call-ip6tables": "0",
	"net/bridge/bridge-nf-call-arptables": "0",
	"net/ipv4/ip_forward":                 "1",
	"net/ipv4/icmp_ratelimit":             "0",
	"net/ipv4/conf/all/send_redirects":    "0",
	"net/ipv6/conf/default/disable_ipv6":  "1",
}

// ensureCore creates the core for the first machine that is powered on after a reboot of this computer.
func (l *Lab) ensureCore(ctx context.Context) error {
	unlock, err := lock(ctx, filepath.Join(l.dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(l.NetNS()); err == nil {
		return nil
	}
	if err := l.reclaim(ctx); err != nil {
		return err
	}
	return l.makeCore()
}

// makeCore creates those switches and the caller's cable that are missing.
func (l *Lab) makeCore() error {
	if err := makeNetNS(l.coreNS(), coreSysctls); err != nil {
		return err
	}
	h, done, err := linksOf(l.coreNS())
	if err != nil {
		return err
	}
	defer done()
	steps := []func() error{
		func() error { return up(h, "lo") },
		func() error { return l.makeSwitch(h, coreSwitch) },
		func() error { return l.makeGateway(h) },
	}
	for n, name := range moreSwitches {
		if slices.ContainsFunc(l.rec.Machines, func(m Machine) bool { return m.moreNICs() > n }) {
			steps = append(steps, func() error { return l.makeSwitch(h, name) })
		}
	}
	for i, zone := range l.rec.Zones {
		steps = append(steps, func() error { return l.makeZone(h, i, zone) })
	}
	for _, step := range append(steps,
		func() error { return l.applyCuts(&l.rec) },
		func() error { return l.makeCallerCable(h) },
	) {
		if err := step(); err != nil {
			return fmt.Errorf("lab %s: create its switches: %w", l.Name(), err)
		}
	}
	return nil
}

func (l *Lab) makeSwitch(h *netlink.Handle, name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.HardwareAddr = switchMAC(l.Subnet(), name)
	attrs.MTU = 1500
	off := false
	err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add switch %s: %w", name, err)
	}
	return up(h, name)
}

func (l *Lab) makeGateway(h *netlink.Handle) error {
	core, err := h.LinkByName(coreSwitch)
	if err != nil {
		return err
	}
	if l.Family().six() {
		err := inNetNS(l.coreNS(), func() error {
			if err := setLink6("all", map[string]string{"forwarding": "1"}); err != nil {
				return err
			}
			return setLink6(coreSwitch, map[string]string{"disable_ipv6": "0", "accept_ra": "0", "accept_dad": "0"})
		})
		if err != nil {
			return err
		}
	}
	for _, a := range l.addresses(gatewayHost) {
		if err := h.AddrReplace(core, onLink(a)); err != nil {
			return fmt.Errorf("assign the gateway's address: %w", err)
		}
		// Without a route, the kernel would answer the same, but only until a route is added.
		if err := h.RouteReplace(&netlink.Route{Dst: ipNet(defaultRoute(a.Addr())), Type: unix.RTN_UNREACHABLE, Priority: 1}); err != nil {
			return err
		}
	}
	return nil
}

// defaultRoute is everything in the family of an address.
func defaultRoute(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func (l *Lab) makeZone(h *netlink.Handle, i int, zone string) error {
	if err := l.makeSwitch(h, zoneSwitch(i)); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = zoneUplink(i)
	err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: corePort(i)})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("connect zone %s to the core switch: %w", zone, err)
	}
	if err := plug(h, zoneUplink(i), zoneSwitch(i)); err != nil {
		return err
	}
	return plug(h, corePort(i), coreSwitch)
}

// makeCallerCable joins the caller's namespace to the core switch.
func (l *Lab) makeCallerCable(h *netlink.Handle) error {
	name := callerLink(l.Subnet())
	if _, err := h.LinkByName(callerPort); err != nil {
		if err := removeLink(name); err != nil { // its other end was deleted with another namespace
			return err
		}
		core, err := netns.GetFromName(l.coreNS())
		if err != nil {
			return err
		}
		defer core.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = name, mac(host(l.Subnet(), callerHost))
		err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: callerPort, PeerNamespace: netlink.NsFd(core)})
		if err != nil {
			return fmt.Errorf("create the link %s from this machine into the lab: %w", name, err)
		}
	}
	if err := plug(h, callerPort, coreSwitch); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	// This computer may be a router for others, but never for the lab.
	six := "1"
	if l.Family().six() {
		six = "0"
		if err := setLink6(name, map[string]string{"forwarding": "0", "accept_ra": "0", "accept_dad": "0"}); err != nil {
			return err
		}
	}
	for key, value := range map[string]string{"ipv6/conf/" + name + "/disable_ipv6": six, "ipv4/conf/" + name + "/forwarding": "0"} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for _, a := range l.addresses(callerHost) {
		if err := netlink.AddrReplace(link, onLink(a)); err != nil {
			return fmt.Errorf("assign the address of %s: %w", name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// machineSysctls turns off rate limits for refusals. A machine's own address is its name server (see
// resolvConf), and these refusals are how it reports that it has none.
func (f Family) machineSysctls() map[string]string {
	out := map[string]string{"net/ipv4/icmp_ratelimit": "0"}
	if f.six() {
		out["net/ipv6/icmp/ratelimit"] = "0"
	}
	return out
}

// plugIn gives a machine a fresh network stack, with its address and cable, before it boots.
func (l *Lab) plugIn(m Machine) error {
	if err := l.unplug(m); err != nil {
		return err
	}
	name := l.machineNS(m.Name)
	if err := makeNetNS(name, l.Family().machineSysctls()); err != nil {
		return err
	}
	ns, err := netns.GetFromName(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	core, done, err := linksOf(l.coreNS())
	if err != nil {
		return err
	}
	defer done()
	own, done, err := linksOf(name)
	if err != nil {
		return err
	}
	defer done()
	cable := func(port, into, name string, addresses ...netip.Prefix) (netlink.Link, error) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = port
		err := core.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerHardwareAddr: mac(addresses[0].Addr()), PeerNamespace: netlink.NsFd(ns)})
		if err != nil {
			return nil, fmt.Errorf("create its network link: %w", err)
		}
		if err := plug(core, port, into); err != nil {
			return nil, err
		}
		eth, err := own.LinkByName(name)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if err := own.AddrAdd(eth, onLink(a)); err != nil {
				return nil, fmt.Errorf("configure %s: %w", name, err)
			}
		}
		if err := own.LinkSetUp(eth); err != nil {
			return nil, fmt.Errorf("configure %s: %w", name, err)
		}
		return eth, nil
	}
	if err := up(own, "lo"); err != nil {
		return err
	}
	eth, err := cable(port(m.Address), zoneSwitch(slices.Index(l.rec.Zones, m.Zone)), "eth0", l.Family().all(m.Address)...)
	if err != nil {
		return err
	}
	for n := range m.moreNICs() {
		if _, err := cable(morePort(m.Address, n), moreSwitches[n], fmt.Sprintf("eth%d", n+1), netip.PrefixFrom(moreAddress(m.Address, n), moreNetworks[n].Bits())); err != nil {
			return err
		}
	}
	for _, gateway := range l.addresses(gatewayHost) {
		if err := own.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gateway.Addr().AsSlice()}); err != nil {
			return err
		}
	}
	return nil
}

// unplug removes a machine's cables and network stack.
func (l *Lab) unplug(m Machine) error {
	if err := l.linkDown(m); err != nil {
		return err
	}
	if core, done, err := linksOf(l.coreNS()); err == nil {
		defer done()
		for _, name := range m.ports() {
			if link, err := core.LinkByName(name); err == nil {
				if err := core.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
					return fmt.Errorf("remove the network link of machine %s: %w", m.Name, err)
				}
			}
		}
	}
	return deleteNetNS(l.machineNS(m.Name))
}

// linkDown takes the machine's links down: from then on, the machine cannot send a packet.
func (l *Lab) linkDown(m Machine) error {
	core, done, err := linksOf(l.coreNS())
	if err != nil {
		return nil //nolint:nilerr // without a switch there is no link
	}
	defer done()
	for _, name := range m.ports() {
		link, err := core.LinkByName(name)
		if err != nil {
			continue // as above
		}
		if err := core.LinkSetDown(link); err != nil {
			return err
		}
	}
	return nil
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	return h.LinkSetUp(link)
}

func plug(h *netlink.Handle, name, into string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	bridge, err := h.LinkByName(into)
	if err != nil {
		return fmt.Errorf("find switch %s: %w", into, err)
	}
	if err := h.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("connect %s to switch %s: %w", name, into, err)
	}
	return h.LinkSetUp(link)
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// removeNetwork removes every network namespace of a lab, its cable and, last, its fence.
func removeNetwork(name string, subnet netip.Prefix) error {
	var errs []error
	if subnet.IsValid() {
		errs = append(errs, removeLink(callerLink(subnet)))
	}
	spaces, err := filepath.Glob(netnsPath("qr-" + name + ".*"))
	errs = append(errs, err)
	for _, path := range append(spaces, netnsPath("qr-"+name)) {
		errs = append(errs, deleteNetNS(filepath.Base(path)))
	}
	os.Remove(netnsDir) // created with the first namespace; stays while others exist
	return errors.Join(append(errs, lowerFence(subnet))...)
}
