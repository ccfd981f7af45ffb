package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestWhenABackupIsDue(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := Schedule{Every: 6 * time.Hour, Request: Request{Location: backup.Location{Directory: "/srv"}}}
	ago := func(d time.Duration) *facts.LastBackup {
		return &facts.LastBackup{Time: now.Add(-d), Host: "cp-b", Store: "/srv"}
	}
	failed := func(d time.Duration) map[string]facts.FailedBackup {
		return map[string]facts.FailedBackup{"cp-a": {Time: now.Add(-d)}}
	}
	long := now.AddDate(0, 0, -30)
	for name, tc := range map[string]struct {
		every time.Duration
		r     facts.BackupReport
		want  string
	}{
		"never":                     {r: facts.BackupReport{}, want: "there is none"},
		"young":                     {r: facts.BackupReport{Last: ago(time.Hour)}},
		"almost":                    {r: facts.BackupReport{Last: ago(6*time.Hour - time.Second)}},
		"due":                       {r: facts.BackupReport{Last: ago(6 * time.Hour)}, want: "the last one is 6h00m old"},
		"another store":             {r: facts.BackupReport{Last: &facts.LastBackup{Time: now, Store: "/old"}}, want: "the last one is in /old"},
		"a clock a little ahead":    {r: facts.BackupReport{Last: ago(-9 * time.Minute)}},
		"a clock that is wrong":     {r: facts.BackupReport{Last: ago(-11 * time.Minute)}, want: "the last one is dated in the future"},
		"it failed just now":        {r: facts.BackupReport{Since: long, Last: ago(7 * time.Hour), Failed: failed(29 * time.Minute)}},
		"it waited long enough":     {r: facts.BackupReport{Since: long, Last: ago(7 * time.Hour), Failed: failed(30 * time.Minute)}, want: "the last one is 7h00m old"},
		"it failed in the future":   {r: facts.BackupReport{Since: long, Last: ago(7 * time.Hour), Failed: failed(-time.Minute)}, want: "the last one is 7h00m old"},
		"it got a new schedule":     {r: facts.BackupReport{Since: now.Add(-time.Minute), Failed: failed(2 * time.Minute)}, want: "there is none"},
		"another failed":            {r: facts.BackupReport{Since: long, Failed: map[string]facts.FailedBackup{"cp-b": {Time: now}}}, want: "there is none"},
		"often, and it failed":      {every: 10 * time.Minute, r: facts.BackupReport{Since: long, Failed: failed(3 * time.Minute)}},
		"often, at the next moment": {every: 10 * time.Minute, r: facts.BackupReport{Since: long, Failed: failed(5 * time.Minute)}, want: "there is none"},
		"seldom, and it failed":     {every: 24 * 7 * time.Hour, r: facts.BackupReport{Since: long, Failed: failed(61 * time.Minute)}, want: "there is none"},
	} {
		if s.Every = 6 * time.Hour; tc.every > 0 {
			s.Every = tc.every
		}
		tc.r.Now = now
		if got := s.due("cp-a", tc.r); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// scheduling is a cluster whose control planes take backups by themselves.
type scheduling struct {
	t      *testing.T
	p      controlPlane
	client *clientv3.Client
	s      Schedule
	since  time.Time
}

func startScheduling(t *testing.T) scheduling {
	t.Helper()
	p, client := cluster(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := Schedule{6 * time.Hour, Request{Cluster: "prod", Recipients: []string{identity.Recipient().String()}, Location: backup.Location{Directory: t.TempDir()}, Keep: backup.Retention{Last: 100}}}
	return scheduling{t, p, client, s, time.Now().AddDate(0, 0, -30)}
}

// at is a control plane of another name on the same etcd.
func (s scheduling) at(host string) controlPlane {
	p := s.p
	p.host, p.work = host, filepath.Join(filepath.Dir(s.p.work), host, "backup")
	return p
}

// look is one start of the timer's service on a host, some time from now.
func (s scheduling) look(ctx context.Context, host string, later time.Duration) (string, error) {
	var log bytes.Buffer
	err := s.at(host).scheduled(ctx, s.s, func() time.Time { return time.Now().Add(later) }, s.since, &log)
	return log.String(), err
}

func (s scheduling) noted() facts.BackupReport {
	s.t.Helper()
	r, err := report(s.t.Context(), s.client, time.Now(), s.since)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s scheduling) stored() (hosts []string) {
	s.t.Helper()
	store, err := s.s.Request.Location.Connect(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	all, err := store.List(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, b := range all {
		hosts = append(hosts, b.Host)
	}
	slices.Sort(hosts)
	return hosts
}

func TestOneControlPlaneTakesABackupAndAnotherTheNext(t *testing.T) {
	ctx, s := t.Context(), startScheduling(t)
	if r := s.noted(); r.Last != nil || r.Failed != nil {
		t.Fatalf("%+v", r)
	}
	log, err := s.look(ctx, "cp-a", 0)
	if err != nil || !strings.Contains(log, "a backup is due: there is none\n") || !strings.Contains(log, ".cp-a.backup.age: ") {
		t.Fatalf("%q %v", log, err)
	}
	last := s.noted().Last
	if last == nil || last.Host != "cp-a" || last.Store != s.s.Request.Location.Directory || last.Bytes == 0 || time.Since(last.Time) > time.Minute {
		t.Fatalf("%+v", last)
	}
	if _, err := os.Stat(filepath.Join(last.Store, last.File)); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"cp-a", "cp-b"} {
		if log, err := s.look(ctx, host, 5*time.Hour); log != "" || err != nil {
			t.Errorf("%s takes one although none is due: %q %v", host, log, err)
		}
	}
	// cp-a is dead from now on.
	if log, err := s.look(ctx, "cp-b", 6*time.Hour); err != nil || !strings.Contains(log, "cp-b") {
		t.Errorf("%q %v", log, err)
	}
	if last := s.noted().Last; last.Host != "cp-b" {
		t.Errorf("%+v", last)
	}
	// One that somebody takes by hand counts as well.
	recipients, err := spec.ParseRecipients(s.s.Request.Recipients)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.at("cp-c").take(ctx, s.s.Request, recipients); err != nil {
		t.Fatal(err)
	}
	if last := s.noted().Last; last.Host != "cp-c" {
		t.Errorf("%+v", last)
	}
	if got := s.stored(); !slices.Equal(got, []string{"cp-a", "cp-b", "cp-c"}) {
		t.Errorf("the store has backups of %v", got)
	}
}

// All timers may fire at the same moment.
func TestControlPlanesDoNotTakeBackupsTogether(t *testing.T) {
	s := startScheduling(t)
	var wg sync.WaitGroup
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		wg.Go(func() {
			if _, err := s.look(t.Context(), host, 0); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		})
	}
	wg.Wait()
	if got := s.stored(); len(got) != 1 {
		t.Errorf("the store has backups of %v", got)
	}
	if r := s.noted(); r.Failed != nil {
		t.Errorf("somebody who was late is noted as failed: %+v", r.Failed)
	}
	err := s.at("cp-b").locked(t.Context(), s.client, func(ctx context.Context, _ *clientv3.Cmp) error {
		log, err := s.look(ctx, "cp-a", 7*time.Hour)
		if !strings.Contains(log, "another control plane is taking a backup: cp-b began at") {
			t.Errorf("%q", log)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAFailedBackupIsNotedAndAnotherControlPlaneTakesOver(t *testing.T) {
	ctx, s := t.Context(), startScheduling(t)
	dir := s.s.Request.Location.Directory
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	log, err := s.look(ctx, "cp-a", 0)
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(log, "is due") {
		t.Fatalf("%q %v", log, err)
	}
	r := s.noted()
	if r.Last != nil || !strings.Contains(r.Failed["cp-a"].Error, dir) || time.Since(r.Failed["cp-a"].Time) > time.Minute {
		t.Fatalf("%+v", r)
	}
	if _, err := os.Stat(s.at("cp-a").work); !os.IsNotExist(err) {
		t.Errorf("the snapshot stays on the host: %v", err)
	}
	// It waits before it tries again. The others do not wait for it.
	if log, err := s.look(ctx, "cp-a", 20*time.Minute); log != "" || err != nil {
		t.Errorf("%q %v", log, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if log, err := s.look(ctx, "cp-b", 0); err != nil || !strings.Contains(log, "cp-b") {
		t.Errorf("%q %v", log, err)
	}
	if r := s.noted(); r.Last == nil || r.Last.Host != "cp-b" || !slices.Equal(slices.Collect(maps.Keys(r.Failed)), []string{"cp-a"}) {
		t.Errorf("%+v", r)
	}
	if log, err := s.look(ctx, "cp-a", 7*time.Hour); err != nil || !strings.Contains(log, "cp-a") {
		t.Errorf("%q %v", log, err)
	}
	if r := s.noted(); r.Last.Host != "cp-a" || r.Failed != nil {
		t.Errorf("%+v", r)
	}
}

// Somebody who ends a backup knows that it did not succeed. One that takes too long is a failure.
func TestWhatWasEndedIsNoFailure(t *testing.T) {
	s := startScheduling(t)
	recipients, err := spec.ParseRecipients(s.s.Request.Recipients)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.at("cp-a").attempt(ended, s.client, nil, s.s.Request, recipients); err == nil {
		t.Error("a backup was taken that somebody ended")
	}
	if r := s.noted(); r.Failed != nil {
		t.Errorf("%+v", r.Failed)
	}
	late, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, errors.New("it was not done within 1ns"))
	defer cancel()
	<-late.Done()
	if _, err := s.at("cp-a").attempt(late, s.client, nil, s.s.Request, recipients); err == nil {
		t.Error("a backup was taken after its time")
	}
	if r := s.noted(); len(r.Failed) != 1 {
		t.Errorf("%+v", r.Failed)
	}
}

func TestErrorsAreNotedWithoutCredentials(t *testing.T) {
	s := startScheduling(t)
	in := Request{Cluster: "prod", Location: backup.Location{S3: &backup.S3{Endpoint: "https://127.0.0.1:1", Bucket: "b", AccessKey: "the-id", SecretKey: "the-secret", SessionToken: "the-token"}}}
	text := in.Location.Redact("403: the-id, the-secret, the-token " + strings.Repeat("ä", errorLimit))
	if err := s.p.noteFailed(t.Context(), s.client, text); err != nil {
		t.Fatal(err)
	}
	got := s.noted().Failed["cp-a"].Error
	if strings.Contains(got, "the-") || !strings.HasPrefix(got, "403: ***, ***, *** ä") || len(got) > errorLimit+len("…") || !strings.HasSuffix(got, "ä…") {
		t.Errorf("%q", got)
	}
}

func TestTheScheduleIsOnlyForRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backup")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "schedule.json")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := Schedule{time.Hour, Request{Cluster: "prod", Recipients: []string{"b", "a"}, Location: backup.Location{SFTP: &backup.SFTP{Address: "b:22", Key: []byte("key")}}}}
	if err := s.write(file); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, file: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	var back Schedule
	content, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(content, &back) != nil || back.Every != time.Hour || string(back.Request.Location.SFTP.Key) != "key" {
		t.Errorf("%s %v", content, err)
	}
}

// The digest tells a plan whether control planes have the credentials of the spec. It does not tell what they are.
func TestTheDigestOfASchedule(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	c := &spec.Cluster{Metadata: spec.Metadata{Name: "prod"}}
	c.Spec.Hosts = []spec.Host{{Name: "cp-a", Roles: []string{spec.RoleControlPlane}}, {Name: "cp-b", Roles: []string{spec.RoleControlPlane}}, {Name: "worker-a", Roles: []string{spec.RoleWorker}}}
	c.Spec.Backup = spec.Backup{Recipients: []string{"age1b", "age1a"}, Every: "6h", S3: spec.BackupS3{Endpoint: "https://s3.example.com", Bucket: "b", CredentialsFile: file}}
	if b := Describe(c); b.Schedules != nil || !strings.Contains(b.ScheduleError, file) {
		t.Errorf("without credentials: %+v", b)
	}
	seen := map[string]string{}
	digest := func(what, secret string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte("aws_access_key_id = id\naws_secret_access_key = "+secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		b := Describe(c)
		if text, err := json.Marshal(b); err != nil || len(b.Schedules) != 2 || b.Schedules["cp-a"] == b.Schedules["cp-b"] || strings.Contains(string(text), secret) {
			t.Errorf("%s: %s %v", what, text, err)
		}
		if seen[b.Schedules["cp-a"]] != "" {
			t.Errorf("%s and %s have the same digest", what, seen[b.Schedules["cp-a"]])
		}
		return b.Schedules["cp-a"]
	}
	first := digest("the first", "very-secret")
	c.Spec.Backup.Recipients = []string{"age1a", "age1b"}
	if digest("another order", "very-secret") != first {
		t.Error("the order of recipients changes the digest")
	}
	seen[first] = "the first"
	seen[digest("another secret", "more-secret")] = "another secret"
	c.Spec.Backup.Every = "12h"
	seen[digest("another interval", "very-secret")] = "another interval"
	c.Spec.Backup.Keep.Last = 3
	seen[digest("another retention", "very-secret")] = "another retention"
	if err := os.WriteFile(file, []byte("aws_access_key_id = id\naws_secret_access_key = x\naws_session_token = passing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b := Describe(c); b.Schedules != nil || !strings.Contains(b.ScheduleError, "they expire") || strings.Contains(b.ScheduleError, "passing") {
		t.Errorf("with credentials that expire: %+v", b)
	}
	c.Spec.Backup.S3.CredentialsFile, c.Spec.Backup.S3.InstanceRole = "", true
	if b := Describe(c); len(b.Schedules) != 2 {
		t.Errorf("with the role of the hosts: %+v", b)
	}
	c.Spec.Backup.Every = spec.BackupNever
	if b := Describe(c); !reflect.DeepEqual(*b, facts.Backups{}) {
		t.Errorf("without a schedule: %+v", b)
	}
}

// A control plane that could not be reached when the schedule changed, or ended, does not go on with its own.
func TestAnOutdatedScheduleDoesNothing(t *testing.T) {
	ctx, s := t.Context(), startScheduling(t)
	own, err := s.s.generation()
	if err != nil {
		t.Fatal(err)
	}
	other := s.s
	other.Request.Host = "cp-z"
	if same, err := other.generation(); err != nil || same != own {
		t.Errorf("hosts with the same schedule do not agree: %v", err)
	}
	for _, generation := range []string{"another", noGeneration} {
		if _, err := s.client.Put(ctx, generationKey, generation); err != nil {
			t.Fatal(err)
		}
		if log, err := s.look(ctx, "cp-a", 0); err != nil || !strings.Contains(log, "another schedule of backups was set") {
			t.Errorf("%s: %q %v", generation, log, err)
		}
	}
	if got := s.stored(); len(got) != 0 {
		t.Errorf("the store has backups of %v", got)
	}
	if _, err := s.client.Put(ctx, generationKey, own); err != nil {
		t.Fatal(err)
	}
	if log, err := s.look(ctx, "cp-a", 0); err != nil || !strings.Contains(log, ".cp-a.backup.age: ") {
		t.Errorf("%q %v", log, err)
	}
}

// A process that was killed leaves all of etcd in plain text.
func TestTheTimerRemovesTheSnapshotOfAKilledRun(t *testing.T) {
	ctx, s := t.Context(), startScheduling(t)
	if _, err := s.look(ctx, "cp-a", 0); err != nil {
		t.Fatal(err)
	}
	p := s.at("cp-a")
	left := filepath.Join(p.work, "snapshot.db")
	place(t, p.work, "snapshot.db", []byte("secrets"))
	leave, err := s.running(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.look(ctx, "cp-a", time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("the snapshot of a run that goes on was removed: %v", err)
	}
	leave()
	place(t, p.work, "snapshot.db", []byte("secrets"))
	if log, err := s.look(ctx, "cp-a", time.Minute); err != nil || log != "" {
		t.Errorf("%q %v", log, err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the snapshot of a killed run stays: %v", err)
	}
}

// running is another process that takes a backup on the host.
func (s scheduling) running(p controlPlane) (leave func(), err error) {
	if leave, err = p.alone(); err == nil {
		place(s.t, p.work, "snapshot.db", []byte("secrets"))
	}
	return leave, err
}
