package quorum

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// State says whether a part runs on a host, and whether it works.
type State uint8

// A part is not on the host at all, or is there and does not work, or works.
const (
	Absent State = iota
	Down
	Up
)

// Placement is what one host carries. A voter that is Down still counts for the quorum's size; a learner is no voter.
// Members and balancers that are Absent everywhere are not ours to judge: the user's own balancer, an etcd elsewhere.
type Placement struct {
	Host, Zone                 string // a host without a zone shares no failure
	Voter, APIServer, Balancer State
}

// Margins are how many more failures of each kind the cluster survives now; -1 means that it is lost already.
type Margins struct {
	// ControlPlanes counts hosts with an API server; a stacked etcd member goes with its host.
	ControlPlanes int `json:"controlPlanes"`
	Etcd          int `json:"etcd"`
	// LoadBalancers is nil for a balancer of the user's own, whose redundancy cannot be seen from here.
	LoadBalancers *int `json:"loadBalancers"`
	Zones         int  `json:"zones"`
}

// Survives computes all margins.
func Survives(placements []Placement) Margins {
	var all tally
	behind := slices.Clone(placements) // what is behind the balancers
	for i, p := range placements {
		all.add(p)
		behind[i].Balancer = Absent
	}
	var m Margins
	m.ControlPlanes, _ = margin(behind, func(p Placement) string {
		if p.APIServer == Absent {
			return ""
		}
		return p.Host
	})
	m.Etcd = max(all.voter.up-Quorum(all.voter.total), -1)
	if all.balancer.total > 0 {
		m.LoadBalancers = new(all.balancer.up - 1)
	}
	m.Zones, _ = ZoneMargin(placements)
	return m
}

// ZoneMargin is how many whole zones, the worst ones, may vanish with a quorum, an API server and a
// balancer left, and a smallest set of zones whose loss would be one too many.
func ZoneMargin(placements []Placement) (int, []string) {
	return margin(placements, func(p Placement) string { return p.Zone })
}

// CanStopHost says whether everything on the host may be away for a while.
func CanStopHost(placements []Placement, host string) error {
	return canLose(placements, "stopping "+host, func(p Placement) bool { return p.Host == host })
}

// CanStopZone says whether everything in the zone may be away for a while.
func CanStopZone(placements []Placement, zone string) error {
	return canLose(placements, "stopping zone "+zone, func(p Placement) bool { return p.Zone == zone })
}

// canLose judges what is left without the lost hosts. Only what they carry is judged: a host
// without a balancer may be stopped while all balancers are down.
func canLose(placements []Placement, what string, lost func(Placement) bool) error {
	var all, gone tally
	for _, p := range placements {
		all.add(p)
		if lost(p) {
			gone.add(p)
		}
	}
	if gone.voter.total > 0 {
		if err := enough(all.voter.total, all.voter.up-gone.voter.up, RuleAfter, what, "meanwhile",
			"wait until the other members are healthy, or repair them first"); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		rule, name string
		all, gone  counts
	}{
		{RuleAPIServer, "API server", all.apiServer, gone.apiServer},
		{RuleBalancer, "balancer", all.balancer, gone.balancer},
	} {
		if part.gone.total > 0 && part.all.up-part.gone.up < 1 {
			return &Refusal{Rule: part.rule, Have: part.all.up - part.gone.up, Need: 1,
				Message: fmt.Sprintf("%s leaves no healthy %s of %d", what, part.name, part.all.total),
				Fix:     "bring another one back first"}
		}
	}
	return nil
}

// tally counts the parts of some hosts.
type tally struct{ voter, apiServer, balancer counts }

type counts struct{ total, up int }

func (t *tally) add(p Placement) {
	t.voter.add(p.Voter)
	t.apiServer.add(p.APIServer)
	t.balancer.add(p.Balancer)
}

func (c *counts) add(s State) {
	if s != Absent {
		c.total++
	}
	if s == Up {
		c.up++
	}
}

// margin finds the worst case exactly, and without trying every set of groups: the cluster stops when one kind of
// part runs short, and a kind runs short soonest by losing the groups that carry most of it.
func margin(placements []Placement, group func(Placement) string) (int, []string) {
	var all tally
	groups := map[string]*tally{}
	for _, p := range placements {
		all.add(p)
		if name := group(p); name != "" {
			if groups[name] == nil {
				groups[name] = &tally{}
			}
			groups[name].add(p)
		}
	}
	var worst []string
	best := len(groups) // nothing else to lose
	for _, part := range []struct {
		all  counts
		need int
		of   func(*tally) int
	}{
		{all.voter, Quorum(all.voter.total), func(t *tally) int { return t.voter.up }},
		{counts{1, all.apiServer.up}, 1, func(t *tally) int { return t.apiServer.up }}, // without any, nothing serves
		{all.balancer, 1, func(t *tally) int { return t.balancer.up }},
	} {
		if part.all.total == 0 {
			continue
		}
		if part.all.up < part.need {
			return -1, nil
		}
		names := slices.SortedFunc(maps.Keys(groups), func(a, b string) int {
			return cmp.Or(cmp.Compare(part.of(groups[b]), part.of(groups[a])), cmp.Compare(a, b))
		})
		left := part.all.up
		for i, name := range names {
			if left -= part.of(groups[name]); left < part.need {
				if i < best {
					best, worst = i, names[:i+1]
				}
				break
			}
		}
	}
	return best, worst
}
