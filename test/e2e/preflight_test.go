//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/preflight"
	"quorate.dev/quorate/internal/spec"
)

// TestPreflight checks machines without a cluster, before and after it causes problems on them that real hosts have.
func TestPreflight(t *testing.T) {
	c := newCluster(t, "e2e-preflight")
	ctx := testContext(t)
	c.must(t, ctx, "lab", "create", "--empty", c.name)
	t.Run("as they were made", func(t *testing.T) { preflightClean(t, ctx, c) })
	t.Run("a mirror that is not there", func(t *testing.T) { preflightSources(t, ctx, c) })
	t.Run("users of all kinds", func(t *testing.T) { preflightUsers(t, ctx, c) })
	t.Run("everything wrong", func(t *testing.T) { preflightFindings(t, ctx, c) })
}

func preflightReport(t *testing.T, r result) preflight.Report {
	t.Helper()
	var report preflight.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("%v in %s", err, r)
	}
	return report
}

// preflightClean expects no findings, whatever the computer below is like, except about its disk.
func preflightClean(t *testing.T, ctx context.Context, c *cluster) {
	r := c.must(t, ctx, "preflight", "-f", c.specFile(), "-o", "json", "--ignore", "disk")
	report := preflightReport(t, r)
	if report.Hosts != 7 || report.Errors != 0 {
		t.Errorf("found on new machines: %s", r)
	}
	for _, f := range report.Findings {
		// The computer below the lab does not know the lab's names.
		if f.Severity == model.Warning && (f.Rule != preflight.EndpointCheck || len(f.Subjects) > 0 || !strings.Contains(f.Summary, "does not resolve on this machine")) {
			t.Errorf("found on new machines: %+v", f)
		}
	}
	t.Logf("preflight of 7 hosts: %s", r.took)
	if text := c.must(t, ctx, "preflight", "-f", c.specFile(), "--ignore", "disk").stdout; !strings.Contains(text, "no errors") {
		t.Errorf("the text does not say so:\n%s", text)
	}
}

// preflightSources uses a mirror that does not exist. The finding is about this machine, not about a host, and comes before
// any download.
func preflightSources(t *testing.T, ctx context.Context, c *cluster) {
	parsed, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	parsed.Spec.Network.Policies = spec.PoliciesIgnored // as is the default with published components
	parsed.Spec.Components = spec.Components{Source: spec.SourceMirror, Releases: "https://127.0.0.1:1/files", Registry: "127.0.0.1:1/mirror"}
	text, err := spec.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	write(t, file, text)
	found := 0
	for _, f := range preflightReport(t, c.exits(t, ctx, 3, "preflight", "-f", file, "-o", "json", "--ignore", "disk")).Findings {
		if f.Rule == preflight.SourcesCheck && f.Severity == model.Error && len(f.Subjects) == 0 && strings.Contains(f.Summary, "127.0.0.1:1 refuses the connection") && f.Fix != "" {
			found++
		}
	}
	if found != 3 {
		t.Errorf("%d findings about one file server and two images", found)
	}
}

// do runs a script on a machine, whatever was done to its network.
func (c *cluster) do(t *testing.T, ctx context.Context, machine, script string) {
	t.Helper()
	c.must(t, ctx, "lab", "--lab", c.name, "exec", machine, "--", "sh", "-ec", script)
}

func preflightFindings(t *testing.T, ctx context.Context, c *cluster) {
	parsed, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	address := map[string]string{}
	for _, h := range parsed.Spec.Hosts {
		address[h.Name] = h.Address
	}
	const table = "nft add table ip e2e; nft add chain ip e2e in '{ type filter hook input priority 0; }'; nft add rule ip e2e in "
	for machine, script := range map[string]string{
		"cp-a": "echo 0123456789abcdef0123456789abcdef >/etc/machine-id",
		"cp-b": "echo 0123456789abcdef0123456789abcdef >/etc/machine-id; hostname stranger",
		"cp-c": "mkdir -p /etc/kubernetes /var/lib/etcd/member; touch /etc/kubernetes/admin.conf; " + table + "udp dport 8472 meta length '>' 1400 drop",
		"worker-a": "mkdir -p /etc/cni/net.d; echo '{}' >/etc/cni/net.d/05-other.conflist; ip link add cni0 type bridge; echo nameserver " + address["lb-b"] + " >/etc/resolv.conf; " +
			"systemd-run --quiet --unit e2e-socat socat TCP-LISTEN:10250,fork,reuseaddr EXEC:cat; while ! ss -tln | grep -q :10250; do :; done",
		"worker-b": "dev=$(ip -o address show to " + address["worker-b"] + " | awk '{print $2}'); ip link set dev $dev mtu 1400; " +
			"mkdir -p /run/containerd; touch /run/containerd/containerd.sock",
		"lb-a": table + "tcp dport 6443 reject with tcp reset",
		"lb-b": table + "udp dport 53 drop; mount -t tmpfs -o size=400m tmpfs /var/lib; mv $(command -v haproxy) /root/",
	} {
		c.do(t, ctx, machine, script)
	}
	c.must(t, ctx, "lab", "--lab", c.name, "fault", "cut", "cp-a:cp-b")
	r := c.exits(t, ctx, 3, "preflight", "-f", c.specFile(), "-o", "json")
	t.Logf("preflight of 7 hosts with faults: %s", r.took)
	report := preflightReport(t, r)
	for _, want := range []struct {
		severity     model.Severity
		check, hosts string
		summary, fix string
	}{
		{model.Error, "machine-id", "cp-a cp-b", "0123456789abcdef0123456789abcdef", "systemd-machine-id-setup"},
		{model.Warning, "hostname", "cp-b", "stranger", "hostnamectl set-hostname cp-b"},
		{model.Error, "leftovers", "cp-c", "/etc/kubernetes/admin.conf, /var/lib/etcd/member", "kubeadm reset"},
		{model.Error, "leftovers", "worker-a", "/etc/cni/net.d/05-other.conflist on worker-a is read before flannel's", "Move it away"},
		{model.Error, "leftovers", "worker-a", "cni0", "ip link delete cni0"},
		{model.Error, "ports", "worker-a", "port 10250 on worker-a is taken by socat (process ", "systemctl status"},
		{model.Error, "reach", "cp-a cp-b", "cp-a cannot reach cp-b on 10250/tcp (kubelet), 2379/tcp (etcd clients), 2380/tcp (etcd members), 6443/tcp (API), 8472/udp (pods): no answer", "Open these ports on cp-b"},
		{model.Error, "reach", "cp-a cp-b", "cp-b cannot reach cp-a on ", "Open these ports on cp-a"},
		{model.Error, "reach", "cp-a cp-b cp-c worker-a worker-b lb-a", "cannot reach lb-a on 6443/tcp (endpoint): refused", "Open these ports on lb-a"},
		{model.Error, "path-mtu", "cp-a cp-c", "packets of 1500 bytes do not get from cp-a to cp-c", "lower the MTU"},
		{model.Warning, "mtu", "worker-b", "the MTU of worker-b is 1400, while most hosts have 1500", "1500"},
		{model.Warning, "runtime", "worker-b", "another containerd", "ctr namespaces list"},
		{model.Warning, "dns", "worker-a lb-b", "the DNS server " + address["lb-b"] + " does not answer worker-a and lb-b", "/etc/resolv.conf"},
		{model.Error, "disk", "lb-b", "free below /var/lib on lb-b is too little: load-balancer needs 512.0 MiB", "larger disk"},
		{model.Error, "packages", "lb-b", "haproxy is missing on lb-b, and none of its package repositories can be reached from there", "or install the packages from files: haproxy"},
	} {
		if !slices.ContainsFunc(report.Findings, func(f model.Finding) bool {
			return f.Severity == want.severity && f.Rule == want.check && strings.Join(f.Subjects, " ") == want.hosts && strings.Contains(f.Summary, want.summary) && strings.Contains(f.Fix, want.fix)
		}) {
			t.Errorf("not found: %+v", want)
		}
	}
	// Nothing else is wrong with them, except for the disk of the computer below.
	for _, f := range report.Findings {
		if f.Severity == model.Error && !slices.Contains([]string{"machine-id", "leftovers", "ports", "reach", "path-mtu", "disk", "packages"}, f.Rule) {
			t.Errorf("found without a cause: %+v", f)
		}
	}
	if t.Failed() {
		t.Log(r.stdout)
	}
	r = c.exits(t, ctx, 3, "apply", "-f", c.specFile())
	for _, want := range []string{"refused (preflight)", "nothing was changed", "port 10250 on worker-a is taken by socat", "cp-a cannot reach cp-b"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("apply does not say %q: %s", want, r)
		}
	}
	for _, h := range parsed.Spec.Hosts {
		c.do(t, ctx, h.Name, "if grep -q 'BEGIN quorate' /etc/hosts; then exit 1; fi; test ! -e /var/lib/quorate/bundle; test ! -e /etc/kubernetes/pki")
	}
}

// preflightUsers reaches one host as a user whose sudo asks for a password, on another port, through a jump host with its own
// user and port, with a key that has a passphrase. It uses real sshd and sudo.
func preflightUsers(t *testing.T, ctx context.Context, c *cluster) {
	const password, phrase = "correct horse battery", "staple"
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	user := func(name, port string) string {
		return "useradd --create-home --shell /bin/sh " + name + "; echo '" + name + ":" + password + "' | chpasswd; mkdir -m 700 /home/" + name + "/.ssh; " +
			"echo '" + strings.TrimSpace(string(public)) + "' >/home/" + name + "/.ssh/authorized_keys; chown -R " + name + " /home/" + name + "/.ssh; " +
			"printf 'Port 22\\nPort " + port + "\\n' >/etc/ssh/sshd_config.d/e2e.conf; systemctl restart ssh; while ! ss -tln | grep -q :" + port + "; do :; done"
	}
	c.do(t, ctx, "lb-a", user("hop", "2200"))
	c.do(t, ctx, "worker-a", user("ops", "2222")+"; echo 'ops ALL=(ALL:ALL) ALL' >/etc/sudoers.d/ops; chmod 0440 /etc/sudoers.d/ops")
	parsed, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	jump, known := "", filepath.Join(dir, "known_hosts")
	for _, h := range parsed.Spec.Hosts {
		if h.Name == "lb-a" {
			jump = "hop@" + h.Address + ":2200"
		}
	}
	for i, h := range parsed.Spec.Hosts {
		if h.Name == "worker-a" {
			parsed.Spec.Hosts[i].SSH = spec.SSH{User: "ops", Port: 2222, KeyFile: key, KnownHostsFile: known, Jump: jump}
		}
	}
	data, err := spec.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cluster.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	accept := "--accept-new-host-keys=false"
	try := func(code int, env ...string) string {
		t.Helper()
		cmd := c.command(ctx, "preflight", "-f", file, "-o", "json", "--ignore", "disk", accept)
		cmd.Env = append(cmd.Env, env...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // the status is what counts
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Fatalf("exit status %d, want %d: %s%s", got, code, stdout.String(), stderr.String())
		}
		for _, secret := range []string{password, phrase} {
			if strings.Contains(stdout.String()+stderr.String(), secret) {
				t.Errorf("a secret is printed: %s%s", stdout.String(), stderr.String())
			}
		}
		return stdout.String()
	}
	const sudoIs, phraseIs = "QUORATE_SUDO_PASSWORD=", "QUORATE_SSH_PASSPHRASE="
	// The key of worker-a is not confirmed, so its sudo gets no password, and nothing is recorded.
	if out := try(3, sudoIs+password, phraseIs+phrase); !strings.Contains(out, "is new and not confirmed") || !strings.Contains(out, `"session"`) {
		t.Errorf("a password was sent to a stranger: %s", out)
	}
	if recorded, _ := os.ReadFile(known); strings.Contains(string(recorded), ":2222 ") {
		t.Errorf("a key that nobody has confirmed is on record:\n%s", recorded)
	}
	accept = "--accept-new-host-keys"
	for want, env := range map[string][]string{
		"wrong passphrase":                         {sudoIs + password, phraseIs + "nonsense"},
		"--ask-sudo-password":                      {phraseIs + phrase},
		"sudo does not accept the password of ops": {sudoIs + "wrong", phraseIs + phrase},
	} {
		if out := try(3, env...); !strings.Contains(out, want) || !strings.Contains(out, `"session"`) {
			t.Errorf("does not say %q: %s", want, out)
		}
	}
	if out := try(0, sudoIs+password, phraseIs+phrase); strings.Contains(out, `"session"`) {
		t.Errorf("found: %s", out)
	}
	recorded, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(recorded), ":2200 ") || !strings.Contains(string(recorded), ":2222 ") {
		t.Errorf("not on record are both host keys:\n%s", recorded)
	}
	c.do(t, ctx, "worker-a", "if journalctl --no-pager | grep -F '"+password+"'; then exit 1; fi")
}
