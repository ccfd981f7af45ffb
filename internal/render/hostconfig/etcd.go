package hostconfig

import (
	"fmt"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Places on a host with an external etcd member that other packages speak to.
const (
	// EtcdUnit is the systemd unit of the member.
	EtcdUnit = "etcd.service"
	// EtcdMembersFile tells the member, at its first start, who the others are. Without it the unit waits.
	EtcdMembersFile = "/etc/etcd/members.env"
	// EtcdReady answers 200 while the member can read through a leader.
	EtcdReady = "http://127.0.0.1:2381/readyz"

	etcdDataDir = "/var/lib/etcd"
	etcdQuota   = 8 << 30
)

// EtcdEndpoints are the client URLs of an external etcd, as its API servers use them.
func EtcdEndpoints(c *spec.Cluster) []string {
	if c.ExistingEtcd() {
		return c.Spec.Etcd.Endpoints
	}
	var out []string
	for _, h := range c.EtcdHosts() {
		out = append(out, "https://"+h.Address+":2379")
	}
	return out
}

// SharedPKI are the files that control planes of the cluster have in common. With external etcd its authority is
// not theirs.
func SharedPKI(c *spec.Cluster) []string {
	if c.StackedEtcd() {
		return append(append([]string{}, facts.SharedPKI...), facts.EtcdPKI...)
	}
	return facts.SharedPKI
}

// Etcd is the member on an etcd host, as systemd runs it. Files never restart it: all members would stop at once.
func Etcd(h spec.Host, f *facts.Facts) facts.Desired {
	d := facts.Desired{Files: []facts.File{
		{Path: "/etc/etcd/etcd.env", Content: etcdEnvironment(h)},
		{Path: "/etc/systemd/system/" + EtcdUnit, Content: etcdUnit},
	}}
	if f.Kubernetes.EtcdData {
		// The first start is a step of its own, that knows the members; from then on the unit has to run.
		d.Enable = []string{EtcdUnit}
	}
	return d
}

// EtcdMembers is the content of EtcdMembersFile for a cluster that begins with these members.
func EtcdMembers(c *spec.Cluster) string {
	var members []string
	for _, h := range c.EtcdHosts() {
		members = append(members, fmt.Sprintf("%s=https://%s:2380", h.Name, h.Address))
	}
	return fmt.Sprintf(`# Written by quorate for the first start of this member; etcd ignores it where data exists.
ETCD_INITIAL_CLUSTER=%s
ETCD_INITIAL_CLUSTER_STATE=new
ETCD_INITIAL_CLUSTER_TOKEN=%s
`, strings.Join(members, ","), c.Metadata.Name)
}

// etcdEnvironment is what kubeadm gives a stacked member, with room for more than the default 2 GiB: a full
// database refuses every write. Old revisions are compacted by the API servers, as in every kubeadm cluster.
func etcdEnvironment(h spec.Host) string {
	const pki = "/etc/kubernetes/pki/etcd/"
	return fmt.Sprintf(`# Written by quorate. Changes are undone by the next quorate apply.
ETCD_NAME=%[1]s
ETCD_DATA_DIR=`+etcdDataDir+`
ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379,https://%[2]s:2379
ETCD_ADVERTISE_CLIENT_URLS=https://%[2]s:2379
ETCD_LISTEN_PEER_URLS=https://%[2]s:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=https://%[2]s:2380
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
`, h.Name, h.Address, pki, etcdQuota)
}

const etcdUnit = `[Unit]
Description=etcd member of a Kubernetes cluster
Documentation=https://etcd.io/docs/
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0
ConditionPathExists=` + EtcdMembersFile + `
# Once the cluster was complete, a data directory without data is a loss to repair, never a cluster to begin.
AssertPathExists=|!` + facts.EstablishedFile + `
AssertPathExists=|` + etcdDataDir + `/member/wal

[Service]
EnvironmentFile=/etc/etcd/etcd.env
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
