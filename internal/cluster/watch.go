package cluster

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// WatchUnit says whether the unit that observes, and repairs, works on a control plane.
func (s *State) WatchUnit(host string) facts.Answer {
	f := s.Facts(host)
	switch {
	case f == nil:
		return facts.Answer{Unknown: s.whyUnreachable(host)}
	case f.Watch == nil:
		return facts.Answer{Unknown: "it was not asked for"}
	case f.Watch.Config == nil:
		return facts.Answer{Problem: "it has no configuration"}
	case f.Unknown[facts.UnitsPart] != "":
		return facts.Answer{Unknown: f.Unknown[facts.UnitsPart]}
	case f.Units[hostconfig.WatchUnit] != "active":
		return facts.Answer{Problem: hostconfig.WatchUnit + " does not run"}
	case f.Watch.Report == nil:
		return facts.Answer{Problem: "it runs and has not reported yet"}
	}
	if ago := time.Duration(f.Watch.Report.AgoSeconds) * time.Second; ago > facts.WatchSilent {
		return facts.Answer{Problem: fmt.Sprintf("it runs and has done nothing for %s", span(ago))}
	}
	return facts.Answer{OK: true}
}

// ExporterUnit says whether the unit that serves metrics works on a control plane.
func (s *State) ExporterUnit(host string) facts.Answer {
	f := s.Facts(host)
	switch {
	case f == nil:
		return facts.Answer{Unknown: s.whyUnreachable(host)}
	case f.Watch == nil:
		return facts.Answer{Unknown: "it was not asked for"}
	case f.Unknown[facts.UnitsPart] != "":
		return facts.Answer{Unknown: f.Unknown[facts.UnitsPart]}
	case f.Units[hostconfig.ExporterUnit] != "active":
		return facts.Answer{Problem: hostconfig.ExporterUnit + " does not run"}
	case f.Watch.Exporter == "":
		return facts.Answer{Problem: hostconfig.ExporterUnit + " runs and has not said yet that it serves them"}
	case f.Watch.Exporter != facts.ExporterServes:
		return facts.Answer{Problem: f.Watch.Exporter}
	}
	return facts.Answer{OK: true}
}

// WatchLeader is the control plane whose unit observes, and repairs; empty if none is known to.
func (s *State) WatchLeader() string {
	for _, h := range s.Spec.HostsWith(spec.RoleControlPlane) {
		if s.WatchUnit(h.Name).OK && s.Facts(h.Name).Watch.Report.Leads {
			return h.Name
		}
	}
	return ""
}

// watchWords are what the unit is called, and what does not happen without it.
func (s *State) watchWords() (unit, nothing string) {
	if s.Spec.Spec.Repair.Watch {
		return "the unit that repairs", "nothing is repaired"
	}
	return "the unit that observes", "nobody observes the cluster for its metrics"
}

const fixWatch = "`quorate apply` sets it up. On a control plane, `journalctl -u quorate-watch` shows what the unit does."

// watch reports that the control planes do not observe the cluster, repair it, or serve metrics as the spec says.
func (f *findings) watch() {
	if !f.Spec.Watched() || f.stage == Foreign {
		return
	}
	unit, nothing := f.watchWords()
	var broken, working []string
	problems, unknown := map[string]string{}, 0
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		switch a := f.WatchUnit(h.Name); {
		case a.OK:
			working = append(working, h.Name)
		case a.Problem != "" && f.Joined(h):
			broken, problems[h.Name] = append(broken, h.Name), a.Problem
		default:
			unknown++ // another finding says that it cannot be reached
		}
	}
	switch {
	case len(working) == 0 && len(broken) > 0 && unknown == 0:
		f.add(RuleWatch, Warning, nothing+": "+unit+" works on no control plane; on "+broken[0]+" "+problems[broken[0]], fixWatch, broken...)
	default:
		for _, name := range broken {
			f.add(RuleWatch, Warning, unit+" does not work on "+name+": "+problems[name], fixWatch, name)
		}
	}
	f.watchLeader(working)
	f.exporters(working)
	f.watchAdmissions()
}

func (f *findings) watchLeader(working []string) {
	_, nothing := f.watchWords()
	leader := f.WatchLeader()
	if leader == "" {
		// Where all others are down, or cannot be asked, those that work cannot agree, and one may lead that cannot be asked.
		if len(working) == len(f.Spec.HostsWith(spec.RoleControlPlane)) {
			why := "; the next attempt is made within seconds"
			for _, name := range working {
				if h := f.Facts(name).Watch.Report.Hindered; h != "" {
					why = "; " + name + " says: " + h
				}
			}
			f.add(RuleWatch, Warning, nothing+": no control plane leads the others"+why, "Run `quorate status` again in a moment. If this persists, see `journalctl -u quorate-watch` on the control planes.")
		}
		return
	}
	unreachable := f.Facts(leader).Watch.Report.Unreachable
	for _, name := range slices.Sorted(maps.Keys(unreachable)) {
		if f.Reachable(name) { // otherwise another finding says so
			does, there := "repairs", "nothing is repaired there"
			if !f.Spec.Spec.Repair.Watch {
				does, there = "observes", "its metrics are missing"
			}
			f.add(RuleWatch, Warning, fmt.Sprintf("%s, which %s, cannot reach %s, so %s: %s", leader, does, name, there, unreachable[name]),
				"Allow SSH from the control planes to "+name+". If it was reinstalled, or got other host keys, run `quorate apply`.", name)
		}
	}
}

// exporters reports control planes whose metrics nobody can read. Where the unit that observes does not work, another finding says so.
func (f *findings) exporters(working []string) {
	if !f.Spec.Spec.Monitoring.Exporter {
		return
	}
	for _, name := range working {
		if why := f.ExporterUnit(name).Problem; why != "" {
			f.add(RuleWatch, Warning, "the metrics of "+name+" cannot be read: "+why,
				"It tries again every few seconds. If this persists, see `journalctl -u quorate-exporter -u quorate-approver` on "+name+".", name)
		}
	}
}

// watchAdmissions reports hosts that the units cannot observe or repair, because they do not admit the control planes.
func (f *findings) watchAdmissions() {
	var closed []string
	for _, h := range f.Spec.Spec.Hosts {
		if x := f.Facts(h.Name); x != nil && x.Watch != nil && f.Joined(h) && (x.Watch.Admits == nil || x.Watch.Admits.Broken != "") {
			closed = append(closed, h.Name)
		}
	}
	if len(closed) > 0 {
		f.add(RuleWatch, Warning, List(closed)+plural(len(closed), " does", " do")+" not admit the control planes, so "+map[bool]string{true: "nothing is repaired there", false: "their metrics are missing"}[f.Spec.Spec.Repair.Watch], fixWatch, closed...)
	}
}
