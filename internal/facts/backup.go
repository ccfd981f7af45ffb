package facts

import "time"

// Backups is what is known of the backups of a cluster.
type Backups struct {
	// Schedule is the SHA-256 that BackupScheduleFile should have on control planes; empty if they should have none, or if it could
	// not be made from the files of the caller, for the reason in ScheduleError.
	Schedule      string `json:"schedule,omitempty"`
	ScheduleError string `json:"scheduleError,omitempty"`
	// Report is what etcd says; nil if no control plane could read it, for the reason in Unknown, or if there is none yet.
	Report  *BackupReport `json:"report,omitempty"`
	Unknown string        `json:"unknown,omitempty"`
}

// BackupReport is what a control plane reports of the backups of its cluster.
type BackupReport struct {
	// Now is the time by the clock of the control plane, which is compared with the other times here: the caller's clock does not
	// matter.
	Now time.Time `json:"now"`
	// Since is when the control plane got its schedule; zero if it has none.
	Since time.Time `json:"since"`
	// Last is the last good backup, whoever took it; nil if none was ever taken.
	Last *LastBackup `json:"last,omitempty"`
	// Failed are the last attempts of hosts that failed, by the name of the host. A host's entry is gone when it takes a good one.
	Failed map[string]FailedBackup `json:"failed,omitempty"`
}

// LastBackup is the last good backup. It was stored, and read again.
type LastBackup struct {
	Time  time.Time `json:"time"`
	Host  string    `json:"host"`
	File  string    `json:"file"`
	Bytes int64     `json:"bytes"`
	// Store is where it is, without credentials.
	Store string `json:"store"`
}

// FailedBackup is an attempt that failed.
type FailedBackup struct {
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
}
