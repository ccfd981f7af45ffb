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

// RequestOf is what control planes are told about the backups of a spec, with the credentials that this machine has.
func RequestOf(c *spec.Cluster) (Request, error) {
	b := c.Spec.Backup
	at, err := backup.LocationOf(b)
	return Request{Cluster: c.Metadata.Name, Recipients: b.Recipients, Location: at,
		Keep: backup.Retention{Last: b.Keep.Last, Daily: b.Keep.Daily, Weekly: b.Keep.Weekly}}, err
}

// ScheduleOf is the schedule of a spec that has one.
func ScheduleOf(c *spec.Cluster) (Schedule, error) {
	request, err := RequestOf(c)
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
	s, err := ScheduleOf(c)
	var content []byte
	if err == nil {
		content, err = s.content()
	}
	if err != nil {
		out.ScheduleError = err.Error()
		return out
	}
	out.Schedule = facts.Sum(content)
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
	units, err := system.Units(ctx, hostconfig.BackupTimer)
	if err != nil || units[hostconfig.BackupTimer].Active != "active" {
		return struct{}{}, err
	}
	return struct{}{}, systemctl(ctx, "restart", hostconfig.BackupTimer)
}, host.Secret)

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

// RemoveSchedule ends the backups that a host takes by itself, and removes the credentials.
var RemoveSchedule = host.Define("backup.remove-schedule", func(ctx context.Context, _ struct{}) (struct{}, error) {
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
		if err := systemctl(ctx, "disable", "--now", name); err != nil {
			return err
		}
	}
	for _, path := range append([]string{facts.BackupScheduleFile, facts.BackupDir}, hostconfig.BackupUnitFiles...) {
		if err := durable.Remove(path); err != nil {
			return err
		}
	}
	return systemctl(ctx, "daemon-reload")
}

func systemctl(ctx context.Context, args ...string) error {
	return system.Command{Name: "systemctl", Args: args, Finish: true}.Run(ctx)
}

const (
	// clocksAgree is by how much the clocks of control planes may differ. A backup that is dated further in the future was dated by
	// a clock that is wrong, and would keep all others from taking one.
	clocksAgree = 10 * time.Minute
	// A control plane whose attempt failed waits before the next one: for a twelfth of the interval, within these limits. The others
	// do not wait for it.
	leastRetry, mostRetry = 4 * time.Minute, time.Hour
	// An attempt may take half of the interval, within these limits. Then another control plane may try.
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
	case r.Last.Time.Sub(r.Now) > clocksAgree:
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
	p, err := local()
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
	client, err := p.connect(p.endpoints...)
	if err != nil {
		return err
	}
	defer client.Close()
	r, err := report(ctx, client, now(), since)
	if err != nil || s.due(p.host, r) == "" {
		return err
	}
	patience := min(max(s.Every/2, leastPatience), mostPatience)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it was not done within %s", patience))
	defer cancel()
	// When time is up, the lock ends, even if something here hangs that cannot be interrupted.
	err = locked(ctx, client, func(ctx context.Context) error { return p.ifDue(ctx, client, s, recipients, now, since, log) })
	if errors.Is(err, ErrBusy) {
		fmt.Fprintln(log, "a backup is due, and another control plane is taking it")
		return nil
	}
	if err != nil {
		return errors.New("taking a backup: " + s.Request.Location.Redact(err.Error()))
	}
	return nil
}

// ifDue takes a backup while this control plane holds the lock: another one may have taken it since.
func (p controlPlane) ifDue(ctx context.Context, client *clientv3.Client, s Schedule, recipients []age.Recipient, now func() time.Time, since time.Time, log io.Writer) error {
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
	out, err := p.attempt(ctx, client, s.Request, recipients)
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
