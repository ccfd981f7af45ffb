package plan

import (
	"fmt"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how control planes get what they need to take backups by themselves, and how they lose it. The units are part of
// their configuration. The schedule itself has the credentials for the store, so only its digest is known here.

// takesBackups says that a host should have the schedule.
func (b *builder) takesBackups(h spec.Host) bool {
	return b.c.Spec.Backup.Interval() > 0 && h.Has(spec.RoleControlPlane)
}

// hasSchedule says that a host has a schedule, whatever is in it.
func hasSchedule(f *facts.Facts) bool {
	_, has := f.Files[facts.BackupScheduleFile]
	return has || f.Unknown[facts.BackupScheduleFile] != ""
}

// refuseSchedule refuses to go on if a control plane has no credentials for the store of backups, and this machine has none either.
func (b *builder) refuseSchedule() error {
	seen := b.Seen.Backups
	if seen == nil || seen.ScheduleError == "" {
		return nil
	}
	const fix = "Provide the credentials that spec.backup names. Without any, set `every: never` in spec.backup: then the control planes take no backups by themselves."
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if f := b.Facts(h.Name); f != nil && !hasSchedule(f) {
			return refused(RuleStore, h.Name+" is to take backups by itself, and there are no credentials for the store: "+seen.ScheduleError, fix)
		}
	}
	b.out.Warnings = append(b.out.Warnings, "the schedule of backups on the control planes stays as it is, because there are no credentials for the store here: "+seen.ScheduleError)
	return nil
}

// scheduleBackups plans the schedule of control planes after everything else on them, and its removal from other hosts.
func (b *builder) scheduleBackups(after ...*Step) {
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		if f == nil {
			continue
		}
		if !b.takesBackups(h) {
			b.unscheduleBackups(h, f, after)
			continue
		}
		if why := b.staleSchedule(h, f); why != "" {
			b.add(Step{Kind: ScheduleBackups, Host: h.Name, Title: "let the control plane take backups",
				Reason: fmt.Sprintf("%s; one of the control planes takes a backup every %s, and another one if that fails", why, b.c.Spec.Backup.Every)}, append(after, b.at[h.Name].configure)...)
		}
	}
}

// staleSchedule says what is wrong with the schedule of a control plane; it is empty if nothing is.
func (b *builder) staleSchedule(h spec.Host, f *facts.Facts) string {
	seen := b.Seen.Backups
	if seen == nil || seen.Schedules[h.Name] == "" || f.Unknown[facts.BackupScheduleFile] != "" {
		return ""
	}
	switch have, has := f.Files[facts.BackupScheduleFile]; {
	case !has:
		return "it has no schedule of backups"
	case have != seen.Schedules[h.Name]:
		return "its schedule of backups, or the credentials for their store, are not those of the spec"
	}
	if seen.Outdated() {
		return "etcd says that another schedule of backups counts, and so it takes none"
	}
	if access := hostconfig.WrongAccess(facts.File{Path: facts.BackupScheduleFile, Mode: 0o600}, f.Modes); len(access) > 0 {
		return reasons(access)
	}
	return ""
}

func (b *builder) unscheduleBackups(h spec.Host, f *facts.Facts, after []*Step) {
	unit := slices.ContainsFunc(hostconfig.BackupUnitFiles, func(path string) bool { _, has := f.Files[path]; return has })
	if !unit && !hasSchedule(f) {
		return
	}
	reason := "the spec has no schedule of backups; the credentials for their store are removed from the host"
	if b.c.Spec.Backup.Interval() > 0 {
		reason = "it is no control plane; the credentials for the store of backups are removed from it"
	}
	b.add(Step{Kind: UnscheduleBackups, Host: h.Name, Title: "stop taking backups", Reason: reason}, append(after, b.at[h.Name].configure)...)
}
