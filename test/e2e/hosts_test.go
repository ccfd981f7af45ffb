//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

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
			{"two control planes are replaced in one edit", h.twoInOneEdit},
			{"a worker whose pods may not go", h.heldWorker},
			// These API servers do not share their port yet.
			{"load balancers move to the control planes", h.balancersMoveBack},
			{"and back", h.balancersMoveAway},
			{"the quorum is lost", func(t *testing.T, ctx context.Context) { quorumLost{h.c, h.spec, h.p}.oneLeft(t, ctx) }},
		}, 1, 3, 4) {
			t.Run(part.name, func(t *testing.T) {
				defer c.collectIfFailed(t)
				part.test(t, testContext(t))
			})
		}
	})
	t.Run("down", func(t *testing.T) { down(t, c, before) })
}

// TestSingle begins with one control plane, goes on to three and five, and back to three and one: never does a write get lost.
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
	costs := func(r result) {
		t.Helper()
		if !strings.Contains(strings.Join(strings.Fields(r.stdout+r.stderr), " "), "is the only control plane") {
			t.Errorf("it does not say what a single control plane costs: %s", r)
		}
	}
	costs(c.must(t, ctx, "validate", "-f", file))
	costs(c.must(t, ctx, "up", "-f", file))
	h := &changingHosts{c: c, spec: c.specFile(), p: c.clients(t, ctx)}
	costs(c.must(t, ctx, "plan", "-f", h.spec))
	costs(c.must(t, ctx, "status", "-f", h.spec))
	costs(c.must(t, ctx, "apply", "-f", h.spec))
	if r := c.exits(t, ctx, 1, "audit", "-f", h.spec); !strings.Contains(r.stdout, "cp-a") {
		t.Errorf("the audit does not name the single control plane: %s", r)
	}
	h.numbers(t, ctx, 1, 0)

	add := func(roles map[string]string) (out []spec.Host) {
		for _, name := range slices.Sorted(maps.Keys(roles)) {
			out = append(out, h.machine(t, ctx, name, "a", roles[name]))
		}
		return out
	}
	leave := func(s *spec.Cluster, names ...string) {
		for _, name := range names {
			remove(s, name)
		}
	}
	three := add(map[string]string{"cp-b": spec.RoleControlPlane, "cp-c": spec.RoleControlPlane, "lb-b": spec.RoleLoadBalancer})
	h.edit(t, func(s *spec.Cluster) {
		s.Spec.ControlPlane.Placement = spec.PlacementZonal
		s.Spec.Hosts = append(s.Spec.Hosts, three...)
	})
	h.apply(t, ctx, false)
	h.numbers(t, ctx, 3, 1)

	five := add(map[string]string{"cp-d": spec.RoleControlPlane, "cp-e": spec.RoleControlPlane})
	h.edit(t, func(s *spec.Cluster) { s.Spec.Hosts = append(s.Spec.Hosts, five...) })
	h.apply(t, ctx, true)
	h.numbers(t, ctx, 5, 2)

	// Two leave together, and one of them is the first.
	h.edit(t, func(s *spec.Cluster) { leave(s, "cp-a", "cp-d") })
	h.apply(t, ctx, true)
	h.numbers(t, ctx, 3, 1)
	h.gone(t, ctx, "cp-a")
	h.gone(t, ctx, "cp-d")

	// Back to one, which is not the first.
	h.edit(t, func(s *spec.Cluster) {
		s.Spec.ControlPlane.Placement = spec.PlacementSingle
		leave(s, "cp-b", "cp-e", "lb-a")
	})
	h.apply(t, ctx, false)
	h.numbers(t, ctx, 1, 0)
	if s := h.status(t, ctx); s.Etcd.Members[0].Name != "cp-c" {
		t.Errorf("members %+v", s.Etcd.Members)
	}
	h.gone(t, ctx, "cp-b")
}

// numbers expects a number of control planes with etcd members that work, and how many of them the cluster survives the loss of.
func (h *changingHosts) numbers(t *testing.T, ctx context.Context, controlPlanes, margin int) {
	t.Helper()
	eventually(t, ctx, fmt.Sprintf("%d control planes, and a margin of %d", controlPlanes, margin), func() error {
		s, r, err := h.c.statusOf(ctx, h.spec)
		if err != nil {
			return err
		}
		working := slices.DeleteFunc(slices.Clone(s.Etcd.Members), func(m status.Member) bool { return !m.Healthy || m.Learner })
		nodes := slices.DeleteFunc(slices.Clone(s.Nodes), func(n status.Node) bool { return !n.Ready || !slices.Contains(n.Roles, spec.RoleControlPlane) })
		if len(s.Etcd.Members) != controlPlanes || len(working) != controlPlanes || len(nodes) != controlPlanes || s.Margins.Etcd != margin || s.Margins.ControlPlanes != margin {
			return errors.New(r.String())
		}
		return nil
	})
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
func (h *changingHosts) apply(t *testing.T, ctx context.Context, planned bool, args ...string) {
	t.Helper()
	fmt.Println(h.c.must(t, ctx, "plan", "-f", h.spec).stdout)
	begin := time.Now()
	r := h.c.must(t, ctx, append([]string{"apply", "-f", h.spec, "-v"}, args...)...)
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
	before := h.status(t, ctx)
	old, machines := before.Endpoint.Holder, []string{"lb-d"}
	for _, lb := range before.LoadBalancers {
		machines = append(machines, lb.Name)
	}
	fresh := h.machine(t, ctx, "lb-d", strings.TrimPrefix(old, "lb-"), spec.RoleLoadBalancer)
	h.edit(t, func(s *spec.Cluster) {
		remove(s, old)
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	one := h.watchAddress(t, ctx, machines)
	h.apply(t, ctx, false)
	one(t, ctx)
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

// holder is the host that has the virtual IP; empty if none does.
func holder(s status.Status) string { return s.Endpoint.Holder }

// leader is the host whose member leads etcd; empty if none does.
func leader(s status.Status) string {
	for _, m := range s.Etcd.Members {
		if m.Leader {
			return m.Name
		}
	}
	return ""
}

// twoInOneEdit replaces two control planes by one edit. One of them leads etcd. They are replaced one after another: etcd changes by one
// member at a time.
func (h *changingHosts) twoInOneEdit(t *testing.T, ctx context.Context) {
	s, err := spec.Load(h.spec)
	if err != nil {
		t.Fatal(err)
	}
	leads := leader(h.status(t, ctx))
	var old, fresh []spec.Host
	stays := ""
	for _, cp := range s.HostsWith(spec.RoleControlPlane) {
		switch {
		case cp.Name == leads || stays != "":
			old = append(old, cp)
		default:
			stays = cp.Name
		}
	}
	if len(old) != 2 {
		t.Fatalf("of the control planes, %s leads etcd, %s is to stay, and %+v are to leave", leads, stays, old)
	}
	for i, cp := range old {
		fresh = append(fresh, h.machine(t, ctx, []string{"cp-v", "cp-w"}[i], cp.Zone, spec.RoleControlPlane))
	}
	h.edit(t, func(s *spec.Cluster) {
		for _, cp := range old {
			remove(s, cp.Name)
		}
		s.Spec.Hosts = append(s.Spec.Hosts, fresh...)
	})
	if r := h.c.must(t, ctx, "plan", "-f", h.spec); !strings.Contains(r.stdout, "meanwhile, the cluster survives the loss of") {
		t.Errorf("the plan does not say what the margins are meanwhile: %s", r)
	}
	members, begin := h.watchMembers(t, ctx, stays), time.Now()
	h.apply(t, ctx, true)
	seen := members()
	fmt.Printf("%s: members of etcd: %v\n", t.Name(), seen)
	most := 0
	for i, m := range seen {
		most = max(most, m.voters)
		switch {
		case m.voters < 3 || m.learners > 1:
			t.Errorf("etcd had %d members with a vote and %d learners", m.voters, m.learners)
		case i > 0 && max(m.voters-seen[i-1].voters, seen[i-1].voters-m.voters) > 1 && !h.c.excused(t, ctx, "a change of etcd's members that nobody saw", begin, time.Now()):
			t.Errorf("from %d members with a vote, etcd came to %d in one step", seen[i-1].voters, m.voters)
		}
	}
	if most < 4 && !h.c.excused(t, ctx, "nobody saw a member join", begin, time.Now()) {
		t.Errorf("nobody saw a member join: %v", seen)
	}
	want := []string{stays, fresh[0].Name, fresh[1].Name}
	slices.Sort(want)
	if last := seen[len(seen)-1]; last.voters != 3 || !slices.Equal(last.names, want) {
		t.Errorf("the last members are %v, want %v", last, want)
	}
	for _, cp := range old {
		h.gone(t, ctx, cp.Name)
	}
}

// membership is who was a member of etcd at one moment.
type membership struct {
	voters, learners int
	names            []string
}

// watchMembers has a control plane note who is a member of etcd, until the returned function is called. That returns what it saw, without what
// it saw twice in a row.
func (h *changingHosts) watchMembers(t *testing.T, ctx context.Context, on string) func() []membership {
	t.Helper()
	const script = `PATH=$PATH:/usr/local/bin; rm -f /run/e2e-members-stop
while [ ! -e /run/e2e-members-stop ]; do
	` + etcdctlAsAPIServer + `--command-timeout 2s member list 2>/dev/null | awk -F', ' '{ if ($6 == "true") l++; else v++; n = n " " $3 } END { if (NR) print v+0, (l+0) n }'
	sleep 0.1
done`
	var out strings.Builder
	done := make(chan error, 1)
	go func() { done <- h.c.lab(t).Exec(ctx, on, []string{"bash", "-c", script}, nil, &out, &out) }()
	return func() (seen []membership) {
		t.Helper()
		h.c.ssh(t, ctx, on, "touch /run/e2e-members-stop")
		if err := <-done; err != nil {
			t.Error(err)
		}
		before := ""
		for line := range strings.Lines(out.String()) {
			words := strings.Fields(line)
			if line == before || len(words) < 3 {
				continue
			}
			m := membership{names: words[2:]}
			if _, err := fmt.Sscan(line, &m.voters, &m.learners); err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			slices.Sort(m.names)
			before, seen = line, append(seen, m)
		}
		if len(seen) == 0 {
			t.Fatalf("%s saw no members: %s", on, out.String())
		}
		return seen
	}
}

// heldWorker takes a worker out of the spec whose pod a disruption budget holds, and on which there is a pod without a controller. The edit is
// refused before anything is changed, and is made when the budget allows it and the user allows that the pod is lost.
func (h *changingHosts) heldWorker(t *testing.T, ctx context.Context) {
	_, api := h.c.client(t, ctx)
	image := workloadsIn(t, ctx, api, heldNamespace)
	s, err := spec.Load(h.spec)
	if err != nil {
		t.Fatal(err)
	}
	fresh := h.machine(t, ctx, "worker-w", "c", spec.RoleWorker)
	worker := s.HostsWith(spec.RoleWorker)[0].Name
	deployWebIn(t, ctx, api, heldNamespace, func(*corev1.PodTemplateSpec) {}, image)
	podsIn(t, ctx, api, heldNamespace, "web", 2)
	budgets := api.PolicyV1().PodDisruptionBudgets(heldNamespace)
	if _, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "never"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: new(intstr.FromInt32(2)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the budget is judged", func() error {
		b, err := budgets.Get(ctx, "never", metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration == 0 || b.Status.ExpectedPods != 2 || b.Status.CurrentHealthy != 2) {
			err = fmt.Errorf("%+v", b.Status)
		}
		return err
	})
	h.edit(t, func(s *spec.Cluster) {
		remove(s, worker)
		s.Spec.Hosts = append(s.Spec.Hosts, fresh)
	})
	for _, force := range [][]string{nil, {"--force"}} { // no flag evicts past a budget
		r := h.c.exits(t, ctx, 3, append([]string{"apply", "-f", h.spec}, force...)...)
		for _, word := range []string{heldNamespace + "/never", "2 of 2 pods are healthy"} {
			if !strings.Contains(r.stderr, word) {
				t.Errorf("the refusal does not name %q: %s", word, r)
			}
		}
	}
	if n, err := api.CoreV1().Nodes().Get(ctx, worker, metav1.GetOptions{}); err != nil {
		t.Error(err)
	} else if n.Spec.Unschedulable {
		t.Errorf("node %s is cordoned although the edit was refused", worker)
	}
	if _, err := api.CoreV1().Nodes().Get(ctx, fresh.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("node %s joined although the edit was refused: %v", fresh.Name, err)
	}
	if err := budgets.Delete(ctx, "never", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// A budget that may allow the eviction later does not keep the departure from beginning.
	h.edit(t, func(s *spec.Cluster) { remove(s, fresh.Name) }) // a join would take its part of the time
	end := blockedForNow(t, ctx, api, heldNamespace, s.HostsWith(spec.RoleControlPlane)[0].Name)
	h.c.endsInTime(t, ctx, api, heldNamespace, worker, "apply", "-f", h.spec)
	end()
	h.edit(t, func(s *spec.Cluster) { s.Spec.Hosts = append(s.Spec.Hosts, fresh) })
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: netexec(nil, image).Spec}
	bare.Spec.NodeName = worker
	if _, err := api.CoreV1().Pods(heldNamespace).Create(ctx, bare, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := h.c.exits(t, ctx, 3, "apply", "-f", h.spec); !strings.Contains(r.stderr, heldNamespace+"/bare") || !strings.Contains(r.stderr, "--force") {
		t.Errorf("a pod that no controller creates again: %s", r)
	}
	if _, err := api.CoreV1().Pods(heldNamespace).Get(ctx, bare.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("it was deleted although nobody allowed that: %v", err)
	}
	h.apply(t, ctx, true, "--force")
	h.gone(t, ctx, worker)
}

const heldNamespace = "e2e-held"

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
