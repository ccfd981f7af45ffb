// Package vip judges which machines have the virtual IP. It is pure.
package vip

import (
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Holder is a machine that has the virtual IP.
type Holder struct {
	// MAC is its hardware address. Host is its name in the spec, empty for a machine that the spec does not have.
	MAC  string
	Host string
	// LoadBalancer says that the spec lets it have the address.
	LoadBalancer bool
	// SeenBy are the hosts that found it, itself included.
	SeenBy []string
}

// String names the machine.
func (h Holder) String() string {
	if h.Host == "" {
		return "an unknown machine with the hardware address " + h.MAC + vendor(h.MAC)
	}
	return h.Host
}

// vendor explains hardware addresses that no network card has.
func vendor(mac string) string {
	if strings.HasPrefix(mac, "00:00:5e:00:01:") {
		return " (of a virtual router: VRRP or CARP)"
	}
	return ""
}

// Holders are the machines that have the virtual IP, from the answers to the host operation WhoHas by the name of the host
// that asked. More than one, or one that is no load balancer of the spec, is a conflict: clients reach sometimes one of
// them and sometimes another. A host that is not in seen was not asked, and nothing follows from that.
func Holders(c *spec.Cluster, obs *facts.Observation, seen map[string]facts.AddressHolders) []Holder {
	names := Names(c, obs, seen)
	by := map[string][]string{}
	for _, asker := range slices.Sorted(maps.Keys(seen)) {
		s := seen[asker]
		if s.Has {
			by[s.MAC] = append(by[s.MAC], asker)
		}
		for _, mac := range s.Answers {
			by[mac] = append(by[mac], asker)
		}
	}
	var out []Holder
	for _, mac := range slices.Sorted(maps.Keys(by)) {
		h, known := c.Host(names[mac])
		out = append(out, Holder{MAC: mac, Host: names[mac], LoadBalancer: known && c.Balances(h), SeenBy: by[mac]})
	}
	return out
}

// Names are the hosts of the spec by their hardware addresses: those that they report themselves, on any interface, because a
// kernel answers on every interface for all of its addresses; and for load balancers that could not be asked, those that the
// others have in their tables.
func Names(c *spec.Cluster, obs *facts.Observation, seen map[string]facts.AddressHolders) map[string]string {
	names := map[string]string{}
	note := func(mac, host string) {
		if mac != "" {
			names[mac] = host
		}
	}
	for _, h := range c.Spec.Hosts {
		for _, asker := range slices.Sorted(maps.Keys(seen)) {
			for _, address := range h.VIPAddresses() {
				note(seen[asker].Peers[address], h.Name)
			}
		}
	}
	for _, h := range c.Spec.Hosts {
		if f := obs.Hosts[h.Name].Facts; f != nil {
			for _, a := range f.Addresses {
				note(a.MAC, h.Name)
			}
		}
	}
	// Bridges of container runtimes have the same hardware address on many hosts, so the interfaces of the addresses in
	// the spec count more.
	for _, h := range c.Spec.Hosts {
		if f := obs.Hosts[h.Name].Facts; f != nil {
			for _, address := range h.VIPAddresses() {
				if at, ok := f.Interface(address); ok {
					note(at.MAC, h.Name)
				}
			}
		}
	}
	for name, s := range seen {
		note(s.MAC, name)
	}
	return names
}

// Strangers are the holders that must not have the address: machines outside the spec, and hosts that are no load balancers.
func Strangers(holders []Holder) []Holder {
	return slices.DeleteFunc(slices.Clone(holders), func(h Holder) bool { return h.LoadBalancer })
}
