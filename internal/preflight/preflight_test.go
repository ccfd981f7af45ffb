package preflight

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

const gib = 1 << 30

func labSpec() *spec.Cluster {
	c := spec.DefaultLab("test")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprintf("10.0.0.%d", 11+i)
	}
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	return c
}

// healthy are hosts on which nothing is to be found: Debian 12 on machines of their own.
func healthy(c *spec.Cluster) (*facts.Observation, *facts.Preflight) {
	obs := &facts.Observation{Hosts: map[string]facts.Host{}}
	seen := &facts.Preflight{Hosts: map[string]facts.Inspection{}, Clocks: map[string]facts.Clock{}, Errors: map[string]string{}}
	for i, h := range c.Spec.Hosts {
		obs.Hosts[h.Name] = facts.Host{Facts: &facts.Facts{
			Hostname: h.Name, MachineID: fmt.Sprint("machine", i), OS: "Debian GNU/Linux 12 (bookworm)", Family: facts.Debian, Kernel: "6.1.0-18-amd64", Arch: "amd64",
			CPUs: 2, MemoryBytes: 4 * gib, DiskFreeBytes: 30 * gib, CgroupV2: true,
			Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}},
		}}
		in := facts.Inspection{BootID: fmt.Sprint("boot", i), ProductUUID: fmt.Sprintf("4c4c4544-0000-0000-0000-%012d", i), Systemd: true,
			MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), MTU: 1500, Features: map[string]facts.Feature{}, Controllers: strings.Fields("cpuset cpu io memory hugetlb pids"),
			ClockKept: true, DiskBytes: 40 * gib, InodesFree: 0.9,
			Resolvers: []facts.Resolver{{Server: "10.0.0.1", Outcome: facts.Reached}}, OwnName: facts.Lookup{Addresses: []string{"127.0.1.1"}}}
		for _, f := range strings.Fields("overlay br_netfilter nf_tables nf_conntrack veth bridge vxlan nft_queue nft_compat xt_NFQUEUE nfnetlink_queue") {
			in.Features[f] = facts.Loadable
		}
		seen.Hosts[h.Name] = in
		seen.Clocks[h.Name] = facts.Clock{Ahead: time.Duration(i) * time.Millisecond, Uncertainty: 3 * time.Millisecond}
	}
	for _, p := range Paths(c, nil, nil) {
		r := facts.Reach{Path: p, Outcome: facts.Reached}
		if p.Proto == facts.UDP {
			r.Size, r.Fits = 1500, true
		}
		seen.Reach = append(seen.Reach, r)
	}
	return obs, seen
}

func TestNothingIsFoundOnHealthyHosts(t *testing.T) {
	c := labSpec()
	obs, seen := healthy(c)
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestDisksOfTheirOwnTakeWhatGoesThere: a small /var/lib is enough where the images are elsewhere.
func TestDisksOfTheirOwnTakeWhatGoesThere(t *testing.T) {
	c := labSpec()
	obs, seen := healthy(c)
	w := obs.Hosts["worker-a"].Facts
	w.DiskFreeBytes = 3 * gib // of 40: the kubelet would evict pods if it measured this one
	w.Disks = map[string]facts.Disk{"/var/lib/containerd": {FreeBytes: 90 * gib, SizeBytes: 100 * gib, InodesFree: 1}, "/var/lib/kubelet": {FreeBytes: 9 * gib, SizeBytes: 10 * gib, InodesFree: 1},
		"/var/lib/etcd": {}} // there is no member here
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	w.Disks = nil
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) != 1 || found[0].Rule != "disk" {
		t.Errorf("the same without them: %+v", found)
	}
}

type world struct {
	c    *spec.Cluster
	obs  *facts.Observation
	seen *facts.Preflight
}

// monitors has the spec install Prometheus.
func (w world) monitors(storage string) {
	w.c.Spec.Monitoring.Prometheus = spec.Prometheus{Install: true, Retention: "15d", Storage: storage}
}

func (w world) facts(host string) *facts.Facts { return w.obs.Hosts[host].Facts }

func (w world) in(host string, change func(*facts.Inspection)) {
	in := w.seen.Hosts[host]
	change(&in)
	w.seen.Hosts[host] = in
}

func (w world) fail(from, to string, port int, o facts.Outcome, detail string) {
	for i, r := range w.seen.Reach {
		if r.From == from && r.To == to && r.Port == port {
			w.seen.Reach[i].Outcome, w.seen.Reach[i].Detail = o, detail
		}
	}
}

// front gives the load balancers a second interface, and the virtual IP its network.
func (w world) front() {
	w.c.Spec.LoadBalancer.Address = "192.0.2.100"
	for i, h := range w.c.Spec.Hosts {
		if w.c.Balances(h) {
			w.c.Spec.Hosts[i].FrontAddress = strings.Replace(h.Address, "10.0.0.", "192.0.2.", 1)
			f := w.facts(h.Name)
			f.Addresses = append(f.Addresses, facts.Address{IP: w.c.Spec.Hosts[i].FrontAddress, Prefix: 24, Interface: "eth1"})
		}
	}
}

// podTraffic gives the nodes a second interface for the packets of pods.
func (w world) podTraffic() {
	w.c.Spec.Network.PodTrafficCIDR = "10.1.0.0/24"
	for name := range w.obs.Hosts {
		f := w.facts(name)
		f.Addresses = append(f.Addresses, facts.Address{IP: strings.Replace(f.Addresses[0].IP, "10.0.0.", "10.1.0.", 1), Prefix: 24, Interface: "eth1"})
	}
}

// TestPathsOfThePodsNetwork: only the packets of pods are tried, and let in, in their network.
func TestPathsOfThePodsNetwork(t *testing.T) {
	c := labSpec()
	obs, seen := healthy(c)
	w := world{c, obs, seen}
	w.podTraffic()
	s := cluster.Evaluate(c, obs)
	tried := 0
	for _, p := range Paths(c, nil, s) {
		to, _ := c.Host(p.To)
		want := to.Address
		if p.For == podPackets {
			want = strings.Replace(to.Address, "10.0.0.", "10.1.0.", 1)
			tried++
		}
		if p.Address != want {
			t.Errorf("%+v, want the address %s", p, want)
		}
	}
	if tried == 0 {
		t.Error("no path of pods is tried")
	}
	// A host that cannot be queried has a finding of its own.
	silent := maps.Clone(obs.Hosts)
	silent["worker-a"] = facts.Host{Error: "no answer"}
	for _, p := range Paths(c, nil, cluster.Evaluate(c, &facts.Observation{Hosts: silent})) {
		if p.For == podPackets && (p.From == "worker-a" || p.To == "worker-a") {
			t.Errorf("%+v, whose address is not known", p)
		}
	}
	h, _ := c.Host("worker-a")
	for _, l := range Listeners(c, h, s) {
		if (len(l.UDP) > 0) != strings.HasPrefix(l.Address, "10.1.0.") || l.VRRP {
			t.Errorf("it listens on %+v", l)
		}
	}
	for firewall, want := range map[string]string{"ufw": "ufw allow proto udp from 10.1.0.0/24 to any port 8472", "firewalld": "rule family=ipv4 source address=10.1.0.0/24 port port=8472 protocol=udp accept"} {
		if fix := openPorts(c, h, firewall); !strings.Contains(fix, want) || strings.Count(fix, "8472") != 1 {
			t.Errorf("no %q in %s", want, fix)
		}
	}
	if found := Judge(s, seen, nil); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestPathsOfAFrontNetworkThatIsNotUsed: where the virtual IP was moved back into the network of the nodes, it is tried there, also to and from a load balancer that does not answer. The
// firewalls let VRRP in from both networks, because it can move again.
func TestPathsOfAFrontNetworkThatIsNotUsed(t *testing.T) {
	for _, balancers := range []string{spec.RoleLoadBalancer, spec.RoleControlPlane} {
		c := labSpec()
		if balancers == spec.RoleControlPlane {
			c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
		}
		obs, seen := healthy(c)
		vip := c.Spec.LoadBalancer.Address
		world{c, obs, seen}.front()
		c.Spec.LoadBalancer.Address = vip
		lb, peer := c.BalancerHosts()[0], c.BalancerHosts()[1]
		obs.Hosts[peer.Name] = facts.Host{Error: "no answer"}
		s := cluster.Evaluate(c, obs)
		tried := 0
		for _, p := range Paths(c, nil, s) {
			if to, _ := c.Host(p.To); p.Address != to.Address {
				t.Errorf("%+v, want the address %s", p, to.Address)
			} else if p.For == "virtual IP" {
				tried++
			}
		}
		if n := len(c.BalancerHosts()); tried != n*(n-1) {
			t.Errorf("%d paths of VRRP are tried between %d load balancers", tried, n)
		}
		if l := BalancerListener(c, lb, s); l.Address != lb.Address {
			t.Errorf("a new load balancer listens on %+v", l)
		}
		for _, want := range peer.VIPAddresses() {
			if fix := openPorts(c, lb, "ufw"); !regexp.MustCompile("for a in [0-9. ]*" + regexp.QuoteMeta(want) + "[0-9. ]*; do ufw allow proto vrrp").MatchString(fix) {
				t.Errorf("VRRP from %s is not let in: %s", want, fix)
			}
		}
	}
}

// TestPathsOfAFrontNetwork: what uses the virtual IP is tried, and let in, in its network, and everything else in that of the nodes.
func TestPathsOfAFrontNetwork(t *testing.T) {
	for name, balancers := range map[string]string{"own hosts": spec.RoleLoadBalancer, "control planes": spec.RoleControlPlane} {
		t.Run(name, func(t *testing.T) {
			c := labSpec()
			if balancers == spec.RoleControlPlane {
				c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
			}
			obs, seen := healthy(c)
			world{c, obs, seen}.front()
			tried := map[string]int{}
			for _, p := range Paths(c, nil, nil) {
				to, _ := c.Host(p.To)
				tried[p.For]++
				want := to.Address
				if p.For == "virtual IP" || p.For == "endpoint" {
					want = to.FrontAddress
				}
				if p.Address != want {
					t.Errorf("%+v, want the address %s", p, want)
				}
			}
			if tried["virtual IP"] == 0 || tried["endpoint"] == 0 || tried["API"] == 0 {
				t.Errorf("tried are %v", tried)
			}
			for _, h := range c.Spec.Hosts {
				listens := map[string]Listener{}
				for _, l := range Listeners(c, h, nil) {
					listens[l.Address] = l
				}
				if front := listens[h.FrontAddress]; c.Balances(h) != front.VRRP || c.Balances(h) != slices.Contains(front.TCP, 6443) || listens[h.Address].VRRP {
					t.Errorf("%s listens on %+v", h.Name, listens)
				}
			}
			h := c.BalancerHosts()[0]
			fix := openPorts(c, h, "ufw")
			if peer := c.BalancerHosts()[1]; !strings.Contains(fix, peer.FrontAddress) || strings.Contains(fix, "6443,6443") {
				t.Errorf("%s", fix)
			}
			if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
				t.Errorf("%+v", found)
			}
		})
	}
}

// TestFindings changes one thing at a time, and has that found and nothing else. Every check and each of its severities
// must have a case.
func TestFindings(t *testing.T) {
	covered := map[string]bool{}
	for _, tc := range []struct {
		name     string
		change   func(world)
		severity cluster.Severity
		check    string
		hosts    string
		summary  string // a part of it, with the numbers
		fix      string // a part
	}{
		{"dead", func(w world) { w.obs.Hosts["cp-b"] = facts.Host{Error: "cp-b: no SSH connection"} }, failure, "session", "cp-b", "no SSH connection", "reachable"},
		{"deaf", func(w world) {
			delete(w.seen.Hosts, "cp-b")
			delete(w.seen.Clocks, "cp-b")
			w.seen.Errors["cp-b"] = "no answer within 30s"
		}, failure, "session", "cp-b", "no answer within 30s", "again"},
		{"SUSE", func(w world) { w.facts("worker-a").Family, w.facts("worker-a").OS = "", "openSUSE Leap 15.6" }, warning, "os", "worker-a", "openSUSE Leap 15.6", "Debian"},
		{"no systemd", func(w world) { w.in("lb-a", func(i *facts.Inspection) { i.Systemd = false }) }, failure, "systemd", "lb-a", "process 1", "units"},
		{"a slow disk", func(w world) {
			w.c.Spec.Failover.ElectionTimeout = "300ms"
			w.in("cp-b", func(i *facts.Inspection) { i.EtcdFsync = 14 * time.Millisecond })
			w.in("cp-a", func(i *facts.Inspection) { i.EtcdFsync = 9 * time.Millisecond })
		}, failure, cluster.RuleEtcdPatience, "cp-b", "on cp-b take up to 14 ms", "`420ms` or more"},
		{"a disk that cannot be measured", func(w world) {
			w.c.Spec.Failover.ElectionTimeout = "300ms"
			w.in("cp-b", func(i *facts.Inspection) { i.EtcdFsyncError = "no space left on device" })
		}, failure, cluster.RuleEtcdPatience, "cp-b", "whether the disk of cp-b is fast enough for etcd's election timeout of 300ms could not be measured: no space left", "/var/lib/etcd"},
		{"a slow path", func(w world) {
			w.c.Spec.Failover.ElectionTimeout = "300ms"
			took := 90 * time.Millisecond // the first takes longer than a round trip
			for i, r := range w.seen.Reach {
				if r.From == "cp-a" && r.To == "cp-c" || r.From == "cp-c" && r.To == "cp-a" {
					w.seen.Reach[i].Connected = took
					took = 35 * time.Millisecond
				} else if r.From == "cp-a" && r.To == "worker-a" || r.From == "worker-a" && r.To == "cp-b" {
					w.seen.Reach[i].Connected = time.Second // no member is there
				}
			}
		}, failure, cluster.RuleEtcdPatience, "cp-a cp-c", "from cp-a to cp-c takes 35 ms", "`350ms` or more"},
		{"another processor", func(w world) { w.facts("cp-a").Arch = "riscv64" }, failure, "architecture", "cp-a", "riscv64", "amd64 or arm64"},
		{"an unknown processor", func(w world) { w.facts("cp-a").Arch = "" }, failure, "architecture", "cp-a", "is unknown", "quorate preflight"},
		{"RHEL 8's kernel", func(w world) { w.facts("cp-a").Kernel = "4.18.0-553.el8_10.x86_64" }, failure, "kernel", "cp-a", "4.18.0-553", "newer kernel"},
		{"a cloud kernel without vxlan", func(w world) {
			w.in("worker-b", func(i *facts.Inspection) {
				i.Features["vxlan"], i.Features["br_netfilter"] = facts.Absent, facts.Absent
			})
		}, failure, "kernel", "worker-b", "br_netfilter, vxlan", "modules-extra"},
		{"kernels that can queue packets in one way, and in none", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Features["nft_queue"] = facts.Absent })
			w.in("worker-b", func(i *facts.Inspection) {
				i.Features["xt_NFQUEUE"], i.BlockedModules = facts.Absent, map[string]string{"nft_queue": "/etc/modprobe.d/cis.conf"}
			})
			w.in("cp-a", func(i *facts.Inspection) { i.Features["nft_compat"] = facts.Absent })
			w.in("cp-b", func(i *facts.Inspection) {
				i.Features["nft_queue"], i.Features["xt_NFQUEUE"] = facts.Absent, facts.Unknown
			})
		}, failure, "kernel", "worker-b", "flannel on worker-b could not enforce network policies", "policies: ignored"},
		{"a kernel that hands nothing to programs", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) { i.Features["nfnetlink_queue"] = facts.Absent })
		}, failure, "kernel", "cp-a", "flannel on cp-a could not enforce network policies", "linux-modules-extra"},
		{"a kernel that tells nothing", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.Features["overlay"] = facts.Unknown }) }, warning, "kernel", "cp-a", "overlay", "modprobe"},
		{"a Raspberry Pi", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Controllers = []string{"cpu", "cpuset", "pids"} })
		}, failure, "cgroups", "worker-a", "memory", "cgroup_enable=memory"},
		{"cgroup v1", func(w world) { w.facts("cp-c").CgroupV2 = false }, warning, "cgroups", "cp-c", "cgroup v1", "unified_cgroup_hierarchy"},
		{"one CPU", func(w world) { w.facts("cp-a").CPUs = 1; w.facts("worker-a").CPUs = 1 }, failure, "cpu", "cp-a", "1 CPU on cp-a is too few: control-plane needs 2", "more CPUs"},
		{"little memory", func(w world) { w.facts("cp-a").MemoryBytes = gib }, failure, "memory", "cp-a", "1.0 GiB of memory on cp-a is too little: control-plane needs 1.7 GiB", "more memory"},
		{"small machines for a large cluster", func(w world) { w.c.Spec.Size.Nodes = 200 }, warning, "size", "cp-a cp-b cp-c",
			"2 CPUs and 4.0 GiB of memory on cp-a, cp-b and cp-c are little for control-plane in a cluster of 200 nodes and 6000 pods: it is to have 16 CPUs and 64.0 GiB", "quorate size"},
		{"little disk", func(w world) { w.facts("lb-b").DiskFreeBytes = 100 * mib }, failure, "disk", "lb-b", "100.0 MiB free below /var/lib on lb-b is too little", "Free space"},
		{"a large disk that is nearly full", func(w world) {
			w.facts("cp-a").DiskFreeBytes = 100 * gib
			w.in("cp-a", func(i *facts.Inspection) { i.DiskBytes = 1000 * gib })
		}, failure, "disk", "cp-a", "10 % of the disk", "Free space"},
		{"no inodes", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.InodesFree = 0.01 }) }, failure, "disk", "cp-a", "1 % of the inodes", "small files"},
		{"a disk that fills up", func(w world) { w.facts("worker-a").DiskFreeBytes = 7 * gib }, warning, "disk", "worker-a", "18 %", "Free space"},
		{"etcd on a small disk of its own", func(w world) {
			w.facts("cp-a").Disks = map[string]facts.Disk{"/var/lib/etcd": {FreeBytes: 64 * mib, SizeBytes: 64 * mib, InodesFree: 1}}
		}, failure, "disk", "cp-a", "64.0 MiB free below /var/lib/etcd on cp-a is too little: control-plane needs 1.0 GiB", "give /var/lib/etcd a larger disk"},
		{"images on a disk of their own that is nearly full", func(w world) {
			w.facts("worker-a").Disks = map[string]facts.Disk{"/var/lib/containerd": {FreeBytes: 10 * gib, SizeBytes: 100 * gib, InodesFree: 1}}
		}, failure, "disk", "worker-a", "10 % of the disk below /var/lib/containerd", "Free space"},
		{"swap", func(w world) { w.facts("worker-a").SwapBytes, w.facts("lb-a").SwapBytes = 2*gib, 2*gib }, failure, "swap", "worker-a", "2.0 GiB of swap", "swapoff"},
		{"a clock that is slow", func(w world) {
			w.seen.Clocks["cp-b"] = facts.Clock{Ahead: -40 * time.Second, Uncertainty: time.Millisecond}
		}, failure, "clock", "cp-b", "the clock of cp-b is 40.0s behind the others", "timedatectl"},
		{"a clock that drifts", func(w world) {
			w.seen.Clocks["cp-b"] = facts.Clock{Ahead: 1304 * time.Millisecond, Uncertainty: time.Millisecond}
		}, warning, "clock", "cp-b", "1.3s ahead of the others (measured to within 1ms)", "timedatectl"},
		{"a caller whose clock is wrong", func(w world) {
			for h, c := range w.seen.Clocks {
				w.seen.Clocks[h] = facts.Clock{Ahead: c.Ahead - time.Hour, Uncertainty: c.Uncertainty}
			}
		}, warning, "clock", "", "1h00m behind that of this machine", "whichever"},
		{"a caller that was suspended", func(w world) {
			for h, c := range w.seen.Clocks {
				w.seen.Clocks[h] = facts.Clock{Ahead: c.Ahead + 6*time.Minute, Uncertainty: c.Uncertainty}
			}
		}, failure, "clock", "", "ahead of that of this machine: it would reject the certificates", "timedatectl"},
		{"no time service", func(w world) { w.in("cp-b", func(i *facts.Inspection) { i.ClockKept = false }) }, warning, "clock", "cp-b", "no time service", "chrony"},
		{"another address", func(w world) { w.facts("cp-a").Addresses[0].IP = "192.168.1.5" }, failure, "address", "cp-a", "no interface of cp-a has the address 10.0.0.11; it has 192.168.1.5 on eth0", "spec"},
		{"a duplicate address", func(w world) { w.facts("cp-a").Addresses[0].Duplicate = true }, failure, "address", "cp-a", "cp-a cannot use its address 10.0.0.11 on eth0: another machine in the network has it", "ip -6 neigh show dev eth0"},
		{"a tentative address", func(w world) { w.facts("cp-a").Addresses[0].Tentative = true }, failure, "address", "cp-a", "cp-a cannot use its address 10.0.0.11 on eth0: the kernel has not found out", "ip link show eth0"},
		{"another name", func(w world) { w.facts("cp-a").Hostname, w.facts("cp-b").Hostname = "localhost", "CP-B.example.com" }, warning, "hostname", "cp-a", "localhost", "hostnamectl set-hostname cp-a"},
		{"clones", func(w world) { w.facts("cp-a").MachineID, w.facts("worker-a").MachineID = "same", "same" }, failure, "machine-id", "cp-a worker-a", "same", "systemd-machine-id-setup"},
		{"no machine-id", func(w world) { w.facts("cp-a").MachineID = "" }, failure, "machine-id", "cp-a", "empty", "systemd-machine-id-setup"},
		{"one firmware", func(w world) {
			for _, h := range []string{"cp-a", "cp-b"} {
				w.in(h, func(i *facts.Inspection) { i.ProductUUID = "4c4c4544-0042-3510-8050-b7c04f4c4432" })
			}
		}, failure, "product-uuid", "cp-a cp-b", "4c4c4544-0042", "its own UUID"},
		{"one hardware address", func(w world) {
			for _, h := range []string{"cp-a", "lb-b"} {
				w.in(h, func(i *facts.Inspection) { i.MAC = "52:54:00:aa:bb:cc" })
			}
		}, failure, "mac", "cp-a lb-b", "52:54:00:aa:bb:cc", "its own hardware address"},
		{"no HAProxy", func(w world) {
			w.facts("lb-a").Lacks = []string{"haproxy"}
			w.facts("cp-a").Lacks = []string{"haproxy"}
		}, info, "packages", "lb-a", "haproxy is missing on lb-a; `quorate apply` installs what is missing with apt-get", "apt-get install -y haproxy"},
		{"no repository", func(w world) {
			w.facts("lb-a").Lacks = []string{"haproxy"}
			w.in("lb-a", func(in *facts.Inspection) {
				in.Repositories = []facts.Repository{{Address: "http://a/", Error: "a: refused"}, {Address: "http://b/", Error: "b: no route"}}
			})
		}, failure, "packages", "lb-a", "haproxy is missing on lb-a, and none of its package repositories can be reached from there: a: refused, b: no route", "a mirror or a proxy"},
		{"one repository", func(w world) {
			w.facts("lb-a").Lacks = []string{"haproxy"}
			w.in("lb-a", func(in *facts.Inspection) {
				in.Repositories = []facts.Repository{{Address: "http://a/", Error: "a: refused"}, {Address: "http://b/"}}
			})
		}, info, "packages", "lb-a", "haproxy is missing on lb-a; `quorate apply` installs what is missing with apt-get", "apt-get install -y haproxy"},
		{"no keepalived on Rocky", func(w world) { w.facts("lb-a").Family, w.facts("lb-a").Lacks = facts.RHEL, []string{"keepalived"} }, info, "packages", "lb-a", "keepalived is missing on lb-a; `quorate apply` installs what is missing with dnf", "dnf install -y keepalived"},
		{"another containerd", func(w world) { w.in("worker-a", func(i *facts.Inspection) { i.OtherContainerd = true }) }, warning, "runtime", "worker-a", "containerd", "ctr namespaces"},
		{"another cluster's files", func(w world) {
			w.in("cp-c", func(i *facts.Inspection) {
				i.Leftovers.Files = []string{"/etc/kubernetes/admin.conf", "/var/lib/etcd/member"}
			})
		}, failure, "leftovers", "cp-c", "/etc/kubernetes/admin.conf, /var/lib/etcd/member", "kubeadm reset"},
		{"another cluster's CA", func(w world) {
			for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
				w.facts(h).Binaries, w.facts(h).Kubernetes.CA = "sha256:b", "CA"
				w.in(h, func(i *facts.Inspection) { i.Leftovers.Files = []string{"/etc/kubernetes/pki/ca.crt"} })
			}
			w.facts("cp-c").Kubernetes.CA = "other"
		}, failure, cluster.RuleOneCluster, "cp-c", "cp-a and cp-c belong to different clusters", "kubeadm reset"},
		{"a host of another cluster", func(w world) { w.facts("worker-a").Kubernetes.Clusters = []string{"stage"} }, failure, cluster.RuleOneCluster, "worker-a", "marked as a host of the cluster stage", "Take the host out"},
		{"another etcd's CA", func(w world) {
			for h, ca := range map[string]string{"cp-a": "A", "cp-b": "B"} {
				w.facts(h).Kubernetes.EtcdCA = ca
			}
		}, failure, cluster.RuleOneEtcd, "cp-b", "cp-a and cp-b belong to different etcds", "kubeadm reset"},
		{"another cluster's load balancer", func(w world) {
			w.obs.Hosts["lb-b"] = facts.Host{Facts: w.facts("lb-b"), Balancer: &facts.Balancer{WrittenFor: "stage"}}
		}, failure, cluster.RuleBalancersOf, "lb-b", "lb-b is a load balancer of the cluster stage", "Use other hosts"},
		{"a mark of a cluster that is gone", func(w world) {
			w.facts("cp-b").Kubernetes.Established, w.facts("cp-c").Kubernetes.Established = true, true
		}, failure, "leftovers", "cp-b cp-c", "the mark of a cluster that was once complete is on cp-b and cp-c", "rm /var/lib/quorate/established"},
		{"what kubeadm reset leaves of a cluster of Quorate", func(w world) {
			w.facts("cp-c").Binaries = "sha256:b"
			w.in("cp-c", func(i *facts.Inspection) { i.Leftovers.Files = []string{"/var/lib/etcd/member"} })
		}, failure, "leftovers", "cp-c", "there are files of another cluster on cp-c: /var/lib/etcd/member", "/var/lib/quorate/established"},
		{"k3s below a cluster of ours", func(w world) {
			w.facts("worker-a").Binaries = "sha256:b"
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.Files = []string{"/etc/rancher/k3s"} })
		}, failure, "leftovers", "worker-a", "/etc/rancher/k3s", "k3s"},
		{"Calico's configuration", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.CNI = []string{"/etc/cni/net.d/05-calico.conflist"} })
		}, failure, "leftovers", "worker-a", "05-calico.conflist on worker-a is read before flannel's", "Move it away"},
		{"podman's configuration", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.CNI = []string{"/etc/cni/net.d/87-podman.conflist"} })
		}, warning, "leftovers", "worker-a", "87-podman", "Move it away"},
		{"a bridge of pods", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.Interfaces = []string{"cni0"} })
		}, failure, "leftovers", "worker-a", "cni0", "ip link delete cni0"},
		{"a tunnel of pods", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.Interfaces = []string{"flannel.1"} })
		}, warning, "leftovers", "worker-a", "flannel.1", "ip link delete"},
		{"a rescue system", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) { i.Volatile = "tmpfs" })
		}, failure, "volatile", "cp-a", "/var/lib on cp-a is not on a disk (tmpfs)", "boot the installed one"},
		{"a hardened /opt", func(w world) {
			for _, h := range []string{"cp-a", "lb-a"} { // a load balancer needs nothing there
				w.in(h, func(i *facts.Inspection) { i.Unfit = []facts.Unfit{{Dir: "/opt/quorate/programs", Option: "noexec"}} })
			}
		}, failure, "mounts", "cp-a", "/opt/quorate/programs on cp-a is mounted with the option noexec", "findmnt --target /opt/quorate/programs"},
		{"an immutable system", func(w world) {
			w.in("lb-a", func(i *facts.Inspection) { i.Unfit = []facts.Unfit{{Dir: "/usr/local/bin", Option: "ro"}} })
		}, failure, "mounts", "lb-a", "/usr/local/bin on lb-a is read-only", "writable"},
		{"a hardening guide's settings", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) {
				i.LaterSettings = []facts.Setting{
					{File: "/etc/sysctl.d/92-quorate-settings.conf", Name: "net.ipv4.ip_forward", Value: "0"}, // the spec's own
					{File: "/etc/sysctl.d/99-hardening.conf", Name: "net.ipv4.ip_forward", Value: "0"},
					{File: "/etc/sysctl.d/99-hardening.conf", Name: "net.ipv4.tcp_syncookies", Value: "1"},
				}
			})
			w.in("worker-b", func(i *facts.Inspection) { // the last one counts
				i.LaterSettings = []facts.Setting{{File: "/etc/sysctl.d/95-a.conf", Name: "net.ipv4.ip_forward", Value: "0"}, {File: "/etc/sysctl.d/99-b.conf", Name: "net.ipv4.ip_forward", Value: "1"}}
			})
			w.in("lb-a", func(i *facts.Inspection) { // it forwards nothing
				i.LaterSettings = []facts.Setting{{File: "/etc/sysctl.d/99-hardening.conf", Name: "net.ipv4.ip_forward", Value: "0"}}
			})
		}, failure, "sysctls", "worker-a", "/etc/sysctl.d/99-hardening.conf on worker-a sets net.ipv4.ip_forward = 0 each time", "Remove the line"},
		{"the same setting by its other name", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.LaterSettings = []facts.Setting{{File: "/etc/sysctl.d/99-x.conf", Name: "net.ipv4.conf.all.forwarding", Value: "0"}}
			})
		}, failure, "sysctls", "cp-a", "net.ipv4.conf.all.forwarding = 0", "99-x.conf"},
		{"no answers to pings", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.IgnoresPings = true })
			w.in("lb-a", func(i *facts.Inspection) { i.IgnoresPings = true })
		}, failure, "sysctls", "worker-a", "the kernel of worker-a does not answer pings", "icmp_echo_ignore_all=0"},
		{"a company's proxy for all services", func(w world) {
			for h, exceptions := range map[string]string{"worker-a": "localhost,10.0.0.11", "worker-b": "10.0.0.0/24,.internal", "lb-a": ""} {
				w.in(h, func(i *facts.Inspection) {
					i.ServiceProxies = []string{"HTTPS_PROXY=http://proxy:3128", "NO_PROXY=" + exceptions}
				})
			}
		}, failure, "environment", "worker-a", "all services the proxy http://proxy:3128, and NO_PROXY does not except api.test.internal", "Add api.test.internal,10.0.0.12,"},
		{"what is left of another kubelet", func(w world) {
			for _, h := range []string{"worker-a", "lb-a"} {
				w.in(h, func(i *facts.Inspection) {
					i.DropIns = []facts.DropIn{
						{Unit: "kubelet.service", Path: "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", Settings: []string{"ExecStart"}}, // ours hides it
						{Unit: "kubelet.service", Path: "/etc/systemd/system/kubelet.service.d/20-quorate.conf", Settings: []string{"Environment"}},
						{Unit: "containerd.service", Path: "/etc/systemd/system/containerd.service.d/http-proxy.conf", Settings: []string{"Environment"}},
						{Unit: "kubelet.service", Path: "/etc/default/kubelet", Settings: []string{"KUBELET_EXTRA_ARGS"}},
					}
				})
			}
		}, warning, "units", "worker-a", "/etc/default/kubelet on worker-a changes kubelet.service: it sets KUBELET_EXTRA_ARGS", "remove the file"},
		{"a template of cloud-init", func(w world) {
			w.in("lb-a", func(i *facts.Inspection) { i.HostsWriter = "/etc/cloud/cloud.cfg" })
		}, warning, "rewrites", "lb-a", "cloud-init on lb-a writes /etc/hosts from its own template each time that the host starts (manage_etc_hosts in /etc/cloud/cloud.cfg)", "false"},
		{"Debian's nftables.conf", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.RuleFlusher = "/etc/nftables.conf" })
			w.in("lb-a", func(i *facts.Inspection) { i.RuleFlusher = "/etc/nftables.conf" })
		}, warning, "rewrites", "worker-a", "`flush ruleset` in /etc/nftables.conf on worker-a", "delete table inet filter"},
		{"routes of a cloud", func(w world) { w.in("worker-a", func(i *facts.Inspection) { i.CloudRoutes = true }) }, warning, "rewrites", "worker-a", "nm-cloud-setup", "disable --now"},
		{"a module that is not allowed", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.BlockedModules = map[string]string{"overlay": "/etc/modprobe.d/cis.conf"} })
		}, failure, "kernel", "worker-a", "/etc/modprobe.d/cis.conf on worker-a keeps the kernel module overlay from being loaded", "install overlay"},
		{"a local DNS server", func(w world) {
			for _, h := range []string{"worker-a", "lb-a"} {
				w.in(h, func(i *facts.Inspection) { i.PodServers = []string{"127.0.0.1", "10.0.0.1"} })
			}
		}, failure, "dns", "worker-a", "the DNS server 127.0.0.1, which pods take for themselves", "systemd-resolved"},
		{"Docker's rules", func(w world) {
			for _, h := range []string{"worker-a", "lb-a"} {
				w.in(h, func(i *facts.Inspection) {
					i.ForwardDrops = []facts.ForwardDrop{{Chain: "FORWARD of the nftables table ip filter"}}
				})
			}
			w.in("worker-b", func(i *facts.Inspection) {
				i.ForwardDrops = []facts.ForwardDrop{{Chain: "FORWARD of the nftables table ip filter", Pods: true}}
			})
		}, failure, "firewall", "worker-a", "the chain FORWARD of the nftables table ip filter on worker-a drops", "iptables -I DOCKER-USER $d 10.244.0.0/16 -j ACCEPT"},
		{"rules that cannot be read", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) {
				i.ForwardDrops = []facts.ForwardDrop{{Chain: "fwd of the nftables table inet filter", Unknown: "EINTR"}}
			})
		}, warning, "firewall", "worker-a", "is not known (EINTR)", "unless it does so already"},
		{"a bridge in the range of pods", func(w world) {
			for _, h := range []string{"worker-a", "lb-a"} {
				w.in(h, func(i *facts.Inspection) {
					i.Networks = []facts.Subnet{{Prefix: "10.0.0.0/24", Interface: "eth0"}, {Prefix: "10.244.8.0/24", Interface: "virbr0", Bridge: true}, {Prefix: "10.0.0.0/8", Interface: "eth1", Gateway: true}}
				})
			}
		}, failure, "ranges", "worker-a", "the range 10.244.0.0/16 of the pods contains addresses of worker-a: the network 10.244.8.0/24 of its interface virbr0", "network.podCIDR"},
		{"a route to another cluster's Services", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Networks = []facts.Subnet{{Prefix: "10.96.0.0/12", Interface: "wg0", Gateway: true}}
			})
		}, failure, "ranges", "cp-a", "the network 10.96.0.0/12, to which it has a route", "network.serviceCIDR"},
		{"a large network on a second interface", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Networks = []facts.Subnet{{Prefix: "10.240.0.0/12", Interface: "eth1"}}
			})
		}, warning, "ranges", "cp-a", "the range 10.244.0.0/16 of the pods is a part of a network of cp-a: the network 10.240.0.0/12 of its interface eth1", "Make sure"},
		{"a DNS server in the range of Services", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.PodServers = []string{"10.96.0.10"}; i.Resolvers[0].Server = "10.96.0.10" })
		}, failure, "ranges", "worker-a", "contains the DNS server 10.96.0.10 of worker-a", "network.serviceCIDR"},
		{"hosts in the network of a bridge", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Networks = []facts.Subnet{{Prefix: "10.0.0.0/24", Interface: "eth0"}, {Prefix: "10.0.0.0/28", Interface: "docker0", Bridge: true}}
			})
			w.fail("cp-a", "cp-b", 2380, facts.TimedOut, "")
		}, failure, "reach", "cp-a cp-b", "cp-a cannot reach cp-b", "the network 10.0.0.0/28 of the bridge docker0"},
		{"a taken port", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) { i.Listeners = []facts.Listener{{Port: 6443, Program: "nginx", PID: 812}} })
		}, failure, "ports", "cp-a", "port 6443 on cp-a is taken by nginx (process 812), and kube-apiserver needs it", "systemctl status 812"},
		{"an apiserver of nobody", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Listeners = []facts.Listener{{Port: 6443, Program: "kube-apiserver", PID: 7}}
			})
		}, failure, "ports", "cp-a", "another kube-apiserver (process 7)", "Stop it"},
		{"another HAProxy", func(w world) {
			w.facts("lb-a").Binaries = "sha256:b"
			w.in("lb-a", func(i *facts.Inspection) { i.Listeners = []facts.Listener{{Port: 6443, Program: "haproxy", PID: 9}} })
		}, failure, "ports", "lb-a", "port 6443 on lb-a is taken by another haproxy", "Stop it"},
		{"a node exporter", func(w world) {
			w.monitors("10Gi")
			w.in("worker-a", func(i *facts.Inspection) {
				i.Listeners = []facts.Listener{{Port: 9100, Addresses: []netip.Addr{netip.IPv6Unspecified()}, Program: "prometheus-node", PID: 9}}
			})
		}, failure, "ports", "worker-a", "port 9100 on worker-a is taken by prometheus-node (process 9), and node-exporter needs it", "Remove that node exporter"},
		{"disks too small for Prometheus", func(w world) {
			w.monitors("10Gi")
			w.in("worker-a", func(i *facts.Inspection) { i.DiskBytes = 11 * gib })
			w.facts("worker-a").DiskFreeBytes = 10 * gib
		}, failure, "storage", "worker-a", "the disks of worker-a are too small for a server of Prometheus, which asks for 10.0 GiB (spec.monitoring.prometheus.storage), and 1 of the other nodes", "Lower spec.monitoring.prometheus.storage"},
		{"disks large enough for Prometheus in one zone", func(w world) {
			w.c.Spec.Hosts = append(w.c.Spec.Hosts, spec.Host{Name: "worker-c", Address: "10.0.0.77", Roles: []string{spec.RoleWorker}, Zone: "b"})
			obs, seen := healthy(w.c)
			w.obs.Hosts, w.seen.Hosts, w.seen.Clocks, w.seen.Reach = obs.Hosts, seen.Hosts, seen.Clocks, seen.Reach
			w.monitors("50Gi")
			for _, name := range []string{"worker-b", "worker-c"} {
				w.in(name, func(i *facts.Inspection) { i.DiskBytes = 100 * gib })
				w.facts(name).DiskFreeBytes = 90 * gib
			}
		}, failure, "storage", "worker-a", "all other nodes are in one zone", "Lower spec.monitoring.prometheus.storage"},
		{"a disk that Prometheus fills", func(w world) {
			w.monitors("10Gi")
			w.facts("worker-b").DiskFreeBytes = 19 * gib
		}, warning, "storage", "worker-b", "19.0 GiB free below /var/lib on worker-b is little for a server of Prometheus, which may run there and store 10.0 GiB", "Free space"},
		{"a firewall", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.Firewalls = []string{"firewalld"} }) }, warning, "firewall", "cp-a", "firewalld is active on cp-a", `for a in 10.0.0.12 10.0.0.13; do firewall-cmd --permanent --add-rich-rule="rule family=ipv4 source address=$a port port=2380 protocol=tcp accept"; done`},
		{"ufw", func(w world) { w.in("worker-a", func(i *facts.Inspection) { i.Firewalls = []string{"ufw"} }) }, warning, "firewall", "worker-a", "ufw is active on worker-a", "for a in 10.0.0.11 10.0.0.12 10.0.0.13; do ufw allow proto tcp from $a to any port 10250; done"},
		{"an old HAProxy", func(w world) {
			w.in("lb-a", func(in *facts.Inspection) {
				in.Versions = map[string]string{"haproxy": "1.8.27", "keepalived": "2.2.7"}
			})
		}, failure, "versions", "lb-a", "haproxy 1.8.27 on lb-a is too old: the load balancer needs 2.4 or newer", "RHEL 9"},
		{"an old keepalived", func(w world) {
			w.in("lb-b", func(in *facts.Inspection) {
				in.Versions = map[string]string{"haproxy": "2.6.12", "keepalived": "2.1.5"}
			})
		}, failure, "versions", "lb-b", "keepalived 2.1.5 on lb-b is too old", "newer release"},
		{"a HAProxy that does not say", func(w world) {
			w.in("lb-a", func(in *facts.Inspection) { in.Versions = map[string]string{"haproxy": "exec format error"} })
		}, warning, "versions", "lb-a", "cannot be determined (exec format error)", "haproxy -v"},
		{"HAProxy without a user", func(w world) { w.in("lb-a", func(in *facts.Inspection) { in.NoHAProxyUser = true }) }, failure, "versions", "lb-a", "without the user haproxy", "useradd --system"},
		{"a virtual IP elsewhere", func(w world) { w.facts("lb-a").Addresses[0].Prefix = 27 }, failure, "virtual-ip", "lb-a", "10.0.0.100 is not in the network of the load balancer lb-a (10.0.0.16/27 on eth0)", "of that network"},
		{"a node outside of the pods' network", func(w world) {
			w.podTraffic()
			w.facts("worker-b").Addresses[1].IP = "10.2.0.15"
		}, failure, "address", "worker-b", "worker-b has no address in 10.1.0.0/24, the network that carries the packets of pods (network.podTrafficCIDR); it has 10.0.0.15 on eth0, 10.2.0.15 on eth1", "correct network.podTrafficCIDR"},
		{"two interfaces in the pods' network", func(w world) {
			w.podTraffic()
			f := w.facts("worker-b")
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.1.0.99", Prefix: 24, Interface: "eth2"})
		}, failure, "address", "worker-b", "worker-b has several addresses in 10.1.0.0/24, the network that carries the packets of pods (network.podTrafficCIDR), on several interfaces: 10.1.0.15 on eth1, 10.1.0.99 on eth2", "smaller range"},
		{"two addresses in the pods' network", func(w world) {
			w.podTraffic()
			f := w.facts("worker-b")
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.1.0.99", Prefix: 24, Interface: "eth1"})
		}, warning, "address", "worker-b", "10.1.0.15 on eth1, 10.1.0.99 on eth1. flannel uses the first one", "smaller range"},
		{"families of the pods' network on two interfaces", func(w world) {
			w.podTraffic()
			w.c.Spec.Network.PodTrafficCIDR += ",fd00:1::/64"
			for name := range w.obs.Hosts {
				link := "eth1"
				if name == "worker-a" {
					link = "eth2"
				}
				f := w.facts(name)
				f.Addresses = append(f.Addresses, facts.Address{IP: strings.Replace(f.Addresses[0].IP, "10.0.0.", "fd00:1::", 1), Prefix: 64, Interface: link})
			}
		}, failure, "address", "worker-a", "the addresses of worker-a in 10.1.0.0/24,fd00:1::/64 are on several interfaces", "one interface"},
		{"a virtual IP in the network of another interface", func(w world) {
			f := w.facts("lb-a")
			f.Addresses[0].Prefix = 27
			f.Addresses = append(f.Addresses, facts.Address{IP: "10.0.0.98", Prefix: 27, Interface: "eth1"})
		}, failure, "virtual-ip", "lb-a", "10.0.0.100 is not in the network of the load balancer lb-a (10.0.0.16/27 on eth0)", "the network of 10.0.0.98 on eth1 is to carry the virtual IP, write `frontAddress: 10.0.0.98` for lb-a"},
		{"a front address that is not there", func(w world) {
			w.front()
			w.facts("lb-a").Addresses[1].IP = "192.0.2.99"
		}, failure, "virtual-ip", "lb-a", "no interface of lb-a has its frontAddress 192.0.2.16; it has 10.0.0.16 on eth0, 192.0.2.99 on eth1", "in the network of the virtual IP"},
		{"a virtual IP outside of the front network", func(w world) {
			w.front()
			w.facts("lb-b").Addresses[1].Prefix = 27
		}, failure, "virtual-ip", "lb-b", "192.0.2.100 is not in the network of the load balancer lb-b (192.0.2.17/27 on eth1)", "of that network"},
		{"two interfaces in the front network", func(w world) {
			w.front()
			f := w.facts("lb-a")
			f.Addresses = append(f.Addresses, facts.Address{IP: "192.0.2.200", Prefix: 25, Interface: "eth2"})
		}, failure, "virtual-ip", "lb-a", "the network of the frontAddress 192.0.2.16 of lb-a (192.0.2.0/24 on eth1) overlaps 192.0.2.128/25 on eth2", "no other interface"},
		{"a front address that the virtual IP does not use", func(w world) {
			h := &w.c.Spec.Hosts[slices.IndexFunc(w.c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "lb-a" })]
			h.FrontAddress = "192.0.2.16"
			f := w.facts("lb-a")
			f.Addresses = append(f.Addresses, facts.Address{IP: "192.0.2.16", Prefix: 24, Interface: "eth1"})
		}, warning, "virtual-ip", "lb-a", "the virtual IP 10.0.0.100 is in the network of the address of lb-a (10.0.0.16), and its frontAddress 192.0.2.16 is not used", "network of frontAddress"},
		{"a front network with a firewall", func(w world) {
			w.front()
			w.seen.Reach = append(w.seen.Reach, facts.Reach{Path: facts.Path{From: "worker-a", To: "lb-a", Address: "192.0.2.16", Proto: facts.TCP, Port: 6443, For: "endpoint"}, Outcome: facts.TimedOut})
		}, failure, "reach", "worker-a lb-a", "worker-a cannot reach lb-a at 192.0.2.16 on 6443/tcp (endpoint): no answer", "Open"},
		{"a virtual IP that a printer has", func(w world) {
			w.seen.VirtualIP = map[string]facts.AddressHolders{"lb-a": {MAC: "52:54:00:00:00:05", Answers: []string{"00:1b:a9:00:00:01"}}, "lb-b": {MAC: "52:54:00:00:00:06", Answers: []string{"00:1b:a9:00:00:01"}}}
		}, failure, "virtual-ip", "lb-a lb-b", "the virtual IP 10.0.0.100 is in use: an unknown machine with the hardware address 00:1b:a9:00:00:01 has it", "choose another one as loadBalancer.address"},
		{"a virtual IP that a worker has", func(w world) {
			w.facts("worker-a").Addresses[0].MAC = "52:54:00:00:00:03"
			w.seen.VirtualIP = map[string]facts.AddressHolders{"lb-a": {MAC: "52:54:00:00:00:05", Answers: []string{"52:54:00:00:00:03"}}}
		}, failure, "virtual-ip", "worker-a lb-a", "is in use: worker-a has it", "On worker-a"},
		{"a virtual IP that nobody could be asked for", func(w world) {
			w.seen.VirtualIP = map[string]facts.AddressHolders{"lb-a": {Unknown: "operation not permitted"}}
		}, warning, "virtual-ip", "lb-a", "could not be checked on lb-a: operation not permitted", "arping -D"},
		{"SELinux on a balancer", func(w world) {
			w.in("lb-a", func(i *facts.Inspection) { i.SELinux, i.HAProxyConfined = "enforcing", true })
		}, failure, "selinux", "lb-a", "port 6443", "setsebool -P haproxy_connect_any on"},
		{"SELinux on a node", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.SELinux = "enforcing" }) }, warning, "selinux", "cp-a", "enforcing", "permissive"},
		{"jumbo frames on one", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.MTU = 9000 }) }, warning, "mtu", "cp-a", "9000, while most hosts have 1500", "1500"},
		{"a tunnel in between", func(w world) {
			for i, r := range w.seen.Reach {
				if r.From == "cp-a" && r.To == "worker-b" && r.Proto == facts.UDP {
					w.seen.Reach[i].Fits = false
				}
			}
		}, failure, "path-mtu", "cp-a worker-b", "1500 bytes do not get from cp-a to worker-b", "lower the MTU"},
		{"a firewall that drops", func(w world) {
			w.fail("cp-a", "cp-b", 2380, facts.TimedOut, "")
			w.fail("cp-c", "cp-b", 2380, facts.TimedOut, "")
		}, failure, "reach", "cp-a cp-b cp-c", "cp-a and cp-c cannot reach cp-b on 2380/tcp (etcd members): no answer", "Open these ports on cp-b"},
		{"a firewall that rejects", func(w world) {
			w.fail("worker-a", "lb-a", 6443, facts.Refused, "")
		}, failure, "reach", "worker-a lb-a", "refused, although", "Open these ports on lb-a"},
		{"a router that forbids", func(w world) { w.fail("cp-a", "worker-a", 10250, facts.Unreachable, "no route to host") }, failure, "reach", "cp-a worker-a", "no route to host", "Open"},
		{"a doubled address", func(w world) { w.fail("cp-a", "worker-a", 10250, facts.Impostor, "printer answers") }, failure, "reach", "cp-a worker-a", "printer answers", "arping"},
		{"balancers that do not hear each other", func(w world) { w.fail("lb-a", "lb-b", 0, facts.TimedOut, "") }, failure, "reach", "lb-a lb-b", "IP protocol 112 (virtual IP)", "Open"},
		{"balancers with a router between them", func(w world) { w.fail("lb-a", "lb-b", 0, facts.Routed, "TTL 254") }, failure, "reach", "lb-a lb-b", "arrives through a router (TTL 254 instead of 255)", "one network segment"},
		{"a dead DNS server", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Resolvers[0].Outcome, i.OwnName.Elapsed = facts.TimedOut, 10*time.Second
			})
		}, warning, "dns", "cp-a", "10.0.0.1 does not answer", "resolv.conf"},
		{"no DNS server at the other loopback address", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) { i.Resolvers[0] = facts.Resolver{Server: "::1", Outcome: facts.Refused} })
		}, info, "dns", "cp-a", "names the host itself as a DNS server", "resolv.conf"},
		{"a slow DNS server", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.OwnName.Elapsed = 3 * time.Second }) }, warning, "dns", "cp-a", "takes 3.0s", "slow"},
		{"a name of somebody else", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.OwnName.Addresses = []string{"10.9.9.9"} }) }, warning, "dns", "cp-a", "10.9.9.9", "/etc/hosts"},
		{"no DNS server", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Resolvers[0] = facts.Resolver{Server: "10.0.0.11", Outcome: facts.Refused}
			})
		}, info, "dns", "cp-a", "names the host itself as a DNS server", "resolv.conf"},
		{"a DNS server that refuses", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.Resolvers[0].Outcome = facts.Refused }) }, info, "dns", "cp-a", "names the DNS server 10.0.0.1, which cannot be used: refused", "resolv.conf"},
	} {
		covered[tc.check+" "+string(tc.severity)] = true
		t.Run(tc.name, func(t *testing.T) {
			c := labSpec()
			obs, seen := healthy(c)
			tc.change(world{c, obs, seen})
			r := NewReport(c, Judge(cluster.Evaluate(c, obs), seen, nil), nil, nil)
			if len(r.Findings) != 1 {
				t.Fatalf("%d findings: %+v", len(r.Findings), r.Findings)
			}
			f := r.Findings[0]
			if f.Severity != tc.severity || f.Rule != tc.check || strings.Join(f.Subjects, " ") != tc.hosts || !strings.Contains(f.Summary, tc.summary) || !strings.Contains(f.Fix, tc.fix) {
				t.Errorf("%+v", f)
			}
		})
	}
	for _, what := range []string{"endpoint error", "endpoint warning", "endpoint info", "virtual-ip error"} { // package endpoint tests them
		covered[what] = true
	}
	covered["watch error"] = true                                                                                                                                               // TestWatch does
	covered["sources error"] = true                                                                                                                                             // package sources tests them
	for _, what := range []string{"deprecated-apis error", "deprecated-apis warning", "webhooks error", "webhooks warning", "disruption-budgets info", "upgrade-space error"} { // TestUpgrade does
		covered[what] = true
	}
	for _, check := range Checks {
		for _, s := range check.Severities {
			if !covered[check.ID+" "+string(s)] {
				t.Errorf("no case finds %s as %s", check.ID, s)
			}
			delete(covered, check.ID+" "+string(s))
		}
	}
	for what := range covered {
		t.Errorf("the table of checks does not know %s", what)
	}
}

func TestNoPackageManager(t *testing.T) {
	c := labSpec()
	obs, seen := healthy(c)
	f := obs.Hosts["lb-a"].Facts
	f.Family, f.Lacks = "", []string{"haproxy", "keepalived"}
	r := NewReport(c, Judge(cluster.Evaluate(c, obs), seen, nil), []string{"os"}, nil)
	if r.Errors != 1 || r.Findings[0].Rule != "packages" || !strings.Contains(r.Findings[0].Summary, "haproxy and keepalived are missing on lb-a") {
		t.Errorf("%+v", r.Findings)
	}
}

// TestContainersAreNotBlamedForWhatIsBelowThem has hosts as the lab makes them: containers on one kernel. What they cannot
// change, and the cluster's configuration takes into account, is no finding; the same on machines of their own is.
func TestContainersAreNotBlamedForWhatIsBelowThem(t *testing.T) {
	c := labSpec()
	obs, seen := healthy(c)
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Container, f.CgroupV2, f.SwapBytes, f.DiskFreeBytes = "quorate", false, gib, 6*gib
		world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
			i.BootID, i.ProductUUID, i.ClockKept, i.DiskBytes = "one kernel", "4c4c4544-0042-3510-8050-b7c04f4c4432", false, 100*gib
		})
	}
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name].Facts.Container = ""
	}
	r := NewReport(c, Judge(cluster.Evaluate(c, obs), seen, nil), nil, nil)
	var checks []string
	for _, f := range r.Findings {
		checks = append(checks, f.Rule)
	}
	if !slices.Equal(checks, []string{"disk", "swap", "cgroups", "clock"}) {
		t.Errorf("on machines of their own: %v", checks)
	}
}

// TestOwnClusterIsNoLeftover looks at a cluster that stands, and at one whose build was interrupted.
func TestOwnClusterIsNoLeftover(t *testing.T) {
	for _, established := range []bool{true, false} {
		c := labSpec()
		obs, seen := healthy(c)
		for _, h := range c.Spec.Hosts {
			if !h.IsNode() {
				world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
					i.Listeners = []facts.Listener{{Port: 6443, Program: "haproxy", PID: 1, Own: true}}
				})
				continue
			}
			f := obs.Hosts[h.Name].Facts
			f.Binaries, f.Images, f.Kubernetes = "sha256:b", "sha256:b", facts.Kubernetes{CA: "CA", KubeletConfig: true, Established: established, Begun: !established}
			world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
				i.Leftovers = facts.Leftovers{Files: []string{"/etc/kubernetes/kubelet.conf"}, Interfaces: []string{"cni0", "flannel.1"}}
				i.Listeners = []facts.Listener{{Port: 10250, Program: "kubelet", PID: 5}, {Port: 10257, Program: "kube-controller", PID: 6}}
			})
		}
		if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
			t.Errorf("established %v: %+v", established, found)
		}
	}
}

// TestOthersClusterIsNoLeftover: what is to be adopted is in nobody's way, and a host of yet another cluster is.
func TestOthersClusterIsNoLeftover(t *testing.T) {
	c := labSpec()
	obs, seen := healthy(c)
	obs.API = &facts.API{Initialised: true}
	for _, h := range c.Spec.Hosts {
		world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
			i.OtherContainerd = h.IsNode()
			i.Listeners = []facts.Listener{{Port: 6443, Program: map[bool]string{true: "kube-apiserver", false: "haproxy"}[h.IsNode()], PID: 1}}
		})
		if h.IsNode() {
			obs.Hosts[h.Name].Facts.Kubernetes = facts.Kubernetes{CA: "CA", KubeletConfig: true}
			world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
				i.Leftovers = facts.Leftovers{Files: []string{"/etc/kubernetes/kubelet.conf"}, Interfaces: []string{"cni0"}}
			})
		}
	}
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	obs.Hosts["worker-a"].Facts.Kubernetes.CA = "other"
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) == 0 || found[0].Rule != cluster.RuleOneCluster || found[0].Severity != failure {
		t.Errorf("%+v", found)
	}
}

// TestJoiningHostsAreChecked adds hosts to a cluster that exists: they are held to everything that the hosts of a first build
// are, and the others are not judged again.
func TestJoiningHostsAreChecked(t *testing.T) {
	grown := func() (world, *cluster.State) {
		c := labSpec()
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "cp-d", Address: "10.0.0.41", Roles: []string{spec.RoleControlPlane}, Zone: "a"},
			spec.Host{Name: "lb-c", Address: "10.0.0.42", Roles: []string{spec.RoleLoadBalancer}, Zone: "c"})
		obs, seen := healthy(c)
		obs.API = &facts.API{Initialised: true}
		for name, h := range obs.Hosts {
			switch host, _ := c.Host(name); {
			case name == "cp-d" || name == "lb-c":
			case host.IsNode():
				h.Facts.Kubernetes = facts.Kubernetes{CA: "CA", KubeletConfig: true, Established: host.Has(spec.RoleControlPlane)}
				h.Facts.SwapBytes = gib // which somebody switched on later
			default:
				h.Balancer = &facts.Balancer{WrittenFor: "test"}
			}
			obs.Hosts[name] = h
		}
		return world{c, obs, seen}, cluster.Evaluate(c, obs)
	}
	w, s := grown()
	joining := Joining(s)
	if !slices.Equal(joining, []string{"cp-d", "lb-c"}) {
		t.Fatalf("joining are %v", joining)
	}
	if found := Judge(s, w.seen, joining); len(found) > 0 {
		t.Errorf("nothing is wrong with them: %+v", found)
	}
	if found := Judge(s, w.seen, nil); len(found) != 1 || found[0].Rule != "swap" {
		t.Errorf("preflight of all hosts: %+v", found)
	}
	for name, tc := range map[string]struct {
		change func(world)
		rule   string
	}{
		"swap":                     {func(w world) { w.facts("cp-d").SwapBytes = gib }, "swap"},
		"a container with swap":    {func(w world) { w.facts("cp-d").SwapBytes, w.facts("cp-d").Container = gib, "lxc" }, "swap"},
		"cgroup v1 in a container": {func(w world) { w.facts("cp-d").CgroupV2, w.facts("cp-d").Container = false, "lxc" }, "cgroups"},
		"a clock":                  {func(w world) { w.seen.Clocks["cp-d"] = facts.Clock{Ahead: time.Hour} }, "clock"},
		"old etcd data": {func(w world) {
			w.in("cp-d", func(i *facts.Inspection) { i.Leftovers.Files = []string{"/var/lib/etcd/member"} })
		}, "leftovers"},
		"old data of ours": {func(w world) {
			w.facts("cp-d").Binaries = "sha256:b"
			w.in("cp-d", func(i *facts.Inspection) { i.Leftovers.Files = []string{"/var/lib/etcd/member"} })
		}, "leftovers"},
		"a clone of a host": {func(w world) { w.facts("cp-d").MachineID = w.facts("cp-a").MachineID }, "machine-id"},
		"a doubled UUID": {func(w world) {
			w.in("cp-d", func(i *facts.Inspection) { i.ProductUUID = w.seen.Hosts["worker-a"].ProductUUID })
		}, "product-uuid"},
		"a doubled MAC": {func(w world) { w.in("lb-c", func(i *facts.Inspection) { i.MAC = w.seen.Hosts["lb-a"].MAC }) }, "mac"},
		"a taken port": {func(w world) {
			w.in("cp-d", func(i *facts.Inspection) {
				i.Listeners = []facts.Listener{{Port: 6443, Program: "kube-apiserver", PID: 1}}
			})
		}, "ports"},
		"a firewall":        {func(w world) { w.fail("cp-a", "cp-d", 2380, facts.TimedOut, "") }, "reach"},
		"a missing program": {func(w world) { w.facts("lb-c").Lacks, w.facts("lb-c").Family = []string{"haproxy"}, facts.Debian }, "packages"},
		"another's balancer": {func(w world) {
			w.obs.Hosts["lb-c"] = facts.Host{Facts: w.facts("lb-c"), Balancer: &facts.Balancer{WrittenFor: "stage"}}
		}, cluster.RuleBalancersOf},
	} {
		w, _ := grown()
		tc.change(w)
		s := cluster.Evaluate(w.c, w.obs)
		found := Judge(s, w.seen, Joining(s))
		if len(found) != 1 || found[0].Rule != tc.rule {
			t.Errorf("%s: %+v", name, found)
		}
	}
	// While the API does not answer, nothing joins, and nothing keeps apply from bringing it back.
	w, _ = grown()
	w.obs.API = nil
	if s := cluster.Evaluate(w.c, w.obs); s.Stage() != cluster.Unresponsive || len(Joining(s)) > 0 {
		t.Errorf("%s: joining are %v", s.Stage(), Joining(s))
	}
	// A join that was interrupted is finished: what it left is its own.
	w, _ = grown()
	w.facts("cp-d").Kubernetes = facts.Kubernetes{CA: "CA", Begun: true, EtcdData: true}
	w.in("cp-d", func(i *facts.Inspection) {
		i.Leftovers.Files = []string{"/var/lib/etcd/member", "/etc/kubernetes/manifests/etcd.yaml"}
		i.Listeners = []facts.Listener{{Port: 2379, Program: "etcd", PID: 1}}
	})
	s = cluster.Evaluate(w.c, w.obs)
	if found := Judge(s, w.seen, Joining(s)); len(found) > 0 {
		t.Errorf("an interrupted join: %+v", found)
	}
	for _, p := range Paths(w.c, joining, nil) {
		if !slices.Contains(joining, p.From) && !slices.Contains(joining, p.To) {
			t.Errorf("%+v does not concern them", p)
		}
	}
}

// TestAControlPlaneBecomesALoadBalancer: it is held to what a load balancer needs, and to nothing that only an empty host has.
func TestAControlPlaneBecomesALoadBalancer(t *testing.T) {
	c := labSpec()
	i := slices.IndexFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "cp-a" })
	c.Spec.Hosts[i].Roles = []string{spec.RoleControlPlane, spec.RoleLoadBalancer}
	obs, seen := healthy(c)
	obs.API = &facts.API{Initialised: true}
	for name, h := range obs.Hosts {
		if host, _ := c.Host(name); host.IsNode() {
			h.Facts.Kubernetes = facts.Kubernetes{CA: "CA", KubeletConfig: true, Established: host.Has(spec.RoleControlPlane)}
		} else {
			h.Balancer = &facts.Balancer{WrittenFor: "test"}
		}
		obs.Hosts[name] = h
	}
	w := world{c, obs, seen}
	judged := func() []cluster.Finding {
		s := cluster.Evaluate(w.c, w.obs)
		if joining := Joining(s); !slices.Equal(joining, []string{"cp-a"}) {
			t.Fatalf("joining are %v", joining)
		}
		return Judge(s, w.seen, []string{"cp-a"})
	}
	w.facts("cp-a").SwapBytes, w.facts("cp-a").MemoryBytes = gib, 0
	if found := judged(); len(found) > 0 {
		t.Errorf("it is no empty host: %+v", found)
	}
	// The virtual IP was moved back into the network of the nodes, and frontAddresses stay in the spec.
	vip := c.Spec.LoadBalancer.Address
	w.front()
	c.Spec.LoadBalancer.Address = vip
	if found := judged(); len(found) > 0 {
		t.Errorf("frontAddresses that are not used: %+v", found)
	}
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].FrontAddress = ""
	}
	w.in("cp-a", func(i *facts.Inspection) {
		i.Listeners = append(i.Listeners, facts.Listener{Port: 8404, Program: "other", PID: 1})
	})
	if found := judged(); len(found) != 1 || found[0].Rule != "ports" {
		t.Errorf("port 8404 is taken: %+v", found)
	}
	if l := BalancerListener(c, c.Spec.Hosts[i], cluster.Evaluate(c, obs)); len(l.TCP) > 0 || !l.VRRP || l.Address != c.Spec.Hosts[i].Address {
		t.Errorf("it listens on %+v", l)
	}
}

// TestFirewallsAreOpenedForPeersOnly: whoever follows the advice opens nothing but the endpoint for hosts that do not need it.
func TestFirewallsAreOpenedForPeersOnly(t *testing.T) {
	c := labSpec()
	for _, h := range c.Spec.Hosts {
		for _, firewall := range []string{"ufw", "firewalld"} {
			fix := openPorts(c, h, firewall)
			for _, command := range strings.Split(fix, " && ") {
				everybody := strings.Contains(command, "--add-port") || strings.Contains(command, "--add-protocol") || strings.Contains(command, "from any")
				if everybody && !(c.Balances(h) && strings.Contains(command, "6443")) {
					t.Errorf("%s on %s opens it for everybody: %s", firewall, h.Name, command)
				}
			}
			if strings.Contains(fix, " "+h.Address+" ") || strings.Contains(fix, " "+h.Address+";") {
				t.Errorf("%s on %s opens it for itself: %s", firewall, h.Name, fix)
			}
		}
	}
	lb, _ := c.Host("lb-a")
	if fix := openPorts(c, lb, "ufw"); !strings.Contains(fix, "ufw allow proto vrrp from 10.0.0.17") {
		t.Errorf("VRRP from the other load balancer only: %s", fix)
	}
	for i := range 30 {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("w", i), Address: fmt.Sprint("10.0.1.", i+1), Roles: []string{spec.RoleWorker}})
	}
	cp, _ := c.Host("cp-a")
	if fix := openPorts(c, cp, "ufw"); len(fix) > 900 || !strings.Contains(fix, "for a in NODES; do") || !strings.Contains(fix, "where NODES are the addresses of all nodes") {
		t.Errorf("%d characters: %s", len(fix), fix)
	}
}

// TestFirewallsAreOpenedForBothFamilies: flannel sends the packets of pods with IPv6 addresses to the secondary addresses of nodes. Everything
// else uses the first family.
func TestFirewallsAreOpenedForBothFamilies(t *testing.T) {
	c := dualSpec()
	h, _ := c.Host("worker-a")
	const pods = "source address=$a port port=8472 protocol=udp accept"
	for fix, want := range map[string][]string{
		openPorts(c, h, "firewalld"): {"rule family=ipv4 " + pods, "rule family=ipv6 " + pods, "--add-source=10.244.0.0/16", "--add-source=fd00:10:244::/56"},
		openPorts(c, h, "ufw"):       {"ufw route allow from 10.244.0.0/16", "ufw route allow from fd00:10:244::/56"},
	} {
		for _, w := range want {
			if !strings.Contains(fix, w) {
				t.Errorf("no %q in %s", w, fix)
			}
		}
		if strings.Count(fix, "family=ipv6") > 1 || strings.Count(fix, " fd00::1 ") > 1 || strings.Contains(fix, " "+h.SecondaryAddress) {
			t.Errorf("more is opened than needed: %s", fix)
		}
	}
}

// TestNoPoliciesNoQueue: without the enforcement of policies nothing is queued. On nodes of the cluster it has worked without so far.
func TestNoPoliciesNoQueue(t *testing.T) {
	c := labSpec()
	obs, seen := healthy(c)
	w := world{c, obs, seen}
	w.in("worker-b", func(i *facts.Inspection) { i.Features["nfnetlink_queue"] = facts.Absent })
	c.Spec.Network.Policies = spec.PoliciesIgnored
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

// TestModulesOfTheMachineBelow: what a container's own modprobe would not load says nothing, because the machine below loads the modules.
func TestModulesOfTheMachineBelow(t *testing.T) {
	for _, container := range []string{"", "lxc"} {
		c := labSpec()
		obs, seen := healthy(c)
		w := world{c, obs, seen}
		for _, h := range c.Spec.Hosts {
			w.facts(h.Name).Container = container
			w.in(h.Name, func(i *facts.Inspection) {
				i.BlockedModules = map[string]string{"nfnetlink_queue": "/etc/modprobe.d/cis.conf"}
			})
		}
		refused := slices.ContainsFunc(Judge(cluster.Evaluate(c, obs), seen, nil), func(f cluster.Finding) bool { return f.Rule == "kernel" })
		if refused != (container == "") {
			t.Errorf("in a container of %q: refused %t", container, refused)
		}
	}
}

// dualSpec is a cluster in which every host has two addresses.
func dualSpec() *spec.Cluster {
	c := labSpec()
	c.Spec.Network.PodCIDR, c.Spec.Network.ServiceCIDR = "10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/12,fd00:10:96::/112"
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].SecondaryAddress = fmt.Sprintf("fd00::%x", i+1)
	}
	return c
}

// TestPathsOfBothFamilies: flannel sends the packets of pods with IPv6 addresses between the secondary addresses. Everything else uses the
// first family.
func TestPathsOfBothFamilies(t *testing.T) {
	c := dualSpec()
	four, six := map[string]int{}, map[string]int{}
	for _, p := range Paths(c, nil, nil) {
		h, _ := c.Host(p.To)
		switch p.Address {
		case h.Address:
			four[p.For]++
		case h.SecondaryAddress:
			six[p.For]++
		default:
			t.Errorf("%+v", p)
		}
	}
	if len(six) != 1 || six[podPackets] == 0 || six[podPackets] != four[podPackets] {
		t.Errorf("first family: %v, second: %v", four, six)
	}

	obs, seen := healthy(c)
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Addresses = append(f.Addresses, facts.Address{IP: h.SecondaryAddress, Prefix: 64, Interface: f.Addresses[0].Interface})
	}
	if found := Judge(cluster.Evaluate(c, obs), seen, nil); len(found) > 0 {
		t.Fatalf("%+v", found)
	}
	for i, r := range seen.Reach {
		switch {
		case r.From == "worker-a" && r.To == "worker-b" && r.Address == "fd00::5":
			seen.Reach[i].Outcome, seen.Reach[i].Size = facts.TimedOut, 0
		case r.From == "cp-a" && r.To == "worker-b" && r.Address == "fd00::5":
			seen.Reach[i].Fits = false
		case r.From == "cp-a" && r.To == "worker-a" && r.Address == "fd00::4":
			seen.Reach[i].Outcome, seen.Reach[i].Detail, seen.Reach[i].Size = facts.Impostor, "printer answers", 0
		}
	}
	found := Judge(cluster.Evaluate(c, obs), seen, nil)
	for _, want := range []struct{ summary, fix string }{
		{"worker-a cannot reach worker-b on 8472/udp over IPv6 (pods)", "Open these ports on worker-b"},
		{"packets of 1500 bytes over IPv6 do not get from cp-a to worker-b", "lower the MTU"},
		{"cp-a cannot reach worker-a on 8472/udp over IPv6 (pods): another host has that address", "`ndisc6 fd00::4 INTERFACE`"},
	} {
		if !slices.ContainsFunc(found, func(f cluster.Finding) bool {
			return f.Severity == failure && strings.Contains(f.Summary, want.summary) && strings.Contains(f.Fix, want.fix)
		}) {
			t.Errorf("nothing says %q", want.summary)
		}
	}
	if len(found) != 3 {
		t.Errorf("%+v", found)
	}
}

// TestNamesOfIPv6: a host that resolves its own name to an IPv6 address of another one is found where the cluster uses that family.
func TestNamesOfIPv6(t *testing.T) {
	for _, c := range []*spec.Cluster{labSpec(), dualSpec()} {
		obs, seen := healthy(c)
		for _, h := range c.Spec.Hosts {
			if f := obs.Hosts[h.Name].Facts; h.SecondaryAddress != "" {
				f.Addresses = append(f.Addresses, facts.Address{IP: h.SecondaryAddress, Prefix: 64, Interface: "eth0"})
			}
		}
		world{c, obs, seen}.in("cp-a", func(i *facts.Inspection) { i.OwnName.Addresses = []string{"fe80::1", "::1", "fd00::99"} })
		found := Judge(cluster.Evaluate(c, obs), seen, nil)
		if want := len(c.Spec.Network.Families()) - 1; len(found) != want || want == 1 && !strings.Contains(found[0].Summary, "resolves its own name to fd00::99") {
			t.Errorf("%s: %+v", c.Spec.Network.PodCIDR, found)
		}
	}
}

func TestReportSortsAndIgnores(t *testing.T) {
	c := labSpec()
	finding := func(s cluster.Severity, rule, summary, fix string, subjects ...string) cluster.Finding {
		return cluster.Finding{Severity: s, Rule: rule, Summary: summary, Fix: fix, Subjects: subjects}
	}
	found := []cluster.Finding{
		finding(warning, "hostname", "the name of cp-b", "y.", "cp-b"),
		finding(failure, "swap", "on on worker-a", "off.", "worker-a"),
		finding(failure, "session", "dead lb-a", "Mend.", "lb-a"),
		finding(failure, "swap", "on on cp-a", "off.", "cp-a"),
		finding(failure, "cpu", "few", "more.", "cp-a"),
		finding(failure, cluster.RuleOneCluster, "others", "away.", "cp-c"),
	}
	r := NewReport(c, found, []string{"cpu", cluster.RuleOneCluster}, nil)
	var rules []string
	for _, f := range r.Findings {
		rules = append(rules, f.Rule+strings.Join(f.Subjects, ""))
	}
	if r.Errors != 4 || r.Warnings != 1 || len(r.Ignored) != 1 || !slices.Equal(rules, []string{"sessionlb-a", "one-clustercp-c", "swapcp-a", "swapworker-a", "hostnamecp-b"}) {
		t.Errorf("%+v", r)
	}
	refusal := r.Refusal()
	if err := refusal.Error(); !strings.Contains(err, "refused (preflight): the hosts cannot become test; nothing was changed:\n  dead lb-a (session). Mend.") || strings.Contains(err, "hostname") {
		t.Error(err)
	}
	if !slices.Equal(refusal.Subjects, []string{"lb-a", "cp-c", "cp-a", "worker-a"}) {
		t.Errorf("%v", refusal.Subjects)
	}
	if r := NewReport(c, nil, nil, nil).Refusal(); r != nil {
		t.Error(r)
	}
	var text strings.Builder
	if err := r.Text(&text, 60, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"4 errors, 1 warning", "✘ on on cp-a (swap)\n  → off.\n", "Ignored because of --ignore: cpu"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	// Hosts that join a cluster are named as such.
	if r := NewReport(c, found, nil, []string{"worker-b"}); r.Hosts != 1 || !strings.Contains(r.Refusal().Why, "cannot join test") {
		t.Errorf("%d hosts: %v", r.Hosts, r.Refusal())
	}
}

// TestPathsGrowWithTheHosts keeps the number of paths from growing with its square, and every node in the sample.
func TestPathsGrowWithTheHosts(t *testing.T) {
	grown := func(workers int) (*spec.Cluster, []facts.Path) {
		c := labSpec()
		for i := range workers {
			c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("w", i), Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Roles: []string{spec.RoleWorker}, Zone: "a"})
		}
		return c, Paths(c, nil, nil)
	}
	_, small := grown(0)
	c, large := grown(995)
	if len(large) > 20*len(c.Spec.Hosts) {
		t.Errorf("%d paths for %d hosts", len(large), len(c.Spec.Hosts))
	}
	in, out := map[string]int{}, map[string]int{}
	seen := map[facts.Path]bool{}
	for _, p := range large {
		if p.From == p.To || seen[p] {
			t.Fatalf("%+v", p)
		}
		seen[p] = true
		if p.Proto == facts.UDP {
			in[p.To]++
			out[p.From]++
		}
	}
	for _, h := range c.Spec.Hosts {
		if h.IsNode() && (in[h.Name] != meshSome || out[h.Name] != meshSome) {
			t.Errorf("%s: %d in, %d out", h.Name, in[h.Name], out[h.Name])
		}
	}
	// Seven hosts: each of 5 nodes to the 4 others.
	udp := 0
	for _, p := range small {
		if p.Proto == facts.UDP {
			udp++
		}
	}
	if udp != 20 {
		t.Errorf("%d paths between 5 nodes", udp)
	}
}

// TestGuideHasTheTable keeps the guide's table equal to the code's. With UPDATE_DOCS it writes it.
func TestGuideHasTheTable(t *testing.T) {
	const file, begin, end = "../../docs/preflight.md", "<!-- checks -->\n", "<!-- end of checks -->"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around the table", file)
	}
	if have == Table() {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("the table in %s is not the code's; UPDATE_DOCS=1 go test ./internal/preflight writes it", file)
	}
	if err := os.WriteFile(file, []byte(before+begin+Table()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestPrometheusDisks: what is not known is no finding, and neither is what its servers have stored already. A node exporter that listens on another address
// than the host's is in nobody's way.
func TestPrometheusDisks(t *testing.T) {
	for name, change := range map[string]func(world){
		"enough":            func(world) {},
		"one of three":      func(w world) { w.in("worker-a", func(i *facts.Inspection) { i.DiskBytes = 0 }) },
		"a disk of its own": func(w world) { w.disk("worker-a", facts.Disk{FreeBytes: 20 * gib, SizeBytes: 21 * gib, InodesFree: 1}) },
		"it is stored already": func(w world) {
			w.facts("worker-a").DiskFreeBytes = 12 * gib
			w.obs.API = &facts.API{Prometheus: &facts.Prometheus{Workloads: []facts.Workload{{Kind: "Deployment", Name: "prometheus", On: []string{"worker-a"}}}}}
		},
		"a node exporter on loopback": func(w world) {
			w.in("worker-a", func(i *facts.Inspection) {
				i.Listeners = []facts.Listener{{Port: 9100, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Program: "node_exporter", PID: 9}}
			})
		},
		"containers on one small disk": func(w world) {
			for _, h := range w.c.Spec.Hosts {
				w.facts(h.Name).Container, w.facts(h.Name).DiskFreeBytes = "quorate", 16*gib
				w.in(h.Name, func(i *facts.Inspection) { i.DiskBytes = 100 * gib })
			}
		},
	} {
		c := labSpec()
		obs, seen := healthy(c)
		w := world{c, obs, seen}
		w.monitors("10Gi")
		change(w)
		for _, f := range Judge(cluster.Evaluate(c, obs), seen, nil) {
			if f.Rule == StorageCheck || f.Rule == "ports" {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

// TestPrometheusInAClusterThatExists: what is found for a new cluster is found when an edit brings Prometheus into one that exists, and nothing else is.
func TestPrometheusInAClusterThatExists(t *testing.T) {
	small := func(w world) {
		w.in("worker-a", func(i *facts.Inspection) { i.DiskBytes = 11 * gib })
		w.facts("worker-a").DiskFreeBytes = 10 * gib
	}
	for name, tc := range map[string]struct {
		change func(world)
		want   []string
	}{
		"enough":           {func(world) {}, nil},
		"too small":        {small, []string{"storage worker-a"}},
		"the port is gone": {func(w world) { w.in("worker-a", listens(9100, "prometheus-node")) }, []string{"ports worker-a"}},
		"another port":     {func(w world) { w.in("worker-a", listens(10250, "other")) }, nil},
		"its own exporter": {func(w world) { w.in("worker-a", listens(9100, nodeExporter)) }, nil},
		"what is wrong otherwise": {func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Firewalls = []string{"firewalld"} })
			w.facts("worker-b").DiskFreeBytes = 30 * gib
		}, nil},
		"a host that nobody asked": {func(w world) { delete(w.seen.Hosts, "worker-a") }, nil},
	} {
		c := labSpec()
		obs, seen := healthy(c)
		for _, h := range c.Spec.Hosts {
			obs.Hosts[h.Name].Facts.Kubernetes.KubeletConfig = h.IsNode()
		}
		w := world{c, obs, seen}
		w.monitors("10Gi")
		tc.change(w)
		var found []string
		for _, f := range JudgePrometheus(cluster.Evaluate(c, obs), seen) {
			found = append(found, f.Rule+" "+strings.Join(f.Subjects, ","))
		}
		if !slices.Equal(found, tc.want) {
			t.Errorf("%s: %q, want %q", name, found, tc.want)
		}
	}
}

// TestPrometheusWhenANodeLeaves: the disks of the nodes that stay count, and what is not about them is not judged again.
func TestPrometheusWhenANodeLeaves(t *testing.T) {
	for name, want := range map[string][]string{"worker-b": {"storage worker-a"}, "worker-a": nil} {
		c := labSpec()
		obs, seen := healthy(c)
		w := world{c, obs, seen}
		w.monitors("10Gi")
		w.in("worker-a", func(i *facts.Inspection) { i.DiskBytes = 11 * gib })
		w.facts("worker-a").DiskFreeBytes = 10 * gib
		for _, h := range c.Spec.Hosts {
			if h.Has(spec.RoleWorker) && h.Name != name {
				w.in(h.Name, listens(9100, "prometheus-node"))
			}
		}
		c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == name })
		var found []string
		for _, f := range JudgeStorage(cluster.Evaluate(c, obs), seen) {
			found = append(found, f.Rule+" "+strings.Join(f.Subjects, ","))
		}
		if !slices.Equal(found, want) {
			t.Errorf("without %s: %q, want %q", name, found, want)
		}
	}
}

func listens(port int, program string) func(*facts.Inspection) {
	return func(i *facts.Inspection) {
		i.Listeners = []facts.Listener{{Port: port, Addresses: []netip.Addr{netip.IPv6Unspecified()}, Program: program, PID: 9}}
	}
}

// disk gives the pods of a host a file system of their own.
func (w world) disk(host string, d facts.Disk) {
	w.facts(host).Disks = map[string]facts.Disk{"/var/lib/kubelet": d}
}
