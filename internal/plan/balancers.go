package plan

import (
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how load balancers come to hosts that stay in the cluster, and leave them: from the control planes to hosts of their
// own, back, or any of them by its role. Until the spec is recorded, Present has the old ones and the new ones:
//
//   - The existing load balancers get to know the new ones, and then the new ones start as standbys (see balancersInTurn). Where
//     HAProxy and kube-apiserver are to share a port, the API servers are restarted for that before, one at a time.
//   - Then the retiring load balancers stop, and those of hosts that leave: first the standbys, so that the virtual IP can only
//     move to a load balancer that stays, and the holder last.
//   - Then the others forget them, and the spec is recorded.

// RuleRetiring refuses to move load balancers while an old one cannot be stopped.
const RuleRetiring = "retiring-load-balancer"

// refuseRetiring holds for load balancers on hosts that stay. One that cannot be stopped could take the virtual IP again when nobody
// knows it any more.
func (b *builder) refuseRetiring() error {
	for _, h := range b.Retiring() {
		if b.Reachable(h.Name) {
			continue
		}
		r := refused(RuleRetiring, "the spec does not have "+h.Name+" as a load balancer any more, and the load balancer there cannot be stopped: "+b.Unreachable()[h.Name],
			"Make "+h.Name+" reachable. If it is lost for good, take it out of the spec as well.")
		r.Subjects = []string{h.Name}
		if b.inMaintenance(h.Name) {
			r.Fix = "End the maintenance first: `quorate maintain --undo " + h.Name + "`."
		} else {
			r.Transient = true
		}
		return r
	}
	return nil
}

// retires says that the host is a load balancer of the cluster, and not one of the spec.
func (b *builder) retires(h spec.Host) bool { return b.Departs(h.Name) || !b.c.Balances(h) }

// movingBalancers are the hosts that stay and are load balancers no more, or become one and have to restart their API server for it.
func (b *builder) movingBalancers() []string {
	coming := slices.DeleteFunc(b.c.BalancerHosts(), func(h spec.Host) bool { return !b.waitsForPort(h) })
	return slices.Concat(cluster.Names(coming), cluster.Names(b.Retiring()))
}

// lacksPort says that the API server of a control plane has to be restarted before HAProxy can listen on its port.
func (b *builder) lacksPort(h spec.Host) bool {
	if !b.joined(h) || b.Stage() != cluster.Complete && b.Stage() != cluster.Unresponsive || !hostconfig.SharesAPIPort(b.c) {
		return false
	}
	k := b.Facts(h.Name).Kubernetes
	return slices.Contains(k.Manifests, facts.APIServer) && !k.SharesPort
}

// sharesPort says that API servers have to be restarted so that they share their port. The argument stays when the load balancers
// leave: it does no harm, and removing it would restart every API server.
func (b *builder) sharesPort() bool {
	return slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), b.lacksPort)
}

// waitsForPort says that the load balancer on a host cannot start before its API server was restarted.
func (b *builder) waitsForPort(h spec.Host) bool { return b.c.Balances(h) && b.lacksPort(h) }

// retire plans how the load balancers of hosts that stay leave: those that have the virtual IP, or those that do not.
func (b *builder) retire(holding bool) {
	ready := b.all()
	for _, h := range b.Retiring() {
		if b.Holds(h.Name) != holding {
			continue
		}
		if b.balancerRuns(h) {
			if holding {
				b.moveVirtualIP(h.Name, "the load balancer leaves; connections through it are opened again", ready...)
			}
			b.stopBalancer(h, ready...)
		}
		if b.leftOfBalancer(h) {
			b.addInTurn(Step{Kind: RemoveBalancer, Host: h.Name, Title: "remove the load balancer", Reason: "the host stays, and HAProxy and keepalived are left there as they were found",
				Change: change(cluster.Remove, cluster.LoadBalancer, h.Name)}, ready...)
		}
	}
}

func (b *builder) stopBalancer(h spec.Host, after ...*Step) {
	b.addInTurn(Step{Kind: StopBalancer, Host: h.Name, Title: "stop the load balancer", Reason: "it leaves the cluster: it announces that, so that no other load balancer waits for it",
		Change: change(cluster.Remove, cluster.LoadBalancer, h.Name)}, after...)
}

// leftOfBalancer says that a host has something of a load balancer left. The watchdog's unit is the last that goes.
func (b *builder) leftOfBalancer(h spec.Host) bool {
	seen := b.Seen.Hosts[h.Name].Balancer
	_, watchdog := b.Facts(h.Name).Files["/etc/systemd/system/"+hostconfig.WatchdogUnit]
	return watchdog || seen != nil && seen.WrittenFor != ""
}
