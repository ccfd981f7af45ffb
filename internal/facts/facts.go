// Package facts contains the types with which hosts describe themselves and with which their desired state is described. It is
// data only, shared by the packages that observe, plan and apply.
package facts

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Request says what a plan needs to know in addition to the fixed facts.
type Request struct {
	// Files are keys as of File.Key.
	Files []string `json:"files,omitempty"`
	Units []string `json:"units,omitempty"`
	// SharedPKI are the files below /etc/kubernetes/pki that all control planes share.
	SharedPKI []string `json:"sharedPKI,omitempty"`
	// Programs are names to look for in the usual folders.
	Programs []string `json:"programs,omitempty"`
	// Sysctls are kernel settings by name, and Modules are kernel modules.
	Sysctls []string `json:"sysctls,omitempty"`
	Modules []string `json:"modules,omitempty"`
}

// Parts of the facts that can be unknown while the others are known, in Facts.Unknown. A file that exists and cannot be
// read is a part of its own, under its File.Key.
const (
	UnitsPart  = "units"  // Units and Enabled
	ImagesPart = "images" // ImageProblems
)

// Facts is what a host reports about itself at one moment.
type Facts struct {
	Hostname  string `json:"hostname"`
	MachineID string `json:"machineID"`
	// BootID changes each time that the host starts.
	BootID string `json:"bootID,omitempty"`
	OS     string `json:"os"` // PRETTY_NAME of os-release
	// Family is what the system descends from, and with it which package manager it has.
	Family Family `json:"family,omitempty"`
	// Container is what kind of container the host is, in systemd's words; empty for a machine with a kernel of its own.
	Container string    `json:"container,omitempty"`
	Kernel    string    `json:"kernel"`
	Arch      string    `json:"arch"`
	Time      time.Time `json:"time"`
	CPUs      int       `json:"cpus"`

	MemoryBytes   int64 `json:"memoryBytes"`
	SwapBytes     int64 `json:"swapBytes"`
	DiskFreeBytes int64 `json:"diskFreeBytes"` // of the file system that holds /var/lib
	// DiskBytes is the size of that file system; 0 if nobody could tell.
	DiskBytes int64 `json:"diskBytes,omitempty"`
	// Disks are the file systems below /var/lib that are mounted on a directory of a component, by that directory.
	Disks map[string]Disk `json:"disks,omitempty"`
	// ProgramsDisk is the file system on which bundles are unpacked (ProgramsDir); nil if that is the one that holds /var/lib.
	ProgramsDisk *Disk `json:"programsDisk,omitempty"`

	CgroupV2 bool `json:"cgroupV2"`
	// CanLowerOOMScore is false where CAP_SYS_RESOURCE is missing, as in a nested container.
	CanLowerOOMScore bool `json:"canLowerOOMScore"`
	// CanSetConntrack is false where kube-proxy may not size the connection tracking table.
	CanSetConntrack bool `json:"canSetConntrack"`

	Addresses []Address `json:"addresses"`

	Files map[string]string `json:"files,omitempty"` // File.Key → SHA-256; a file that is not there has no entry
	Modes map[string]Mode   `json:"modes,omitempty"` // path → mode and owner of the same files
	Units map[string]string `json:"units,omitempty"` // unit → systemd's ActiveState
	// Enabled maps units to systemd's UnitFileState: whether they start when the host does. A unit that does not exist has
	// no entry.
	Enabled map[string]string `json:"enabled,omitempty"`
	// Sysctls are the values of kernel settings now. One that the kernel does not have has no entry.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Modules says which of the requested kernel modules are in use or built in.
	Modules map[string]Feature `json:"modules,omitempty"`
	// Registries are the files that Quorate wrote for containerd's registries, by path.
	Registries []string `json:"registries,omitempty"`

	// Unknown maps parts of the facts that could not be read to the reason. Such a part is empty, and nothing may be
	// inferred from that.
	Unknown map[string]string `json:"unknown,omitempty"`

	// Lacks are those of the requested programs that are not installed.
	Lacks []string `json:"lacks,omitempty"`

	// Self says of the copy of quorate that units use (see Desired) how it compares with the one that read these facts.
	Self Copy `json:"self,omitempty"`

	// Pending are units that may run with older files than the host has, because a step ended before it restarted them.
	Pending []string `json:"pending,omitempty"`

	// Bundles are the digests of the bundles whose programs are unpacked on the host and intact.
	Bundles []string `json:"bundles,omitempty"`
	// Remains are the digests of bundles of which something is on the host although they are not among Bundles: an installation
	// that was interrupted, or blobs that nothing uses.
	Remains []string `json:"remains,omitempty"`
	// Unused is how many bytes the bundles have on the host from which no program runs there and whose images containerd does not have, by
	// digest. For the empty digest, it is blobs that no bundle needs.
	Unused map[string]int64 `json:"unused,omitempty"`
	// BundleDamage says of bundles that the host uses, by digest, why its own copy cannot be opened. The programs may be intact; but nobody knows which
	// blobs are needed, and none is removed.
	BundleDamage map[string]string `json:"bundleDamage,omitempty"`
	// Kept is what Quorate keeps on the host and no repair removes now.
	Kept []Kept `json:"kept,omitempty"`
	// Programs maps each program (see ProgramOf) to the digest of the bundle that it runs from when it is started next. A
	// program that is not intact, or not in its place, maps to "", and ProgramProblems says why.
	Programs map[string]string `json:"programs,omitempty"`
	// ProgramProblems is what is wrong with programs and unpacked bundles, in words.
	ProgramProblems []string `json:"programProblems,omitempty"`
	// Binaries is the digest of the bundle that all programs run from, and Images of the one whose images containerd has.
	Binaries string `json:"binaries,omitempty"`
	Images   string `json:"images,omitempty"`
	// ImageProblems are those of these images that are missing, or whose blobs were written since they were last compared
	// with their digests, in words.
	ImageProblems []string `json:"imageProblems,omitempty"`

	// Snapshots are the snapshots of etcd that Quorate saved here before it changed the cluster's version, by the names of their files:
	// the oldest first.
	Snapshots []string `json:"snapshots,omitempty"`

	// Watch is what the host has for the units that repair.
	Watch *Watch `json:"watch,omitempty"`
	// Tried are the repairs that were made on this host, where one problem has several remedies: whether they helped or not.
	Tried []Tried `json:"tried,omitempty"`

	Kubernetes Kubernetes `json:"kubernetes"`
}

// Kept is a directory with what a restore, a recovery of the quorum, or a repair kept on a host.
type Kept struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

// Tried is a repair that was made on a host.
type Tried struct {
	Repair string `json:"repair"`
	How    string `json:"how"`
	// AgoSeconds is how long ago it last ended, by the clock of the host.
	AgoSeconds int64 `json:"agoSeconds"`
}

// TriedWithin says that a repair was made on the host, in this way, within a time.
func (f *Facts) TriedWithin(repair, how string, d time.Duration) bool {
	return slices.ContainsFunc(f.Tried, func(t Tried) bool {
		return t.Repair == repair && t.How == how && time.Duration(t.AgoSeconds)*time.Second < d
	})
}

// Copy says how a copy of the quorate binary compares with the one that runs. It is empty if nobody looked.
type Copy string

// What a copy can be.
const (
	SameCopy    Copy = "same"    // of the same build and size
	OtherCopy   Copy = "other"   // of another build, or not an executable file
	MissingCopy Copy = "missing" // not there
)

// Disk is a file system.
type Disk struct {
	FreeBytes  int64   `json:"freeBytes"`
	SizeBytes  int64   `json:"sizeBytes"`
	InodesFree float64 `json:"inodesFree"` // the part of all inodes that is free, 1 for a file system that has no fixed number
}

// Address is one unicast address of a host.
type Address struct {
	IP        string `json:"ip"`
	Prefix    int    `json:"prefix"` // bits
	Interface string `json:"interface"`
	MAC       string `json:"mac,omitempty"` // of the interface
	// Duplicate says that the kernel does not use the address, because it has found another machine that has it. Only IPv6 has that; the kernel never looks again.
	Duplicate bool `json:"duplicate,omitempty"`
	// Tentative says that the kernel does not use the address yet: it still looks whether another machine has it, or cannot look, because the interface is down.
	Tentative bool `json:"tentative,omitempty"`
}

// Unusable says why no program can use the address; empty if programs can.
func (a Address) Unusable() string {
	switch {
	case a.Duplicate:
		return "another machine in the network has it, too (dadfailed)"
	case a.Tentative:
		return "the kernel has not found out yet whether another machine has it, too (tentative)"
	}
	return ""
}

// FixUnusable is what to do about an address that is not usable, on its interface.
func (a Address) FixUnusable() string {
	if a.Duplicate {
		return fmt.Sprintf("Find that machine: `ip -6 neigh show dev %s` and `ndisc6 %s %s` name its hardware address. Give one of the two another address. Then remove the address from the interface and add it again, or restart the host: the kernel does not look again by itself.", a.Interface, a.IP, a.Interface)
	}
	return fmt.Sprintf("It takes a second or two. If it lasts, check that %s is up and has a link (`ip link show %[1]s`).", a.Interface)
}

// SysctlFile is the file of a kernel setting. A slash in a name stands for a dot, as in the names of interfaces: see sysctl.d(5).
func SysctlFile(name string) string { return sysctls + exchanged(name) }

// SysctlName is the name of the kernel setting of a file.
func SysctlName(file string) string { return exchanged(strings.TrimPrefix(file, sysctls)) }

const sysctls = "/proc/sys/"

// InOrder are the names of kernel settings in the order in which they are set. When a host begins to forward packets of IPv6, the kernel
// removes the default route that came from router advertisements, unless accept_ra of its interface is 2 already.
func InOrder(values map[string]string) []string {
	forwards := func(name string) int {
		if strings.HasSuffix(name, ".forwarding") {
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(values), func(a, b string) int {
		return cmp.Or(forwards(a)-forwards(b), strings.Compare(a, b))
	})
}

func exchanged(name string) string { return strings.NewReplacer(".", "/", "/", ".").Replace(name) }

// Interface finds the network interface that has the address.
func (f Facts) Interface(ip string) (Address, bool) {
	for _, a := range f.Addresses {
		if a.IP == ip {
			return a, true
		}
	}
	return Address{}, false
}

// OnLink reports whether an address lies in the network of the interface that has ip, so that the host can take it over. It is
// false for a host that does not have ip.
func (f Facts) OnLink(ip, address string) bool {
	at, ok := f.Interface(ip)
	if !ok {
		return false
	}
	own, err := netip.ParseAddr(at.IP)
	if err != nil {
		return false
	}
	network, err := own.Prefix(at.Prefix)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(address)
	return err == nil && network.Contains(a)
}

// Within are the host's addresses in a range.
func (f Facts) Within(cidr netip.Prefix) (out []Address) {
	for _, a := range f.Addresses {
		if ip, err := netip.ParseAddr(a.IP); err == nil && cidr.Contains(ip) {
			out = append(out, a)
		}
	}
	return out
}

// InNetworkOf is that of the host's own addresses in whose network an address lies; if it lies in several, the one with the smallest network. If it lies in none,
// it is the last one that is given.
func (f Facts) InNetworkOf(address string, own ...string) (best string) {
	longest := -1
	for _, o := range own {
		if at, ok := f.Interface(o); ok && at.Prefix > longest && f.OnLink(o, address) {
			best, longest = o, at.Prefix
		}
	}
	if longest < 0 && len(own) > 0 {
		best = own[len(own)-1]
	}
	return best
}

// LostFor is one of the host's own addresses that no interface has, if it may be the one in whose network an address lies: none of those that interfaces have is. It is empty
// if there is none.
func (f Facts) LostFor(address string, own ...string) string {
	if f.OnLink(f.InNetworkOf(address, own...), address) {
		return ""
	}
	for _, o := range own {
		if _, has := f.Interface(o); !has {
			return o
		}
	}
	return ""
}

// Kubernetes is the part of a cluster that is on a host.
type Kubernetes struct {
	// CA is the cluster's CA certificate, as of CertificatesIn.
	CA string `json:"ca,omitempty"`
	// SharedPKI reports whether every file of the request's SharedPKI is there, and MissingPKI names those that are not. The
	// private key of an authority may be kept elsewhere on purpose.
	SharedPKI  bool     `json:"sharedPKI"`
	MissingPKI []string `json:"missingPKI,omitempty"`
	// KubeletConfig reports whether the kubelet has its configuration and its identity, a client certificate that exists: the
	// host was initialized or joined. A kubelet whose join was interrupted has a kubeconfig without the certificate.
	KubeletConfig bool `json:"kubeletConfig"`
	// KubeletAway says that a control plane's kubelet uses the endpoint and not the local API server, as it does while that
	// does not serve yet.
	KubeletAway bool `json:"kubeletAway,omitempty"`
	// Manifests are the static pods by file name without .yaml.
	Manifests []string `json:"manifests,omitempty"`
	// Withdrawn are the static pods whose manifests were set aside for a maintenance of the host.
	Withdrawn []string `json:"withdrawn,omitempty"`
	// Maintenance is what the host itself notes of its maintenance; nil if it is in none. What the API has counts (see API.Maintenance). The
	// note is for whoever repairs while the API cannot be read.
	Maintenance *Maintenance `json:"maintenance,omitempty"`
	// PodImages are the images of these static pods, by the pod's name: what the kubelet runs, or is about to run.
	PodImages map[string]string `json:"podImages,omitempty"`
	// SharesPort reports whether kube-apiserver lets HAProxy listen on its port beside it.
	SharesPort bool `json:"sharesPort,omitempty"`
	// ProbesEtcd says that the kubelet restarts kube-apiserver while etcd does not answer: its liveness or its startup probe is kubeadm's, and
	// neither is somebody else's.
	ProbesEtcd bool `json:"probesEtcd,omitempty"`
	// Flags are those arguments of the control plane's static pods that a plan has something to say about, as
	// pod/flag; a flag that is not set has no entry.
	Flags map[string]string `json:"flags,omitempty"`
	// Arguments are all arguments of these static pods, by pod and argument. Of one that is given several times, it is the last.
	Arguments map[string]map[string]string `json:"arguments,omitempty"`
	// Issuers are all issuers of tokens of service accounts that the API server accepts. It signs as the first.
	Issuers []string `json:"issuers,omitempty"`
	// Kubelet are the fields of the kubelet's configuration file.
	Kubelet map[string]any `json:"kubelet,omitempty"`
	// KubeletDue says that this file, or the endpoint that the kubelet uses, was changed, and the kubelet did not restart since.
	KubeletDue bool `json:"kubeletDue,omitempty"`
	// Servers are the API servers that the kubeconfigs below /etc/kubernetes name, by file.
	Servers map[string]string `json:"servers,omitempty"`
	// ServingNames are the names and addresses for which the API server's certificate is valid.
	ServingNames []string `json:"servingNames,omitempty"`
	// SuperAdmin says that super-admin.conf is here, whose permissions no role can restrict. kubeadm leaves it on the control
	// plane that initialized the cluster.
	SuperAdmin bool `json:"superAdmin,omitempty"`
	// NodeName is the name of the host's kubelet in the API, according to its certificate.
	NodeName string `json:"nodeName,omitempty"`
	// EncryptionKeys names the keys for secrets at rest, the one that encrypts first.
	EncryptionKeys []string `json:"encryptionKeys,omitempty"`
	// EtcdData reports whether an etcd member has ever started here.
	EtcdData bool `json:"etcdData"`
	// EtcdInitial are the members that the etcd on this host was started with, each as name=peerURL, from its static pod or
	// its environment file; EtcdToken is the token of that cluster. Both are empty if etcd was never started.
	EtcdInitial []string `json:"etcdInitial,omitempty"`
	EtcdToken   string   `json:"etcdToken,omitempty"`
	// EtcdTimers are those that the member's static pod or environment file sets; nil if there is neither. EtcdRuns are those with which the
	// member of an external etcd was started; nil if it does not run.
	EtcdTimers *EtcdTimers `json:"etcdTimers,omitempty"`
	EtcdRuns   *EtcdTimers `json:"etcdRuns,omitempty"`
	// EtcdAbandoned are the IDs of etcd clusters, in hexadecimal, that a recovery of the quorum has replaced, as far as this host was told.
	// Their members vote no longer, wherever they come back.
	EtcdAbandoned []string `json:"etcdAbandoned,omitempty"`
	// EtcdGuard says that the guard is armed which keeps a stacked etcd member from starting here without its data, and
	// EtcdPodGuard that the member's static pod has its part of it: a manifest that kubeadm upgrade wrote without --patches
	// has not.
	EtcdGuard    bool `json:"etcdGuard,omitempty"`
	EtcdPodGuard bool `json:"etcdPodGuard,omitempty"`
	// Removable is how many bytes of what Quorate put on this host are not needed: older snapshots of etcd, older data of former members,
	// binaries of quorate that nothing uses, what killed uploads and writers left, blobs that no bundle needs.
	Removable int64 `json:"removable,omitempty"`
	// EtcdFailure is why the member on this host ended when it last ran; nil while it listens, and if nobody can tell.
	EtcdFailure *EtcdFailure `json:"etcdFailure,omitempty"`
	// EtcdCA is the certificate of etcd's authority in PEM; EtcdCAKey says whether its key is here too.
	EtcdCA    string `json:"etcdCA,omitempty"`
	EtcdCAKey bool   `json:"etcdCAKey,omitempty"`
	// EtcdClient is the SHA-256 of the API servers' client certificate for etcd, when its key is here too.
	EtcdClient string `json:"etcdClient,omitempty"`
	// Established says that this host's cluster was once complete: from then on, an empty data directory is lost data, not a
	// new member.
	Established bool `json:"established"`
	// Begun says that Quorate started to build on this host, and Adopted that the host was set up without Quorate and then
	// adopted.
	Begun   bool `json:"begun,omitempty"`
	Adopted bool `json:"adopted,omitempty"`
	// Resetting says that a reset of the host began and did not end.
	Resetting bool `json:"resetting,omitempty"`
	// Restore is the backup that the host's cluster was restored from; nil if it was not restored.
	Restore *Restore `json:"restore,omitempty"`
	// Clusters are the names that Quorate's marks on this host hold: more than one, or another than the spec's, is a mistake.
	Clusters     []string      `json:"clusters,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// Trust is what the host has of the authorities that can be replaced.
	Trust map[Authority]Trust `json:"trust,omitempty"`
}

// Restore is the mark that a restore leaves on control planes and etcd hosts before it changes anything else there.
type Restore struct {
	// Cluster is the name of the cluster that is restored.
	Cluster string `json:"cluster"`
	// Backup identifies the backup (see backup.Manifest.ID), and File is what it was called.
	Backup string    `json:"backup"`
	File   string    `json:"file"`
	Taken  time.Time `json:"taken"`
	// EtcdCluster is the ID of etcd in the backup, in hexadecimal.
	EtcdCluster string `json:"etcdCluster,omitempty"`
	// Revision is that of etcd in the backup, and Bump is by how much it is raised: by the same on all hosts, and in all runs.
	Revision int64 `json:"revision"`
	Bump     int64 `json:"bump"`
	// Nonce tells this restore from every other one of the same backup. It is the same on all hosts, and in all runs; empty in the marks of versions without it.
	Nonce string `json:"nonce,omitempty"`
	// Data says that it is no backup but the data of a member, and File says where they are. Taken is then when they were written to for the last
	// time. NewKeys says that no key of their cluster is left.
	Data    bool `json:"data,omitempty"`
	NewKeys bool `json:"newKeys,omitempty"`
	// Complete says that the restore ended. Until then, only the same restore may go on.
	Complete bool `json:"complete,omitempty"`
}

// Kind is what is restored: a backup, or data.
func (r Restore) Kind() string {
	if r.Data {
		return "data"
	}
	return "backup"
}

// EtcdFailure is how an etcd member ended.
type EtcdFailure struct {
	// Cause says what that means for the member's data.
	Cause EtcdCause `json:"cause"`
	// Said is what the member said, shortened.
	Said string `json:"said"`
}

// EtcdCause is the cause of an EtcdFailure.
type EtcdCause string

// What keeps a member from running, as far as its own words tell.
const (
	// EtcdDamaged is data that cannot be read, or that differs from that of the other members.
	EtcdDamaged EtcdCause = "damaged"
	// EtcdForgot is data that is older than what the member has acknowledged: part of its log is gone, or it was replaced by an
	// older copy. Such a member may have voted, and does not know it.
	EtcdForgot EtcdCause = "forgot"
	// EtcdRemoved is a member that etcd does not have any more.
	EtcdRemoved EtcdCause = "removed"
	// EtcdDiskFull is a disk without space.
	EtcdDiskFull EtcdCause = "disk-full"
)

// EstablishedFile marks a host whose cluster was complete once.
const EstablishedFile = "/var/lib/quorate/established"

// FoundFile says how the host was before Quorate changed it. ResettingFile exists on a host from the beginning of a reset to its
// end.
const (
	FoundFile     = "/var/lib/quorate/found.json"
	ResettingFile = "/var/lib/quorate/resetting"
)

// DrillDir is where the clients of a drill that run in the pods of a host find what they are told, and log what they experience.
const DrillDir = "/var/lib/quorate/drill"

// KubeletRestartDue exists while a kubelet may still run with another API server than its kubeconfig names.
const KubeletRestartDue = "/run/quorate/kubelet-restart-due"

// KubeletSettingsDue exists from the change of a kubelet's configuration file, or of the endpoint that it uses, until the kubelet has
// restarted. It is gone when
// the host has restarted, and the kubelet with it.
const KubeletSettingsDue = "/run/quorate/kubelet-settings-due"

// Marks below kubeadm's own directory, so that only kubeadm reset removes them.
const (
	// BegunFile is written before Quorate's kubeadm runs for the first time on a host.
	BegunFile = "/etc/kubernetes/pki/begun-by-quorate"
	// AdoptedFile is written on a host that was set up without Quorate when its cluster is adopted.
	AdoptedFile = "/etc/kubernetes/pki/adopted-by-quorate"
)

// Files below /etc/kubernetes/pki.
var (
	// SharedPKI is what all control planes have in common, beside EtcdPKI where etcd is stacked.
	SharedPKI = []string{"ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key", "sa.pub", "encryption.yaml"}
	// EtcdPKI is what all hosts with an etcd member have in common.
	EtcdPKI = []string{"etcd/ca.crt", "etcd/ca.key"}
	// EtcdClientPKI is with what an API server comes to etcd.
	EtcdClientPKI = []string{"apiserver-etcd-client.crt", "apiserver-etcd-client.key"}
)

// AllContainers reports whether there are hosts and each is a container: what limits the machine below is then not theirs.
func AllContainers(hosts []*Facts) bool {
	return len(hosts) > 0 && !slices.ContainsFunc(hosts, func(f *Facts) bool { return f == nil || f.Container == "" })
}
