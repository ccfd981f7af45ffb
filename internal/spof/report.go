package spof

import (
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// IDs of the rules of findings.
const (
	RuleSingle       = "single-point-of-failure"
	RulePair         = "two-failures"
	RuleCertificates = "certificates-together"
	RuleDrain        = "blocked-drain"
)

// Rules are the rules of all findings of an audit.
var Rules = []cluster.Rule{
	{ID: RuleSingle, Severities: []cluster.Severity{cluster.Warning}, What: "no single failure takes a capability of the cluster or a workload away"},
	{ID: RulePair, Severities: []cluster.Severity{cluster.Info}, What: "no two failures do (`--depth 2`)"},
	{ID: RuleCertificates, Severities: []cluster.Severity{cluster.Warning, cluster.Info}, What: "the certificates of control planes and etcd hosts do not expire soon and on the same day"},
	{ID: RuleDrain, Severities: []cluster.Severity{cluster.Warning}, What: "no disruption budget keeps a node from ever being drained, and no pod has several"},
}

// Input is what an audit looks at.
type Input struct {
	Spec *spec.Cluster
	// State is the cluster as it was observed; nil for the spec alone. A cluster that is not complete is not looked at, either.
	State *cluster.State
	// Note says why there is no State, where it was wanted.
	Note string
	// Workloads are what runs in the cluster; nil if nobody asked.
	Workloads *facts.Workloads
	// WorkloadsUnknown is why they could not be asked for.
	WorkloadsUnknown string
	// Depth is how many elements may fail at the same time: 1 or 2.
	Depth int
}

// What an audit looked at.
const (
	FromSpec    = "spec"
	FromCluster = "cluster"
)

// Report is the result of an audit. Its JSON keys are stable.
type Report struct {
	Cluster string `json:"cluster"`
	// From says what was looked at: spec for the spec alone, or cluster for the cluster as it is. Note says why it is the spec, where
	// that was not asked for.
	From string `json:"from"`
	Note string `json:"note,omitempty"`
	// Depth is how many failures at the same time were looked for.
	Depth        int          `json:"depth"`
	Capabilities []Capability `json:"capabilities"`
	// Findings are the cut sets, the worst first.
	Findings []Finding `json:"findings"`
	// Inherent are single points of failure that this cluster could not have closed.
	Inherent []Inherent `json:"inherent"`
	// Unknown maps what could not be queried to the reason. It counts neither as up nor as down.
	Unknown map[string]string `json:"unknown"`

	model *model
}

// The states of a capability.
const (
	Works   = "works"
	Lost    = "lost"
	Unknown = "unknown"
)

// Capability is something that must not be lost.
type Capability struct {
	Name string `json:"name"`
	// State is works, lost, or unknown: it depends on what could not be queried. For a spec alone, it is what the spec describes.
	State string `json:"state"`
	// Because is what is wrong if it is lost, or what is unknown.
	Because []string `json:"because,omitempty"`
	// Single is how many elements take it away alone, without those that this cluster could not have closed.
	Single int `json:"single"`
}

// Finding is one minimal cut set: elements whose failure takes capabilities away, as long as nothing else fails.
type Finding struct {
	cluster.Finding
	Capabilities []string  `json:"capabilities"`
	Elements     []Element `json:"elements"`
	Size         int       `json:"size"`
	// Loss is what would be lost, and for how long.
	Loss string `json:"loss"`
	// Possible says that it is true only if something does not work that could not be queried.
	Possible bool `json:"possible,omitempty"`
	// Contains is the finding's own reason, if there is a smaller one: elements that fail with those of this finding, and whose
	// failure suffices. A zone is a cut set because a load balancer in it is.
	Contains []Element `json:"contains,omitempty"`
}

// Inherent is an element that takes capabilities away alone, and whose failure this cluster could not have been protected from.
type Inherent struct {
	Element      Element  `json:"element"`
	Capabilities []string `json:"capabilities"`
	Why          string   `json:"why"`
}

// OK says that there is no single point of failure that the cluster could have closed, that nothing is lost already, and that nothing
// is unknown.
func (r Report) OK() bool {
	for _, f := range r.Findings {
		if f.Severity.Rank() <= cluster.Warning.Rank() {
			return false
		}
	}
	for _, c := range r.Capabilities {
		if c.State != Works {
			return false
		}
	}
	return len(r.Unknown) == 0
}

// Elements are those that the trees consist of: everything that can fail now.
func (r Report) Elements() []Element { return slices.Clone(r.model.elements) }

// Lost names the capabilities that would be lost if these elements failed now, according to the trees. It is what a drill is compared
// with. What is unknown counts as up.
func (r Report) Lost(elements ...Element) []string {
	failed := map[Element]bool{}
	for _, e := range elements {
		failed[e] = true
	}
	out := []string{}
	for _, c := range r.model.capabilities {
		if r.model.fails(c.top, failed)[c.top] {
			out = append(out, c.name)
		}
	}
	return out
}
