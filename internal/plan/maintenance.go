package plan

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// IDs of the rules by which a maintenance is refused, besides those of package cluster.
const (
	RuleReachable = "reachable-host" // a host can only be drained, and brought back, when it can be reached
	RuleKept      = "kept-data"      // a host that returns still has its part of the cluster
	RuleJoined    = "joined-host"    // only a part of the cluster can be taken out of service
)

// Target is what is in maintenance together: hosts of the spec, or all hosts of one zone.
type Target struct {
	Hosts []spec.Host
	Zone  string // empty for hosts
}

func (t Target) change(verb cluster.Verb) *cluster.Change {
	if t.Zone != "" {
		return change(verb, cluster.WholeZone, t.Zone)
	}
	return change(verb, cluster.WholeHost, t.Hosts[0].Name)
}

func (t Target) String() string {
	if t.Zone != "" {
		return "zone " + t.Zone
	}
	return t.Hosts[0].Name
}

// MaintainOptions say how hosts are taken out of service.
type MaintainOptions struct {
	// Force evicts pods without a controller as well.
	Force bool
}

// controlPrograms are the static pods that a host in maintenance does not run, in the order in which they end. Its etcd member
// goes on as long as the host does: that costs nobody anything.
var controlPrograms = []string{facts.Scheduler, facts.ControllerManager, "kube-apiserver"}

// Maintain makes the plan that takes hosts out of service, so that they can be powered off without anybody noticing. It goes on
// where an earlier run was cut short. The plan is empty when the hosts are in maintenance already.
func Maintain(s *cluster.State, t Target, o MaintainOptions) (*Plan, error) {
	b, err := operation(s)
	if err != nil {
		return nil, err
	}
	if err := b.reachable(t, "Power it on, or repair its network. To remove a dead host, take it out of the spec."); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(t.Hosts, func(h spec.Host) bool { m, _ := s.Maintenance(h.Name); return !m.Ready }) {
		return b.out, nil
	}
	if err := b.takePart(t); err != nil {
		return nil, err
	}
	b.leave(t, o)
	b.ownBalancer(t, "take %s out of its pool there before the host is powered off")
	return b.folded()
}

// ownBalancer says what is left to do at a load balancer of the user's own.
func (b *builder) ownBalancer(t Target, what string) {
	for _, h := range t.Hosts {
		if h.Has(spec.RoleControlPlane) && b.c.Spec.LoadBalancer.Type == spec.BalancerExternal {
			b.out.Notes = append(b.out.Notes, "the load balancer is not managed by Quorate: "+fmt.Sprintf(what, h.Name))
		}
	}
}

// EndMaintenance makes the plan that brings hosts back into service, from any point of a maintenance, or of a departure that was given up.
// What expired there meanwhile is renewed first. The plan is empty when they take part already.
func EndMaintenance(s *cluster.State, t Target) (*Plan, error) {
	b, err := operation(s)
	if err != nil {
		return nil, err
	}
	var away []spec.Host
	for _, h := range t.Hosts {
		f := s.Facts(h.Name)
		n := s.Node(h.Name)
		if _, in := s.Maintenance(h.Name); in || b.drained(h.Name) || f != nil && f.Kubernetes.Maintenance != nil || n != nil && n.Cordoned {
			away = append(away, h)
		}
	}
	t.Hosts = away
	if len(away) == 0 {
		return b.out, nil
	}
	if err := b.reachable(t, "Power it on, or repair its network. If it is lost for good, take it out of the spec."); err != nil {
		return nil, err
	}
	t.Hosts = slices.DeleteFunc(t.Hosts, func(h spec.Host) bool {
		if !b.stranger(h) {
			return false
		}
		b.addInTurn(Step{Kind: LeaveMaintenance, Host: h.Name, Title: "end the maintenance", Reason: "the host is no part of the cluster: nothing on it was stopped, and `quorate apply` has it join",
			Change: change(cluster.Start, cluster.WholeHost, h.Name)})
		return true
	})
	for _, h := range t.Hosts {
		if h.IsNode() && !s.Facts(h.Name).Kubernetes.KubeletConfig {
			return nil, refused(RuleKept, h.Name+" has lost its part of the cluster: its kubelet has no identity any more, as after the replacement of its disk",
				"Take it out of the spec and run `quorate apply`; then add it again.")
		}
	}
	if err := b.renewReturning(t.Hosts); err != nil {
		return nil, err
	}
	renewed := b.all()
	if slices.ContainsFunc(renewed, func(s *Step) bool { return s.Kind == SetTrust && s.Authority.Shared() }) {
		b.out.Notes = append(b.out.Notes, "run `quorate apply` afterwards: it restarts kube-proxy and the pod network where they were started before the certificate was renewed")
	}
	for _, h := range t.Hosts {
		if err := b.back(h, renewed...); err != nil {
			return nil, err
		}
	}
	b.ownBalancer(t, "put %s back into its pool there, if you took it out")
	return b.folded()
}

// Reboot makes the plan that takes one host out of service, reboots it, and brings it back. If an earlier run was cut short after
// the reboot, the plan only brings the host back.
func Reboot(s *cluster.State, h spec.Host, o MaintainOptions) (*Plan, error) {
	t := Target{Hosts: []spec.Host{h}}
	m, _ := s.Maintenance(h.Name)
	if f := s.Facts(h.Name); m.Reboot != "" && f != nil && f.BootID != m.Reboot {
		return EndMaintenance(s, t)
	}
	b, err := operation(s)
	if err != nil {
		return nil, err
	}
	if err := b.reachable(t, "Power it on, or repair its network."); err != nil {
		return nil, err
	}
	if err := b.takePart(t); err != nil {
		return nil, err
	}
	ready := b.leave(t, o)
	booted := b.addInTurn(Step{Kind: RebootHost, Host: h.Name, Title: "reboot the host", Reason: "it was asked for", Change: change(cluster.Restart, cluster.WholeHost, h.Name)}, ready)
	if err := b.back(h, booted); err != nil {
		return nil, err
	}
	return b.folded()
}

// operation begins the plan of an operation on a cluster that works.
func operation(s *cluster.State) (*builder, error) {
	b := &builder{State: s, c: s.Spec, out: &Plan{Cluster: s.Spec.Metadata.Name, Steps: []Step{}}, at: map[string]*hostSteps{}}
	for _, h := range s.Present().Spec.Hosts {
		b.at[h.Name] = &hostSteps{}
	}
	for _, r := range []*cluster.Refusal{s.Vanished(), s.UnfinishedRestore(""), s.OtherMachines()} {
		if r != nil {
			return nil, r
		}
	}
	switch s.Stage() {
	case cluster.Complete, cluster.Foreign:
		return b, nil
	case cluster.Unresponsive:
		r := refused(RuleAnswer, "no API server answers"+after(": ", s.Seen.APIError), "`quorate status` shows what is wrong. A host can be taken out of service only while the cluster works without it.")
		r.Transient = true
		if b.anyExpired() {
			r.Fix, r.Transient = "Certificates have expired: `quorate apply` renews them on all hosts that can be reached, and brings the API back. Then run it again.", false
		}
		return nil, r
	}
	return nil, s.Incomplete(RuleAnswer, "`quorate status` shows more; `quorate apply` builds the cluster.")
}

// anyExpired says that certificates have expired without which programs of the cluster do not work.
func (b *builder) anyExpired() bool {
	return slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool {
		return b.TrustsExpired(h.Name) || slices.ContainsFunc(b.ExpiredOn(h.Name), func(c facts.Certificate) bool { return !ofAdministrator(c) })
	})
}

func (b *builder) folded() (*Plan, error) {
	if err := b.fold(); err != nil {
		return nil, err
	}
	b.out.Steps = b.list()
	return b.out, nil
}

// takePart refuses hosts that are not part of the cluster: the cluster would remember their maintenance, and apply would leave them as they are.
func (b *builder) takePart(t Target) error {
	for _, h := range t.Hosts {
		if b.stranger(h) {
			return refused(RuleJoined, h.Name+" is in the spec, and not part of the cluster yet: nothing runs on it that could be taken out of service",
				"Power it off as you want. Afterwards, `quorate apply` has it join. If it is not to join, take it out of the spec.")
		}
	}
	return nil
}

// stranger says that a host that can be reached is no part of the cluster: it carries none, and neither the API nor etcd knows it.
func (b *builder) stranger(h spec.Host) bool {
	_, member := b.Member(h.Name)
	seen := b.Seen.Hosts[h.Name]
	return b.State.Reachable(h.Name) && !b.Joined(h) && b.Node(h.Name) == nil && !member && !b.MemberUnknown(h.Name) && seen.BalancerError == "" && (seen.Balancer == nil || seen.Balancer.WrittenFor == "")
}

func (b *builder) reachable(t Target, fix string) error {
	var why []string
	for _, h := range t.Hosts {
		if !b.State.Reachable(h.Name) {
			why = append(why, h.Name+": "+b.State.Unreachable()[h.Name])
		}
	}
	if len(why) == 0 {
		return nil
	}
	return refused(RuleReachable, "these hosts cannot be reached: "+strings.Join(why, "; "), fix)
}

// drained says that a load balancer was told to send no clients to the control plane.
func (b *builder) drained(host string) bool {
	return slices.ContainsFunc(b.Present().BalancerHosts(), func(lb spec.Host) bool {
		seen := b.Seen.Hosts[lb.Name].Balancer
		return seen != nil && slices.ContainsFunc(seen.Backends, func(x facts.Backend) bool { return x.Name == host && x.Drained })
	})
}

// leave is the order in which hosts are taken out of service. What would be refused is found out first; then the cluster
// remembers the maintenance, so that nothing relies on the hosts any more and a run that is cut short can be finished or undone.
func (b *builder) leave(t Target, o MaintainOptions) *Step {
	var checked []*Step
	for _, h := range t.Hosts {
		if h.IsNode() {
			checked = append(checked, b.checkDrain(h.Name, o.Force))
		}
	}
	hosts := cluster.Names(t.Hosts)
	began := b.addInTurn(Step{Kind: BeginMaintenance, Detail: t.detail(), Title: "begin the maintenance of " + t.String(), Hosts: hosts,
		Reason: "nothing may rely on a host that can be powered off at any moment", Change: t.change(cluster.Stop)}, checked...)
	all := []*Step{began}
	for _, h := range t.Hosts {
		last := began
		if h.IsNode() {
			last = b.drainNode(h.Name, "its workloads run on elsewhere", o.Force, t.Hosts, last)
		}
		if b.Present().Balances(h) && len(b.Present().BalancerHosts()) > 1 {
			last = b.moveVirtualIP(h.Name, "clients are sent to another load balancer before this one is stopped", last)
		}
		member := slices.ContainsFunc(b.c.EtcdHosts(), func(e spec.Host) bool { return e.Name == h.Name })
		if h.Has(spec.RoleControlPlane) || member {
			last = b.moveLeadership(h.Name, "no election has to wait for a leader that vanished", last)
		}
		if h.Has(spec.RoleControlPlane) {
			if pools := b.leavePools(h.Name, "new clients go to other API servers; those that it has follow when this one stops", last); pools != nil {
				last = pools
			}
			last = b.addInTurn(Step{Kind: StopPrograms, Host: h.Name, Title: "stop the API server, controller manager and scheduler", Pods: controlPrograms,
				Reason: "an API server that ends gracefully sends its clients to others, and no client waits for one that vanished", Change: change(cluster.Stop, cluster.APIPrograms, h.Name)}, last)
		} else if member {
			last = b.addInTurn(Step{Kind: StopPrograms, Host: h.Name, Title: "stop the etcd member", Reason: "API servers that use it go on with another member, and none waits for one that vanished",
				Change: change(cluster.Stop, cluster.EtcdMember, h.Name)}, last)
		}
		all = append(all, last)
	}
	return b.addInTurn(Step{Kind: ConfirmMaintenance, Detail: t.detail(), Title: "confirm that " + t.String() + " can be powered off", Hosts: hosts,
		Reason: "the cluster is evaluated once more without it", Change: t.change(cluster.Stop)}, all...)
}

func (t Target) detail() string {
	if t.Zone != "" {
		return "zone-" + t.Zone
	}
	return t.Hosts[0].Name
}

// back is the order in which a host is brought back: clients and workloads come when everything on it works, and last.
func (b *builder) back(h spec.Host, after ...*Step) error {
	var last *Step
	member := slices.ContainsFunc(b.c.EtcdHosts(), func(e spec.Host) bool { return e.Name == h.Name })
	switch {
	case h.Has(spec.RoleControlPlane):
		last = b.addInTurn(Step{Kind: StartPrograms, Host: h.Name, Title: "start the API server, controller manager and scheduler", Pods: controlPrograms,
			Reason: "they were stopped for the maintenance", Change: change(cluster.Start, cluster.APIPrograms, h.Name)}, after...)
	case member && !b.c.ExistingEtcd():
		last = b.addInTurn(Step{Kind: StartPrograms, Host: h.Name, Title: "start the etcd member", Reason: "it was stopped for the maintenance", Change: change(cluster.Start, cluster.EtcdMember, h.Name)}, after...)
	}
	if last != nil {
		after = []*Step{last}
	}
	last = b.add(Step{Kind: AwaitHost, Host: h.Name, Title: "wait until everything on the host works", Nodes: []string{h.Name},
		Reason: "an API server is ready long before the pod network of its node works"}, append(slices.Clone(after), b.last)...)
	if h.Has(spec.RoleControlPlane) {
		if pools := b.joinPools(h.Name, "it can serve clients again", last); pools != nil {
			last = pools
		}
	}
	if h.IsNode() {
		if b.othersCordon(h.Name) {
			b.out.Notes = append(b.out.Notes, fmt.Sprintf("node %s was cordoned before its maintenance and stays so", h.Name))
		} else {
			last = b.uncordonNode(h.Name, "it can run workloads again", last)
		}
	}
	b.addInTurn(Step{Kind: LeaveMaintenance, Host: h.Name, Title: "end the maintenance", Reason: "the cluster relies on it again", Change: change(cluster.Start, cluster.WholeHost, h.Name)}, last)
	return nil
}

// othersCordon says that somebody else than Quorate has cordoned a node. A maintenance that an older version of Quorate began left no mark
// on the node, and only remembers whether it was cordoned before.
func (b *builder) othersCordon(host string) bool {
	n := b.Node(host)
	m, in := b.Maintenance(host)
	return n != nil && n.Unschedulable && !n.Cordoned && (m.Cordoned || !in)
}
