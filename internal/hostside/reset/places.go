package reset

import (
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/fault"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// This file says in one place what a host of a cluster has that it did not have before. A test compares it with what
// hostconfig renders and with the paths in the host side's source.

// kind says how a place is cleared.
type kind uint8

const (
	// file is restored as it was found, or removed.
	file kind = iota
	// tree is removed with everything in it. The directory itself stays if it existed before or is a mount point.
	tree
	// shared is a directory in which others have files as well: what was found there stays.
	shared
	// empty is a directory that is removed if nothing is in it.
	empty
)

// place is something in the file system. Its path may be a pattern as of filepath.Match.
type place struct {
	path string
	kind kind
	// own is set for what Quorate puts only on hosts that it set up: on adopted ones, somebody else did.
	own bool
}

// stateOf is what a cluster leaves on its hosts, whoever built it: the state of etcd, the kubelet, and pods.
var stateOf = []place{
	{path: hostconfig.EtcdDataDir, kind: tree}, {path: facts.EtcdKeptDir, kind: tree},
	{path: "/var/lib/kubelet", kind: tree},
	{path: "/etc/kubernetes", kind: tree},
	{path: "/var/lib/cni/flannel", kind: tree}, {path: "/var/lib/cni/networks/cbr0", kind: tree}, {path: "/var/lib/cni/cache", kind: tree},
	{path: "/var/lib/cni/results", kind: tree}, {path: "/var/lib/cni", kind: shared},
	{path: "/etc/cni/net.d", kind: shared}, {path: "/etc/cni", kind: empty},
	{path: "/var/log/pods", kind: tree}, {path: "/var/log/containers", kind: tree}, {path: "/var/log/kubernetes", kind: tree},
	{path: "/run/flannel", kind: tree}, {path: "/run/netns/cni-*", kind: file}, {path: "/run/netns", kind: empty},
	{path: "/var/lib/kube-proxy", kind: empty},
	{path: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/nodeagent~uds", kind: empty},
	{path: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec", kind: empty}, {path: "/usr/libexec/kubernetes/kubelet-plugins/volume", kind: empty},
	{path: "/usr/libexec/kubernetes/kubelet-plugins", kind: empty}, {path: "/usr/libexec/kubernetes", kind: empty},
}

// configuration is what Quorate writes for the programs of a host.
var configuration = slices.Concat(ofNode, ofBalancer, markOfBalancer)

// ofNode is what Quorate writes for a node and an etcd member.
var ofNode = []place{
	{path: "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", own: true},
	{path: "/etc/systemd/system/kubelet.service.d/20-quorate.conf"}, {path: "/etc/systemd/system/kubelet.service.d/30-quorate-etcd.conf"},
	{path: "/etc/systemd/system/kubelet.service.d", kind: empty}, {path: "/etc/systemd/system/kubelet.service", own: true},
	{path: "/etc/systemd/system/containerd.service", own: true}, {path: "/etc/containerd/config.toml", own: true},
	{path: hostconfig.RegistriesDir, kind: shared, own: true}, {path: "/etc/containerd", kind: empty, own: true},
	{path: "/etc/systemd/system/etcd.service", own: true}, {path: hostconfig.EtcdMembersFile, own: true}, {path: hostconfig.EtcdEnvFile, own: true}, {path: "/etc/etcd", kind: empty, own: true},
	{path: "/etc/modules-load.d/quorate.conf"}, {path: "/etc/sysctl.d/90-quorate.conf"}, {path: hostconfig.SettingsSysctlFile}, {path: hostconfig.IPv6SysctlFile},
	{path: "/etc/systemd/system/quorate-approver.service"}, {path: "/etc/systemd/system/" + hostconfig.ApproverTimer}, {path: "/etc/systemd/system/" + hostconfig.LeasesUnit},
	{path: "/etc/systemd/system/" + hostconfig.BackupService}, {path: "/etc/systemd/system/" + hostconfig.BackupTimer},
	{path: hostconfig.WatchUnitFile}, {path: hostconfig.ExporterUnitFile},
	{path: fault.BootUnitFiles[1]}, {path: fault.BootUnitFiles[0]},
}

// ofBalancer is what it writes for a load balancer.
var ofBalancer = []place{
	{path: "/etc/sysctl.d/91-quorate-balancer.conf"},
	{path: "/etc/systemd/system/haproxy.service.d/quorate.conf"}, {path: "/etc/systemd/system/haproxy.service.d", kind: empty},
	{path: "/etc/systemd/system/keepalived.service.d/quorate.conf"}, {path: "/etc/systemd/system/keepalived.service.d", kind: empty},
	{path: hostconfig.KeepalivedFile}, {path: hostconfig.HAProxyFile}, {path: "/etc/haproxy/quorate-ca.crt"},
	{path: hostconfig.HAProxySocket}, {path: hostconfig.HAProxyMasterSocket}, {path: "/run/haproxy.pid"},
}

// markOfBalancer is the last that goes when a load balancer is removed: as long as it is there, the next plan finishes that.
var markOfBalancer = []place{{path: "/etc/systemd/system/" + hostconfig.WatchdogUnit}}

// stateOfBalancer is what the programs of a load balancer leave while they run.
var stateOfBalancer = []place{{path: hostconfig.FaultFile}, {path: hostconfig.AsideFile}, {path: hostconfig.DrainedFile}, {path: hostconfig.KeepalivedRunning}}

// containers is the state of the containerd that Quorate installed, with its images.
var containers = []place{
	{path: "/var/lib/containerd", kind: tree, own: true}, {path: "/run/containerd", kind: tree, own: true}, {path: "/run/nri", kind: tree, own: true},
	{path: "/opt/containerd/bin", kind: empty, own: true}, {path: "/opt/containerd/lib", kind: empty, own: true}, {path: "/opt/containerd", kind: empty, own: true},
	{path: "/opt/nri/plugins", kind: empty, own: true}, {path: "/opt/nri", kind: empty, own: true}, {path: "/etc/nri/conf.d", kind: empty, own: true}, {path: "/etc/nri", kind: empty, own: true},
}

// bundles is what is left where the programs were, after package programs removed them.
var bundles = []place{
	{path: "/opt/cni/bin", kind: shared, own: true}, {path: "/opt/cni", kind: empty}, {path: "/opt/quorate", kind: empty},
	{path: "/var/lib/quorate/bundle", kind: tree}, {path: "/var/lib/quorate/bundle.json"}, {path: "/var/lib/quorate/images.json"},
	{path: hostconfig.SelfPath}, {path: fault.ProgramPath},
}

// ownState is what Quorate keeps on a host for itself. The mark of a complete cluster comes after everything that it
// protects.
var ownState = append([]place{
	{path: hostconfig.NodesFile}, {path: facts.ApproverFile}, {path: "/var/lib/quorate/pending-units"}, {path: facts.SnapshotDir, kind: tree}, {path: facts.EtcdGuardDir, kind: tree}, {path: facts.WithdrawnDir, kind: tree},
	{path: facts.BackupDir, kind: tree}, {path: facts.WatchDir, kind: tree}, {path: facts.WatchReportFile}, {path: facts.WatchLeaderFile}, {path: facts.ExporterDir, kind: tree},
	{path: facts.ExporterStateDir, kind: tree}, {path: facts.ExporterStateLink},
	{path: facts.RecoveryFile}, {path: "/var/lib/quorate/repairs.json"}, {path: facts.DrillDir, kind: tree},
	{path: facts.EstablishedFile}, {path: facts.RestoreFile}, {path: facts.MaintenanceFile},
	{path: "/run/quorate/pki", kind: tree}, {path: fault.RunDir, kind: tree}, {path: fault.VarDir, kind: tree},
	{path: facts.KubeletRestartDue}, {path: facts.KubeletSettingsDue},
}, stateOfBalancer...)

// last is what a reset itself needs. How the host was found goes when the mark of the reset is gone: it is true as long as
// it exists. The binary goes at the end: this session runs it.
var last = []place{
	{path: facts.FoundFile},
	{path: "/var/lib/quorate/bin", kind: tree}, {path: "/var/lib/quorate", kind: empty},
	{path: "/run/quorate/verified", kind: tree}, {path: "/run/quorate/lease"}, {path: "/run/quorate", kind: empty},
}

// hostsFile has a block of Quorate's in it.
const hostsFile = "/etc/hosts"

// links lead to what is removed: root's kubeconfig, and what Quorate's link was in earlier versions.
var links = map[string]string{"/root/.kube/config": "/etc/kubernetes/admin.conf"}

// units are those that Quorate starts or configures, in the order in which they are stopped: what would restart others comes
// first, and keepalived gives the virtual IP away before HAProxy ends.
var units = slices.Concat([]unit{{name: hostconfig.ExporterUnit}, {name: hostconfig.WatchUnit}, {name: hostconfig.ApproverTimer}, {name: "quorate-approver.service"}, {name: hostconfig.LeasesUnit}, {name: hostconfig.BackupTimer}, {name: hostconfig.BackupService}}, unitsOfBalancer, []unit{
	{name: "kubelet.service"},
	{name: hostconfig.EtcdUnit, own: true, marker: "/etc/systemd/system/" + hostconfig.EtcdUnit},
})

var unitsOfBalancer = []unit{
	{name: hostconfig.WatchdogUnit},
	{name: "keepalived.service", marker: "/etc/systemd/system/keepalived.service.d/quorate.conf"},
	{name: "haproxy.service", marker: "/etc/systemd/system/haproxy.service.d/quorate.conf"},
}

// containerdUnit is stopped when its pods are, and only if it runs from Quorate's bundle.
const containerdUnit = "containerd.service"

// podsSlice is systemd's group of all pods.
const podsSlice = "kubepods.slice"

// unit is a unit of systemd.
type unit struct {
	name string
	own  bool
	// marker is a file without which the unit is somebody else's.
	marker string
}

// allPlaces are all of them, in the order in which they are cleared.
func allPlaces() []place {
	return slices.Concat(stateOf, configuration, containers, bundles, ownState, last)
}

// Removes says that a reset of a host removes what is in a directory, whoever put it there. The path is absolute.
func Removes(dir string) bool {
	dir = filepath.Clean(dir)
	return slices.ContainsFunc(allPlaces(), func(p place) bool { return p.kind == tree && (dir == p.path || strings.HasPrefix(dir, p.path+"/")) })
}

// covers says whether a path is removed or restored by a reset.
func covers(path string) bool {
	if path == hostsFile || links[path] != "" || path == facts.ResettingFile || path == facts.ProgramsDir || strings.HasPrefix(path, facts.ProgramsDir+"/") || strings.HasPrefix(path, "/usr/local/bin/") {
		return true
	}
	for _, p := range allPlaces() {
		if p.kind == empty {
			continue
		}
		if ok, _ := filepath.Match(p.path, path); ok || p.kind != file && strings.HasPrefix(path, p.path+"/") {
			return true
		}
	}
	return false
}
