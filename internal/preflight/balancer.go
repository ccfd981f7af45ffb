package preflight

import (
	"fmt"
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
	if at, ok := f.Interface(h.Address); ok && !f.OnLink(h.Address, j.c.Spec.LoadBalancer.Address) {
		j.add(failure, "virtual-ip", on, "Choose a free address of that network as loadBalancer.address. All load balancers must be in it.",
			"the virtual IP %s is not in the network of the load balancer %s (%s/%d on %s)", j.c.Spec.LoadBalancer.Address, h.Name, at.IP, at.Prefix, at.Interface)
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
		_, has := f.Interface(h.Address) // without its address there is a finding already, and nothing could be asked
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
