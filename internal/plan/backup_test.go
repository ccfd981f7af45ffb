package plan

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

const scheduleDigest = "the digest of the schedule"

// schedules are the same for all control planes.
func schedules(c *spec.Cluster, digest string) *facts.Backups {
	out := &facts.Backups{Schedules: map[string]string{}}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		out.Schedules[h.Name] = digest
	}
	return out
}

// scheduled gives a cluster a schedule of backups, of which the hosts have nothing yet.
func scheduled(c *spec.Cluster, obs *facts.Observation) {
	c.Spec.Backup = spec.Backup{Recipients: []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"},
		S3: spec.BackupS3{Endpoint: "https://s3.example.com", Bucket: "b", CredentialsFile: "s3-credentials"}}
	c.Default()
	if obs != nil {
		obs.Backups = schedules(c, scheduleDigest)
	}
}

// withSchedule observes a cluster whose control planes have their schedule.
func withSchedule(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	scheduled(c, nil)
	obs := finished(t, c)
	obs.Backups = schedules(c, scheduleDigest)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		f := obs.Hosts[h.Name].Facts
		f.Files[facts.BackupScheduleFile] = scheduleDigest
		f.Modes = map[string]facts.Mode{facts.BackupScheduleFile: {Bits: 0o600, Owner: "root", Group: "root"}}
	}
	return obs
}

var allControlPlanes = []string{"cp-a", "cp-b", "cp-c"}

func TestANewClusterTakesBackups(t *testing.T) {
	c := testCluster()
	obs := empty(c)
	scheduled(c, obs)
	p := build(t, c, obs)
	if got := kindsOf(p)[ScheduleBackups]; !slices.Equal(got, allControlPlanes) {
		t.Errorf("%v", got)
	}
	for _, cp := range allControlPlanes {
		inOrder(t, p, cp+"/configure", cp+"/start-control-plane", cp+"/mark/established", cp+"/schedule-backups", "cluster/verify")
	}
	if text, err := json.Marshal(p); err != nil || strings.Contains(string(text), scheduleDigest) {
		t.Errorf("the plan has the digest of the credentials, %v", err)
	}
	obs.Backups = &facts.Backups{ScheduleError: "there are no credentials for the S3 store"}
	if r := refusalOf(t, c, obs); r.Rule != RuleStore || !strings.Contains(r.Why, "cp-a") || !strings.Contains(r.Why, "no credentials for the S3 store") {
		t.Errorf("%+v", r)
	}
}

func TestTheScheduleOfBackups(t *testing.T) {
	files := func(obs *facts.Observation, host string) map[string]string { return obs.Hosts[host].Facts.Files }
	for name, tc := range map[string]struct {
		change      func(*spec.Cluster, *facts.Observation)
		schedules   []string
		unschedules []string
		configures  []string
	}{
		"nothing":            {change: func(*spec.Cluster, *facts.Observation) {}},
		"another credential": {change: func(c *spec.Cluster, obs *facts.Observation) { obs.Backups = schedules(c, "another digest") }, schedules: allControlPlanes},
		"another one counts": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Backups.Generation, obs.Backups.Report = "this", &facts.BackupReport{Generation: "another"}
		}, schedules: allControlPlanes},
		"this one counts": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Backups.Generation, obs.Backups.Report = "this", &facts.BackupReport{Generation: "this"}
		}},
		"one has none": {change: func(_ *spec.Cluster, obs *facts.Observation) { delete(files(obs, "cp-b"), facts.BackupScheduleFile) }, schedules: []string{"cp-b"}},
		"others can read it": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Hosts["cp-c"].Facts.Modes[facts.BackupScheduleFile] = facts.Mode{Bits: 0o644, Owner: "root", Group: "root"}
		}, schedules: []string{"cp-c"}},
		"it cannot be read": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			delete(files(obs, "cp-b"), facts.BackupScheduleFile)
			obs.Hosts["cp-b"].Facts.Unknown = map[string]string{facts.BackupScheduleFile: "input/output error"}
		}},
		"no credentials here": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			obs.Backups = &facts.Backups{ScheduleError: "there are no credentials for the S3 store"}
		}},
		"the timer is gone": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			delete(files(obs, "cp-a"), hostconfig.BackupUnitFiles[1])
			obs.Hosts["cp-a"].Facts.Units[hostconfig.BackupTimer] = "inactive"
		}, configures: []string{"cp-a"}},
		"never": {change: func(c *spec.Cluster, obs *facts.Observation) {
			c.Spec.Backup.Every, obs.Backups = spec.BackupNever, &facts.Backups{}
		}, unschedules: allControlPlanes},
		"no backups": {change: func(c *spec.Cluster, obs *facts.Observation) { c.Spec.Backup, obs.Backups = spec.Backup{}, nil }, unschedules: allControlPlanes},
		"half removed": {change: func(c *spec.Cluster, obs *facts.Observation) {
			c.Spec.Backup, obs.Backups = spec.Backup{}, nil
			for _, cp := range []string{"cp-b", "cp-c"} {
				for _, path := range append([]string{facts.BackupScheduleFile}, hostconfig.BackupUnitFiles[:1]...) {
					delete(files(obs, cp), path)
				}
			}
			delete(files(obs, "cp-c"), hostconfig.BackupUnitFiles[1])
		}, unschedules: []string{"cp-a", "cp-b"}},
		"a worker was a control plane": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			files(obs, "worker-a")[facts.BackupScheduleFile] = scheduleDigest
		}, unschedules: []string{"worker-a"}},
		"adopted": {change: func(_ *spec.Cluster, obs *facts.Observation) {
			for _, h := range obs.Hosts {
				h.Facts.Kubernetes.Adopted = true
			}
			delete(files(obs, "cp-a"), facts.BackupScheduleFile)
		}, schedules: []string{"cp-a"}},
		"one cannot be reached": {change: func(c *spec.Cluster, obs *facts.Observation) {
			obs.Hosts["cp-b"] = facts.Host{Error: "no SSH connection"}
			obs.Etcd[1].Healthy, obs.Etcd[1].Unknown = false, "its host cannot be reached"
			obs.Backups = schedules(c, "another digest")
		}, schedules: []string{"cp-a", "cp-c"}},
	} {
		c := testCluster()
		obs := withSchedule(t, c)
		tc.change(c, obs)
		p := build(t, c, obs)
		kinds := kindsOf(p)
		if !slices.Equal(kinds[ScheduleBackups], tc.schedules) || !slices.Equal(kinds[UnscheduleBackups], tc.unschedules) || !slices.Equal(kinds[Configure], tc.configures) {
			t.Errorf("%s: %v", name, kinds)
		}
		if text, err := json.Marshal(p); err != nil || strings.Contains(string(text), "digest") {
			t.Errorf("%s: the plan has the digest of the credentials, %v", name, err)
		}
		if noCredentials := obs.Backups != nil && obs.Backups.ScheduleError != ""; noCredentials != slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "stays as it is") }) {
			t.Errorf("%s: the warnings are %q", name, p.Warnings)
		}
	}
}

// The API may be down because of what has nothing to do with backups.
func TestAClusterIsRevivedWithoutCredentials(t *testing.T) {
	c := testCluster()
	obs := withSchedule(t, c)
	obs.API, obs.APIError = nil, "connection refused"
	obs.Backups = &facts.Backups{ScheduleError: "there are no credentials for the S3 store"}
	f := obs.Hosts["cp-a"].Facts
	delete(f.Files, facts.BackupScheduleFile)
	f.Kubernetes.Manifests = f.Kubernetes.Manifests[:1]
	if p := build(t, c, obs); len(kindsOf(p)[RestoreControlPlane]) != 1 || len(kindsOf(p)[ScheduleBackups]) != 0 {
		t.Errorf("%v", kindsOf(p))
	}
}

// A control plane that joins gets the schedule when it has joined, and nothing is planned before that.
func TestAControlPlaneThatJoinsTakesBackups(t *testing.T) {
	c := testCluster()
	obs := withSchedule(t, c)
	joiner(c, obs, facts.Kubernetes{})
	obs.Backups = schedules(c, scheduleDigest)
	p := build(t, c, obs)
	inOrder(t, p, "cp-d/join-control-plane", "cp-d/schedule-backups")
	if got := kindsOf(p)[ScheduleBackups]; !slices.Equal(got, []string{"cp-d"}) {
		t.Errorf("%v", got)
	}
	obs.Backups = &facts.Backups{ScheduleError: "reading spec.backup.s3.credentialsFile: no such file"}
	if r := refusalOf(t, c, obs); r.Rule != RuleStore || !strings.Contains(r.Why, "cp-d") {
		t.Errorf("%+v", r)
	}
}

// With backups added to an existing cluster, nothing restarts.
func TestBackupsAreAddedToACluster(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	scheduled(c, obs)
	p := build(t, c, obs)
	for _, cp := range allControlPlanes {
		inOrder(t, p, cp+"/configure", cp+"/schedule-backups", "cluster/record-spec")
	}
	for _, s := range p.Steps {
		if s.Change != nil && s.Change.Verb != cluster.Start {
			t.Errorf("%s: %+v", s.ID, s.Change)
		}
	}
}
