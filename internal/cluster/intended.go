package cluster

import (
	"net/url"

	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// Intended are the placements of a cluster that is as its spec says and in which everything works. The members of an existing
// etcd are placed on hosts that are called like their endpoints and share nothing with others.
func Intended(c *spec.Cluster) (out []quorum.Placement) {
	members := map[string]bool{}
	for _, h := range c.EtcdHosts() {
		members[h.Name] = true
	}
	up := func(is bool) quorum.State {
		if is {
			return quorum.Up
		}
		return quorum.Absent
	}
	for _, h := range c.Spec.Hosts {
		cp := up(h.Has(spec.RoleControlPlane))
		out = append(out, quorum.Placement{Host: h.Name, Zone: h.Zone, Member: up(members[h.Name]), APIServer: cp, ControllerManager: cp, Scheduler: cp,
			Balancer: up(c.Balances(h)), Worker: up(h.Has(spec.RoleWorker))})
	}
	if c.ExistingEtcd() {
		for _, e := range c.Spec.Etcd.Endpoints {
			name := e
			if u, err := url.Parse(e); err == nil && u.Host != "" {
				name = u.Host
			}
			out = append(out, quorum.Placement{Host: name, Member: quorum.Up})
		}
	}
	return out
}
