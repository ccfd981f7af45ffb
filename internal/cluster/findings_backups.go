package cluster

import (
	"fmt"
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
	host, failed := f.lastFailed(r)
	text, fix := "", "`quorate backup` takes one now, and says what is wrong. On a control plane, `journalctl -u quorate-backup` shows what was tried."
	if host != "" {
		text = fmt.Sprintf("; the last attempt, %s ago by %s, failed: %s", span(r.Now.Sub(failed.Time)), host, failed.Error)
		fix = "`quorate backup` takes one now, and says what is wrong. On " + host + ", `journalctl -u quorate-backup` shows what was tried."
	}
	age := time.Duration(0)
	switch since := r.Now.Sub(r.Since); {
	case r.Last == nil && !r.Since.IsZero() && since > backupLate*every:
		f.add(RuleBackupAge, Critical, fmt.Sprintf("there has never been a good backup, although the control planes should have taken one every %s for %s%s", f.Spec.Spec.Backup.Every, span(since), text), fix)
		return
	case r.Last == nil && f.unscheduled():
		f.add(RuleBackupAge, Warning, "there has never been a good backup, and no control plane has a schedule of backups", "`quorate apply` sets it up. "+fix)
		return
	case r.Last == nil:
		f.failedBackups(true)
		return
	case r.FromTheFuture():
		f.add(RuleBackupAge, Warning, fmt.Sprintf("the last backup does not count as a good one: by the clock of %s, it was taken %s in the future%s", r.Last.Host, span(r.Last.Time.Sub(r.Now)), text),
			"Correct the clocks. "+fix)
		return
	default:
		age = r.Now.Sub(r.Last.Time)
	}
	severity := Warning
	switch {
	case age <= backupLate*every:
		f.failedBackups(age > every)
		return
	case age > backupLost*every:
		severity = Critical
	}
	f.add(RuleBackupAge, severity, fmt.Sprintf("the last good backup is %s old, and the control planes should take one every %s%s", span(age), f.Spec.Spec.Backup.Every, text), fix)
}

// lastFailed is the failed attempt since the last good backup that was made last, and its host; empty if there is none. Hosts that are control
// planes no longer do not count: they never take a good one.
func (f *findings) lastFailed(r *facts.BackupReport) (host string, out facts.FailedBackup) {
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		name := h.Name
		x, has := r.Failed[name]
		if has && (r.Last == nil || x.Time.After(r.Last.Time)) && (host == "" || x.Time.After(out.Time)) {
			host, out = name, x
		}
	}
	return host, out
}

// failedBackups reports control planes whose last attempt failed, while backups are young enough because others take them. If one is due and
// all of them failed since the last one, nobody takes it.
func (f *findings) failedBackups(due bool) {
	r := f.Seen.Backups.Report
	var failing []string
	all := due
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		failed, has := r.Failed[h.Name]
		if has {
			failing = append(failing, h.Name)
		}
		if f.Joined(h) && (!has || r.Last != nil && !failed.Time.After(r.Last.Time)) {
			all = false
		}
	}
	if all && len(failing) > 0 {
		host, failed := f.lastFailed(r)
		f.add(RuleBackupFailed, Warning, fmt.Sprintf("a backup is due, and no control plane can take it; the last attempt, %s ago by %s, failed: %s", span(r.Now.Sub(failed.Time)), host, failed.Error),
			"`quorate backup` takes one now, and says what is wrong. On "+host+", `journalctl -u quorate-backup` shows what was tried.", failing...)
		return
	}
	for _, name := range failing {
		f.add(RuleBackupFailed, Info, fmt.Sprintf("%s could not take a backup %s ago: %s", name, span(r.Now.Sub(r.Failed[name].Time)), r.Failed[name].Error),
			"Another control plane takes it. On "+name+", `journalctl -u quorate-backup` shows what was tried.", name)
	}
}

// unscheduled says that it is known that no control plane has a schedule of backups.
func (f *findings) unscheduled() bool {
	missing, unknown := f.withoutSchedule()
	joined := 0
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if f.Joined(h) {
			joined++
		}
	}
	return unknown == 0 && joined > 0 && len(missing) == joined
}

// withoutSchedule are the control planes that have no schedule, and the number of those that could not be asked.
func (f *findings) withoutSchedule() (missing []string, unknown int) {
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		if f.Facts(h.Name) == nil || f.Facts(h.Name).Unknown[facts.BackupScheduleFile] != "" {
			unknown++
			continue
		}
		if !f.Joined(h) {
			continue
		}
		if _, has := f.Facts(h.Name).Files[facts.BackupScheduleFile]; !has {
			missing = append(missing, h.Name)
		}
	}
	return missing, unknown
}

// backupSchedules reports control planes that have no schedule, or another one than the spec says.
func (f *findings) backupSchedules() {
	missing, _ := f.withoutSchedule()
	var other []string
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		// Without the credentials here, it is not known what control planes should have.
		if f.Seen.Backups == nil || f.Seen.Backups.Schedules[h.Name] == "" || !f.Joined(h) {
			continue
		}
		if have, has := f.Facts(h.Name).Files[facts.BackupScheduleFile]; has && (have != f.Seen.Backups.Schedules[h.Name] || f.Seen.Backups.Outdated()) {
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
