//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// TestRealHosts sets up what real servers are like, one situation after another, and compares what Quorate does about each with what is promised: it is
// handled, or preflight finds it before anything is changed, or it is refused as a mistake of the spec. What breaks something without
// having been found is a surprise. Without -whole, a few situations are set up on machines without a bundle.
func TestRealHosts(t *testing.T) {
	r := &realHosts{cluster: newCluster(t, "e2e-real")}
	ctx := testContext(t)
	r.create(t, ctx)
	for _, s := range sample(append(r.foundBefore(), r.certificate(t, ctx)), 0, 1, 4, 8, 15) {
		t.Run(s.name, func(t *testing.T) { r.find(t, ctx, s) })
	}
	for _, s := range sample(refusedSpecs, 0) {
		t.Run(s.name, func(t *testing.T) { r.refuse(t, ctx, s) })
	}
	if *whole {
		t.Run("all undone", func(t *testing.T) { r.asBefore(t, ctx) })
		t.Run("a build on such hosts", func(t *testing.T) { r.build(t, ctx) })
		for _, s := range r.whileItRuns() {
			if r.built {
				t.Run(s.name, func(t *testing.T) { r.survive(t, ctx, s) })
			}
		}
	}
	r.print(t)
}

// realHosts are a few machines, and what was seen on them.
type realHosts struct {
	*cluster
	spec     *spec.Cluster
	machines map[string]string // by what the situations call them
	before   []string          // what preflight finds without any situation
	built    bool              // there is a cluster
	rows     []row
}

// The names of machines in situations: a control plane, two workers of which the second has profiles, a load balancer, and a machine that does not
// belong to the cluster.
const (
	onControlPlane = "control plane"
	onWorker       = "worker"
	onHardened     = "hardened worker"
	onBalancer     = "load balancer"
	onStranger     = "stranger"
)

// row is a line of the matrix.
type row struct {
	situation, like, outcome, detail string
}

// The outcomes.
const (
	isHandled = "handled"
	isFound   = "found before"
	isRefused = "refused"
	surprise  = "surprise"
)

// scripts are run as root on machines.
type scripts map[string]string

func (r *realHosts) create(t *testing.T, ctx context.Context) {
	shape := shapeOf(t, spec.InitOptions{Name: r.name, Zones: []string{"a"}, ControlPlanes: 1, Workers: 2, LoadBalancers: 1})
	text, err := spec.Marshal(shape)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(r.dir, "shape.yaml")
	write(t, file, text)
	workers := shape.HostsWith(spec.RoleWorker)
	r.machines = map[string]string{onControlPlane: shape.HostsWith(spec.RoleControlPlane)[0].Name, onWorker: workers[0].Name, onHardened: workers[1].Name,
		onBalancer: shape.HostsWith(spec.RoleLoadBalancer)[0].Name, onStranger: "stranger"}
	args := []string{"lab", "create", "-f", file, "--profile", r.machines[onHardened] + "=hardened,noisy-shell"}
	if !*whole {
		args = append(args, "--empty")
	}
	r.must(t, ctx, args...)
	password, err := os.ReadFile(r.lab(t).SudoPassword())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("QUORATE_SUDO_PASSWORD", string(password))
	if r.spec, err = spec.Load(r.specFile()); err != nil {
		t.Fatal(err)
	}
	if *whole {
		if err := r.lab(t).AddMachines(ctx, []lab.Machine{{Name: r.machines[onStranger], Zone: "a"}}, progress.Discard); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range r.preflight(t, ctx, r.specFile()) {
		if f.Severity.Rank() <= model.Error.Rank() && f.Rule != "disk" { // the disk is that of the computer below
			t.Errorf("found on new machines: %+v", f)
		}
		r.before = append(r.before, key(f))
	}
}

func key(f model.Finding) string {
	return fmt.Sprint(f.Severity, f.Rule, f.Subjects, f.Summary)
}

// preflight returns what is found, and what would be, were it not for the disk of the computer below.
func (r *realHosts) preflight(t *testing.T, ctx context.Context, file string, env ...string) []model.Finding {
	t.Helper()
	cmd := r.command(ctx, "preflight", "-f", file, "-o", "json", "--ignore", "disk")
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // the report counts
	report := preflightReport(t, result{args: cmd.Args[1:], code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()})
	return append(report.Findings, report.Ignored...)
}

// sh runs a script on a machine, without its network.
func (r *realHosts) sh(t *testing.T, ctx context.Context, machine, script string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	vip := r.spec.Spec.LoadBalancer.Address
	err := r.lab(t).Exec(ctx, r.machines[machine], []string{"sh", "-ec", strings.ReplaceAll(script, "{vip}", vip)}, nil, &out, &out)
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return strings.TrimSpace(out.String()), err
}

// runAll runs each of the scripts. The test ends if one fails, because a situation that is not there cannot be tried.
func (r *realHosts) runAll(t *testing.T, ctx context.Context, all scripts) {
	t.Helper()
	for machine, script := range all {
		if _, err := r.sh(t, ctx, machine, script); err != nil {
			t.Fatalf("on the %s: %v", machine, err)
		}
	}
}

func (r *realHosts) add(t *testing.T, name, like, outcome, detail string) {
	t.Helper()
	r.rows = append(r.rows, row{name, like, outcome, strings.Join(strings.Fields(detail), " ")})
	if outcome == surprise {
		t.Errorf("%s: %s", name, detail)
	}
}

// situation is one that preflight has to find, or, without a rule, one in which it has to reach all hosts as before.
type situation struct {
	name, like  string
	setUp, undo scripts
	edit        func(*spec.Cluster) // of the spec
	env         []string            // of the command
	rule        string
	severity    model.Severity
	on          string // a machine that the finding is about
	words       string // of its summary
}

// bootScript is what a profile of the lab does at each boot.
func bootScript(profile string) string {
	i := slices.IndexFunc(lab.Profiles, func(p lab.Profile) bool { return p.Name == profile })
	return lab.Profiles[i].Boot
}

const restartSSH = "; systemctl restart ssh; while ! ss -tln | grep -q ':22 '; do :; done"

// inputChain begins a firewall of its own.
const inputChain = "nft add table inet e2e; nft add chain inet e2e in '{ type filter hook input priority 0; }'; "

func (r *realHosts) foundBefore() []situation {
	return []situation{
		{name: "Docker's rules drop what is forwarded", like: "servers with Docker",
			setUp: scripts{onWorker: bootScript("docker")}, undo: scripts{onWorker: "nft delete table ip filter; nft delete table ip nat; ip link delete docker0"},
			rule: "firewall", severity: model.Error, on: onWorker, words: "FORWARD of the nftables table ip filter"},
		{name: "systemd has a proxy for all services", like: "company networks",
			setUp: scripts{onWorker: "systemctl set-environment HTTPS_PROXY=http://198.51.100.1:3128"}, undo: scripts{onWorker: "systemctl unset-environment HTTPS_PROXY"},
			rule: "environment", severity: model.Error, on: onWorker, words: "198.51.100.1:3128"},
		{name: "nftables.service flushes all rules", like: "Debian's own /etc/nftables.conf",
			setUp: scripts{onControlPlane: "systemctl -q enable nftables"}, undo: scripts{onControlPlane: "systemctl -q disable nftables"},
			rule: "rewrites", severity: model.Warning, on: onControlPlane, words: "flush ruleset"},
		{name: "cloud-init writes /etc/hosts at each boot", like: "cloud images",
			setUp: scripts{onWorker: "touch /usr/bin/cloud-init; mkdir /etc/cloud; echo 'manage_etc_hosts: true' >/etc/cloud/cloud.cfg"},
			undo:  scripts{onWorker: "rm -r /usr/bin/cloud-init /etc/cloud"},
			rule:  "rewrites", severity: model.Warning, on: onWorker, words: "manage_etc_hosts"},
		{name: "/opt is mounted noexec", like: "CIS benchmark",
			setUp: scripts{onWorker: bootScript("noexec")}, undo: scripts{onWorker: "umount -l /opt; umount -l /home"},
			rule: "mounts", severity: model.Error, on: onWorker, words: "noexec"},
		{name: "/var is mounted noexec", like: "CIS and ANSSI hardening",
			setUp: scripts{onWorker: "mount --bind /var /var; mount -o remount,bind,noexec /var"}, undo: scripts{onWorker: "umount -l /var"},
			rule: "session", severity: model.Error, on: onWorker, words: "/var is mounted with the option noexec"},
		{name: "/etc is read-only", like: "image-based systems",
			setUp: scripts{onWorker: "mount --bind /etc /etc; mount -o remount,bind,ro /etc"}, undo: scripts{onWorker: "umount -l /etc"},
			rule: "mounts", severity: model.Error, on: onWorker, words: "/etc on HOST is read-only"},
		{name: "/var/lib/etcd is a small file system", like: "partitioned servers",
			setUp: scripts{onControlPlane: "mkdir -p /var/lib/etcd; mount -t tmpfs -o size=64m tmpfs /var/lib/etcd"}, undo: scripts{onControlPlane: "umount /var/lib/etcd; rmdir /var/lib/etcd"},
			rule: "disk", severity: model.Error, on: onControlPlane, words: "free below /var/lib/etcd"},
		{name: "a second interface is in the range of Services", like: "networks for storage, 10.0.0.0/8",
			setUp: scripts{onWorker: "ip link add e2e0 type veth peer name e2e1; ip address add 10.97.0.9/24 dev e2e0; ip link set e2e0 up; ip link set e2e1 up"},
			undo:  scripts{onWorker: "ip link delete e2e0"},
			rule:  "ranges", severity: model.Error, on: onWorker, words: "10.97.0.0/24"},
		{name: "a route leads into the range of pods", like: "VPNs and static routes",
			setUp: scripts{onWorker: "ip route add 10.244.128.0/20 via $(ip route show default | awk '{print $3}')"}, undo: scripts{onWorker: "ip route delete 10.244.128.0/20"},
			rule: "ranges", severity: model.Error, on: onWorker, words: "10.244.128.0/20"},
		{name: "the DNS server is 127.0.0.1", like: "local caches such as dnsmasq",
			setUp: scripts{onWorker: "cp /etc/resolv.conf /root/resolv.conf; echo nameserver 127.0.0.1 >/etc/resolv.conf"}, undo: scripts{onWorker: "cp /root/resolv.conf /etc/resolv.conf"},
			rule: "dns", severity: model.Error, on: onWorker, words: "127.0.0.1"},
		{name: "pings are not answered", like: "hardening guides",
			setUp: scripts{onWorker: "sysctl -qw net.ipv4.icmp_echo_ignore_all=1"}, undo: scripts{onWorker: "sysctl -qw net.ipv4.icmp_echo_ignore_all=0"},
			rule: "sysctls", severity: model.Error, on: onWorker, words: "icmp_echo_ignore_all"},
		{name: "a later file turns forwarding off", like: "hardening guides",
			setUp: scripts{onWorker: "mkdir -p /etc/sysctl.d; echo 'net.ipv4.ip_forward = 0' >/etc/sysctl.d/99-hardening.conf"}, undo: scripts{onWorker: "rm /etc/sysctl.d/99-hardening.conf"},
			rule: "sysctls", severity: model.Error, on: onWorker, words: "/etc/sysctl.d/99-hardening.conf"},
		{name: "an old drop-in changes the kubelet", like: "servers that were part of another cluster",
			setUp: scripts{onWorker: "mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Service]\\nEnvironment=KUBELET_EXTRA_ARGS=--v=2\\n' >/etc/systemd/system/kubelet.service.d/99-old.conf"},
			undo:  scripts{onWorker: "rm /etc/systemd/system/kubelet.service.d/99-old.conf"},
			rule:  "units", severity: model.Warning, on: onWorker, words: "99-old.conf"},
		{name: "two machines are clones", like: "virtual machines made from one template",
			setUp: scripts{onWorker: "cp /etc/machine-id /root/machine-id; echo 0123456789abcdef0123456789abcdef >/etc/machine-id",
				onControlPlane: "cp /etc/machine-id /root/machine-id; echo 0123456789abcdef0123456789abcdef >/etc/machine-id"},
			undo: scripts{onWorker: "cp /root/machine-id /etc/machine-id", onControlPlane: "cp /root/machine-id /etc/machine-id"},
			rule: "machine-id", severity: model.Error, on: onWorker, words: "0123456789abcdef"},
		{name: "root's key has a forced command", like: "cloud images with a user of their own",
			setUp: scripts{onWorker: `cp /root/.ssh/authorized_keys /root/keys; sed -i 's/^/command="echo Please login as the user debian; exit 142" /' /root/.ssh/authorized_keys`},
			undo:  scripts{onWorker: "cp /root/keys /root/.ssh/authorized_keys"},
			rule:  "session", severity: model.Error, on: onWorker, words: "Please login as the user debian"},
		{name: "sudo wants a password that nobody gave", like: "cloud and company images", env: []string{"QUORATE_SUDO_PASSWORD="},
			rule: "session", severity: model.Error, on: onHardened, words: "--ask-sudo-password"},
		{name: "the jump host forwards nothing", like: "hardened bastions",
			setUp: scripts{onBalancer: "echo 'AllowTcpForwarding no' >/etc/ssh/sshd_config.d/00-e2e.conf" + restartSSH}, undo: scripts{onBalancer: "rm /etc/ssh/sshd_config.d/00-e2e.conf" + restartSSH},
			edit: func(s *spec.Cluster) {
				jump := s.HostsWith(spec.RoleLoadBalancer)[0].Address
				for i, h := range s.Spec.Hosts {
					if h.Name == r.machines[onWorker] {
						s.Spec.Hosts[i].SSH.Jump = "root@" + jump
					}
				}
			},
			rule: "session", severity: model.Error, on: onWorker, words: "AllowTcpForwarding"},
		{name: "a firewall lets only SSH in", like: "servers with a default policy",
			setUp: scripts{onWorker: inputChain + "nft add rule inet e2e in iifname lo accept; nft add rule inet e2e in ct state established,related accept; nft add rule inet e2e in tcp dport 22 accept; nft add rule inet e2e in drop"},
			undo:  scripts{onWorker: "nft delete table inet e2e"},
			rule:  "reach", severity: model.Error, on: onWorker, words: "no answer"},
		{name: "a firewall drops VXLAN", like: "cloud networks with a list of ports",
			setUp: scripts{onWorker: inputChain + "nft add rule inet e2e in udp dport 8472 drop"}, undo: scripts{onWorker: "nft delete table inet e2e"},
			rule: "reach", severity: model.Error, on: onWorker, words: "8472/udp (pods): no answer"},
		{name: "another program has the kubelet's port", like: "servers that have a task already",
			setUp: scripts{onWorker: "systemd-run --quiet --unit e2e-socat socat TCP-LISTEN:10250,fork,reuseaddr EXEC:cat; while ! ss -tln | grep -q :10250; do :; done"},
			undo:  scripts{onWorker: "systemctl stop e2e-socat"},
			rule:  "ports", severity: model.Error, on: onWorker, words: "port 10250"},
		{name: "another distribution of Kubernetes was there", like: "servers that had k3s",
			setUp: scripts{onWorker: "mkdir -p /etc/rancher/k3s"}, undo: scripts{onWorker: "rm -r /etc/rancher"},
			rule: "leftovers", severity: model.Error, on: onWorker, words: "/etc/rancher"},
		{name: "HAProxy is too old", like: "RHEL 8, Ubuntu 20.04",
			setUp: scripts{onBalancer: `mv /usr/sbin/haproxy /root/; printf '#!/bin/sh\necho "HA-Proxy version 1.8.27-493ce0b 2020/11/06"\n' >/usr/sbin/haproxy; chmod +x /usr/sbin/haproxy`},
			undo:  scripts{onBalancer: "mv /root/haproxy /usr/sbin/haproxy"},
			rule:  "versions", severity: model.Error, on: onBalancer, words: "1.8.27"},
		{name: "a package is missing, and no repository can be reached", like: "servers without a way out",
			setUp: scripts{onBalancer: "mv /usr/sbin/haproxy /root/"}, undo: scripts{onBalancer: "mv /root/haproxy /usr/sbin/haproxy"},
			rule: "packages", severity: model.Error, on: onBalancer, words: "haproxy is missing"},
		{name: "the host has another name", like: "cloud images",
			setUp: scripts{onWorker: "hostname stranger"}, undo: scripts{onWorker: "hostname $(cat /etc/hostname)"},
			rule: "hostname", severity: model.Warning, on: onWorker, words: "stranger"},
		{name: "one host has a smaller MTU", like: "overlays of clouds",
			setUp: scripts{onWorker: "ip link set dev eth0 mtu 1400"}, undo: scripts{onWorker: "ip link set dev eth0 mtu 1500"},
			rule: "mtu", severity: model.Warning, on: onWorker, words: "1400"},
		{name: "the virtual IP is in no network of the load balancers", like: "specs copied from elsewhere",
			edit: func(s *spec.Cluster) { s.Spec.LoadBalancer.Address = "192.0.2.100" },
			rule: "virtual-ip", severity: model.Error, on: onBalancer, words: "192.0.2.100"},
		{name: "another machine has the virtual IP, and drops the port", like: "addresses that are in no list",
			setUp: scripts{onStranger: "ip address add {vip}/24 dev eth0; " + inputChain + "nft add rule inet e2e in tcp dport 6443 drop"},
			undo:  scripts{onStranger: "ip address delete {vip}/24 dev eth0; nft delete table inet e2e"},
			rule:  "virtual-ip", severity: model.Error, on: onBalancer, words: "is in use"},
		{name: "a host is behind two jump hosts", like: "networks within networks",
			edit: func(s *spec.Cluster) {
				jumps := fmt.Sprintf("root@%s,root@%s", s.HostsWith(spec.RoleControlPlane)[0].Address, s.HostsWith(spec.RoleLoadBalancer)[0].Address)
				for i, h := range s.Spec.Hosts {
					if h.Name == r.machines[onWorker] {
						s.Spec.Hosts[i].SSH.Jump = jumps
					}
				}
			}},
	}
}

// certificate is a host that admits only keys with an SSH certificate.
func (r *realHosts) certificate(t *testing.T, ctx context.Context) situation {
	t.Helper()
	dir := t.TempDir()
	authority, key := filepath.Join(dir, "ca"), filepath.Join(dir, "key")
	for _, args := range [][]string{
		{"-q", "-t", "ed25519", "-N", "", "-f", authority}, {"-q", "-t", "ed25519", "-N", "", "-f", key}, {"-q", "-s", authority, "-I", "e2e", "-n", "root", key + ".pub"},
	} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", args...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	public, err := os.ReadFile(authority + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return situation{name: "a host admits only SSH certificates", like: "companies with an SSH authority",
		setUp: scripts{onWorker: "echo '" + strings.TrimSpace(string(public)) + "' >/etc/ssh/e2e-ca.pub; echo 'TrustedUserCAKeys /etc/ssh/e2e-ca.pub' >/etc/ssh/sshd_config.d/00-e2e.conf; " +
			"mv /root/.ssh/authorized_keys /root/keys" + restartSSH},
		undo: scripts{onWorker: "mv /root/keys /root/.ssh/authorized_keys; rm /etc/ssh/e2e-ca.pub /etc/ssh/sshd_config.d/00-e2e.conf" + restartSSH},
		edit: func(s *spec.Cluster) {
			for i, h := range s.Spec.Hosts {
				if h.Name == r.machines[onWorker] {
					s.Spec.Hosts[i].SSH.KeyFile = key
				}
			}
		}}
}

// find sets up a situation, looks whether preflight finds it, and undoes it.
func (r *realHosts) find(t *testing.T, ctx context.Context, s situation) {
	file := r.specFile()
	if s.edit != nil {
		file = r.edited(t, s.edit)
	}
	t.Cleanup(func() { r.runAll(t, ctx, s.undo) })
	r.runAll(t, ctx, s.setUp)
	findings := r.preflight(t, ctx, file, s.env...)
	if s.rule == "" {
		for _, f := range findings {
			if f.Severity.Rank() <= model.Error.Rank() && f.Rule != "disk" && !slices.Contains(r.before, key(f)) {
				r.add(t, s.name, s.like, surprise, f.Rule+": "+f.Summary)
				return
			}
		}
		r.add(t, s.name, s.like, isHandled, "preflight reaches all hosts")
		return
	}
	host := r.machines[s.on]
	words := strings.ReplaceAll(s.words, "HOST", host)
	i := slices.IndexFunc(findings, func(f model.Finding) bool {
		return f.Rule == s.rule && f.Severity == s.severity && slices.Contains(f.Subjects, host) && strings.Contains(f.Summary+f.Fix, words)
	})
	if i < 0 {
		text, _ := json.Marshal(findings)
		r.add(t, s.name, s.like, surprise, fmt.Sprintf("no %s %s about %s with %q in %s", s.severity, s.rule, host, words, text))
		return
	}
	r.add(t, s.name, s.like, isFound, s.rule+": "+findings[i].Summary)
	for _, f := range findings {
		if f.Rule != s.rule && f.Severity.Rank() <= model.Error.Rank() && !slices.Contains(r.before, key(f)) {
			t.Logf("found as well: %s %s %s", f.Rule, f.Subjects, f.Summary)
		}
	}
}

// asBefore checks that no situation has left anything.
func (r *realHosts) asBefore(t *testing.T, ctx context.Context) {
	for _, f := range r.preflight(t, ctx, r.specFile()) {
		if f.Severity.Rank() <= model.Warning.Rank() && f.Rule != "disk" && !slices.Contains(r.before, key(f)) {
			t.Errorf("not undone: %+v", f)
		}
	}
}

// refusedSpec is a spec that cannot work.
type refusedSpec struct {
	name, like string
	edit       func(*spec.Cluster)
	words      string // of the message
}

var refusedSpecs = []refusedSpec{
	{"pods in two families, Services in one", "dual-stack networks", func(s *spec.Cluster) { s.Spec.Network.PodCIDR = "10.244.0.0/16,fd00::/48" }, "the Services only IPv4"},
	{"the endpoint is an address", "clusters without DNS", func(s *spec.Cluster) { s.Spec.ControlPlane.Endpoint = "10.0.0.100:6443" }, "is an IP address"},
	{"the endpoint has the name of a Service", "short names", func(s *spec.Cluster) { s.Spec.ControlPlane.Endpoint = "kubernetes:6443" }, "the API's Service"},
	{"a host's name is a full DNS name", "the RHEL family", func(s *spec.Cluster) { s.Spec.Hosts[0].Name = "cp-a.example.com" }, "cp-a.example.com"},
	{"a host's name has capitals", "company conventions", func(s *spec.Cluster) { s.Spec.Hosts[0].Name = "CP-A" }, "CP-A"},
}

func (r *realHosts) refuse(t *testing.T, ctx context.Context, s refusedSpec) {
	got := r.run(ctx, "validate", "-f", r.edited(t, s.edit))
	if text := strings.Join(strings.Fields(got.stdout+got.stderr), " "); got.code != 2 || !strings.Contains(text, s.words) {
		r.add(t, s.name, s.like, surprise, got.String())
		return
	}
	r.add(t, s.name, s.like, isRefused, s.words)
}

// handling is a situation in which everything has to work.
type handling struct {
	name, like string
	setUp      scripts
	// works returns an error if something does not work in the situation.
	works func(*testing.T, context.Context) error
}

// whileBuilt are situations in which the cluster is built, all at the same time.
func (r *realHosts) whileBuilt() []handling {
	succeeds := func(machine, script string) func(*testing.T, context.Context) error {
		return func(t *testing.T, ctx context.Context) error { _, err := r.sh(t, ctx, machine, script); return err }
	}
	everywhere := func(script string) scripts {
		return scripts{onControlPlane: script, onWorker: script, onHardened: script, onBalancer: script}
	}
	return []handling{
		{"a user whose sudo has a password and a short PATH; PAM's limits; umask 077; /tmp noexec", "CIS benchmark, company images", nil, r.ready(onHardened)},
		{"the login shell prints a title without a line break, and sshd a banner", "shared dotfiles", nil, r.ready(onHardened)},
		{"sshd forwards no TCP connections", "CIS benchmark", everywhere("echo 'AllowTcpForwarding no' >/etc/ssh/sshd_config.d/00-e2e.conf" + restartSSH), r.healthy()},
		{"sessions have a proxy", "company networks",
			scripts{onControlPlane: "echo 'SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HTTPS_PROXY=http://198.51.100.1:3128 https_proxy=http://198.51.100.1:3128' >/etc/ssh/sshd_config.d/01-e2e.conf" + restartSSH},
			succeeds(onControlPlane, "! grep -rqi https_proxy /etc/kubernetes/manifests")},
		{"umask 077 for root", "hardening guides", scripts{onControlPlane: "echo 'umask 077' >>/root/.bashrc"},
			succeeds(onControlPlane, "PATH=$PATH:/usr/local/bin; setpriv --reuid nobody --regid nogroup --clear-groups kubectl version --client >/dev/null")},
		{"/var/lib/etcd has lost+found", "disks of their own", scripts{onControlPlane: "mkdir -p -m 700 /var/lib/etcd/lost+found"}, r.healthy()},
		{"/var/lib/kubelet is a file system of its own", "partitioned servers", scripts{onWorker: "mkdir -p /var/lib/kubelet; mount -t tmpfs -o size=2g tmpfs /var/lib/kubelet"}, r.ready(onWorker)},
		{"nothing creates /run/haproxy", "the RHEL family",
			scripts{onBalancer: "sed /^RuntimeDirectory/d /usr/lib/systemd/system/haproxy.service >/etc/systemd/system/haproxy.service; systemctl daemon-reload; rm -rf /run/haproxy"}, r.healthy()},
		{"a second interface with a network of its own", "networks for storage",
			scripts{onWorker: "ip link add e2e0 type veth peer name e2e1; ip address add 192.168.77.9/24 dev e2e0; ip link set e2e0 up; ip link set e2e1 up"}, r.ready(onWorker)},
		{"the caller has a proxy", "company networks", nil, r.healthy("HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9", "ALL_PROXY=http://127.0.0.1:9")},
		{"known_hosts has a line for a certificate authority", "companies with SSH certificates", nil, r.certAuthority},
	}
}

// ready says that a node works.
func (r *realHosts) ready(machine string) func(*testing.T, context.Context) error {
	return func(t *testing.T, ctx context.Context) error {
		return r.within(ctx, func() error {
			s, _, err := r.status(ctx)
			if err != nil {
				return err
			}
			for _, n := range s.Nodes {
				if n.Name == r.machines[machine] && n.Ready {
					return nil
				}
			}
			return fmt.Errorf("%s is not ready", r.machines[machine])
		})
	}
}

// healthy says that the spec is in place, as commands with these variables see it, and that the cluster has no problem beyond its size.
func (r *realHosts) healthy(env ...string) func(*testing.T, context.Context) error {
	return func(t *testing.T, ctx context.Context) error {
		return r.within(ctx, func() error {
			cmd := r.command(ctx, "plan", "-f", r.specFile(), "--detailed-exitcode")
			cmd.Env = append(cmd.Env, env...)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("plan: %w: %s", err, out)
			}
			return nil
		})
	}
}

// certAuthority has a line of an authority before those of the hosts.
func (r *realHosts) certAuthority(t *testing.T, ctx context.Context) error {
	l := r.lab(t)
	public, err := os.ReadFile(l.SSHKey() + ".pub")
	if err != nil {
		return err
	}
	known, err := os.ReadFile(l.KnownHosts())
	if err != nil {
		return err
	}
	hosts := filepath.Join(t.TempDir(), "known_hosts")
	write(t, hosts, slices.Concat([]byte("@cert-authority * "), public, known))
	file := r.edited(t, func(s *spec.Cluster) {
		for i := range s.Spec.Hosts {
			s.Spec.Hosts[i].SSH.KnownHostsFile = hosts
		}
	})
	return r.plans(ctx, file, 0) // without the flag, a host that is not reached does not matter
}

// plans waits until plan --detailed-exitcode ends with this status.
func (r *realHosts) plans(ctx context.Context, file string, code int) error {
	return r.within(ctx, func() error {
		if got := r.run(ctx, "plan", "-f", file, "--detailed-exitcode"); got.code != code {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

// build sets up all situations in which a cluster can be built, and builds it.
func (r *realHosts) build(t *testing.T, ctx context.Context) {
	all := r.whileBuilt()
	for _, h := range all {
		r.runAll(t, ctx, h.setUp)
	}
	said := ""
	for _, f := range r.preflight(t, ctx, r.specFile()) {
		if f.Severity.Rank() <= model.Error.Rank() && f.Rule != "disk" {
			said += f.Rule + ": " + f.Summary + "; "
		}
	}
	if said != "" {
		t.Fatalf("preflight finds errors where a cluster has to be built: %s", said)
	}
	got := r.run(ctx, "apply", "-f", r.specFile(), "--ignore", "disk")
	r.built = got.code == 0
	for _, h := range all {
		err := fmt.Errorf("%s", got)
		if r.built {
			err = h.works(t, ctx)
		}
		if err != nil {
			r.add(t, h.name, h.like, surprise, err.Error())
			continue
		}
		r.add(t, h.name, h.like, isHandled, "the cluster is built, and works")
	}
	if !r.built {
		t.Fatal("there is no cluster")
	}
}

// mishap is what happens to a cluster that exists.
type mishap struct {
	name, like string
	happens    scripts
	undo       scripts
	// works returns an error if something does not work.
	works func(*testing.T, context.Context) error
}

func (r *realHosts) whileItRuns() []mishap {
	succeeds := func(machine, script string) func(*testing.T, context.Context) error {
		return func(t *testing.T, ctx context.Context) error {
			return r.within(ctx, func() error { _, err := r.sh(t, ctx, machine, script); return err })
		}
	}
	return []mishap{
		{"the routes to pods are flushed", "systemd-networkd, DHCP", scripts{onWorker: "ip route flush dev flannel.1"}, nil,
			succeeds(onWorker, "test -n \"$(ip route show dev flannel.1)\"")},
		{"all rules are flushed", "a reload of nftables.service", scripts{onWorker: "nft list tables >/run/e2e-tables; nft flush ruleset"}, nil,
			func(t *testing.T, ctx context.Context) error {
				return r.within(ctx, func() error {
					r.run(ctx, "repair", "-f", r.specFile()) // kube-proxy may leave it to a repair; what is there afterwards counts
					missing, err := r.sh(t, ctx, onWorker, "nft list tables >/run/e2e-now; grep -vxFf /run/e2e-now /run/e2e-tables || true")
					if err == nil && missing != "" {
						err = fmt.Errorf("missing are %s", missing)
					}
					return err
				})
			}},
		{"/etc/hosts is written by another program", "cloud-init at each boot", scripts{onWorker: "printf '127.0.0.1 localhost\\n' >/etc/hosts"}, nil,
			func(t *testing.T, ctx context.Context) error {
				if err := r.plans(ctx, r.specFile(), 5); err != nil {
					return fmt.Errorf("the plan does not see it: %w", err)
				}
				if got := r.run(ctx, "apply", "-f", r.specFile()); got.code != 0 {
					return fmt.Errorf("%s", got)
				}
				_, err := r.sh(t, ctx, onWorker, "grep -q 'BEGIN quorate' /etc/hosts")
				return err
			}},
		{"ca.crt has a comment on one host", "authorities of companies", scripts{onControlPlane: "sed -i '1i # Corporate root CA' /etc/kubernetes/pki/ca.crt"},
			scripts{onControlPlane: "sed -i 1d /etc/kubernetes/pki/ca.crt"},
			r.healthy()},
		{"the virtual IP is removed from the interface", "systemd-networkd, DHCP",
			scripts{onBalancer: "set -- $(ip -o -4 address show to {vip}); ip address delete $4 dev $2"}, nil,
			succeeds(onBalancer, "test -n \"$(ip -o -4 address show to {vip})\"")},
	}
}

// survive lets something happen, and looks whether everything works.
func (r *realHosts) survive(t *testing.T, ctx context.Context, s mishap) {
	t.Cleanup(func() { r.runAll(t, ctx, s.undo) })
	r.runAll(t, ctx, s.happens)
	err := s.works(t, ctx)
	outcome, detail := isHandled, "it works again, or still"
	if err != nil {
		outcome, detail = surprise, err.Error()
		if now, _, failed := r.status(ctx); failed == nil && len(now.Problems) > 0 {
			outcome, detail = isFound, "status: "+now.Problems[0].Summary
			t.Errorf("status reports it, but it is not handled: %v", err)
		}
	}
	r.add(t, s.name, s.like, outcome, detail)
}

// within calls f until it succeeds, and returns its last error if it does not within patience.
func (r *realHosts) within(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Second):
		}
	}
}

// elsewhere are situations that machines of one kernel, or without the packages of other distributions, cannot have, or for which other tests exist.
var elsewhere = []struct{ situation, why, test string }{
	{"HAProxy and SELinux of the RHEL family", "its packages are not in Debian's mirrors", "internal/render/hostconfig, internal/hostside/programs, internal/preflight"},
	{"the caller's clock is wrong, or nobody sets a clock", "all machines have the clock of this computer", "internal/preflight TestFindings"},
	{"a host with cgroup v1 joins hosts with v2", "all machines have the kernel of this computer", "internal/preflight TestJoiningHostsAreChecked"},
	{"swap and zram", "swap belongs to the computer", "internal/preflight TestFindings"},
	{"kernel modules that modprobe blocks", "preflight does not judge them in containers", "internal/preflight TestFindings"},
	{"sudo-rs", "Debian 12 does not have it", "internal/host TestSudoAdvice"},
	{"many keys in the agent, a key of the jump hosts' own", "a real sshd without a lab is enough", "internal/host"},
	{"a caller that reaches only a bastion", "the test of a whole cluster has it", "TestCluster/callers"},
	{"an expired certificate of a kubelet", "the test of certificates has it", "TestCertificates"},
	{"another package manager holds the lock", "lab machines reach no repository", "internal/hostside/packages TestAnotherPackageManager"},
	{"Terraform outputs of PowerShell and KubeOne", "they need no host", "internal/spec"},
	{"an adopted cluster with an address as its endpoint, or with full DNS names", "a plan needs no host", "internal/plan"},
	{"several clusters with keepalived in one network", "the rendered configuration decides", "internal/render/hostconfig"},
	{"a second prompt of PAM, or a prompt of its own", "the image has no such module", "internal/host TestSudoAsksForSomethingElse"},
	{"sshd that wants more than a key", "a server without a lab is enough", "internal/host TestAKeyIsNotEnough"},
	{"another machine with the IPv6 address of a host", "the situations are on machines with IPv4", "internal/hostside/system TestAddressesThatTheKernelDoesNotUse, components/programs/flannel"},
}

// print prints the matrix, and its figures as the last line.
func (r *realHosts) print(t *testing.T) {
	counts := map[string]int{}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SITUATION\tREAL SERVERS\tOUTCOME\tDETAIL")
	for _, x := range r.rows {
		counts[x.outcome]++
		detail := []rune(x.detail)
		if len(detail) > 120 {
			detail = append(detail[:119], '…')
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", x.situation, x.like, x.outcome, string(detail))
	}
	fmt.Fprintln(w, "\nNOT IN A LAB\tWHY\tTESTED IN\t")
	for _, x := range elsewhere {
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", x.situation, x.why, x.test)
	}
	if err := w.Flush(); err != nil {
		t.Error(err)
	}
	printArtifact(t, "hosts.txt", b.String())
	figures, err := json.Marshal(map[string]int{"situations": len(r.rows), "handled": counts[isHandled], "found": counts[isFound], "refused": counts[isRefused],
		"surprised": counts[surprise], "elsewhere": len(elsewhere)})
	if err != nil {
		t.Fatal(err)
	}
	printArtifact(t, "hosts.json", string(figures)+"\n")
}
