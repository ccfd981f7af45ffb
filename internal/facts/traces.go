package facts

import "strings"

// Places below /var/lib/quorate that belong to a cluster.
const (
	// EtcdGuardDir holds the guard that keeps a stacked etcd member from starting without its data.
	EtcdGuardDir = "/var/lib/quorate/etcd"
	// ApproverFile is the kubeconfig with which a control plane approves kubelets' serving certificates.
	ApproverFile = "/var/lib/quorate/approver.conf"
	// WithdrawnDir holds the manifests of static pods that were set aside for a maintenance of the host.
	WithdrawnDir = "/var/lib/quorate/withdrawn"
	// BackupDir holds BackupScheduleFile. Only root can look into it.
	BackupDir = "/var/lib/quorate/backup"
	// BackupScheduleFile is what a control plane needs to take backups by itself, with the credentials for their store.
	BackupScheduleFile = BackupDir + "/schedule.json"
	// RestoreFile says from which backup the host's cluster is, or was, restored (see Restore).
	RestoreFile = "/var/lib/quorate/restore.json"
	// MaintenanceFile is the host's own note of its maintenance (see Kubernetes.Maintenance).
	MaintenanceFile = "/var/lib/quorate/maintenance.json"
	// EtcdAbandonedFile lists the IDs of the etcd clusters that recoveries have replaced, one a line (see Kubernetes.EtcdAbandoned).
	EtcdAbandonedFile = EtcdGuardDir + "/abandoned"
	// EtcdRestoredFile says with which members and token the data of this host's etcd member was restored.
	EtcdRestoredFile = EtcdGuardDir + "/restored.json"
)

// SnapshotSpare is what has to be left of a disk on which a snapshot of etcd is stored, in bytes.
const SnapshotSpare = 512 << 20

// KeptDir is where a restore that replaces a cluster keeps the data and the keys of that cluster. Quorate never removes it.
const KeptDir = "/var/lib/quorate-kept"

// Traces are the files and directories by which a host belongs to a cluster. Without them it can be used for another one.
// Programs, units and settings stay: a new build brings them into shape.
var Traces = []string{
	"/etc/kubernetes", "/var/lib/etcd", "/var/lib/kubelet", "/etc/cni/net.d", "/etc/etcd/members.env", EstablishedFile, EtcdGuardDir, ApproverFile, WithdrawnDir, BackupDir, WatchDir, RestoreFile, MaintenanceFile, ResettingFile,
}

// HowToClear says how to make a host that belongs, or belonged, to a cluster usable for another one.
func HowToClear() string {
	return "`kubeadm reset --force` (on an etcd host `systemctl disable --now etcd`), then `rm -rf " + strings.Join(Traces, " ") + "`, and reboot"
}

// OnlyMark says that the mark of a complete cluster is all that the host has of it: no identity, no etcd, no keys, and
// nothing that would start. Such a mark was forgotten when the host was cleared.
func (k Kubernetes) OnlyMark() bool {
	return k.Established && !k.Begun && !k.Adopted && !k.Resetting && (k.Restore == nil || k.Restore.Complete) && !k.KubeletConfig && k.NodeName == "" && len(k.Manifests) == 0 && len(k.Withdrawn) == 0 &&
		!k.EtcdData && len(k.EtcdInitial) == 0 && k.EtcdCA == "" && k.EtcdClient == "" &&
		k.CA == "" && len(k.Certificates) == 0 && len(k.EncryptionKeys) == 0
}

// EtcdDataMissing says that the host has, or had, an etcd member of a cluster that was complete once, and not its data. Such a
// member does not start.
func (k Kubernetes) EtcdDataMissing() bool {
	return !k.EtcdData && (k.EtcdGuard || k.Established && len(k.EtcdInitial) > 0)
}

const (
	// ConfigMap, in kube-system, is where Quorate stores what it must remember about the cluster.
	ConfigMap = "quorate"
	// SpecKey is its entry with the spec by which the cluster was last built or changed.
	SpecKey = "spec"
)
