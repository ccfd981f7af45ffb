// Package quorum is the arithmetic of availability: how many failures a cluster survives, and whether it goes on working
// when some of its parts are away.
//
// Everything is a pure function of placements: which parts run on which hosts, and whether they work. Only a part that is
// known to work counts. A part that failed, that is starting, or that could not be queried may be missing in the next
// moment, so no rule relies on it.
package quorum

import (
	"cmp"
	"maps"
	"slices"
)

// State is the condition of one part on one host.
type State uint8

const (
	// Absent means that the host does not have this part.
	Absent State = iota
	// Down means that the part was queried and does not work.
	Down
	// Unknown means that the part could not be queried. It counts as little as one that is down, but nothing else may be
	// inferred from it.
	Unknown
	// Learner is a member of etcd that has no vote yet. Only Placement.Member can have this state.
	Learner
	// Withdrawn means that the part works, on a host that is in maintenance: it may be stopped at any moment.
	Withdrawn
	// Up means that the part works.
	Up
)

// Placement says which parts one host runs and in which condition they are. A host without a zone shares no failure with
// others.
type Placement struct {
	Host, Zone string
	// Member is the etcd member. A member that is Down or Unknown is still a voter.
	Member State
	// The programs of a control plane.
	APIServer, ControllerManager, Scheduler State
	// Balancer is a load balancer that Quorate manages.
	Balancer State
	// Worker is the node as a place for workloads. A control plane that takes none does not have this part, and a node that
	// is cordoned or not Ready is Down.
	Worker State
	// DNS is a replica of CoreDNS. Unlike the other parts, it is moved to another host when its own is lost.
	DNS State
}

// Part selects one kind of part of a placement.
type Part func(*Placement) *State

// The parts of a placement.
var (
	Member            Part = func(p *Placement) *State { return &p.Member }
	APIServer         Part = func(p *Placement) *State { return &p.APIServer }
	ControllerManager Part = func(p *Placement) *State { return &p.ControllerManager }
	Scheduler         Part = func(p *Placement) *State { return &p.Scheduler }
	Balancer          Part = func(p *Placement) *State { return &p.Balancer }
	Worker            Part = func(p *Placement) *State { return &p.Worker }
	DNS               Part = func(p *Placement) *State { return &p.DNS }
)

// Parts are all parts of a placement.
var Parts = []Part{Member, APIServer, ControllerManager, Scheduler, Balancer, Worker, DNS}

// Kind is a kind of parts of which enough must work.
type Kind struct {
	Name string // of one part
	Part Part
	// Need is how many must work of all that there are.
	Need func(total int) int
}

// The kinds of parts.
var (
	Members            = Kind{"etcd member", Member, Majority}
	APIServers         = Kind{"API server", APIServer, one}
	ControllerManagers = Kind{"controller manager", ControllerManager, one}
	Schedulers         = Kind{"scheduler", Scheduler, one}
	Balancers          = Kind{"load balancer", Balancer, one}
	// Workers are needed for workloads. A cluster without a place for them works, and its users would notice.
	Workers = Kind{"worker", Worker, func(total int) int { return min(total, 1) }}
	// Resolvers are needed to resolve names in pods. They count where whole zones are lost, and no operation is refused because of them: draining a
	// node moves them, and the scheduler replaces those that are lost.
	Resolvers = Kind{"CoreDNS replica", DNS, one}
)

// kinds are those without which the cluster does not work.
var kinds = []Kind{Members, APIServers, ControllerManagers, Schedulers, Balancers}

// guarded are those that no operation may take away entirely.
var guarded = append(slices.Clone(kinds), Workers)

func one(int) int { return 1 }

// Majority is how many of etcd's voters must agree: more than half of them.
func Majority(voters int) int { return voters/2 + 1 }

// Count returns how many hosts have the part, and on how many of them it works. Learners do not vote, so they are not
// counted.
func Count(placements []Placement, part Part) (total, up int) {
	for i := range placements {
		switch *part(&placements[i]) {
		case Absent, Learner:
		case Up:
			total, up = total+1, up+1
		default:
			total++
		}
	}
	return total, up
}

// Works reports whether etcd has a majority, and whether one of every other kind of part that the cluster has works.
func Works(placements []Placement) bool {
	for _, k := range kinds {
		if total, up := Count(placements, k.Part); total > 0 && up < k.Need(total) {
			return false
		}
	}
	return true
}

// Shortage says that too few parts of one kind would work.
type Shortage struct {
	Part string // etcd member, API server, controller manager, scheduler, load balancer, worker
	// Have parts of Total would work, and Need of them must.
	Have, Need, Total int
}

// Short compares placements before and after an operation. It returns a shortage for every kind of part of which the operation
// takes something away, or of which it makes more necessary, as one more voter of etcd can, and of which too few would work afterwards. Kinds that the
// operation leaves alone, or of which it adds or removes only what does not work, are not judged: a host without a load balancer may be stopped
// while all load balancers are down, and a worker may be added while no other one works.
func Short(before, after []Placement) (out []Shortage) {
	for _, k := range guarded {
		wasTotal, wasUp := Count(before, k.Part)
		total, up := Count(after, k.Part)
		need := k.Need(total)
		takes, asks := up < wasUp, need > max(k.Need(wasTotal), 1) // that the first one does not work yet is no loss
		if (takes || asks) && up < need {
			out = append(out, Shortage{Part: k.Name, Have: up, Need: need, Total: total})
		}
	}
	return out
}

// Margins are how many more failures of each kind the cluster survives now; -1 means that it does not work now.
type Margins struct {
	// ControlPlanes counts hosts with an API server, controller manager and scheduler; a stacked etcd member fails with
	// its host.
	ControlPlanes int `json:"controlPlanes"`
	Etcd          int `json:"etcd"`
	// LoadBalancers is nil for a load balancer of the user's own, whose redundancy cannot be observed.
	LoadBalancers *int `json:"loadBalancers"`
	// Zones counts whole zones with everything in them, replicas of CoreDNS included.
	Zones int `json:"zones"`
}

// Survives computes all margins.
func Survives(placements []Placement) Margins {
	var m Margins
	behind := slices.Clone(placements) // everything behind the load balancers
	for i := range behind {
		behind[i].Balancer = Absent
	}
	m.ControlPlanes, _ = margin(behind, kinds, func(p Placement) string {
		if p.APIServer == Absent {
			return ""
		}
		return p.Host
	})
	m.Etcd = EtcdMargin(placements)
	if total, up := Count(placements, Balancer); total > 0 {
		m.LoadBalancers = new(up - 1)
	}
	m.Zones, _ = ZoneMargin(placements)
	return m
}

// EtcdMargin is how many more etcd members may fail before the majority is lost, or -1 if it is lost now.
func EtcdMargin(placements []Placement) int {
	voters, up := Count(placements, Member)
	return max(up-Majority(voters), -1)
}

// ZoneMargin is how many whole zones, the worst ones, may fail while the cluster goes on working, and a smallest set of
// zones whose loss would be one too many. Name resolution in pods is part of what must go on, if it works now.
func ZoneMargin(placements []Placement) (int, []string) {
	needed := kinds
	if _, up := Count(placements, DNS); up > 0 { // otherwise no zone takes it away
		needed = append(slices.Clone(kinds), Resolvers)
	}
	return margin(placements, needed, func(p Placement) string { return p.Zone })
}

// margin finds the worst case without trying every set of groups: the cluster stops when one kind of part runs short, and
// a kind runs short soonest when the groups that hold most of it fail first.
func margin(placements []Placement, needed []Kind, group func(Placement) string) (int, []string) {
	groups := map[string][]Placement{}
	for _, p := range placements {
		if name := group(p); name != "" {
			groups[name] = append(groups[name], p)
		}
	}
	var worst []string
	best := len(groups) // nothing else can fail
	for _, k := range needed {
		total, left := Count(placements, k.Part)
		if total == 0 && k.Name != "API server" { // without any API server nothing serves
			continue
		}
		need := k.Need(total)
		if left < need {
			return -1, nil
		}
		holds := func(name string) int { _, up := Count(groups[name], k.Part); return up }
		names := slices.SortedFunc(maps.Keys(groups), func(a, b string) int {
			return cmp.Or(cmp.Compare(holds(b), holds(a)), cmp.Compare(a, b))
		})
		for i, name := range names {
			if left -= holds(name); left < need {
				if i < best {
					best, worst = i, names[:i+1]
				}
				break
			}
		}
	}
	return best, worst
}
