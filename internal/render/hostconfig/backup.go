package hostconfig

import (
	"fmt"
	"path"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Units with which a control plane takes backups by itself.
const (
	// BackupTimer starts BackupService every few minutes. The service looks whether a backup is due.
	BackupTimer = "quorate-backup.timer"
	// BackupService takes a backup if one is due.
	BackupService = "quorate-backup.service"
)

// BackupUnitFiles are the files of these units.
var BackupUnitFiles = []string{"/etc/systemd/system/" + BackupService, "/etc/systemd/system/" + BackupTimer}

// addBackups adds the timer of backups, if there is a schedule. The credentials for their store are not among the files: those are
// in plans.
func addBackups(c *spec.Cluster, d *facts.Desired) {
	if c.Spec.Backup.Interval() == 0 {
		return
	}
	d.Files = append(d.Files,
		facts.File{Path: BackupUnitFiles[0], Content: backupService(c.Spec.Backup.Directory)},
		facts.File{Path: BackupUnitFiles[1], Content: backupTimer})
	d.Self = SelfPath
	d.Enable = append(d.Enable, BackupTimer)
}

// The service is always the same program as its file: it is started anew each time. It looks by itself whether there is a schedule,
// because a timer ends when a condition keeps its service from starting. It ends by itself when a backup takes too long.
//
// It must reach the store and read all keys, and it writes nothing but snapshots and, if the store is a directory, backups. That
// directory can belong to any user.
func backupService(directory string) string {
	writes := "-/var/lib/quorate"
	if directory != "" {
		// systemd reads this as a quoted string in which it replaces what begins with a percent sign.
		writes += " " + fmt.Sprintf("%q", "-"+strings.ReplaceAll(path.Clean(directory), "%", "%%"))
	}
	return `[Unit]
Description=Takes an encrypted backup of the cluster if one is due
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
ExecStart=` + SelfPath + ` host backup
TimeoutStartSec=13h
# The cluster comes first.
Nice=19
CPUWeight=10
IOWeight=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
InaccessiblePaths=-/var/lib/etcd -/var/lib/containerd -/run/containerd
ProtectSystem=strict
ReadWritePaths=` + writes + `
PrivateDevices=yes
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
`
}

// The control planes look at different moments, so that they seldom meet.
const backupTimer = `[Unit]
Description=Looks every five minutes whether a backup of the cluster is due

[Timer]
OnActiveSec=1min
OnUnitInactiveSec=5min
RandomizedDelaySec=1min
AccuracySec=10s

[Install]
WantedBy=timers.target
`
