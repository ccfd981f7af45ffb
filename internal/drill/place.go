package drill

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// Known is what the API says, and an observation does not, of where a fault can be injected.
type Known struct {
	// Leaders are the holders of the leases of ControllerManager and Scheduler, as the API has them: a host name, with or without an
	// underscore and an ID behind it.
	Leaders map[Target]string
	// DNS are the nodes on which a replica of CoreDNS is ready.
	DNS []string
}

// Place finds where a fault is injected now: the hosts that have its role, and on which everything works. Among these, it prefers one
// that the cluster can spare, and then one with few other roles. The error says why there is none. Without Known, nobody knows who leads
// the controller managers and schedulers, and where CoreDNS runs.
//
// The permission of the cluster is still needed: see Injection.Change.
func Place(s *cluster.State, f Fault, lasts time.Duration, known ...Known) (Injection, error) {
	p := placing{State: s, fault: f, lasts: lasts}
	if f.Once() {
		p.lasts = 0
	}
	for _, k := range known {
		p.known = k
	}
	switch {
	case s.Seen.API == nil:
		return Injection{}, fmt.Errorf("the API could not be read, so nobody knows which hosts are in maintenance: %s", s.Seen.APIError)
	case f.Target == CoreDNS && len(p.known.DNS) == 0:
		return Injection{}, errors.New("where CoreDNS runs is not known")
	case f.Target == Zone:
		return p.inZone()
	}
	return p.onHost()
}

// placing is the search for the place of one fault.
type placing struct {
	*cluster.State
	fault Fault
	lasts time.Duration
	known Known

	leader  string   // the host that leads; empty if none of them does
	holders []string // of the virtual IP
	// holding are the load balancers of which nobody can tell whether they have the virtual IP.
	holding []string
}

func (p *placing) inZone() (Injection, error) {
	found := false
	for _, h := range p.Spec.Spec.Hosts {
		if h.Zone != p.fault.Zone {
			continue
		}
		found = true
		if why := p.unsound(h); why != "" {
			return Injection{}, fmt.Errorf("not everything in zone %s works: %s: %s", h.Zone, h.Name, why)
		}
	}
	if !found {
		return Injection{}, fmt.Errorf("no host is in a zone %s", p.fault.Zone)
	}
	return Injection{Fault: p.fault, Lasts: p.lasts}, nil
}

func (p *placing) onHost() (Injection, error) {
	if err := p.findRoles(); err != nil {
		return Injection{}, err
	}
	type candidate struct {
		Injection
		refused bool
		burden  int
	}
	var candidates []candidate
	var why []string
	for _, h := range p.Spec.Spec.Hosts {
		if !p.has(h) || !p.plays(h) {
			continue
		}
		problem := p.unfit(h)
		i := Injection{Fault: p.fault, Host: h.Name, Lasts: p.lasts, Takes: p.takes(h), Last: p.last(h)}
		if problem == "" && p.fault.Target == Link {
			i.Peer, problem = p.peer(h)
		}
		if problem != "" {
			why = append(why, h.Name+": "+problem)
			continue
		}
		_, refused := Permit(p.State, i)
		candidates = append(candidates, candidate{i, refused != nil, p.burden(h)})
	}
	switch {
	case len(candidates) > 0:
	case len(why) > 0:
		return Injection{}, errors.New(strings.Join(why, "; "))
	case p.fault.On != "":
		return Injection{}, fmt.Errorf("%s has no %s now", p.fault.On, p.fault.Target)
	default:
		return Injection{}, fmt.Errorf("no host has the role %q for %s now", p.fault.Role, p.fault.Target)
	}
	// The first of those that are equally good: the order of the spec decides.
	best := slices.MinFunc(candidates, func(a, b candidate) int {
		return cmp.Or(compareBool(a.refused, b.refused), cmp.Compare(a.burden, b.burden))
	})
	return best.Injection, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// findRoles finds out who leads and who has the virtual IP, if the role of the fault depends on it.
func (p *placing) findRoles() (err error) {
	p.holders, p.holding = p.Holders()
	switch p.fault.Role {
	case Leader, Follower:
		p.leader, err = p.findLeader()
	case Holder, Standby:
		switch {
		case len(p.holders) > 1:
			return fmt.Errorf("several load balancers have the virtual IP: %s", cluster.List(p.holders))
		case len(p.holders) == 0 && len(p.holding) > 0:
			return fmt.Errorf("which load balancer has the virtual IP is not known: %s could not be queried", cluster.List(p.holding))
		case len(p.holders) == 0:
			return errors.New("no load balancer has the virtual IP")
		}
	}
	return err
}

func (p *placing) findLeader() (string, error) {
	if elected(p.fault.Target) {
		holder, _, _ := strings.Cut(p.known.Leaders[p.fault.Target], "_")
		for _, h := range p.Spec.Spec.Hosts {
			f := p.Facts(h.Name)
			if strings.EqualFold(holder, h.Name) || f != nil && f.Hostname != "" && strings.EqualFold(holder, f.Hostname) {
				return h.Name, nil
			}
		}
		return "", fmt.Errorf("which %s leads is not known", p.fault.Target)
	}
	if p.Spec.ExistingEtcd() {
		return "", nil
	}
	var leaders []string
	for _, m := range p.Seen.Etcd {
		if m.Leader {
			leaders = append(leaders, p.MemberHost(m))
		}
	}
	switch len(leaders) {
	case 0:
		return "", errors.New("which etcd member leads is not known")
	case 1:
		return leaders[0], nil
	}
	return "", fmt.Errorf("several etcd members say that they lead: %s", cluster.List(leaders))
}

// has says that the host has the target of the fault, as the spec says.
func (p *placing) has(h spec.Host) bool {
	member := slices.ContainsFunc(p.Spec.EtcdHosts(), func(m spec.Host) bool { return m.Name == h.Name })
	switch t := p.fault.Target; {
	case ofAPIServer(t), elected(t):
		return h.Has(spec.RoleControlPlane)
	case t == Etcd, t == EtcdPeers, p.fault.Kind == Slow:
		return member
	case t == Link:
		return member || p.fault.Role == Holder || p.fault.Role == Worker
	case t == Kubelet, t == Containerd, t == KubeProxy, t == Flannel:
		return h.IsNode()
	case t == CoreDNS:
		return slices.Contains(p.known.DNS, h.Name)
	case t == HAProxy, t == Keepalived, t == Watchdog, t == VRRP:
		return p.Spec.Balances(h)
	}
	return true
}

// plays says that the host has the role of the fault now. What is unknown is not assumed.
func (p *placing) plays(h spec.Host) bool {
	if p.fault.On != "" {
		return h.Name == p.fault.On
	}
	unknown := slices.Contains(p.holding, h.Name)
	switch p.fault.Role {
	case Leader:
		return h.Name == p.leader
	case Follower:
		member := h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd)
		return member && h.Name != p.leader && !p.Holds(h.Name) && !unknown
	case Holder:
		return slices.Contains(p.holders, h.Name)
	case Standby:
		return p.Spec.Balances(h) && !p.Holds(h.Name) && !unknown
	case Worker:
		return h.Has(spec.RoleWorker)
	}
	return p.fault.Role == Any
}

// kindsOfParts are the parts of a placement, with their names.
var kindsOfParts = []quorum.Kind{quorum.Members, quorum.APIServers, quorum.ControllerManagers, quorum.Schedulers, quorum.Balancers, quorum.Workers}

// unsound is what does not work on a host, or is not known to; empty if all of its parts work. A fault is injected only where everything
// works: it would not be clear what was seen of it.
func (p *placing) unsound(h spec.Host) string {
	if why, away := p.Unreachable()[h.Name]; away {
		return "it could not be queried: " + why
	}
	if _, in := p.Maintenance(h.Name); in {
		return "it is in maintenance"
	}
	place := p.placement(h)
	for _, k := range kindsOfParts {
		switch *k.Part(&place) {
		case quorum.Absent, quorum.Up:
		case quorum.Unknown:
			return "whether its " + k.Name + " works is not known"
		default:
			return "its " + k.Name + " does not work"
		}
	}
	return ""
}

func (p *placing) placement(h spec.Host) quorum.Placement {
	all := p.Placements()
	if i := slices.IndexFunc(all, func(x quorum.Placement) bool { return x.Host == h.Name }); i >= 0 {
		return all[i]
	}
	return quorum.Placement{}
}

// needs are the parts that must work on the host of a fault, and components the programs that are no part of a placement.
func (p *placing) needs(h spec.Host) (parts []quorum.Kind, component string) {
	switch t := p.fault.Target; t {
	case APIServer, API:
		parts = append(parts, quorum.APIServers)
	case ControllerManager:
		parts = append(parts, quorum.ControllerManagers)
	case Scheduler:
		parts = append(parts, quorum.Schedulers)
	case Etcd, EtcdPeers:
		parts = append(parts, quorum.Members)
	case HAProxy, Keepalived, VRRP:
		parts = append(parts, quorum.Balancers)
	case Watchdog:
		parts, component = append(parts, quorum.Balancers), facts.Watchdog
	case Kubelet:
		component = facts.Kubelet
	case Containerd:
		component = facts.Containerd
	case KubeProxy:
		component = facts.KubeProxy
	case Flannel:
		component = facts.Flannel
	}
	switch {
	case p.fault.Role == Leader && !elected(p.fault.Target), p.fault.Kind == Slow:
		parts = append(parts, quorum.Members)
	case p.fault.Role == Follower && h.Has(spec.RoleControlPlane):
		parts = append(parts, quorum.APIServers)
	case p.fault.Role == Follower:
		parts = append(parts, quorum.Members)
	case p.fault.Role == Holder, p.fault.Role == Standby:
		parts = append(parts, quorum.Balancers)
	case p.fault.Role == Worker:
		parts = append(parts, quorum.Workers)
	}
	return parts, component
}

// unfit is why the fault cannot be injected on a host that has its role; empty if it can.
func (p *placing) unfit(h spec.Host) string {
	if why := p.unsound(h); why != "" {
		return why
	}
	place := p.placement(h)
	parts, component := p.needs(h)
	for _, k := range parts {
		if *k.Part(&place) != quorum.Up { // it is absent, because everything that it has works
			return "it has no " + k.Name
		}
	}
	if component != "" {
		switch c, seen := p.Seen.Hosts[h.Name].Components[component]; {
		case !seen:
			return "it has no " + component
		case !c.Known():
			return "whether its " + component + " works is not known: " + c.Unknown
		case !c.OK:
			return "its " + component + " does not work: " + c.Problem
		}
	}
	return ""
}

// last is why the cluster cannot lose the target of the fault on the host, apart from what the rules for changes say; empty if it can.
func (p *placing) last(h spec.Host) string {
	if p.fault.Target == CoreDNS && len(slices.Compact(slices.Sorted(slices.Values(p.known.DNS)))) < 2 {
		return h.Name + " has the only replica of CoreDNS, or all of them"
	}
	return ""
}

// burden is how many other roles the host has.
func (p *placing) burden(h spec.Host) (n int) {
	leads := slices.ContainsFunc(p.Seen.Etcd, func(m facts.EtcdMember) bool { return m.Leader && p.MemberHost(m) == h.Name })
	for _, has := range []bool{leads, p.Holds(h.Name), p.Spec.Balances(h), h.Has(spec.RoleWorker), h.Has(spec.RoleControlPlane), h.Has(spec.RoleEtcd) && !h.Has(spec.RoleControlPlane)} {
		if has {
			n++
		}
	}
	// Of the hosts that follow, those with an API server are what clients notice.
	if p.fault.Role == Follower && !h.Has(spec.RoleControlPlane) {
		n++
	}
	return n
}

// takes is the part of a host that the fault takes away in the worst case; empty for all of it.
func (p *placing) takes(h spec.Host) cluster.Part {
	switch p.fault.Target {
	case HAProxy, Keepalived, Watchdog, VRRP:
		return cluster.LoadBalancer
	case ControllerManager, Scheduler:
		return cluster.APIPrograms
	case APIServer:
		// The kubelet of a control plane uses this API server. If it reports nothing, the node loses its pods.
		if !h.Has(spec.RoleWorker) {
			return cluster.APIPrograms
		}
	case Etcd, EtcdPeers:
		switch {
		case !p.Spec.StackedEtcd():
			return cluster.EtcdMember
		case !h.Has(spec.RoleWorker): // an API server uses no other member than that of its host
			return cluster.ControlPlane
		}
	}
	return ""
}

// peer is the other end of a link. Nobody knows which of the two ends loses more, so the cluster must be able to spare either.
func (p *placing) peer(h spec.Host) (name, problem string) {
	var others []spec.Host
	for _, o := range p.Spec.Spec.Hosts {
		other, fits := placing{State: p.State}, false
		switch p.fault.Role {
		case Leader, Follower:
			fits = o.Name != p.leader && slices.ContainsFunc(p.Spec.EtcdHosts(), func(m spec.Host) bool { return m.Name == o.Name })
			other.fault = Fault{Target: Etcd}
		case Holder:
			fits = o.Has(spec.RoleControlPlane)
			other.fault = Fault{Target: APIServer}
		case Worker:
			fits = o.Has(spec.RoleWorker)
			other.fault = Fault{Target: Host, Role: Worker}
		}
		if !fits || o.Name == h.Name || other.unfit(o) != "" {
			continue
		}
		if _, refused := p.Allow(Injection{Host: o.Name}.Change()); refused == nil {
			others = append(others, o)
		}
	}
	if len(others) == 0 {
		return "", "there is no other end of its link whose loss the cluster would survive"
	}
	best := slices.MinFunc(others, func(a, b spec.Host) int { return cmp.Compare(p.burden(a), p.burden(b)) })
	return best.Name, ""
}
