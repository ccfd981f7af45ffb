//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
	hostrepairs "quorate.dev/quorate/internal/hostside/repairs"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// broken is something that does not heal by itself, and the repair that mends it.
type broken struct {
	name   string
	repair string // as of the table in docs/repair.md
	breaks func(t *testing.T, ctx context.Context, on breakage)
}

// breakage is where something is broken.
type breakage struct {
	*cluster
	// member is the host of an etcd member that does not lead, and controlPlane, worker and balancer are hosts.
	member, controlPlane, worker, balancer string
	external                               bool
	// touched, unless it is nil, notes the machines on which something was done.
	touched map[string]bool
}

// sh runs a command on a machine.
func (b breakage) sh(t *testing.T, ctx context.Context, machine, command string) string {
	t.Helper()
	if b.touched != nil {
		b.touched[machine] = true
	}
	var out bytes.Buffer
	if err := b.lab(t).Exec(ctx, machine, []string{"sh", "-ec", command}, nil, &out, &out); err != nil {
		t.Fatalf("%s: %v: %s", machine, err, out.String())
	}
	return out.String()
}

// stopMember ends the member, and startMember starts it again: its static pod, or its unit.
func (b breakage) stopMember() string {
	if b.external {
		return "systemctl stop etcd; "
	}
	return "mv /etc/kubernetes/manifests/etcd.yaml /root/; while pidof etcd >/dev/null; do sleep 0.2; done; "
}

func (b breakage) startMember() string {
	if b.external {
		return "systemctl start --no-block etcd"
	}
	return "mv /root/etcd.yaml /etc/kubernetes/manifests/"
}

// marker is the value of an object in etcd.
const marker = "QUORATEMARKERAAAA"

// breakages are all of them. The first ones are cheap.
func breakages() []broken {
	return []broken{
		{"missing manifest", "manifest", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.controlPlane, "rm /etc/kubernetes/manifests/kube-scheduler.yaml")
		}},
		{"flipped bit", "etcd-data", func(t *testing.T, ctx context.Context, b breakage) {
			b.mark(t, ctx)
			b.sh(t, ctx, b.member, "sleep 1; f=/var/lib/etcd/member/snap/db; n=0; for o in $(grep -abo "+marker+" $f | cut -d: -f1); do printf B | dd of=$f bs=1 seek=$((o+13)) conv=notrunc 2>/dev/null; n=$((n+1)); done; [ $n -gt 0 ]")
		}},
		{"log cut off", "etcd-data", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.member, b.stopMember()+"f=$(ls /var/lib/etcd/member/wal/*.wal | tail -1); truncate -s 30000 $f; "+b.startMember())
		}},
		{"old disk image", "etcd-data", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.member, b.stopMember()+"cp -a /var/lib/etcd/member /root/image; "+b.startMember())
			b.whole(t, ctx)
			b.mark(t, ctx)
			b.sh(t, ctx, b.member, b.stopMember()+"rm -rf /var/lib/etcd/member; mv /root/image /var/lib/etcd/member; "+b.startMember())
		}},
		{"damaged database", "etcd-data", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.member, b.stopMember()+"dd if=/dev/urandom of=/var/lib/etcd/member/snap/db bs=4096 count=64 conv=notrunc 2>/dev/null; "+b.startMember())
		}},
		{"no space", "etcd-space", func(t *testing.T, ctx context.Context, b breakage) { b.fill(t, ctx) }},
		{"disabled kubelet", "units", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.worker, "systemctl disable --now kubelet")
		}},
		{"stopped containerd", "units", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.worker, "systemctl disable --now containerd")
		}},
		{"lost configuration of a load balancer", "load-balancer", func(t *testing.T, ctx context.Context, b breakage) {
			if b.balancer == "" {
				t.Skip("there are no load balancers")
			}
			b.sh(t, ctx, b.balancer, "rm /etc/haproxy/haproxy.cfg; systemctl stop haproxy keepalived")
		}},
		{"hung kubelet", "hung", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.worker, "systemctl kill --signal=STOP kubelet")
		}},
		{"not enabled after a reboot", "units", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.worker, "systemctl disable kubelet containerd")
			b.labDo("fault", "power-off", b.worker)(t, ctx)
			b.labDo("heal", "power-off", b.worker)(t, ctx)
		}},
		{"kernel setting", "units", func(t *testing.T, ctx context.Context, b breakage) {
			b.sh(t, ctx, b.worker, "sysctl -qw net.ipv4.ip_forward=0")
		}},
	}
}

// mark stores an object whose value is found in the database of every member.
func (b breakage) mark(t *testing.T, ctx context.Context) {
	t.Helper()
	b.sh(t, ctx, b.controlPlane, "export KUBECONFIG=/etc/kubernetes/admin.conf; kubectl -n default create configmap marker --from-literal=x="+marker+" --dry-run=client -o yaml | kubectl apply -f - >/dev/null; kubectl -n default annotate --overwrite configmap marker t=$(date +%s%N) >/dev/null")
}

// fill writes until a member with a small quota raises the alarm. The quota is the former one again when the repair is done.
func (b breakage) fill(t *testing.T, ctx context.Context) {
	t.Helper()
	small := "sed -i.full -E 's/(quota-backend-bytes=)[0-9]+/\\141943040/' /root/etcd.yaml"
	restore := b.stopMember() + "sed -i -E 's/(quota-backend-bytes=)[0-9]+/\\18589934592/' /root/etcd.yaml; " + b.startMember()
	if b.external {
		small = "sed -i -E 's/(QUOTA_BACKEND_BYTES=)[0-9]+/\\141943040/' /etc/etcd/etcd.env"
		restore = "sed -i -E 's/(QUOTA_BACKEND_BYTES=)[0-9]+/\\18589934592/' /etc/etcd/etcd.env; systemctl restart etcd"
	}
	t.Cleanup(func() { b.sh(t, context.WithoutCancel(ctx), b.member, restore) })
	b.sh(t, ctx, b.member, b.stopMember()+small+"; "+b.startMember())
	b.whole(t, ctx)
	b.sh(t, ctx, b.controlPlane, `export KUBECONFIG=/etc/kubernetes/admin.conf; head -c 500000 /dev/urandom | base64 -w0 >/root/fill
for i in $(seq 200); do kubectl -n default create configmap fill --from-file=/root/fill --from-literal=n=$i --dry-run=client -o yaml | kubectl replace --force -f - >/dev/null 2>/root/said || { grep -q "space exceeded" /root/said && exit 0; }; done; cat /root/said; exit 1`)
}

// repairs breaks one thing after another under load, and repairs it.
func repairs(t *testing.T, ctx context.Context, c *cluster, external bool, cases []broken) {
	p := c.clients(t, ctx)
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			defer c.collectIfFailed(t)
			on := breakageOf(c.whole(t, ctx), c, external)
			begin := time.Now()
			x.breaks(t, ctx, on)
			var report run.RepairReport
			poll(t, ctx, 3*time.Second, "the repair "+x.repair, func() error {
				r := c.run(ctx, "repair", "-f", c.specFile(), "-o", "json")
				report = run.RepairReport{} // decoding leaves what a report does not have
				if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
					return fmt.Errorf("%w: %s", err, r)
				}
				for _, m := range report.Repairs {
					if m.Outcome != run.Repaired {
						t.Errorf("%s", m)
					}
				}
				if !slices.ContainsFunc(report.Repairs, func(m run.Mended) bool { return m.Name == x.repair && m.Outcome == run.Repaired }) {
					return errors.New(r.String())
				}
				return nil
			})
			for _, m := range report.Repairs {
				fmt.Printf("%-36s %s\n", x.name, m)
			}
			c.sound(t, ctx, p, begin)
		})
	}
	// What it leaves, a late check for example, is reported with exit status 1.
	if r := c.run(ctx, "repair", "-f", c.specFile()); r.code > 1 || !strings.Contains(r.stdout, "There is nothing to repair.") {
		t.Errorf("%s", r)
	}
	c.unchanged(t, ctx, "-f", c.specFile())
}

func breakageOf(s status.Status, c *cluster, external bool) breakage {
	on := breakage{cluster: c, external: external}
	for _, m := range s.Etcd.Members {
		if !m.Leader {
			on.member = m.Name
		}
	}
	for _, n := range s.Nodes {
		switch {
		case !strings.HasPrefix(n.Name, "cp-"):
			on.worker = n.Name
		case n.Name != on.member:
			on.controlPlane = n.Name
		}
	}
	if on.worker == "" {
		on.worker = on.controlPlane
	}
	for _, b := range s.LoadBalancers {
		if !b.Active {
			on.balancer = b.Name
		}
	}
	return on
}

// sound waits until the cluster has all margins and its clients are served, and checks that nothing was lost.
func (c *cluster) sound(t *testing.T, ctx context.Context, p *probe.Prober, since time.Time) {
	t.Helper()
	c.whole(t, ctx)
	c.quiet(t, ctx, p, since)
}

func repairsOfStacked(t *testing.T, c *cluster) {
	repairs(t, testContext(t), c, false, sample(breakages(), 0, 1, 8))
}

func repairsOfExternal(t *testing.T, ctx context.Context, c *cluster, _ status.Status) {
	repairs(t, ctx, c, true, sample(breakages(), 2))
}

// repairsByControlPlanes breaks things while nobody but the control planes themselves repairs them, and powers off the one that leads.
func repairsByControlPlanes(t *testing.T, c *cluster) {
	if !*whole {
		t.Skip("it runs with -whole")
	}
	ctx := testContext(t)
	p := c.clients(t, ctx)
	file := c.edited(t, func(s *spec.Cluster) { s.Spec.Repair.Watch = true })
	c.must(t, ctx, "apply", "-f", file)
	s := c.watching(t, ctx, file)
	if steps := planned(t, c.must(t, ctx, "plan", "-f", file, "-o", "json")); len(steps) > 0 {
		t.Errorf("the cluster matches its spec, and the plan has steps: %+v", steps)
	}
	leader := s.Watch.Leader
	on := breakageOf(s, c, false)
	// Its key gives nobody a shell.
	said := on.sh(t, ctx, leader, "ssh -i /var/lib/quorate/watch/id_ed25519 -o BatchMode=yes -o UserKnownHostsFile=/var/lib/quorate/watch/known_hosts root@"+c.addressOf(t, ctx, on.worker)+" id 2>&1 || true")
	if strings.Contains(said, "uid=") || !strings.Contains(said, "another build") {
		t.Errorf("the key of %s on %s: %s", leader, on.worker, said)
	}
	for _, x := range []struct{ name, repair, machine, command string }{
		{"missing manifest of etcd", "manifest", on.member, "rm /etc/kubernetes/manifests/etcd.yaml"},
		{"missing manifest on the leader", "manifest", leader, "rm /etc/kubernetes/manifests/kube-scheduler.yaml"},
		{"stopped kubelet", "units", on.worker, "systemctl stop kubelet"},
		{"stopped load balancer", "load-balancer", on.balancer, "rm /etc/haproxy/haproxy.cfg; systemctl stop haproxy keepalived"},
	} {
		t.Run(x.name, func(t *testing.T) {
			begin := time.Now()
			on.sh(t, ctx, x.machine, x.command)
			on.repairedByItself(t, ctx, x.repair, x.machine, begin)
			if s = c.watching(t, ctx, file); !slices.ContainsFunc(s.Watch.Units, func(u status.WatchUnit) bool { return strings.Contains(u.Last, "repaired: "+x.repair) }) {
				t.Errorf("status does not say what was repaired: %+v", s.Watch)
			}
			c.quiet(t, ctx, p, begin)
		})
	}
	t.Run("the leader is powered off", func(t *testing.T) {
		begin := time.Now()
		leader := s.Watch.Leader
		c.labDo("fault", "power-off", leader)(t, ctx)
		poll(t, ctx, 3*time.Second, "another control plane that leads", func() error {
			s, _, err := c.statusOf(ctx, file)
			if err == nil && (s.Watch == nil || s.Watch.Leader == "" || s.Watch.Leader == leader) {
				err = fmt.Errorf("%+v", s.Watch)
			}
			return err
		})
		fmt.Printf("another control plane leads after %.0f s\n", time.Since(begin).Seconds())
		on.sh(t, ctx, on.worker, "systemctl stop kubelet")
		on.repairedByItself(t, ctx, "units", on.worker, begin)
		c.labDo("heal", "power-off", leader)(t, ctx)
		c.watching(t, ctx, file)
		c.quiet(t, ctx, p, begin)
	})
	t.Run("it is turned off", func(t *testing.T) {
		c.must(t, ctx, "apply", "-f", c.specFile())
		for _, m := range c.lab(t).Machines() {
			on.sh(t, ctx, m.Name, "test ! -e /var/lib/quorate/watch; test ! -e /etc/systemd/system/quorate-watch.service; if systemctl -q is-active quorate-watch || grep -qs quorate-watch-of /root/.ssh/authorized_keys; then exit 3; fi")
		}
		c.whole(t, ctx)
	})
}

// watching waits until the cluster has all margins and no problems, and one of its control planes leads.
func (c *cluster) watching(t *testing.T, ctx context.Context, file string) (s status.Status) {
	t.Helper()
	settles(t, ctx, 2*time.Second, "full margins and a control plane that leads", func() (_ []string, err error) {
		if s, _, err = c.statusOf(ctx, file); err != nil {
			return nil, err
		}
		if s.Watch == nil || s.Watch.Leader == "" {
			return nil, fmt.Errorf("nobody leads: %+v", s.Watch)
		}
		return lacks(s), shortOf(s)
	})
	return s
}

// repairedByItself waits until the journal of a host says that a control plane has repaired it after a moment.
func (b breakage) repairedByItself(t *testing.T, ctx context.Context, repair, host string, since time.Time) {
	t.Helper()
	poll(t, ctx, 3*time.Second, "the repair "+repair+" on "+host+" by a control plane", func() error {
		text := b.sh(t, ctx, host, "cat /var/lib/quorate/repairs.json || true")
		var all []hostrepairs.Attempt
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			return fmt.Errorf("%w: %s", err, text)
		}
		for _, a := range all {
			if strings.HasPrefix(a.Repair, repair) && a.Began.After(since) && !a.Ended.IsZero() && a.Error == "" && strings.HasPrefix(a.By, "root@cp-") {
				fmt.Printf("%s on %s: %s, repaired after %.0f s by %s\n", a.Repair, host, a.Problem, a.Ended.Sub(since).Seconds(), a.By)
				return nil
			}
		}
		return errors.New(text)
	})
}

// quiet checks that clients are served again, and that nothing was lost.
func (c *cluster) quiet(t *testing.T, ctx context.Context, p *probe.Prober, since time.Time) {
	t.Helper()
	if err := p.Calm(ctx, calm); err != nil {
		t.Errorf("clients find no rest: %v; since then: %s", err, report(p, since))
	}
	lost, acked, err := p.Lost(ctx)
	if err != nil || len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
}
