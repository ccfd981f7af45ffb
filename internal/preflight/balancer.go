package preflight

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/vip"
)

// balancer checks what only a load balancer needs.
func (j *judge) balancer(h spec.Host, f *facts.Facts, in facts.Inspection) {
	if !j.c.Balances(h) {
		return
	}
	on := []string{h.Name}
	for _, need := range hostconfig.BalancerVersions {
		have, installed := in.Versions[need.Program]
		if !installed {
			continue
		}
		v, err := version.ParseGeneric(have)
		switch {
		case err != nil:
			j.add(warning, "versions", on, fmt.Sprintf("Check that it is %s or newer: `%s -v`.", need.Version, need.Program), "the version of %s on HOSTS cannot be determined (%s)", need.Program, have)
		case v.LessThan(version.MustParseGeneric(need.Version)):
			j.add(failure, "versions", on, "Use a newer release of the distribution: Debian 12, Ubuntu 22.04, and RHEL 9 have what is needed.",
				"%s %s on HOSTS is too old: the load balancer needs %s or newer", need.Program, have, need.Version)
		}
	}
	if in.NoHAProxyUser {
		j.add(failure, "versions", on, fmt.Sprintf("Create it: `useradd --system --user-group --home-dir /var/lib/haproxy --shell /usr/sbin/nologin %s`.", hostconfig.HAProxyUser),
			"HAProxy is installed on HOSTS without the user %s, which the distributions' packages create", hostconfig.HAProxyUser)
	}
	address := j.c.Spec.LoadBalancer.Address
	own := f.InNetworkOf(address, h.VIPAddresses()...)
	if at, ok := f.Interface(own); ok && !f.OnLink(own, address) {
		fix := "Choose a free address of that network as loadBalancer.address. All load balancers must be in it."
		for _, other := range f.Addresses {
			if f.OnLink(other.IP, address) && other.IP != address {
				fix += fmt.Sprintf(" Or, if the network of %s on %s is to carry the virtual IP, write `frontAddress: %s` for %s, and for each other load balancer its address there.", other.IP, other.Interface, other.IP, h.Name)
			}
		}
		j.add(failure, "virtual-ip", on, fix, "the virtual IP %s is not in the network of the load balancer %s (%s/%d on %s)", address, h.Name, at.IP, at.Prefix, at.Interface)
	}
	if h.FrontAddress == "" {
		return
	}
	front, ok := f.Interface(h.FrontAddress)
	if !ok {
		j.add(failure, "virtual-ip", on, "Give the host this address, or put the one that it has in the network of the virtual IP into the spec: keepalived uses its interface.",
			"no interface of %s has its frontAddress %s; it has %s", h.Name, h.FrontAddress, listed(f))
		return
	}
	if own != h.FrontAddress && f.OnLink(own, address) && !j.Exists() { // in a cluster that exists, it was moved back, and the others have a frontAddress
		j.add(warning, "virtual-ip", on, "Choose a free address of the network of frontAddress as loadBalancer.address, or remove frontAddress from all hosts.",
			"the virtual IP %s is in the network of the address of %s (%s), and its frontAddress %s is not used", address, h.Name, own, h.FrontAddress)
	}
	for _, other := range f.Addresses {
		a, err := netip.ParseAddr(other.IP)
		b, err2 := netip.ParseAddr(front.IP)
		if err != nil || err2 != nil || other.Interface == front.Interface && other.IP != h.Address || other.IP == front.IP {
			continue
		}
		if one, two := netip.PrefixFrom(a, other.Prefix), netip.PrefixFrom(b, front.Prefix); one.Overlaps(two) && one.Bits() < a.BitLen() {
			j.add(failure, "virtual-ip", on, "Use a network for the virtual IP that no other interface is in. If it is the network of `address`, remove frontAddress from all hosts.",
				"the network of the frontAddress %s of %s (%s on %s) overlaps %s on %s: which of them carries the virtual IP would be a matter of chance", front.IP, h.Name, two.Masked(), front.Interface, one.Masked(), other.Interface)
		}
	}
}

// virtualIP looks for machines that have the virtual IP already. Before the build only a load balancer that an earlier run
// has set up may have it.
func (j *judge) virtualIP() {
	address := j.Reached().Endpoint().Address
	for _, h := range j.c.BalancerHosts() {
		f := j.Facts(h.Name)
		if f == nil {
			continue
		}
		_, has := f.Interface(f.InNetworkOf(address, h.VIPAddresses()...)) // without its address there is a finding already, and nothing could be asked
		if seen, asked := j.seen.VirtualIP[h.Name]; has && asked && seen.Unknown != "" {
			j.add(warning, "virtual-ip", []string{h.Name}, "Check that no machine has it: `"+askFor(address)+"`.", "whether the virtual IP %s is free could not be checked on HOSTS: %s", address, seen.Unknown)
		}
	}
	for _, s := range vip.Strangers(vip.Holders(j.c, j.Seen, j.seen.VirtualIP)) {
		fix := "Find that machine (`ip neigh`, the switches' tables) and remove the address from it, or choose another one as loadBalancer.address."
		if s.Host != "" {
			fix = fmt.Sprintf("On %s, `ip addr` shows the address. If keepalived set it: `systemctl disable --now keepalived`.", s.Host)
		}
		on := slices.DeleteFunc(slices.Clone(s.SeenBy), func(name string) bool { return name == s.Host })
		if s.Host != "" {
			on = append(on, s.Host)
		}
		j.add(failure, "virtual-ip", on, fix, "the virtual IP %s is in use: %s has it, and the load balancers would take it away", address, s)
	}
}

// askFor is a command that finds out whether another machine has an address.
func askFor(address string) string {
	if spec.FamilyOf(address) == spec.IPv6 {
		return "ndisc6 " + address + " INTERFACE"
	}
	return "arping -D -I INTERFACE " + address
}

// versions describes the check.
func versions() string {
	var parts []string
	for _, v := range hostconfig.BalancerVersions {
		parts = append(parts, v.Program+" "+v.Version+" or newer")
	}
	return "on load balancers, where the programs are installed: " + strings.Join(parts, ", ") + "; the user " + hostconfig.HAProxyUser + " exists (error). A version that cannot be determined is a warning"
}
