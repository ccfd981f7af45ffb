package hostconfig

import (
	"net"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// The unit with which control planes serve metrics to Prometheus.
const (
	ExporterUnit     = "quorate-exporter.service"
	ExporterUnitFile = "/etc/systemd/system/" + ExporterUnit
)

// ExporterSees is where the unit finds the content of facts.SnapshotsDir. What is there outside of the unit is hidden from it.
const ExporterSees = "/var/lib/quorate"

// The names of the unit's credentials. See systemd.exec(5), CREDENTIALS.
const (
	ExporterCertificate = "certificate"
	ExporterKubeconfig  = "kubeconfig"
)

// ExporterName is the name for which the certificates of all exporters of metrics are valid. Whoever reads them verifies it.
const ExporterName = "quorate-exporter.kube-system.svc"

// ExporterNames are what the certificate of the exporter of a control plane is valid for.
func ExporterNames(h spec.Host) []string { return []string{ExporterName, h.Name, h.Address} }

// ExporterAddress is where the exporter of a control plane serves metrics, as host:port.
func ExporterAddress(h spec.Host) string {
	return net.JoinHostPort(h.Address, strconv.Itoa(spec.ExporterPort))
}

func exporterUnit(c *spec.Cluster, h spec.Host) string {
	return strings.NewReplacer("CLUSTER", c.Metadata.Name, "ADDRESS", ExporterAddress(h)).Replace(exporterUnitText)
}

// The unit answers strangers, so it has nothing that is worth taking: it runs as a user that exists only while it does, and has the last metrics, the
// certificate with which it serves them, and a user in the API that may ask who may read them. systemd reads the two credentials as root and
// gives the unit copies; whoever renews them restarts it. They may come after the unit, which waits for them with the ones that are set here.
//
// Only root can get to the directory of the metrics, because the one above it is closed to others. systemd opens it for this unit, read-only, by
// mounting it over a directory that the unit has no business in. The unit that observes makes the directory before it is ready. If it did not, this unit
// starts all the same (-), and ends after moments, until there is something to mount.
//
// All of these settings exist in systemd 247 (Debian 11) and later. An older release does not know LoadCredential. ExecStart must stay the only
// command: systemd 247 cannot run another one, such as ExecStartPre, in a unit that has credentials and mounts of its own
// (https://github.com/systemd/systemd/issues/18116).
const exporterUnitText = `[Unit]
Description=Serves the metrics of the cluster to Prometheus
Wants=network-online.target
After=network-online.target ` + WatchUnit + `
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=` + SelfPath + ` host exporter --cluster CLUSTER --address ADDRESS
Restart=always
RestartSec=5
# Programs of the cluster come first, and whoever floods the port takes little from them.
Nice=5
CPUWeight=20
MemoryMax=256M
TasksMax=128
LimitNOFILE=1024
DynamicUser=yes
SetCredential=` + ExporterCertificate + `:none
SetCredential=` + ExporterKubeconfig + `:none
LoadCredential=` + ExporterCertificate + `:` + facts.ExporterCertificateFile + `
LoadCredential=` + ExporterKubeconfig + `:` + facts.ExporterFile + `
# Who could read the metrics before the API went away can do so after a restart.
StateDirectory=` + facts.ExporterState + `
StateDirectoryMode=0700
BindReadOnlyPaths=-` + facts.SnapshotsDir + `:` + ExporterSees + `
InaccessiblePaths=-/etc/kubernetes -/etc/etcd -/etc/ssh -/var/lib/etcd -/var/lib/kubelet -/var/lib/containerd -/run/containerd -/run/quorate
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077

[Install]
WantedBy=multi-user.target
`
