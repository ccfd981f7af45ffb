package plan

import (
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/spec"
)

// The steps of taking a host out of service, for every operation that stops or removes one. Their order is: drain, leave the
// load balancers, move leadership, then stop.

// checkDrain plans to find out what would keep a node from being drained.
func (b *builder) checkDrain(host string, force bool) *Step {
	return b.add(Step{Kind: CheckDrain, Host: host, Title: "check whether the node can be drained", Force: force,
		Reason: "what keeps its pods from leaving is known before anything is changed"})
}

// checkDrains has everything that is planned later wait until it is known that the nodes of hosts that leave can be drained.
func (b *builder) checkDrains(hosts []spec.Host) {
	var checks []*Step
	for _, h := range hosts {
		if b.drains(h) {
			checks = append(checks, b.checkDrain(h.Name, false))
		}
	}
	b.beginWith(checks...)
}

// drains says that the node of a host that leaves is drained. The pods of one that is not ready do not work, and nobody would end them.
func (b *builder) drains(h spec.Host) bool {
	n := b.Node(h.Name)
	return n != nil && n.Ready
}

// drainNode plans that a node's workloads leave. None of them may move to one of the hosts that are drained together with it.
func (b *builder) drainNode(host, reason string, force bool, together []spec.Host, after ...*Step) *Step {
	s := Step{Kind: DrainNode, Host: host, Title: "drain the node", Reason: reason, Force: force, Change: change(cluster.Stop, cluster.Node, host)}
	for _, h := range together {
		if h.Name != host && b.Node(h.Name) != nil {
			s.Nodes = append(s.Nodes, h.Name)
		}
	}
	drained := append([]string{host}, s.Nodes...)
	slices.Sort(drained) // a zone has one warning
	for _, why := range b.LastOn(drained...) {
		warning := why + ". Its disruption budget holds the drain of " + cluster.List(drained) + " until another replica is ready, or for a minute if that one waits for a node that is away"
		if !slices.Contains(b.out.Warnings, warning) {
			b.out.Warnings = append(b.out.Warnings, warning)
		}
	}
	return b.addInTurn(s, after...)
}

// uncordonNode plans that a node takes workloads again.
func (b *builder) uncordonNode(host, reason string, after ...*Step) *Step {
	return b.addInTurn(Step{Kind: UncordonNode, Host: host, Title: "uncordon the node", Reason: reason, Change: change(cluster.Start, cluster.Node, host)}, after...)
}

// uncordonKept plans that nodes take workloads again that an earlier run cordoned because their hosts were to leave, and that stay in the
// cluster after all. It comes before other hosts leave: their pods need a place.
func (b *builder) uncordonKept(hosts []spec.Host) {
	for _, h := range hosts {
		n := b.Node(h.Name)
		if n == nil || !n.Cordoned || b.at[h.Name].join != nil { // one that joins again gets a new node
			continue
		}
		reason := "an earlier run cordoned it to drain it, and the host stays in the cluster"
		if !n.Unschedulable {
			reason = "somebody has uncordoned it: what is left of the drain that an earlier run began is removed"
		}
		b.uncordonNode(h.Name, reason)
	}
}

// leavePools plans that the load balancers send no clients to a control plane; nil for a load balancer that Quorate does not
// manage.
func (b *builder) leavePools(host, reason string, after ...*Step) *Step {
	if b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return nil
	}
	return b.addInTurn(leavePoolsStep(host, "", reason), after...)
}

// leavePoolsStep is the step of leavePools. The detail tells it from another one on the same host in the same plan.
func leavePoolsStep(host, detail, reason string) Step {
	return Step{Kind: LeavePools, Host: host, Detail: detail, Title: "leave the load balancers' pools", Reason: reason, Change: change(cluster.Stop, cluster.PoolServer, host)}
}

// joinPools plans that they do again.
func (b *builder) joinPools(host, reason string, after ...*Step) *Step {
	if b.c.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return nil
	}
	return b.addInTurn(joinPoolsStep(host, "", reason), after...)
}

// joinPoolsStep is to joinPools what leavePoolsStep is to leavePools.
func joinPoolsStep(host, detail, reason string) Step {
	return Step{Kind: JoinPools, Host: host, Detail: detail, Title: "join the load balancers' pools", Reason: reason, Change: change(cluster.Start, cluster.PoolServer, host)}
}

// moveLeadership plans that others lead what the host leads.
func (b *builder) moveLeadership(host, reason string, after ...*Step) *Step {
	return b.addInTurn(moveLeadershipStep(host, "", reason), after...)
}

// moveLeadershipStep is the step of moveLeadership. The detail tells it from another one on the same host in the same plan.
func moveLeadershipStep(host, detail, reason string) Step {
	return Step{Kind: MoveLeadership, Host: host, Detail: detail, Title: "move leadership to other hosts", Reason: reason, Change: change(cluster.Move, cluster.Leadership, host)}
}

// moveVirtualIP plans that another load balancer takes the virtual IP.
func (b *builder) moveVirtualIP(host, reason string, after ...*Step) *Step {
	return b.addInTurn(Step{Kind: MoveVirtualIP, Host: host, Title: "move the virtual IP to another load balancer", Reason: reason, Change: change(cluster.Move, cluster.VirtualIP, host)}, after...)
}
