package dashboard

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
	"quorate.dev/quorate/internal/ui"
)

const (
	// mostAlone is how many hosts of a zone are shown one by one, whatever they are. In a zone with more of them, workers in the same condition are
	// one box.
	mostAlone = 12
	// fewest is how many workers make a box of their own.
	fewest = 3
)

// Zone is a zone with its hosts.
type Zone struct {
	Title string
	Hosts []Host
}

// Host is a host, or several in the same condition (Count).
type Host struct {
	ID, Name, Roles string
	State           Text
	// Why is what is behind the state, if there is more to say.
	Why string
	// Marks are what is special about it: the leader of etcd, the virtual IP.
	Marks    []string
	Programs []Program
	// Count is how many hosts this is, and Names are theirs; 0 for a single one.
	Count int
	Names string
}

// Program is a program of the cluster on a host.
type Program struct {
	Name, Version, Why string
	State              Text
}

// HostRow is a host in the table.
type HostRow struct {
	Name, Zone, Roles, Address, Version, Programs string
	State                                         Text
}

// order is that of programs in a box.
var order = []string{facts.Etcd, facts.APIServer, facts.ControllerManager, facts.Scheduler, facts.Kubelet, facts.Containerd, facts.KubeProxy, facts.Flannel, facts.HAProxy, facts.Keepalived}

// view is a host with everything that its box and its row say.
type view struct {
	Host
	spec    spec.Host
	version string
}

func (p *Page) hosts(s *cluster.State, x status.Status) {
	nodes := map[string]status.Node{}
	for _, n := range x.Nodes {
		nodes[n.Name] = n
	}
	members := map[string]status.Member{}
	for _, m := range x.Etcd.Members {
		members[m.Name] = m
	}
	holders := map[string]bool{}
	for _, b := range x.LoadBalancers {
		holders[b.Name] = b.Active
	}
	var zones []string
	in := map[string][]view{}
	counts := map[string]int{}
	for i, h := range x.Hosts {
		v := view{spec: s.Spec.Spec.Hosts[i], Host: Host{Name: h.Name, Roles: strings.Join(s.Spec.Spec.Hosts[i].Roles, ", ")}}
		node, isNode := nodes[h.Name]
		member, isMember := members[h.Name]
		v.version = node.Version
		v.Programs = programsOf(h, x, member, isMember)
		v.judge(h, node, isNode && s.Exists())
		if isMember && member.Leader {
			v.Marks = append(v.Marks, "etcd leader")
		}
		if holders[h.Name] {
			v.Marks = append(v.Marks, "virtual IP")
		}
		if x.Watch != nil && x.Watch.Leader == h.Name {
			v.Marks = append(v.Marks, "repairs")
		}
		if isNode && node.Cordoned && h.Maintenance == nil {
			v.Marks = append(v.Marks, "cordoned")
		}
		zone := v.spec.Zone
		if in[zone] == nil {
			zones = append(zones, zone)
		}
		in[zone] = append(in[zone], v)
		counts[v.State.Class]++
		p.Hosts = append(p.Hosts, HostRow{Name: v.Name, Zone: cmp.Or(zone, "–"), Roles: v.Roles, Address: cmp.Or(v.spec.Address, "–"), Version: cmp.Or(v.version, "–"),
			State: Text{strings.TrimSuffix(v.State.Words+": "+v.Why, ": "), v.State.Class}, Programs: cmp.Or(inWords(v.Programs), "–")})
	}
	slices.Sort(zones)
	for i, name := range zones {
		z := Zone{Title: "zone " + name, Hosts: grouped(in[name], fmt.Sprintf("zone-%d", i+1))}
		if name == "" {
			z.Title = "no zone"
		}
		p.Zones = append(p.Zones, z)
	}
	p.HostsSum = ui.Plural(len(x.Hosts), "host") + " in " + ui.Plural(len(zones), "zone")
	if bad := counts["bad"]; bad > 0 {
		p.HostsSum += fmt.Sprintf(", %d with something that does not work", bad)
	}
	if warn := counts["warn"]; warn > 0 {
		p.HostsSum += fmt.Sprintf(", %d degraded, unknown, or in maintenance", warn)
	}
}

// programsOf are the programs on a host, with its member of etcd.
func programsOf(h status.Host, x status.Status, member status.Member, isMember bool) (out []Program) {
	if isMember {
		state := textOf(x.MemberState(member))
		out = append(out, Program{Name: facts.Etcd, Version: member.Version, State: state, Why: cmp.Or(member.Problem, member.Unknown)})
	}
	for name, c := range h.Programs {
		program := Program{Name: name, Version: c.Version, State: Text{"works", "good"}}
		switch {
		case c.Unknown != "":
			program.State, program.Why = Text{"unknown", "warn"}, c.Unknown
		case !c.OK:
			program.State, program.Why = Text{"does not work", "bad"}, c.Problem
		}
		out = append(out, program)
	}
	place := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortFunc(out, func(a, b Program) int {
		return cmp.Or(cmp.Compare(place(a.Name), place(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// judge says in a word or two in which condition a host is. Where nobody can tell, it is unknown.
func (v *view) judge(h status.Host, node status.Node, isNode bool) {
	var broken, limited, unknown []string
	for _, p := range v.Programs {
		switch {
		case p.State.Class == "bad":
			broken = append(broken, p.Name)
		case p.State.Words == "unknown":
			unknown = append(unknown, p.Name)
		case p.State.Class == "warn":
			limited = append(limited, p.Name+": "+p.State.Words)
		}
	}
	switch {
	case h.Maintenance != nil:
		v.State, v.Why = Text{"maintenance", "warn"}, "since "+moment(h.Maintenance.Since)
	case !h.Reachable:
		v.State, v.Why, v.Programs = Text{"unknown", "warn"}, strings.TrimPrefix(cmp.Or(h.Unknown, "it could not be queried"), h.Name+": "), nil
	case len(broken) > 0:
		v.State, v.Why = Text{"broken", "bad"}, names(broken)+map[bool]string{true: " does", false: " do"}[len(broken) == 1]+" not work"
	case isNode && node.Problem != "":
		v.State, v.Why = Text{"not Ready", "bad"}, node.Problem
	case isNode && !node.Ready && node.Unknown == "":
		v.State = Text{"not Ready", "bad"}
	case len(limited) > 0:
		v.State, v.Why = Text{"degraded", "warn"}, strings.Join(limited, ", ")
	case len(unknown) > 0:
		v.State, v.Why = Text{"unknown", "warn"}, "not known to work: "+names(unknown)
	case isNode && node.Unknown != "":
		v.State, v.Why = Text{"unknown", "warn"}, node.Unknown
	case len(v.Programs) == 0:
		v.State = Text{"nothing runs here", ""}
	default:
		v.State = Text{"works", "good"}
	}
}

// impersonal is a text without the name and the address of the host, so that it is the same for all hosts in the same condition.
func (v *view) impersonal(text string) string {
	for _, own := range []string{v.spec.Address, v.Name} {
		if own != "" {
			text = strings.ReplaceAll(text, own, "…")
		}
	}
	return text
}

// grouped are the boxes of a zone. Hosts other than workers, and workers about which something is special, are always shown one by one.
func grouped(all []view, id string) (out []Host) {
	rank := func(v view) int {
		switch {
		case v.spec.Has(spec.RoleControlPlane):
			return 0
		case v.spec.Has(spec.RoleEtcd):
			return 1
		case v.spec.Has(spec.RoleLoadBalancer):
			return 2
		}
		return 3
	}
	slices.SortStableFunc(all, func(a, b view) int { return cmp.Compare(rank(a), rank(b)) })
	key := func(v view) string { return v.State.Words + "\n" + v.impersonal(v.Why+"\n"+inWords(v.Programs)) }
	same := map[string][]string{}
	for _, v := range all {
		if len(all) > mostAlone && worker(v.spec) && len(v.Marks) == 0 {
			same[key(v)] = append(same[key(v)], v.Name)
		}
	}
	for i, v := range all {
		h := v.Host
		h.ID = fmt.Sprintf("%s-host-%d", id, i+1)
		members := same[key(v)]
		if slices.Contains(members, v.Name) && len(members) > fewest {
			if members[0] != v.Name {
				continue // it is in the box of the first
			}
			h.Count, h.Names, h.Name = len(members), strings.Join(members, ", "), ui.Plural(len(members), "worker")
			if h.Why != "" {
				h.Why = v.Name + ": " + h.Why
			}
		}
		out = append(out, h)
	}
	return out
}

// inWords lists programs with their versions, and what is wrong with them.
func inWords(programs []Program) string {
	var out []string
	for _, p := range programs {
		text := strings.TrimSpace(p.Name + " " + p.Version)
		if p.State.Class == "bad" || p.State.Class == "warn" {
			text += " (" + strings.TrimSuffix(p.State.Words+": "+p.Why, ": ") + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}
