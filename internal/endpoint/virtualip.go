package endpoint

import (
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
)

// ownsVirtualIP says that the virtual IP is on a load balancer that Quorate configured for this cluster: an interrupted build
// is being finished.
func ownsVirtualIP(s *cluster.State) bool {
	holders, _ := s.Holders()
	return slices.ContainsFunc(holders, func(name string) bool { return configured(s, name) })
}

// configured says that Quorate configured the load balancer for this cluster.
func configured(s *cluster.State, name string) bool {
	b := s.Seen.Hosts[name].Balancer
	return b != nil && b.WrittenFor == s.Spec.Metadata.Name
}

// virtualIP judges the address of a managed load balancer before the build, when nobody may have it yet: keepalived takes it
// without asking, and the gratuitous ARP that it sends would take it from its owner for the whole network. An address that
// nobody has answers with silence.
func (j *judge) virtualIP(s *cluster.State, probes []Probe) {
	vip := j.c.Spec.LoadBalancer.Address
	if holders, _ := s.Holders(); len(holders) > 0 {
		j.add(cluster.Error, cluster.RuleVirtualIP, holders, "Remove it there (`ip address del`, and the network configuration of the host), or choose another address.",
			"the virtual IP %s is on an interface of %s already, and keepalived would give it to a load balancer as well", vip, cluster.List(holders))
		return
	}
	if slices.ContainsFunc(s.Spec.BalancerHosts(), func(h spec.Host) bool { return configured(s, h.Name) }) {
		return // a build was interrupted a moment ago: one of its load balancers may have taken the address since it was looked at
	}
	var used, failed grouped[result]
	for _, p := range probes {
		switch r := resultOf(p); {
		case p.Host == "": // something on the caller's path may answer for addresses that nobody has
		case r.outcome == "", r.outcome == Timeout, r.outcome == NoRoute:
		case r.outcome == Failed:
			failed.add(r, p.Host)
		default:
			used.add(result{outcome: r.outcome}, p.Host)
		}
	}
	for _, r := range used.order {
		j.add(cluster.Error, cluster.RuleVirtualIP, used.from[r], "Choose a free address (loadBalancer.address), or take it away from that machine.",
			"the virtual IP %s is in use: a machine that has it answers %s (%s)", vip, places(used.from[r]), r.outcome)
	}
	for _, r := range failed.order {
		j.add(cluster.Error, cluster.RuleVirtualIP, failed.from[r], "Run `quorate preflight` again; if this persists, check the host.",
			"whether the virtual IP %s is in use could not be probed from %s: %s", vip, places(failed.from[r]), r.detail)
	}
}
