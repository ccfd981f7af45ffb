// Package cluster is the model of a cluster: the only place where a cluster is evaluated, and the only place that decides
// whether a change to it is allowed.
//
// Evaluate makes a State from a spec and one observation. Every question about the cluster is a method of the State:
// whether there is a cluster (Stage), which CA it has, which members, servers and load balancers, what is wrong (Findings),
// how many failures it survives (Margins), and what a Change would do to it (After, Allow).
//
// Three rules hold everywhere in this package. What could not be queried is unknown; unknown never means absent and never
// means down. A change is judged on the cluster as it would be in the worst case. And nothing here does I/O, reads a clock,
// or depends on chance: the same spec and observation give the same answers.
package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says how bad a finding is.
type Severity string

const (
	// Critical is an outage, or one that is about to happen.
	Critical Severity = "critical"
	// Error keeps a cluster from being built or from working as the spec says.
	Error Severity = "error"
	// Warning is a cluster that works with less in reserve than it should have.
	Warning Severity = "warning"
	// Info is neither.
	Info Severity = "info"
)

// Rank orders severities: the worst has the lowest rank.
func (s Severity) Rank() int {
	switch s {
	case Critical:
		return 0
	case Error:
		return 1
	case Warning:
		return 2
	}
	return 3
}

// Finding is something wrong or risky. Status, preflight, audit, verify and adoption all use this type. Its JSON keys are
// stable.
type Finding struct {
	// Rule is the stable ID of what was checked, such as etcd-member.
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	// Subjects are the hosts, zones or other things that the finding is about; empty for the cluster as a whole.
	Subjects []string `json:"subjects,omitempty"`
	// Summary is what is wrong. It makes sense without the rest of the finding.
	Summary string `json:"summary"`
	// Fix is what to do about it.
	Fix string `json:"fix"`
	// Unmet says that the cluster does not match its spec as long as this is so. A run of apply ends only when nothing is
	// unmet.
	Unmet bool `json:"unmet,omitempty"`
}

// Refusal is the reason why something is not done. Nothing was changed when one is returned.
type Refusal struct {
	// Rule is the stable ID of the rule that refuses.
	Rule string `json:"rule"`
	// Have and Need are the numbers of the rule, where it has any: Have would be left, and Need must be.
	Have int `json:"have,omitempty"`
	Need int `json:"need,omitempty"`
	// Subjects are the hosts that the refusal is about; empty for the cluster as a whole.
	Subjects []string `json:"subjects,omitempty"`
	// Why is what stands in the way.
	Why string `json:"why"`
	// Fix is what to do instead. It names only commands that exist.
	Fix string `json:"fix"`
	// Transient says that waiting may resolve it: a member is starting, or something could not be queried just now.
	Transient bool `json:"transient,omitempty"`
}

func (r *Refusal) Error() string {
	why := strings.TrimSuffix(r.Why, ".")
	if !strings.HasSuffix(why, "?") { // an error of SSH can end with a question
		why += "."
	}
	return fmt.Sprintf("refused (%s): %s\n%s", r.Rule, why, r.Fix)
}

// Refuse makes the refusal for the errors among findings; nil if there are none. The reason begins with what, for example "the
// hosts cannot become prod:", and lists each of them with its fix.
func Refuse(rule, what, fix string, findings []Finding) *Refusal {
	out := &Refusal{Rule: rule, Fix: fix}
	var b strings.Builder
	for _, f := range findings {
		if f.Severity.Rank() > Error.Rank() {
			continue
		}
		fmt.Fprintf(&b, "\n  %s (%s). %s", f.Summary, f.Rule, f.Fix)
		for _, s := range f.Subjects {
			if !slices.Contains(out.Subjects, s) {
				out.Subjects = append(out.Subjects, s)
			}
		}
	}
	if b.Len() == 0 {
		return nil
	}
	out.Why = what + b.String()
	return out
}
