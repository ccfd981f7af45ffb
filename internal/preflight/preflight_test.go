package preflight

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

const gib = 1 << 30

func cluster() *spec.Cluster {
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
			Hostname: h.Name, MachineID: fmt.Sprint("machine", i), OS: "Debian GNU/Linux 12 (bookworm)", Family: facts.Debian, Kernel: "6.1.0-18-amd64",
			CPUs: 2, MemoryBytes: 4 * gib, DiskFreeBytes: 30 * gib, CgroupV2: true,
			Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}},
		}}
		in := facts.Inspection{BootID: fmt.Sprint("boot", i), ProductUUID: fmt.Sprintf("4c4c4544-0000-0000-0000-%012d", i), Systemd: true,
			MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), MTU: 1500, Features: map[string]facts.Feature{}, Controllers: strings.Fields("cpuset cpu io memory hugetlb pids"),
			ClockKept: true, DiskBytes: 40 * gib, InodesFree: 0.9,
			Resolvers: []facts.Resolver{{Server: "10.0.0.1", Outcome: facts.Reached}}, OwnName: facts.Lookup{Addresses: []string{"127.0.1.1"}}}
		for _, f := range strings.Fields("overlay br_netfilter nf_tables nf_conntrack veth bridge vxlan") {
			in.Features[f] = facts.Loadable
		}
		seen.Hosts[h.Name] = in
		seen.Clocks[h.Name] = facts.Clock{Ahead: time.Duration(i) * time.Millisecond, Uncertainty: 3 * time.Millisecond}
	}
	for _, p := range Paths(c) {
		r := facts.Reach{Path: p, Outcome: facts.Reached}
		if p.Proto == facts.UDP {
			r.Size, r.Fits = 1500, true
		}
		seen.Reach = append(seen.Reach, r)
	}
	return obs, seen
}

func TestNothingIsFoundOnHealthyHosts(t *testing.T) {
	c := cluster()
	obs, seen := healthy(c)
	if found := Judge(c, obs, seen); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

type world struct {
	c    *spec.Cluster
	obs  *facts.Observation
	seen *facts.Preflight
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

// TestFindings changes one thing at a time, and has that found and nothing else. Every check and each of its severities
// must have a case.
func TestFindings(t *testing.T) {
	covered := map[string]bool{}
	for _, tc := range []struct {
		name     string
		change   func(world)
		severity Severity
		check    string
		hosts    string
		summary  string // a part of it, with the numbers
		fix      string // a part
	}{
		{"dead", func(w world) { w.obs.Hosts["cp-b"] = facts.Host{Error: "cp-b: no SSH connection"} }, Error, "session", "cp-b", "no SSH connection", "reachable"},
		{"deaf", func(w world) {
			delete(w.seen.Hosts, "cp-b")
			delete(w.seen.Clocks, "cp-b")
			w.seen.Errors["cp-b"] = "no answer within 30s"
		}, Error, "session", "cp-b", "no answer within 30s", "again"},
		{"SUSE", func(w world) { w.facts("worker-a").Family, w.facts("worker-a").OS = "", "openSUSE Leap 15.6" }, Warning, "os", "worker-a", "openSUSE Leap 15.6", "Debian"},
		{"no systemd", func(w world) { w.in("lb-a", func(i *facts.Inspection) { i.Systemd = false }) }, Error, "systemd", "lb-a", "process 1", "units"},
		{"RHEL 8's kernel", func(w world) { w.facts("cp-a").Kernel = "4.18.0-553.el8_10.x86_64" }, Error, "kernel", "cp-a", "4.18.0-553", "newer kernel"},
		{"a cloud kernel without vxlan", func(w world) {
			w.in("worker-b", func(i *facts.Inspection) {
				i.Features["vxlan"], i.Features["br_netfilter"] = facts.Absent, facts.Absent
			})
		}, Error, "kernel", "worker-b", "br_netfilter, vxlan", "modules-extra"},
		{"a kernel that tells nothing", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.Features["overlay"] = facts.Unknown }) }, Warning, "kernel", "cp-a", "overlay", "modprobe"},
		{"a Raspberry Pi", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Controllers = []string{"cpu", "cpuset", "pids"} })
		}, Error, "cgroups", "worker-a", "memory", "cgroup_enable=memory"},
		{"cgroup v1", func(w world) { w.facts("cp-c").CgroupV2 = false }, Warning, "cgroups", "cp-c", "cgroup v1", "unified_cgroup_hierarchy"},
		{"one CPU", func(w world) { w.facts("cp-a").CPUs = 1; w.facts("worker-a").CPUs = 1 }, Error, "cpu", "cp-a", "1 CPU; control-plane needs 2", "more CPUs"},
		{"little memory", func(w world) { w.facts("cp-a").MemoryBytes = gib }, Error, "memory", "cp-a", "1.0 GiB of memory; control-plane needs 1.7 GiB", "more memory"},
		{"little disk", func(w world) { w.facts("lb-b").DiskFreeBytes = 100 * mib }, Error, "disk", "lb-b", "100.0 MiB free", "make room"},
		{"a large disk that is nearly full", func(w world) {
			w.facts("cp-a").DiskFreeBytes = 100 * gib
			w.in("cp-a", func(i *facts.Inspection) { i.DiskBytes = 1000 * gib })
		}, Error, "disk", "cp-a", "10 % of the disk", "make room"},
		{"no inodes", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.InodesFree = 0.01 }) }, Error, "disk", "cp-a", "1 % of the inodes", "small files"},
		{"a disk that fills up", func(w world) { w.facts("worker-a").DiskFreeBytes = 7 * gib }, Warning, "disk", "worker-a", "18 %", "make room"},
		{"swap", func(w world) { w.facts("worker-a").SwapBytes, w.facts("lb-a").SwapBytes = 2*gib, 2*gib }, Error, "swap", "worker-a", "2.0 GiB of swap", "swapoff"},
		{"a clock that is slow", func(w world) {
			w.seen.Clocks["cp-b"] = facts.Clock{Ahead: -40 * time.Second, Uncertainty: time.Millisecond}
		}, Error, "clock", "cp-b", "40.0s behind the others'", "timedatectl"},
		{"a clock that drifts", func(w world) {
			w.seen.Clocks["cp-b"] = facts.Clock{Ahead: 1304 * time.Millisecond, Uncertainty: time.Millisecond}
		}, Warning, "clock", "cp-b", "1.3s ahead of the others' (measured to within 1ms)", "timedatectl"},
		{"a caller whose clock is wrong", func(w world) {
			for h, c := range w.seen.Clocks {
				w.seen.Clocks[h] = facts.Clock{Ahead: c.Ahead + time.Hour, Uncertainty: c.Uncertainty}
			}
		}, Warning, "clock", "", "1h00m ahead of this machine's", "whichever"},
		{"no time service", func(w world) { w.in("cp-b", func(i *facts.Inspection) { i.ClockKept = false }) }, Warning, "clock", "cp-b", "no time service", "chrony"},
		{"another address", func(w world) { w.facts("cp-a").Addresses[0].IP = "192.168.1.5" }, Error, "address", "cp-a", "no interface has the address 10.0.0.11; it has 192.168.1.5 on eth0", "spec"},
		{"another name", func(w world) { w.facts("cp-a").Hostname, w.facts("cp-b").Hostname = "localhost", "CP-B.example.com" }, Warning, "hostname", "cp-a", "localhost", "hostnamectl set-hostname cp-a"},
		{"clones", func(w world) { w.facts("cp-a").MachineID, w.facts("worker-a").MachineID = "same", "same" }, Error, "machine-id", "cp-a worker-a", "same", "systemd-machine-id-setup"},
		{"no machine-id", func(w world) { w.facts("cp-a").MachineID = "" }, Error, "machine-id", "cp-a", "empty", "systemd-machine-id-setup"},
		{"one firmware", func(w world) {
			for _, h := range []string{"cp-a", "cp-b"} {
				w.in(h, func(i *facts.Inspection) { i.ProductUUID = "4c4c4544-0042-3510-8050-b7c04f4c4432" })
			}
		}, Error, "product-uuid", "cp-a cp-b", "4c4c4544-0042", "UUID of its own"},
		{"one hardware address", func(w world) {
			for _, h := range []string{"cp-a", "lb-b"} {
				w.in(h, func(i *facts.Inspection) { i.MAC = "52:54:00:aa:bb:cc" })
			}
		}, Error, "mac", "cp-a lb-b", "52:54:00:aa:bb:cc", "hardware address of its own"},
		{"no HAProxy", func(w world) {
			w.facts("lb-a").Lacks = []string{"haproxy"}
			w.facts("cp-a").Lacks = []string{"haproxy"}
		}, Info, "packages", "lb-a", "apply installs them with apt-get", "apt-get install -y haproxy"},
		{"no repository", func(w world) {
			w.facts("lb-a").Lacks = []string{"haproxy"}
			w.in("lb-a", func(in *facts.Inspection) {
				in.Repositories = []facts.Repository{{Address: "http://a/", Error: "a: refused"}, {Address: "http://b/", Error: "b: no route"}}
			})
		}, Error, "packages", "lb-a", "haproxy is missing, and the host reaches none of its package repositories: a: refused, b: no route", "a mirror or a proxy"},
		{"one repository", func(w world) {
			w.facts("lb-a").Lacks = []string{"haproxy"}
			w.in("lb-a", func(in *facts.Inspection) {
				in.Repositories = []facts.Repository{{Address: "http://a/", Error: "a: refused"}, {Address: "http://b/"}}
			})
		}, Info, "packages", "lb-a", "apply installs them with apt-get", "apt-get install -y haproxy"},
		{"no keepalived on Rocky", func(w world) { w.facts("lb-a").Family, w.facts("lb-a").Lacks = facts.RHEL, []string{"keepalived"} }, Info, "packages", "lb-a", "apply installs them with dnf", "dnf install -y keepalived"},
		{"another containerd", func(w world) { w.in("worker-a", func(i *facts.Inspection) { i.OtherContainerd = true }) }, Warning, "runtime", "worker-a", "containerd", "ctr namespaces"},
		{"another cluster's files", func(w world) {
			w.in("cp-c", func(i *facts.Inspection) {
				i.Leftovers.Files = []string{"/etc/kubernetes/admin.conf", "/var/lib/etcd/member"}
			})
		}, Error, "leftovers", "cp-c", "/etc/kubernetes/admin.conf, /var/lib/etcd/member", "kubeadm reset"},
		{"another cluster's CA", func(w world) {
			for _, h := range []string{"cp-a", "cp-b", "cp-c"} {
				w.facts(h).Binaries, w.facts(h).Kubernetes.CA = "sha256:b", "CA"
				w.in(h, func(i *facts.Inspection) { i.Leftovers.Files = []string{"/etc/kubernetes/pki/ca.crt"} })
			}
			w.facts("cp-c").Kubernetes.CA = "other"
		}, Error, "leftovers", "cp-c", "/etc/kubernetes/pki/ca.crt", "kubeadm reset"},
		{"k3s below a cluster of ours", func(w world) {
			w.facts("worker-a").Binaries = "sha256:b"
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.Files = []string{"/etc/rancher/k3s"} })
		}, Error, "leftovers", "worker-a", "/etc/rancher/k3s", "k3s"},
		{"Calico's configuration", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.CNI = []string{"/etc/cni/net.d/05-calico.conflist"} })
		}, Error, "leftovers", "worker-a", "05-calico", "move it away"},
		{"podman's configuration", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.CNI = []string{"/etc/cni/net.d/87-podman.conflist"} })
		}, Warning, "leftovers", "worker-a", "87-podman", "move it away"},
		{"a bridge of pods", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.Interfaces = []string{"cni0"} })
		}, Error, "leftovers", "worker-a", "cni0", "ip link delete cni0"},
		{"a tunnel of pods", func(w world) {
			w.in("worker-a", func(i *facts.Inspection) { i.Leftovers.Interfaces = []string{"flannel.1"} })
		}, Warning, "leftovers", "worker-a", "flannel.1", "ip link delete"},
		{"a taken port", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) { i.Listeners = []facts.Listener{{Port: 6443, Program: "nginx", PID: 812}} })
		}, Error, "ports", "cp-a", "port 6443 is taken by nginx (process 812), and kube-apiserver needs it", "systemctl status 812"},
		{"an apiserver of nobody", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Listeners = []facts.Listener{{Port: 6443, Program: "kube-apiserver", PID: 7}}
			})
		}, Error, "ports", "cp-a", "kube-apiserver (process 7)", "stop it"},
		{"another HAProxy", func(w world) {
			w.facts("lb-a").Binaries = "sha256:b"
			w.in("lb-a", func(i *facts.Inspection) { i.Listeners = []facts.Listener{{Port: 6443, Program: "haproxy", PID: 9}} })
		}, Error, "ports", "lb-a", "port 6443 is taken by haproxy", "stop it"},
		{"a firewall", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.Firewalls = []string{"firewalld"} }) }, Warning, "firewall", "cp-a", "firewalld is on", `for a in 10.0.0.12 10.0.0.13; do firewall-cmd --permanent --add-rich-rule="rule family=ipv4 source address=$a port port=2380 protocol=tcp accept"; done`},
		{"ufw", func(w world) { w.in("worker-a", func(i *facts.Inspection) { i.Firewalls = []string{"ufw"} }) }, Warning, "firewall", "worker-a", "ufw is on", "for a in 10.0.0.11 10.0.0.12 10.0.0.13; do ufw allow proto tcp from $a to any port 10250; done"},
		{"ufw on a balancer", func(w world) { w.in("lb-a", func(i *facts.Inspection) { i.Firewalls = []string{"ufw"} }) }, Warning, "firewall", "lb-a", "ufw is on", "`ufw allow proto vrrp from 10.0.0.17 && ufw allow proto tcp from any to any port 6443`"},
		{"an old HAProxy", func(w world) {
			w.facts("lb-a").Versions = map[string]string{"haproxy": "1.8.27", "keepalived": "2.2.7"}
		}, Error, "versions", "lb-a", "haproxy 1.8.27 is too old: the load balancer needs 2.4 or newer", "RHEL 9"},
		{"an old keepalived", func(w world) {
			w.facts("lb-b").Versions = map[string]string{"haproxy": "2.6.12", "keepalived": "2.1.5"}
		}, Error, "versions", "lb-b", "keepalived 2.1.5 is too old", "newer release"},
		{"a HAProxy that does not say", func(w world) { w.facts("lb-a").Versions = map[string]string{"haproxy": "exec format error"} }, Warning, "versions", "lb-a", "cannot be determined (exec format error)", "haproxy -v"},
		{"HAProxy without a user", func(w world) { w.facts("lb-a").NoHAProxyUser = true }, Error, "versions", "lb-a", "without the user haproxy", "useradd --system"},
		{"a virtual IP elsewhere", func(w world) { w.facts("lb-a").Addresses[0].Prefix = 27 }, Error, "virtual-ip", "lb-a", "10.0.0.100 is not in the network of this load balancer (10.0.0.16/27 on eth0)", "of that network"},
		{"a virtual IP that a printer has", func(w world) {
			w.seen.VirtualIP = map[string]facts.AddressHolders{"lb-a": {MAC: "52:54:00:00:00:05", Answers: []string{"00:1b:a9:00:00:01"}}, "lb-b": {MAC: "52:54:00:00:00:06", Answers: []string{"00:1b:a9:00:00:01"}}}
		}, Error, "virtual-ip", "lb-a lb-b", "the virtual IP 10.0.0.100 is in use: an unknown machine with the hardware address 00:1b:a9:00:00:01 has it", "another as loadBalancer.address"},
		{"a virtual IP that a worker has", func(w world) {
			w.facts("worker-a").Addresses[0].MAC = "52:54:00:00:00:03"
			w.seen.VirtualIP = map[string]facts.AddressHolders{"lb-a": {MAC: "52:54:00:00:00:05", Answers: []string{"52:54:00:00:00:03"}}}
		}, Error, "virtual-ip", "worker-a lb-a", "is in use: worker-a has it", "on worker-a"},
		{"a virtual IP that nobody could be asked for", func(w world) {
			w.seen.VirtualIP = map[string]facts.AddressHolders{"lb-a": {Unknown: "operation not permitted"}}
		}, Warning, "virtual-ip", "lb-a", "could not be checked: operation not permitted", "arping -D"},
		{"SELinux on a balancer", func(w world) {
			w.in("lb-a", func(i *facts.Inspection) { i.SELinux, i.HAProxyConfined = "enforcing", true })
		}, Error, "selinux", "lb-a", "port 6443", "setsebool -P haproxy_connect_any on"},
		{"SELinux on a node", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.SELinux = "enforcing" }) }, Warning, "selinux", "cp-a", "enforcing", "permissive"},
		{"jumbo frames on one", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.MTU = 9000 }) }, Warning, "mtu", "cp-a", "9000, while most hosts have 1500", "1500"},
		{"a tunnel in between", func(w world) {
			for i, r := range w.seen.Reach {
				if r.From == "cp-a" && r.To == "worker-b" && r.Proto == facts.UDP {
					w.seen.Reach[i].Fits = false
				}
			}
		}, Error, "path-mtu", "cp-a worker-b", "1500 bytes do not get from cp-a to worker-b", "lower the MTU"},
		{"a firewall that drops", func(w world) {
			w.fail("cp-a", "cp-b", 2380, facts.TimedOut, "")
			w.fail("cp-c", "cp-b", 2380, facts.TimedOut, "")
		}, Error, "reach", "cp-a cp-b cp-c", "cp-a, cp-c cannot reach cp-b on 2380/tcp (etcd members): no answer", "open these ports on cp-b"},
		{"a firewall that rejects", func(w world) {
			w.fail("worker-a", "lb-a", 6443, facts.Refused, "")
		}, Error, "reach", "worker-a lb-a", "refused, although", "open these ports on lb-a"},
		{"a router that forbids", func(w world) { w.fail("cp-a", "worker-a", 10250, facts.Unreachable, "no route to host") }, Error, "reach", "cp-a worker-a", "no route to host", "open"},
		{"a doubled address", func(w world) { w.fail("cp-a", "worker-a", 10250, facts.Impostor, "printer answers") }, Error, "reach", "cp-a worker-a", "printer answers", "arping"},
		{"balancers that do not hear each other", func(w world) { w.fail("lb-a", "lb-b", 0, facts.TimedOut, "") }, Error, "reach", "lb-a lb-b", "IP protocol 112 (virtual IP)", "open"},
		{"balancers with a router between them", func(w world) { w.fail("lb-a", "lb-b", 0, facts.Routed, "TTL 254") }, Error, "reach", "lb-a lb-b", "arrives through a router (TTL 254 instead of 255)", "one network segment"},
		{"a dead DNS server", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Resolvers[0].Outcome, i.OwnName.Elapsed = facts.TimedOut, 10*time.Second
			})
		}, Warning, "dns", "cp-a", "10.0.0.1 does not answer", "resolv.conf"},
		{"a slow DNS server", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.OwnName.Elapsed = 3 * time.Second }) }, Warning, "dns", "cp-a", "takes 3.0s", "slow"},
		{"a name of somebody else", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.OwnName.Addresses = []string{"10.9.9.9"} }) }, Warning, "dns", "cp-a", "10.9.9.9", "/etc/hosts"},
		{"no DNS server", func(w world) {
			w.in("cp-a", func(i *facts.Inspection) {
				i.Resolvers[0] = facts.Resolver{Server: "10.0.0.11", Outcome: facts.Refused}
			})
		}, Info, "dns", "cp-a", "its own DNS server", "resolv.conf"},
		{"a DNS server that refuses", func(w world) { w.in("cp-a", func(i *facts.Inspection) { i.Resolvers[0].Outcome = facts.Refused }) }, Info, "dns", "cp-a", "no DNS server at 10.0.0.1", "resolv.conf"},
	} {
		covered[tc.check+" "+string(tc.severity)] = true
		t.Run(tc.name, func(t *testing.T) {
			c := cluster()
			obs, seen := healthy(c)
			tc.change(world{c, obs, seen})
			r := NewReport(c, Judge(c, obs, seen), nil)
			if len(r.Findings) != 1 {
				t.Fatalf("%d findings: %+v", len(r.Findings), r.Findings)
			}
			f := r.Findings[0]
			if f.Severity != tc.severity || f.Check != tc.check || strings.Join(f.Hosts, " ") != tc.hosts || !strings.Contains(f.Summary, tc.summary) || !strings.Contains(f.Fix, tc.fix) {
				t.Errorf("%+v", f)
			}
		})
	}
	covered["endpoint error"], covered["endpoint warning"] = true, true // package endpoint tests them
	covered["sources error"] = true                                     // package sources tests them
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
	c := cluster()
	obs, seen := healthy(c)
	f := obs.Hosts["lb-a"].Facts
	f.Family, f.Lacks = "", []string{"haproxy", "keepalived"}
	r := NewReport(c, Judge(c, obs, seen), []string{"os"})
	if r.Errors != 1 || r.Findings[0].Check != "packages" || !strings.Contains(r.Findings[0].Summary, "haproxy and keepalived are missing") {
		t.Errorf("%+v", r.Findings)
	}
}

// TestContainersAreNotBlamedForWhatIsBelowThem has hosts as the lab makes them: containers on one kernel. What they cannot
// change, and the cluster's configuration takes into account, is no finding; the same on machines of their own is.
func TestContainersAreNotBlamedForWhatIsBelowThem(t *testing.T) {
	c := cluster()
	obs, seen := healthy(c)
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		f.Container, f.CgroupV2, f.SwapBytes, f.DiskFreeBytes = "quorate", false, gib, 6*gib
		world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
			i.BootID, i.ProductUUID, i.ClockKept, i.DiskBytes = "one kernel", "4c4c4544-0042-3510-8050-b7c04f4c4432", false, 100*gib
		})
	}
	if found := Judge(c, obs, seen); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	for _, h := range c.Spec.Hosts {
		obs.Hosts[h.Name].Facts.Container = ""
	}
	r := NewReport(c, Judge(c, obs, seen), nil)
	var checks []string
	for _, f := range r.Findings {
		checks = append(checks, f.Check)
	}
	if !slices.Equal(checks, []string{"disk", "swap", "cgroups", "clock"}) {
		t.Errorf("on machines of their own: %v", checks)
	}
}

// TestOwnClusterIsNoLeftover looks at a cluster that stands, and at one whose build was interrupted.
func TestOwnClusterIsNoLeftover(t *testing.T) {
	for _, established := range []bool{true, false} {
		c := cluster()
		obs, seen := healthy(c)
		for _, h := range c.Spec.Hosts {
			if !h.IsNode() {
				world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
					i.Listeners = []facts.Listener{{Port: 6443, Program: "haproxy", PID: 1, Own: true}}
				})
				continue
			}
			f := obs.Hosts[h.Name].Facts
			f.Binaries, f.Images, f.Kubernetes = "sha256:b", "sha256:b", facts.Kubernetes{CA: "CA", KubeletConfig: true, Established: established}
			world{c, obs, seen}.in(h.Name, func(i *facts.Inspection) {
				i.Leftovers = facts.Leftovers{Files: []string{"/etc/kubernetes/kubelet.conf"}, Interfaces: []string{"cni0", "flannel.1"}}
				i.Listeners = []facts.Listener{{Port: 10250, Program: "kubelet", PID: 5}, {Port: 10257, Program: "kube-controller", PID: 6}}
			})
		}
		if found := Judge(c, obs, seen); len(found) > 0 {
			t.Errorf("established %v: %+v", established, found)
		}
	}
}

// TestOthersClusterIsNoLeftover: what is to be adopted is in nobody's way, and a host of yet another cluster is.
func TestOthersClusterIsNoLeftover(t *testing.T) {
	c := cluster()
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
	if found := Judge(c, obs, seen); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	obs.Hosts["worker-a"].Facts.Kubernetes.CA = "other"
	if found := Judge(c, obs, seen); len(found) == 0 || found[0].Check != "leftovers" || found[0].Severity != Error {
		t.Errorf("%+v", found)
	}
}

func TestReportMergesSortsAndIgnores(t *testing.T) {
	c := cluster()
	r := NewReport(c, []Finding{
		{Warning, "hostname", []string{"cp-b"}, "x", "y"},
		{Error, "swap", []string{"worker-a"}, "on", "off"},
		{Error, "session", []string{"lb-a"}, "dead", "mend"},
		{Error, "swap", []string{"cp-a"}, "on", "off"},
		{Error, "cpu", []string{"cp-a"}, "few", "more"},
	}, []string{"cpu"})
	if r.Errors != 2 || r.Warnings != 1 || len(r.Ignored) != 1 || r.Findings[0].Check != "session" || r.Findings[2].Check != "hostname" || !slices.Equal(r.Findings[1].Hosts, []string{"cp-a", "worker-a"}) {
		t.Errorf("%+v", r)
	}
	var refusal *Refusal
	if err := r.Err(); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "lb-a: dead. Mend (session)") || strings.Contains(err.Error(), "hostname") {
		t.Errorf("%v", err)
	}
	if err := NewReport(c, nil, nil).Err(); err != nil {
		t.Error(err)
	}
	var text strings.Builder
	if err := r.Text(&text, 60, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2 errors, 1 warning", "cp-a, worker-a  swap", "fix: off", "Ignored, as you asked: cpu"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

// TestPathsGrowWithTheHosts keeps the number of paths from growing with its square, and every node in the sample.
func TestPathsGrowWithTheHosts(t *testing.T) {
	grown := func(workers int) (*spec.Cluster, []facts.Path) {
		c := cluster()
		for i := range workers {
			c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("w", i), Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Roles: []string{spec.RoleWorker}, Zone: "a"})
		}
		return c, Paths(c)
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
