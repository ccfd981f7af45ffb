package hostconfig

import (
	"fmt"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Paths on a control plane that its API server and kubeadm's configuration refer to.
const (
	// APIServerDir holds the configuration files of all API servers, none of them secret.
	APIServerDir = "/etc/kubernetes/apiserver"
	// AuditPolicyFile says what the audit log records.
	AuditPolicyFile = APIServerDir + "/audit-policy.yaml"
	// AuthenticationFile says which requests are allowed without credentials.
	AuthenticationFile = APIServerDir + "/authentication.yaml"
	// AuditLogDir is accessible only to root.
	AuditLogDir = "/var/log/kubernetes/audit"
	// AuditLog is the current file; rotated files are next to it.
	AuditLog = AuditLogDir + "/audit.log"
	// NodesFile tells the approver which names and addresses belong to the cluster's nodes.
	NodesFile = "/var/lib/quorate/nodes"
	// ApproverTimer is the systemd unit that starts the approver.
	ApproverTimer = "quorate-approver.timer"
	// LeasesUnit is the systemd unit that gives back the leases of controller managers and schedulers that have ended.
	LeasesUnit = "quorate-leases.service"

	// ApproverService is the unit that it starts. It also renews the credentials of the approver, and of the exporter of metrics.
	ApproverService = "quorate-approver.service"
)

// CipherSuites are those of TLS 1.2 with forward secrecy and authenticated encryption. The suites of TLS 1.3 cannot be
// configured.
var CipherSuites = []string{
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
	"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}

// AnonymousPaths are the paths that the API serves without credentials: the health checks of load balancers and kubelets, and
// the ConfigMap with which `kubeadm join --token` discovers the cluster. The ConfigMap is public by design: it contains the
// endpoint and the CA certificate, signed with the valid tokens.
var AnonymousPaths = []string{"/livez", "/readyz", "/healthz", "/api/v1/namespaces/kube-public/configmaps/cluster-info"}

// ControlPlane is what a control plane needs in addition to a node: the API server's files, the patches of its static pods, and the approver.
func ControlPlane(c *spec.Cluster) facts.Desired {
	d := approver(c)
	addBackups(c, &d)
	d.Files = append([]facts.File{
		{Path: AuditPolicyFile, Mode: 0o600, Content: auditPolicy},
		{Path: AuthenticationFile, Mode: 0o600, Content: authenticationConfig()},
	}, append(settingFiles(c), d.Files...)...)
	d.Files = append(d.Files, facts.File{Path: "/etc/systemd/system/" + LeasesUnit, Content: leasesUnit}, apiServerPatch())
	d.Enable = append(d.Enable, LeasesUnit)
	if c.StackedEtcd() {
		d.Files = append(d.Files, etcdGuard()...)
		d.EtcdGuard = true
	}
	return d
}

func approver(c *spec.Cluster) facts.Desired {
	return facts.Desired{
		Files: []facts.File{
			{Path: NodesFile, Content: nodes(c)},
			{Path: "/etc/systemd/system/" + ApproverService, Content: approverUnit},
			{Path: "/etc/systemd/system/" + ApproverTimer, Content: approverTimer},
		},
		Self:   SelfPath,
		Enable: []string{ApproverTimer},
	}
}

func nodes(c *spec.Cluster) string {
	var b strings.Builder
	for _, h := range byName(c.Spec.Hosts) {
		if h.IsNode() {
			fmt.Fprintf(&b, "%s %s\n", h.Name, strings.Join(h.Addresses(), " "))
		}
	}
	return b.String()
}

func authenticationConfig() string {
	var b strings.Builder
	b.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous:\n  enabled: true\n  conditions:\n")
	for _, p := range AnonymousPaths {
		fmt.Fprintf(&b, "  - path: %s\n", p)
	}
	return b.String()
}

// auditPolicy: the first rule that matches a request decides.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
# Health is probed several times a second, and leases and events are written all the time.
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/openapi*", "/version"]
- level: None
  resources:
  - {group: coordination.k8s.io, resources: [leases]}
  - {group: "", resources: [events]}
  - {group: events.k8s.io, resources: [events]}
# Record every access to a secret, whoever it was, but never its contents.
- level: Metadata
  resources:
  - {group: "", resources: [secrets, serviceaccounts/token]}
  - {group: authentication.k8s.io, resources: [tokenreviews]}
# The cluster's own programs read everything, all the time, and report on themselves.
- level: None
  users: ["system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy", "system:apiserver"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes"]
  verbs: [update, patch]
  resources:
  - {group: "", resources: [nodes/status, pods/status]}
# For a change of permissions, record the change itself.
- level: Request
  verbs: [create, update, patch, delete, deletecollection]
  resources:
  - {group: rbac.authorization.k8s.io}
# Everything else, ConfigMaps included: who, what, when and with which result, but no bodies.
- level: Metadata
`

// The kubelet requests new serving certificates automatically, but no part of Kubernetes approves these requests. The approver
// on every control plane does, so that certificates are renewed even if nobody runs quorate. It reads what nodes send, so it
// has its own user with permissions only for this, and cannot see the keys on this host.
const approverUnit = `[Unit]
Description=Approves the serving certificates that the cluster's own kubelets request
ConditionPathExists=/etc/kubernetes/admin.conf
After=network-online.target

[Service]
Type=oneshot
# This part has all permissions and reads no requests of nodes. It renews the certificates of the approver's user and of the exporter of metrics.
ExecStartPre=+` + SelfPath + ` host approver-credentials
ExecStart=` + SelfPath + ` host approve
TimeoutStartSec=120
# A restarting API server fails one run. The unit's state shows how many runs failed in a row.
Restart=on-failure
RestartSec=20
InaccessiblePaths=-/etc/kubernetes -/var/lib/etcd -/var/lib/kubelet -/var/lib/containerd -/run/containerd
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
`

// A leader that is killed keeps its lease until it runs out. This unit, on every control plane, knows immediately that it has ended. It uses
// the credentials of the two programs, and needs no capability, no other credentials, and nothing to write.
const leasesUnit = `[Unit]
Description=Gives back the leases of controller managers and schedulers that have ended on this host
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=` + SelfPath + ` host leases
Restart=always
RestartSec=2
InaccessiblePaths=-/etc/kubernetes/pki -/etc/kubernetes/admin.conf -/etc/kubernetes/super-admin.conf -/etc/kubernetes/kubelet.conf
InaccessiblePaths=-/var/lib/etcd -/var/lib/kubelet -/var/lib/containerd -/run/containerd -/var/lib/quorate/backup
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX

[Install]
WantedBy=multi-user.target
`

// A kubelet waits fifteen minutes for an answer before it sends another request.
const approverTimer = `[Unit]
Description=Runs the approver of kubelet serving certificates every five minutes

[Timer]
OnActiveSec=5min
OnUnitInactiveSec=5min
AccuracySec=30s

[Install]
WantedBy=timers.target
`
