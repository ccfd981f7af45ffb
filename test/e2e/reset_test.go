//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/plan"
)

// looks are commands that print what a cluster changes on a machine, one item per line. They leave out what changes on its own: logs,
// the state of systemd, what its session needs, and files in /run that any program makes that looks at mounts or at iptables' lock.
var looks = map[string]string{
	"file": `find /etc /opt /root /usr /var /run /home /srv /mnt -xdev \( -path /var/log/journal -o -path /var/lib/systemd -o -path /run/systemd -o -path /run/udev -o -path /run/log ` +
		`-o -path /run/lock -o -path /run/user -o -path /run/mount -o -path /run/xtables.lock -o -path '/run/credentials*' -o -path '/etc/rc?.d' -o -path /var/lib/quorate/bin -o -path /run/quorate \) -prune ` +
		`-o ! -path /var/lib/quorate -printf '%p %y %m %u:%g %l\n'`,
	"content":   "find /etc /root -xdev -type f -exec sha256sum {} +",
	"unit":      `systemctl list-units --all --plain --no-legend --no-pager | awk '{print $1, $2, $3, $4}' | grep -v -E '^(session-|run-|user|sys-|dev-|ssh@|network-online|systemd-tmpfiles)'`,
	"unit file": "systemctl list-unit-files --no-legend --no-pager --plain",
	"link":      "ip -o link | sed 's/^[0-9]*: //; s/[@:].*//'",
	"address":   "ip -o address show scope global | awk '{print $2, $4}'",
	"route":     "ip route show table all | grep -v fe80:", // a link gets these addresses when nobody has answered for them
	"nftables":  "nft list ruleset",
	"sysctl": "for s in net.ipv4.ip_forward net.ipv4.ip_nonlocal_bind net.ipv4.conf.all.route_localnet net.bridge.bridge-nf-call-iptables net.ipv6.conf.all.forwarding " +
		"net.netfilter.nf_conntrack_max vm.overcommit_memory kernel.panic kernel.panic_on_oops; do echo $s $(sysctl -n $s 2>/dev/null); done",
	"mount":   "cut -d' ' -f2,3 /proc/mounts",
	"process": "ps -eo comm --no-headers | grep -v -E 'kworker|sshd|^(sh|ps|grep|sort|bash)$'",
}

// found is how the machines are, by machine and kind.
func (c *cluster) found(t *testing.T, ctx context.Context, machines []string) map[string]map[string][]string {
	t.Helper()
	out := map[string]map[string][]string{}
	for _, m := range machines {
		out[m] = map[string][]string{}
		for kind, command := range looks {
			lines := strings.Split(c.ssh(t, ctx, m, "("+command+") | sort -u"), "\n")
			out[m][kind] = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
		}
	}
	return out
}

// asFound compares machines with how they were found.
func (c *cluster) asFound(t *testing.T, ctx context.Context, before map[string]map[string][]string) {
	t.Helper()
	for m, now := range c.found(t, ctx, slices.Collect(maps.Keys(before))) {
		for kind := range looks {
			var differ []string
			for _, l := range now[kind] {
				if !slices.Contains(before[m][kind], l) {
					differ = append(differ, "new: "+l)
				}
			}
			for _, l := range before[m][kind] {
				if !slices.Contains(now[kind], l) {
					differ = append(differ, "gone: "+l)
				}
			}
			if len(differ) > 0 {
				t.Errorf("%s, %s:\n  %s", m, kind, strings.Join(differ[:min(len(differ), 20)], "\n  "))
			}
		}
	}
}

// resetsAll ends the whole cluster, and compares its machines with how they were before it was built. It does the same after a
// reset that was killed, and after a build that was: this is how a user starts over. At last the cluster is built again.
func resetsAll(t *testing.T, ctx context.Context, c *cluster, file string, before map[string]map[string][]string) {
	if r := c.exits(t, ctx, 2, "reset", "--all", "-f", file); !strings.Contains(r.stderr, "--yes") {
		t.Errorf("without a confirmation: %s", r)
	}
	r := c.must(t, ctx, "reset", "--all", "--dry-run", "-f", file, "-o", "json")
	for m := range before {
		if !slices.ContainsFunc(planned(t, r), func(s plan.Step) bool { return s.Kind == plan.ResetHost && s.Host == m }) {
			t.Errorf("%s is not in the plan of a reset: %s", m, r)
		}
	}
	killed := c.start(t, ctx, "reset", "--all", "--yes", "-f", file, "--verbose")
	if !killed.reaches(ctx, "reset the host …") {
		_, all := killed.wait(t)
		t.Fatalf("reset does not begin: %s", all)
	}
	killed.signal(t, ctx, syscall.SIGKILL, 2*time.Second)
	killed.wait(t)
	if r := c.run(ctx, "apply", "-f", file); r.code == 0 || !strings.Contains(r.stderr, "quorate reset") {
		t.Errorf("apply in the middle of a reset: %s", r)
	}
	r = c.must(t, ctx, "reset", "--all", "--yes", "-f", file)
	t.Logf("reset of the whole cluster, after one that was killed: %s", r.took)
	c.asFound(t, ctx, before)

	if *whole {
		steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json"))
		half := c.start(t, ctx, "apply", "-f", file, "--verbose")
		if !half.reaches(ctx, title(t, steps, plan.InitCluster)+" …") {
			_, all := half.wait(t)
			t.Fatalf("apply does not begin: %s", all)
		}
		half.signal(t, ctx, syscall.SIGKILL, time.Second)
		half.wait(t)
		c.must(t, ctx, "reset", "--all", "--yes", "-f", file)
		c.asFound(t, ctx, before)
	}

	r = c.must(t, ctx, "apply", "-f", file)
	t.Logf("apply on machines that were reset: %s", r.took)
	c.unchanged(t, ctx, "-f", file)
	if names := c.ssh(t, ctx, slices.Sorted(maps.Keys(before))[0], "ls /var/lib/quorate"); !strings.Contains(names, "established") {
		t.Error(fmt.Sprint("the cluster is not complete: ", names))
	}
}

// resetsHosts takes single hosts out of a cluster that is in use, and has them built again.
func resetsHosts(t *testing.T, ctx context.Context, c *cluster, api kubernetes.Interface) {
	if r := c.exits(t, ctx, 3, "reset", "cp-1", "cp-2", "--yes", "-f", c.specFile()); !strings.Contains(r.stderr, "etcd member") {
		t.Errorf("two of three control planes: %s", r)
	}
	if r := c.exits(t, ctx, 2, "reset", "cp-9", "--yes", "-f", c.specFile()); !strings.Contains(r.stderr, "no host cp-9") {
		t.Errorf("a host that does not exist: %s", r)
	}
	for _, host := range []string{"web-2", "cp-2"} {
		r := c.must(t, ctx, "reset", host, "--yes", "-f", c.specFile())
		t.Logf("reset of %s: %s", host, r.took)
		if !strings.Contains(r.stdout, "adds it again") {
			t.Errorf("it does not say that the host is still in the spec: %s", r)
		}
		if _, err := api.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the node %s: %v", host, err)
		}
		if left := c.ssh(t, ctx, host, "ls -d /etc/kubernetes /var/lib/etcd /var/lib/kubelet /opt/quorate /var/lib/quorate/established 2>/dev/null || true"); left != "" {
			t.Errorf("on %s is left: %s", host, left)
		}
		r = c.must(t, ctx, "apply", "-f", c.specFile())
		t.Logf("%s was built again: %s", host, r.took)
		eventually(t, ctx, host+" is Ready", func() error { return ready(ctx, api, host) })
	}
	c.unchanged(t, ctx, "-f", c.specFile())
}
