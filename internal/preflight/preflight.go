// Package preflight judges whether hosts can become, or go on being, the cluster of a spec, before anything is changed on
// them. It is pure: what the hosts say is collected elsewhere.
package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Severity says what a finding means for the build.
type Severity string

// An error keeps apply from building a cluster; a warning is a risk that it takes; an info is worth knowing.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

func (s Severity) rank() int { return slices.Index([]Severity{Error, Warning, Info}, s) }

// Finding is one thing that is not as the cluster needs it.
type Finding struct {
	Severity Severity `json:"severity"`
	// Check is the ID of one of Checks.
	Check string `json:"check"`
	// Hosts are where it was found, in the order of the spec; empty when it is the caller's machine.
	Hosts   []string `json:"hosts"`
	Summary string   `json:"summary"`
	Fix     string   `json:"fix"`
}

// Report is everything that was found, what matters most first.
type Report struct {
	Cluster  string    `json:"cluster"`
	Hosts    int       `json:"hosts"` // how many were checked
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
	Findings []Finding `json:"findings"`
	// Ignored are findings of checks that the caller chose to ignore.
	Ignored []Finding `json:"ignored,omitempty"`
}

// NewReport sorts findings into a report. Findings that differ in nothing but their hosts become one.
func NewReport(c *spec.Cluster, findings []Finding, ignore []string) *Report {
	r := &Report{Cluster: c.Metadata.Name, Hosts: len(c.Spec.Hosts), Findings: []Finding{}}
	order := map[string]int{}
	for i, h := range c.Spec.Hosts {
		order[h.Name] = i
	}
	for _, f := range merge(findings) {
		slices.SortFunc(f.Hosts, func(a, b string) int { return order[a] - order[b] })
		switch {
		case slices.Contains(ignore, f.Check):
			r.Ignored = append(r.Ignored, f)
			continue
		case f.Severity == Error:
			r.Errors++
		case f.Severity == Warning:
			r.Warnings++
		}
		r.Findings = append(r.Findings, f)
	}
	first := func(f Finding) int {
		if len(f.Hosts) == 0 {
			return -1
		}
		return order[f.Hosts[0]]
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(a.Severity.rank()-b.Severity.rank(), checkOrder(a.Check)-checkOrder(b.Check), first(a)-first(b))
	})
	return r
}

func merge(findings []Finding) []Finding {
	var out []Finding
	index := map[[4]string]int{}
	for _, f := range findings {
		key := [4]string{string(f.Severity), f.Check, f.Summary, f.Fix}
		i, seen := index[key]
		if !seen {
			i, index[key] = len(out), len(out)
			out = append(out, Finding{f.Severity, f.Check, []string{}, f.Summary, f.Fix})
		}
		for _, h := range f.Hosts {
			if !slices.Contains(out[i].Hosts, h) {
				out[i].Hosts = append(out[i].Hosts, h)
			}
		}
	}
	return out
}

// Err is nil without errors, and otherwise a refusal that names them all.
func (r *Report) Err() error {
	if r.Errors == 0 {
		return nil
	}
	return &Refusal{Report: r}
}

// Refusal says why nothing was changed.
type Refusal struct{ Report *Report }

func (e *Refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "refused (preflight): the hosts cannot become %s; nothing was changed", e.Report.Cluster)
	for _, f := range e.Report.Findings {
		if f.Severity == Error {
			fmt.Fprintf(&b, "\n  %s: %s. %s (%s)", few(f.Hosts), f.Summary, sentence(f.Fix), f.Check)
		}
	}
	b.WriteString("\nquorate preflight shows everything that was found; --ignore CHECK goes on in spite of one")
	return b.String()
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// few lists the first names and counts the rest.
func few(names []string) string {
	const most = 6
	switch {
	case len(names) == 0:
		return "this machine"
	case len(names) <= most:
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// judge collects the findings on one cluster.
type judge struct {
	c    *spec.Cluster
	obs  *facts.Observation
	seen *facts.Preflight

	built bool   // there is a cluster: an API that answers, or hosts that say that there was one
	ca    string // its CA certificate, or that of most hosts
	// contained says that all nodes are containers: their kubelets go by other figures.
	contained bool
	out       []Finding
}

func (j *judge) add(s Severity, check string, hosts []string, fix, format string, args ...any) {
	j.out = append(j.out, Finding{s, check, hosts, fmt.Sprintf(format, args...), fix})
}

// Built says whether the observation shows a cluster, rather than hosts on which one is yet to be built.
func Built(obs *facts.Observation) bool {
	for _, h := range obs.Hosts {
		if h.Facts != nil && h.Facts.Kubernetes.Established {
			return true
		}
	}
	return obs.API != nil && obs.API.Initialised
}

// Judge finds everything that the hosts lack, or have too much of, for the cluster of the spec.
func Judge(c *spec.Cluster, obs *facts.Observation, seen *facts.Preflight) []Finding {
	j := &judge{c: c, obs: obs, seen: seen, built: Built(obs)}
	var nodes []*facts.Facts
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			nodes = append(nodes, obs.Hosts[h.Name].Facts)
		}
	}
	j.contained = facts.AllContainers(nodes)
	j.ca = j.commonCA()
	for _, h := range c.Spec.Hosts {
		o := obs.Hosts[h.Name]
		if o.Facts == nil {
			j.add(Error, "session", []string{h.Name}, "bring the host up and make it reachable over SSH, or take it out of the spec", "%s", cmp.Or(o.Error, "it was not asked"))
			continue
		}
		in, ok := seen.Hosts[h.Name]
		if !ok {
			j.add(Error, "session", []string{h.Name}, "run it again; quorate -v says more", "%s", cmp.Or(seen.Errors[h.Name], "it was not inspected"))
			continue
		}
		j.host(h, o.Facts, in)
	}
	j.clocks()
	j.duplicates()
	j.mtus()
	j.reach()
	j.virtualIP()
	return j.out
}

// commonCA is the CA certificate that most hosts have: of one cluster, if there is one at all.
func (j *judge) commonCA() string {
	count := map[string]int{}
	best := ""
	for _, h := range j.c.Spec.Hosts {
		f := j.obs.Hosts[h.Name].Facts
		if f == nil || f.Kubernetes.CA == "" {
			continue
		}
		weight := 1
		if f.Kubernetes.Established {
			weight = 1000
		}
		if count[f.Kubernetes.CA] += weight; count[f.Kubernetes.CA] > count[best] {
			best = f.Kubernetes.CA
		}
	}
	return best
}
