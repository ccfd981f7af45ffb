package spof

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/faulttree"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// workload is the pods that one object creates, or one pod that nothing creates again.
type workload struct {
	name string // namespace/name, with the kind where it is not a Deployment
	kind string
	pods []facts.Pod
}

// pull is an image that nodes need a registry for.
type pull struct {
	name, registry string
	always         bool
}

// programs of the cluster itself that are other capabilities.
func ownProgram(p facts.Pod) bool {
	return p.DNS || p.Namespace == "kube-system" && p.Kind == "DaemonSet" && p.Owner == facts.KubeProxy || p.Namespace == "kube-flannel"
}

func (m *model) addWorkloads() {
	for part, why := range m.w.Unknown {
		m.unknown[part] = why
	}
	var order []string
	for _, p := range m.w.Pods {
		if p.Kind == "Job" || ownProgram(p) {
			continue // a job ends, and is started again by its controller
		}
		name := p.Namespace + "/" + cmp.Or(p.Owner, p.Name)
		switch p.Kind {
		case "", "Deployment":
		default:
			name = p.Kind + " " + name
		}
		if p.Kind == "" {
			name = "Pod " + name
		}
		w := m.workloads[name]
		if w == nil {
			w = &workload{name: name, kind: p.Kind}
			m.workloads[name] = w
			order = append(order, name)
		}
		w.pods = append(w.pods, p)
	}
	slices.Sort(order)
	volumes := map[string]*facts.Volume{}
	for i := range m.w.Volumes {
		volumes[m.w.Volumes[i].Name] = &m.w.Volumes[i]
	}
	places := m.roomFor()
	for _, name := range order {
		w := m.workloads[name]
		m.capable(WorkloadPrefix+name, m.gate(m.tree.And(m.replicas(w)...), "no replica of "+name+" works", &reason{kind: Pod, pods: w}))
		m.capable(ReplacementPrefix+name, m.any("pods of "+name+" that are lost are not replaced", m.replacement(w, volumes, places)...))
	}
}

// roomFor are the hosts on which pods can start.
func (m *model) roomFor() (out []string) {
	for i := range m.placements {
		if p := &m.placements[i]; p.Worker == quorum.Up {
			out = append(out, p.Host)
		}
	}
	return out
}

// replicas are the replicas of a workload, by their nodes: of several on one node, one stands for all. A replica that is the only one is
// an element of its own.
func (m *model) replicas(w *workload) (in []faulttree.ID) {
	if len(w.pods) == 1 {
		return []faulttree.ID{m.replica(Element{Pod, w.pods[0].Namespace + "/" + w.pods[0].Name}, w.pods[0])}
	}
	nodes := map[string]bool{}
	for _, p := range w.pods {
		switch {
		case !p.Ready || p.Node == "":
			m.broken = append(m.broken, broken{Pod, "pod " + p.Namespace + "/" + p.Name + " (it is not ready)"})
		case !nodes[p.Node]:
			nodes[p.Node] = true
			in = append(in, m.host(p.Node))
		}
	}
	return in
}

// replacement is what keeps pods of the workload from being replaced when they are lost. What keeps all new pods from starting is not
// repeated here.
func (m *model) replacement(w *workload, volumes map[string]*facts.Volume, places []string) (in []faulttree.ID) {
	if w.kind == "" {
		for _, p := range w.pods {
			if p.Node != "" {
				in = append(in, m.gate(m.tree.Or(m.host(p.Node)), "nothing creates "+w.name+" again", &reason{kind: Host, pods: w}))
			}
		}
	}
	seen := map[string]bool{}
	for _, p := range w.pods {
		for _, name := range p.Volumes {
			if v := volumes[name]; v != nil && !seen["volume "+name] {
				seen["volume "+name] = true
				in = append(in, m.gate(m.tree.And(m.reach(v)...), "volume "+name+" cannot be reached", &reason{kind: "volume", volume: v, pods: w}))
			}
		}
		for _, image := range p.Images {
			if seen[image.Name] || !m.pulls(image, places) {
				continue
			}
			seen[image.Name] = true
			registry, _, _ := strings.Cut(image.Name, "/")
			if seen["registry "+registry] {
				continue
			}
			seen["registry "+registry] = true
			var sources []faulttree.ID
			for _, s := range m.sources(registry) {
				sources = append(sources, m.leaf(Element{Registry, s}))
			}
			in = append(in, m.gate(m.tree.And(sources...), "no registry has "+image.Name, &reason{kind: Registry, image: &pull{image.Name, registry, image.Always}}))
		}
	}
	return in
}

// reach are the places where a volume can be used.
func (m *model) reach(v *facts.Volume) (in []faulttree.ID) {
	for _, zone := range v.Zones {
		e := Element{Zone, zone}
		var causes []faulttree.ID
		for _, x := range m.causes(e) {
			causes = append(causes, m.leaf(x))
		}
		in = append(in, m.any("zone "+zone+" fails", causes...))
	}
	for _, node := range v.Nodes {
		in = append(in, m.host(node))
	}
	return in
}

// pulls says whether a pod that starts on another node needs a registry: it asks one always, or there is a node that is known to lack the
// image.
func (m *model) pulls(image facts.PodImage, places []string) bool {
	if image.Always {
		return true
	}
	if m.w.Unknown[facts.ImagesOfNodesPart] != "" {
		return !m.assume
	}
	return slices.ContainsFunc(places, func(node string) bool {
		has, known := m.w.Images[node]
		return known && !slices.Contains(has, image.Name)
	})
}

// sources are the registries that nodes try for the images of one: its mirrors, and the registry itself.
func (m *model) sources(registry string) (out []string) {
	find := func(name string) int {
		return slices.IndexFunc(m.c.Spec.Settings.Registries, func(r spec.Registry) bool { return r.Name == name })
	}
	i := find(registry)
	if i < 0 {
		i = find("*")
	}
	if i >= 0 {
		for _, mirror := range m.c.Spec.Settings.Registries[i].Mirrors {
			if u, err := url.Parse(mirror); err == nil && u.Host != "" {
				mirror = u.Host
			}
			if !slices.Contains(out, mirror) {
				out = append(out, mirror)
			}
		}
	}
	if !slices.Contains(out, registry) {
		out = append(out, registry)
	}
	return out
}

// webhooks makes what fails when admission webhooks do that reject requests then: everything judges every change, and pods only new pods.
// A webhook that judges something else has a capability of its own.
func (m *model) webhooks() (everything, pods []faulttree.ID) {
	for i := range m.w.Webhooks {
		w := &m.w.Webhooks[i]
		id, known := m.webhook(w)
		if !known {
			continue
		}
		switch {
		case !w.Selective && slices.Contains(w.Resources, "*"):
			everything = append(everything, id)
			continue
		case !w.Selective && slices.Contains(w.Resources, "pods"):
			pods = append(pods, id)
		}
		rest := slices.DeleteFunc(slices.Clone(w.Resources), func(r string) bool { return r == "pods" && !w.Selective })
		if len(rest) == 0 {
			continue
		}
		what := cluster.List(rest)
		if w.Selective {
			what = "some " + strings.ReplaceAll(what, "*", "objects")
		}
		m.capable(ChangesPrefix+what+" (webhook "+w.Name+")", id)
	}
	return everything, pods
}

func (m *model) webhook(w *facts.Webhook) (faulttree.ID, bool) {
	why := &reason{kind: Endpoint, webhook: w}
	title := "webhook " + w.Name + " does not answer"
	switch {
	case w.URL != "":
		return m.gate(m.tree.Or(m.leaf(Element{WebhookServer, host(w.URL)})), title, why), true
	case w.Unknown != "":
		m.unknown["webhook "+w.Name] = w.Unknown
		return 0, false
	}
	var in []faulttree.ID
	for i, node := range w.Nodes {
		e := Element{Endpoint, fmt.Sprintf("%s %d", w.Service, i+1)}
		if node != "" {
			m.host(node)
			m.contain(e, Element{Host, node})
		}
		in = append(in, m.together(e))
	}
	if len(in) == 0 {
		m.broken = append(m.broken, broken{Endpoint, "webhook " + w.Name + " (its Service " + w.Service + " has no ready endpoint)"})
	}
	return m.gate(m.tree.And(in...), title, why), true
}

func host(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		return u.Host
	}
	return address
}

// blocked are the disruption budgets that keep a node from being drained, and pods with several of them.
type blocked struct {
	budgets []Element
	pods    []string // of a node, or that have several budgets
	nodes   []string
	several bool
}

func (m *model) blockedDrains() (out []blocked) {
	if m.w == nil {
		return nil
	}
	nodes, held := map[string]string{}, map[string][]string{}
	for _, p := range m.w.Pods {
		nodes[p.Namespace+"/"+p.Name] = p.Node
	}
	for _, b := range m.w.Budgets {
		name := b.Namespace + "/" + b.Name
		x := blocked{budgets: []Element{{Budget, name}}}
		for _, p := range b.Pods {
			pod := b.Namespace + "/" + p
			held[pod] = append(held[pod], name)
			x.pods = append(x.pods, pod)
			if n := nodes[pod]; n != "" && !slices.Contains(x.nodes, n) {
				x.nodes = append(x.nodes, n)
			}
		}
		if facts.BlocksForGood(b.Expected, b.Desired, b.Allowed) && len(x.nodes) > 0 {
			slices.Sort(x.nodes)
			out = append(out, x)
		}
	}
	together := map[string]*blocked{}
	for _, pod := range slices.Sorted(maps.Keys(held)) {
		names := held[pod]
		if len(names) < 2 {
			continue
		}
		slices.Sort(names)
		id := strings.Join(names, " ")
		if together[id] == nil {
			together[id] = &blocked{several: true}
			for _, n := range names {
				together[id].budgets = append(together[id].budgets, Element{Budget, n})
			}
		}
		b := together[id]
		b.pods = append(b.pods, pod)
		if n := nodes[pod]; n != "" && !slices.Contains(b.nodes, n) {
			b.nodes = append(b.nodes, n)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(together)) {
		slices.Sort(together[id].nodes)
		out = append(out, *together[id])
	}
	return out
}
