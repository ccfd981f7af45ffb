//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// TestEmptyMember removes the data of a stacked etcd member, while its host runs and during a power cut of the whole site,
// after which its host is the first to come back. The member must not start empty, and must start when the data is back.
func TestEmptyMember(t *testing.T) {
	besideAnother(t)
	c := newCluster(t, "e2e-empty")
	ctx := testContext(t)
	up(t, c)
	_, api := c.client(t, ctx)
	before := members(t, ctx, c, "cp-a")
	const away, back = "mv /var/lib/etcd/member /var/lib/away", "mv /var/lib/away /var/lib/etcd/member"
	// staysDown watches for longer than any restart takes.
	staysDown := func(t *testing.T) {
		t.Helper()
		if got := c.ssh(t, ctx, "cp-c", "for i in $(seq 40); do pgrep -x etcd && echo runs; [ -e /var/lib/etcd/member ] && echo data; sleep 0.5; done; true"); got != "" {
			t.Errorf("a member without its data starts: %s", got)
		}
	}
	write := func(t *testing.T, name string) {
		t.Helper()
		eventually(t, ctx, "a write", func() error {
			_, err := api.CoreV1().ConfigMaps("default").Apply(ctx, applycorev1.ConfigMap(name, "default"), metav1.ApplyOptions{FieldManager: "e2e"})
			return err
		})
	}
	sound := func(t *testing.T) {
		t.Helper()
		c.whole(t, ctx)
		if after := members(t, ctx, c, "cp-a"); after != before {
			t.Errorf("members are\n%s\nand were\n%s", after, before)
		}
	}

	if *whole {
		t.Run("while its host runs", func(t *testing.T) {
			c.ssh(t, ctx, "cp-c", away+" && pkill -9 -x etcd")
			staysDown(t)
			write(t, "without-cp-c")
			c.ssh(t, ctx, "cp-c", back)
			sound(t)
		})
	}
	t.Run("after a power cut of the site", func(t *testing.T) {
		write(t, "before-the-cut")
		for _, cp := range []string{"cp-a", "cp-b"} {
			c.labDo("fault", "power-off", cp)(t, ctx)
		}
		c.ssh(t, ctx, "cp-c", away)
		c.labDo("fault", "power-off", "cp-c")(t, ctx)
		c.labDo("heal", "power-off", "cp-c")(t, ctx)
		eventually(t, ctx, "the kubelet says what is missing", func() error {
			if r := c.run(ctx, "lab", "--lab", c.name, "ssh", "cp-c", "journalctl -b -u kubelet | grep -q 'data of the etcd member on this host is missing'"); r.code != 0 {
				return errors.New(r.String())
			}
			return nil
		})
		staysDown(t)
		c.ssh(t, ctx, "cp-c", back) // as a disk that is mounted late
		for _, cp := range []string{"cp-a", "cp-b"} {
			c.labDo("heal", "power-off", cp)(t, ctx)
		}
		sound(t)
		if _, err := api.CoreV1().ConfigMaps("default").Get(ctx, "before-the-cut", metav1.GetOptions{}); err != nil {
			t.Errorf("a write that was acknowledged is lost: %v", err)
		}
	})
}

// TestInterruptedJoin kills apply, and the kubeadm join of a control plane that it runs, again and again at different moments,
// and lets the next apply finish the work.
func TestInterruptedJoin(t *testing.T) {
	besideAnother(t)
	if !*whole {
		t.Skip("TestCrash interrupts joins, too; this one, with many more moments, runs with -whole")
	}
	c := newCluster(t, "e2e-join")
	ctx := testContext(t)
	up(t, c)
	l := c.lab(t)
	s, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []lab.Machine{{Name: "cp-d", Zone: "a"}, {Name: "cp-e", Zone: "b"}} {
		if err := l.AddMachines(ctx, []lab.Machine{m}, nil); err != nil {
			t.Fatal(err)
		}
		made, err := l.Machine(m.Name)
		if err != nil {
			t.Fatal(err)
		}
		s.Spec.Hosts = append(slices.Clone(s.Spec.Hosts), spec.Host{Name: m.Name, Address: made.Address.String(), Zone: m.Zone, Roles: []string{spec.RoleControlPlane}, SSH: s.Spec.Hosts[0].SSH})
	}
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.specFile(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	delays := []time.Duration{200 * time.Millisecond, time.Second, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second, 4 * time.Second, 6 * time.Second}
	hits := 0
	for _, delay := range delays {
		steps := planned(t, c.must(t, ctx, "plan", "-f", c.specFile(), "-o", "json"))
		i := slices.IndexFunc(steps, func(s plan.Step) bool { return s.Kind == plan.JoinControlPlane && s.Host == "cp-d" })
		if i < 0 {
			t.Logf("nothing is left of the join after %d interruptions", hits)
			break
		}
		r := c.start(t, ctx, "apply", "-f", c.specFile(), "--verbose")
		if !reachesOn(r, ctx, "cp-d", steps[i].Title+" …") {
			code, all := r.wait(t)
			// kubeadm had started the kubelet, which got its certificate after apply had observed the host. Nothing is undone
			// then, and the next run continues from there.
			if strings.Contains(all, "run `quorate apply` again") {
				t.Logf("the host joined while apply was looking, after %d interruptions", hits)
				continue
			}
			t.Fatalf("apply ends before the join: exit status %d: %s", code, all)
		}
		r.signal(t, ctx, syscall.SIGKILL, delay)
		r.wait(t)
		hits++
		state := c.ssh(t, ctx, "cp-d", "pkill -9 -x kubeadm; ls /etc/kubernetes/manifests /var/lib/etcd/member 2>/dev/null | tr '\\n' ' '; grep -rl 'token:' /run/quorate 2>/dev/null; true")
		if strings.Contains(state, "/run/quorate") {
			t.Errorf("a bootstrap token is left: %s", state)
		}
		t.Logf("killed after %s, with %s", delay, state)
	}
	if hits <= len(delays)/2 {
		t.Errorf("only %d joins were interrupted", hits)
	}
	c.must(t, ctx, "apply", "-f", c.specFile())
	c.unchanged(t, ctx, "-f", c.specFile())
	if out := members(t, ctx, c, "cp-a"); strings.Count(out, "started") != 5 || strings.Contains(out, "true") { // true: a learner
		t.Errorf("members:\n%s", out)
	}
}

// reachesOn waits for a line of progress about one host.
func reachesOn(r *running, ctx context.Context, host, words string) bool {
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				return false
			}
			fmt.Fprintln(&r.said, line)
			if strings.Contains(line, " "+host+" ") && strings.Contains(line, words) {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}
