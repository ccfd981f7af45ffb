//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	model "quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// edited writes the spec of the cluster with a change, and returns the file.
func (c *cluster) edited(t *testing.T, change func(*spec.Cluster)) string {
	t.Helper()
	s, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// edits are edits of the spec that would break the cluster. Each is refused by name, before anything is changed.
func edits(t *testing.T, c *cluster) {
	ctx := testContext(t)
	host := func(s *spec.Cluster, name string) *spec.Host {
		return &s.Spec.Hosts[slices.IndexFunc(s.Spec.Hosts, func(h spec.Host) bool { return h.Name == name })]
	}
	for field, change := range map[string]func(*spec.Cluster){
		"spec.network.podCIDR": func(s *spec.Cluster) {
			s.Spec.Network.PodCIDR = "10.77.0.0/16"
			s.Spec.Network.ServiceCIDR = "10.96.0.0/16"
		},
		"spec.network.serviceCIDR":   func(s *spec.Cluster) { s.Spec.Network.ServiceCIDR = "10.112.0.0/12" },
		"spec.hosts[worker-a].roles": func(s *spec.Cluster) { promote(host(s, "worker-a")); promote(host(s, "worker-b")) },
	} {
		t.Run(field, func(t *testing.T) {
			file := c.edited(t, change)
			for _, command := range []string{"plan", "apply"} {
				r := c.exits(t, ctx, 3, command, "-f", file)
				if !strings.Contains(r.stderr, "fixed-field") || !strings.Contains(r.stderr, field) {
					t.Errorf("the refusal does not name %s: %s", field, r)
				}
			}
		})
	}
	c.unchanged(t, ctx, "-f", c.specFile())
}

func promote(h *spec.Host) { h.Roles = []string{spec.RoleControlPlane, spec.RoleWorker} }

func remove(s *spec.Cluster, name string) {
	s.Spec.Hosts = slices.DeleteFunc(s.Spec.Hosts, func(h spec.Host) bool { return h.Name == name })
}

// pools gives a worker labels and taints by a node pool, changes them, moves the pool to another worker, and takes everything back, while
// clients read and write. What somebody else has set stays, and nothing restarts.
func pools(t *testing.T, c *cluster) {
	ctx := testContext(t)
	s := c.whole(t, ctx)
	a, b := worker(s, 0).Name, worker(s, 1).Name
	_, api := c.client(t, ctx)
	const theirs, tier, disk, dedicated = "example.com/theirs", "example.com/tier", "example.com/disk", "example.com/dedicated"
	byHand := func(command string) { c.ssh(t, ctx, s.Etcd.Members[0].Name, "kubectl "+command) }
	for _, node := range []string{a, b} {
		byHand("label node " + node + " " + theirs + "=stays")
		byHand("taint node " + node + " " + theirs + "=stays:PreferNoSchedule")
	}
	p := c.clients(t, ctx)
	begin := time.Now()
	for _, edit := range []struct {
		name   string
		pools  []spec.NodePool
		labels map[string]map[string]string // by node, without those of others
		taints map[string][]corev1.Taint
		on     []string // the nodes that change
	}{
		{"they are set", []spec.NodePool{{Name: "web", Hosts: []string{a}, Labels: map[string]string{tier: "web", disk: "ssd"},
			Taints: []spec.Taint{{Key: dedicated, Value: "web", Effect: "NoSchedule"}, {Key: disk, Effect: "PreferNoSchedule"}}}},
			map[string]map[string]string{a: {plan.PoolLabel: "web", tier: "web", disk: "ssd"}},
			map[string][]corev1.Taint{a: {{Key: dedicated, Value: "web", Effect: corev1.TaintEffectNoSchedule}, {Key: disk, Effect: corev1.TaintEffectPreferNoSchedule}}}, []string{a}},
		{"some change, and some go", []spec.NodePool{{Name: "web", Hosts: []string{a}, Labels: map[string]string{tier: "api"},
			Taints: []spec.Taint{{Key: dedicated, Value: "api", Effect: "NoSchedule"}}}},
			map[string]map[string]string{a: {plan.PoolLabel: "web", tier: "api"}},
			map[string][]corev1.Taint{a: {{Key: dedicated, Value: "api", Effect: corev1.TaintEffectNoSchedule}}}, []string{a}},
		{"the pool moves", []spec.NodePool{{Name: "web", Hosts: []string{b}, Labels: map[string]string{tier: "api"},
			Taints: []spec.Taint{{Key: dedicated, Value: "api", Effect: "PreferNoSchedule"}}}},
			map[string]map[string]string{b: {plan.PoolLabel: "web", tier: "api"}},
			map[string][]corev1.Taint{b: {{Key: dedicated, Value: "api", Effect: corev1.TaintEffectPreferNoSchedule}}}, []string{a, b}},
		{"they are removed", nil, nil, nil, []string{b}},
	} {
		t.Run(edit.name, func(t *testing.T) {
			file := c.edited(t, func(s *spec.Cluster) { s.Spec.NodePools = edit.pools })
			var on []string
			for _, step := range planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")) {
				switch {
				case step.Kind == plan.LabelNode:
					on = append(on, step.Host)
				case step.Change != nil:
					t.Errorf("a step of this edit stops or restarts something: %+v", step)
				}
			}
			if slices.Sort(on); !slices.Equal(on, edit.on) {
				t.Errorf("the plan changes the nodes %v, want %v", on, edit.on)
			}
			c.must(t, ctx, "apply", "-f", file)
			for _, node := range []string{a, b} {
				n, err := api.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				want := map[string]string{theirs: "stays"}
				maps.Copy(want, edit.labels[node])
				for _, label := range []string{plan.PoolLabel, tier, disk, theirs} {
					value, has := n.Labels[label]
					if wanted, wants := want[label]; has != wants || value != wanted {
						t.Errorf("%s has the label %s: %t, with the value %q, want %t, %q", node, label, has, value, wants, wanted)
					}
				}
				taints := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(taint corev1.Taint) bool { return !strings.HasPrefix(taint.Key, "example.com/") })
				wanted := append([]corev1.Taint{{Key: theirs, Value: "stays", Effect: corev1.TaintEffectPreferNoSchedule}}, edit.taints[node]...)
				for i := range taints {
					taints[i].TimeAdded = nil
				}
				for _, list := range [][]corev1.Taint{taints, wanted} {
					slices.SortFunc(list, func(x, y corev1.Taint) int { return strings.Compare(x.Key, y.Key) })
				}
				if !slices.Equal(taints, wanted) {
					t.Errorf("%s has the taints %v, want %v", node, taints, wanted)
				}
			}
			c.unchanged(t, ctx, "-f", file)
		})
	}
	report, err := p.Between(ctx, begin, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if failed := c.noticed(t, ctx, begin, time.Now(), report); failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
	if lost, acked, err := p.Lost(ctx); err != nil || acked == 0 || len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
	for _, node := range []string{a, b} {
		byHand("label node " + node + " " + theirs + "-")
		byHand("taint node " + node + " " + theirs + "-")
	}
	c.must(t, ctx, "apply", "-f", c.specFile()) // whatever failed above
}

// lostParts removes parts of a cluster while everything else works: status reports them, plan has a step for them, and apply
// restores them.
func lostParts(t *testing.T, c *cluster) {
	ctx := testContext(t)
	for name, tc := range map[string]struct {
		machine, break_ string
		finding         string // in status
		step            plan.Kind
		repaired        string // a command that succeeds afterwards
	}{
		"a scheduler": {"cp-b", "mv /etc/kubernetes/manifests/kube-scheduler.yaml /root/; timeout 60 sh -c 'while pidof kube-scheduler; do sleep 0.2; done'",
			"kube-scheduler", plan.RestoreControlPlane, "test -s /etc/kubernetes/manifests/kube-scheduler.yaml"},
		"the approver":   {"cp-c", "systemctl disable --now quorate-approver.timer", "quorate-approver", plan.Configure, "systemctl is-active quorate-approver.timer"},
		"the watchdog":   {"lb-b", "systemctl stop quorate-watchdog.service", "quorate-watchdog", plan.Configure, "systemctl is-active quorate-watchdog.service"},
		"a file's mode":  {"worker-a", "chmod 666 /etc/systemd/system/kubelet.service", "", plan.Configure, "test $(stat -c %a /etc/systemd/system/kubelet.service) = 600"},
		"a sysctl":       {"worker-b", "sysctl -w net.ipv4.ip_forward=0", "", plan.Configure, "test $(cat /proc/sys/net/ipv4/ip_forward) = 1"},
		"a kubelet":      {"worker-a", "systemctl disable --now kubelet", "kubelet", plan.Configure, "systemctl is-enabled kubelet"},
		"a restarted LB": {"lb-b", "echo '# edited' >>/etc/haproxy/haproxy.cfg", "", plan.Configure, "! grep -q edited /etc/haproxy/haproxy.cfg"},
	} {
		t.Run(name, func(t *testing.T) {
			c.ssh(t, ctx, tc.machine, tc.break_)
			if tc.finding != "" {
				eventually(t, ctx, "status names "+tc.finding, func() error {
					s, r, err := c.status(ctx)
					if err != nil {
						return err
					}
					for _, p := range s.Problems {
						if strings.Contains(p.Summary, tc.finding) && strings.Contains(p.Summary, tc.machine) {
							return nil
						}
					}
					return errors.New(r.stdout)
				})
			}
			steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json"))
			if !slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Kind == tc.step && s.Host == tc.machine }) {
				t.Errorf("no step repairs it: %+v", steps)
			}
			if name == "a restarted LB" {
				if r := c.must(t, ctx, "plan", "--diff", "-f", c.specFile()); !strings.Contains(r.stdout, "/etc/haproxy/haproxy.cfg on "+tc.machine) || !strings.Contains(r.stdout, "\n-# edited\n") {
					t.Errorf("the plan does not show what somebody has changed: %s", r)
				}
			}
			c.must(t, ctx, "apply", "-f", c.specFile())
			c.ssh(t, ctx, tc.machine, tc.repaired)
		})
	}
	t.Run("what nothing uses is removed", func(t *testing.T) {
		// A binary that another version of Quorate has uploaded, and what is left of an upload that was killed.
		old := "/var/lib/quorate/bin/" + strings.Repeat("0", 64)
		half := "/usr/local/bin/.quorate-e2e"
		c.ssh(t, ctx, "worker-a", fmt.Sprintf("mkdir -p %[1]s; echo old >%[1]s/quorate; touch %[2]s; touch -d '2 hours ago' %[1]s/quorate %[1]s %[2]s", old, half))
		c.must(t, ctx, "apply", "-f", c.specFile())
		if left := c.ssh(t, ctx, "worker-a", "ls -d "+old+" "+half+" 2>/dev/null || true"); left != "" {
			t.Errorf("still there: %s", left)
		}
		c.ssh(t, ctx, "worker-a", "systemctl is-active kubelet") // nothing else went
	})
	c.whole(t, ctx)
	c.unchanged(t, ctx, "-f", c.specFile())
}

// callers are machines from which little can be reached: a proxy in the environment, hosts whose sshd forwards nothing, and a
// jump host as the only way in, with a virtual IP that only the hosts reach.
func callers(t *testing.T, c *cluster) {
	ctx := testContext(t)
	healthy := func(t *testing.T, file string) {
		t.Helper()
		settles(t, ctx, time.Second, "no problems", func() ([]string, error) {
			s, _, err := c.statusOf(ctx, file)
			if err != nil {
				return nil, err
			}
			// What this machine reaches is not a problem of the cluster.
			s.Problems = slices.DeleteFunc(s.Problems, func(f model.Finding) bool { return f.Rule == model.RuleEndpointFromHere })
			return lacks(s), shortOf(s)
		})
		c.must(t, ctx, "apply", "-f", file) // it may record the spec
		c.unchanged(t, ctx, "-f", file)
		c.must(t, ctx, "audit", "cis", "-f", file)
	}
	t.Run("a proxy in the environment", func(t *testing.T) {
		for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
			t.Setenv(name, "http://127.0.0.1:9")
		}
		healthy(t, c.specFile())
	})
	t.Run("no TCP forwarding", func(t *testing.T) {
		const file = "/etc/ssh/sshd_config.d/00-e2e.conf"
		for _, m := range c.lab(t).Machines() {
			c.ssh(t, ctx, m.Name, "echo 'AllowTcpForwarding no' >"+file+" && systemctl restart ssh")
		}
		t.Cleanup(func() {
			for _, m := range c.lab(t).Machines() {
				c.ssh(t, testContext(t), m.Name, "rm "+file+" && systemctl restart ssh")
			}
		})
		healthy(t, c.specFile())
	})
	t.Run("a jump host is the only way in", func(t *testing.T) {
		jump, err := c.lab(t).Machine("lb-a")
		if err != nil {
			t.Fatal(err)
		}
		rules := fmt.Sprintf("add table inet e2e-jump; add chain inet e2e-jump out { type filter hook output priority 0; }; "+
			"add rule inet e2e-jump out ip daddr %[1]s tcp dport 22 accept; add rule inet e2e-jump out ip daddr %[2]s drop", jump.Address, c.lab(t).Subnet())
		nft(t, ctx, rules)
		t.Cleanup(func() { nft(t, testContext(t), "delete table inet e2e-jump") })
		healthy(t, c.edited(t, func(s *spec.Cluster) {
			for i := range s.Spec.Hosts {
				if s.Spec.Hosts[i].Name != "lb-a" {
					s.Spec.Hosts[i].SSH.Jump = "root@" + jump.Address.String()
				}
			}
		}))
	})
	// The record of the spec with a jump host is free to change back.
	c.must(t, ctx, "apply", "-f", c.specFile())
}

// nft changes the packet filter of this machine.
func nft(t *testing.T, ctx context.Context, rules string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "nft", rules)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("nft %s: %v: %s", rules, err, out.String())
	}
}
