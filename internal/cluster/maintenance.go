package cluster

import (
	"maps"
	"slices"
)

// maintenance reports hosts that are in maintenance, and those whose maintenance was cut short.
func (f *findings) maintenance() {
	for _, name := range f.InMaintenance() {
		m, _ := f.Maintenance(name)
		since := ""
		if !m.Since.IsZero() {
			since = " since " + m.Since.UTC().Format("2006-01-02 15:04 MST")
		}
		if m.Ready {
			f.add(RuleMaintenance, Info, "host "+name+" is in maintenance"+since+" and can be powered off", "`quorate maintain --undo "+name+"` brings it back.", name)
			continue
		}
		f.add(RuleMaintenance, Warning, "host "+name+" is in maintenance"+since+", and not all of it was done: it cannot be powered off yet",
			"`quorate maintain "+name+"` finishes it; `quorate maintain --undo "+name+"` brings the host back.", name)
	}
}

// cordoned reports nodes of the spec that Quorate cordoned, and that are in no maintenance: a departure or a reset began, and was given up.
// It is not unmet, because only apply changes it: a rotation, for example, must not wait for it.
func (f *findings) cordoned() {
	for _, h := range f.Spec.Spec.Hosts {
		if n := f.Node(h.Name); n != nil && n.Cordoned && n.Unschedulable && f.Reachable(h.Name) && !f.leaving(h.Name) {
			f.add(RuleCordoned, Warning, "node "+h.Name+" gets no new pods: an earlier run cordoned it to drain it, and the host is still in the spec",
				"`quorate apply` uncordons it. To remove the host, take it out of the spec first.", h.Name)
		}
	}
}

// besidesMaintenance leaves out what is wrong with nothing but hosts that are in maintenance: whoever works on them knows.
func (f *findings) besidesMaintenance() []Finding {
	keep := []string{RuleMaintenance, RuleCertificate, RuleStranger}
	return slices.DeleteFunc(f.out, func(x Finding) bool {
		return len(x.Subjects) > 0 && x.Severity != Critical && !slices.Contains(keep, x.Rule) &&
			!slices.ContainsFunc(x.Subjects, func(name string) bool { return !f.leaving(name) })
	})
}

// serving are the rules of findings because of which a host cannot serve. Others, such as those about files, are for apply.
var serving = []string{RuleHost, RuleZone, RuleNotQueried, RuleComponent, RuleNode, RuleEtcdMember, RuleEtcdLearner, RuleControlPlane, RuleLoadBalancer, RuleBalancerServer, RuleAPI}

// Returned is the state as if hosts were not in maintenance: what is wrong with them, and what is left to do there, counts.
func (s *State) Returned(hosts ...string) *State {
	seen := *s.Seen
	if seen.API != nil {
		api := *seen.API
		api.Maintenance = maps.Clone(api.Maintenance)
		for _, host := range hosts {
			delete(api.Maintenance, host)
		}
		seen.API = &api
	}
	return Evaluate(s.Spec, &seen)
}

// Lacking are the findings that keep a host in maintenance from serving again.
func (s *State) Lacking(host string) (out []Finding) {
	for _, f := range s.Returned(host).Findings() {
		if slices.Contains(serving, f.Rule) && (slices.Contains(f.Subjects, host) || len(f.Subjects) == 0) {
			out = append(out, f)
		}
	}
	if !s.Reachable(host) && len(out) == 0 {
		out = append(out, Finding{Rule: RuleHost, Severity: Warning, Subjects: []string{host}, Summary: "host " + host + " cannot be reached: " + s.whyUnreachable(host), Fix: fixPower})
	}
	return out
}
