package spof

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/faulttree"
	"quorate.dev/quorate/internal/quorum"
)

// Audit finds what a cluster does not survive. The same input gives the same report.
func Audit(in Input) Report {
	r := Report{Cluster: in.Spec.Metadata.Name, From: FromSpec, Note: in.Note, Depth: max(in.Depth, 1), Capabilities: []Capability{}, Findings: []Finding{}, Inherent: []Inherent{}, Unknown: map[string]string{}}
	if in.State != nil {
		switch in.State.Stage() {
		case cluster.Absent:
			in.State, r.Note = nil, "there is no cluster on these hosts yet"
		case cluster.Partial:
			in.State, r.Note = nil, "the cluster is not complete"
		case cluster.Undetermined:
			r.Unknown["the cluster"] = "whether there is one is not known: hosts that would know could not be queried"
			in.State, r.Note = nil, "whether there is a cluster is not known"
		default:
			r.From = FromCluster
		}
	}
	if in.State == nil {
		in.Workloads, in.WorkloadsUnknown = nil, ""
	}
	best := newModel(in, true)
	worst := best
	if in.WorkloadsUnknown != "" {
		best.unknown["workloads"] = in.WorkloadsUnknown
	}
	if len(best.unknown) > 0 {
		worst = newModel(in, false)
	}
	maps.Copy(r.Unknown, best.unknown)
	var intended *model
	if in.State != nil {
		intended = newModel(Input{Spec: in.Spec}, true)
	}
	r.model = best
	a := &auditor{Report: &r, best: best, worst: worst, intended: intended, findings: map[string]*Finding{}, lasts: map[string][]string{}, fixes: map[string][]string{}, inherent: map[Element]*Inherent{}}
	for i, c := range best.capabilities {
		a.capability(c, worst.capabilities[i])
	}
	a.drains()
	a.finish()
	return r
}

// auditor collects the findings of one audit.
type auditor struct {
	*Report
	best, worst, intended *model
	findings              map[string]*Finding
	order                 []string
	lasts, fixes          map[string][]string // sentences, by the finding
	inherent              map[Element]*Inherent
}

// capability looks for the cut sets of one capability.
func (a *auditor) capability(best, worst capability) {
	cuts := a.best.cuts(best.top, a.Depth)
	maybe := cuts
	if a.worst != a.best {
		maybe = a.worst.cuts(worst.top, a.Depth)
	}
	c := Capability{Name: best.name, State: Works}
	switch {
	case lost(cuts):
		c.State, c.Because = Lost, a.best.failures(best.top)
	case lost(maybe):
		c.State, c.Because = Unknown, a.worst.failures(worst.top)
	}
	if c.State == Lost {
		a.Capabilities = append(a.Capabilities, c)
		return
	}
	certain := map[string]bool{}
	for _, set := range cuts {
		certain[key(set)] = true
	}
	c.Single = a.sets(a.best, best, cuts, false)
	if c.State == Works {
		a.sets(a.worst, worst, slices.DeleteFunc(maybe, func(set []Element) bool { return certain[key(set)] }), true)
	}
	a.Capabilities = append(a.Capabilities, c)
}

// lost says that the empty set is a cut set.
func lost(cuts [][]Element) bool { return len(cuts) == 1 && len(cuts[0]) == 0 }

// cuts are the minimal cut sets, each in the order of its elements.
func (m *model) cuts(top faulttree.ID, depth int) (out [][]Element) {
	for _, cut := range m.tree.CutSets(top, depth) {
		set := []Element{}
		for _, n := range cut {
			set = append(set, m.elements[n])
		}
		out = append(out, sorted(set))
	}
	return out
}

// fails returns what fails below the top when these elements do.
func (m *model) fails(top faulttree.ID, failed map[Element]bool) map[faulttree.ID]bool {
	return m.tree.Fails(top, func(n faulttree.Element) bool { return failed[m.elements[n]] })
}

// sets reports the cut sets of a capability, and counts those of one element.
func (a *auditor) sets(m *model, c capability, cuts [][]Element, possible bool) (single int) {
	known := map[string]bool{}
	for _, set := range cuts {
		known[key(set)] = true
	}
	for _, set := range cuts {
		if a.cannotClose(m, c, set) {
			continue
		}
		if len(set) == 1 {
			single++
		}
		a.add(m, c, set, m.smaller(set, known), possible)
	}
	return single
}

// cannotClose notes a single point of failure that the cluster could not have closed, and says whether the set contains one.
func (a *auditor) cannotClose(m *model, c capability, set []Element) bool {
	for _, e := range set {
		why := m.inherent(e, c.name)
		if why == "" {
			continue
		}
		if len(set) == 1 {
			if a.inherent[e] == nil {
				a.inherent[e] = &Inherent{Element: e, Why: why}
			}
			a.inherent[e].Capabilities = append(a.inherent[e].Capabilities, c.name)
		}
		return true
	}
	return false
}

// smaller is the smallest reason of a cut set: the same set with elements that fail with those of this one, if it is a cut set itself; nil
// if there is none. If such a set exists, one exists in which a single element is replaced.
func (m *model) smaller(set []Element, known map[string]bool) (out []Element) {
	for set, again := set, true; again; {
		again = false
	search:
		for i, e := range set {
			for _, finer := range m.finer[e] {
				next := slices.Clone(set)
				next[i] = finer
				if next = sorted(next); known[key(next)] {
					set, out, again = next, next, true
					break search
				}
			}
		}
	}
	return out
}

// reasons are the gates that exist for redundancy, and whose redundancy does not suffice.
func (m *model) explain(top faulttree.ID, fails map[faulttree.ID]bool) (out []*reason) {
	seen := map[faulttree.ID]bool{}
	var down func(faulttree.ID)
	down = func(id faulttree.ID) {
		if !fails[id] || seen[id] {
			return
		}
		seen[id] = true
		if r := m.reasons[id]; r != nil {
			if !slices.ContainsFunc(out, func(x *reason) bool { return *x == *r }) {
				out = append(out, r)
			}
			return
		}
		for _, in := range m.tree.Node(id).Inputs {
			down(in)
		}
	}
	down(top)
	return out
}

// failures says why something is lost already.
func (m *model) failures(top faulttree.ID) (out []string) {
	kinds := map[Kind]bool{}
	for _, r := range m.explain(top, m.fails(top, nil)) {
		out = append(out, r.what)
		kinds[r.kind] = true
	}
	for _, b := range m.broken {
		if kinds[b.kind] && b.kind != Pod && !slices.Contains(out, b.text) {
			out = append(out, b.text)
		}
	}
	return out
}

// add notes a cut set. Those of one set of elements with one fix are one finding, and so are those that contain the same smaller one, whose
// fix is what counts.
func (a *auditor) add(m *model, c capability, set, contains []Element, possible bool) {
	failed := map[Element]bool{}
	for _, e := range set {
		failed[e] = true
	}
	reasons := m.explain(c.top, m.fails(c.top, failed))
	fixes := a.fix(m, c, set, reasons)
	id := fmt.Sprint(key(set), possible, fixes)
	if len(contains) > 0 {
		id = fmt.Sprint(key(set), possible, key(contains))
	}
	f := a.findings[id]
	if f == nil {
		f = &Finding{Finding: cluster.Finding{Rule: RuleSingle, Severity: cluster.Warning}, Elements: set, Size: len(set), Possible: possible, Contains: contains}
		switch {
		case len(set) == 1 && set[0].Kind == Certificates:
			f.Rule = RuleCertificates
		case len(set) > 1:
			f.Rule, f.Severity = RulePair, cluster.Info
		}
		if possible {
			f.Severity = cluster.Info // what is unknown is reported as such
		}
		f.Subjects = words(set)
		a.findings[id] = f
		a.order = append(a.order, id)
	}
	f.Capabilities = append(f.Capabilities, c.name)
	a.lasts[id] = union(a.lasts[id], m.lasts(set, reasons))
	a.fixes[id] = union(a.fixes[id], fixes)
}

// union appends what is new.
func union(have, more []string) []string {
	for _, text := range more {
		if !slices.Contains(have, text) {
			have = append(have, text)
		}
	}
	return have
}

// drains reports disruption budgets.
func (a *auditor) drains() {
	if a.best.w == nil {
		return
	}
	c := Capability{Name: Maintenance, State: Works}
	if a.best.w.Unknown["pods"] != "" || a.best.w.Unknown["disruption budgets"] != "" {
		c.State, c.Because = Unknown, []string{"pods or disruption budgets could not be read"}
	}
	for i, b := range a.best.blockedDrains() {
		f := &Finding{Finding: cluster.Finding{Rule: RuleDrain, Severity: cluster.Warning, Subjects: words(b.budgets)}, Capabilities: []string{Maintenance}, Elements: b.budgets, Size: len(b.budgets)}
		nodes := cluster.List(some(b.nodes, "nodes"))
		if b.several {
			f.Summary = fmt.Sprintf("%s belong to several disruption budgets (%s), and the eviction API refuses to evict such pods", cluster.List(some(b.pods, "pods")), strings.Join(words(b.budgets), ", "))
			f.Fix = "Leave one budget for these pods: delete the others with `kubectl delete pdb`."
		} else {
			f.Summary = fmt.Sprintf("%s never allows an eviction of %s: all of its pods must be healthy at all times", b.budgets[0], cluster.List(some(b.pods, "pods")))
			namespace, name, _ := strings.Cut(b.budgets[0].Name, "/")
			f.Fix = fmt.Sprintf("Run more replicas, or relax the budget: `kubectl -n %s edit pdb %s`.", namespace, name)
		}
		f.Loss = "A drain of " + nodes + " never ends, so nodes cannot be taken out of service. It lasts until the budget is changed."
		if b.several {
			f.Loss = strings.Replace(f.Loss, "the budget is changed", "each pod has one budget", 1)
		}
		c.Single++
		id := fmt.Sprint("drain", i)
		a.findings[id] = f
		a.order = append(a.order, id)
	}
	a.Capabilities = append(a.Capabilities, c)
}

// finish writes the texts that depend on all capabilities of a finding, and sorts.
func (a *auditor) finish() {
	for _, id := range a.order {
		f := a.findings[id]
		if f.Summary == "" {
			f.Loss = strings.Join(append([]string{losses(f.Capabilities)}, a.lasts[id]...), " ")
			f.Summary, f.Fix = f.summary(), strings.Join(a.fixes[id], " ")
		}
		a.Findings = append(a.Findings, *f)
	}
	slices.SortStableFunc(a.Findings, func(x, y Finding) int {
		derived := func(f Finding) int { return min(len(f.Contains), 1) }
		return cmp.Or(cmp.Compare(x.Severity.Rank(), y.Severity.Rank()), cmp.Compare(x.Size, y.Size), cmp.Compare(derived(x), derived(y)),
			cmp.Compare(rank(x.Capabilities), rank(y.Capabilities)), slices.CompareFunc(x.Elements, y.Elements, compare))
	})
	for _, e := range slices.SortedFunc(maps.Keys(a.inherent), compare) {
		x := a.inherent[e]
		x.Capabilities = slices.DeleteFunc(x.Capabilities, ofWorkload)
		if len(x.Capabilities) > 0 {
			a.Inherent = append(a.Inherent, *x)
		}
	}
}

// Capabilities are those of every cluster, the most important first.
var Capabilities = []string{APIReads, APIWrites, Scheduling, NewPods, ClusterDNS, ServiceTraffic, ClusterData, Maintenance}

// rank is the place of the most important of the capabilities.
func rank(capabilities []string) int {
	best := len(Capabilities)
	for _, c := range capabilities {
		if i := slices.Index(Capabilities, c); i >= 0 {
			best = min(best, i)
		}
	}
	return best
}

func ofWorkload(capability string) bool {
	return strings.HasPrefix(capability, WorkloadPrefix) || strings.HasPrefix(capability, ReplacementPrefix)
}

// summary says what fails and what it takes away.
func (f *Finding) summary() string {
	what := cluster.List(condensed(f.Capabilities))
	switch {
	case f.Possible:
		return fmt.Sprintf("the loss of %s may take away %s: whether something else works is unknown", cluster.List(words(f.Elements)), what)
	case f.Rule == RuleCertificates:
		return fmt.Sprintf("%s are a single point of failure for %s", f.Elements[0], what)
	case f.Size == 1:
		return fmt.Sprintf("%s is a single point of failure for %s", f.Elements[0], what)
	}
	return fmt.Sprintf("the loss of %s takes away %s", cluster.List(words(f.Elements)), what)
}

// condensed are capabilities as a sentence names them: the API is one thing, and of many workloads only some are named.
func condensed(capabilities []string) (out []string) {
	has := func(c string) bool { return slices.Contains(capabilities, c) }
	var workloads, replacements, rest []string
	for _, c := range capabilities {
		w, is := strings.CutPrefix(c, WorkloadPrefix)
		r, replaces := strings.CutPrefix(c, ReplacementPrefix)
		switch {
		case is:
			workloads = append(workloads, w)
		case replaces:
			replacements = append(replacements, r)
		case c == APIReads && has(APIWrites):
			rest = append(rest, "the API")
		case c == APIWrites && has(APIReads):
		default:
			rest = append(rest, c)
		}
	}
	out = rest
	if len(workloads) > 0 {
		out = append(out, cluster.List(some(workloads, "workloads")))
	}
	if len(replacements) > 0 {
		out = append(out, "the replacement of pods of "+cluster.List(some(replacements, "workloads")))
	}
	return out
}

// some are the first of many names, and how many more there are of what they name.
func some(names []string, what string) []string {
	const most = 3
	if len(names) <= most+1 {
		return names
	}
	return append(slices.Clone(names[:most]), strings.TrimSpace(fmt.Sprintf("%d more %s", len(names)-most, what)))
}

var kindsOfControlPlane = []Kind{Kind(quorum.Members.Name), Kind(quorum.APIServers.Name), Kind(quorum.ControllerManagers.Name), Kind(quorum.Schedulers.Name)}
