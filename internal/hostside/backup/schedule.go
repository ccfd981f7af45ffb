package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"filippo.io/age"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Schedule is the content of facts.BackupScheduleFile: with it, a control plane takes backups by itself.
type Schedule struct {
	Every   time.Duration `json:"everyNanoseconds"`
	Request Request       `json:"request"`
}

// RequestOf is what control planes are told about the backups of a spec, with the credentials that this machine has. Each of them also
// needs its own name.
func RequestOf(c *spec.Cluster) (Request, error) {
	b := c.Spec.Backup
	at, err := backup.LocationOf(b)
	return Request{Cluster: c.Metadata.Name, Recipients: b.Recipients, Location: at,
		Keep: backup.Retention{Last: b.Keep.Last, Daily: b.Keep.Daily, Weekly: b.Keep.Weekly}}, err
}

// ScheduleOf is the schedule of a spec that has one, for one of its hosts.
func ScheduleOf(c *spec.Cluster, host string) (Schedule, error) {
	request, err := RequestOf(c)
	request.Host = host
	if s3 := request.Location.S3; err == nil && s3 != nil && s3.SessionToken != "" {
		err = errors.New("the credentials for the S3 store have a session token, so they expire; scheduled backups need credentials that do not: create an access key for backups, or set spec.backup.s3.instanceRole if the control planes have a role in their cloud")
	}
	return Schedule{c.Spec.Backup.Interval(), request}, err
}

// content is the file. The same schedule always has the same content: its digest tells whether a control plane has it.
func (s Schedule) content() ([]byte, error) {
	s.Request.Recipients = slices.Sorted(slices.Values(s.Request.Recipients)) // their order means nothing
	return json.Marshal(s)
}

// Describe is what a plan needs to know about the schedule of a spec. The credentials are not in it.
func Describe(c *spec.Cluster) *facts.Backups {
	out := &facts.Backups{}
	if c.Spec.Backup.Interval() == 0 {
		return out
	}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		s, err := ScheduleOf(c, h.Name)
		var content []byte
		if err == nil {
			content, err = s.content()
		}
		if err != nil {
			return &facts.Backups{ScheduleError: err.Error()}
		}
		if out.Schedules == nil {
			out.Schedules = map[string]string{}
		}
		out.Schedules[h.Name] = facts.Sum(content)
		if out.Generation, err = s.generation(); err != nil {
			return &facts.Backups{ScheduleError: err.Error()}
		}
	}
	return out
}

// SetSchedule gives a control plane its schedule. The units that follow it run the program of this session, which is as new as the
// schedule. A timer that runs starts again, so that the schedule is tried in a minute or two.
var SetSchedule = host.Define("backup.set-schedule", func(ctx context.Context, s Schedule) (struct{}, error) {
	if err := files.CopySelf(hostconfig.SelfPath); err != nil {
		return struct{}{}, err
	}
	if err := s.write(facts.BackupScheduleFile); err != nil {
		return struct{}{}, err
	}
	generation, err := s.generation()
	if err != nil {
		return struct{}{}, err
	}
	if err := setGeneration(ctx, generation); err != nil {
		return struct{}{}, err
	}
	units, err := system.Units(ctx, hostconfig.BackupTimer)
	if err != nil || units[hostconfig.BackupTimer].Active != "active" {
		return struct{}{}, err
	}
	return struct{}{}, system.Systemctl(ctx, "restart", hostconfig.BackupTimer)
}, host.Secret)

// noGeneration is noted when no control plane is to take backups.
const noGeneration = "none"

// generation identifies the schedule on all control planes.
func (s Schedule) generation() (string, error) {
	s.Request.Host = ""
	content, err := s.content()
	return facts.Sum(content), err
}

// setGeneration notes which schedule counts. A control plane that was not reached when it was set, and has another one, takes no backups:
// it would store them elsewhere, or for others, or remove too many.
func setGeneration(ctx context.Context, generation string) error {
	p, err := local("")
	if err != nil {
		return err
	}
	client, err := p.connect(p.endpoints...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	if _, err := client.Put(ctx, generationKey, generation); err != nil {
		return fmt.Errorf("noting in etcd which schedule of backups counts: %w", err)
	}
	return nil
}

func (s Schedule) write(file string) error {
	content, err := s.content()
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // it may have been there
		return err
	}
	return durable.WriteFile(file, content, 0o600)
}

// Removal says whether a host, or the whole cluster, is to take no backups by itself any more.
type Removal struct {
	Cluster bool `json:"cluster,omitempty"`
}

// RemoveSchedule ends the backups that a host takes by itself, and removes the credentials.
var RemoveSchedule = host.Define("backup.remove-schedule", func(ctx context.Context, in Removal) (struct{}, error) {
	if in.Cluster {
		// A host that is no control plane yet, or no longer, has no etcd to ask.
		if err := setGeneration(ctx, noGeneration); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return struct{}{}, err
		}
	}
	return struct{}{}, removeSchedule(ctx)
})

func removeSchedule(ctx context.Context) error {
	units, err := system.Units(ctx, hostconfig.BackupTimer, hostconfig.BackupService)
	if err != nil {
		return err
	}
	for _, name := range []string{hostconfig.BackupTimer, hostconfig.BackupService} {
		if !units[name].Exists {
			continue
		}
		if err := system.Systemctl(ctx, "disable", "--now", name); err != nil {
			return err
		}
	}
	for _, path := range append([]string{facts.BackupScheduleFile, facts.BackupDir}, hostconfig.BackupUnitFiles...) {
		if err := durable.Remove(path); err != nil {
			return err
		}
	}
	return system.Systemctl(ctx, "daemon-reload")
}

const (
	// A control plane whose attempt failed waits before the next one: for a twelfth of the interval, within these limits. The others
	// do not wait for it.
	leastRetry, mostRetry = 4 * time.Minute, time.Hour
	// An attempt may take half of the interval, within these limits. Then another control plane may try. The command may take
	// mostPatience.
	leastPatience, mostPatience = 30 * time.Minute, 12 * time.Hour
)

// due says why a control plane should take a backup now; it is empty if it should not.
func (s Schedule) due(host string, r facts.BackupReport) string {
	failed, has := r.Failed[host]
	// What failed with another schedule may work with this one.
	if ago := r.Now.Sub(failed.Time); has && failed.Time.After(r.Since) && ago >= 0 && ago < min(max(s.Every/12, leastRetry), mostRetry) {
		return ""
	}
	switch store := s.Request.Location.String(); {
	case r.Last == nil:
		return "there is none"
	case r.Last.Store != store:
		return "the last one is in " + r.Last.Store
	case r.FromTheFuture(): // it would keep all others from taking one
		return "the last one is dated in the future"
	case r.Now.Sub(r.Last.Time) >= s.Every:
		return "the last one is " + ui.Duration(r.Now.Sub(r.Last.Time)) + " old"
	}
	return ""
}

// Scheduled takes a backup if one is due, and logs that. systemd starts it on every control plane, every few minutes.
func Scheduled(ctx context.Context, log io.Writer) error {
	content, err := os.ReadFile(facts.BackupScheduleFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it comes after the timer
	}
	if err != nil {
		return err
	}
	var s Schedule
	if err := json.Unmarshal(content, &s); err != nil {
		return fmt.Errorf("reading %s: %w; `quorate apply` writes it again", facts.BackupScheduleFile, err)
	}
	since, err := scheduledSince(facts.BackupScheduleFile)
	if err != nil {
		return err
	}
	p, err := local(s.Request.Host)
	if err != nil {
		return err
	}
	return p.scheduled(ctx, s, time.Now, since, log)
}

func (p controlPlane) scheduled(ctx context.Context, s Schedule, now func() time.Time, since time.Time, log io.Writer) error {
	recipients, err := spec.ParseRecipients(s.Request.Recipients)
	if err != nil {
		return err
	}
	client, err := p.client(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := p.tidy(); err != nil {
		return err
	}
	own, err := s.generation()
	if err != nil {
		return err
	}
	r, err := report(ctx, client, now(), since)
	if err != nil {
		return err
	}
	if r.Generation != "" && r.Generation != own {
		fmt.Fprintln(log, "another schedule of backups was set when this control plane could not be reached, so it takes none: `quorate apply` sets it here, too")
		return nil
	}
	if s.due(p.host, r) == "" {
		return nil
	}
	patience := min(max(s.Every/2, leastPatience), mostPatience)
	ctx, cancel := patiently(ctx, patience)
	defer cancel()
	// When time is up, the lock ends, even if something here hangs that cannot be interrupted.
	err = p.locked(ctx, client, func(ctx context.Context, held *clientv3.Cmp) error {
		return p.ifDue(ctx, client, held, s, recipients, now, since, log)
	})
	if errors.Is(err, ErrBusy) {
		fmt.Fprintf(log, "a backup is due: %v\n", err)
		return nil
	}
	if errors.Is(err, errFull) {
		// Without the lock, every control plane would take one, again and again.
		return fmt.Errorf("a backup is due, and none is taken: %w; take one with `quorate backup`, which does without the lock, and free space in etcd", err)
	}
	if err != nil {
		return errors.New("taking a backup: " + s.Request.Location.Redact(err.Error()))
	}
	return nil
}

// ifDue takes a backup while this control plane holds the lock: another one may have taken it since.
func (p controlPlane) ifDue(ctx context.Context, client *clientv3.Client, held *clientv3.Cmp, s Schedule, recipients []age.Recipient, now func() time.Time, since time.Time, log io.Writer) error {
	r, err := report(ctx, client, now(), since)
	if err != nil {
		return err
	}
	why := s.due(p.host, r)
	if why == "" {
		return nil
	}
	fmt.Fprintf(log, "a backup is due: %s\n", why)
	begin := time.Now()
	out, err := p.attempt(ctx, client, held, s.Request, recipients)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "%s: %s, stored in %s after %s, and read again\n", out.File, ui.Bytes(out.Bytes), s.Request.Location, ui.Duration(time.Since(begin)))
	for _, note := range []struct{ what, why string }{{"it could not be noted in etcd", out.NotRecorded}, {"old backups were not removed", out.NotRemoved}} {
		if note.why != "" {
			fmt.Fprintf(log, "%s: %s\n", note.what, s.Request.Location.Redact(note.why))
		}
	}
	for _, old := range out.Removed {
		fmt.Fprintf(log, "removed %s\n", old)
	}
	return nil
}
