package facts

import "time"

// Backups is what is known of the backups of a cluster.
type Backups struct {
	// Schedules are the SHA-256 that BackupScheduleFile should have on each control plane, by its name; empty if they should have
	// none, or if it could not be made from the files of the caller, for the reason in ScheduleError.
	Schedules     map[string]string `json:"schedules,omitempty"`
	ScheduleError string            `json:"scheduleError,omitempty"`
	// Generation is what etcd should say about which schedule counts; empty if there is no schedule, or if it is unknown.
	Generation string `json:"generation,omitempty"`
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
	// Generation says which schedule counts. A control plane that has another one takes no backups. It is empty if none was ever set.
	Generation string `json:"generation,omitempty"`
	// Last is the last good backup, whoever took it; nil if none was ever taken.
	Last *LastBackup `json:"last,omitempty"`
	// Failed are the last attempts of hosts that failed, by the name of the host. A host's entry is gone when it takes a good one.
	Failed map[string]FailedBackup `json:"failed,omitempty"`
}

// ClocksAgree is by how much the clocks of control planes may differ. What is dated further in the future was dated by a clock that is
// wrong.
const ClocksAgree = 10 * time.Minute

// FromTheFuture says that the last backup was dated by a wrong clock: nobody knows how old it is, and it does not count.
func (r *BackupReport) FromTheFuture() bool {
	return r.Last != nil && r.Last.Time.Sub(r.Now) > ClocksAgree
}

// Outdated says that another schedule counts than the one that control planes should have, so that these take no backups. An etcd that
// was restored may say so.
func (b *Backups) Outdated() bool {
	return b.Generation != "" && b.Report != nil && b.Report.Generation != "" && b.Report.Generation != b.Generation
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
