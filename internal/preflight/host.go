package preflight

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// need is what a role cannot do without.
type need struct {
	cpus         int
	memory, disk int64
}

const mib = 1 << 20

// needs are kubeadm's own figures for control planes; for the others what the role's programs were seen to take, and room
// to work.
var needs = map[string]need{
	spec.RoleControlPlane: {2, 1700 * mib, 5120 * mib},
	spec.RoleWorker:       {1, 700 * mib, 4096 * mib},
	spec.RoleEtcd:         {1, 700 * mib, 3072 * mib},
	spec.RoleLoadBalancer: {1, 200 * mib, 512 * mib},
}

const (
	// minKernel is what kube-proxy's nftables mode asks for.
	minKernel = "5.13"
	// Below these parts of the disk the kubelet takes pods away: its defaults for images and for inodes. Where all nodes are
	// containers it goes by less space than any node needs here (kubeadm.InContainers).
	evictSpace, evictInodes = 0.15, 0.05
	warnSpace               = 0.20

	skewWarning, skewError = 500 * time.Millisecond, 5 * time.Second
	callerSkew             = time.Minute
	slowName               = time.Second
)

func (j *judge) host(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	if f.Family == "" {
		j.add(Warning, "os", on, "use Debian, Ubuntu or a system of the RHEL family; anything else may work and was not tried",
			"%s is neither of the Debian nor of the RHEL family", cmp.Or(f.OS, "the system"))
	}
	if !in.Systemd {
		j.add(Error, "systemd", on, "use a system that boots with systemd: containerd, the kubelet and HAProxy run as its units", "systemd is not process 1")
	}
	j.size(h, f, in)
	if h.IsNode() {
		j.kernel(h, f, in)
		j.node(h, f, in)
	}
	j.identity(h, f, in)
	j.packages(h, f, in)
	j.leftovers(h, f, in)
	j.ports(h, f, in)
	j.security(h, in)
	j.balancer(h, f)
	j.names(h, f, in)
	if !in.ClockKept && f.Container == "" {
		j.add(Warning, "clock", on, "`timedatectl set-ntp true`, or install chrony", "no time service keeps the clock: it will drift away from the others'")
	}
}

// size compares the host with what its most demanding role needs.
func (j *judge) size(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	var want need
	for _, role := range h.Roles {
		n := needs[role]
		want = need{max(want.cpus, n.cpus), max(want.memory, n.memory), max(want.disk, n.disk)}
	}
	roles := strings.Join(h.Roles, " and ")
	if f.CPUs < want.cpus {
		j.add(Error, "cpu", on, "give the host more CPUs, or another role", "%s; %s needs %d", ui.Plural(f.CPUs, "CPU"), roles, want.cpus)
	}
	if f.MemoryBytes < want.memory {
		j.add(Error, "memory", on, "give the host more memory, or another role", "%s of memory; %s needs %s", ui.Bytes(f.MemoryBytes), roles, ui.Bytes(want.memory))
	}
	if f.Images != "" {
		want.disk = min(want.disk, 2048*mib) // the larger part is in place
	}
	free := float64(f.DiskFreeBytes) / float64(max(in.DiskBytes, 1))
	const fix = "make room, or give /var/lib a larger disk"
	switch {
	case f.DiskFreeBytes < want.disk:
		j.add(Error, "disk", on, fix, "%s free below /var/lib; %s needs %s", ui.Bytes(f.DiskFreeBytes), roles, ui.Bytes(want.disk))
	case !h.IsNode() || in.DiskBytes == 0:
	case free < evictSpace && !j.contained:
		j.add(Error, "disk", on, fix, "%.0f %% of the disk below /var/lib is free (%s of %s): below %.0f %% the kubelet evicts pods", 100*free, ui.Bytes(f.DiskFreeBytes), ui.Bytes(in.DiskBytes), 100*evictSpace)
	case in.InodesFree < evictInodes:
		j.add(Error, "disk", on, "remove small files below /var/lib, or make its file system anew with more inodes",
			"%.0f %% of the inodes below /var/lib are free: below %.0f %% the kubelet evicts pods", 100*in.InodesFree, 100*evictInodes)
	case free < warnSpace && !j.contained:
		j.add(Warning, "disk", on, fix, "%.0f %% of the disk below /var/lib is free: below %.0f %% the kubelet evicts pods", 100*free, 100*evictSpace)
	}
}

func (j *judge) kernel(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	if v, err := version.ParseGeneric(f.Kernel); err == nil && v.LessThan(version.MustParseGeneric(minKernel)) {
		j.add(Error, "kernel", on, "boot a newer kernel; on Debian 11 there is one in bullseye-backports, RHEL has one from release 9",
			"kernel %s is too old: kube-proxy needs %s for nftables", f.Kernel, minKernel)
	}
	var absent, unknown []string
	for _, name := range []string{"overlay", "br_netfilter", "nf_tables", "nf_conntrack", "veth", "bridge", "vxlan"} {
		if name == "vxlan" && j.c.Spec.Network.CNI != spec.CNIFlannel {
			continue
		}
		switch in.Features[name] {
		case facts.Absent:
			absent = append(absent, name)
		case facts.Unknown:
			unknown = append(unknown, name)
		}
	}
	if len(absent) > 0 {
		j.add(Error, "kernel", on, "install the kernel's other modules (Ubuntu: linux-modules-extra-"+f.Kernel+", RHEL: kernel-modules-extra), or boot the distribution's own kernel",
			"the kernel %s lacks %s", f.Kernel, strings.Join(absent, ", "))
	}
	if len(unknown) > 0 {
		j.add(Warning, "kernel", on, "see that they exist with modprobe: neither the kernel's configuration nor its modules can be read",
			"cannot see whether the kernel has %s", strings.Join(unknown, ", "))
	}
	var missing []string
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(in.Controllers, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		j.add(Error, "cgroups", on, "switch them on by the kernel's command line, such as cgroup_enable=memory, and reboot",
			"the cgroup controllers %s are off: the kubelet does not start without them", strings.Join(missing, ", "))
	}
	if !f.CgroupV2 && f.Container == "" {
		j.add(Warning, "cgroups", on, "boot with systemd.unified_cgroup_hierarchy=1, before there is a cluster on the host",
			"cgroup v1: it works now, and Kubernetes is taking its support away")
	}
}

func (j *judge) node(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	if f.SwapBytes > 0 && f.Container == "" {
		j.add(Error, "swap", on, "`swapoff -a`, and take it out of /etc/fstab (or mask its systemd unit), so that it stays off after a reboot",
			"%s of swap are on: the kubelet does not start with swap", ui.Bytes(f.SwapBytes))
	}
	if in.OtherContainerd && !(j.built && f.Kubernetes.KubeletConfig) { // an adopted node keeps its own
		j.add(Warning, "runtime", on, "see that nothing else needs it: `ctr namespaces list`; Docker has its containers in the namespace moby",
			"another containerd is set up here: apply replaces its unit and its configuration")
	}
}

func (j *judge) identity(h spec.Host, f *facts.Facts, _ facts.Inspection) {
	on := []string{h.Name}
	if _, ok := f.Interface(h.Address); !ok {
		var have []string
		for _, a := range f.Addresses {
			have = append(have, a.IP+" on "+a.Interface)
		}
		j.add(Error, "address", on, "put the address into the spec that the host itself has: etcd, the kubelet and keepalived bind to it",
			"no interface has the address %s; it has %s", h.Address, cmp.Or(strings.Join(have, ", "), "none"))
	}
	if short, _, _ := strings.Cut(f.Hostname, "."); !strings.EqualFold(short, h.Name) {
		j.add(Warning, "hostname", on, "`hostnamectl set-hostname "+h.Name+"`, or give the host its own name in the spec",
			"it calls itself %s: logs and alerts will name it differently than the cluster does", f.Hostname)
	}
	if f.MachineID == "" {
		j.add(Error, "machine-id", on, "`systemd-machine-id-setup`", "/etc/machine-id is empty or missing")
	}
}

func (j *judge) packages(h spec.Host, f *facts.Facts, in facts.Inspection) {
	lacks := hostconfig.Lacks(j.c, h, f)
	if len(lacks) == 0 {
		return
	}
	if f.Family == "" {
		j.add(Error, "packages", []string{h.Name}, "install what provides these programs", "%s missing, and there is no package manager that apply knows", isAre(lacks))
		return
	}
	p := f.Family.Packages(lacks)
	if away := outOfReach(in.Repositories); away != "" {
		j.add(Error, "packages", []string{h.Name}, "open the way there, name a mirror or a proxy in the host's configuration of "+f.Family.Manager()+", or install them from files: "+strings.Join(p, ", "),
			"%s missing, and the host reaches none of its package repositories: %s", isAre(lacks), away)
		return
	}
	j.add(Info, "packages", []string{h.Name}, "nothing, if the host reaches its package repositories; else, there: `"+f.Family.Command(p)+"`",
		"%s missing; apply installs them with %s", isAre(lacks), f.Family.Manager())
}

// outOfReach says why, where all repositories are.
func outOfReach(all []facts.Repository) string {
	var why []string
	for _, r := range all {
		if r.Error == "" {
			return ""
		}
		why = append(why, r.Error)
	}
	return strings.Join(why, ", ")
}

func isAre(words []string) string {
	if len(words) == 1 {
		return words[0] + " is"
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1] + " are"
}

// otherDistributions are files that kubeadm never makes.
var otherDistributions = []string{"/etc/rancher/", "/var/lib/rancher", "/var/lib/k0s", "/var/snap/microk8s"}

// leftovers of another cluster are what is on a host that is not known to belong to this one: of a cluster that exists, by
// its CA; of one whose build was cut short, because Quorate's bundle comes before anything else.
func (j *judge) leftovers(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on, left := []string{h.Name}, in.Leftovers
	k := f.Kubernetes
	own := f.Binaries != ""
	if k.CA != "" {
		own = k.CA == j.ca && (own || j.built)
	}
	var files []string
	for _, file := range left.Files {
		if !own || slices.ContainsFunc(otherDistributions, func(p string) bool { return strings.HasPrefix(file, p) }) {
			files = append(files, file)
		}
	}
	if len(files) > 0 {
		fix := "if nothing of it is needed any more: `kubeadm reset --force`, then `rm -rf /etc/kubernetes /var/lib/etcd /var/lib/kubelet /etc/cni/net.d`, and reboot; k3s, RKE2, k0s and MicroK8s bring a command to remove themselves"
		j.add(Error, "leftovers", on, fix, "it belongs, or belonged, to another cluster: there is %s", few(files))
	}
	if j.c.Spec.Network.CNI == spec.CNIFlannel && h.IsNode() {
		j.plugins(on, left.CNI)
	}
	if own || !h.IsNode() {
		return
	}
	for _, link := range left.Interfaces {
		severity, why := Warning, "a network of an earlier cluster may still use it"
		if link == "cni0" {
			severity, why = Error, "it has an earlier cluster's address, and pods would get no network"
		}
		j.add(severity, "leftovers", on, "`ip link delete "+link+"`, or reboot", "the interface %s is there: %s", link, why)
	}
}

// plugins are other configurations of the network: the runtime uses the first by name.
func (j *judge) plugins(on, files []string) {
	for _, file := range files {
		if path.Base(file) < "10-flannel.conflist" {
			j.add(Error, "leftovers", on, "move it away", "%s is read before flannel's configuration: pods would get that network", file)
		} else {
			j.add(Warning, "leftovers", on, "move it away", "%s configures another network; flannel's comes first, and it would be used if that were gone", file)
		}
	}
}

// Port is one that a role listens on, and the program that does.
type Port struct {
	Number  int
	Program string
}

// Ports are what has to be free on a host.
func Ports(c *spec.Cluster, h spec.Host) []Port {
	var out []Port
	if h.Has(spec.RoleControlPlane) {
		out = append(out, Port{6443, "kube-apiserver"}, Port{10257, "kube-controller-manager"}, Port{10259, "kube-scheduler"})
	}
	if hasMember(c, h) {
		out = append(out, Port{2379, "etcd"}, Port{2380, "etcd"}, Port{2381, "etcd"})
	}
	if h.IsNode() {
		out = append(out, Port{10250, "kubelet"}, Port{10248, "kubelet"}, Port{10249, "kube-proxy"}, Port{10256, "kube-proxy"})
	}
	if c.Balances(h) {
		out = append(out, Port{8404, "haproxy"})
		if !sharesPort(c, h) {
			out = append(out, Port{endpointPort(c), "haproxy"})
		}
	}
	return out
}

// hasMember says whether the host runs an etcd member that Quorate manages.
func hasMember(c *spec.Cluster, h spec.Host) bool {
	return slices.ContainsFunc(c.EtcdHosts(), func(e spec.Host) bool { return e.Name == h.Name })
}

func (j *judge) ports(h spec.Host, f *facts.Facts, in facts.Inspection) {
	for _, l := range in.Listeners {
		wanted := Ports(j.c, h)
		i := slices.IndexFunc(wanted, func(p Port) bool { return p.Number == l.Port })
		if i < 0 || l.Own {
			continue
		}
		program := wanted[i].Program
		if isProgram(l.Program, program) && program != "haproxy" && (j.built || f.Binaries != "") {
			continue
		}
		if b := j.obs.Hosts[h.Name].Balancer; program == "haproxy" && l.Program == "haproxy" && (j.obs.Others() || j.built && b != nil && b.Others != nil) {
			continue // the cluster that is, or is being, adopted is reached through it
		}
		holder := cmp.Or(l.Program, "a program that cannot be seen")
		fix := "stop it, or move it to another port"
		if l.PID != 0 {
			holder += fmt.Sprintf(" (process %d)", l.PID)
			fix += fmt.Sprintf("; `systemctl status %d` says what it belongs to", l.PID)
		}
		j.add(Error, "ports", []string{h.Name}, fix, "port %d is taken by %s, and %s needs it", l.Port, holder, program)
	}
}

// isProgram compares with the name that the kernel keeps, which is cut after 15 characters.
func isProgram(comm, name string) bool {
	return comm == name || len(comm) == 15 && strings.HasPrefix(name, comm)
}

func (j *judge) security(h spec.Host, in facts.Inspection) {
	on := []string{h.Name}
	for _, w := range in.Firewalls {
		j.add(Warning, "firewall", on, openPorts(j.c, h, w), "%s is on: it decides about the cluster's ports, and about traffic of pods, also after they were seen to be open", w)
	}
	if in.SELinux != "enforcing" {
		return
	}
	if j.c.Balances(h) && in.HAProxyConfined {
		j.add(Error, "selinux", on, "`setsebool -P haproxy_connect_any on`", "SELinux is enforcing and keeps HAProxy from port %d and from the API servers", endpointPort(j.c))
	}
	if h.IsNode() {
		j.add(Warning, "selinux", on, "`setenforce 0` and SELINUX=permissive in /etc/selinux/config, as kubeadm's documentation asks, or try it with your own policy",
			"SELinux is enforcing: containers run without a policy of their own, and this was not tried")
	}
}

const noServer = "name a DNS server in /etc/resolv.conf if pods or packages need names from outside"

func (j *judge) names(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	dead := false
	for _, r := range in.Resolvers {
		switch r.Outcome {
		case facts.TimedOut:
			dead = true
			j.add(Warning, "dns", on, "take it out of /etc/resolv.conf, or make it answer: every lookup that asks it first waits for seconds",
				"the DNS server %s does not answer", r.Server)
		case facts.Refused, facts.Unreachable, facts.Failed:
			if _, own := f.Interface(r.Server); own || strings.HasPrefix(r.Server, "127.") {
				j.add(Info, "dns", on, noServer, "it is its own DNS server, and none runs there")
				continue
			}
			j.add(Info, "dns", on, noServer, "there is no DNS server at %s: %s", r.Server, r.Outcome)
		}
	}
	if in.OwnName.Elapsed > slowName && !dead {
		j.add(Warning, "dns", on, "see which server of /etc/resolv.conf is slow; apply writes the names of the hosts into /etc/hosts",
			"looking up its own name takes %s", ui.Duration(in.OwnName.Elapsed))
	}
	for _, a := range in.OwnName.Addresses {
		ip, err := netip.ParseAddr(a)
		if _, own := f.Interface(a); err == nil && ip.Is4() && !own && !ip.IsLoopback() {
			j.add(Warning, "dns", on, "correct /etc/hosts or the DNS record", "its own name resolves to %s, which is not its address", a)
		}
	}
}
