//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// TestHosts changes the hosts of a cluster by editing its spec, under load: what is planned costs no request, and nothing loses a
// write that was acknowledged.
func TestHosts(t *testing.T) {
	c := newCluster(t, "e2e-hosts")
	before := traces(t, c.name)
	up(t, c)
	h := &changingHosts{c: c, spec: c.specFile()}
	t.Run("under load", func(t *testing.T) {
		h.p = c.clients(t, testContext(t))
		for _, part := range sample([]struct {
			name string
			test func(*testing.T, context.Context)
		}{
			{"a worker leaves", h.workerLeaves},
			{"the first control plane is replaced", h.firstControlPlane},
			{"a load balancer is replaced", h.balancer},
			{"a dead control plane leaves", h.deadLeaves},
			{"it comes back", h.deadComesBack},
			{"a new machine has its name and address", h.sameName},
			// These API servers do not share their port yet.
			{"load balancers move to the control planes", h.balancersMoveBack},
			{"and back", h.balancersMoveAway},
			{"the quorum is lost", func(t *testing.T, ctx context.Context) { quorumLost{h.c, h.spec, h.p}.oneLeft(t, ctx) }},
		}, 1, 3, 4) {
			t.Run(part.name, func(t *testing.T) {
				part.test(t, testContext(t))
				if t.Failed() {
					c.collect(t, "failed")
				}
			})
		}
	})
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// TestSingle begins with one control plane, goes on to three, and back to one: never does a write get lost.
func TestSingle(t *testing.T) {
	if !*whole {
		t.Skip("TestHosts has a sample of these changes; this one runs with -whole")
	}
	c := newCluster(t, "e2e-single")
	ctx := testContext(t)
	s := shapeOf(t, spec.InitOptions{Name: c.name, Zones: []string{"a"}, ControlPlanes: 1, Workers: 1, LoadBalancers: 1})
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "spec.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "up", "-f", file)
	h := &changingHosts{c: c, spec: c.specFile(), p: c.clients(t, ctx)}
	if out := c.must(t, ctx, "status", "-f", h.spec).stdout; !strings.Contains(out, "the only control plane") {
		t.Errorf("status does not say what it costs:\n%s", out)
	}
	more := []spec.Host{h.machine(t, ctx, "cp-b", "a", spec.RoleControlPlane), h.machine(t, ctx, "cp-c", "a", spec.RoleControlPlane), h.machine(t, ctx, "lb-b", "a", spec.RoleLoadBalancer)}
	h.edit(t, func(s *spec.Cluster) {
		s.Spec.ControlPlane.Placement = spec.PlacementZonal
		s.Spec.Hosts = append(s.Spec.Hosts, more...)
	})
	h.apply(t, ctx, false)
	if s := h.status(t, ctx); len(s.Etcd.Members) != 3 || s.Margins.ControlPlanes != 1 {
		t.Fatalf("%d members, margins %+v", len(s.Etcd.Members), s.Margins)
	}
	// Back to one, and not to the first.
	h.edit(t, func(s *spec.Cluster) {
		s.Spec.ControlPlane.Placement = spec.PlacementSingle
		for _, name := range []string{"cp-a", "cp-b", "lb-a"} {
			remove(s, name)
		}
	})
	h.apply(t, ctx, false)
	if s := h.status(t, ctx); len(s.Etcd.Members) != 1 || s.Etcd.Members[0].Name != "cp-c" {
		t.Errorf("members %+v", s.Etcd.Members)
	}
	h.gone(t, ctx, "cp-a")
}

// changingHosts is a cluster whose spec is edited again and again.
type changingHosts struct {
	c    *cluster
	p    *probe.Prober
	spec string
}

// edit writes the spec with a change, in place.
func (h *changingHosts) edit(t *testing.T, change func(*spec.Cluster)) {
	t.Helper()
	s, err := spec.Load(h.spec)
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	text, err := spec.Marshal(s)
	if err == nil {
		err = os.WriteFile(h.spec, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// machine makes an empty machine, and returns the host that it can become.
func (h *changingHosts) machine(t *testing.T, ctx context.Context, name, zone string, roles ...string) spec.Host {
	t.Helper()
	l := h.c.lab(t)
	if err := l.AddMachines(ctx, []lab.Machine{{Name: name, Zone: zone}}, nil); err != nil {
		t.Fatal(err)
	}
	m, err := l.Machine(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Load(h.spec)
	if err != nil {
		t.Fatal(err)
	}
	return spec.Host{Name: name, Address: m.Address.String(), Zone: zone, Roles: roles, SSH: s.Spec.Hosts[0].SSH}
}

// apply makes the edit, and expects that no request failed meanwhile, if it was planned, and that no acknowledged write is lost.
func (h *changingHosts) apply(t *testing.T, ctx context.Context, planned bool) {
	t.Helper()
	fmt.Println(h.c.must(t, ctx, "plan", "-f", h.spec).stdout)
	begin := time.Now()
	r := h.c.must(t, ctx, "apply", "-f", h.spec, "-v")
	fmt.Println(r.stderr)
	took := time.Since(begin)
	if err := h.p.Calm(ctx, calm); err != nil {
		t.Fatal(err)
	}
	report, err := h.p.Between(ctx, begin, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s took %s\n", t.Name(), took.Round(time.Second))
	if failed := h.c.noticed(t, ctx, begin, time.Now(), report); planned && failed > 0 {
		t.Errorf("%d requests failed", failed)
	}
	lost, acked, err := h.p.Lost(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v", len(lost), acked, lost)
	}
	h.c.unchanged(t, ctx, "-f", h.spec)
}

func (h *changingHosts) status(t *testing.T, ctx context.Context) status.Status {
	t.Helper()
	s, _, err := h.c.statusOf(ctx, h.spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// gone expects that a host left no trace in the cluster, and the cluster none on the host.
func (h *changingHosts) gone(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	s := h.status(t, ctx)
	for _, n := range s.Nodes {
		if n.Name == name {
			t.Errorf("%s is still a node", name)
		}
	}
	for _, m := range s.Etcd.Members {
		if m.Name == name {
			t.Errorf("%s still is a member", name)
		}
	}
	for _, m := range s.LoadBalancers {
		for _, b := range m.Backends {
			if b.Name == name || m.Name == name {
				t.Errorf("the load balancer %s still knows %s", m.Name, name)
			}
		}
	}
	if left := h.c.ssh(t, ctx, name, "ls -d /etc/kubernetes /var/lib/etcd /var/lib/kubelet /etc/haproxy/haproxy.cfg.quorate /var/lib/quorate 2>/dev/null || true"); left != "" {
		t.Errorf("%s was not reset: %s", name, left)
	}
}

func (h *changingHosts) workerLeaves(t *testing.T, ctx context.Context) {
	fresh := h.machine(t, ctx, "worker-c", "c", spec.RoleWorker)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, "worker-b")
		for i := range s.Spec.NodePools {
			s.Spec.NodePools[i].Hosts = slices.DeleteFunc(s.Spec.NodePools[i].Hosts, func(n string) bool { return n == "worker-b" })
		}
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	h.apply(t, ctx, true)
	h.gone(t, ctx, "worker-b")
}

func (h *changingHosts) firstControlPlane(t *testing.T, ctx context.Context) {
	fresh := h.machine(t, ctx, "cp-d", "a", spec.RoleControlPlane)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, "cp-a")
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	h.apply(t, ctx, true)
	h.gone(t, ctx, "cp-a")
}

func (h *changingHosts) balancer(t *testing.T, ctx context.Context) {
	old := h.status(t, ctx).Endpoint.Holder
	fresh := h.machine(t, ctx, "lb-d", strings.TrimPrefix(old, "lb-"), spec.RoleLoadBalancer)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, old)
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	h.apply(t, ctx, false)
	h.gone(t, ctx, old)
	if now := h.status(t, ctx).Endpoint.Holder; now == old || now == "" {
		t.Errorf("the virtual IP is on %q", now)
	}
}

// deadLeaves powers a control plane off, adds another one for it, and expects that it is removed without being asked.
func (h *changingHosts) deadLeaves(t *testing.T, ctx context.Context) {
	h.c.must(t, ctx, "lab", "--lab", h.c.name, "fault", "power-off", "cp-b")
	_, api := h.c.client(t, ctx)
	eventually(t, ctx, "cp-b is not Ready, so that it is known to be down", func() error { // a plan does not wait that long
		node, err := api.CoreV1().Nodes().Get(ctx, "cp-b", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return errors.New("its node is Ready")
		}
		return nil
	})
	fresh := h.machine(t, ctx, "cp-e", "b", spec.RoleControlPlane)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, "cp-b")
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	h.apply(t, ctx, false)
}

// deadComesBack powers the machine on again: it is locked out, status says so, and the next apply resets it.
func (h *changingHosts) deadComesBack(t *testing.T, ctx context.Context) {
	h.c.must(t, ctx, "lab", "--lab", h.c.name, "heal", "power-off", "cp-b")
	eventually(t, ctx, "status says that cp-b is back and locked out", func() error {
		s, r, err := h.c.statusOf(ctx, h.spec)
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			if strings.Contains(p.Summary, "cp-b") && strings.Contains(p.Summary, "locked out") {
				return nil
			}
		}
		return errors.New(r.stdout)
	})
	_, api := h.c.client(t, ctx)
	if _, err := api.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "cp-b"}}, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "was removed from the cluster") {
		t.Errorf("a node of the removed host can register: %v", err)
	}
	h.apply(t, ctx, true)
	h.gone(t, ctx, "cp-b")
}

// sameName loses a control plane, and gets an empty machine with its name and address.
func (h *changingHosts) sameName(t *testing.T, ctx context.Context) {
	l := h.c.lab(t)
	old, err := l.Machine("cp-c")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.RemoveMachine(ctx, "cp-c"); err != nil {
		t.Fatal(err)
	}
	if err := l.AddMachines(ctx, []lab.Machine{{Name: "cp-c", Zone: "c", Address: old.Address}}, nil); err != nil {
		t.Fatal(err)
	}
	if m, err := l.Machine("cp-c"); err != nil || m.Address != old.Address {
		t.Fatalf("the new machine is at %s, and the old one was at %s: %v", m.Address, old.Address, err)
	}
	steps := planned(t, h.c.must(t, ctx, "plan", "-f", h.spec, "-o", "json"))
	if !slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Kind == plan.RemoveMember && s.Host == "cp-c" }) {
		t.Errorf("the lost member stays: %+v", steps)
	}
	h.apply(t, ctx, false)
	h.c.must(t, ctx, "status", "-f", h.spec)
	if s := h.status(t, ctx); len(s.Etcd.Members) != 3 || s.Margins.Etcd != 1 {
		t.Errorf("etcd has %d members and survives %d failures", len(s.Etcd.Members), s.Margins.Etcd)
	}
}

// balancersMoveAway moves the load balancers from the control planes to new hosts.
func (h *changingHosts) balancersMoveAway(t *testing.T, ctx context.Context) {
	own := []spec.Host{h.machine(t, ctx, "lb-x", "a", spec.RoleLoadBalancer), h.machine(t, ctx, "lb-y", "b", spec.RoleLoadBalancer)}
	var control []string
	h.edit(t, func(s *spec.Cluster) {
		for _, cp := range s.HostsWith(spec.RoleControlPlane) {
			control = append(control, cp.Name)
		}
		s.Spec.Hosts = append(s.Spec.Hosts, own...)
	})
	one := h.watchAddress(t, ctx, append([]string{"lb-x", "lb-y"}, control...))
	h.apply(t, ctx, false)
	one(t, ctx)
	s := h.status(t, ctx)
	if len(s.LoadBalancers) != 2 || !strings.HasPrefix(s.Endpoint.Holder, "lb-") {
		t.Errorf("load balancers %+v, and %s has the virtual IP", s.LoadBalancers, s.Endpoint.Holder)
	}
	for _, name := range control {
		left := h.c.ssh(t, ctx, name, "ls -d /etc/systemd/system/quorate-watchdog.service /etc/systemd/system/haproxy.service.d /etc/systemd/system/keepalived.service.d /etc/sysctl.d/91-quorate-balancer.conf 2>/dev/null; systemctl is-active keepalived quorate-watchdog | grep -x active; cat /proc/sys/net/ipv4/ip_nonlocal_bind; true")
		if left != "0" {
			t.Errorf("%s has something of a load balancer left: %s", name, left)
		}
	}
}

// balancersMoveBack moves them from hosts of their own to the control planes.
func (h *changingHosts) balancersMoveBack(t *testing.T, ctx context.Context) {
	var all, own []string
	h.edit(t, func(s *spec.Cluster) {
		for _, o := range s.Spec.Hosts {
			if o.Has(spec.RoleLoadBalancer) {
				own = append(own, o.Name)
			}
			if o.Has(spec.RoleLoadBalancer) || o.Has(spec.RoleControlPlane) {
				all = append(all, o.Name)
			}
		}
		for _, name := range own {
			remove(s, name)
		}
	})
	one := h.watchAddress(t, ctx, all)
	h.apply(t, ctx, false)
	one(t, ctx)
	if s := h.status(t, ctx); len(s.LoadBalancers) != 3 || slices.Contains(own, s.Endpoint.Holder) || s.Endpoint.Holder == "" {
		t.Errorf("load balancers %+v, and %s has the virtual IP", s.LoadBalancers, s.Endpoint.Holder)
	}
	for _, name := range own {
		h.gone(t, ctx, name)
	}
}

// watchAddress has machines note when they get and lose the virtual IP. What it returns expects that never two had it, and never
// none, for longer than keepalived needs to move it.
func (h *changingHosts) watchAddress(t *testing.T, ctx context.Context, machines []string) func(*testing.T, context.Context) {
	t.Helper()
	const log = "/run/address.log"
	s := h.status(t, ctx)
	vip, begin := s.Endpoint.VirtualIP, time.Now()
	for _, name := range machines {
		h.c.ssh(t, ctx, name, "systemctl stop address-log 2>/dev/null; rm -f "+log+"; systemd-run --quiet --collect --unit=address-log --property=StandardOutput=file:"+log+" --setenv=TZ=UTC ip -o -ts monitor address")
	}
	return func(t *testing.T, ctx context.Context) {
		t.Helper()
		type move struct {
			at   time.Time
			name string
			more int
		}
		moves := []move{{begin, s.Endpoint.Holder, 1}}
		for _, name := range machines {
			text := h.c.ssh(t, ctx, name, "systemctl stop address-log; cat "+log)
			for line := range strings.Lines(text) {
				stamp, rest, ok := strings.Cut(strings.TrimPrefix(line, "["), "]")
				at, err := time.Parse("2006-01-02T15:04:05.999999", stamp)
				if !ok || err != nil || !strings.Contains(rest, " "+vip+"/") {
					continue
				}
				more := 1
				if strings.Contains(rest, "Deleted") {
					more = -1
				}
				moves = append(moves, move{at, name, more})
			}
		}
		slices.SortStableFunc(moves, func(a, b move) int { return a.at.Compare(b.at) })
		fmt.Printf("%s: holders of the virtual IP: %v\n", t.Name(), moves)
		if len(moves) < 3 {
			t.Fatalf("the virtual IP did not move: %v", moves)
		}
		has := map[string]bool{}
		for i, m := range moves {
			if has[m.name] = m.more > 0; !has[m.name] {
				delete(has, m.name)
			}
			if i == len(moves)-1 || len(has) == 1 {
				continue
			}
			if took := moves[i+1].at.Sub(m.at); took > standstill && len(h.c.stoodStill(t, ctx, begin, time.Now())) == 0 {
				t.Errorf("%d machines had the virtual IP for %s: %v", len(has), took, moves)
			}
		}
		if len(has) != 1 {
			t.Errorf("%d machines have the virtual IP at the end: %v", len(has), moves)
		}
	}
}
