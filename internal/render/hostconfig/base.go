// Package hostconfig renders how each kind of host should be configured, from the spec and the host's facts.
// It is pure: the plan compares what it renders with what a host reports, and apply writes exactly that.
package hostconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// EncryptionFile is where a control plane's encryption keys are.
const EncryptionFile = "/etc/kubernetes/pki/" + encryption.File

// EndpointHost is the endpoint's name without its port.
func EndpointHost(c *spec.Cluster) string { return c.Endpoint().Name }

// EndpointPort is the endpoint's port.
func EndpointPort(c *spec.Cluster) string { return c.Endpoint().Port }

// Hosts makes the endpoint's name and every host's name resolve without a DNS server. Kubelets look up their own name at
// start, at the admission of each static pod, and at each registration, and a DNS server that does not answer costs ten
// seconds each time. An external load balancer whose address is not in the spec is left to DNS.
func Hosts(c *spec.Cluster) facts.Desired {
	var b strings.Builder
	var named []string
	for _, e := range c.Endpoints() { // one address for each name: with two, a client might try the one that goes away
		if e.Address != "" && !slices.Contains(named, e.Name) {
			named = append(named, e.Name)
			fmt.Fprintf(&b, "%s %s\n", e.Address, e.Name)
		}
	}
	for _, h := range byName(c.Spec.Hosts) {
		fmt.Fprintf(&b, "%s %s\n", h.Address, h.Name)
		if h.SecondaryAddress != "" {
			fmt.Fprintf(&b, "%s %s\n", h.SecondaryAddress, h.Name)
		}
	}
	return facts.Desired{Files: []facts.File{{Path: "/etc/hosts", Block: "cluster " + c.Metadata.Name, Content: b.String()}}}
}

// byName sorts hosts: their order in the spec means nothing, and must not change a file.
func byName(hosts []spec.Host) []spec.Host {
	return slices.SortedFunc(slices.Values(hosts), func(a, b spec.Host) int { return strings.Compare(a.Name, b.Name) })
}

// nodeSysctls are the settings that kubeadm's documentation requires, and those that kube-proxy and pods need in addition.
var nodeSysctls = map[string]string{
	"net.ipv4.ip_forward":                "1",
	"net.bridge.bridge-nf-call-iptables": "1",
}

// Runtime is containerd and the kubelet's unit on a node.
func Runtime(f *facts.Facts, pauseImage string) facts.Desired {
	var sysctl strings.Builder
	for _, k := range []string{"net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"} {
		fmt.Fprintf(&sysctl, "-%s = %s\n", k, nodeSysctls[k])
	}
	return facts.Desired{
		Modules: []string{"overlay", "br_netfilter"},
		Sysctls: nodeSysctls,
		Files: []facts.File{
			{Path: "/etc/modules-load.d/quorate.conf", Content: "overlay\nbr_netfilter\n"},
			{Path: "/etc/sysctl.d/90-quorate.conf", Content: sysctl.String()},
			{Path: "/etc/containerd/config.toml", Content: containerdConfig(f, pauseImage), Restart: []string{"containerd.service"}},
			{Path: "/etc/systemd/system/containerd.service", Content: containerdUnit, Restart: []string{"containerd.service"}},
			{Path: "/etc/systemd/system/kubelet.service", Mode: 0o600, Content: kubeletUnit},
			{Path: "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf", Mode: 0o600, Content: kubeletDropIn},
			patience,
		},
		Enable: []string{"containerd.service", "kubelet.service"},
	}
}

func containerdConfig(f *facts.Facts, pauseImage string) string {
	return fmt.Sprintf(`version = 3
root = '/var/lib/containerd'
state = '/run/containerd'

[grpc]
  address = '/run/containerd/containerd.sock'

[plugins.'io.containerd.cri.v1.runtime']
  # On hosts where even root may not lower a process's OOM score, requesting it would keep every pod from starting.
  restrict_oom_score_adj = %t
  # containerd's default, every second, is more often than anyone needs: the kubelet's own statistics come from
  # cAdvisor, and whoever scrapes them does it every ten to fifteen seconds.
  stats_collect_period = '10s'

  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'runc'

    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        BinaryName = '/usr/local/bin/runc'
        SystemdCgroup = %t

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/opt/cni/bin']
    conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '%s'
`, !f.CanLowerOOMScore, f.CgroupV2, pauseImage)
}

const containerdUnit = `[Unit]
Description=containerd container runtime
Documentation=https://containerd.io
After=network.target local-fs.target

[Service]
ExecStart=/usr/local/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=1
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
`

// The kubelet's unit is the one that the kubeadm packages install, with two differences: it waits for its configuration
// instead of failing every ten seconds, and it restarts sooner.
const kubeletUnit = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target containerd.service
After=network-online.target containerd.service
ConditionPathExists=/var/lib/kubelet/config.yaml

[Service]
ExecStart=/usr/local/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=2

[Install]
WantedBy=multi-user.target
`

const kubeletDropIn = `[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`

// kubeletPatience is for the moment when the virtual IP moves, which a connection that only waits for an answer does not
// notice. The kubelet sends a ping after 5 silent seconds instead of 30, and closes the connection after 5 more instead of 15.
const kubeletPatience = `[Service]
Environment=HTTP2_READ_IDLE_TIMEOUT_SECONDS=5
Environment=HTTP2_PING_TIMEOUT_SECONDS=5
`

var patience = facts.File{Path: "/etc/systemd/system/kubelet.service.d/20-quorate.conf", Mode: 0o600, Content: kubeletPatience}

// Adopted is the configuration of a host that was set up without Quorate: only what harms nothing and restarts nothing. The
// kubelet's timeouts take effect at its next start.
func Adopted(c *spec.Cluster, h spec.Host) facts.Desired {
	d := facts.Desired{}
	if h.Has(spec.RoleControlPlane) {
		d = approver(c)
		addBackups(c, &d)
		d.Files = append(d.Files, apiServerPatch()) // for manifests that are written again
		if c.StackedEtcd() {
			d.Files, d.EtcdGuard = append(d.Files, etcdGuard()...), true
		}
	}
	if h.IsNode() {
		d.Files = append(d.Files, patience)
	}
	return d
}

// Request is everything that a plan needs to know about the hosts of this cluster.
func Request(c *spec.Cluster) facts.Request {
	all := facts.Desired{Sysctls: map[string]string{}}
	for _, d := range []facts.Desired{Hosts(c), Runtime(&facts.Facts{}, ""), Settings(c, &facts.Facts{}), ControlPlane(c),
		Balancer(c, spec.Host{Roles: []string{spec.RoleControlPlane}}, &facts.Facts{}, ""), Etcd(spec.Host{}, &facts.Facts{}, facts.EtcdTimers{}), Watched(c, spec.Host{Roles: []string{spec.RoleControlPlane}})} {
		all.Files = append(all.Files, d.Files...)
		all.Enable = append(all.Enable, d.Enable...)
		all.Modules = append(all.Modules, d.Modules...)
		maps.Copy(all.Sysctls, d.Sysctls)
	}
	r := facts.Request{Programs: slices.Concat(nodePrograms, balancerPrograms), SharedPKI: SharedPKI(c),
		Sysctls: slices.Sorted(maps.Keys(all.Sysctls)), Modules: all.Modules}
	if c.Spec.Network.Uses(spec.IPv6) {
		r.Sysctls = append(r.Sysctls, acceptRA)
	}
	r.Files = append(r.Files, facts.BegunFile, SettingsSysctlFile, facts.BackupScheduleFile)
	r.Files = append(append(r.Files, BackupUnitFiles...), WatchUnitFile, ExporterUnitFile)
	for _, f := range all.Files {
		r.Files = append(r.Files, f.Key())
	}
	r.Units = append(slices.Clone(all.Enable), "haproxy.service", "keepalived.service", WatchdogUnit, EtcdUnit, WatchUnit)
	slices.Sort(r.Files)
	r.Files = slices.Compact(r.Files)
	slices.Sort(r.Units)
	r.Units = slices.Compact(r.Units)
	return r
}

// Missing lists what a host lacks of its desired configuration, in words for the reason of a step; empty if it lacks nothing.
// It does not include what could not be read: Facts.Unknown has the reason.
func Missing(d facts.Desired, f *facts.Facts) []string { return lacks(d, f, true) }

// Drift is the part of Missing that does not depend on a bundle and that no other observation shows: files that are gone, modes,
// kernel settings, kernel modules, and units that would not start when the host does.
func Drift(d facts.Desired, f *facts.Facts) []string { return lacks(d, f, false) }

func lacks(d facts.Desired, f *facts.Facts, everything bool) []string {
	var out []string
	for _, file := range d.Files {
		switch have, ok := f.Files[file.Key()]; {
		case f.Unknown[file.Key()] != "":
		case !ok:
			out = append(out, file.Path+" is missing")
		case have != file.Sum() && everything:
			out = append(out, file.Path+" differs")
		case file.Block == "": // the rest of a file with a block, and its mode, belong to others
			out = append(out, WrongAccess(file, f.Modes)...)
		}
	}
	switch {
	case d.Self == "":
	case f.Self == facts.MissingCopy:
		out = append(out, d.Self+" is missing")
	case f.Self == facts.OtherCopy && everything:
		out = append(out, d.Self+" is another version of quorate")
	}
	for _, path := range d.Absent {
		out = append(out, path+" left the spec")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Sysctls)) {
		if have, ok := f.Sysctls[name]; ok && !slices.Equal(strings.Fields(have), strings.Fields(d.Sysctls[name])) {
			out = append(out, fmt.Sprintf("%s is %s instead of %s", name, have, d.Sysctls[name]))
		}
	}
	for _, m := range d.Modules {
		// In a container, kernel modules are managed by the machine below it.
		if f.Modules[m] == facts.Loadable && f.Container == "" {
			out = append(out, "the kernel module "+m+" is not loaded")
		}
	}
	for _, unit := range f.Pending {
		if slices.ContainsFunc(d.Files, func(file facts.File) bool { return slices.Contains(slices.Concat(file.Restart, file.Reload), unit) }) {
			out = append(out, unit+" has not loaded its files")
		}
	}
	if d.EtcdGuard && f.Kubernetes.Established && f.Kubernetes.EtcdData && !f.Kubernetes.EtcdGuard {
		out = append(out, "etcd could start without its data")
	}
	for _, unit := range d.Enable {
		if f.Unknown[facts.UnitsPart] != "" {
			break
		}
		// A kubelet without its configuration waits; the step that gives it one starts it.
		if s := f.Units[unit]; everything && s != "active" && s != "activating" && !(unit == "kubelet.service" && !f.Kubernetes.KubeletConfig) {
			out = append(out, unit+" is "+orUnknown(s))
		} else if e := f.Enabled[unit]; slices.Contains(notAtBoot, e) {
			out = append(out, fmt.Sprintf("%s is %s: it would not start after a reboot", unit, e))
		}
	}
	return out
}

// notAtBoot are the states of unit files in which systemd does not start the unit when the host starts.
var notAtBoot = []string{"disabled", "masked", "masked-runtime", "enabled-runtime", "linked", "linked-runtime"}

// root is the name of the user and the group with the ID 0, or the ID where the system has no name for it.
var root = []string{"root", "0"}

// WrongAccess describes how the mode and the owner of a file differ from those that Quorate set.
func WrongAccess(file facts.File, modes map[string]facts.Mode) []string {
	have, ok := modes[file.Path]
	if !ok {
		return nil
	}
	want := file.Mode
	if want == 0 {
		want = 0o644
	}
	var out []string
	if have.Bits != uint32(want) {
		out = append(out, fmt.Sprintf("%s has mode %o instead of %o", file.Path, have.Bits, uint32(want)))
	}
	if !slices.Contains(root, have.Owner) || !slices.Contains(root, have.Group) {
		out = append(out, fmt.Sprintf("%s belongs to %s:%s instead of root:root", file.Path, have.Owner, have.Group))
	}
	return out
}

func orUnknown(s string) string {
	if s == "" {
		return "not there"
	}
	return s
}

// Restarts returns the units that would restart, and those that would start, if the host got the desired configuration. A unit
// that does not run yet starts; it does not restart. Where the units could not be queried, every unit may run, and may not: it is in both, for
// systemd starts nothing that runs.
func Restarts(d facts.Desired, f *facts.Facts) (restarts, starts []string) {
	unknown := f.Unknown[facts.UnitsPart] != ""
	runs := func(unit string) bool {
		return unknown || f.Units[unit] == "active" || f.Units[unit] == "activating"
	}
	for _, file := range d.Files {
		if f.Files[file.Key()] == file.Sum() || f.Unknown[file.Key()] != "" {
			continue
		}
		for _, unit := range file.Restart {
			if runs(unit) && !slices.Contains(restarts, unit) {
				restarts = append(restarts, unit)
			}
		}
	}
	for _, unit := range f.Pending { // a step replaced its files but ended before it restarted the unit
		owed := slices.ContainsFunc(d.Files, func(file facts.File) bool { return slices.Contains(slices.Concat(file.Restart, file.Reload), unit) })
		if owed && runs(unit) && !slices.Contains(restarts, unit) {
			restarts = append(restarts, unit)
		}
	}
	for _, unit := range d.Enable {
		// A kubelet without its configuration waits; the step that gives it one starts it.
		if (unknown || !runs(unit)) && !(unit == "kubelet.service" && !f.Kubernetes.KubeletConfig) {
			starts = append(starts, unit)
		}
	}
	return restarts, starts
}

// Reloads returns the units that run and would reload a file, and would not restart, if the host got the desired configuration.
func Reloads(d facts.Desired, f *facts.Facts) (out []string) {
	restarts, starts := Restarts(d, f)
	if f.Unknown[facts.UnitsPart] != "" {
		starts = nil // each of them may run
	}
	for _, file := range d.Files {
		if f.Files[file.Key()] == file.Sum() || f.Unknown[file.Key()] != "" {
			continue
		}
		for _, unit := range file.Reload {
			if !slices.Contains(slices.Concat(restarts, starts, out), unit) {
				out = append(out, unit)
			}
		}
	}
	return out
}
