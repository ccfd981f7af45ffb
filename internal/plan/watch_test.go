package plan

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// withWatch observes a cluster whose control planes repair it.
func withWatch(t *testing.T) (*spec.Cluster, *facts.Observation) {
	t.Helper()
	c := testCluster()
	c.Spec.Repair.Watch = true
	obs := finished(t, c)
	generation := (&builder{State: cluster.Evaluate(c, obs), c: c, bundle: testBundle}).watchGeneration()
	units, keys := map[string]facts.WatchUnit{}, map[string][]string{}
	for _, h := range c.Spec.Hosts {
		keys[h.Name] = []string{"host key of " + h.Name}
		if h.Has(spec.RoleControlPlane) {
			units[h.Name] = facts.WatchUnit{Key: "key of " + h.Name, Address: h.Address}
		}
	}
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Self = facts.SameCopy
		f.Watch = &facts.Watch{HostKeys: keys[h.Name], Admits: &facts.WatchAdmits{Generation: generation, User: h.SSH.User, Units: maps.Clone(units)}}
		if h.Has(spec.RoleControlPlane) {
			d := hostconfig.Watched(c, h)
			f.Files[d.Files[0].Key()], f.Units[hostconfig.WatchUnit] = d.Files[0].Sum(), "active"
			f.Watch.Key, f.Watch.Config = units[h.Name].Key, &facts.WatchNote{Generation: generation, HostKeys: maps.Clone(keys)}
		}
	}
	return c, obs
}

func names(c *spec.Cluster) (out []string) {
	for _, h := range c.Spec.Hosts {
		out = append(out, h.Name)
	}
	return out
}

// onHosts checks that a plan has the steps of these kinds on these hosts, in any order, and on no others.
func onHosts(t *testing.T, name string, p *Plan, want map[Kind][]string) {
	t.Helper()
	kinds := kindsOf(p)
	for kind, hosts := range want {
		if got := slices.Sorted(slices.Values(kinds[kind])); !slices.Equal(got, slices.Sorted(slices.Values(hosts))) {
			t.Errorf("%s: %s on %v, want %v", name, kind, got, hosts)
		}
	}
}

// TestANewClusterRepairsItself: keys come first, then all hosts admit them, and then the units begin.
func TestANewClusterRepairsItself(t *testing.T) {
	c := testCluster()
	c.Spec.Repair.Watch = true
	p := build(t, c, empty(c))
	kinds := kindsOf(p)
	if !slices.Equal(kinds[MakeWatchKey], allControlPlanes) || !slices.Equal(kinds[AdmitWatch], names(c)) || !slices.Equal(kinds[ConfigureWatch], allControlPlanes) {
		t.Errorf("%v, %v, %v", kinds[MakeWatchKey], kinds[AdmitWatch], kinds[ConfigureWatch])
	}
	at := func(kind Kind) (first, last int) {
		first = -1
		for i, s := range p.Steps {
			if s.Kind == kind {
				if last = i; first < 0 {
					first = i
				}
			}
		}
		return first, last
	}
	_, keys := at(MakeWatchKey)
	admits, admitted := at(AdmitWatch)
	if configures, _ := at(ConfigureWatch); keys > admits || admitted > configures {
		t.Errorf("the order is %d, %d to %d, %d", keys, admits, admitted, configures)
	}
	for _, s := range p.Steps {
		if s.Kind == AdmitWatch && (s.Approved == nil || s.Generation == "" || slices.ContainsFunc(s.Approved.Files, func(f facts.File) bool { return f.Path == facts.BegunFile })) {
			t.Errorf("%+v", s)
		}
	}
}

// TestAClusterThatExposesMetrics has units that may only read, unless they repair as well.
func TestAClusterThatExposesMetrics(t *testing.T) {
	c := testCluster()
	c.Spec.Monitoring.Exporter = true
	p := build(t, c, empty(c))
	kinds := kindsOf(p)
	if !slices.Equal(kinds[MakeWatchKey], allControlPlanes) || !slices.Equal(kinds[AdmitWatch], names(c)) || !slices.Equal(kinds[ConfigureWatch], allControlPlanes) {
		t.Errorf("%v, %v, %v", kinds[MakeWatchKey], kinds[AdmitWatch], kinds[ConfigureWatch])
	}
	for _, s := range p.Steps {
		if s.Kind == AdmitWatch && (s.Approved == nil || len(s.Approved.Files) > 0 || len(s.Approved.Enable) > 0) {
			t.Errorf("who only reads may restore something: %+v", s)
		}
	}
	c, obs := withWatch(t)
	c.Spec.Repair.Watch, c.Spec.Monitoring.Exporter = false, true
	for name, readOnly := range map[string]bool{"the units repaired before": false, "another spec": true} {
		for _, h := range c.Spec.Hosts {
			obs.Hosts[h.Name].Facts.Watch.Admits.ReadOnly = readOnly
		}
		p, err := Build(cluster.Evaluate(c, obs), testBundle)
		if err != nil {
			t.Fatal(err)
		}
		if kinds := kindsOf(p); len(kinds[AdmitWatch]) != len(c.Spec.Hosts) || len(kinds[ConfigureWatch]) != len(allControlPlanes) || len(kinds[MakeWatchKey])+len(kinds[RemoveWatch]) > 0 {
			t.Errorf("%s: %v", name, kinds)
		}
	}
}

// withExporter observes a cluster whose control planes only observe it, and serve metrics.
func withExporter(t *testing.T) (*spec.Cluster, *facts.Observation) {
	t.Helper()
	c, obs := withWatch(t)
	c.Spec.Repair.Watch, c.Spec.Monitoring.Exporter = false, true
	generation := (&builder{State: cluster.Evaluate(c, obs), c: c, bundle: exporterBundle()}).watchGeneration()
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Watch.Admits.ReadOnly, f.Watch.Admits.Generation = true, generation
		if h.Has(spec.RoleControlPlane) {
			for _, file := range hostconfig.Watched(c, h).Files {
				f.Files[file.Key()] = file.Sum()
			}
			f.Units[hostconfig.ExporterUnit], f.Watch.Config.Generation = "active", generation
		}
	}
	obs.API.Applied = maps.Clone(obs.API.Applied)
	if obs.API.Applied == nil {
		obs.API.Applied = map[string]string{}
	}
	obs.API.Applied[manifest.Exporter] = manifest.Optional()[manifest.Exporter].Digest()
	return c, obs
}

// exporterBundle is the bundle of a cluster that exposes metrics.
func exporterBundle() Bundle {
	b := testBundle
	b.Manifests = maps.Clone(b.Manifests)
	if b.Manifests == nil {
		b.Manifests = map[string]string{}
	}
	b.Manifests[manifest.Exporter] = manifest.Optional()[manifest.Exporter].Digest()
	return b
}

// TestTheExporterComesAndGoes: a cluster whose control planes served metrics without a unit for it gets one, and when the spec says so, the unit goes, and then what it may do in
// the cluster. The unit that observes stays if it repairs.
func TestTheExporterComesAndGoes(t *testing.T) {
	off := func(c *spec.Cluster) { c.Spec.Monitoring.Exporter = false }
	for name, tc := range map[string]struct {
		change                             func(*spec.Cluster, *facts.Observation)
		configures, removes, leave, forget []string
	}{
		"nothing": {change: func(*spec.Cluster, *facts.Observation) {}},
		"it was part of the unit that observes": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			for _, name := range allControlPlanes {
				delete(obs.Hosts[name].Facts.Files, hostconfig.ExporterUnitFile)
				obs.Hosts[name].Facts.Units[hostconfig.ExporterUnit] = "inactive"
			}
		}, configures: allControlPlanes},
		"it is off": {change: func(c *spec.Cluster, _ *facts.Observation) { off(c) }, removes: allControlPlanes, leave: names(testCluster()), forget: []string{""}},
		"it is off, and the units repair": {change: func(c *spec.Cluster, _ *facts.Observation) { off(c); c.Spec.Repair.Watch = true },
			removes: allControlPlanes, forget: []string{""}},
		"it was off before this version": {change: func(c *spec.Cluster, obs *facts.Observation) {
			off(c)
			for _, h := range c.Spec.Hosts {
				f := obs.Hosts[h.Name].Facts
				delete(f.Files, hostconfig.ExporterUnitFile)
				delete(f.Files, hostconfig.WatchUnitFile)
				f.Watch.Key, f.Watch.Config, f.Watch.Admits = "", nil, nil
			}
		}, forget: []string{""}},
		"a removal was interrupted": {change: func(c *spec.Cluster, obs *facts.Observation) {
			off(c)
			for _, h := range c.Spec.Hosts {
				f := obs.Hosts[h.Name].Facts
				delete(f.Files, hostconfig.WatchUnitFile)
				f.Watch.Key, f.Watch.Config, f.Watch.Admits = "", nil, nil
				if h.Name != "cp-b" {
					delete(f.Files, hostconfig.ExporterUnitFile)
				}
			}
			delete(obs.API.Applied, manifest.Exporter)
		}, removes: []string{"cp-b"}},
		"a worker was a control plane": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Hosts["worker-a"].Facts.Files[hostconfig.ExporterUnitFile] = "x"
		}, removes: []string{"worker-a"}},
	} {
		c, obs := withExporter(t)
		tc.change(c, obs)
		b := testBundle
		if c.Spec.Monitoring.Exporter {
			b = exporterBundle()
		}
		p, err := Build(cluster.Evaluate(c, obs), b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		kinds := kindsOf(p)
		onHosts(t, name, p, map[Kind][]string{Configure: tc.configures, RemoveExporter: tc.removes, RemoveWatch: tc.leave, RemoveManifest: tc.forget})
		if changed := slices.Concat(kinds[MakeWatchKey], kinds[AdmitWatch], kinds[ConfigureWatch], kinds[ApplyManifest]); name == "nothing" && len(changed) > 0 {
			t.Errorf("%+v", kinds)
		}
		// Nobody makes the credentials again after they are removed, and the unit has its permissions as long as it is there.
		rank := map[Kind]int{ConfigureWatch: 1, RemoveWatch: 1, RemoveExporter: 2, RemoveManifest: 3}
		last := 0
		for _, s := range p.Steps {
			if r := rank[s.Kind]; r > 0 && r < last {
				t.Errorf("%s: %s on %s comes too late", name, s.Kind, s.Host)
			} else {
				last = max(last, r)
			}
		}
	}
}

func TestWatchChanges(t *testing.T) {
	all := names(testCluster())
	for name, tc := range map[string]struct {
		change                           func(*spec.Cluster, *facts.Observation)
		makes, admits, configures, leave []string
	}{
		"nothing":              {change: func(*spec.Cluster, *facts.Observation) {}},
		"a new binary":         {change: func(_ *spec.Cluster, obs *facts.Observation) { obs.Hosts["worker-a"].Facts.Self = facts.OtherCopy }, admits: []string{"worker-a"}},
		"a key is gone":        {change: func(_ *spec.Cluster, obs *facts.Observation) { obs.Hosts["cp-b"].Facts.Watch.Key = "" }, makes: []string{"cp-b"}, admits: all},
		"a key changed":        {change: func(_ *spec.Cluster, obs *facts.Observation) { obs.Hosts["cp-b"].Facts.Watch.Key = "other" }, admits: all},
		"lines are gone":       {change: func(_ *spec.Cluster, obs *facts.Observation) { obs.Hosts["cp-a"].Facts.Watch.Admits.Broken = "gone" }, admits: []string{"cp-a"}},
		"a host admits nobody": {change: func(_ *spec.Cluster, obs *facts.Observation) { obs.Hosts["worker-a"].Facts.Watch.Admits = nil }, admits: []string{"worker-a"}},
		"a host is reinstalled": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Hosts["worker-a"].Facts.Watch.HostKeys = []string{"other"}
		}, configures: allControlPlanes},
		"a unit is new": {change: func(_ *spec.Cluster, obs *facts.Observation) { obs.Hosts["cp-c"].Facts.Watch.Config = nil }, configures: []string{"cp-c"}},
		"a control plane is down": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Hosts["cp-c"] = facts.Host{Error: "no route to host"}
			obs.Etcd[2].Healthy, obs.Etcd[2].Problem = false, "no answer"
		}},
		"a worker was a control plane": {change: func(_ *spec.Cluster, obs *facts.Observation) { obs.Hosts["worker-a"].Facts.Watch.Key = "key" }, leave: []string{"worker-a"}, admits: all},
		"another one is admitted": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Hosts["cp-a"].Facts.Watch.Admits.Units["cp-x"] = facts.WatchUnit{Key: "x"}
		}, admits: []string{"cp-a"}},
		"the spec changes": {change: func(c *spec.Cluster, _ *facts.Observation) { c.Spec.Hosts[0].SSH.Port = 2222 }, admits: all, configures: allControlPlanes},
		"it is off":        {change: func(c *spec.Cluster, _ *facts.Observation) { c.Spec.Repair.Watch = false }, leave: all},
	} {
		c, obs := withWatch(t)
		tc.change(c, obs)
		p, err := Build(cluster.Evaluate(c, obs), testBundle)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		onHosts(t, name, p, map[Kind][]string{MakeWatchKey: tc.makes, AdmitWatch: tc.admits, ConfigureWatch: tc.configures, RemoveWatch: tc.leave})
		if name == "nothing" && !p.Empty() {
			t.Errorf("%+v", kindsOf(p))
		}
	}
}

// TestRepairsRestoreWhatIsApproved: what a repair restores after a plan was applied is what the plan had the hosts approve.
func TestRepairsRestoreWhatIsApproved(t *testing.T) {
	f := repairFixture(false)
	f.Watch("1")
	f.Record()
	s := cluster.Evaluate(f.Spec, f.Seen)
	b := mender(s, Bundle{})
	for _, h := range f.Spec.Spec.Hosts {
		approved := (&builder{State: s, c: f.Spec, bundle: Bundle{Pause: "pause"}, mends: true}).restorable(h, b.Facts(h.Name))
		for path := range b.Facts(h.Name).Files {
			delete(b.Facts(h.Name).Files, path)
		}
		for _, u := range approved.Enable {
			b.Facts(h.Name).Units[u] = "inactive"
		}
		b.configureNode(h)
		if f.Spec.Balances(h) {
			b.configureBalancer(h, nil)
		}
		for _, step := range b.ofKind(Configure) {
			if step.Host != h.Name {
				continue
			}
			for _, file := range step.Desired.Files {
				if !slices.ContainsFunc(approved.Files, func(o facts.File) bool {
					return o.Key() == file.Key() && o.Sum() == file.Sum() && cmp.Or(o.Mode, 0o644) == cmp.Or(file.Mode, 0o644) && slices.Equal(o.Check, file.Check) && slices.Equal(o.Restart, file.Restart)
				}) {
					t.Errorf("%s: %s is restored and was not approved", h.Name, file.Key())
				}
			}
			for _, unit := range step.Desired.Enable {
				if !slices.Contains(approved.Enable, unit) {
					t.Errorf("%s: %s is started and was not approved", h.Name, unit)
				}
			}
		}
	}
	if len(b.ofKind(Configure)) < len(f.Spec.Spec.Hosts) {
		t.Errorf("only %d steps", len(b.ofKind(Configure)))
	}
}

// TestPrometheusComesAndGoes: it is applied when the hosts have its images, again when it is another one, and removed when the spec says so.
func TestPrometheusComesAndGoes(t *testing.T) {
	with := testBundle
	with.Digest, with.Manifests = "sha256:with", maps.Clone(testBundle.Manifests)
	if with.Manifests == nil {
		with.Manifests = map[string]string{}
	}
	with.Manifests[manifest.Prometheus] = "sha256:one"
	for name, tc := range map[string]struct {
		install, imports bool
		applied          string
		gone, relaxed    bool
		bundle           Bundle
		kind             Kind
		reason           string
	}{
		"it is new":                {install: true, bundle: with, imports: true, kind: ApplyManifest, reason: "not applied yet"},
		"it is another one":        {install: true, applied: "sha256:other", bundle: with, imports: true, kind: ApplyManifest, reason: "another version is applied"},
		"it is the same":           {install: true, applied: "sha256:one", bundle: with, imports: true},
		"a part of it is gone":     {install: true, applied: "sha256:one", gone: true, bundle: with, imports: true, kind: ApplyManifest, reason: "somebody removed a part of it"},
		"a run was cut short":      {install: true, applied: BeingApplied, bundle: with, imports: true, kind: ApplyManifest, reason: "interrupted"},
		"a drain was cut short":    {install: true, applied: "sha256:one", relaxed: true, bundle: with, imports: true},
		"and it is another one":    {install: true, applied: "sha256:other", relaxed: true, bundle: with, imports: true, kind: ApplyManifest, reason: "another version is applied"},
		"and it is off":            {applied: "sha256:one", relaxed: true, bundle: testBundle, kind: RemoveManifest, reason: "is off"},
		"cut short, and off":       {applied: BeingApplied, bundle: testBundle, kind: RemoveManifest, reason: "is off"},
		"it is off, and never was": {bundle: testBundle},
		"it is off":                {applied: "sha256:one", bundle: testBundle, kind: RemoveManifest, reason: "what others have put into the namespace quorate-monitoring stays"},
	} {
		c := testCluster()
		obs := finished(t, c)
		c.Spec.Monitoring.Prometheus.Install = tc.install
		obs.API.Applied = maps.Clone(obs.API.Applied)
		if obs.API.Applied == nil {
			obs.API.Applied = map[string]string{}
		}
		if tc.applied != "" {
			obs.API.Applied[manifest.Prometheus] = tc.applied
			obs.API.Prometheus = &facts.Prometheus{Workloads: []facts.Workload{{Kind: "Deployment", Name: "prometheus", Missing: tc.gone}}}
			if tc.relaxed {
				obs.API.Prometheus.Relaxed = []string{"quorate-monitoring/prometheus"}
			}
		}
		p, err := Build(cluster.Evaluate(c, obs), tc.bundle)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var imports []string
		var found []Step
		for _, s := range p.Steps {
			switch {
			case s.Kind == ImportImages:
				imports = append(imports, s.ID)
			case s.Manifest == manifest.Prometheus:
				found = append(found, s)
			}
		}
		if tc.imports != (len(imports) > 0) {
			t.Errorf("%s: images are imported: %v", name, imports)
		}
		restored := slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Kind != RestoreBudgets })
		if (len(restored) == 1) != (tc.relaxed && tc.install) {
			t.Errorf("%s: budgets are restored by %+v", name, restored)
		}
		for _, r := range restored {
			for _, s := range found {
				if !reaches(p, s.ID, r.ID) {
					t.Errorf("%s: budgets are restored to those of the former version after the new ones were applied", name)
				}
			}
		}
		if tc.kind == "" {
			if len(found) > 0 {
				t.Errorf("%s: %+v", name, found)
			}
			continue
		}
		if len(found) != 1 || found[0].Kind != tc.kind || !strings.Contains(found[0].Reason, tc.reason) || found[0].Change != nil {
			t.Errorf("%s: %+v", name, found)
			continue
		}
		for _, i := range imports {
			if !reaches(p, found[0].ID, i) {
				t.Errorf("%s: it does not wait for %s", name, i)
			}
		}
	}
}

// reaches reports whether a step waits for another one, directly or not.
func reaches(p *Plan, from, to string) bool {
	waits := map[string]bool{from: true}
	for i := len(p.Steps) - 1; i >= 0; i-- { // a step comes after all that it needs
		if s := p.Steps[i]; waits[s.ID] {
			for _, n := range s.Needs {
				waits[n] = true
			}
		}
	}
	return waits[to]
}
