package hostconfig

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Paths and names on a host with an external etcd member that other packages use.
const (
	// EtcdUnit is the systemd unit of the member.
	EtcdUnit = "etcd.service"
	// EtcdMembersFile lists the other members for the first start. Without it, the unit waits.
	EtcdMembersFile = "/etc/etcd/members.env"
	// EtcdEnvFile is the rest of the member's configuration.
	EtcdEnvFile = "/etc/etcd/etcd.env"
	// EtcdReady answers 200 while the member can read through a leader.
	EtcdReady = "http://127.0.0.1:2381/readyz"
	// EtcdMetrics is where the member exposes its metrics to its own host.
	EtcdMetrics = "http://127.0.0.1:2381/metrics"
	// EtcdDataDir holds a member's data, and EtcdWAL is the part of it that exists once the member has started.
	EtcdDataDir = "/var/lib/etcd"
	EtcdWAL     = EtcdDataDir + "/member/wal"
	// EtcdQuota is the size in bytes at which a member stops accepting writes. etcd's default of 2 GiB is less than busy
	// clusters need, and a full database refuses every write. Old revisions are compacted by the API servers.
	EtcdQuota = 8 << 30
)

// PatchesDir holds kubeadm's patches of static pods on a control plane: kubeadm init, join and upgrade take it with --patches.
const PatchesDir = "/etc/kubernetes/patches"

// Paths on a control plane with a stacked etcd member.
const (
	// EtcdManifest is the static pod of the member.
	EtcdManifest = "/etc/kubernetes/manifests/etcd.yaml"
	// EtcdGuard is a link that leads to EtcdWAL once the cluster was complete, and to EtcdGuardOpen before. The static pod
	// mounts it as a directory that must exist, and the kubelet does not start while it leads nowhere: a member whose data
	// is not there never starts empty.
	EtcdGuard     = facts.EtcdGuardDir + "/guard"
	EtcdGuardOpen = facts.EtcdGuardDir + "/open"

	etcdPatchFile    = PatchesDir + "/etcdquorate+strategic.yaml"
	kubeletGuardFile = "/etc/systemd/system/kubelet.service.d/30-quorate-etcd.conf"
)

// EtcdToken distinguishes the etcd of one cluster from every other one, even from one with the same name and members. It
// consists of the cluster's name and the SHA-256 of a CA certificate (PEM): the cluster's own CA where etcd is stacked, etcd's
// where it is external. Members with different tokens refuse each other.
//
// restore identifies the restore that the etcd begins with, and is empty for one that begins without data: members that were restored
// from different backups, or by two restores of one, refuse each other, and so do one that was restored and one that was not.
func EtcdToken(cluster, ca, restore string) (string, error) {
	block, _ := pem.Decode([]byte(ca))
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("etcd's cluster token: there is no CA certificate to make it of")
	}
	sum := sha256.Sum256(block.Bytes)
	token := cluster + "-" + hex.EncodeToString(sum[:8])
	if restore != "" {
		token += "-" + restore
	}
	return token, nil
}

// EtcdEndpoints are the client URLs of an external etcd, as its API servers use them.
func EtcdEndpoints(c *spec.Cluster) []string {
	if c.ExistingEtcd() {
		return c.Spec.Etcd.Endpoints
	}
	var out []string
	for _, h := range c.EtcdHosts() {
		out = append(out, EtcdClientURL(h))
	}
	return out
}

// EtcdClientURL is where clients reach the member of an external etcd on a host.
func EtcdClientURL(h spec.Host) string { return spec.ClientURL(h.Address) }

// SharedPKI are the files that the control planes of the cluster share. The CA of an external etcd is not among them.
func SharedPKI(c *spec.Cluster) []string {
	if c.StackedEtcd() {
		return append(append([]string{}, facts.SharedPKI...), facts.EtcdPKI...)
	}
	return facts.SharedPKI
}

// Etcd is the member on an etcd host, as systemd runs it. Changed files never restart it, because all members would stop at
// the same time. A member begins with the timers; one that exists keeps those of its file, because other ones have to come to all
// members in an order (see package plan).
func Etcd(h spec.Host, f *facts.Facts, begin facts.EtcdTimers) facts.Desired {
	if k := f.Kubernetes; k.EtcdData && k.EtcdTimers != nil {
		begin = *k.EtcdTimers
	}
	d := facts.Desired{Files: []facts.File{
		EtcdEnvironment(h, begin),
		{Path: "/etc/systemd/system/" + EtcdUnit, Mode: 0o600, Content: etcdUnit},
	}}
	if f.Kubernetes.EtcdData {
		// The first start is a separate step, which knows the members. From then on, the unit has to run.
		d.Enable = []string{EtcdUnit}
	}
	return d
}

// EtcdCluster is what an etcd cluster is started with.
type EtcdCluster struct {
	Members []string `json:"members"` // each as name=peerURL
	Token   string   `json:"token"`
	// Exists says that the member joins a cluster that exists, and was added to it before.
	Exists bool `json:"exists,omitempty"`
}

// EtcdLoopbacks are where clients on the same host may reach a stacked member. kubeadm lets it listen on one of them, that of the family
// of its address.
var EtcdLoopbacks = []string{"127.0.0.1:2379", "[::1]:2379"}

// EtcdLoopback is the one of EtcdLoopbacks that is in use.
func EtcdLoopback(used func(address string) bool) string {
	if !used(EtcdLoopbacks[0]) && used(EtcdLoopbacks[1]) {
		return EtcdLoopbacks[1]
	}
	return EtcdLoopbacks[0]
}

// EtcdMember is a member of an EtcdCluster.
func EtcdMember(name, address string) string {
	return name + "=" + spec.PeerURL(address)
}

// ExternalEtcd is the external etcd of the cluster at its first start.
func ExternalEtcd(c *spec.Cluster, token string) EtcdCluster {
	e := EtcdCluster{Token: token}
	for _, h := range c.EtcdHosts() {
		e.Members = append(e.Members, EtcdMember(h.Name, h.Address))
	}
	return e
}

// Equal reports whether members that are started with either would form one cluster.
func (e EtcdCluster) Equal(o EtcdCluster) bool {
	return e.Token == o.Token && slices.Equal(slices.Sorted(slices.Values(e.Members)), slices.Sorted(slices.Values(o.Members)))
}

func (e EtcdCluster) String() string {
	return fmt.Sprintf("%s (token %q)", strings.Join(slices.Sorted(slices.Values(e.Members)), ", "), e.Token)
}

// Environment is the content of EtcdMembersFile.
func (e EtcdCluster) Environment() string {
	state := "new"
	if e.Exists {
		state = "existing"
	}
	return fmt.Sprintf(`# Written by quorate for the first start of this member; etcd ignores it where data exists.
ETCD_INITIAL_CLUSTER=%s
ETCD_INITIAL_CLUSTER_STATE=%s
ETCD_INITIAL_CLUSTER_TOKEN=%s
`, strings.Join(e.Members, ","), state, e.Token)
}

// EtcdEnvironment is the configuration that kubeadm gives a stacked member, with a larger quota, and with timers.
func EtcdEnvironment(h spec.Host, timers facts.EtcdTimers) facts.File {
	const pki = "/etc/kubernetes/pki/etcd/"
	content := fmt.Sprintf(`# Written by quorate. Changes are undone by the next quorate apply.
ETCD_NAME=%[1]s
ETCD_DATA_DIR=`+EtcdDataDir+`
ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379,%[2]s
ETCD_ADVERTISE_CLIENT_URLS=%[2]s
ETCD_LISTEN_PEER_URLS=%[5]s
ETCD_INITIAL_ADVERTISE_PEER_URLS=%[5]s
ETCD_LISTEN_METRICS_URLS=http://127.0.0.1:2381
ETCD_CERT_FILE=%[3]sserver.crt
ETCD_KEY_FILE=%[3]sserver.key
ETCD_TRUSTED_CA_FILE=%[3]sca.crt
ETCD_CLIENT_CERT_AUTH=true
ETCD_PEER_CERT_FILE=%[3]speer.crt
ETCD_PEER_KEY_FILE=%[3]speer.key
ETCD_PEER_TRUSTED_CA_FILE=%[3]sca.crt
ETCD_PEER_CLIENT_CERT_AUTH=true
ETCD_TLS_MIN_VERSION=TLS1.2
ETCD_QUOTA_BACKEND_BYTES=%[4]d
ETCD_SNAPSHOT_COUNT=10000
ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL=5s
ETCD_FEATURE_GATES=InitialCorruptCheck=true
`, h.Name, spec.ClientURL(h.Address), pki, EtcdQuota, spec.PeerURL(h.Address))
	for _, timer := range []struct {
		name         string
		milliseconds int
	}{{EtcdHeartbeatVariable, timers.Heartbeat}, {EtcdElectionVariable, timers.Election}} {
		if timer.milliseconds != 0 {
			content += fmt.Sprintf("%s=%d\n", timer.name, timer.milliseconds)
		}
	}
	return facts.File{Path: EtcdEnvFile, Mode: 0o600, Content: content}
}

const etcdUnit = `[Unit]
Description=etcd member of a Kubernetes cluster
Documentation=https://etcd.io/docs/
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0
ConditionPathExists=` + EtcdMembersFile + `
RequiresMountsFor=` + EtcdDataDir + `

[Service]
# Once the cluster was complete, a missing data directory is lost data to repair, not the start of a new cluster. systemd
# tries again every second, because a disk may be mounted late.
ExecStartPre=/bin/sh -c 'if [ -e ` + facts.EstablishedFile + ` ] && [ ! -d ` + EtcdWAL + ` ]; then echo "The data of this etcd member is missing: there is no ` + EtcdWAL + `. It does not start without it." >&2; exit 1; fi'
EnvironmentFile=` + EtcdEnvFile + `
EnvironmentFile=` + EtcdMembersFile + `
ExecStart=/usr/local/bin/etcd
Restart=always
RestartSec=1
LimitNOFILE=65536
OOMScoreAdjust=-998
StateDirectory=etcd
StateDirectoryMode=0700
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes

[Install]
WantedBy=multi-user.target
`

// etcdGuard keeps a stacked member from starting without its data. The kubelet's part works when the host starts, no matter who
// wrote the static pod. The pod's part also works when the container restarts while the kubelet runs.
func etcdGuard() []facts.File {
	return []facts.File{
		{Path: kubeletGuardFile, Mode: 0o600, Content: kubeletGuard},
		{Path: etcdPatchFile, Mode: 0o600, Content: etcdPatch},
	}
}

const kubeletGuard = `# If the data of this host's etcd member is missing (a disk that is mounted late or not at all, or lost data), the kubelet would
# start the member with an empty directory. So it does not start, and systemd tries again. Without the member, this host has no
# API server that the kubelet could use.
[Unit]
RequiresMountsFor=` + EtcdDataDir + `

[Service]
ExecStartPre=/bin/sh -c 'if [ -L ` + EtcdGuard + ` ] && [ ! -d ` + EtcdGuard + ` ]; then echo "The data of the etcd member on this host is missing: there is no $$(readlink ` + EtcdGuard + `). The kubelet does not start, so that the member does not start empty." >&2; exit 1; fi'
`

const etcdPatch = `# The container of etcd starts only if this link leads to a directory. Once the cluster was complete, that is the member's data.
spec:
  containers:
  - name: etcd
    volumeMounts:
    - {name: quorate-guard, mountPath: ` + EtcdGuard + `, readOnly: true}
  volumes:
  - name: quorate-guard
    hostPath: {path: ` + EtcdGuard + `, type: Directory}
`
