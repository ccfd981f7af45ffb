// Package preflight judges whether hosts can become the cluster of a spec, or can join it, before anything is changed on them.
// It is pure: what the hosts report is collected elsewhere.
package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// In preflight an error keeps apply from changing the hosts, a warning is a risk that apply takes, and an info is worth
// knowing. The rule of a finding is one of Checks.
const (
	failure = cluster.Error
	warning = cluster.Warning
	info    = cluster.Info
)

// Report is everything that was found, what matters most first. Its JSON keys are stable.
type Report struct {
	Cluster  string `json:"cluster"`
	Hosts    int    `json:"hosts"` // how many were checked
	Errors   int    `json:"errors"`
	Warnings int    `json:"warnings"`
	// Findings without subjects are about the machine that runs the command.
	Findings []cluster.Finding `json:"findings"`
	// Ignored are findings of checks that the caller chose to ignore.
	Ignored []cluster.Finding `json:"ignored,omitempty"`

	joins bool
}

// NewReport sorts findings into a report. With names, only these hosts were checked, because they join a cluster.
func NewReport(c *spec.Cluster, findings []cluster.Finding, ignore, joining []string) *Report {
	r := &Report{Cluster: c.Metadata.Name, Hosts: len(c.Spec.Hosts), Findings: []cluster.Finding{}, joins: len(joining) > 0}
	if r.joins {
		r.Hosts = len(joining)
	}
	for _, f := range findings {
		switch {
		case slices.Contains(ignore, f.Rule) && Known(f.Rule):
			r.Ignored = append(r.Ignored, f)
			continue
		case f.Severity.Rank() <= failure.Rank():
			r.Errors++
		case f.Severity == warning:
			r.Warnings++
		}
		r.Findings = append(r.Findings, f)
	}
	order := map[string]int{}
	for i, h := range c.Spec.Hosts {
		order[h.Name] = i
	}
	first := func(f cluster.Finding) int {
		if len(f.Subjects) == 0 {
			return -1
		}
		return order[f.Subjects[0]]
	}
	slices.SortStableFunc(r.Findings, func(a, b cluster.Finding) int {
		return cmp.Or(a.Severity.Rank()-b.Severity.Rank(), checkOrder(a.Rule)-checkOrder(b.Rule), first(a)-first(b))
	})
	return r
}

// RulePreflight refuses to change hosts on which preflight found errors.
const RulePreflight = "preflight"

// Refusal is nil without errors, and otherwise names them all.
func (r *Report) Refusal() *cluster.Refusal {
	what := "become "
	if r.joins {
		what = "join "
	}
	return cluster.Refuse(RulePreflight, "the hosts cannot "+what+r.Cluster+"; nothing was changed:",
		"`quorate preflight` shows everything that was found. `quorate apply --ignore CHECK` ignores one check, by its name.", r.Findings)
}

// judge collects the findings on one cluster.
type judge struct {
	*cluster.State
	c    *spec.Cluster
	seen *facts.Preflight

	// contained says that all nodes are containers: their kubelets go by other figures.
	contained bool
	out       []cluster.Finding
}

// HOSTS stands for the hosts of a finding in its summary, so that hosts in the same condition share one finding.
const HOSTS = "HOSTS"

func (j *judge) add(s cluster.Severity, check string, hosts []string, fix, format string, args ...any) {
	j.out = append(j.out, cluster.Finding{Severity: s, Rule: check, Subjects: hosts, Summary: fmt.Sprintf(format, args...), Fix: fix})
}

// Joining are the hosts that apply would add to the cluster: they could be queried, and carry no part of it yet, or no load balancer
// although they are to be one. There are none without a cluster, and none while its API does not answer.
func Joining(s *cluster.State) (out []string) {
	if s.Stage() != cluster.Complete && s.Stage() != cluster.Foreign {
		return nil
	}
	for _, h := range s.Spec.Spec.Hosts {
		if s.Reachable(h.Name) && (!s.Joined(h) || s.Gains(h)) {
			out = append(out, h.Name)
		}
	}
	return out
}

func newJudge(s *cluster.State, seen *facts.Preflight) *judge {
	var nodes []*facts.Facts
	for _, h := range s.Spec.Spec.Hosts {
		if h.IsNode() {
			nodes = append(nodes, s.Facts(h.Name))
		}
	}
	return &judge{State: s, c: s.Spec, seen: seen, contained: facts.AllContainers(nodes)}
}

// Judge finds everything that the hosts lack, or have too much of, for the cluster of the spec. With names, it finds only what
// concerns these hosts. What was found in the same way on several hosts is one finding.
func Judge(s *cluster.State, seen *facts.Preflight, only []string) []cluster.Finding {
	j := newJudge(s, seen)
	j.conflicts()
	unreachable := s.Unreachable()
	for _, h := range j.c.Spec.Hosts {
		on := []string{h.Name}
		f := s.Facts(h.Name)
		in, ok := seen.Hosts[h.Name]
		switch {
		case f == nil:
			j.add(failure, "session", on, "Start the host and make it reachable over SSH, or take it out of the spec.", "%s cannot be reached: %s", h.Name, unreachable[h.Name])
		case !ok:
			j.add(failure, "session", on, "Run it again. `quorate preflight -v` shows more.", "%s could not be inspected: %s", h.Name, cmp.Or(seen.Errors[h.Name], "it was not queried"))
		default:
			j.host(h, f, in)
		}
	}
	j.clocks()
	j.storage()
	j.duplicates()
	j.mtus()
	j.reach()
	j.patience()
	if !j.Exists() {
		j.virtualIP()
	}
	return j.finish(only)
}

// conflicts are hosts that belong to another cluster. Nothing but another spec helps, so they cannot be ignored.
func (j *judge) conflicts() {
	for _, r := range j.Conflicts() {
		j.add(failure, r.Rule, r.Subjects, r.Fix, "%s", r.Why)
	}
}

// conflict says that a host belongs to another cluster.
func (j *judge) conflict(host string) bool {
	return slices.ContainsFunc(j.out, func(f cluster.Finding) bool {
		return f.Rule == cluster.RuleOneCluster && slices.Contains(f.Subjects, host)
	})
}

// finish joins findings that differ in nothing but their hosts, and names these.
func (j *judge) finish(only []string) []cluster.Finding {
	order := map[string]int{}
	for i, h := range j.c.Spec.Hosts {
		order[h.Name] = i
	}
	var out []cluster.Finding
	index := map[[4]string]int{}
	for _, f := range j.out {
		key := [4]string{string(f.Severity), f.Rule, f.Summary, f.Fix}
		i, seen := index[key]
		if !seen {
			i, index[key] = len(out), len(out)
			out = append(out, cluster.Finding{Severity: f.Severity, Rule: f.Rule, Summary: f.Summary, Fix: f.Fix})
		}
		for _, h := range f.Subjects {
			if !slices.Contains(out[i].Subjects, h) {
				out[i].Subjects = append(out[i].Subjects, h)
			}
		}
	}
	for i := range out {
		slices.SortFunc(out[i].Subjects, func(a, b string) int { return order[a] - order[b] })
		out[i].Summary = strings.ReplaceAll(out[i].Summary, HOSTS, few(out[i].Subjects))
	}
	if only == nil {
		return out
	}
	return slices.DeleteFunc(out, func(f cluster.Finding) bool {
		return !slices.ContainsFunc(f.Subjects, func(name string) bool {
			h, _ := j.c.Host(name)
			return slices.Contains(only, name) && (!j.Gains(h) || slices.Contains(ofBalancers, f.Rule))
		})
	})
}

// ofBalancers are the checks of what a load balancer needs. A host of the cluster that becomes one is not held to the others: it has
// grown beyond what is asked of empty hosts.
var ofBalancers = []string{"session", "packages", "ports", "versions", "virtual-ip", "selinux", "firewall", "reach", "mounts", "sysctls", "rewrites"}

// few lists the first names and counts the rest.
func few(names []string) string {
	const most = 6
	if len(names) <= most {
		return cluster.List(names)
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
