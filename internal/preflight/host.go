package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// need is what a role cannot do without.
type need struct {
	cpus         int
	memory, disk int64
}

const mib = 1 << 20

// needs are kubeadm's own figures for control planes; for the others, what the role's programs were measured to take, and room
// to work.
var needs = map[string]need{
	spec.RoleControlPlane: {2, 1700 * mib, 5120 * mib},
	spec.RoleWorker:       {1, 700 * mib, 4096 * mib},
	spec.RoleEtcd:         {1, 700 * mib, 3072 * mib},
	spec.RoleLoadBalancer: {1, 200 * mib, 512 * mib},
}

const (
	// minKernel is what kube-proxy needs in its nftables mode.
	minKernel = "5.13"
	// Below these parts of the disk the kubelet evicts pods: its defaults for images and for inodes. Where all nodes are
	// containers it goes by less space than any node needs here (hostconfig.InContainers).
	evictSpace, evictInodes = 0.15, 0.05
	warnSpace               = 0.20

	skewWarning, skewError = 500 * time.Millisecond, 5 * time.Second
	callerSkew             = time.Minute
	// backdated is for how long before they are made certificates are valid (CertificateBackdate of kubeadm).
	backdated = 5 * time.Minute
	slowName  = time.Second
)

func (j *judge) host(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	if f.Family == "" {
		j.add(warning, "os", on, "Use Debian, Ubuntu, or a system of the RHEL family. Other systems may work, but were not tested.",
			"the system of HOSTS (%s) belongs neither to the Debian nor to the RHEL family", cmp.Or(f.OS, "it does not say which"))
	}
	if !in.Systemd {
		j.add(failure, "systemd", on, "Use a system that boots with systemd: containerd, the kubelet and HAProxy run as its units.", "systemd is not process 1 on HOSTS")
	}
	if in.Volatile != "" {
		j.add(failure, "volatile", on, "If this is a rescue or live system, boot the installed one, or install one. Otherwise put /var/lib on a file system of its own.",
			"/var/lib on HOSTS is not on a disk (%s): what is stored there is gone after a boot", in.Volatile)
	}
	j.mounts(h, in)
	if h.IsNode() || h.Has(spec.RoleEtcd) {
		j.architecture(h, f)
	}
	j.size(h, f, in)
	if h.IsNode() {
		j.kernel(h, f, in)
		j.node(h, f, in)
	}
	j.surroundings(h, f, in)
	j.ranges(h, f, in)
	j.identity(h, f, in)
	j.packages(h, f, in)
	j.leftovers(h, f, in)
	j.taken(h, f, in, Ports(j.c, h))
	j.security(h, in)
	j.balancer(h, f, in)
	j.names(h, f, in)
	if !in.ClockKept && f.Container == "" {
		j.add(warning, "clock", on, "Run `timedatectl set-ntp true`, or install chrony.", "no time service sets the clock of HOSTS: it will drift")
	}
}

// mounts judges the directories that the host's roles need.
func (j *judge) mounts(h spec.Host, in facts.Inspection) {
	on := []string{h.Name}
	for _, u := range in.Unfit {
		if strings.HasPrefix(u.Dir, "/opt/") && !h.IsNode() && !hasMember(j.c, h) {
			continue // no bundle is unpacked there
		}
		if u.Option == "noexec" {
			j.add(failure, "mounts", on, "Mount it without noexec (`findmnt --target "+u.Dir+"` shows the mount; /etc/fstab or a mount unit has its options), or mount a file system of its own there.",
				"%s on HOSTS is mounted with the option noexec: the programs that Quorate installs there could not run", u.Dir)
			continue
		}
		j.add(failure, "mounts", on, "Make it writable (`findmnt --target "+u.Dir+"` shows the mount), or mount a file system of its own there. Quorate does not support systems whose directories are read-only.",
			"%s on HOSTS is read-only: Quorate could not write there", u.Dir)
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
		j.add(failure, "cpu", on, "Give the host more CPUs, or another role.", "%s on HOSTS is too few: %s needs %d", ui.Plural(f.CPUs, "CPU"), roles, want.cpus)
	}
	if f.MemoryBytes < want.memory {
		j.add(failure, "memory", on, "Give the host more memory, or another role.", "%s of memory on HOSTS is too little: %s needs %s", ui.Bytes(f.MemoryBytes), roles, ui.Bytes(want.memory))
	}
	j.planned(h, f)
	for _, p := range places(j.c, h, f, in, want.disk) {
		j.disk(p, h.Name, roles)
	}
}

// planned compares the host with what its most demanding role needs in a cluster of the planned size. Firmware and kernel take some of
// the memory that a machine is sold with.
func (j *judge) planned(h spec.Host, f *facts.Facts) {
	nodes, pods := j.c.Planned()
	whole := size.Cluster{Nodes: nodes, Pods: pods}
	if whole.Small() || f.Container != "" {
		return
	}
	var want size.Machine
	for role, m := range map[string]size.Machine{spec.RoleControlPlane: whole.ControlPlane(), spec.RoleEtcd: whole.EtcdHost(), spec.RoleLoadBalancer: size.LoadBalancer(j.c.Spec.LoadBalancer.MaxConnections)} {
		if h.Has(role) {
			want = size.Machine{CPUs: max(want.CPUs, m.CPUs), MemoryBytes: max(want.MemoryBytes, m.MemoryBytes)}
		}
	}
	if f.CPUs >= want.CPUs && f.MemoryBytes >= want.MemoryBytes/10*9 {
		return
	}
	j.add(warning, "size", []string{h.Name}, "Give the host more, or plan a smaller cluster (spec.size). `quorate size` says what each size needs, and why.",
		"%s and %s of memory on HOSTS are little for %s in a cluster of %d nodes and %d pods: it is to have %s and %s", ui.Plural(f.CPUs, "CPU"), ui.Bytes(f.MemoryBytes),
		strings.Join(h.Roles, " and "), nodes, pods, ui.Plural(want.CPUs, "CPU"), ui.Bytes(want.MemoryBytes))
}

// place is a file system that has to hold something.
type place struct {
	dir string
	facts.Disk
	need int64
	// measured says that the kubelet evicts pods when it fills up.
	measured bool
}

// containerdDir is where containerd keeps images and containers.
const containerdDir = "/var/lib/containerd"

// shares are what of a role's need goes below a directory that may be a file system of its own.
var shares = map[string]int64{containerdDir: 2560 * mib, "/var/lib/etcd": 1024 * mib, "/var/lib/kubelet": 512 * mib}

// places are the file system that holds /var/lib and those that are mounted below it, each with what goes there. The
// kubelet measures those of its own directory and of containerd's.
func places(c *spec.Cluster, h spec.Host, f *facts.Facts, in facts.Inspection, need int64) []place {
	rest := place{"/var/lib", facts.Disk{FreeBytes: f.DiskFreeBytes, SizeBytes: in.DiskBytes, InodesFree: in.InodesFree}, need, false}
	if f.Images != "" {
		rest.need = min(need, 2048*mib) // the larger part is in place
	}
	out := []place{rest}
	for _, dir := range slices.Sorted(maps.Keys(shares)) {
		holds := h.IsNode()
		if dir == "/var/lib/etcd" {
			holds = hasMember(c, h)
		}
		disk, own := f.Disks[dir]
		switch {
		case !holds:
		case own:
			p := place{dir, disk, shares[dir], dir != "/var/lib/etcd"}
			if dir == containerdDir && f.Images != "" {
				p.need = min(p.need, 1024*mib)
			}
			out = append(out, p)
			out[0].need -= shares[dir]
		case dir != "/var/lib/etcd":
			out[0].measured = true
		}
	}
	out[0].need = max(out[0].need, 512*mib)
	return out
}

// disk compares a file system with what goes there.
func (j *judge) disk(p place, host, roles string) {
	on := []string{host}
	free := float64(p.FreeBytes) / float64(max(p.SizeBytes, 1))
	fix := "Free space, or give " + p.dir + " a larger disk."
	switch {
	case p.FreeBytes < p.need:
		j.add(failure, "disk", on, fix, "%s free below %s on HOSTS is too little: %s needs %s", ui.Bytes(p.FreeBytes), p.dir, roles, ui.Bytes(p.need))
	case !p.measured || p.SizeBytes == 0:
	case free < evictSpace && !j.contained:
		j.add(failure, "disk", on, fix, "%.0f %% of the disk below %s on HOSTS is free (%s of %s): below %.0f %% the kubelet evicts pods", 100*free, p.dir, ui.Bytes(p.FreeBytes), ui.Bytes(p.SizeBytes), 100*evictSpace)
	case p.InodesFree < evictInodes:
		j.add(failure, "disk", on, "Remove small files below "+p.dir+", or create its file system again with more inodes.",
			"%.0f %% of the inodes below %s on HOSTS are free: below %.0f %% the kubelet evicts pods", 100*p.InodesFree, p.dir, 100*evictInodes)
	case free < warnSpace && !j.contained:
		j.add(warning, "disk", on, fix, "%.0f %% of the disk below %s on HOSTS is free: below %.0f %% the kubelet evicts pods", 100*free, p.dir, 100*evictSpace)
	}
}

// architecture finds hosts for which there are no bundles.
func (j *judge) architecture(h spec.Host, f *facts.Facts) {
	switch on := []string{h.Name}; {
	case f.Arch == "":
		j.add(failure, "architecture", on, "Run `quorate preflight` again with this version of quorate, which asks the hosts for it.", "the architecture of HOSTS is unknown, so no bundle can be chosen")
	case !slices.Contains(components.Architectures, f.Arch):
		j.add(failure, "architecture", on, "Use hosts whose architecture is "+strings.Join(components.Architectures, " or ")+".", "the architecture of HOSTS is %s, for which there are no bundles", f.Arch)
	}
}

func (j *judge) kernel(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	if v, err := version.ParseGeneric(f.Kernel); err == nil && v.LessThan(version.MustParseGeneric(minKernel)) {
		j.add(failure, "kernel", on, "Boot a newer kernel. Debian 11 has one in bullseye-backports; RHEL has one from release 9 on.",
			"the kernel of HOSTS (%s) is too old: kube-proxy needs %s for nftables", f.Kernel, minKernel)
	}
	var absent, unknown []string
	needed := []string{"overlay", "br_netfilter", "nf_tables", "nf_conntrack", "veth", "bridge"}
	if j.c.Spec.Network.CNI == spec.CNIFlannel {
		needed = append(needed, "vxlan")
	}
	for _, name := range needed {
		switch in.Features[name] {
		case facts.Absent:
			absent = append(absent, name)
		case facts.Unknown:
			unknown = append(unknown, name)
		}
	}
	if len(absent) > 0 {
		j.add(failure, "kernel", on, "Install the other modules of the kernel (Ubuntu: linux-modules-extra-"+f.Kernel+", RHEL: kernel-modules-extra), or boot the distribution's own kernel.",
			"the kernel of HOSTS (%s) lacks %s", f.Kernel, strings.Join(absent, ", "))
	}
	if len(unknown) > 0 {
		j.add(warning, "kernel", on, "Check with `modprobe` that it has them.",
			"whether the kernel of HOSTS has %s is unknown: neither its configuration nor its modules can be read", strings.Join(unknown, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(in.BlockedModules)) {
		if have := in.Features[name]; f.Container == "" && (have == facts.Loadable || have == facts.Present) && slices.Contains(needed, name) {
			j.add(failure, "kernel", on, "Remove the line that begins with `install "+name+"` from it.", "%s on HOSTS keeps the kernel module %s from being loaded when the host starts", in.BlockedModules[name], name)
		}
	}
	if j.c.Spec.Network.CNI == spec.CNIFlannel && j.c.Spec.Network.Policies == spec.PoliciesEnforced && cannotQueue(f, in) {
		severity := failure
		if j.Joined(h) {
			severity = warning // it works until there is a policy
		}
		j.add(severity, "kernel", on, "Install the other modules of the kernel (Ubuntu: linux-modules-extra-"+f.Kernel+", RHEL: kernel-modules-extra), boot the distribution's own kernel, or set `policies: ignored` in spec.network.",
			"flannel on HOSTS could not enforce network policies, and would stop at the first one: the kernel (%s) can queue packets neither with nftables (nft_queue) nor with the target of xtables (nft_compat, xt_NFQUEUE)", f.Kernel)
	}
	var missing []string
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(in.Controllers, c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		j.add(failure, "cgroups", on, "Enable them on the kernel's command line, for example with cgroup_enable=memory, and reboot.",
			"the cgroup controllers %s are off on HOSTS: the kubelet does not start without them", strings.Join(missing, ", "))
	}
	switch {
	case f.CgroupV2:
	case j.joins(h, func(f *facts.Facts) bool { return f.CgroupV2 }):
		j.add(failure, "cgroups", on, "Boot with systemd.unified_cgroup_hierarchy=1.",
			"cgroup v1 is in use on HOSTS, and the nodes of the cluster have cgroup v2: a kubelet with their configuration does not start on it")
	case f.Container == "":
		j.add(warning, "cgroups", on, "Boot with systemd.unified_cgroup_hierarchy=1, before the host is part of a cluster.",
			"cgroup v1 is in use on HOSTS, and Kubernetes is removing its support")
	}
}

// cannotQueue says that a kernel certainly cannot hand packets to a program, which flannel needs for network policies. It can with nftables' own
// expression, or with the older target of xtables, each for both IP families. Modules of a container are loaded by the machine below it, whatever the
// container's own modprobe would do.
func cannotQueue(f *facts.Facts, in facts.Inspection) bool {
	lacks := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return in.Features[name] == facts.Absent || f.Container == "" && in.BlockedModules[name] != ""
		})
	}
	return lacks("nfnetlink_queue") || lacks("nft_queue") && lacks("nft_compat", "xt_NFQUEUE")
}

// joins says that the host joins a cluster all of whose nodes, as far as they are known, are like that. It gets a configuration that was
// made for them.
func (j *judge) joins(h spec.Host, like func(*facts.Facts) bool) bool {
	if !j.Exists() || j.Joined(h) {
		return false
	}
	known := 0
	for _, o := range j.c.Spec.Hosts {
		if f := j.Facts(o.Name); f != nil && o.IsNode() && j.Joined(o) {
			if !like(f) {
				return false
			}
			known++
		}
	}
	return known > 0
}

func (j *judge) node(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	if f.SwapBytes > 0 && (f.Container == "" || j.joins(h, func(f *facts.Facts) bool { return f.Container == "" })) {
		j.add(failure, "swap", on, "Run `swapoff -a`, and remove the swap from /etc/fstab, mask its systemd unit, or remove zram-generator or zramswap, so that it stays off after a reboot.",
			"%s of swap is enabled on HOSTS: the kubelet does not start with swap", ui.Bytes(f.SwapBytes))
	}
	if in.OtherContainerd && !(j.Exists() && f.Kubernetes.KubeletConfig) { // an adopted node keeps its own
		j.add(warning, "runtime", on, "Check that nothing else needs it: `ctr namespaces list`. Docker has its containers in the namespace moby.",
			"another containerd is set up on HOSTS, and `quorate apply` replaces its unit and its configuration")
	}
}

// listed are the addresses of a host.
func listed(f *facts.Facts) string {
	var have []string
	for _, a := range f.Addresses {
		have = append(have, a.IP+" on "+a.Interface)
	}
	return cmp.Or(strings.Join(have, ", "), "none")
}

// podTraffic looks for the interface that carries the packets of pods between nodes, as flannel does: the first one with an address in the network.
func (j *judge) podTraffic(h spec.Host, f *facts.Facts) {
	on := []string{h.Name}
	links := map[string]string{} // by range
	for _, cidr := range j.c.Spec.Network.PodTrafficCIDRs() {
		within := f.Within(cidr)
		var have []string
		for _, a := range within {
			if at := a.IP + " on " + a.Interface; !slices.Contains(have, at) {
				have = append(have, at)
			}
		}
		switch {
		case len(within) == 0:
			j.add(failure, "address", on, "Give it an address in that network, or correct network.podTrafficCIDR. Without it, the packets of pods use the network of `address`.",
				"%s has no address in %s, the network that carries the packets of pods (network.podTrafficCIDR); it has %s", h.Name, cidr, listed(f))
			return
		case slices.ContainsFunc(within, func(a facts.Address) bool { return a.Interface != within[0].Interface }):
			j.add(failure, "address", on, "Write a smaller range that has one address of each node, or remove the others from the interfaces.",
				"%s has several addresses in %s, the network that carries the packets of pods (network.podTrafficCIDR), on several interfaces: %s", h.Name, cidr, strings.Join(have, ", "))
			return
		case len(within) > 1:
			j.add(warning, "address", on, "Write a smaller range that has one address of each node, or remove the others.",
				"%s has several addresses in %s, the network that carries the packets of pods (network.podTrafficCIDR): %s. flannel uses the first one", h.Name, cidr, strings.Join(have, ", "))
		}
		links[within[0].Interface] = cidr.String()
	}
	if len(links) > 1 {
		j.add(failure, "address", on, "Use ranges whose addresses are on one interface.",
			"the addresses of %s in %s are on several interfaces: flannel sends the packets of pods through one", h.Name, j.c.Spec.Network.PodTrafficCIDR)
	}
}

func (j *judge) identity(h spec.Host, f *facts.Facts, _ facts.Inspection) {
	on := []string{h.Name}
	if _, ok := f.Interface(h.Address); !ok {
		j.add(failure, "address", on, "Put an address that the host has into the spec: etcd, the kubelet and keepalived bind to it.",
			"no interface of %s has the address %s; it has %s", h.Name, h.Address, listed(f))
	}
	for _, own := range h.AllAddresses() {
		if at, ok := f.Interface(own); ok && at.Unusable() != "" {
			j.add(failure, "address", on, at.FixUnusable(), "%s cannot use its address %s on %s: %s", h.Name, own, at.Interface, at.Unusable())
		}
	}
	first, _ := f.Interface(h.Address)
	switch second, ok := f.Interface(h.SecondaryAddress); {
	case h.SecondaryAddress == "":
	case !ok:
		j.add(failure, "address", on, "Give the host this address, or put the one that it has into the spec as `secondaryAddress`: the kubelet registers the node with it.",
			"no interface of %s has the secondary address %s", h.Name, h.SecondaryAddress)
	case first.Interface != "" && first.Interface != second.Interface && j.c.Spec.Network.CNI == spec.CNIFlannel && j.c.Spec.Network.PodTrafficCIDR == "":
		j.add(failure, "address", on, "Use addresses of one interface, or another pod network (network.cni).",
			"%s has the address %s on %s, but the secondary address %s on %s: flannel sends the packets of pods through one interface", h.Name, h.Address, first.Interface, h.SecondaryAddress, second.Interface)
	}
	if h.IsNode() {
		j.podTraffic(h, f)
	}
	if short, _, _ := strings.Cut(f.Hostname, "."); !strings.EqualFold(short, h.Name) {
		j.add(warning, "hostname", on, "Run `hostnamectl set-hostname "+h.Name+"`, or use the host's own name in the spec.",
			"the host name of %s is %s: logs and alerts will name it differently than the cluster does", h.Name, f.Hostname)
	}
	if f.MachineID == "" {
		j.add(failure, "machine-id", on, "Run `systemd-machine-id-setup`.", "/etc/machine-id is empty or missing on HOSTS")
	}
}

func (j *judge) packages(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	lacks := hostconfig.Lacks(j.c, h, f)
	if len(lacks) == 0 {
		return
	}
	if f.Family == "" {
		j.add(failure, "packages", on, "Install these programs there.", "%s missing on HOSTS, and Quorate does not know the package manager of the system", isAre(lacks))
		return
	}
	p := f.Family.Packages(lacks)
	if away := outOfReach(in.Repositories); away != "" {
		j.add(failure, "packages", on, "Allow the host to reach them, configure a mirror or a proxy for "+f.Family.Manager()+" there, or install the packages from files: "+strings.Join(p, ", ")+".",
			"%s missing on HOSTS, and none of its package repositories can be reached from there: %s", isAre(lacks), away)
		return
	}
	j.add(info, "packages", on, "Nothing, if the host reaches its package repositories. Otherwise run there: `"+f.Family.Command(p)+"`.",
		"%s missing on HOSTS; `quorate apply` installs what is missing with %s", isAre(lacks), f.Family.Manager())
}

// outOfReach says why, where no repository can be reached.
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
	return cluster.List(words) + " are"
}

// otherDistributions are files that kubeadm never makes.
var otherDistributions = []string{"/etc/rancher/", "/var/lib/rancher", "/var/lib/k0s", "/var/snap/microk8s"}

// own says that what a host carries of a cluster is of this one: by Quorate's marks, or by its CA. Quorate marks a host before
// kubeadm runs there for the first time, and installs its programs before anything else.
func (j *judge) own(f *facts.Facts) bool {
	k := f.Kubernetes
	if k.CA != "" && !cluster.SameAuthority(k.CA, j.CA()) {
		return false
	}
	return k.Begun || k.Established || k.Adopted || k.CA != "" && (j.Exists() || f.HasBundle())
}

func (j *judge) leftovers(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on, left := []string{h.Name}, in.Leftovers
	own := j.own(f)
	var files []string
	for _, file := range left.Files {
		if !own || slices.ContainsFunc(otherDistributions, func(p string) bool { return strings.HasPrefix(file, p) }) {
			files = append(files, file)
		}
	}
	switch {
	case len(files) > 0 && !j.conflict(h.Name):
		j.add(failure, "leftovers", on, "If they are no longer needed, run "+facts.HowToClear()+". "+
			"k3s, RKE2, k0s and MicroK8s have their own commands to remove them.", "there are files of another cluster on HOSTS: %s", strings.Join(files, ", "))
	case j.Vanished() != nil && f.Kubernetes.Established:
		j.add(failure, "leftovers", on, "If its disks can be brought back, do that first. If that cluster is gone for good, run `rm "+facts.EstablishedFile+"` there.",
			"the mark of a cluster that was once complete is on HOSTS, but nothing else of that cluster is left")
	}
	if j.c.Spec.Network.CNI == spec.CNIFlannel && h.IsNode() {
		j.plugins(on, left.CNI)
	}
	if own || !h.IsNode() || j.conflict(h.Name) {
		return
	}
	for _, link := range left.Interfaces {
		severity, why := warning, "a network of an earlier cluster may still use it"
		if link == "cni0" {
			severity, why = failure, "it has an address of an earlier cluster, and pods would get no network"
		}
		j.add(severity, "leftovers", on, "Run `ip link delete "+link+"`, or reboot.", "the interface %s exists on HOSTS: %s", link, why)
	}
}

// plugins are other configurations of the network: the runtime uses the first by name.
func (j *judge) plugins(on, files []string) {
	for _, file := range files {
		if path.Base(file) < "10-flannel.conflist" {
			j.add(failure, "leftovers", on, "Move it away.", "%s on HOSTS is read before flannel's configuration, so pods would get that network", file)
		} else {
			j.add(warning, "leftovers", on, "Move it away.", "%s on HOSTS configures another network, which would be used if flannel's configuration were gone", file)
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
	if h.Has(spec.RoleControlPlane) && c.Spec.Monitoring.Exporter {
		out = append(out, Port{spec.ExporterPort, "quorate-host"})
	}
	if h.IsNode() && c.InstallsPrometheus() {
		out = append(out, Port{spec.NodeExporterPort, nodeExporter})
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

// taken finds other programs that listen on ports that a host needs.
func (j *judge) taken(h spec.Host, f *facts.Facts, in facts.Inspection, wanted []Port) {
	for _, l := range in.Listeners {
		i := slices.IndexFunc(wanted, func(p Port) bool { return p.Number == l.Port })
		if i < 0 || l.Own {
			continue
		}
		program := wanted[i].Program
		if program == nodeExporter && len(l.Addresses) > 0 && !l.Accepts(h.Address) {
			continue // it listens on that address only, and other programs may have the others
		}
		if isProgram(l.Program, program) && program != "haproxy" && (j.own(f) || j.Joined(h)) {
			continue
		}
		if b := j.Seen.Hosts[h.Name].Balancer; program == "haproxy" && l.Program == "haproxy" && (j.Stage() == cluster.Foreign || j.Exists() && b != nil && b.Others != nil) {
			continue // the cluster that is, or is being, adopted is reached through it
		}
		holder := cmp.Or(l.Program, "an unknown program")
		fix := "Stop it, or move it to another port."
		if program == nodeExporter && isNodeExporter(l.Program) {
			fix = "Remove that node exporter, because Quorate's has the same metrics, or move it to another port (--web.listen-address=:9101). To keep it, leave out spec.monitoring.prometheus and use a Prometheus of your own (`quorate monitoring scrape`)."
		}
		if l.Program == program {
			holder = "another " + holder
		}
		if l.PID != 0 {
			holder += fmt.Sprintf(" (process %d)", l.PID)
			fix += fmt.Sprintf(" `systemctl status %d` shows what it belongs to.", l.PID)
		}
		j.add(failure, "ports", []string{h.Name}, fix, "port %d on HOSTS is taken by %s, and %s needs it", l.Port, holder, program)
	}
}

const nodeExporter = "node-exporter"

// isNodeExporter says whether a program is a node exporter of somebody else: as its project calls it, as Debian does, or in a container.
func isNodeExporter(comm string) bool {
	return slices.ContainsFunc([]string{"node_exporter", "prometheus-node-exporter", nodeExporter}, func(name string) bool { return isProgram(comm, name) })
}

// isProgram compares with the name that the kernel keeps, which is cut after 15 characters.
func isProgram(comm, name string) bool {
	return comm == name || len(comm) == 15 && strings.HasPrefix(name, comm)
}

func (j *judge) security(h spec.Host, in facts.Inspection) {
	on := []string{h.Name}
	for _, w := range in.Firewalls {
		j.add(warning, "firewall", on, openPorts(j.c, h, w), "%s is active on HOSTS: it filters the ports of the cluster and the traffic of pods, and may block later what is open now", w)
	}
	for _, d := range in.ForwardDrops {
		if !h.IsNode() || d.Pods || len(in.Firewalls) > 0 || j.Joined(h) { // the finding about firewalld or ufw says how to open it for pods
			continue
		}
		pods := j.c.Spec.Network.PodCIDR
		if j.c.Spec.Network.Uses(spec.IPv6) { // only those that see IPv4 are looked at
			for _, p := range j.c.Spec.Network.PodCIDRs() {
				if p.Addr().Is4() {
					pods = p.String()
				}
			}
		}
		fix := "Have that chain accept what comes from " + pods + " and what goes there"
		if strings.HasPrefix(d.Chain, "FORWARD of ") {
			fix += " (Docker: `for d in -s -d; do iptables -I DOCKER-USER $d " + pods + " -j ACCEPT; done` each time that Docker starts, or remove Docker)"
		}
		if d.Unknown != "" || j.c.Spec.Network.CNI != spec.CNIFlannel { // other pod networks have rules of their own in it
			j.add(warning, "firewall", on, fix+", unless it does so already.", "the chain %s on HOSTS drops forwarded packets that it does not accept, and whether its rules accept those of pods is not known (%s): pods may not reach each other", d.Chain, cmp.Or(d.Unknown, "the pod network may change them"))
			continue
		}
		j.add(failure, "firewall", on, fix+".", "the chain %s on HOSTS drops forwarded packets that it does not accept, and has no rule about pods: they would not reach pods on other nodes", d.Chain)
	}
	if in.SELinux != "enforcing" {
		return
	}
	if j.c.Balances(h) && in.HAProxyConfined {
		j.add(failure, "selinux", on, "Run `setsebool -P haproxy_connect_any on`.", "SELinux on HOSTS is enforcing, and keeps HAProxy from port %d and from the API servers", endpointPort(j.c))
	}
	if h.IsNode() {
		j.add(warning, "selinux", on, "Run `setenforce 0` and set SELINUX=permissive in /etc/selinux/config, as kubeadm's documentation asks, or test it with your own policy.",
			"SELinux on HOSTS is enforcing: containers run without a policy of their own, and this was not tested")
	}
}

// loopback says that an address is one of the host itself that no other machine has.
func loopback(address string) bool {
	a, err := netip.ParseAddr(address)
	return err == nil && a.IsLoopback()
}

const noServer = "Put a DNS server into /etc/resolv.conf if pods or packages need names from outside."

func (j *judge) names(h spec.Host, f *facts.Facts, in facts.Inspection) {
	on := []string{h.Name}
	for _, server := range in.PodServers {
		if loopback(server) && h.IsNode() && !j.Joined(h) {
			j.add(failure, "dns", on, "Put the servers that answer behind it into /etc/resolv.conf. If you use systemd-resolved, start it: kubeadm then has pods use the servers of systemd-resolved.",
				"/etc/resolv.conf on HOSTS has the DNS server %s, which pods take for themselves: CoreDNS would find a loop and not start", server)
		}
	}
	dead := false
	for _, r := range in.Resolvers {
		switch r.Outcome {
		case facts.TimedOut:
			dead = true
			j.add(warning, "dns", on, "Remove it from /etc/resolv.conf, or make it answer: every lookup that asks it first waits for seconds.",
				"the DNS server %s does not answer HOSTS", r.Server)
		case facts.Refused, facts.Unreachable, facts.Failed:
			if _, own := f.Interface(r.Server); own || loopback(r.Server) {
				j.add(info, "dns", on, noServer, "/etc/resolv.conf on HOSTS names the host itself as a DNS server, and none runs there")
				continue
			}
			j.add(info, "dns", on, noServer, "/etc/resolv.conf on HOSTS names the DNS server %s, which cannot be used: %s", r.Server, r.Outcome)
		}
	}
	if in.OwnName.Elapsed > slowName && !dead {
		j.add(warning, "dns", on, "Check which server of /etc/resolv.conf is slow. `quorate apply` writes the names of the hosts into /etc/hosts.",
			"%s takes %s to look up its own name", h.Name, ui.Duration(in.OwnName.Elapsed))
	}
	for _, a := range in.OwnName.Addresses {
		ip, err := netip.ParseAddr(a)
		if _, own := f.Interface(a); err == nil && j.c.Spec.Network.Uses(spec.FamilyOf(a)) && !own && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			j.add(warning, "dns", on, "Correct /etc/hosts or the DNS record.", "%s resolves its own name to %s, which is not its address", h.Name, a)
		}
	}
}
