package monitoring

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/spec"
)

// The rules are tested with Prometheus' own engine, on what the exporter exposes of observations: promtool evaluates them, and says which alerts
// fire.

// step is the time between two scrapes.
const step = 30 * time.Second

// phase is what is scraped for a while.
type phase struct {
	lasts time.Duration
	// seen is the observation that is exposed. nil is an exporter that does not lead.
	seen func() clustertest.Fixture
	// gone says that nothing can be scraped, and frozen that the observation of the phase before is not replaced.
	gone, frozen bool
	// more are series of others, by name and labels.
	more map[string]float64
}

// whole is an observation of the cluster in which these things were changed.
func whole(changes ...func(clustertest.Fixture)) func() clustertest.Fixture {
	return func() clustertest.Fixture {
		f := clustertest.Whole()
		f.Backups()
		for _, change := range changes {
			change(f)
		}
		return f
	}
}

func dead(hosts ...string) func(clustertest.Fixture) {
	return func(f clustertest.Fixture) { f.Dies(hosts...) }
}

// former are hosts with a former build of quorate: the one that observes cannot ask them.
func former(hosts ...string) func(clustertest.Fixture) {
	return func(f clustertest.Fixture) {
		for _, name := range hosts {
			f.Change(name, func(h *facts.Host) { *h = facts.Host{Error: "another build", OtherBuild: true} })
			for i, m := range f.Seen.Etcd {
				if m.Name == name {
					f.Seen.Etcd[i] = facts.EtcdMember{Name: name, ID: m.ID, Started: true, PeerURL: m.PeerURL, Unknown: "another build"}
				}
			}
		}
	}
}

func maintained(hosts ...string) func(clustertest.Fixture) {
	return func(f clustertest.Fixture) {
		f.Seen.API.Maintenance = map[string]facts.Maintenance{}
		for _, h := range hosts {
			f.Seen.API.Maintenance[h] = facts.Maintenance{Since: clustertest.Now, Ready: true}
		}
	}
}

func scenarios() map[string]struct {
	phases []phase
	fires  []string // at the end, as ALERT or ALERT{labels}; the label cluster is added
	never  string   // an alert that fires at no moment; empty if only the end is of interest
} {
	const soon, later = 4 * time.Minute, 20 * time.Minute
	well := phase{lasts: 10 * time.Minute, seen: whole()}
	type scenario = struct {
		phases []phase
		fires  []string
		never  string
	}
	capacity := func(requested float64) map[string]float64 {
		out := map[string]float64{}
		for _, node := range []string{"w-a", "w-b"} {
			out[`kube_node_status_allocatable{node="`+node+`",resource="cpu"}`] = 8
			out[`kube_pod_status_phase{namespace="x",pod="on-`+node+`",phase="Running"}`] = 1
			out[`kube_pod_container_resource_requests{namespace="x",pod="on-`+node+`",node="`+node+`",resource="cpu"}`] = requested
		}
		out[`kube_node_status_allocatable{node="cp-a",resource="cpu"}`] = 64 // takes no workloads
		return out
	}
	return map[string]scenario{
		"all is well":                         {phases: []phase{{lasts: time.Hour, seen: whole()}}},
		"a control plane is off for a moment": {phases: []phase{well, {lasts: soon, seen: whole(dead("cp-c"))}, well}},
		"a control plane is off": {phases: []phase{well, {lasts: 8 * time.Minute, seen: whole(dead("cp-c"))}}, fires: []string{
			"QuorateControlPlaneLost", "QuorateEtcdMemberLost", "QuorateZoneAtRisk", `QuorateHostUnreachable{host="cp-c"}`}},
		"a control plane is off for long": {phases: []phase{well, {lasts: later, seen: whole(dead("cp-c"))}}, fires: []string{
			"QuorateControlPlaneLost", "QuorateEtcdMemberLost", "QuorateZoneAtRisk", `QuorateHostUnreachable{host="cp-c"}`, "QuorateEtcdQuorumAtRisk"}},
		"and it is back": {phases: []phase{well, {lasts: later, seen: whole(dead("cp-c"))}, {lasts: soon, seen: whole()}}},
		"a control plane is in maintenance, and off": {phases: []phase{well, {lasts: time.Hour, seen: whole(dead("cp-c"), maintained("cp-c"))}}},
		"an apply replaces quorate on the hosts":     {phases: []phase{well, {lasts: later, seen: whole(former("cp-b", "cp-c", "lb-b", "w-a"))}, well}},
		"an apply stopped in the middle":             {phases: []phase{well, {lasts: 40 * time.Minute, seen: whole(former("cp-c"))}}, fires: []string{`QuorateBuildsDiffer{host="cp-c"}`}},
		"a worker has another build, and a control plane is off": {phases: []phase{well, {lasts: later, seen: whole(dead("cp-c"), former("w-a"))}}, fires: []string{
			"QuorateControlPlaneLost", "QuorateEtcdMemberLost", "QuorateZoneAtRisk", `QuorateHostUnreachable{host="cp-c"}`, "QuorateEtcdQuorumAtRisk"}},
		"a worker is in maintenance, and a control plane is off": {phases: []phase{well, {lasts: later, seen: whole(dead("cp-c"), maintained("w-a"))}}, fires: []string{
			"QuorateControlPlaneLost", "QuorateEtcdMemberLost", "QuorateZoneAtRisk", `QuorateHostUnreachable{host="cp-c"}`, "QuorateEtcdQuorumAtRisk"}},
		"another one fails meanwhile": {phases: []phase{well, {lasts: later, seen: whole(maintained("cp-c"), func(f clustertest.Fixture) {
			f.Change("cp-a", func(h *facts.Host) { h.APIServer = &facts.Answer{Problem: "connection refused"} })
		})}}, fires: []string{`QuorateProgramDown{host="cp-a",program="kube-apiserver"}`}},
		"a load balancer fails": {phases: []phase{well, {lasts: 8 * time.Minute, seen: whole(func(f clustertest.Fixture) {
			f.Change("lb-b", func(h *facts.Host) { h.Balancer.Healthy = false })
		})}}, fires: []string{"QuorateLoadBalancerLost", "QuorateZoneAtRisk"}},
		"etcd has lost its majority": {phases: []phase{well, {lasts: soon, seen: whole(func(f clustertest.Fixture) {
			for i := range f.Seen.Etcd {
				f.Seen.Etcd[i].Healthy, f.Seen.Etcd[i].Problem = false, "it has no leader"
			}
			f.AnswerEndpoint(clustertest.Problem("500"))
		})}}, fires: []string{"QuorateEtcdQuorumLost", "QuorateAPIUnavailable"}},
		"etcd cannot be asked, and works": {phases: []phase{well, {lasts: soon, seen: whole(func(f clustertest.Fixture) {
			for i := range f.Seen.Etcd {
				f.Seen.Etcd[i] = facts.EtcdMember{Name: f.Seen.Etcd[i].Name, ID: f.Seen.Etcd[i].ID, Started: true, PeerURL: f.Seen.Etcd[i].PeerURL, Unknown: clustertest.NoStream}
			}
		})}}},
		"nobody has the virtual IP": {phases: []phase{well, {lasts: soon, seen: whole(func(f clustertest.Fixture) {
			f.Change("lb-a", func(h *facts.Host) { h.Balancer.Active = false })
			f.AnswerEndpoint(clustertest.Problem("no route to host"))
		})}}, fires: []string{"QuorateVirtualIP", "QuorateAPIUnavailable"}},
		"etcd is full": {phases: []phase{well, {lasts: 2 * time.Minute, seen: whole(func(f clustertest.Fixture) {
			for i := range f.Seen.Etcd {
				f.Seen.Etcd[i].Alarms = []string{facts.AlarmNoSpace}
			}
		})}}, fires: []string{`QuorateEtcdAlarm{alarm="NOSPACE",member="cp-a"}`, `QuorateEtcdAlarm{alarm="NOSPACE",member="cp-b"}`, `QuorateEtcdAlarm{alarm="NOSPACE",member="cp-c"}`}},
		"a member is behind": {phases: []phase{well, {lasts: 12 * time.Minute, seen: whole(func(f clustertest.Fixture) { f.Seen.Etcd[0].Behind = 9000 })}},
			fires: []string{`QuorateEtcdMemberBehind{member="cp-a"}`, "QuorateEtcdMemberLost", "QuorateControlPlaneLost", "QuorateZoneAtRisk"}}, // nothing relies on it
		"leaders change again and again": {phases: elections(well, 2*time.Minute, 14, time.Minute), fires: []string{"QuorateEtcdLeaderChanges"}},
		"and stop":                       {phases: elections(well, 2*time.Minute, 14, 30*time.Minute)},
		"each control plane hands the lead over, as in an upgrade": {phases: elections(well, 90*time.Second, 3, 40*time.Minute), never: "QuorateEtcdLeaderChanges"},
		"and does so again, as when etcd's timers change":          {phases: elections(well, 90*time.Second, 6, 40*time.Minute), never: "QuorateEtcdLeaderChanges"},
		"a leader fails, and elections follow on each other":       {phases: elections(well, 30*time.Second, 4, 40*time.Minute), never: "QuorateEtcdLeaderChanges"},
		"certificates expire": {phases: []phase{well, {lasts: 12 * time.Minute, seen: whole(func(f clustertest.Fixture) {
			k := f.Kubernetes("cp-a")
			for i := range k.Certificates {
				k.Certificates[i].Expires = clustertest.Now.AddDate(0, 0, 3)
			}
		})}}, fires: []string{`QuorateCertificateExpiresSoon{severity="critical"}`}},
		"the backup is too old": {phases: []phase{well, {lasts: 12 * time.Minute, seen: whole(func(f clustertest.Fixture) {
			f.Seen.Backups.Report.Last.Time = clustertest.Now.Add(-24 * time.Hour)
		})}}, fires: []string{`QuorateBackupTooOld{severity="warning"}`}},
		"the last drill failed": {phases: []phase{{lasts: soon, seen: whole(func(f clustertest.Fixture) { f.Seen.API.LastDrill = &facts.LastDrill{Ended: clustertest.Now} })}}, fires: []string{"QuorateDrillFailed"}},
		"the last drill passed": {phases: []phase{{lasts: soon, seen: whole(func(f clustertest.Fixture) {
			f.Seen.API.LastDrill = &facts.LastDrill{Ended: clustertest.Now, Pass: true}
		})}}},
		"a program cannot be asked": {phases: []phase{well, {lasts: later, seen: whole(func(f clustertest.Fixture) {
			f.Component("w-a", facts.KubeProxy, clustertest.Unknown(clustertest.NoStream))
		})}}, fires: []string{"QuorateObservationIncomplete"}},
		"another control plane takes the lead": {phases: []phase{well, {lasts: 2 * time.Minute}, well}},
		"the lead moves while one is off": {phases: []phase{well, {lasts: 8 * time.Minute, seen: whole(dead("cp-c"))}, {lasts: 2 * time.Minute}}, fires: []string{
			"QuorateControlPlaneLost", "QuorateEtcdMemberLost", "QuorateZoneAtRisk", `QuorateHostUnreachable{host="cp-c"}`}},
		"nobody leads":             {phases: []phase{well, {lasts: soon}}, fires: []string{"QuorateNobodyWatches"}},
		"nothing can be scraped":   {phases: []phase{well, {lasts: 6 * time.Minute, gone: true}}, fires: []string{"QuorateNobodyWatches", "QuorateMetricsAbsent{}"}},
		"nothing was ever scraped": {phases: []phase{{lasts: 6 * time.Minute, gone: true}}, fires: []string{"QuorateMetricsAbsent{}"}},
		"the leader hangs":         {phases: []phase{well, {lasts: 12 * time.Minute, frozen: true}}, fires: []string{"QuorateObservationStale"}},
		"the site starts": {phases: []phase{{lasts: 3 * time.Minute, gone: true}, {lasts: time.Minute}, {lasts: time.Minute, seen: whole(dead("cp-b", "cp-c", "w-a", "w-b"), func(f clustertest.Fixture) {
			f.AnswerEndpoint(clustertest.Problem("503"))
		})}, {lasts: 2 * time.Minute, seen: whole(dead("w-b"))}, well}},
		"a zone can be lost":    {phases: []phase{{lasts: time.Hour, seen: whole(), more: capacity(3)}}},
		"a zone cannot be lost": {phases: []phase{{lasts: time.Hour, seen: whole(), more: capacity(5)}}, fires: []string{`QuorateZoneLossExceedsCapacity{resource="cpu"}`}},
		"a disk is almost full": {phases: []phase{well, {lasts: later, seen: whole(func(f clustertest.Fixture) {
			f.Seen.Hosts["w-a"].Facts.DiskFreeBytes, f.Seen.Hosts["w-a"].Facts.DiskBytes = 1<<30, 100<<30
		})}}, fires: []string{"QuorateDiskAlmostFull"}},
		"a single control plane": {phases: []phase{{lasts: time.Hour, seen: single}}},
	}
}

// elections are phases in each of which etcd has elected another leader than in the one before, and then one without elections.
func elections(before phase, every time.Duration, n int, after time.Duration) []phase {
	const first = 7
	term := func(n int) func() clustertest.Fixture {
		return whole(func(f clustertest.Fixture) {
			for i := range f.Seen.Etcd {
				f.Seen.Etcd[i].RaftTerm, f.Seen.Etcd[i].Leader = uint64(first+n), i == n%len(f.Seen.Etcd)
			}
		})
	}
	before.seen = term(0)
	out := []phase{before}
	for i := range n {
		out = append(out, phase{lasts: every, seen: term(i + 1)})
	}
	return append(out, phase{lasts: after, seen: term(n)})
}

// single is a cluster that never had a margin.
func single() clustertest.Fixture {
	f := whole()()
	f.Spec.Spec.ControlPlane.Placement = spec.PlacementSingle
	f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Name == "cp-b" || h.Name == "cp-c" })
	for _, name := range []string{"cp-b", "cp-c"} {
		delete(f.Seen.Hosts, name)
		delete(f.Seen.Endpoint.Hosts, name)
	}
	f.Seen.API.Nodes = slices.DeleteFunc(f.Seen.API.Nodes, func(n facts.Node) bool { return n.Name == "cp-b" || n.Name == "cp-c" })
	f.Seen.Etcd = f.Seen.Etcd[:1]
	f.Seen.Etcd[0].Leader = true
	for _, lb := range []string{"lb-a", "lb-b"} {
		f.Change(lb, func(h *facts.Host) { h.Balancer.Backends = h.Balancer.Backends[:1] })
	}
	return f
}

// exposed is what is exposed of a snapshot at a time, as series of promtool.
func exposed(t *testing.T, s metrics.Snapshot, now time.Time) map[string]float64 {
	t.Helper()
	all, err := metrics.Exposed{Cluster: "lab", Now: func() time.Time { return now }, Last: func() (metrics.Snapshot, time.Time, error) { return s, now, nil }}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			labels := []string{`instance="cp-a"`, `job="quorate"`}
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if m.GetGauge() != nil { // histograms are tested apart
				out[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// series are what is scraped in phases, as values by series, and for how long.
func series(t *testing.T, phases []phase) (map[string][]string, time.Duration) {
	t.Helper()
	samples, n := map[string]map[int]string{}, 0
	add := func(name string, value float64) {
		if samples[name] == nil {
			samples[name] = map[int]string{}
		}
		samples[name][n] = strconv.FormatFloat(value, 'f', -1, 64)
	}
	at := 0 // the scrape of the last observation
	for _, p := range phases {
		now := clustertest.Now
		seen, last := p.seen, metrics.Snapshot{}
		if p.frozen {
			seen = whole()
			now = now.Add(metrics.MaxAge + time.Second) // from its begin on
		}
		if seen != nil {
			f := seen()
			var err error
			if last, err = metrics.Observed("lab", cluster.Evaluate(f.Spec, f.Seen)); err != nil {
				t.Fatal(err)
			}
		}
		scraped := exposed(t, last, now)
		for range int(p.lasts / step) {
			if p.seen != nil {
				at = n
			}
			for name, value := range scraped {
				if p.gone {
					break
				}
				if strings.HasPrefix(name, "quorate_observation_timestamp_seconds{") {
					value = float64(at) * step.Seconds()
				}
				add(name, value)
			}
			for name, value := range p.more {
				add(name, value)
			}
			n++
		}
	}
	out := map[string][]string{}
	for name, have := range samples {
		for i := range n {
			_, before := have[i-1]
			value, there := have[i]
			switch {
			case there:
			case before:
				value = "stale" // Prometheus marks a series that is no longer there
			default:
				value = "_"
			}
			out[name] = append(out[name], value)
		}
	}
	return out, time.Duration(n-1) * step
}

// alert is a series of ALERTS, as promtool writes it.
func alert(t *testing.T, text string) string {
	t.Helper()
	name, labels, given := strings.Cut(strings.TrimSuffix(text, "}"), "{")
	all := []string{fmt.Sprintf("alertname=%q", name), `alertstate="firing"`}
	if labels != "" {
		all = append(all, strings.Split(labels, ",")...)
	}
	if !given || labels != "" {
		all = append(all, `cluster="lab"`)
	}
	i := slices.IndexFunc(parsed(t), func(r rule) bool { return r.Alert == name })
	if i < 0 {
		t.Fatalf("there is no alert %s", name)
	}
	if severity := parsed(t)[i].Labels["severity"]; severity != "" {
		all = append(all, fmt.Sprintf("severity=%q", severity))
	}
	slices.Sort(all)
	return "ALERTS{" + strings.Join(all, ", ") + "}"
}

// promtool returns the command that runs it: the program that PROMTOOL names, which `make test-alerts` gets from Debian.
func promtool(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path := os.Getenv("PROMTOOL")
	if path == "" {
		t.Skip("PROMTOOL names no program, so the rules are not evaluated: `make test-alerts` does it")
	}
	return exec.CommandContext(ctx, path, args...)
}

// TestAlerts: in each situation, the alerts fire that should, and no others.
func TestAlerts(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yml"), RulesFile(), 0o600); err != nil {
		t.Fatal(err)
	}
	type input struct {
		Series string `json:"series"`
		Values string `json:"values"`
	}
	type sample struct {
		Labels string  `json:"labels"`
		Value  float64 `json:"value"`
	}
	type expr struct {
		Expr    string   `json:"expr"`
		At      string   `json:"eval_time"`
		Samples []sample `json:"exp_samples"`
	}
	type test struct {
		Name     string  `json:"name"`
		Interval string  `json:"interval"`
		Input    []input `json:"input_series"`
		Exprs    []expr  `json:"promql_expr_test"`
	}
	file := struct {
		RuleFiles []string `json:"rule_files"`
		Interval  string   `json:"evaluation_interval"`
		Tests     []test   `json:"tests"`
	}{RuleFiles: []string{"rules.yml"}, Interval: step.String()}
	all := scenarios()
	tested := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		values, end := series(t, s.phases)
		x := test{Name: name, Interval: step.String()}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			x.Input = append(x.Input, input{key, strings.Join(values[key], " ")})
		}
		if len(x.Input) == 0 {
			x.Input = []input{{"nothing_at_all", "1"}}
		}
		e := expr{Expr: `ALERTS{alertstate="firing"}`, At: end.String(), Samples: []sample{}}
		for _, a := range s.fires {
			e.Samples = append(e.Samples, sample{alert(t, a), 1})
			tested[strings.Split(a, "{")[0]] = true
		}
		x.Exprs = []expr{e}
		if s.never != "" {
			x.Exprs = append(x.Exprs, expr{Expr: fmt.Sprintf("max_over_time(ALERTS{alertname=%q, alertstate=\"firing\"}[6h])", s.never), At: end.String(), Samples: []sample{}})
		}
		file.Tests = append(file.Tests, x)
	}
	// What is left needs more than these observations: see cluster.RuleEtcdData, RuleEtcdQuota, and RuleBackupFailed, and a histogram that grows.
	rest := []string{"QuorateBackupFailed", "QuorateEtcdAlmostFull", "QuorateEtcdData", "QuorateEtcdSlowDisk"}
	for _, r := range parsed(t) {
		if r.Alert != "" && tested[r.Alert] == slices.Contains(rest, r.Alert) {
			t.Errorf("%s: tested in a situation: %t", r.Alert, tested[r.Alert])
		}
	}
	file.Tests = append(file.Tests, test{Name: "the rest", Interval: step.String(), Input: []input{
		{`quorate_findings{cluster="lab",rule="backup-failed",severity="warning"}`, "1x80"},
		{`quorate_findings{cluster="lab",rule="etcd-quota",severity="critical"}`, "1x80"},
		{`quorate_findings{cluster="lab",rule="etcd-data",severity="critical"}`, "1x80"},
		{`quorate_exporter_leader{cluster="lab",instance="cp-a"}`, "1x80"},
		{`quorate_etcd_member_wal_fsync_duration_seconds_bucket{cluster="lab",member="cp-a",le="0.512"}`, "0+10x80"},
		{`quorate_etcd_member_wal_fsync_duration_seconds_bucket{cluster="lab",member="cp-a",le="1.024"}`, "0+100x80"},
		{`quorate_etcd_member_wal_fsync_duration_seconds_bucket{cluster="lab",member="cp-a",le="+Inf"}`, "0+100x80"},
		{`quorate_etcd_member_wal_fsync_duration_seconds_bucket{cluster="lab",member="cp-b",le="0.064"}`, "0+100x80"},
		{`quorate_etcd_member_wal_fsync_duration_seconds_bucket{cluster="lab",member="cp-b",le="+Inf"}`, "0+100x80"},
	}, Exprs: []expr{{Expr: `ALERTS{alertstate="firing"}`, At: "40m", Samples: []sample{
		{alert(t, "QuorateBackupFailed"), 1}, {alert(t, `QuorateEtcdAlmostFull{severity="critical"}`), 1}, {alert(t, "QuorateEtcdData"), 1},
		{alert(t, `QuorateEtcdSlowDisk{member="cp-a"}`), 1},
	}}}})
	// Of five members, each may hand the lead over once.
	for n, fires := range map[int]bool{5: false, 30: true} {
		var elected strings.Builder
		elected.WriteString("7x20")
		for i := range n {
			fmt.Fprintf(&elected, " %dx3", 8+i)
		}
		x := test{Name: fmt.Sprintf("%d elections of five members", n), Interval: step.String(), Input: []input{{`quorate_exporter_leader{cluster="lab",instance="cp-a"}`, "1x200"}}}
		for i := range 5 {
			x.Input = append(x.Input, input{fmt.Sprintf(`quorate_etcd_member_raft_term{cluster="lab",member="cp-%d"}`, i), elected.String() + fmt.Sprintf(" %dx80", 7+n)})
		}
		e := expr{Expr: `ALERTS{alertstate="firing"}`, At: "70m", Samples: []sample{}}
		if fires {
			e.Samples = append(e.Samples, sample{alert(t, "QuorateEtcdLeaderChanges"), 1})
		} else {
			e.Expr = `max_over_time(ALERTS{alertstate="firing"}[6h])`
		}
		x.Exprs = []expr{e}
		file.Tests = append(file.Tests, x)
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	tests := filepath.Join(dir, "rules_test.yml")
	if err := os.WriteFile(tests, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // it may be compiled first
	defer cancel()
	for _, args := range [][]string{{"check", "rules", filepath.Join(dir, "rules.yml")}, {"test", "rules", tests}} {
		if said, err := promtool(ctx, t, args...).CombinedOutput(); err != nil {
			t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, said)
		}
	}
}
