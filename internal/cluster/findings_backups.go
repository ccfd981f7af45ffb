package cluster

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// A last good backup that is older than backupLate intervals is a warning, and older than backupLost critical. One interval is what
// is normal, and a control plane that takes over needs minutes.
const (
	backupLate = 2
	backupLost = 10
)

// backups reports that the control planes do not take backups as often as the spec says.
func (f *findings) backups() {
	every := f.Spec.Spec.Backup.Interval()
	if every == 0 || f.stage == Foreign {
		return
	}
	f.backupSchedules()
	seen := f.Seen.Backups
	if seen == nil || seen.Report == nil {
		why := "it was not asked for"
		if seen != nil && seen.Unknown != "" {
			why = seen.Unknown
		}
		f.add(RuleBackupAge, Warning, "it is unknown when the last good backup was taken: "+why,
			"Run `quorate status` again in a moment. `quorate backup list` shows what is in the store, if a control plane can be reached.")
		return
	}
	r := seen.Report
	host, failed := lastFailed(r)
	text, fix := "", "`quorate backup` takes one now, and says what is wrong. On a control plane, `journalctl -u quorate-backup` shows what was tried."
	if host != "" {
		text = fmt.Sprintf("; the last attempt, %s ago by %s, failed: %s", span(r.Now.Sub(failed.Time)), host, failed.Error)
		fix = "`quorate backup` takes one now, and says what is wrong. On " + host + ", `journalctl -u quorate-backup` shows what was tried."
	}
	if r.Last == nil {
		if since := r.Now.Sub(r.Since); !r.Since.IsZero() && since > backupLate*every {
			f.add(RuleBackupAge, Critical, fmt.Sprintf("there has never been a good backup, although the control planes should have taken one every %s for %s%s", f.Spec.Spec.Backup.Every, span(since), text), fix)
			return
		}
		f.failedBackups()
		return
	}
	age := r.Now.Sub(r.Last.Time)
	severity := Warning
	switch {
	case age <= backupLate*every:
		f.failedBackups()
		return
	case age > backupLost*every:
		severity = Critical
	}
	f.add(RuleBackupAge, severity, fmt.Sprintf("the last good backup is %s old, and the control planes should take one every %s%s", span(age), f.Spec.Spec.Backup.Every, text), fix)
}

// lastFailed is the failed attempt since the last good backup that was made last, and its host; empty if there is none.
func lastFailed(r *facts.BackupReport) (host string, out facts.FailedBackup) {
	for _, name := range slices.Sorted(maps.Keys(r.Failed)) {
		x := r.Failed[name]
		if (r.Last == nil || x.Time.After(r.Last.Time)) && (host == "" || x.Time.After(out.Time)) {
			host, out = name, x
		}
	}
	return host, out
}

// failedBackups reports control planes whose last attempt failed, while backups are young enough because others take them.
func (f *findings) failedBackups() {
	r := f.Seen.Backups.Report
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if failed, has := r.Failed[h.Name]; has {
			f.add(RuleBackupFailed, Info, fmt.Sprintf("%s could not take a backup %s ago: %s", h.Name, span(r.Now.Sub(failed.Time)), failed.Error),
				"Another control plane takes it. On "+h.Name+", `journalctl -u quorate-backup` shows what was tried.", h.Name)
		}
	}
}

// backupSchedules reports control planes that have no schedule, or another one than the spec says.
func (f *findings) backupSchedules() {
	seen := f.Seen.Backups
	if seen == nil || seen.Schedule == "" {
		return
	}
	var missing, other []string
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if !f.Joined(h) || f.Facts(h.Name).Unknown[facts.BackupScheduleFile] != "" {
			continue
		}
		switch have, has := f.Facts(h.Name).Files[facts.BackupScheduleFile]; {
		case !has:
			missing = append(missing, h.Name)
		case have != seen.Schedule:
			other = append(other, h.Name)
		}
	}
	for _, x := range []struct {
		on   []string
		what string
	}{{missing, "no schedule of backups"}, {other, "another schedule of backups, or other credentials for their store, than the spec says"}} {
		if len(x.on) > 0 {
			f.add(RuleBackupSchedule, Warning, List(x.on)+plural(len(x.on), " has ", " have ")+x.what, "`quorate apply` sets it up.", x.on...)
		}
	}
}

// span is a time in words.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", max(int(d.Seconds()), 0))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d/day))
}
