package metrics

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

// scrape returns what is exposed, by name and labels without the cluster's.
func scrape(t *testing.T, e Exposed) map[string]float64 {
	t.Helper()
	all, err := e.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				switch {
				case l.GetName() != "cluster":
					labels = append(labels, l.GetName()+"="+l.GetValue())
				case l.GetValue() != "lab":
					t.Errorf("%s is one of the cluster %q", f.GetName(), l.GetValue())
				}
			}
			value := m.GetGauge().GetValue()
			if h := m.GetHistogram(); h != nil {
				value = float64(h.GetSampleCount())
			}
			out[f.GetName()+" "+strings.Join(labels, " ")] = value
		}
	}
	return out
}

func observation(t *testing.T, f clustertest.Fixture) map[string]float64 {
	t.Helper()
	now := clustertest.Now.Add(time.Second)
	return scrape(t, Exposed{"lab", func() time.Time { return now }, func() (Snapshot, time.Time, error) { return snapshotOf(t, f), now, nil }})
}

// snapshotOf is the snapshot of an observation as it is after it was written and read.
func snapshotOf(t *testing.T, f clustertest.Fixture) (out Snapshot) {
	t.Helper()
	s, err := Observed("lab", cluster.Evaluate(f.Spec, f.Seen))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// want compares some of what is exposed. A value of absent is one that must not be there.
func want(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for key, value := range want {
		have, there := got[key]
		switch {
		case value == absent && there:
			t.Errorf("%s is %v, and nobody can know that", key, have)
		case value != absent && !there:
			t.Errorf("there is no %s", key)
		case value != absent && have != value:
			t.Errorf("%s is %v, want %v", key, have, value)
		}
	}
}

const absent = -999

func TestAWholeCluster(t *testing.T) {
	f := clustertest.Whole()
	f.Backups()
	at := clustertest.Now.Add(-24 * time.Hour)
	f.Change("cp-a", func(h *facts.Host) {
		h.EtcdDisk = &facts.Durations{Count: 13, Seconds: 0.5, Within: []facts.Within{{Seconds: 0.001, Count: 3}, {Seconds: 0.002, Count: 11}}}
	})
	f.Seen.API.LastDrill = &facts.LastDrill{Ended: at, Pass: false, Lost: 2, Faults: map[string]facts.DrillVerdicts{"kill/etcd": {Passed: 3, Missed: 1}}}
	got := observation(t, f)
	want(t, got, map[string]float64{
		"quorate_exporter_leader ":               1,
		"quorate_observation_timestamp_seconds ": float64(clustertest.Now.Unix()),
		"quorate_observation_complete ":          1,
		"quorate_cluster_info placement=regional stage=complete topology=stacked version=" + f.Spec.Spec.Kubernetes.Version: 1,
		"quorate_margin of=control_planes":                                                                     1,
		"quorate_margin of=etcd_members":                                                                       1,
		"quorate_margin of=load_balancers":                                                                     1,
		"quorate_margin_intended of=etcd_members":                                                              1,
		"quorate_findings rule=etcd-member severity=warning":                                                   0,
		"quorate_findings rule=backup-age severity=critical":                                                   0,
		"quorate_host_info host=cp-a roles=control-plane zone=a":                                               1,
		"quorate_host_reachable host=w-b":                                                                      1,
		"quorate_host_in_maintenance host=cp-a":                                                                0,
		"quorate_node_ready node=w-a":                                                                          1,
		"quorate_endpoint_up ":                                                                                 1,
		"quorate_program_up host=cp-a program=kube-apiserver":                                                  1,
		"quorate_program_up host=lb-a program=haproxy":                                                         1,
		"quorate_program_info host=cp-a program=kubelet version=v1.37.2":                                       1,
		"quorate_etcd_member_up member=cp-b":                                                                   1,
		"quorate_etcd_member_leader member=cp-b":                                                               1,
		"quorate_etcd_member_leader member=cp-a":                                                               0,
		"quorate_etcd_member_learner member=cp-a":                                                              0,
		"quorate_etcd_member_database_size_bytes member=cp-a":                                                  21 << 17,
		"quorate_etcd_member_wal_fsync_duration_seconds member=cp-a":                                           13, // writes
		"quorate_etcd_member_wal_fsync_duration_seconds member=cp-b":                                           absent,
		"quorate_load_balancer_up host=lb-a":                                                                   1,
		"quorate_load_balancer_active host=lb-a":                                                               1,
		"quorate_load_balancer_active host=lb-b":                                                               0,
		"quorate_load_balancer_server_up host=lb-b server=cp-c":                                                1,
		"quorate_backup_interval_seconds ":                                                                     6 * 3600,
		"quorate_backup_last_success_size_bytes ":                                                              21 << 17,
		"quorate_drill_last_timestamp_seconds ":                                                                float64(at.Unix()),
		"quorate_drill_last_passed ":                                                                           0,
		"quorate_drill_last_lost_writes ":                                                                      2,
		"quorate_drill_last_faults fault=kill/etcd verdict=passed":                                             3,
		"quorate_drill_last_faults fault=kill/etcd verdict=missed":                                             1,
		"quorate_certificate_expiration_timestamp_seconds host=cp-b name=pki/apiserver.crt renewed_by=quorate": float64(clustertest.Now.AddDate(1, 0, -1).Unix()),
		"quorate_certificate_expiration_timestamp_seconds host=w-a name=kubelet-client renewed_by=kubelet":     float64(clustertest.Now.AddDate(1, 0, 0).Unix()),
	})
	for key := range got {
		if strings.HasPrefix(key, "quorate_unknown ") {
			t.Errorf("%s of a cluster of which everything is known", key)
		}
	}
}

// TestUnknownIsNotDown: of what could not be queried, nothing is exposed but that it is unknown.
func TestUnknownIsNotDown(t *testing.T) {
	f := clustertest.Whole()
	f.Backups()
	f.Change("cp-c", func(h *facts.Host) { *h = facts.Host{Error: "no route to host"} })
	f.Seen.Etcd[2] = facts.EtcdMember{Name: "cp-c", ID: "2d", Started: true, PeerURL: f.Seen.Etcd[2].PeerURL, Unknown: "the session ended"}
	f.Component("w-a", facts.Containerd, clustertest.Unknown("the session ended"))
	f.Change("lb-b", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "the session ended" })
	f.Seen.Backups.Report, f.Seen.Backups.Unknown = nil, "etcd was not asked"
	want(t, observation(t, f), map[string]float64{
		"quorate_observation_complete ":                       0,
		"quorate_unknown host=cp-c part=host":                 1,
		"quorate_unknown host=cp-c part=etcd":                 1,
		"quorate_unknown host=w-a part=containerd":            1,
		"quorate_unknown host=lb-b part=load-balancer":        1,
		"quorate_unknown host= part=backups":                  1,
		"quorate_host_reachable host=cp-c":                    0,
		"quorate_program_up host=cp-c program=kube-apiserver": absent,
		"quorate_program_up host=w-a program=containerd":      absent,
		"quorate_etcd_member_up member=cp-c":                  absent,
		"quorate_etcd_member_leader member=cp-c":              absent,
		"quorate_etcd_member_database_size_bytes member=cp-c": absent,
		"quorate_load_balancer_up host=lb-b":                  absent,
		"quorate_load_balancer_active host=lb-b":              absent,
		"quorate_backup_last_success_timestamp_seconds ":      absent,
		"quorate_margin of=etcd_members":                      0, // what is unknown counts as failed
		"quorate_margin_intended of=etcd_members":             1,
		"quorate_etcd_member_info id=2d member=cp-c version=": 1,
	})

	f = clustertest.Whole()
	f.Change("cp-c", func(h *facts.Host) { *h = facts.Host{Error: "another build", OtherBuild: true} })
	want(t, observation(t, f), map[string]float64{
		"quorate_unknown host=cp-c part=host":                 1,
		"quorate_host_reachable host=cp-c":                    1,
		"quorate_host_other_build host=cp-c":                  1,
		"quorate_host_other_build host=cp-a":                  0,
		"quorate_program_up host=cp-c program=kube-apiserver": absent,
	})

	f = clustertest.Whole()
	f.Seen.API, f.Seen.APIError = nil, "no API server answers"
	want(t, observation(t, f), map[string]float64{
		"quorate_unknown host= part=api":        1,
		"quorate_node_ready node=w-a":           absent,
		"quorate_host_in_maintenance host=cp-a": absent,
		"quorate_drill_last_timestamp_seconds ": absent,
	})
}

func TestWhatIsDown(t *testing.T) {
	f := clustertest.Whole()
	f.Change("cp-a", func(h *facts.Host) { h.APIServer = &facts.Answer{Problem: "connection refused"} })
	f.Seen.Etcd[0].Healthy, f.Seen.Etcd[0].Problem, f.Seen.Etcd[0].Alarms = false, "it has no leader", []string{facts.AlarmNoSpace, facts.AlarmNoSpace}
	want(t, observation(t, f), map[string]float64{
		"quorate_program_up host=cp-a program=kube-apiserver": 0,
		"quorate_etcd_member_up member=cp-a":                  0,
		"quorate_etcd_member_alarm alarm=NOSPACE member=cp-a": 1,
		"quorate_margin of=etcd_members":                      0,
		"quorate_margin of=control_planes":                    0,
		"quorate_observation_complete ":                       1,
	})
}

// TestNeverOld: an observation is exposed for a while, and then only its time; and nothing of it by a control plane that does not lead, or whose
// unit has ended.
func TestNeverOld(t *testing.T) {
	written := clustertest.Now
	whole := snapshotOf(t, clustertest.Whole())
	const none = -1
	for name, tc := range map[string]struct {
		snapshot Snapshot
		// age of the observation, and how long ago its unit said that it holds.
		age, said time.Duration
		want      map[string]float64
	}{
		"there is none":       {said: none, want: map[string]float64{"quorate_exporter_leader ": 0, "quorate_exporter_snapshot_age_seconds ": absent, "quorate_observation_timestamp_seconds ": absent, "quorate_margin of=zones": absent}},
		"another one leads":   {said: 10 * time.Second, want: map[string]float64{"quorate_exporter_leader ": 0, "quorate_exporter_snapshot_age_seconds ": 10, "quorate_observation_timestamp_seconds ": absent, "quorate_margin of=zones": absent}},
		"it is fresh":         {snapshot: whole, age: MaxAge, said: MaxSilence, want: map[string]float64{"quorate_exporter_leader ": 1, "quorate_exporter_snapshot_age_seconds ": MaxSilence.Seconds(), "quorate_margin of=zones": 1}},
		"it is old":           {snapshot: whole, age: MaxAge + time.Second, want: map[string]float64{"quorate_exporter_leader ": 1, "quorate_exporter_snapshot_age_seconds ": 0, "quorate_margin of=zones": absent, "quorate_observation_timestamp_seconds ": float64(written.Unix())}},
		"its unit has ended":  {snapshot: whole, said: MaxSilence + time.Second, want: map[string]float64{"quorate_exporter_leader ": 0, "quorate_exporter_snapshot_age_seconds ": MaxSilence.Seconds() + 1, "quorate_margin of=zones": absent, "quorate_observation_timestamp_seconds ": float64(written.Unix())}},
		"the clock went back": {snapshot: whole, age: -time.Hour, said: -time.Hour, want: map[string]float64{"quorate_exporter_leader ": 0, "quorate_exporter_snapshot_age_seconds ": 0, "quorate_margin of=zones": absent}},
		"it cannot be parsed": {snapshot: Snapshot{Leads: true, At: written, Metrics: "quorate_margin{"}, want: map[string]float64{"quorate_exporter_leader ": 1, "quorate_margin of=zones": absent}},
	} {
		now := written.Add(tc.age)
		e := Exposed{"lab", func() time.Time { return now }, func() (Snapshot, time.Time, error) {
			if tc.said == none {
				return Snapshot{}, time.Time{}, errors.New("there is none")
			}
			return tc.snapshot, now.Add(-tc.said), nil
		}}
		all, err := e.Gather()
		if broken := strings.HasPrefix(name, "it cannot"); broken != (err != nil) || len(all) == 0 {
			t.Errorf("%s: %d families, %v", name, len(all), err)
		}
		if err != nil {
			continue
		}
		t.Run(name, func(t *testing.T) { want(t, scrape(t, e), tc.want) })
	}
}

// TestNames: they follow Prometheus' conventions.
func TestNames(t *testing.T) {
	valid, seen := regexp.MustCompile(`^quorate_[a-z]+(_[a-z]+)*$`), map[string]bool{}
	for _, f := range Families() {
		if !valid.MatchString(f.Name) || seen[f.Name] || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: %s", f.Name, f.Help)
		}
		seen[f.Name] = true
		for suffix, what := range map[string]string{"_total": "a counter", "_count": "a part of a histogram", "_milliseconds": "no base unit", "_ms": "no base unit"} {
			if strings.HasSuffix(f.Name, suffix) {
				t.Errorf("%s is called like %s", f.Name, what)
			}
		}
	}
}
