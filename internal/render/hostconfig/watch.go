package hostconfig

import (
	"net"
	"strconv"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// The unit with which control planes observe the cluster, repair it, and expose metrics.
const (
	WatchUnit     = "quorate-watch.service"
	WatchUnitFile = "/etc/systemd/system/" + WatchUnit
)

// Watched is what every host needs whose cluster is observed or repaired by its control planes: the program that does what they ask for,
// and on a control plane the unit.
func Watched(c *spec.Cluster, h spec.Host) facts.Desired {
	if !c.Watched() {
		return facts.Desired{}
	}
	d := facts.Desired{Self: SelfPath}
	if h.Has(spec.RoleControlPlane) {
		d.Files = []facts.File{{Path: WatchUnitFile, Content: watchUnit}}
		d.Enable = []string{WatchUnit}
	}
	return d
}

// ExporterName is the name for which the certificates of all exporters of metrics are valid. Whoever reads them verifies it.
const ExporterName = "quorate-exporter.kube-system.svc"

// ExporterNames are what the certificate of the exporter of a control plane is valid for.
func ExporterNames(h spec.Host) []string { return []string{ExporterName, h.Name, h.Address} }

// ExporterAddress is where the exporter of a control plane serves metrics, as host:port.
func ExporterAddress(h spec.Host) string {
	return net.JoinHostPort(h.Address, strconv.Itoa(spec.ExporterPort))
}

// The unit ends by itself when its program, its configuration, or this file is replaced, and starts again with the new one. So nothing
// has to restart it, and an upgrade never interrupts a repair. Without a configuration it waits.
//
// It listens on one port, which needs no capability, if it serves metrics. It changes nothing on its own host: like every other host, it is reached through sshd, within the limits of the unit's key. So it needs
// no capability, no keys of the cluster, and nothing to write but its report.
const watchUnit = `[Unit]
Description=Observes the cluster while this control plane leads, and repairs what breaks if the spec says so
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=` + SelfPath + ` host watch
Restart=always
RestartSec=5
# A unit that hangs, or whose process is suspended, reports nothing. Otherwise it could lead for ever, and repair nothing.
WatchdogSec=60
TimeoutAbortSec=5
# Programs of the cluster come first, but the unit must get its turn while they are in trouble.
Nice=5
CPUWeight=50
InaccessiblePaths=-/etc/kubernetes -/var/lib/etcd -/var/lib/kubelet -/var/lib/containerd -/run/containerd -/var/lib/quorate/backup
ProtectSystem=strict
ProtectHome=yes
RuntimeDirectory=quorate
RuntimeDirectoryPreserve=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX

[Install]
WantedBy=multi-user.target
`
