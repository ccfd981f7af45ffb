package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Family is an IP family.
type Family string

// The IP families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// What a spec that leaves out its ranges gets, by family.
const (
	DefaultPodCIDR6     = "fd00:10:244::/56"
	DefaultServiceCIDR6 = "fd00:10:96::/112"
)

// limits of a family: those of kubeadm and the API server on the address ranges (kubeadm's constants.go: at most 16 bits of pod
// subnets, at most 20 bits and at least 10 addresses of services), and what a node gets (the controller manager's default).
type familyLimits struct {
	nodeBits, minPodBits, minServiceBits, maxServiceBits int
	// usualPodBits is the prefix length of a range of pods that most clusters find large enough.
	usualPodBits int
	pods         string
	services     string
}

var limitsOf = map[Family]familyLimits{
	IPv4: {24, 24 - 16, 32 - 20, 28, 16, DefaultPodCIDR, DefaultServiceCIDR},
	IPv6: {64, 64 - 16, 128 - 20, 124, 56, DefaultPodCIDR6, DefaultServiceCIDR6},
}

func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// FamilyOf is the family of an address; empty if it is none.
func FamilyOf(address string) Family {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return ""
	}
	return familyOf(a)
}

// sound is the family of an address that checker.address accepts; empty for others, which are refused anyway.
func sound(address string) Family {
	a, err := netip.ParseAddr(address)
	if err != nil || a.String() != address || a.Is4In6() || a.IsLinkLocalUnicast() {
		return ""
	}
	return familyOf(a)
}

// ranges are those of a list that is separated by commas. What is no range is left out.
func ranges(list string) (out []netip.Prefix) {
	for text := range strings.SplitSeq(list, ",") {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// PodCIDRs are the ranges of pods: one, or one of each family.
func (n Network) PodCIDRs() []netip.Prefix { return ranges(n.PodCIDR) }

// ServiceCIDRs are the ranges of Services: one, or one of each family.
func (n Network) ServiceCIDRs() []netip.Prefix { return ranges(n.ServiceCIDR) }

// PodTrafficCIDRs are the networks that carry the packets of pods between nodes: one, or one of each family; none if they are those of the nodes' addresses.
func (n Network) PodTrafficCIDRs() []netip.Prefix { return ranges(n.PodTrafficCIDR) }

// Nodes is for how many nodes the range of pods has room, or the smaller one of two.
func (n Network) Nodes() int {
	least := 0
	for i, p := range n.PodCIDRs() {
		room := 1 << max(limitsOf[familyOf(p.Addr())].nodeBits-p.Bits(), 0)
		if i == 0 || room < least {
			least = room
		}
	}
	return least
}

// Families are the families of the cluster's pods and Services. The first is also that of the hosts, of the endpoint, and of etcd.
func (n Network) Families() (out []Family) {
	for _, p := range n.PodCIDRs() {
		if f := familyOf(p.Addr()); !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

// First is the first of the families; IPv4 as long as there are no ranges.
func (n Network) First() Family {
	if all := n.Families(); len(all) > 0 {
		return all[0]
	}
	return IPv4
}

// Uses reports whether the cluster's pods and Services have addresses of the family.
func (n Network) Uses(f Family) bool { return slices.Contains(n.Families(), f) }

// Addresses are the addresses of the host as a node: one, or one of each family.
func (h Host) Addresses() []string { return thatAreSet(h.Address, h.SecondaryAddress) }

// AllAddresses are the addresses of the host in all networks.
func (h Host) AllAddresses() []string {
	return thatAreSet(h.Address, h.SecondaryAddress, h.FrontAddress)
}

func thatAreSet(addresses ...string) []string {
	return slices.DeleteFunc(addresses, func(a string) bool { return a == "" })
}

// SharesAddress reports whether both are the same machine by one of their addresses, in any network.
func (h Host) SharesAddress(o Host) bool { return h.sharedAddress(o) != "" }

// sharedAddress is the first address of the host that the other one has, too; empty if there is none.
func (h Host) sharedAddress(o Host) string {
	for _, a := range h.AllAddresses() {
		if slices.Contains(o.AllAddresses(), a) {
			return a
		}
	}
	return ""
}

// fill sets the ranges that are not given. They have the families of those that are, or else of the hosts.
func (n *Network) fill(hosts []Host) {
	families := n.Families()
	if len(families) == 0 {
		for _, p := range n.ServiceCIDRs() {
			families = append(families, familyOf(p.Addr()))
		}
	}
	if len(families) == 0 {
		families = addressFamilies(hosts)
	}
	pods, services := DefaultRanges(families)
	fill(&n.PodCIDR, pods)
	fill(&n.ServiceCIDR, services)
}

// addressFamilies are the families of the hosts' addresses, that of the first host's address first; IPv4 if no host has an address.
func addressFamilies(hosts []Host) (out []Family) {
	for _, of := range []func(Host) string{func(h Host) string { return h.Address }, func(h Host) string { return h.SecondaryAddress }} {
		if i := slices.IndexFunc(hosts, func(h Host) bool { return FamilyOf(of(h)) != "" }); i >= 0 && !slices.Contains(out, FamilyOf(of(hosts[i]))) {
			out = append(out, FamilyOf(of(hosts[i])))
		}
	}
	if len(out) == 0 {
		return []Family{IPv4}
	}
	return out
}

// DefaultRanges are the ranges of a cluster that does not say which it has, for its families.
func DefaultRanges(families []Family) (podCIDR, serviceCIDR string) {
	var pods, services []string
	for _, f := range families {
		pods, services = append(pods, limitsOf[f].pods), append(services, limitsOf[f].services)
	}
	return strings.Join(pods, ","), strings.Join(services, ",")
}

// describePods says for a comment what nodes get of the range of pods.
func (n Network) describePods() string {
	var share, enough []string
	for _, f := range n.Families() {
		l := limitsOf[f]
		share, enough = append(share, fmt.Sprintf("a /%d", l.nodeBits)), append(enough, fmt.Sprintf("a /%d", l.usualPodBits))
	}
	switch len(share) {
	case 0: // the range is none
		return "The range of the pods. It must not overlap any network"
	case 1:
		return fmt.Sprintf("Each node gets %s of this range, so %s is enough for 256 nodes. It must not overlap any network", share[0], enough[0])
	}
	return fmt.Sprintf("Each node gets %s of these ranges, so %s are enough for 256 nodes. They must not overlap any network", strings.Join(share, " and "), strings.Join(enough, " and "))
}

// exampleAddress is an address of a host in a comment. Its last part is given.
func (n Network) exampleAddress(last string) string {
	if n.First() == IPv6 {
		return "2001:db8:1::" + last
	}
	return "10.0.0." + last
}

// describeServices says for a comment how large the range of Services can be.
func (n Network) describeServices() string {
	var most []string
	for _, p := range n.ServiceCIDRs() {
		most = append(most, fmt.Sprintf("a /%d", limitsOf[familyOf(p.Addr())].minServiceBits))
	}
	switch len(most) {
	case 0: // the range is none
		return "which must not overlap such a network, either"
	case 1:
		return "at most " + most[0] + ". It must not overlap such a network, either"
	}
	return "at most " + strings.Join(most, " and ") + ". They must not overlap such a network, either"
}

// families checks that the addresses of hosts and of the endpoint have the families of the pods.
func (k *checker) families() {
	n := k.c.Spec.Network
	use := n.Families()
	if len(use) == 0 || len(use) != len(n.PodCIDRs()) || !k.sound("spec.hosts") {
		return // refused already
	}
	const pods = "spec.network.podCIDR"
	if !slices.ContainsFunc(k.c.Spec.Hosts, func(h Host) bool { return slices.Contains(use, sound(h.Address)) }) {
		for _, h := range k.c.Spec.Hosts {
			if f := sound(h.Address); f != "" {
				k.refuse(pods, fmt.Sprintf("use %s addresses for the hosts and the endpoint, or ranges such as `podCIDR: %s` and `serviceCIDR: %s`", use[0], limitsOf[f].pods, limitsOf[f].services),
					"the hosts have %s addresses, but the pods have only %s", f, use[0])
				return
			}
		}
	}
	for i, h := range k.c.Spec.Hosts {
		path := fmt.Sprintf("spec.hosts[%d]", i)
		first, second := sound(h.Address), sound(h.SecondaryAddress)
		switch {
		case first == "": // a lab machine, or refused already
		case first != use[0] && slices.Contains(use, first):
			k.refuse(path+".address", fmt.Sprintf("make its %s address `address` and the other one `secondaryAddress`, or put the %s ranges first in %s and spec.network.serviceCIDR", use[0], first, pods),
				"`%s` is reached by %s, but the first range of the pods is %s: the nodes, the API, and etcd have the cluster's first family", h.Name, first, use[0])
		case first != use[0]:
			k.refuse(path+".address", fmt.Sprintf("use an %s address, or ranges such as `podCIDR: %s` and `serviceCIDR: %s`", use[0], limitsOf[first].pods, limitsOf[first].services),
				"`%s` has an %s address, but the pods have only %s", h.Name, first, use[0])
		}
		switch {
		case second == "" && h.SecondaryAddress != "": // refused already
		case second == "" && len(use) == 2 && h.IsNode() && first != "":
			k.refuse(path, fmt.Sprintf("add the %s address of `%s` as `secondaryAddress`, or leave the %s ranges out of %s and spec.network.serviceCIDR", use[1], h.Name, use[1], pods),
				"the pods have %s and %s addresses, but `%s` has only %s", use[0], use[1], h.Name, use[0])
		case second == "":
		case second == first:
			k.refuse(path+".secondaryAddress", "remove it, or use an address of the other family", "both addresses of `%s` are %s: the secondary address is for a second IP family", h.Name, first)
		case len(use) == 1:
			k.refuse(path+".secondaryAddress", fmt.Sprintf("remove it, or add ranges for %s: `podCIDR: %s,%s` and `serviceCIDR: %s,%s`", second, n.PodCIDR, limitsOf[second].pods, n.ServiceCIDR, limitsOf[second].services),
				"`%s` has an %s address, but the pods have only %s", h.Name, second, use[0])
		}
		if f := sound(h.FrontAddress); f != "" && f != use[0] {
			k.refuse(path+".frontAddress", fmt.Sprintf("use an %s address", use[0]), "the frontAddress of `%s` is an %s address, but the virtual IP has the cluster's first family, %s", h.Name, f, use[0])
		}
	}
	if f := sound(k.c.Spec.LoadBalancer.Address); f != "" && f != use[0] {
		what := "the load balancers have"
		if k.c.Spec.LoadBalancer.Type == BalancerExternal {
			what = "the hosts are reached by"
		}
		k.refuse("spec.loadBalancer.address", fmt.Sprintf("use an %s address, or put the %s ranges first in %s and spec.network.serviceCIDR", use[0], f, pods),
			"the endpoint has an %s address, but %s %s: the endpoint has the cluster's first family", f, what, use[0])
	}
}
