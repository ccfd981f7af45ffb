package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/recovery"
	"quorate.dev/quorate/internal/spec"
)

// Verb is what a change does to its part.
type Verb string

const (
	// Create starts a part of a new cluster. It is allowed only where there is none.
	Create Verb = "create"
	// Add adds the part to a cluster that exists.
	Add Verb = "add"
	// Remove takes the part out of the cluster for good.
	Remove Verb = "remove"
	// Restart takes the part away for a moment.
	Restart Verb = "restart"
	// Stop takes the part away until it is started again.
	Stop Verb = "stop"
	// Start brings back a part that does not run.
	Start Verb = "start"
	// Reload has the part read its configuration again, without taking it away.
	Reload Verb = "reload"
	// Clear removes what an interrupted operation left on a host that is no part of the cluster.
	Clear Verb = "clear"
	// Move gives the virtual IP to another load balancer, or leadership to another host.
	Move Verb = "move"
	// Recover gives etcd a quorum again that it has lost for good: one member, from one copy of its data.
	Recover Verb = "recover"
	// Downgrade has etcd bring its data to an older version, so that older members can take over.
	Downgrade Verb = "downgrade"
	// Defragment has an etcd member rewrite its database. It answers nothing meanwhile. Members count for it that are full.
	Defragment Verb = "defragment"
)

// Part is what a change is made to.
type Part string

const (
	// EtcdMember is the etcd member on a host.
	EtcdMember Part = "etcd-member"
	// ControlPlane is the API server, controller manager and scheduler on a host; with stacked etcd, Add and Remove
	// concern its etcd member too.
	ControlPlane Part = "control-plane"
	// APIPrograms is the same without the etcd member.
	APIPrograms Part = "api-programs"
	// Node is the kubelet and containerd on a host. Containers survive a restart of both. Stopping it drains the node: its
	// workloads leave, and no new ones come.
	Node Part = "node"
	// LoadBalancer is HAProxy, keepalived and the watchdog on a host.
	LoadBalancer Part = "load-balancer"
	// PoolServer is the place of a control plane in the pools of the load balancers: stopping it drains the control plane.
	PoolServer Part = "pool-server"
	// PodNetwork is the pod network's agent on every node.
	PodNetwork Part = "pod-network"
	// VirtualIP is the address that the load balancers share. With a subject, it moves away from that host.
	VirtualIP Part = "virtual-ip"
	// Leadership is what the host leads: etcd, the controller managers, the schedulers. Another host takes over what moves.
	Leadership Part = "leadership"
	// Quorum is that of etcd, with all members and API servers.
	Quorum Part = "quorum"
	// WholeHost and WholeZone are everything that runs there.
	WholeHost Part = "host"
	WholeZone Part = "zone"
	// WholeCluster is everything, on all hosts. Removing it is the end of the cluster.
	WholeCluster Part = "cluster"
)

// Change is the effect of an operation on the cluster's ability to survive failures. Every step that stops, restarts, adds
// or removes anything carries one, and is made only with a Permit for it.
type Change struct {
	Verb Verb `json:"verb"`
	Part Part `json:"part"`
	// Subject is the host, or the zone of WholeZone; empty for parts that are not on one host.
	Subject string `json:"subject,omitempty"`
	// Kubernetes and Etcd are the versions that the part runs afterwards; empty if it keeps the one that it runs.
	Kubernetes string `json:"kubernetes,omitempty"`
	Etcd       string `json:"etcd,omitempty"`
}

func (c Change) String() string {
	noun := map[Part]string{EtcdMember: "the etcd member", ControlPlane: "the control plane", APIPrograms: "the API server, controller manager and scheduler",
		Node: "the node", LoadBalancer: "the load balancer", PodNetwork: "the pod network", PoolServer: "the server in the load balancers' pools", VirtualIP: "the virtual IP", Quorum: "the quorum of etcd", Leadership: "leadership", WholeHost: "host", WholeZone: "zone", WholeCluster: "the whole cluster"}[c.Part]
	ing := map[Verb]string{Create: "creating", Add: "adding", Remove: "removing", Restart: "restarting", Stop: "stopping", Start: "starting", Reload: "reloading", Clear: "clearing", Move: "moving", Downgrade: "downgrading", Recover: "recovering", Defragment: "defragmenting"}[c.Verb]
	if c.Verb == Clear && c.Part == EtcdMember {
		noun = "the data of a former etcd member"
	}
	switch {
	case c.Part == Node && c.Verb == Stop:
		ing = "draining"
	case c.Part == Node && c.Verb == Start:
		ing = "uncordoning"
	}
	switch {
	case c.Subject == "":
		return ing + " " + noun
	case c.Verb == Move:
		return ing + " " + noun + " away from " + c.Subject
	case c.Part == WholeHost || c.Part == WholeZone:
		return ing + " " + noun + " " + c.Subject
	}
	return ing + " " + noun + " on " + c.Subject
}

// Disruptive says that the change takes something away, for a moment or for good. Only one disruptive change is made at a
// time. When the whole cluster goes, nothing is left to protect, and its hosts go together.
func (c Change) Disruptive() bool {
	if c.Part == WholeCluster {
		return false
	}
	return c.Verb == Remove || c.Verb == Restart || c.Verb == Stop || c.Verb == Move || c.Verb == Defragment
}

// Looks is how many observations in a row must allow the change. One is not enough where a change relies on parts that work
// elsewhere: a member that crashes again and again looks healthy in between. The takeover is only tested while nobody uses the
// cluster, and drains rely on what HAProxy has found in several checks.
func (c Change) Looks() int {
	relies := c.Disruptive() || c.Verb == Add
	switch c.Part {
	case EtcdMember, ControlPlane, APIPrograms, LoadBalancer, WholeHost, WholeZone:
		if relies {
			return 2
		}
	}
	return 1
}

// Permit is the proof that a change was evaluated on an observation and is allowed. Only State.Allow and State.AllowLoss make one;
// operations that change a host demand it.
type Permit struct {
	change Change
	valid  bool
}

// Covers returns an error unless the permit is for a change on the host.
func (p Permit) Covers(host string) error {
	switch {
	case !p.valid:
		return fmt.Errorf("changing %s: nothing was permitted", host)
	case p.change.Subject != "" && p.change.Subject != host && p.change.Part != WholeZone && p.change.Part != PoolServer:
		return fmt.Errorf("changing %s: the permit is for %s", host, p.change)
	}
	return nil
}

// IDs of the rules that refuse changes.
const (
	RuleNewCluster   = "new-cluster"           // a cluster is created only where there is none
	RuleInitial      = "initial-members"       // a new etcd has the members that it began with
	RuleKnownMember  = "known-member"          // the subject of a change exists
	RuleMajorityNow  = "etcd-majority-now"     // etcd can decide a change of its members
	RuleOneChange    = "one-membership-change" // one membership change at a time
	RuleEnough       = "enough-left"           // enough of every part works, in the worst case
	RuleOldData      = "old-data"              // a new member begins with an empty data directory
	RuleSuccessor    = "virtual-ip-successor"  // another load balancer is ready to take the virtual IP
	RuleLeader       = "leadership-successor"  // another host is ready to lead
	RuleOneHolder    = "one-virtual-ip-holder" // the virtual IP never has two holders
	RuleQuorumLost   = "quorum-lost"           // a quorum is recovered only when it is lost for good, as the user decided
	RuleNoPart       = "no-part-of-it"         // what is cleared is no part of a cluster
	RuleUnknown      = "nothing-unknown"       // nothing that matters is unknown
	RuleOnlyInLab    = "only-in-a-lab"         // what a cluster needs is taken away on purpose only in a lab
	fixRepairMembers = "Repair or remove the failed members first; `quorate status` shows them."
)

// effect is what a change does to the placements: while it is made and if it fails, and once it has taken effect.
type effect struct{ worst, done []quorum.Placement }

// effect projects a change. The worst case counts what is added as failed, and what is restarted as away. A cluster with
// fewer than two voters has no other way to grow, so the second voter is not counted as failed.
func (s *State) effect(c Change) effect {
	worst, done := slices.Clone(s.placements), slices.Clone(s.placements)
	at := func(placements []quorum.Placement) *quorum.Placement {
		i := slices.IndexFunc(placements, func(p quorum.Placement) bool { return p.Host == c.Subject })
		if i < 0 {
			return nil
		}
		return &placements[i]
	}
	ensure := func(placements *[]quorum.Placement) *quorum.Placement {
		if p := at(*placements); p != nil {
			return p
		}
		zone := ""
		if h, ok := s.present.Host(c.Subject); ok {
			zone = h.Zone
		}
		*placements = append(*placements, quorum.Placement{Host: c.Subject, Zone: zone})
		return at(*placements)
	}
	parts := s.partsOf(c)
	start := func(p *quorum.Placement) {
		for _, part := range parts {
			if st := *part(p); st == quorum.Down || st == quorum.Withdrawn {
				*part(p) = quorum.Up
			}
		}
	}
	switch c.Verb {
	case Add, Create:
		voters, _ := quorum.Count(s.placements, quorum.Member)
		w, d := ensure(&worst), ensure(&done)
		for _, part := range parts {
			*part(w), *part(d) = quorum.Down, quorum.Up
		}
		if voters < 2 && w.Member == quorum.Down {
			w.Member = quorum.Up
		}
	case Remove:
		for _, p := range []*quorum.Placement{at(worst), at(done)} {
			for _, part := range parts {
				if p != nil {
					*part(p) = quorum.Absent
				}
			}
		}
	case Restart, Stop, Defragment:
		take := func(placements []quorum.Placement) {
			for i := range placements {
				p := &placements[i]
				if !c.concerns(p.Host, p.Zone) {
					continue
				}
				for _, part := range parts {
					if st := *part(p); st == quorum.Up || st == quorum.Unknown || st == quorum.Withdrawn {
						*part(p) = quorum.Down
					}
				}
			}
		}
		take(worst)
		if c.Verb == Stop {
			take(done)
		}
		if p := at(done); p != nil && (c.Kubernetes != "" || c.Etcd != "") {
			start(p) // what is replaced runs afterwards, also if it did not before
		}
	case Start:
		if p := at(done); p != nil {
			start(p)
		}
	}
	return effect{worst, done}
}

// partsOf are the parts of a placement that a change concerns.
func (s *State) partsOf(c Change) []quorum.Part {
	programs := []quorum.Part{quorum.APIServer, quorum.ControllerManager, quorum.Scheduler}
	switch c.Part {
	case EtcdMember:
		return []quorum.Part{quorum.Member}
	case APIPrograms:
		return programs
	case ControlPlane:
		if s.Spec.StackedEtcd() {
			programs = append(programs, quorum.Member)
		}
		return append(programs, s.joinedWorker(c)...)
	case LoadBalancer:
		return []quorum.Part{quorum.Balancer}
	case Node:
		if c.Verb == Stop || c.Verb == Start || c.Verb == Remove {
			return []quorum.Part{quorum.Worker}
		}
		return s.joinedWorker(c)
	case WholeHost, WholeZone:
		return append(programs, quorum.Member, quorum.Balancer, quorum.Worker)
	}
	return nil
}

// joinedWorker is the place for workloads that a new node of the spec brings.
func (s *State) joinedWorker(c Change) []quorum.Part {
	if h, _ := s.present.Host(c.Subject); c.Verb == Add && h.Has(spec.RoleWorker) {
		return []quorum.Part{quorum.Worker}
	}
	return nil
}

// After is the state as it will be when the change has taken effect. The planner folds the changes of a plan with it, so
// that a plan is refused as a whole if it becomes unsafe at any step.
func (s *State) After(c Change) *State {
	out := *s
	out.placements = s.effect(c).done
	out.moved = s.move(c)
	if c.Part == PoolServer {
		out.pooled = with(s.pooled, c.Subject, c.Verb == Start)
	}
	if c.Part == APIPrograms && c.Verb == Restart || c.Part == ControlPlane && (c.Verb == Add || c.Verb == Restart) {
		out.restarted = with(s.restarted, c.Subject, true)
	}
	if c.Part == ControlPlane && c.Verb == Add {
		out.pooled = with(s.pooled, c.Subject, true) // load balancers find it when it serves
	}
	if c.Part == LoadBalancer {
		out.configured = with(s.configured, c.Subject, c.Verb != Remove && c.Verb != Stop)
	}
	if c.Part == WholeHost || c.Part == WholeZone {
		for _, h := range s.present.Spec.Hosts {
			if c.concerns(h.Name, h.Zone) && (c.Verb == Stop || c.Verb == Start) {
				out.withdrawn = with(out.withdrawn, h.Name, c.Verb == Stop)
			}
		}
	}
	if c.Verb == Remove && s.changesMembers(c) {
		out.gone = with(out.gone, c.Subject+"/"+etcdProgram, true)
	}
	if c.Verb == Remove && (c.Part == Node || c.Part == WholeHost) {
		out.gone = with(out.gone, c.Subject+"/"+facts.Kubelet, true)
	}
	if c.Verb == Add {
		out.gone = with(with(out.gone, c.Subject+"/"+etcdProgram, false), c.Subject+"/"+facts.Kubelet, false)
	}
	if c.Verb == Clear || c.Verb == Remove && c.Part == EtcdMember {
		out.cleared = with(s.cleared, c.Subject, true)
	}
	return &out
}

// concerns says that the host is the change's subject, or in the zone that is.
func (c Change) concerns(host, zone string) bool {
	if c.Part == WholeZone {
		return zone == c.Subject
	}
	return host == c.Subject
}

// with is a copy of a set with one more entry.
func with(set map[string]bool, name string, in bool) map[string]bool {
	out := maps.Clone(set)
	if out == nil {
		out = map[string]bool{}
	}
	out[name] = in
	return out
}

// Worst is the state while the change is made, or if it goes wrong.
func (s *State) Worst(c Change) *State {
	out := *s
	out.placements = s.effect(c).worst
	return &out
}

// Allow evaluates a change. It returns the permit to make it, or the reason why it must not be made now.
func (s *State) Allow(c Change) (Permit, *Refusal) { return s.evaluate(c) }

// AllowLoss evaluates a change that may take away what the cluster needs, on purpose: a fault of a drill that shows what an audit predicts.
// It is for machines of a lab alone, whose owner brings them back, and only for stopping something. Every rule counts, except for those that
// ask whether enough is left. It is the only exception to the rules, and only drill.Permit uses it.
func (s *State) AllowLoss(c Change, lab bool) (Permit, *Refusal) {
	switch {
	case !lab:
		return Permit{}, OnlyInLab()
	case c.Verb != Stop:
		return Permit{}, &Refusal{Rule: RuleOnlyInLab, Why: c.String() + " is not a fault that a drill can undo", Fix: "`quorate drill --list` shows the faults."}
	}
	return s.evaluate(c, RuleEnough, RuleSuccessor)
}

// OnlyInLab refuses what AllowLoss permits, for hosts that are not machines of a lab.
func OnlyInLab() *Refusal {
	return &Refusal{Rule: RuleOnlyInLab, Why: "a fault beyond the margins takes away what the cluster needs, and its hosts are not machines of a lab",
		Fix: "Drill without `--beyond-margins`, or drill a cluster in a lab: `quorate up` creates one."}
}

// evaluate applies all rules but some.
func (s *State) evaluate(c Change, but ...string) (Permit, *Refusal) {
	if c.Verb == Defragment {
		s = s.whileFull()
	}
	s = s.keepingUp(c)
	for _, rule := range []func(Change) *Refusal{s.ruleNewCluster, s.ruleDead, s.ruleOldData, s.ruleOwnData, s.ruleMembership, s.ruleEnough, s.ruleSuccessor, s.ruleLeader, s.ruleOneHolder, s.ruleDrain, s.ruleFormerEtcd, s.ruleEnd, s.ruleNoPart, s.ruleSkew, s.ruleQuorumLost} {
		if r := rule(c); r != nil && !slices.Contains(but, r.Rule) {
			return Permit{}, r
		}
	}
	return Permit{change: c, valid: true}, nil
}

// ruleNewCluster keeps a second cluster from being created where there is one, or where nobody can tell.
func (s *State) ruleNewCluster(c Change) *Refusal {
	if c.Verb != Create {
		return nil
	}
	switch s.stage {
	case Absent, Partial:
	case Undetermined:
		return &Refusal{Rule: RuleNewCluster, Why: c.String() + " requires that no host belongs to a cluster, and some hosts could not be queried: " + s.unreachableText(),
			Fix: "Bring these hosts up, or take them out of the spec.", Transient: true}
	default:
		return &Refusal{Rule: RuleNewCluster, Why: c.String() + " would create a second cluster: these hosts already belong to one",
			Fix: "`quorate status` shows it."}
	}
	if c.Part == EtcdMember || c.Part == ControlPlane && s.Spec.StackedEtcd() {
		return s.InitialMembers()
	}
	return nil
}

// InitialMembers compares the members that etcd began with on the hosts where it began with those that the spec names now.
// A majority of other members would be a second etcd with the same keys, so nothing may be started while they differ.
func (s *State) InitialMembers() *Refusal {
	if s.Spec.ExistingEtcd() {
		return nil
	}
	var want []string
	for _, h := range s.Spec.EtcdHosts() {
		want = append(want, h.Name+"="+spec.PeerURL(h.Address))
	}
	slices.Sort(want)
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil || len(f.Kubernetes.EtcdInitial) == 0 || s.Exists() {
			continue
		}
		have := slices.Sorted(slices.Values(f.Kubernetes.EtcdInitial))
		if !slices.Equal(have, want) {
			return &Refusal{Rule: RuleInitial, Why: fmt.Sprintf("etcd on %s was started with the members %s, but the spec now has %s: starting others would create a second etcd with the same keys",
				h.Name, strings.Join(have, ", "), strings.Join(want, ", ")),
				Fix: "Put the hosts that etcd began with back into the spec and run `quorate apply` until the cluster is complete. Or start over: `quorate reset --all`, and then `quorate apply`."}
		}
	}
	return nil
}

// ruleDead keeps a host that may work from being removed as if it were dead.
func (s *State) ruleDead(c Change) *Refusal {
	parts := []Part{EtcdMember, ControlPlane, Node, LoadBalancer, WholeHost}
	h, known := s.present.Host(c.Subject)
	if c.Verb != Remove || !slices.Contains(parts, c.Part) || !known || s.Reachable(c.Subject) {
		return nil
	}
	return s.Dead(h)
}

// ruleOldData keeps a member from joining with the data of an earlier one: etcd would refuse it after the cluster has
// counted on it.
func (s *State) ruleOldData(c Change) *Refusal {
	if c.Verb != Add || c.Part != EtcdMember && (c.Part != ControlPlane || !s.Spec.StackedEtcd()) {
		return nil
	}
	m, has := s.Member(c.Subject)
	unfinished := has && m.Learner && c.Part == EtcdMember && s.UntrustedData(m) == "" // its own join goes on
	if f := s.Facts(c.Subject); f != nil && f.Kubernetes.EtcdData && !s.cleared[c.Subject] && !unfinished {
		fix := "clear " + c.Subject + ": " + facts.HowToClear()
		if k := f.Kubernetes; k.Begun || k.Established || k.Adopted || f.HasBundle() {
			fix = "run `quorate reset " + c.Subject + "`"
		}
		fix = "If nobody needs this data any more, " + fix + ". Then run it again."
		if (!has || m.Learner) && f.Kubernetes.Established && c.Part == EtcdMember { // as a repair leaves it that was interrupted
			fix = "`quorate repair` keeps this data aside, and has the host join etcd again."
		}
		return &Refusal{Rule: RuleOldData, Why: c.Subject + " has the etcd data of an earlier member in /var/lib/etcd", Fix: fix}
	}
	return nil
}

// ruleQuorumLost allows a recovery only on what was found on the hosts, and only as it was decided.
func (s *State) ruleQuorumLost(c Change) *Refusal {
	switch {
	case c.Verb != Recover:
		return nil
	case s.Seen.LostQuorum == nil || s.Seen.LostQuorum.Decision == nil || s.Seen.LostQuorum.Decision.Host == "":
		return &Refusal{Rule: RuleQuorumLost, Why: c.String() + " is not possible: nobody has decided from which data", Fix: "Run `quorate recover`."}
	}
	if o := s.Judgment().Obstacles; len(o) > 0 {
		return &Refusal{Rule: RuleQuorumLost, Why: o[0].Why, Fix: o[0].Fix}
	}
	return nil
}

// Judgment is what follows from what is left of etcd. It needs an observation with LostQuorum.
func (s *State) Judgment() *recovery.Judgment { return recovery.Judge(s.present, s.Seen) }

// changesMembers says that the change alters who may vote.
func (s *State) changesMembers(c Change) bool {
	return (c.Verb == Add || c.Verb == Remove) && slices.ContainsFunc(s.partsOf(c), func(p quorum.Part) bool {
		var probe quorum.Placement
		return p(&probe) == &probe.Member
	})
}

// ruleMembership holds for changes of etcd's membership: etcd has a majority that decides them, and there is no other
// change under way.
func (s *State) ruleMembership(c Change) *Refusal {
	if !s.changesMembers(c) {
		return nil
	}
	own := slices.IndexFunc(s.placements, func(p quorum.Placement) bool { return p.Host == c.Subject })
	if c.Part == WholeHost {
		if own < 0 || s.placements[own].Member == quorum.Absent {
			return nil // it left etcd before
		}
		return &Refusal{Rule: RuleKnownMember, Transient: s.placements[own].Member == quorum.Unknown, Why: c.String() + " is not possible while etcd counts its member", Fix: "Take the host out of the spec and run `quorate apply`: its member leaves etcd first."}
	}
	if c.Verb == Remove && (own < 0 || s.placements[own].Member == quorum.Absent) {
		return &Refusal{Rule: RuleKnownMember, Why: c.String() + " is not possible: etcd has no member of that name", Fix: "`quorate status` shows the members."}
	}
	voters, up := quorum.Count(s.placements, quorum.Member)
	if need := quorum.Majority(voters); up < need {
		return &Refusal{Rule: RuleMajorityNow, Have: up, Need: need, Transient: s.anyUnknownMember(),
			Why: fmt.Sprintf("%s needs a majority of etcd's members, and %d of %d are known to work (%d are needed)%s", c, up, voters, need, s.membersText()),
			Fix: "Start the failed members again; `quorate status` shows them."}
	}
	for _, p := range s.placements {
		if p.Member == quorum.Learner && p.Host != c.Subject {
			return &Refusal{Rule: RuleOneChange, Transient: true, Why: fmt.Sprintf("%s has to wait: %s is still a learner, and only one membership change at a time is safe", c, p.Host),
				Fix: "Wait until it is promoted. If it never catches up, run `quorate apply` with it in the spec."}
		}
	}
	if voters == 1 && c.Verb == Remove && s.placements[own].Member != quorum.Learner {
		return &Refusal{Rule: RuleEnough, Have: 0, Need: 1, Why: c.String() + " would leave etcd without any member", Fix: "Add another member first."}
	}
	return nil
}

// ruleEnough is the rule of every change: enough of each part that it concerns works in the worst case.
func (s *State) ruleEnough(c Change) *Refusal {
	if c.Verb == Create {
		return nil // nobody relies on a cluster that is not complete
	}
	worst := s.effect(c).worst
	before := slices.Clone(s.placements)
	if c.Verb == Stop || c.Verb == Restart || c.Verb == Defragment {
		// A host that is in maintenance does not count, but as long as it works, stopping it takes something away.
		for i := range before {
			if c.concerns(before[i].Host, before[i].Zone) {
				before[i] = working(before[i])
			}
		}
	}
	for _, short := range quorum.Short(before, worst) {
		if (c.Verb == Restart || c.Verb == Defragment) && short.Total == 1 {
			continue // the spec chose a single one, so there is no redundancy to protect; the plan says what it costs
		}
		r := &Refusal{Rule: RuleEnough, Have: short.Have, Need: short.Need, Transient: s.anyNotUp(),
			Why: fmt.Sprintf("%s leaves %d of %d working %ss in the worst case, and %d are needed", c, short.Have, short.Total, short.Part, short.Need),
			Fix: "Bring the others back first; `quorate status` shows what is wrong with them."}
		switch others := slices.DeleteFunc(s.InMaintenance(), func(name string) bool { h, _ := s.present.Host(name); return c.concerns(h.Name, h.Zone) }); {
		case len(others) > 0:
			r.Why += "; " + List(others) + plural(len(others), " is", " are") + " in maintenance"
			r.Fix = "End that maintenance first: `quorate maintain --undo " + others[0] + "`."
		case short.Total == 1:
			r.Fix = "Add another " + short.Part + " to the spec first: there is only this one."
		case short.Part == "etcd member":
			r.Why, r.Fix = r.Why+s.membersText(), fixRepairMembers
			if voters, up := quorum.Count(s.placements, quorum.Member); voters == up {
				r.Fix, r.Transient = "No member is failed, and none can be spared: add a host with another member to the spec and run `quorate apply`.", false
			}
		}
		return r
	}
	return nil
}

// working is a placement whose withdrawn parts count.
func working(p quorum.Placement) quorum.Placement {
	for _, part := range quorum.Parts {
		if *part(&p) == quorum.Withdrawn {
			*part(&p) = quorum.Up
		}
	}
	return p
}

// ruleSuccessor keeps the virtual IP where clients use it until another load balancer is ready to take it.
func (s *State) ruleSuccessor(c Change) *Refusal {
	if s.stage == Absent || s.stage == Partial {
		return nil // nobody relies on a cluster that is not complete
	}
	if c.Part == VirtualIP {
		holders, _ := s.Holders()
		if c.Subject != "" && !s.Holds(c.Subject) {
			return nil // it has no virtual IP to move
		}
		return s.successorOf(cmp.Or(c.Subject, strings.Join(holders, ",")), c)
	}
	takes := (c.Verb == Restart || c.Verb == Stop || c.Verb == Remove) && slices.ContainsFunc(s.partsOf(c), func(p quorum.Part) bool {
		var probe quorum.Placement
		return p(&probe) == &probe.Balancer
	})
	if !takes {
		return nil
	}
	_, unknown := s.Holders()
	if c.Part == WholeZone {
		for _, h := range s.present.Spec.Hosts {
			if r := s.successorOf(h.Name, c); h.Zone == c.Subject && s.Holds(h.Name) && r != nil {
				return r
			}
		}
		return nil
	}
	switch {
	case slices.Contains(unknown, c.Subject):
		return &Refusal{Rule: RuleUnknown, Transient: true, Why: fmt.Sprintf("%s is not safe: whether %s has the virtual IP could not be queried", c, c.Subject), Fix: "`quorate status` shows why."}
	case !s.Holds(c.Subject):
		return nil
	case !s.Endpoint().OK && s.Endpoint().Known() && !s.Serves(c.Subject).OK:
		return nil // nobody is served there, so nothing is lost
	}
	return s.successorOf(c.Subject, c)
}

func (s *State) successorOf(holder string, c Change) *Refusal {
	var why []string
	for _, h := range s.Spec.BalancerHosts() {
		if h.Name == holder || c.Part == WholeZone && c.concerns(h.Name, h.Zone) || s.leaving(h.Name) {
			continue
		}
		a := s.Serves(h.Name)
		if a.OK || s.configured[h.Name] {
			return nil
		}
		why = append(why, h.Name+": "+a.Problem+a.Unknown)
	}
	if len(why) == 0 {
		why = []string{"there is no other load balancer"}
	}
	return &Refusal{Rule: RuleSuccessor, Need: 1, Transient: true, Why: fmt.Sprintf("%s takes the virtual IP away, and no other load balancer is ready to take it over (%s)", c, strings.Join(why, "; ")),
		Fix: "Bring another load balancer back first; `quorate status` shows what is wrong with it."}
}

// ruleLeader moves leadership only when another host can lead.
func (s *State) ruleLeader(c Change) *Refusal {
	if c.Part != Leadership {
		return nil
	}
	own := slices.IndexFunc(s.placements, func(p quorum.Placement) bool { return p.Host == c.Subject })
	for _, k := range []struct {
		part quorum.Part
		name string
	}{{quorum.Member, "etcd member"}, {quorum.ControllerManager, "controller manager"}, {quorum.Scheduler, "scheduler"}} {
		if own < 0 || *k.part(&s.placements[own]) == quorum.Absent {
			continue
		}
		total, up := quorum.Count(s.placements, k.part)
		if *k.part(&s.placements[own]) == quorum.Up {
			up--
		}
		if up == 0 && total > 1 {
			return &Refusal{Rule: RuleLeader, Need: 1, Transient: s.anyNotUp(), Why: fmt.Sprintf("%s is not possible: no other %s is known to work", c, k.name),
				Fix: "Bring another one back first; `quorate status` shows what is wrong."}
		}
	}
	return nil
}

// ruleOneHolder keeps a load balancer that the others do not know as a peer yet from taking the virtual IP as well.
func (s *State) ruleOneHolder(c Change) *Refusal {
	if c.Verb != Add && c.Verb != Start || c.Part != LoadBalancer {
		return nil
	}
	for _, h := range s.present.BalancerHosts() {
		if h.Name == c.Subject || s.Departs(h.Name) && s.Dead(h) == nil {
			continue // a dead one that leaves is kept from the address when it comes back: see package hostside/balancer
		}
		b := s.Seen.Hosts[h.Name].Balancer
		switch {
		case s.configured[h.Name]:
		case b == nil && s.Seen.Hosts[h.Name].BalancerError != "", !s.Reachable(h.Name):
			return &Refusal{Rule: RuleOneHolder, Transient: true, Why: fmt.Sprintf("%s could make it a second holder of the virtual IP: whether %s knows %s as a peer could not be queried", c, h.Name, c.Subject),
				Fix: "Bring " + h.Name + " back first. If it is lost for good, take it out of the spec."}
		case b != nil && b.Healthy && !slices.ContainsFunc(b.Peers, func(address string) bool { return slices.Contains(s.vipAddresses(c.Subject), address) }):
			return &Refusal{Rule: RuleOneHolder, Transient: true, Why: fmt.Sprintf("%s would make it a second holder of the virtual IP: %s does not know %s as a peer yet", c, h.Name, c.Subject),
				Fix: "Run `quorate apply`: it configures " + h.Name + " first."}
		}
	}
	return nil
}

// ruleDrain keeps every load balancer that serves clients from being left without a server.
func (s *State) ruleDrain(c Change) *Refusal {
	if c.Part != PoolServer || c.Verb != Stop {
		return nil
	}
	asked := 0
	var unknown []string
	for _, h := range s.present.BalancerHosts() {
		a := s.LoadBalancer(h.Name)
		if !a.OK {
			unknown = append(unknown, h.Name+": "+a.Problem+a.Unknown)
			continue
		}
		asked++
		others := slices.ContainsFunc(s.Seen.Hosts[h.Name].Balancer.Backends, func(b facts.Backend) bool {
			serves := b.Healthy && !b.Drained
			if in, moved := s.pooled[b.Name]; moved {
				serves = in
			}
			return b.Name != c.Subject && serves && !s.leaving(b.Name)
		})
		for name, in := range s.pooled { // one that has joined since is not among those that were observed
			known := slices.ContainsFunc(s.Seen.Hosts[h.Name].Balancer.Backends, func(b facts.Backend) bool { return b.Name == name })
			others = others || in && !known && name != c.Subject && !s.leaving(name)
		}
		if !others {
			return &Refusal{Rule: RuleEnough, Have: 0, Need: 1, Transient: true, Why: "draining " + c.Subject + " leaves the load balancer on " + h.Name + " without an API server that it could send clients to",
				Fix: "Bring another control plane back first, or end its maintenance (`quorate maintain --undo`)."}
		}
	}
	if asked == 0 {
		return &Refusal{Rule: RuleUnknown, Transient: true, Why: "draining " + c.Subject + " is not possible: no load balancer answers (" + strings.Join(unknown, "; ") + ")", Fix: "`quorate status` shows why."}
	}
	return nil
}

// vipAddresses are the addresses at which the other load balancers can know a host.
func (s *State) vipAddresses(host string) []string {
	h, _ := s.present.Host(host)
	return h.VIPAddresses()
}

// anyUnknownMember says that a member may turn out to work, or to have caught up.
func (s *State) anyUnknownMember() bool {
	return slices.ContainsFunc(s.Seen.Etcd, s.Lags) || slices.ContainsFunc(s.placements, func(p quorum.Placement) bool { return p.Member == quorum.Unknown })
}

// anyNotUp says that something may come back if the caller waits. What is in maintenance does not.
func (s *State) anyNotUp() bool {
	for i := range s.placements {
		p := &s.placements[i]
		if s.leaving(p.Host) {
			continue
		}
		for _, st := range []quorum.State{p.Member, p.APIServer, p.ControllerManager, p.Scheduler, p.Balancer} {
			if st == quorum.Down || st == quorum.Unknown || st == quorum.Learner {
				return true
			}
		}
	}
	return false
}

// membersText lists the members that do not count, with the reason.
func (s *State) membersText() string {
	var reasons []string
	on := map[string][]string{}
	note := func(m facts.EtcdMember, one, many, why string) {
		name := s.MemberHost(m)
		key := one + "\x00" + many + "\x00" + strings.TrimPrefix(why, name+": ")
		if on[key] == nil {
			reasons = append(reasons, key)
		}
		on[key] = append(on[key], name)
	}
	for _, m := range s.Seen.Etcd {
		switch {
		case m.Learner:
			note(m, "is a learner", "are learners", "")
		case s.Lags(m):
			note(m, "is far behind the leader", "are far behind the leader", "")
		case m.Healthy:
		case m.Unknown != "":
			note(m, "could not be queried", "could not be queried", m.Unknown)
		default:
			note(m, "does not work", "do not work", m.Problem)
		}
	}
	var out []string
	for _, key := range reasons {
		part := strings.Split(key, "\x00")
		out = append(out, List(on[key])+" "+plural(len(on[key]), part[0], part[1])+after(": ", part[2]))
	}
	if s.Seen.Etcd == nil && s.Seen.EtcdError != "" {
		out = append(out, "no member could be queried: "+s.Seen.EtcdError)
	}
	return after(": ", strings.Join(out, "; "))
}

// after puts a separator before a text that is not empty.
func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

// Incomplete refuses what only a complete cluster allows: there is none on these hosts, or nobody can tell. Fix is what to do if there is none.
func (s *State) Incomplete(rule, fix string) *Refusal {
	if s.stage != Undetermined {
		return &Refusal{Rule: rule, Why: "there is no complete cluster on these hosts", Fix: fix}
	}
	away := s.Unreachable()
	names := slices.DeleteFunc(Names(s.Spec.Spec.Hosts), func(name string) bool { _, is := away[name]; return !is })
	who := "some hosts could not be queried"
	if len(names) > 0 {
		who = List(names) + " could not be queried: " + away[names[0]]
	}
	return &Refusal{Rule: rule, Subjects: names, Why: "it is unknown whether there is a complete cluster, because " + who,
		Fix: "Bring these hosts up, or make them reachable; `quorate status` says of each why it cannot be reached.", Transient: true}
}

func (s *State) unreachableText() string {
	var out []string
	for _, h := range s.Spec.Spec.Hosts {
		if why, dead := s.Unreachable()[h.Name]; dead {
			out = append(out, h.Name+": "+why)
		}
	}
	return strings.Join(out, "; ")
}
