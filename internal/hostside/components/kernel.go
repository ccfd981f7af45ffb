package components

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
)

// kernel queries this host's kernel.
type kernel interface {
	// chains are those of a table; nil if there is no such table.
	chains(family, table string) (map[string]chain, error)
	// overlay is what flannel set up for pods of other nodes, and which parts are missing.
	overlay(flannelConfig) (facts.Answer, *facts.Overlay)
}

// chain is one chain of rules.
type chain struct {
	hook  bool // a base chain: the kernel enters it directly
	rules int
}

// netfilter uses netlink, so that no program that lists rules has to be installed.
type netfilter struct{}

var families = map[string]nftables.TableFamily{"ip": nftables.TableFamilyIPv4, "ip6": nftables.TableFamilyIPv6}

func (netfilter) chains(family, table string) (map[string]chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(families[family])
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == table })
	if i < 0 {
		return nil, nil
	}
	all, err := conn.ListChainsOfTableFamily(families[family])
	if err != nil {
		return nil, err
	}
	out := map[string]chain{}
	for _, c := range all {
		if c.Table.Name != table {
			continue
		}
		rules, err := conn.GetRules(tables[i], c)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", c.Name, err)
		}
		out[c.Name] = chain{hook: c.Hooknum != nil, rules: len(rules)}
	}
	return out, nil
}

func sortedKeys(m map[string]chain) []string { return slices.Sorted(maps.Keys(m)) }

// overlay reads what flannel sets up for IPv4, or for IPv6 where pods have nothing else. Other backends than vxlan and host-gw have no routes that could be checked.
func (netfilter) overlay(config flannelConfig) (facts.Answer, *facts.Overlay) {
	text, family := config.Network, unix.AF_INET
	if !config.four() {
		text, family = config.IPv6Network, unix.AF_INET6
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return facts.Answer{Unknown: "its configuration names no network: " + err.Error()}, nil
	}
	out := &facts.Overlay{Backend: config.Backend.Type}
	filter, mask := &netlink.Route{Table: unix.RT_TABLE_MAIN}, uint64(netlink.RT_FILTER_TABLE)
	var next map[string]string // gateway → node, through the tunnel
	tunnel := 0
	switch config.Backend.Type {
	case "host-gw":
	case "vxlan":
		link, answer := tunnelOf(config, family)
		if link == nil {
			return answer, nil
		}
		if config.four() && config.EnableIPv6 { // the other family's routes are not read, but it needs its interface, too
			if second, answer := tunnelOf(config, unix.AF_INET6); second == nil {
				return answer, nil
			}
		}
		if next, err = neighbours(link.Attrs().Index, family); err != nil {
			return facts.Answer{Unknown: "reading the neighbors of " + link.Attrs().Name + ": " + err.Error()}, nil
		}
		if tunnel = link.Attrs().Index; !config.Backend.DirectRouting {
			filter.LinkIndex, mask = tunnel, mask|netlink.RT_FILTER_OIF
		}
	default:
		return facts.Answer{OK: true}, out
	}
	routes, err := netlink.RouteListFiltered(family, filter, mask)
	if err != nil {
		return facts.Answer{Unknown: "reading the routes: " + err.Error()}, nil
	}
	for _, r := range routes {
		if r.Dst == nil || r.Gw == nil || !contains(network, r.Dst) {
			continue
		}
		route := facts.PodRoute{Subnet: r.Dst.String(), Node: r.Gw.String()}
		if r.LinkIndex == tunnel && tunnel != 0 {
			if route.Node = next[r.Gw.String()]; route.Node == "" {
				route.Lacks = "the entry for " + r.Gw.String()
			}
		}
		out.Routes = append(out.Routes, route)
	}
	slices.SortFunc(out.Routes, func(a, b facts.PodRoute) int { return strings.Compare(a.Subnet, b.Subnet) })
	return facts.Answer{OK: true}, out
}

// tunnelOf finds flannel's interface. If there is none, the answer says why.
func tunnelOf(config flannelConfig, family int) (netlink.Link, facts.Answer) {
	vni := config.Backend.VNI
	if vni == 0 {
		vni = 1
	}
	name := fmt.Sprintf("flannel.%d", vni)
	if family == unix.AF_INET6 {
		name = fmt.Sprintf("flannel-v6.%d", vni)
	}
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return nil, facts.Answer{Problem: "the interface " + name + " is missing"}
	case err != nil:
		return nil, facts.Answer{Unknown: "reading the interface " + name + ": " + err.Error()}
	case link.Type() != "vxlan":
		return nil, facts.Answer{Problem: "the interface " + name + " is no vxlan interface"}
	case link.Attrs().Flags&net.FlagUp == 0:
		return nil, facts.Answer{Problem: "the interface " + name + " is down"}
	}
	addresses, err := netlink.AddrList(link, family)
	addresses = slices.DeleteFunc(addresses, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }) // of IPv6, the kernel's own
	switch {
	case err != nil:
		return nil, facts.Answer{Unknown: "reading the addresses of " + name + ": " + err.Error()}
	case len(addresses) == 0:
		return nil, facts.Answer{Problem: "the interface " + name + " has no address"}
	}
	return link, facts.Answer{}
}

// neighbors map the addresses behind a tunnel to the hosts that packets for them are sent to. flannel enters each of them
// twice: the hardware address of the next hop, and the host of that hardware address.
func neighbours(link, family int) (map[string]string, error) {
	hops, err := netlink.NeighList(link, family)
	if err != nil {
		return nil, err
	}
	ends, err := netlink.NeighList(link, unix.AF_BRIDGE)
	if err != nil {
		return nil, err
	}
	hosts := map[string]string{}
	for _, e := range ends {
		if e.IP != nil {
			hosts[e.HardwareAddr.String()] = e.IP.String()
		}
	}
	out := map[string]string{}
	for _, h := range hops {
		if h.HardwareAddr != nil && h.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) == 0 {
			out[h.IP.String()] = hosts[h.HardwareAddr.String()]
		}
	}
	return out, nil
}

func contains(network netip.Prefix, dst *net.IPNet) bool {
	address, ok := netip.AddrFromSlice(dst.IP)
	bits, _ := dst.Mask.Size()
	return ok && network.Contains(address.Unmap()) && bits > network.Bits()
}
