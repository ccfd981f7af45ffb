// Package audit checks a running cluster against the CIS Kubernetes Benchmark. It is pure: package inspect reads the evidence
// on the hosts.
package audit

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
)

// Benchmark is what the checks' numbers refer to: its sections 1 to 4, for control plane, etcd, policies of the control
// plane, and nodes. The titles are not the benchmark's own.
const Benchmark = "CIS Kubernetes Benchmark v1.12"

// Host is the evidence from one host.
type Host struct {
	Name         string
	ControlPlane bool
	Node         bool
	Etcd         bool // it has a member of the cluster's etcd
	facts.Security
	// Kubelet is the configuration that the kubelet really has, defaults included, as it answers itself; nil if it does not.
	Kubelet map[string]any
}

// Cluster is all evidence.
type Cluster struct {
	Hosts []Host
	// Unreachable says of hosts why there is no evidence of them.
	Unreachable map[string]string
	// KubeProxy is kube-proxy's configuration in the API; nil if there is none.
	KubeProxy map[string]any
	// ExistingEtcd are the endpoints of an etcd that is not on the cluster's hosts.
	ExistingEtcd []string
	// Access is who has access, as the API shows it; nil if it could not be queried, for the reason in AccessError.
	Access      *Access
	AccessError string
}

// Access is who has access to the API, other than the cluster's own programs and the administrator of kubeadm.
type Access struct {
	// People are the users and groups to which roles are bound, such as "user jane".
	People []string
	// Certificates are the names in client certificates that the API issued recently. The API removes requests after an hour.
	Certificates []string
	// AccountTokens are tokens of service accounts that do not expire, by the names of their secrets.
	AccountTokens []string
	// BootstrapTokens are those that are valid now, by the names of their secrets.
	BootstrapTokens []string
}

// Outcome of a check.
type Outcome string

// Pass meets the benchmark. Explained deviates from it for a stated reason. Unknown could not be judged, because what decides it could not be read. Fail is everything
// else. What the hosts of a check show together is the worst of it, in this order.
const (
	Pass      Outcome = "pass"
	Explained Outcome = "explained"
	Unknown   Outcome = "unknown"
	Fail      Outcome = "fail"
)

var byWeight = []Outcome{Pass, Explained, Unknown, Fail}

// worse is the worse of two outcomes.
func worse(a, b Outcome) Outcome {
	return byWeight[max(slices.Index(byWeight, a), slices.Index(byWeight, b))]
}

// Check is one check of the benchmark on all hosts that it concerns.
type Check struct {
	ID      string  `json:"id"`
	Title   string  `json:"title"`
	Outcome Outcome `json:"outcome"`
	// Findings say what was found where, if it is not as the benchmark wants it.
	Findings []Note `json:"findings,omitempty"`
}

// Note is what one host, or with an empty name the cluster, shows for one check. It is a row of the benchmark's table and no
// finding of the cluster's state: most notes explain why something is right.
type Note struct {
	Host   string `json:"host,omitempty"`
	Found  string `json:"found"`
	Reason string `json:"reason,omitempty"` // why it is right all the same
}

// Report is the benchmark's outcome. Its JSON keys are stable.
type Report struct {
	Benchmark   string            `json:"benchmark"`
	Cluster     string            `json:"cluster"`
	Checks      []Check           `json:"checks"`
	Pass        int               `json:"pass"`
	Explained   int               `json:"explained"`
	Unknown     int               `json:"unknown"`
	Fail        int               `json:"fail"`
	Unreachable map[string]string `json:"unreachable,omitempty"`
}

// OK says that nothing failed and that everything could be judged, on every host.
func (r Report) OK() bool { return r.Fail+r.Unknown+len(r.Unreachable) == 0 }

// CIS evaluates the evidence.
func CIS(name string, c Cluster) Report {
	r := Report{Benchmark: Benchmark, Cluster: name, Unreachable: c.Unreachable}
	for _, rule := range rules {
		check := Check{ID: rule.id, Title: rule.title, Outcome: Pass}
		judged := 0
		note := func(host string, v verdict) {
			judged++
			if v.found == "" {
				return
			}
			check.Findings = append(check.Findings, Note{Host: host, Found: v.found, Reason: v.reason})
			check.Outcome = worse(check.Outcome, v.outcome())
		}
		for _, h := range c.Hosts {
			if rule.host != nil && (rule.on == onNodes && h.Node || rule.on == onControlPlanes && h.ControlPlane || rule.on == onEtcd && h.Etcd) {
				note(h.Name, rule.host(h))
			}
		}
		if rule.on == onEtcd && judged == 0 && len(c.ExistingEtcd) > 0 {
			for _, h := range c.Hosts {
				if h.ControlPlane {
					note(h.Name, etcdElsewhere(h, c.ExistingEtcd))
				}
			}
		}
		if rule.cluster != nil {
			note("", rule.cluster(c))
		}
		if judged == 0 {
			note("", nothing(c))
		}
		switch check.Outcome {
		case Pass:
			r.Pass++
		case Explained:
			r.Explained++
		case Unknown:
			r.Unknown++
		case Fail:
			r.Fail++
		}
		r.Checks = append(r.Checks, check)
	}
	return r
}

type scope int

const (
	onControlPlanes scope = iota
	onEtcd
	onNodes
)

// rule is how one check is made: on hosts, or on the whole cluster.
type rule struct {
	id, title string
	on        scope
	host      func(Host) verdict
	cluster   func(Cluster) verdict
}

// verdict is empty when all is as it should be.
type verdict struct {
	found, reason string
	unknown       bool // what decides it could not be read
}

func found(format string, args ...any) verdict { return verdict{found: fmt.Sprintf(format, args...)} }

func unknown(format string, args ...any) verdict {
	return verdict{found: fmt.Sprintf(format, args...), unknown: true}
}

// notRunning: how a program is configured is seen only while it runs.
func notRunning(program string) verdict { return unknown("%s is not running", program) }

// nothing is said if there is nothing to check on any host.
func nothing(c Cluster) verdict {
	if len(c.Unreachable) > 0 {
		return unknown("no host that this concerns could be checked")
	}
	return found("no host has anything to check")
}

func (v verdict) outcome() Outcome {
	switch {
	case v.found == "":
		return Pass
	case v.unknown:
		return Unknown
	case v.reason != "":
		return Explained
	}
	return Fail
}

func (v verdict) because(reason string) verdict {
	if v.found != "" && !v.unknown {
		v.reason = reason
	}
	return v
}

// modes wants the files that match to be there and to have no bits beyond these.
func modes(most uint32, match func(path string) bool) func(Host) verdict {
	return files(match, func(m facts.Mode) string {
		if m.Bits&^most != 0 {
			return fmt.Sprintf("%04o", m.Bits)
		}
		return ""
	})
}

func owned(owner, group string, match func(path string) bool) func(Host) verdict {
	return files(match, func(m facts.Mode) string {
		if m.Owner != owner || m.Group != group {
			return m.Owner + ":" + m.Group
		}
		return ""
	})
}

func files(match func(path string) bool, judge func(facts.Mode) string) func(Host) verdict {
	return func(h Host) verdict {
		var wrong []string
		matched := false
		for path, m := range h.Files {
			if !match(path) {
				continue
			}
			matched = true
			if what := judge(m); what != "" {
				wrong = append(wrong, path+" has "+what)
			}
		}
		if !matched {
			return found("the file does not exist")
		}
		slices.Sort(wrong)
		return found("%s", strings.Join(wrong, ", "))
	}
}

func is(path string) func(string) bool { return func(p string) bool { return p == path } }

func within(dir, suffix string) func(string) bool {
	return func(p string) bool { return strings.HasPrefix(p, dir+"/") && strings.HasSuffix(p, suffix) }
}

// flag judges one argument of a program that must run.
func flag(program, name string, judge func(value string, set bool) bool) func(Host) verdict {
	return func(h Host) verdict {
		args, runs := h.Programs[program]
		if !runs {
			return notRunning(program)
		}
		value, set := args[name]
		switch {
		case judge(value, set):
			return verdict{}
		case !set:
			return found("--%s is not set", name)
		}
		return found("--%s=%s", name, value)
	}
}

func all(judges ...func(Host) verdict) func(Host) verdict {
	return func(h Host) verdict {
		for _, j := range judges {
			if v := j(h); v.found != "" {
				return v
			}
		}
		return verdict{}
	}
}

func set(_ string, set bool) bool { return set }

func unset(_ string, set bool) bool { return !set }

func equals(want string) func(string, bool) bool {
	return func(v string, set bool) bool { return set && v == want }
}

// notFalse is for arguments that are true unless somebody says otherwise.
func notFalse(v string, set bool) bool { return !set || v == "true" }

func notTrue(v string, set bool) bool { return !set || v == "false" }

func lists(word string) func(string, bool) bool {
	return func(v string, set bool) bool { return set && slices.Contains(strings.Split(v, ","), word) }
}

func listsNot(word string) func(string, bool) bool {
	return func(v string, _ bool) bool { return !slices.Contains(strings.Split(v, ","), word) }
}

// strong are cipher suites with forward secrecy and authenticated encryption.
func strong(suites []string) bool {
	return len(suites) > 0 && !slices.ContainsFunc(suites, func(s string) bool {
		return !strings.HasPrefix(s, "TLS_ECDHE_") || !strings.Contains(s, "_GCM_") && !strings.Contains(s, "_CHACHA20_POLY1305")
	})
}

// kubelet judges a field of the configuration that a kubelet has.
func kubelet(path string, judge func(any) bool) func(Host) verdict {
	return func(h Host) verdict {
		if h.Kubelet == nil {
			return unknown("the kubelet does not answer")
		}
		value := field(h.Kubelet, path)
		if judge(value) {
			return verdict{}
		}
		if value == nil {
			return found("%s is not set", path)
		}
		return found("%s is %v", path, value)
	}
}

func field(object map[string]any, path string) any {
	var value any = object
	for name := range strings.SplitSeq(path, ".") {
		m, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = m[name]
	}
	return value
}

func yes(v any) bool { return v == true }

func no(v any) bool { return v == nil || v == false }

func words(v any) (out []string) {
	list, _ := v.([]any)
	for _, s := range list {
		out = append(out, fmt.Sprint(s))
	}
	return out
}
