package inspect

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/hostside/reach"
	"quorate.dev/quorate/internal/hostside/system"
)

// Inspect reads what only preflight needs. It changes nothing.
var Inspect = host.Define("node.inspect", func(ctx context.Context, in facts.InspectRequest) (facts.Inspection, error) {
	release := system.ReadTrimmed("/proc/sys/kernel/osrelease")
	out := facts.Inspection{
		BootID:      system.ReadTrimmed("/proc/sys/kernel/random/boot_id"),
		ProductUUID: strings.ToLower(system.ReadTrimmed("/sys/class/dmi/id/product_uuid")),
		Systemd:     system.Exists("/run/systemd/system"),
		Features:    kernelFeatures(os.DirFS("/"), release),
		Controllers: controllers(),
		ClockKept:   clockKept(),
		Leftovers:   leftovers(),
		Firewalls:   firewalls(ctx),
	}
	out.OtherContainerd = otherContainerd()
	out.SELinux, out.HAProxyConfined = selinux()
	out.MAC, out.MTU = link(in.Address)
	if in.PodTraffic != "" {
		_, out.MTU = link(in.PodTraffic)
	}
	if d, ok := disk("/var/lib"); ok {
		out.DiskBytes, out.InodesFree = d.SizeBytes, d.InodesFree
	}
	out.Volatile, out.Unfit = system.Volatile("/var/lib"), unfit(mountFlags)
	out.Listeners = listeners(in.Ports)
	root := os.DirFS("/")
	out.HostsWriter, out.RuleFlusher, out.CloudRoutes = hostsWriter(root), ruleFlusher(root), enabled(root, "nm-cloud-setup.service") || enabled(root, "nm-cloud-setup.timer")
	out.LaterSettings, out.BlockedModules, out.DropIns = laterSettings(root), blockedModules(root, release), dropIns(root)
	out.ServiceProxies, out.PodServers = serviceProxies(ctx), podServers(ctx, root)
	out.ForwardDrops, out.Networks = forwardDrops(ctx, in.PodCIDR), networks(in.PodCIDR)
	out.IgnoresPings = system.ReadTrimmed("/proc/sys/net/ipv4/icmp_echo_ignore_all") == "1"
	if in.Balances {
		out.Versions = balancer.Versions(ctx)
		out.NoHAProxyUser = out.Versions["haproxy"] != "" && !balancer.UserExists()
	}
	if in.Quick {
		return out, ctx.Err()
	}
	var wg sync.WaitGroup
	wg.Go(func() { out.OwnName = lookup(ctx, in.Name) })
	wg.Go(func() { out.Resolvers = resolvers(ctx, system.ReadTrimmed("/etc/resolv.conf"), in.Name) })
	if in.Repositories {
		wg.Go(func() { out.Repositories = repositories(ctx) })
	}
	wg.Wait()
	return out, ctx.Err()
}, host.Reads)

// ReadClock returns the host's current time. It does nothing else, so that little time passes between request and reply.
var ReadClock = host.Define("node.clock", func(context.Context, struct{}) (time.Time, error) { return time.Now(), nil }, host.Reads)

// features are the parts of the kernel that nodes need, by the name of their module, with the symbol that configures each.
var features = map[string]string{
	"overlay": "CONFIG_OVERLAY_FS", "br_netfilter": "CONFIG_BRIDGE_NETFILTER", "nf_tables": "CONFIG_NF_TABLES",
	"nf_conntrack": "CONFIG_NF_CONNTRACK", "vxlan": "CONFIG_VXLAN", "veth": "CONFIG_VETH", "bridge": "CONFIG_BRIDGE",
	// For network policies. See preflight.
	"nft_queue": "CONFIG_NFT_QUEUE", "nft_compat": "CONFIG_NFT_COMPAT", "xt_NFQUEUE": "CONFIG_NETFILTER_XT_TARGET_NFQUEUE", "nfnetlink_queue": "CONFIG_NETFILTER_NETLINK_QUEUE",
}

// kernelFeatures finds out without loading anything: what is loaded or built in is there, what has a file can be loaded.
func kernelFeatures(root fs.FS, release string) map[string]facts.Feature {
	modules := "lib/modules/" + release + "/"
	builtin, _ := fs.ReadFile(root, modules+"modules.builtin")
	dep, depErr := fs.ReadFile(root, modules+"modules.dep")
	config, known := kernelConfig(root, release)
	out := map[string]facts.Feature{}
	for name, symbol := range features {
		_, err := fs.Stat(root, "sys/module/"+name)
		switch {
		case err == nil || config[symbol] == "y" || moduleListed(builtin, name, "\n"):
			out[name] = facts.Present
		case moduleListed(dep, name, ":"):
			out[name] = facts.Loadable
		case known && config[symbol] == "" || depErr == nil:
			out[name] = facts.Absent // not configured, or configured as a module that is not installed
		default:
			out[name] = facts.Unknown
		}
	}
	return out
}

// moduleListed finds a module among paths such as kernel/fs/overlayfs/overlay.ko.xz, each followed by end.
func moduleListed(list []byte, name, end string) bool {
	for line := range bytes.Lines(list) {
		path, _, _ := strings.Cut(string(line), end)
		file, _, _ := strings.Cut(filepath.Base(strings.TrimSpace(path)), ".")
		if strings.ReplaceAll(file, "-", "_") == name {
			return true
		}
	}
	return false
}

func kernelConfig(root fs.FS, release string) (map[string]string, bool) {
	text := []byte("\n")
	read := func(more []byte) { text = append(text, more...) }
	if packed, err := fs.ReadFile(root, "proc/config.gz"); err == nil {
		if z, err := gzip.NewReader(bytes.NewReader(packed)); err == nil {
			more, _ := io.ReadAll(z)
			read(more)
		}
	}
	for _, path := range []string{"boot/config-" + release, "lib/modules/" + release + "/config", "usr/lib/modules/" + release + "/config"} {
		if len(text) == 1 {
			more, _ := fs.ReadFile(root, path)
			read(more)
		}
	}
	config := map[string]string{}
	for _, symbol := range features {
		if _, rest, ok := bytes.Cut(text, []byte("\n"+symbol+"=")); ok && len(rest) > 0 {
			config[symbol] = string(rest[:1])
		}
	}
	return config, len(text) > 1
}

func controllers() []string {
	if v2 := system.ReadTrimmed("/sys/fs/cgroup/cgroup.controllers"); v2 != "" {
		return strings.Fields(v2)
	}
	var out []string
	for line := range strings.Lines(system.ReadTrimmed("/proc/cgroups")) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "1" {
			out = append(out, f[0])
		}
	}
	return out
}

// clockKept asks the kernel whether a time service disciplines its clock.
func clockKept() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}

// link is the hardware address and the MTU of the interface that has the address.
func link(address string) (mac string, mtu int) {
	links, _ := net.Interfaces()
	for _, l := range links {
		addrs, _ := l.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.String() == address {
				return l.HardwareAddr.String(), l.MTU
			}
		}
	}
	return "", 0
}

// clusterFiles are traces of a cluster on a host, of kubeadm and of other distributions.
var clusterFiles = []string{
	"/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf", "/etc/kubernetes/kubelet.conf", "/etc/kubernetes/controller-manager.conf",
	"/etc/kubernetes/scheduler.conf", "/etc/kubernetes/manifests/*.yaml", "/etc/kubernetes/pki/ca.crt", "/var/lib/etcd/member",
	"/var/lib/kubelet/config.yaml", "/var/lib/kubelet/pki/kubelet-client-current.pem",
	"/etc/rancher/k3s", "/etc/rancher/rke2", "/var/lib/rancher", "/var/lib/k0s", "/var/snap/microk8s",
}

// clusterLinks are interfaces that CNI plugins create and that outlive them.
var clusterLinks = []string{"cni0", "flannel.", "flannel-v6.", "cali", "tunl0", "vxlan.calico", "cilium_", "kube-ipvs0", "weave"}

func leftoverFiles(root string) (out []string) {
	for _, pattern := range clusterFiles {
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		out = append(out, found...)
	}
	return out
}

func leftovers() facts.Leftovers {
	out := facts.Leftovers{Files: leftoverFiles("")}
	for _, kind := range []string{"conf", "conflist", "json"} {
		found, _ := filepath.Glob("/etc/cni/net.d/*." + kind)
		for _, f := range found {
			if filepath.Base(f) != "10-flannel.conflist" || !bytes.Contains(system.ReadAll(f), []byte(`"name": "cbr0"`)) {
				out.CNI = append(out.CNI, f)
			}
		}
	}
	slices.Sort(out.CNI)
	links, _ := net.Interfaces()
	for _, l := range links {
		if slices.ContainsFunc(clusterLinks, func(p string) bool { return strings.HasPrefix(l.Name, p) }) {
			out.Interfaces = append(out.Interfaces, l.Name)
		}
	}
	return out
}

// otherContainerd reports whether a containerd is set up here that Quorate did not install.
func otherContainerd() bool {
	if programs.Unpacked() {
		return false
	}
	return system.Exists("/run/containerd/containerd.sock") || system.Exists("/etc/containerd/config.toml")
}

func firewalls(ctx context.Context) []string {
	var out []string
	// Most hosts do not have firewalld, and starting a program costs more than looking for one.
	if _, err := exec.LookPath("firewalld"); err == nil {
		if units, err := system.Units(ctx, "firewalld.service"); err == nil && units["firewalld.service"].Active == "active" {
			out = append(out, "firewalld")
		}
	}
	// The unit of ufw is active on every Ubuntu; its own configuration says whether it filters anything.
	for line := range strings.Lines(system.ReadTrimmed("/etc/ufw/ufw.conf")) {
		if strings.EqualFold(strings.TrimSpace(line), "ENABLED=yes") {
			out = append(out, "ufw")
		}
	}
	return out
}

func selinux() (mode string, haproxyConfined bool) {
	switch system.ReadTrimmed("/sys/fs/selinux/enforce") {
	case "1":
		everyPort := system.ReadTrimmed("/sys/fs/selinux/booleans/haproxy_connect_any")
		return "enforcing", strings.HasPrefix(everyPort, "0")
	case "0":
		return "permissive", false
	}
	return "", false
}

// listeners are the programs that listen on the ports, on any address.
func listeners(ports []int) []facts.Listener {
	inodes, sockets := map[string]int{}, map[string]socket{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.Open(file)
		if err != nil {
			continue
		}
		for _, s := range listening(table) {
			if slices.Contains(ports, s.port) {
				inodes[s.inode], sockets[s.inode] = s.port, s
			}
		}
		table.Close()
	}
	var out []facts.Listener
	if len(inodes) == 0 {
		return out
	}
	owners := owners(inodes)
	for inode, port := range inodes {
		l := facts.Listener{Port: port, Addresses: []netip.Addr{sockets[inode].address}, PID: owners[inode]}
		if l.PID != 0 {
			l.Program = system.ReadTrimmed(filepath.Join("/proc", strconv.Itoa(l.PID), "comm"))
		}
		l.Own = l.Program == "haproxy" && bytes.Contains(system.ReadAll("/etc/haproxy/haproxy.cfg"), []byte("Written by quorate"))
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b facts.Listener) int { return cmp.Or(a.Port-b.Port, a.PID-b.PID) })
	// A program that listens on several addresses is one listener.
	var merged []facts.Listener
	for _, l := range out {
		if n := len(merged) - 1; n >= 0 && merged[n].Port == l.Port && merged[n].Program == l.Program {
			merged[n].Addresses = append(merged[n].Addresses, l.Addresses...)
			continue
		}
		merged = append(merged, l)
	}
	return merged
}

type socket struct {
	address netip.Addr
	port    int
	inode   string
}

// listening reads the sockets in state LISTEN from a table of /proc/net. The kernel lists them before all others. It creates the
// table while it is read, and the rest of it takes long: it has every connection of the host.
func listening(table io.Reader) []socket {
	var out []socket
	lines := bufio.NewScanner(table)
	lines.Scan() // the names of the columns
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != "0A" {
			break
		}
		hexAddress, hexPort, _ := strings.Cut(f[1], ":")
		address, ok := procAddress(hexAddress)
		if port, err := strconv.ParseUint(hexPort, 16, 16); err == nil && ok {
			out = append(out, socket{address, int(port), f[9]})
		}
	}
	return out
}

// procAddress reads an address of a table of /proc/net: hexadecimal words of 32 bits in the byte order of the machine, which is
// little-endian on every architecture that Quorate is built for.
func procAddress(text string) (netip.Addr, bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}

// owners finds the processes that hold sockets, by inode.
func owners(inodes map[string]int) map[string]int {
	out := map[string]int{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if inode = strings.TrimSuffix(inode, "]"); !ok || inodes[inode] == 0 || out[inode] != 0 {
			continue
		}
		out[inode], _ = strconv.Atoi(strings.Split(fd, "/")[2])
	}
	return out
}

// Deadlines for name lookups, longer than any working server needs.
const (
	nameTimeout   = 6 * time.Second
	serverTimeout = 2 * time.Second
)

func lookup(ctx context.Context, name string) facts.Lookup {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	begin := time.Now()
	addresses, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, name)
	out := facts.Lookup{Addresses: addresses, Elapsed: time.Since(begin)}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// resolvers queries every DNS server separately, because an ordinary lookup continues with the next server and would hide a
// dead one behind its delay.
func resolvers(ctx context.Context, resolvConf, name string) []facts.Resolver {
	servers := nameservers(resolvConf)
	out := make([]facts.Resolver, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() { out[i] = askServer(ctx, server, name) })
	}
	wg.Wait()
	return out
}

// askServer sends one query, up to three times. Any answer counts, even that the name does not exist.
func askServer(ctx context.Context, server, name string) facts.Resolver {
	out := facts.Resolver{Server: server, Outcome: facts.TimedOut}
	address := net.JoinHostPort(server, "53")
	begin := time.Now()
	for range 3 {
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
		if err != nil {
			out.Outcome, _ = reach.OutcomeOf(err)
			break
		}
		conn.SetDeadline(time.Now().Add(serverTimeout)) //nolint:errcheck // a UDP socket has deadlines
		_, err = conn.Write(dnsQuestion(name))
		if err == nil {
			_, err = conn.Read(make([]byte, 512))
		}
		conn.Close()
		out.Elapsed = time.Since(begin)
		if out.Outcome, _ = reach.OutcomeOf(err); out.Outcome != facts.TimedOut {
			break
		}
	}
	return out
}

// dnsQuestion is a query for the IPv4 addresses of a name of one label.
func dnsQuestion(name string) []byte {
	q := []byte{0x51, 0x75, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 1, 0, 1)
}
