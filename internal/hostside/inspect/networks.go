package inspect

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/spec"
)

// networks are the networks that the host has routes to, without the default route: those of its interfaces, and those behind
// gateways. They are of IPv4 and, if there are pods of that family, of IPv6. It is nil if they cannot be read.
func networks(pods string) (out []facts.Subnet) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if (spec.Network{PodCIDR: pods}).Uses(spec.IPv6) && err == nil {
		var six []netlink.Route
		six, err = netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		routes = append(routes, six...)
	}
	if err != nil {
		return nil
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsLinkLocalUnicast() && r.Dst.IP.To4() == nil || r.Dst.IP.IsMulticast() {
			continue
		}
		prefix, err := netip.ParsePrefix(r.Dst.String())
		if err != nil || prefix.Bits() == 0 {
			continue
		}
		n := facts.Subnet{Prefix: prefix.String(), Gateway: r.Gw != nil || r.Via != nil || len(r.MultiPath) > 0}
		for _, l := range links {
			if l.Attrs().Index == r.LinkIndex {
				n.Interface, n.Bridge = l.Attrs().Name, l.Type() == "bridge"
			}
		}
		out = append(out, n)
	}
	return out
}

// forwardDrops are the chains that drop forwarded packets which none of their rules accepts. The packets of pods are forwarded, and an
// accept in the chain of another program does not overrule a drop. pods are the ranges of pods; with that of IPv4, rules for them are recognized.
func forwardDrops(ctx context.Context, pods string) []facts.ForwardDrop {
	all := spec.Network{PodCIDR: pods}.PodCIDRs()
	i := slices.IndexFunc(all, func(p netip.Prefix) bool { return p.Addr().Is4() })
	if i < 0 {
		return nil
	}
	prefix := all[i]
	out, err := nftablesDrops(prefix)
	if err != nil {
		out = nil // without nftables in the kernel there are none, and preflight says that it is missing
	}
	return append(out, legacyDrops(ctx, prefix)...)
}

func nftablesDrops(pods netip.Prefix) (out []facts.ForwardDrop, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
			continue
		}
		family, ok := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}[c.Table.Family]
		if !ok {
			continue
		}
		d := facts.ForwardDrop{Chain: fmt.Sprintf("%s of the nftables table %s %s", c.Name, family, c.Table.Name)}
		for _, other := range chains { // the chain may jump to them
			if other.Table.Name != c.Table.Name || other.Table.Family != c.Table.Family {
				continue
			}
			rules, err := conn.GetRules(other.Table, other)
			if err != nil {
				d.Unknown = err.Error()
			}
			for _, r := range rules {
				is, may := concerns(r, pods)
				if d.Pods = d.Pods || is; may && d.Unknown == "" {
					d.Unknown = "they have sets or ranges"
				}
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// ofPods are the names of interfaces through which the packets of pods come.
var ofPods = []string{"cni0", "flannel.", "flannel-v6."}

// concerns reports whether a rule compares something with the range of pods, with a network around it, or with one of their interfaces, or accepts
// everything; and whether it may do so, with a set, a range, or the first byte of an address.
func concerns(r *nftables.Rule, pods netip.Prefix) (is, may bool) {
	network := pods.Masked().Addr().As4()
	compares := false
	var mask []byte
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Lookup, *expr.Range:
			compares, may = true, true
		case *expr.Bitwise:
			mask = e.Mask
		case *expr.Cmp:
			compares = true
			n := len(e.Data)
			if e.Op != expr.CmpOpEq || n == 0 {
				continue
			}
			if n <= len(network) {
				own := slices.Clone(network[:n])
				for i := range own {
					if len(mask) == n {
						own[i] &= mask[i]
					}
				}
				if bytes.Equal(e.Data, own) && own[0] != 0 {
					is, may = is || n > 1, may || n == 1
				}
			}
			is = is || slices.ContainsFunc(ofPods, func(name string) bool { return isInterface(strings.TrimRight(string(e.Data), "\x00"), name) })
		case *expr.Verdict:
			is = is || e.Kind == expr.VerdictAccept && !compares
		}
	}
	return is, may
}

// isInterface says that a name, or the beginning of one, is that of an interface of pods, which begins with another name.
func isInterface(is, begins string) bool {
	return strings.HasPrefix(is, begins) || len(is) > 1 && strings.HasPrefix(begins, is)
}

// legacyDrops are those of the kernel's older tables, which the nftables library does not show.
func legacyDrops(ctx context.Context, pods netip.Prefix) []facts.ForwardDrop {
	if !slices.Contains(strings.Fields(system.ReadTrimmed("/proc/net/ip_tables_names")), "filter") {
		return nil
	}
	const program = "iptables-legacy"
	if _, err := exec.LookPath(program); err != nil {
		return nil
	}
	rules, err := system.Output(ctx, program, "-S")
	if err != nil {
		return nil
	}
	return legacyDrop(string(rules), pods)
}

// legacyDrop reads what `iptables -S` prints.
func legacyDrop(rules string, pods netip.Prefix) []facts.ForwardDrop {
	d := facts.ForwardDrop{Chain: "FORWARD of iptables-legacy"}
	drops := false
	for line := range strings.Lines(rules) {
		f := strings.Fields(line)
		drops = drops || slices.Equal(f, []string{"-P", "FORWARD", "DROP"})
		d.Pods = d.Pods || slices.Equal(f, []string{"-A", "FORWARD", "-j", "ACCEPT"}) || slices.ContainsFunc(f, func(word string) bool {
			around, err := netip.ParsePrefix(word)
			return err == nil && around.Bits() > 0 && around.Bits() <= pods.Bits() && around.Contains(pods.Addr()) ||
				slices.ContainsFunc(ofPods, func(name string) bool {
					return strings.HasPrefix(word, name) || strings.HasSuffix(word, "+") && isInterface(strings.TrimSuffix(word, "+"), name)
				})
		})
		if slices.Contains(f, "--match-set") {
			d.Unknown = "they have sets"
		}
	}
	if !drops {
		return nil
	}
	return []facts.ForwardDrop{d}
}
