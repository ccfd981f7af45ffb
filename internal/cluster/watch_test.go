package cluster_test

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// TestWatchFindings: a unit that does not work, does nothing, does not lead, or is not admitted is reported, and one that nobody asked is not.
func TestWatchFindings(t *testing.T) {
	watch := func(f clustertest.Fixture, host string) *facts.Watch { return f.Seen.Hosts[host].Facts.Watch }
	exports := func(f clustertest.Fixture) { // and repair nothing
		f.Spec.Spec.Repair.Watch, f.Spec.Spec.Monitoring.Exporter = false, true
		for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
			f.Seen.Hosts[h].Facts.Units[hostconfig.ExporterUnit], watch(f, h).Exporter = "active", facts.ExporterServes
		}
	}
	for name, tc := range map[string]struct {
		change   func(clustertest.Fixture)
		summary  string // part of it; empty if nothing is wrong
		subjects []string
		leader   string
	}{
		"all works":     {change: func(clustertest.Fixture) {}, leader: "cp-a"},
		"it is off":     {change: func(f clustertest.Fixture) { f.Spec.Spec.Repair.Watch = false; watch(f, "cp-a").Report = nil }},
		"one stopped":   {change: func(f clustertest.Fixture) { f.Seen.Hosts["cp-b"].Facts.Units[hostconfig.WatchUnit] = "inactive" }, summary: "does not work on cp-b", subjects: []string{"cp-b"}, leader: "cp-a"},
		"one is silent": {change: func(f clustertest.Fixture) { watch(f, "cp-c").Report.AgoSeconds = 3600 }, summary: "has done nothing for 60 minutes", subjects: []string{"cp-c"}, leader: "cp-a"},
		"nobody was asked": {change: func(f clustertest.Fixture) {
			f.Change("cp-b", func(h *facts.Host) { h.Facts, h.Error = nil, "no route to host" })
		}, leader: "cp-a"},
		"none runs": {change: func(f clustertest.Fixture) {
			for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
				f.Seen.Hosts[h].Facts.Units[hostconfig.WatchUnit] = "failed"
			}
		}, summary: "works on no control plane", subjects: []string{"cp-a", "cp-b", "cp-c"}},
		"none leads": {change: func(f clustertest.Fixture) {
			watch(f, "cp-a").Report.Leads = false
			watch(f, "cp-b").Report.Hindered = "1 of 3 could be asked"
		}, summary: "no control plane leads the others; cp-b says: 1 of 3 could be asked"},
		"it cannot reach a host": {change: func(f clustertest.Fixture) {
			watch(f, "cp-a").Report.Unreachable = map[string]string{"w-a": "permission denied"}
		}, summary: "cp-a, which repairs, cannot reach w-a", subjects: []string{"w-a"}, leader: "cp-a"},
		"a host admits nobody": {change: func(f clustertest.Fixture) { watch(f, "w-a").Admits = nil }, summary: "w-a does not admit", subjects: []string{"w-a"}, leader: "cp-a"},
		"lines were changed":   {change: func(f clustertest.Fixture) { watch(f, "lb-a").Admits.Broken = "changed" }, summary: "lb-a does not admit", subjects: []string{"lb-a"}, leader: "cp-a"},
		"only metrics": {change: func(f clustertest.Fixture) {
			exports(f)
			f.Seen.Hosts["cp-b"].Facts.Units[hostconfig.WatchUnit] = "inactive"
		}, summary: "the unit that observes does not work on cp-b", leader: "cp-a"},
		"metrics that can be read": {change: exports, leader: "cp-a"},
		"metrics that cannot be read": {change: func(f clustertest.Fixture) {
			exports(f)
			watch(f, "cp-c").Exporter = "there is no certificate"
		}, summary: "the metrics of cp-c cannot be read: there is no certificate", subjects: []string{"cp-c"}, leader: "cp-a"},
		"metrics of a unit that does not serve them yet": {change: func(f clustertest.Fixture) {
			exports(f)
			watch(f, "cp-b").Exporter = ""
		}, summary: "the metrics of cp-b cannot be read: quorate-exporter.service runs and has not said yet", subjects: []string{"cp-b"}, leader: "cp-a"},
		"the unit that serves metrics stopped": {change: func(f clustertest.Fixture) {
			exports(f)
			f.Seen.Hosts["cp-b"].Facts.Units[hostconfig.ExporterUnit] = "failed"
		}, summary: "the metrics of cp-b cannot be read: quorate-exporter.service does not run", subjects: []string{"cp-b"}, leader: "cp-a"},
		"the one that observes stopped as well": {change: func(f clustertest.Fixture) {
			exports(f)
			f.Seen.Hosts["cp-b"].Facts.Units[hostconfig.ExporterUnit], f.Seen.Hosts["cp-b"].Facts.Units[hostconfig.WatchUnit] = "failed", "failed"
		}, summary: "the unit that observes does not work on cp-b", subjects: []string{"cp-b"}, leader: "cp-a"},
		"it was not applied yet": {change: func(f clustertest.Fixture) {
			for _, h := range f.Spec.Spec.Hosts {
				f.Seen.Hosts[h.Name].Facts.Watch = &facts.Watch{}
			}
		}, summary: "works on no control plane"},
	} {
		f := clustertest.Whole()
		f.Watch("1")
		tc.change(f)
		s := cluster.Evaluate(f.Spec, f.Seen)
		if got := s.WatchLeader(); f.Spec.Watched() && got != tc.leader {
			t.Errorf("%s: %q leads", name, got)
		}
		var found []cluster.Finding
		for _, x := range s.Findings() {
			if x.Rule == cluster.RuleWatch {
				found = append(found, x)
			}
		}
		if tc.summary == "" {
			if len(found) > 0 {
				t.Errorf("%s: %+v", name, found)
			}
			continue
		}
		if len(found) == 0 || !strings.Contains(found[0].Summary, tc.summary) || tc.subjects != nil && !slices.Equal(found[0].Subjects, tc.subjects) || found[0].Unmet {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// TestAMemberThatTheUnitSawGoBack is reported: a single observation does not show it. What one reports that does not lead any more is old.
func TestAMemberThatTheUnitSawGoBack(t *testing.T) {
	f := clustertest.Whole()
	f.Watch("1")
	back := map[string]string{f.Seen.Etcd[2].ID: "it was in term 7 of etcd before, and later in term 5", "77": "it was replaced since"}
	f.Seen.Hosts["cp-a"].Facts.Watch.Report.WentBack = back
	of := func() (found []cluster.Finding) {
		for _, x := range cluster.Evaluate(f.Spec, f.Seen).Findings() {
			if x.Rule == cluster.RuleEtcdData {
				found = append(found, x)
			}
		}
		return found
	}
	if found := of(); len(found) != 1 || !slices.Equal(found[0].Subjects, []string{"cp-c"}) || !strings.Contains(found[0].Summary, "cp-a, which repairs, saw") || found[0].Severity != cluster.Critical {
		t.Errorf("%+v", found)
	}
	f.Seen.Hosts["cp-a"].Facts.Watch.Report.Leads = false
	if found := of(); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}
