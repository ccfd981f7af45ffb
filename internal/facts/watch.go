package facts

import "time"

// What a host has for the unit that repairs (see hostconfig.WatchUnit).
const (
	// WatchDir holds it. Only root can look into it.
	WatchDir = "/var/lib/quorate/watch"
	// WatchKeyFile is the private key with which the unit of a control plane reaches the hosts. It never leaves the control plane.
	WatchKeyFile = WatchDir + "/id_ed25519"
	// WatchConfigFile is the WatchConfig of a control plane, and WatchKnownHostsFile the keys of the hosts that it connects to.
	WatchConfigFile     = WatchDir + "/config.json"
	WatchKnownHostsFile = WatchDir + "/known_hosts"
	// ExporterCertificateFile is the certificate with which a control plane serves metrics, and its key. ExporterFile is the kubeconfig with
	// which it asks the API who may read them. systemd gives the unit that serves them copies.
	ExporterCertificateFile = WatchDir + "/exporter.pem"
	ExporterFile            = WatchDir + "/exporter.conf"
	// ExporterRestartDue exists while one of them is newer than the copies that the unit has.
	ExporterRestartDue = WatchDir + "/exporter-restart-due"
	// WatchAdmissionFile is the WatchAdmission of a host.
	WatchAdmissionFile = WatchDir + "/admitted.json"
	// WatchReportFile is the WatchReport of a unit that runs.
	WatchReportFile = "/run/quorate/watch.json"
	// WatchLeaderFile is locked by the unit that leads, on a majority of the control planes.
	WatchLeaderFile = "/run/quorate/watch-leader"
	// SnapshotsDir is where the unit of a control plane writes what is exposed as metrics, for the unit that serves them, as SnapshotName. Only root
	// can enter ExporterDir, which holds it. It is in memory, so what is exposed never outlives a restart of the host.
	ExporterDir  = "/run/quorate/exporter"
	SnapshotsDir = ExporterDir + "/snapshots"
	SnapshotName = "metrics.json"
	// ExporterState names the directory in which the unit that serves them remembers who may read, below /var/lib. For a user of its own, systemd makes that a
	// link to one below /var/lib/private.
	ExporterState = "quorate-exporter"
	// ExporterStateDir is where the directory is, and ExporterStateLink the link to it.
	ExporterStateDir, ExporterStateLink = "/var/lib/private/quorate-exporter", "/var/lib/quorate-exporter"
	// WatchBlock is the block of Quorate's lines in the authorized_keys of the user whom the units log in as.
	WatchBlock = "watch"
)

// Watch is what a host reports of the unit that repairs.
type Watch struct {
	// HostKeys are the public keys of the host's sshd.
	HostKeys []string `json:"hostKeys,omitempty"`
	// Key is the public key of a control plane's unit; empty if it has none.
	Key string `json:"key,omitempty"`
	// Admits is nil if the host admits no unit, and Config if the host has no configuration for one.
	Admits *WatchAdmits `json:"admits,omitempty"`
	Config *WatchNote   `json:"config,omitempty"`
	// Report is what the unit on this host did last; nil if none ran since the host started.
	Report *WatchReport `json:"report,omitempty"`
	// Exporter is what the unit that serves metrics says of itself: ExporterServes, or what is wrong; empty if it says nothing.
	Exporter string `json:"exporter,omitempty"`
}

// ExporterServes is what the unit that serves metrics says when nothing is wrong.
const ExporterServes = "serves metrics"

// Given says that the host has something of the unit.
func (w *Watch) Given() bool {
	return w != nil && (w.Key != "" || w.Admits != nil || w.Config != nil)
}

// WatchNote identifies what a file was made from.
type WatchNote struct {
	Generation string `json:"generation"`
	// HostKeys are the keys of the hosts that are known, by host.
	HostKeys map[string][]string `json:"hostKeys,omitempty"`
}

// WatchAdmits says whom a host admits.
type WatchAdmits struct {
	Generation string `json:"generation"`
	// User is whom they log in as.
	User string `json:"user"`
	// Units are the control planes whose units are admitted, by name.
	Units map[string]WatchUnit `json:"units,omitempty"`
	// ReadOnly says that they may only observe: nothing on the host can be repaired by them.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Broken is why they cannot log in as it is: the lines in authorized_keys were changed.
	Broken string `json:"broken,omitempty"`
}

// WatchUnit is the unit of one control plane.
type WatchUnit struct {
	Key     string `json:"key"`
	Address string `json:"address"` // from which it comes
}

// WatchProbe is whether units on control planes could repair the hosts, before there are any.
type WatchProbe struct {
	// Reach is how control planes reach sshd on the hosts, directly. Errors are those of which nothing is known, by name.
	Reach  []Reach           `json:"reach"`
	Errors map[string]string `json:"errors,omitempty"`
	// SudoAsks are the hosts on which sudo wants a password.
	SudoAsks []string `json:"sudoAsks,omitempty"`
}

// WatchReport is what a unit says of itself.
type WatchReport struct {
	// AgoSeconds is how long ago the unit last did something, by the clock of its host.
	AgoSeconds int64 `json:"agoSeconds"`
	// Looked is when that was.
	Looked time.Time `json:"looked"`
	// Leads says that it is the one that repairs, and Leader who was, as far as it knows; empty if nobody was.
	Leads  bool   `json:"leads"`
	Leader string `json:"leader,omitempty"`
	// Last is what it last repaired, or did not, and when.
	Last string    `json:"last,omitempty"`
	At   time.Time `json:"at,omitzero"`
	// Hindered is why it repairs nothing now; empty if nothing hinders it.
	Hindered string `json:"hindered,omitempty"`
	// Unreachable are the hosts that it cannot reach, with the reason. They are left alone.
	Unreachable map[string]string `json:"unreachable,omitempty"`
	// Compared is how it last compared the data of etcd's members; nil if it has not since it was started.
	Compared *EtcdComparison `json:"compared,omitempty"`
	// WentBack are the members of etcd that it saw go back, by ID, as of EtcdMember.WentBack: a single observation does not show that.
	WentBack map[string]string `json:"wentBack,omitempty"`
}

// EtcdComparison is what the members of etcd said when they were asked to hash their data. Who differs follows from it, and from which members
// etcd has when it is read: see cluster.State.Comparison.
type EtcdComparison struct {
	// At is when, by the clock of whoever asked, and AgoSeconds how long that was ago when it was read there.
	At         time.Time `json:"at"`
	AgoSeconds int64     `json:"agoSeconds"`
	// Hashes are those of the members that could be asked, by the member's ID.
	Hashes map[string]EtcdHash `json:"hashes"`
}

// WatchSilent is after which time a unit that says nothing hangs: it observes every few seconds, and notes each step of a repair.
const WatchSilent = 10 * time.Minute
