// Package hostconfig renders how each kind of host should be configured, from the spec and the host's facts.
// It is pure: the plan compares what it renders with what a host reports, and apply writes exactly that.
package hostconfig

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// FastGracePeriod is how long a node may be silent with the failover profile fast.
const FastGracePeriod = "6s"

// EncryptionFile is where a control plane's encryption keys are.
const EncryptionFile = "/etc/kubernetes/pki/" + encryption.File

// EndpointHost is the endpoint's name without its port.
func EndpointHost(c *spec.Cluster) string {
	name, _, err := net.SplitHostPort(c.Spec.ControlPlane.Endpoint)
	if err != nil {
		return c.Spec.ControlPlane.Endpoint
	}
	return name
}

// EndpointPort is the endpoint's port.
func EndpointPort(c *spec.Cluster) string {
	_, port, err := net.SplitHostPort(c.Spec.ControlPlane.Endpoint)
	if err != nil {
		return APIPort
	}
	return port
}

// Hosts makes every host's name and the endpoint resolve without a DNS server. Kubelets look their own name up
// at start, at each static pod's admission and at each registration: a DNS server that does not answer costs
// ten seconds each time. An external balancer whose address only DNS knows is left to DNS.
func Hosts(c *spec.Cluster) facts.Desired {
	var b strings.Builder
	if c.Spec.LoadBalancer.Address != "" {
		fmt.Fprintf(&b, "%s %s\n", c.Spec.LoadBalancer.Address, EndpointHost(c))
	}
	for _, h := range byName(c.Spec.Hosts) {
		fmt.Fprintf(&b, "%s %s\n", h.Address, h.Name)
	}
	return facts.Desired{Files: []facts.File{{Path: "/etc/hosts", Block: "cluster " + c.Metadata.Name, Content: b.String()}}}
}

// nodeSysctls are what kubeadm's documentation asks for, and kube-proxy's and pods' needs beyond it.
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
  # Where even root may not lower a process's OOM score, asking for it would keep every pod from starting.
  restrict_oom_score_adj = %t
  # Each second, as containerd does it by itself, is more than anybody asks for: the kubelet's own statistics come from
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

// The kubelet's unit is the one that the kubeadm packages install, but for two lines: it waits for its
// configuration instead of failing every ten seconds, and comes back sooner.
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

// kubeletPatience is for the moment when the virtual IP moves: a connection that only waits for an answer is not told. It
// is asked for a sign of life after 5 silent seconds instead of 30, and given up after 5 more instead of 15.
const kubeletPatience = `[Service]
Environment=HTTP2_READ_IDLE_TIMEOUT_SECONDS=5
Environment=HTTP2_PING_TIMEOUT_SECONDS=5
`

var patience = facts.File{Path: "/etc/systemd/system/kubelet.service.d/20-quorate.conf", Mode: 0o600, Content: kubeletPatience}

// Adopted is what a host gets that was set up without Quorate: what harms nothing that is there, and restarts nothing.
// The kubelet's patience counts from its next start.
func Adopted(c *spec.Cluster, h spec.Host) facts.Desired {
	d := facts.Desired{}
	if h.Has(spec.RoleControlPlane) {
		d = approver(c)
	}
	if h.IsNode() {
		d.Files = append(d.Files, patience)
	}
	return d
}

// Request is everything that a plan wants to know of the hosts of this cluster.
func Request(c *spec.Cluster) facts.Request {
	all := facts.Desired{}
	for _, d := range []facts.Desired{Hosts(c), Runtime(&facts.Facts{}, ""), ControlPlane(c),
		Balancer(c, spec.Host{Roles: []string{spec.RoleControlPlane}}, &facts.Facts{}, ""), Etcd(spec.Host{}, &facts.Facts{})} {
		all.Files = append(all.Files, d.Files...)
		all.Enable = append(all.Enable, d.Enable...)
	}
	r := facts.Request{Programs: slices.Concat(nodePrograms, balancerPrograms), SharedPKI: SharedPKI(c)}
	r.Files = append(r.Files, facts.BegunFile)
	for _, f := range all.Files {
		r.Files = append(r.Files, f.Key())
	}
	r.Units = append(slices.Clone(all.Enable), "haproxy.service", "keepalived.service", WatchdogUnit, EtcdUnit)
	slices.Sort(r.Units)
	r.Units = slices.Compact(r.Units)
	return r
}

// Missing tells what of the desired a host lacks, as short words for a reason; empty when nothing is.
func Missing(d facts.Desired, f *facts.Facts) []string {
	var out []string
	for _, file := range d.Files {
		switch have, ok := f.Files[file.Key()]; {
		case !ok:
			out = append(out, file.Path+" is missing")
		case have != file.Sum():
			out = append(out, file.Path+" differs")
		}
	}
	for _, unit := range f.Pending {
		if slices.ContainsFunc(d.Files, func(file facts.File) bool { return slices.Contains(slices.Concat(file.Restart, file.Reload), unit) }) {
			out = append(out, unit+" has not loaded its files")
		}
	}
	for _, unit := range d.Enable {
		// A kubelet without its configuration waits; the step that gives it one starts it.
		if s := f.Units[unit]; s != "active" && s != "activating" && !(unit == "kubelet.service" && !f.Kubernetes.KubeletConfig) {
			out = append(out, unit+" is "+orUnknown(s))
		}
	}
	return out
}

func orUnknown(s string) string {
	if s == "" {
		return "not there"
	}
	return s
}
