package preflight

import (
	"fmt"
	"net/netip"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// ranges compares the ranges of pods and Services with the networks that the host really has: of other interfaces, of bridges such as
// docker0, of static routes, and of its DNS servers. Validation compares them only with what the spec names.
func (j *judge) ranges(h spec.Host, f *facts.Facts, in facts.Inspection) {
	if !h.IsNode() || j.Joined(h) || j.own(f) { // a node has routes to pods itself
		return
	}
	type network struct {
		what, field string
		cidr        netip.Prefix
	}
	var all []network
	for _, cidr := range j.c.Spec.Network.PodCIDRs() {
		all = append(all, network{"pods", "network.podCIDR", cidr})
	}
	for _, cidr := range j.c.Spec.Network.ServiceCIDRs() {
		all = append(all, network{"Services", "network.serviceCIDR", cidr})
	}
	for _, r := range all {
		cidr := r.cidr
		fix := "Choose another range as " + r.field + ", which cannot be changed later"
		for _, n := range in.Networks {
			prefix, err := netip.ParsePrefix(n.Prefix)
			if err != nil || !prefix.Overlaps(cidr) || slices.Contains(in.Leftovers.Interfaces, n.Interface) {
				continue
			}
			network := fmt.Sprintf("the network %s of its interface %s", prefix, n.Interface)
			another := ", or give " + n.Interface + " another network (Docker: `bip` and `default-address-pools` in /etc/docker/daemon.json)"
			if n.Gateway {
				network, another = fmt.Sprintf("the network %s, to which it has a route", prefix), ", or remove that route"
			}
			switch {
			case prefix.Bits() >= cidr.Bits():
				j.add(failure, "ranges", []string{h.Name}, fix+another+".", "the range %s of the %s contains addresses of HOSTS: %s", cidr, r.what, network)
			case !n.Gateway: // behind a gateway, a large network such as 10.0.0.0/8 says little about who is in it
				j.add(warning, "ranges", []string{h.Name}, "Make sure that no machine in that network has an address of the range. "+fix+".",
					"the range %s of the %s is a part of a network of HOSTS: %s", cidr, r.what, network)
			}
		}
		var seen []string
		for _, server := range slices.Concat(in.PodServers, servers(in.Resolvers)) {
			if a, err := netip.ParseAddr(server); err == nil && cidr.Contains(a) && !slices.Contains(seen, server) {
				seen = append(seen, server)
				j.add(failure, "ranges", []string{h.Name}, fix+".", "the range %s of the %s contains the DNS server %s of HOSTS: neither the host nor pods would reach it", cidr, r.what, server)
			}
		}
	}
}

func servers(resolvers []facts.Resolver) (out []string) {
	for _, r := range resolvers {
		out = append(out, r.Server)
	}
	return out
}

// diverted says which bridge of a host keeps its packets for an address, as docker0 does when the other hosts are in its network; empty if
// none does.
func (j *judge) diverted(from, address string) string {
	f := j.Facts(from)
	a, err := netip.ParseAddr(address)
	if f == nil || err != nil {
		return ""
	}
	h, _ := j.c.Host(from)
	own, _ := f.Interface(h.Address)
	for _, n := range j.seen.Hosts[from].Networks {
		if p, err := netip.ParsePrefix(n.Prefix); err == nil && n.Bridge && !n.Gateway && n.Interface != own.Interface && p.Contains(a) {
			return fmt.Sprintf("On %s, %s belongs to the network %s of the bridge %s, so packets for it do not leave the host. Give the bridge another network (Docker: `bip` and `default-address-pools` in /etc/docker/daemon.json).", from, address, p, n.Interface)
		}
	}
	return ""
}
