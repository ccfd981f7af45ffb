package hostconfig

import (
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// The unit with which control planes observe the cluster, and repair it. What they expose of it as metrics, another unit serves: see exporter.go.
const (
	WatchUnit     = "quorate-watch.service"
	WatchUnitFile = "/etc/systemd/system/" + WatchUnit
)

// Watched is what every host needs whose cluster is observed or repaired by its control planes: the program that does what they ask for,
// and on a control plane the units.
func Watched(c *spec.Cluster, h spec.Host) facts.Desired {
	if !c.Watched() {
		return facts.Desired{}
	}
	d := facts.Desired{Self: SelfPath}
	if h.Has(spec.RoleControlPlane) {
		d.Files = []facts.File{{Path: WatchUnitFile, Content: watchUnit}}
		d.Enable = []string{WatchUnit}
		if c.Spec.Monitoring.Exporter {
			d.Files = append(d.Files, facts.File{Path: ExporterUnitFile, Content: exporterUnit(c, h)})
			d.Enable = append(d.Enable, ExporterUnit)
		}
	}
	return d
}

// The unit ends by itself when its program, its configuration, or this file is replaced, and starts again with the new one. So nothing
// has to restart it, and an upgrade never interrupts a repair. Without a configuration it waits.
//
// It listens nowhere. It changes nothing on its own host: like every other host, it is reached through sshd, within the limits of the unit's key. So it needs
// no capability, no keys of the cluster, and nothing to write but its report and what is exposed as metrics.
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
