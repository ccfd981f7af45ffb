package facts

import (
	"cmp"
	"path/filepath"
	"time"
)

// RecoveryFile says on a host that a recovery of its cluster's etcd is under way; see EtcdRecovery.
const RecoveryFile = "/var/lib/quorate/recovery.json"

// EtcdKeptDir is where a host keeps data directories of etcd that were set aside, each as STAMP-MEMBER/member by a recovery of the quorum, also
// when a member that it abandoned comes back, and as STAMP-former/member by what replaces one member. Where the data are on a file system of their own, they are kept there, in the directory
// EtcdKeptName of etcd's data directory.
const (
	EtcdKeptDir  = "/var/lib/etcd-kept"
	EtcdKeptName = "quorate-kept"
	// EtcdKeptStamp is the format of the time in their names, and EtcdFormer ends the names of the data of former members.
	EtcdKeptStamp = "20060102T150405Z"
	EtcdFormer    = "-former"
)

// EtcdKeptDirs are the directories in which data of etcd may be kept, for a data directory.
func EtcdKeptDirs(dataDir string) []string {
	return []string{EtcdKeptDir, filepath.Join(dataDir, EtcdKeptName)}
}

// RemainsRequest says what to look for on a host.
type RemainsRequest struct {
	// Data are directories that the user named, in addition to those that are known.
	Data []string `json:"data,omitempty"`
}

// EtcdRemains are what is left of etcd on one host, read without starting or changing anything.
type EtcdRemains struct {
	// Error is why nothing could be read; nothing else is known then.
	Error string `json:"error,omitempty"`
	// Running is the process of etcd, 0 if none runs.
	Running int `json:"running,omitempty"`
	// DataDir is the data directory that the member on this host is configured with, or the default one.
	DataDir string `json:"dataDir"`
	// SeparateWAL says that the member is configured with a directory of its own for its write-ahead log.
	SeparateWAL string `json:"separateWAL,omitempty"`
	// Name and PeerURL are those that the member on this host is configured with; empty where it is not.
	Name    string `json:"name,omitempty"`
	PeerURL string `json:"peerURL,omitempty"`
	// Starts says that the host has what starts a member: a kubelet with its identity, or etcd's unit.
	Starts bool `json:"starts"`
	// Joined says that the kubelet of the host has its identity. With the certificates of a stacked member, it can run one: kubeadm can write the
	// manifest again.
	Joined bool `json:"joined,omitempty"`
	// Guard says that the guard of a stacked member is armed, and Established that the host is marked as part of a cluster that was
	// complete: either way the host has, or had, the data of a member.
	Guard       bool `json:"guard,omitempty"`
	Established bool `json:"established,omitempty"`
	// Volatile is the kind of /var/lib's file system if what is written there may not outlast a boot, as in a rescue system; empty otherwise.
	Volatile string `json:"volatile,omitempty"`
	// Certificates says that the host has the certificates of the member.
	Certificates bool `json:"certificates"`
	// Manifests are the static pods of this host whose manifests are complete, in their place or set aside by a recovery.
	Manifests []string `json:"manifests,omitempty"`
	// Copies are the data directories that were found.
	Copies []EtcdCopy `json:"copies,omitempty"`
	// Recovery is the recovery that is under way here; nil if there is none.
	Recovery *EtcdRecovery `json:"recovery,omitempty"`
}

// Where a copy of etcd's data is.
const (
	// CopyInPlace is the data directory that the member on the host starts with.
	CopyInPlace = "in place"
	// CopyKept was set aside by a recovery.
	CopyKept = "kept"
	// CopyFormer is the data of a member that was replaced: it was damaged, or other or older than that of the others. It is used only if
	// the user says so.
	CopyFormer = "former"
	// CopyNamed was named by the user.
	CopyNamed = "named"
)

// EtcdCopy is one data directory of etcd, as its files say.
type EtcdCopy struct {
	Path string `json:"path"`
	// Kind says where it is: CopyInPlace, CopyKept, CopyFormer or CopyNamed.
	Kind string `json:"kind"`
	// Error is why it cannot be used; what could be read nevertheless is in the other fields.
	Error string `json:"error,omitempty"`
	// Unread is why a part of it could not be read although it may be sound, such as the database of a member that runs.
	Unread string `json:"unread,omitempty"`
	// ClusterID and MemberID are etcd's, in hexadecimal. They come from the write-ahead log.
	ClusterID string `json:"clusterID,omitempty"`
	MemberID  string `json:"memberID,omitempty"`
	// Members are the members of the cluster as this copy knows them.
	Members []EtcdCopyMember `json:"members,omitempty"`
	// Term is the latest that the member has seen, and Vote says for whom it voted in it.
	Term uint64 `json:"term"`
	// LastTerm and LastIndex are those of the last entry of the raft log, and Commit is the index up to which the member knows that a
	// majority has the entries.
	LastTerm  uint64 `json:"lastTerm"`
	LastIndex uint64 `json:"lastIndex"`
	Commit    uint64 `json:"commit"`
	// Applied is the index up to which the database contains the log, and Revision is its revision.
	Applied  uint64 `json:"applied"`
	Revision int64  `json:"revision"`
	// Pending are the writes in the log that the database does not contain yet.
	Pending int `json:"pending"`
	// LastWrite is when the log was last written to.
	LastWrite time.Time `json:"lastWrite,omitzero"`
	Bytes     int64     `json:"bytes"`
	// StorageVersion is that of the database, such as 3.6.0; empty for etcd 3.5, which does not store it.
	StorageVersion string `json:"storageVersion,omitempty"`
	// Corrupt are the members for which the alarm CORRUPT is raised, by their IDs: etcd found that their data differ from those of the others.
	Corrupt []string `json:"corrupt,omitempty"`
	// Torn says that the log ends in the middle of an entry, as after a power cut: that entry was never acknowledged.
	Torn bool `json:"torn,omitempty"`
}

// EtcdCopyMember is a member as the data of another one, or its own, know it.
type EtcdCopyMember struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	PeerURL string `json:"peerURL,omitempty"`
	Learner bool   `json:"learner,omitempty"`
}

// Usable says that the copy can become the data of a cluster of one.
func (c EtcdCopy) Usable() bool { return c.Error == "" && c.ClusterID != "" }

// Compare orders copies of one cluster by what their logs contain, as raft compares candidates: the later term of the last entry
// wins, then the longer log. A copy that is not less than another one has every write that the other one knows to be acknowledged.
func (c EtcdCopy) Compare(o EtcdCopy) int {
	return cmp.Or(cmp.Compare(c.LastTerm, o.LastTerm), cmp.Compare(c.LastIndex, o.LastIndex))
}

// EtcdRecovery is what the hosts of a cluster note while its etcd is recovered.
type EtcdRecovery struct {
	// Cluster is the cluster's name.
	Cluster string `json:"cluster"`
	// OldClusterID is etcd's, of the copy that was chosen.
	OldClusterID string `json:"oldClusterID"`
	// Host and Path are where the copy was when it was chosen, and Member is whose it is.
	Host   string `json:"host"`
	Path   string `json:"path"`
	Member string `json:"member"`
	// Decided is when it was chosen, and Stamp the same as a part of names.
	Decided time.Time `json:"decided"`
	Stamp   string    `json:"stamp"`
	// Lost are the machines that the user declared lost.
	Lost []string `json:"lost,omitempty"`
}

// EtcdDecision is what the user decided about a cluster that has lost its quorum.
type EtcdDecision struct {
	// Host has the copy that is to become the cluster, at Path; without a path, the data in place. Without a host, nothing was chosen.
	Host string `json:"host"`
	Path string `json:"path,omitempty"`
	// Lost are hosts or members that will not come back.
	Lost []string `json:"lost,omitempty"`
	// ClusterID is that of the data that count, where there are several; empty if it was not said.
	ClusterID string `json:"clusterID,omitempty"`
	// AcceptLoss allows a copy that lacks writes that another one has.
	AcceptLoss bool `json:"acceptLoss,omitempty"`
}

// LostQuorum is what is known of an etcd that may have lost its quorum, in addition to what is always observed.
type LostQuorum struct {
	// Remains are by the name of the host. A host that could not be reached has no entry.
	Remains map[string]EtcdRemains `json:"remains"`
	// Decision is what was decided so far; nil for nothing.
	Decision *EtcdDecision `json:"decision,omitempty"`
}
