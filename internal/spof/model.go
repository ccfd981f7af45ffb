package spof

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/faulttree"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// The capabilities of every cluster.
const (
	APIReads       = "API reads"
	APIWrites      = "API writes"
	Scheduling     = "scheduling"
	NewPods        = "new pods"
	ClusterDNS     = "cluster DNS"
	ServiceTraffic = "service traffic"
	ClusterData    = "cluster data" // that it can be brought back after it was lost
	Maintenance    = "maintenance"  // that every node can be drained; it has no tree
)

// The prefixes of the capabilities of workloads and of admission webhooks.
const (
	WorkloadPrefix    = "workload "
	ReplacementPrefix = "replacement of "
	ChangesPrefix     = "changes of "
)

// capability is something that must not be lost.
type capability struct {
	name string
	top  faulttree.ID
}

// reason is why a gate exists: redundancy of some kind, and what to do when it does not suffice.
type reason struct {
	kind Kind // of what runs short
	what string
	// of a workload, or of CoreDNS if its pods are known
	pods *workload
	// of a webhook
	webhook *facts.Webhook
	image   *pull
	volume  *facts.Volume
}

// broken is a part that does not work, or may not work.
type broken struct {
	kind Kind
	text string
}

// model is the trees of a cluster.
type model struct {
	c *spec.Cluster
	s *cluster.State // nil for a spec alone
	w *facts.Workloads
	// assume says that what is unknown counts as up.
	assume     bool
	placements []quorum.Placement

	tree         faulttree.Tree
	elements     []Element
	numbers      map[Element]faulttree.Element
	capabilities []capability
	reasons      map[faulttree.ID]*reason
	titles       map[faulttree.ID]string    // of gates and parts, for pictures
	parts        map[faulttree.ID][]Element // a part, and what it fails with
	hosts        map[string]faulttree.ID    // what makes a host fail
	above        map[Element][]Element      // what an element fails with
	finer        map[Element][]Element      // the opposite
	spread       map[Element][]string       // the hosts that fail with an element
	all          map[string]bool            // hosts
	broken       []broken
	unknown      map[string]string // what could not be queried, and why
	certificates map[string]string // the first expiry of a host's certificates, where others have the same
	workloads    map[string]*workload
}

func newModel(in Input, assume bool) *model {
	m := &model{c: in.Spec, s: in.State, w: in.Workloads, assume: assume, numbers: map[Element]faulttree.Element{}, reasons: map[faulttree.ID]*reason{},
		titles: map[faulttree.ID]string{}, parts: map[faulttree.ID][]Element{}, hosts: map[string]faulttree.ID{}, above: map[Element][]Element{}, finer: map[Element][]Element{},
		spread: map[Element][]string{}, all: map[string]bool{}, unknown: map[string]string{}, workloads: map[string]*workload{}}
	m.placements = cluster.Intended(m.c)
	if m.s != nil {
		m.c = m.s.Present()
		m.placements = m.s.Placements()
		if m.c.ExistingEtcd() && m.s.Seen.Etcd == nil {
			for _, p := range cluster.Intended(m.c) {
				if _, ours := m.c.Host(p.Host); !ours {
					p.Member = quorum.Unknown
					m.placements = append(m.placements, p)
				}
			}
		}
	}
	m.certificates = m.expiries()
	m.domains()
	m.control()
	m.data()
	if m.w != nil {
		m.addWorkloads()
	}
	slices.SortStableFunc(m.capabilities, func(a, b capability) int { return cmp.Compare(rank([]string{a.name}), rank([]string{b.name})) })
	return m
}

// capable adds a capability.
func (m *model) capable(name string, top faulttree.ID) {
	m.capabilities = append(m.capabilities, capability{name, top})
}

func (m *model) capability(name string) (capability, bool) {
	i := slices.IndexFunc(m.capabilities, func(c capability) bool { return c.name == name })
	if i < 0 {
		return capability{}, false
	}
	return m.capabilities[i], true
}

// number of an element in the tree.
func (m *model) number(e Element) faulttree.Element {
	n, known := m.numbers[e]
	if !known {
		n = faulttree.Element(len(m.elements))
		m.elements = append(m.elements, e)
		m.numbers[e] = n
	}
	return n
}

func (m *model) leaf(e Element) faulttree.ID { return m.tree.Leaf(m.number(e)) }

// gate gives a node a title, and the reason why it exists if it has one.
func (m *model) gate(id faulttree.ID, title string, r *reason) faulttree.ID {
	m.titles[id] = title
	if r != nil {
		r.what = cmp.Or(r.what, title)
		m.reasons[id] = r
	}
	return id
}

// domains finds out what hosts share: zones, regions if there are several, physical machines, and what the spec says.
func (m *model) domains() {
	share := func(host string, e Element) {
		if !slices.Contains(m.spread[e], host) {
			m.spread[e] = append(m.spread[e], host)
		}
	}
	regions := map[string]bool{}
	for _, h := range m.c.Spec.Hosts {
		regions[h.Region] = true
	}
	machines := m.machines()
	for _, h := range m.c.Spec.Hosts {
		m.all[h.Name] = true
		share(h.Name, Element{Host, h.Name})
		if h.Zone != "" {
			share(h.Name, Element{Zone, h.Zone})
		}
		if len(regions) > 1 && h.Region != "" {
			share(h.Name, Element{Region, h.Region})
		}
		for _, name := range h.FailsWith {
			share(h.Name, Element{Shared, name})
		}
		if name := machines[h.Name]; name != "" {
			share(h.Name, Element{Machine, name})
		}
	}
	for _, h := range m.c.Spec.Hosts {
		host := Element{Host, h.Name}
		var more []Element
		for _, e := range slices.SortedFunc(maps.Keys(m.spread), compare) {
			if e.Kind != Host && slices.Contains(m.spread[e], h.Name) {
				more = append(more, e)
			}
		}
		m.contain(host, more...)
		m.hosts[h.Name] = m.together(host)
	}
	if m.w != nil {
		m.strangers()
	}
}

// strangers are nodes that the spec does not name.
func (m *model) strangers() {
	if m.s == nil || m.s.Seen.API == nil {
		return
	}
	for _, n := range m.s.Seen.API.Nodes {
		if _, known := m.hosts[n.Name]; known {
			continue
		}
		host := Element{Host, n.Name}
		m.spread[host] = []string{n.Name}
		if zone := n.Labels["topology.kubernetes.io/zone"]; zone != "" {
			e := Element{Zone, zone}
			m.spread[e] = append(m.spread[e], n.Name)
			m.contain(host, e)
		}
		m.hosts[n.Name] = m.together(host)
	}
}

// machines maps hosts to the physical machine below them, where several hosts are known to have the same kernel. The lab of a
// spec is one machine.
func (m *model) machines() map[string]string {
	out, below := map[string]string{}, map[string][]string{}
	for _, h := range m.c.Spec.Hosts {
		switch {
		case m.c.NeedsLab():
			below["lab"] = append(below["lab"], h.Name)
		case m.s != nil && m.s.Facts(h.Name) != nil && len(m.s.Facts(h.Name).BootID) > kernelID && m.s.Facts(h.Name).Container != "":
			id := m.s.Facts(h.Name).BootID[:kernelID]
			below[id] = append(below[id], h.Name)
		}
	}
	for _, hosts := range below {
		if len(hosts) < 2 {
			continue
		}
		name := cluster.List(hosts)
		switch {
		case len(hosts) == len(m.c.Spec.Hosts):
			name = "all hosts"
		case len(hosts) > 3:
			name = fmt.Sprintf("%s and %d more hosts", hosts[0], len(hosts)-1)
		}
		for _, h := range hosts {
			out[h] = name
		}
	}
	return out
}

// kernelID is the length of the kernel's own part of a boot ID, which is the same for all containers on one machine.
const kernelID = 36

// contain notes that an element fails with others.
func (m *model) contain(e Element, more ...Element) {
	for _, x := range more {
		if !slices.Contains(m.above[e], x) {
			m.above[e] = append(m.above[e], x)
			m.finer[x] = append(m.finer[x], e)
		}
	}
}

// causes are the element and everything that it fails with.
func (m *model) causes(e Element) []Element {
	all := []Element{e}
	for i := 0; i < len(all); i++ {
		for _, x := range m.above[all[i]] {
			if !slices.Contains(all, x) {
				all = append(all, x)
			}
		}
	}
	return all
}

// together fails when the element does, or anything that it fails with.
func (m *model) together(e Element) faulttree.ID {
	causes := m.causes(e)
	var in []faulttree.ID
	for _, x := range causes {
		in = append(in, m.leaf(x))
	}
	id := m.tree.Or(in...)
	m.titles[id], m.parts[id] = e.String(), causes
	return id
}

// host fails with the host and everything that it fails with. A host of which nothing is known fails with nothing else.
func (m *model) host(name string) faulttree.ID {
	id, known := m.hosts[name]
	if !known {
		id = m.together(Element{Host, name})
		m.hosts[name] = id
	}
	return id
}

// part is a part of a host, in the condition in which it is. why says what is wrong with it, or why it is unknown.
func (m *model) part(kind Kind, host string, state quorum.State, why string) faulttree.ID {
	e := Element{kind, host}
	text := strings.TrimPrefix(e.String(), "the ")
	failed := func(title string) faulttree.ID {
		id := m.tree.Or(m.tree.Failed())
		m.titles[id], m.parts[id] = title, []Element{e}
		return id
	}
	switch state {
	case quorum.Unknown:
		m.unknown[text] = cmp.Or(why, "it was not queried")
		if !m.assume {
			m.broken = append(m.broken, broken{kind, text + " (unknown)"})
			return failed(text + ": unknown")
		}
	case quorum.Down:
		m.broken = append(m.broken, broken{kind, text + parenthesis(why)})
		return failed(text + ": does not work")
	case quorum.Withdrawn:
		m.broken = append(m.broken, broken{kind, text + " (" + host + " is in maintenance)"})
		return failed(text + ": in maintenance")
	}
	if kind == Kind(quorum.Workers.Name) {
		return m.host(host)
	}
	if _, known := m.hosts[host]; known { // the members of an existing etcd are on hosts of their own
		m.contain(e, Element{Host, host})
	}
	if date := m.certificates[host]; date != "" && kind != Kind(quorum.Balancers.Name) {
		m.contain(e, Element{Certificates, date})
	}
	return m.together(e)
}

func parenthesis(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// partsOf are the parts of one kind, in the order of the placements, by their hosts.
func (m *model) partsOf(k quorum.Kind) (hosts []string, ids []faulttree.ID) {
	for i := range m.placements {
		p := &m.placements[i]
		switch state := *k.Part(p); state {
		case quorum.Absent, quorum.Learner:
		default:
			hosts = append(hosts, p.Host)
			ids = append(ids, m.part(Kind(k.Name), p.Host, state, m.why(k, p.Host)))
		}
	}
	return hosts, ids
}

// why says what is wrong with a part that does not work, or why it is unknown.
func (m *model) why(k quorum.Kind, host string) string {
	if m.s == nil {
		return ""
	}
	var a facts.Answer
	switch k.Name {
	case quorum.Members.Name:
		x, _ := m.s.Member(host)
		a = facts.Answer{Problem: x.Problem, Unknown: cmp.Or(x.Unknown, m.s.Seen.EtcdError)}
	case quorum.APIServers.Name:
		a = m.s.APIServer(host)
	case quorum.Balancers.Name:
		a = m.s.LoadBalancer(host)
	case quorum.Workers.Name:
		switch n := m.s.Node(host); {
		case m.s.Seen.API == nil:
			a.Unknown = m.s.Seen.APIError
		case n == nil:
		case n.Unschedulable:
			a.Problem = "it is cordoned"
		default:
			a.Problem = n.NotReady
		}
	default:
		a = m.s.Program(host, "kube-"+strings.ReplaceAll(k.Name, " ", "-"))
	}
	return strings.TrimPrefix(cmp.Or(a.Problem, a.Unknown), host+": ")
}

// tooMany fails when so many of the parts fail that fewer are left than the kind needs.
func (m *model) tooMany(k quorum.Kind, title string, in []faulttree.ID) faulttree.ID {
	return m.gate(m.tree.AtLeast(len(in)-k.Need(len(in))+1, in...), title, &reason{kind: Kind(k.Name)})
}

// any fails when any of its inputs does.
func (m *model) any(title string, in ...faulttree.ID) faulttree.ID {
	return m.gate(m.tree.Or(in...), title, nil)
}
