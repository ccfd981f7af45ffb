//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/status"
)

// maintenance takes the etcd leader, the holder of the virtual IP, and a worker out of service one after another, powers each off and on,
// and brings it back, while clients read and write through the endpoint and use a workload. None of them may fail.
func maintenance(t *testing.T, c *cluster) {
	ctx := testContext(t)
	s := c.whole(t, ctx)
	_, api := c.client(t, ctx)
	web, pdb := deployServed(t, ctx, api)
	node := worker(s, 1).Address
	users := useWorkload(fmt.Sprintf("http://%s/hostname", net.JoinHostPort(node, fmt.Sprint(web.Spec.Ports[0].NodePort))))
	defer users.stop()
	inside, dialed := c.dialService(t, ctx, worker(s, 1).Name), time.Now()
	p := c.clients(t, ctx)
	if err := p.Calm(ctx, calm); err != nil {
		t.Fatal(err)
	}
	leads, w := leader(s), worker(s, 0).Name

	t.Run("a budget that blocks is named", func(t *testing.T) {
		never := pdb.DeepCopy()
		never.ResourceVersion, never.Name = "", "never"
		never.Spec.MinAvailable = new(intstr.FromInt32(2))
		if err := api.PolicyV1().PodDisruptionBudgets(maintainNamespace).Delete(ctx, pdb.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := api.PolicyV1().PodDisruptionBudgets(maintainNamespace).Create(ctx, never, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, ctx, "the budget is judged", func() error {
			r := c.run(ctx, "maintain", "-f", c.specFile(), w)
			if r.code != 3 || !strings.Contains(r.stderr, maintainNamespace+"/never") || !strings.Contains(r.stderr, "2 of 2 pods are healthy") {
				if r.code == 0 {
					c.must(t, ctx, "maintain", "-f", c.specFile(), "--undo", w)
				}
				return fmt.Errorf("%s", r)
			}
			return nil
		})
		if err := api.PolicyV1().PodDisruptionBudgets(maintainNamespace).Delete(ctx, "never", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		end := blockedForNow(t, ctx, api, maintainNamespace, leads)
		c.endsInTime(t, ctx, api, maintainNamespace, w, "maintain", "-f", c.specFile(), w)
		halfInMaintenance(t, ctx, c, api, w)
		end()
		c.must(t, ctx, "maintain", "-f", c.specFile(), "--undo", w)
		noTraces(t, ctx, api)
		pdb.ResourceVersion = ""
		if _, err := api.PolicyV1().PodDisruptionBudgets(maintainNamespace).Create(ctx, pdb, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	})

	m := maintained{c, api, p, users}
	rows := []maintenanceRow{}
	for _, host := range []string{leads, s.Endpoint.Holder, w} {
		t.Run(host, func(t *testing.T) {
			ctx := testContext(t)
			before := c.whole(t, ctx)
			if err := p.Calm(ctx, calm); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if host == w {
				// A run that is killed in the middle is finished by the next one. A pod of the workload needs five seconds to end.
				first := c.start(t, ctx, "maintain", "-f", c.specFile(), "--verbose", host)
				if !first.reaches(ctx, "drain the node …") {
					code, all := first.wait(t)
					t.Fatalf("exit status %d: %s", code, all)
				}
				first.signal(t, ctx, syscall.SIGKILL, 2*time.Second)
				first.wait(t)
				halfInMaintenance(t, ctx, c, api, host)
			}
			out := c.must(t, ctx, "maintain", "-f", c.specFile(), host).took
			inMaintenance(t, ctx, c, api, host)
			if i := slices.IndexFunc(before.Etcd.Members, func(m status.Member) bool { return m.Name != host }); host == leads {
				c.exits(t, ctx, 3, "maintain", "-f", c.specFile(), before.Etcd.Members[i].Name)
			}
			c.labDo("fault", "power-off", host)(t, ctx)
			time.Sleep(calm)
			c.unchanged(t, ctx, "-f", c.specFile()) // apply would leave it alone
			c.labDo("heal", "power-off", host)(t, ctx)
			back := c.must(t, ctx, "maintain", "-f", c.specFile(), "--undo", host).took
			c.whole(t, ctx)
			r := m.met(t, ctx, host+roles(before, host), begin)
			r.Out, r.Back = out, back
			rows = append(rows, r)
			noTraces(t, ctx, api)
		})
	}
	t.Run("a zone", func(t *testing.T) { rows = append(rows, m.zone(t, testContext(t), worker(s, 0).Zone)) })
	t.Run("reboot", func(t *testing.T) {
		ctx := testContext(t)
		hosts := []string{w}
		if *whole {
			now := c.whole(t, ctx)
			hosts = append(hosts, holder(now), leader(now))
		}
		m.reboot(t, ctx, hosts)
	})
	if *whole {
		t.Run("the pod network is broken after the return", func(t *testing.T) { m.networkBroken(t, testContext(t)) })
	}
	if lost, acked, err := p.Lost(ctx); err != nil || len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v, %v", len(lost), acked, lost, err)
	}
	dials, failed := inside()
	if failed = c.unserved(t, ctx, "connections to the Service kubernetes.default from a node", dialed, time.Now(), failed); dials < 100 || len(failed) > 0 {
		t.Errorf("of %d connections to the Service kubernetes.default from a node, %d failed: %v", dials, len(failed), failed)
	} else {
		fmt.Printf("%d connections to the Service kubernetes.default from a node, none failed\n", dials)
	}
	data, _ := json.MarshalIndent(rows, "", "  ")
	printArtifact(t, "maintenance.json", string(data))
}

// maintenanceRow is what clients met while one host was out of service, from before it was taken out until the margins were back.
type maintenanceRow struct {
	Host             string        `json:"host"`
	Requests         int           `json:"apiRequests"`
	Failed           int           `json:"failedApiRequests"`
	WorkloadRequests int           `json:"workloadRequests"`
	WorkloadFailed   []string      `json:"failedWorkloadRequests"`
	Out              time.Duration `json:"outNanoseconds"`
	Back             time.Duration `json:"backNanoseconds"`
}

const maintainNamespace = "e2e-maintain"

func worker(s status.Status, n int) status.Node {
	workers := slices.DeleteFunc(slices.Clone(s.Nodes), func(n status.Node) bool { return !slices.Contains(n.Roles, spec.RoleWorker) })
	return workers[n]
}

// maintained is a cluster whose hosts are taken out of service, with its clients and the users of a workload.
type maintained struct {
	c     *cluster
	api   kubernetes.Interface
	p     *probe.Prober
	users *workloadUsers
}

// met is what clients met since a moment. It fails the test if one of them noticed anything.
func (m maintained) met(t *testing.T, ctx context.Context, host string, begin time.Time) maintenanceRow {
	t.Helper()
	end := time.Now()
	report, err := m.p.Between(ctx, begin, end)
	if err != nil {
		t.Fatal(err)
	}
	r := maintenanceRow{Host: host}
	r.Failed = report.New.Failed + report.Writes.Failed + report.HTTP2.Failed
	r.Requests = report.New.Requests + report.Writes.Requests + report.HTTP2.Requests
	r.WorkloadRequests, r.WorkloadFailed = m.users.between(begin, end)
	if failed := m.c.noticed(t, ctx, begin, end, report); failed > 0 {
		t.Errorf("%d of %d API requests failed", failed, r.Requests)
	}
	if failed := m.c.unserved(t, ctx, "the workload", begin, end, r.WorkloadFailed); r.WorkloadRequests == 0 || len(failed) > 0 {
		t.Errorf("%d of %d workload requests failed: %v", len(failed), r.WorkloadRequests, failed)
	}
	return r
}

// zone takes all hosts of a zone out of service, cuts the power of the zone, and brings it back. Before that, its control plane leads etcd. The
// users of the workload must be in another zone.
func (m maintained) zone(t *testing.T, ctx context.Context, zone string) maintenanceRow {
	t.Helper()
	s, err := spec.Load(m.c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	control, elsewhere := "", spec.Host{}
	for _, h := range s.Spec.Hosts {
		switch {
		case h.Zone != zone:
			if h.Has(spec.RoleControlPlane) {
				elsewhere = h
			}
			continue
		case h.Has(spec.RoleControlPlane):
			control = h.Name
		}
		hosts = append(hosts, h.Name)
	}
	if control == "" || len(hosts) < 3 {
		t.Fatalf("zone %s has only %v", zone, hosts)
	}
	m.c.lead(t, ctx, control)
	before := m.c.whole(t, ctx)
	podsIn(t, ctx, m.api, maintainNamespace, "web", 2)
	if err := m.p.Calm(ctx, calm); err != nil {
		t.Fatal(err)
	}
	begin, target := time.Now(), "zone/"+zone
	out := m.c.must(t, ctx, "maintain", "-f", m.c.specFile(), target).took
	for _, h := range hosts {
		inMaintenance(t, ctx, m.c, m.api, h)
	}
	for _, other := range []string{"zone/" + elsewhere.Zone, elsewhere.Name} {
		m.c.exits(t, ctx, 3, "maintain", "-f", m.c.specFile(), other)
	}
	m.c.labDo("fault", "power-off", target)(t, ctx)
	pause(ctx, calm)
	m.c.unchanged(t, ctx, "-f", m.c.specFile()) // apply would leave it alone
	m.c.labDo("heal", "power-off", target)(t, ctx)
	back := m.c.must(t, ctx, "maintain", "-f", m.c.specFile(), "--undo", target).took
	m.c.whole(t, ctx)
	r := m.met(t, ctx, target+roles(before, zone), begin)
	r.Out, r.Back = out, back
	noTraces(t, ctx, m.api)
	return r
}

// reboot reboots hosts by one command. A machine of a lab stays off when its system ends, so that this sees each of them go. Never may one go
// while another one is away, or before the nodes of those before it are back in service.
func (m maintained) reboot(t *testing.T, ctx context.Context, hosts []string) {
	t.Helper()
	podsIn(t, ctx, m.api, maintainNamespace, "web", 2)
	begin := time.Now()
	r := m.c.start(t, ctx, append([]string{"maintain", "-f", m.c.specFile(), "--reboot"}, hosts...)...)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if code, all := r.wait(t); code != 0 {
			t.Errorf("exit status %d: %s", code, all)
		}
	}()
	l := m.c.lab(t)
	var went []string
	off := map[string]chan error{} // powering on
	for waiting := true; waiting; {
		select {
		case <-ended:
			waiting = false
		case <-time.After(200 * time.Millisecond):
		}
		machines, err := l.Status(ctx)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, machine := range machines {
			if on, away := off[machine.Name]; away {
				select {
				case err := <-on:
					delete(off, machine.Name)
					if err != nil {
						t.Errorf("%s: %v", machine.Name, err)
					}
				default:
				}
				continue
			}
			if machine.State != lab.Off {
				continue
			}
			if len(off) > 0 {
				t.Errorf("%s is down while %v are", machine.Name, slices.Collect(maps.Keys(off)))
			}
			m.othersServe(t, ctx, machine.Name)
			went = append(went, machine.Name)
			on, boots := make(chan error, 1), m.c.lab(t)
			off[machine.Name] = on
			go func() { on <- boots.PowerOn(ctx, machine.Name) }()
		}
	}
	if !slices.Equal(went, hosts) {
		t.Errorf("these hosts were rebooted: %v, want %v", went, hosts)
	}
	m.c.whole(t, ctx)
	m.met(t, ctx, strings.Join(hosts, ", "), begin)
	noTraces(t, ctx, m.api)
}

// othersServe expects that all nodes but one are Ready and take pods. A busy computer can make the report of a kubelet late: a node counts as not Ready
// only if it is not at a second look, either.
func (m maintained) othersServe(t *testing.T, ctx context.Context, away string) {
	t.Helper()
	look := func() (late bool, err error) {
		nodes, err := m.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return true, err
		}
		for _, n := range nodes.Items {
			switch {
			case n.Name == away:
			case n.Spec.Unschedulable:
				return false, fmt.Errorf("node %s takes no pods", n.Name)
			case !hasCondition(n, corev1.NodeReady):
				late, err = true, fmt.Errorf("node %s is not Ready: %+v", n.Name, n.Status.Conditions)
			}
		}
		return late, err
	}
	late, err := look()
	if late {
		pause(ctx, 5*time.Second)
		late, err = look()
	}
	const grace = 10 * time.Second // after which a report of a kubelet is late
	if now := time.Now(); err != nil && !(late && m.c.excused(t, ctx, err.Error(), now.Add(-grace), now)) {
		t.Errorf("while %s is down: %v", away, err)
	}
}

// networkBroken ends the maintenance of a control plane whose pod network does not work. Its API server is ready soon, and clients and pods
// must not come before the network works.
func (m maintained) networkBroken(t *testing.T, ctx context.Context) {
	t.Helper()
	s := m.c.whole(t, ctx)
	i := slices.IndexFunc(s.Etcd.Members, func(member status.Member) bool { return !member.Leader })
	host := s.Etcd.Members[i].Name
	m.c.must(t, ctx, "maintain", "-f", m.c.specFile(), host)
	m.c.ssh(t, ctx, host, breakOverlay)
	healed := false
	t.Cleanup(func() {
		if !healed { // for the tests that follow
			m.c.ssh(t, testContext(t), host, healOverlay)
			m.c.must(t, testContext(t), "maintain", "-f", m.c.specFile(), "--undo", host)
		}
	})
	undo := m.c.start(t, ctx, "maintain", "-f", m.c.specFile(), "--undo", "--verbose", host)
	if !undo.reaches(ctx, "wait until everything on the host works …") {
		code, all := undo.wait(t)
		t.Fatalf("exit status %d: %s", code, all)
	}
	config, _ := m.c.client(t, ctx)
	address := s.Nodes[slices.IndexFunc(s.Nodes, func(n status.Node) bool { return n.Name == host })].Address
	own := rest.AnonymousClientConfig(config)
	own.Host, own.ServerName = "https://"+net.JoinHostPort(address, hostconfig.APIPort), "kubernetes"
	client, err := rest.HTTPClientFor(own)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the API server on "+host+" is ready", func() error {
		resp, err := client.Get(own.Host + "/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	// Longer than one test of the network takes.
	looks := 0
	for held := time.Now(); time.Since(held) < 45*time.Second; pause(ctx, time.Second) {
		n, err := m.api.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
		if err != nil { // how well clients are served is not what this is about
			t.Logf("node %s could not be looked at: %v", host, err)
			continue
		}
		looks++
		if !n.Spec.Unschedulable || !hasCondition(*n, corev1.NodeMaintenanceInProgress) {
			t.Errorf("node %s is in service while its pod network does not work", host)
			break
		}
		if left := connections(t, ctx, m.c, host); left > 0 {
			t.Errorf("%d clients are sent to %s while its pod network does not work", left, host)
			break
		}
	}
	if looks == 0 {
		t.Errorf("nobody could look at node %s", host)
	}
	m.c.ssh(t, ctx, host, healOverlay)
	healed = true
	if code, all := undo.wait(t); code != 0 {
		t.Fatalf("it gave up before the network worked: exit status %d: %s", code, all)
	}
	m.c.whole(t, ctx)
	noTraces(t, ctx, m.api)
}

func hasCondition(n corev1.Node, kind corev1.NodeConditionType) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == kind && c.Status == corev1.ConditionTrue })
}

// noTraces expects that no node has anything left of a maintenance.
func noTraces(t *testing.T, ctx context.Context, api kubernetes.Interface) {
	t.Helper()
	nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		if n.Spec.Unschedulable || slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return strings.Contains(string(c.Type), "Drain") || strings.Contains(string(c.Type), "Maintenance")
		}) {
			t.Errorf("node %s still has traces of the maintenance: %+v", n.Name, n.Status.Conditions)
		}
	}
}

// maintains waits until status says that a host is in maintenance, and whether it can be powered off. A look that the API answers too late does
// not know of maintenances.
func (c *cluster) maintains(t *testing.T, ctx context.Context, host string, ready bool) (s status.Status) {
	t.Helper()
	eventually(t, ctx, fmt.Sprintf("status says that %s is in maintenance, and that it can be powered off: %t", host, ready), func() error {
		var r result
		var err error
		if s, r, err = c.status(ctx); err != nil {
			return err
		}
		i := slices.IndexFunc(s.Hosts, func(h status.Host) bool { return h.Name == host })
		if i < 0 || s.Hosts[i].Maintenance == nil {
			return errors.New(r.String())
		}
		if s.Hosts[i].Maintenance.Ready != ready {
			t.Fatalf("status is wrong about whether %s can be powered off: %s", host, r)
		}
		return nil
	})
	return s
}

// halfInMaintenance expects what there is of a maintenance that ended early: the host may not be powered off.
func halfInMaintenance(t *testing.T, ctx context.Context, c *cluster, api kubernetes.Interface, host string) {
	t.Helper()
	c.maintains(t, ctx, host, false)
	n, err := api.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !hasCondition(*n, corev1.NodeMaintenancePlanned) || hasCondition(*n, corev1.NodeMaintenanceInProgress) || hasCondition(*n, corev1.NodeDrained) {
		t.Errorf("node %s has the conditions %+v", host, n.Status.Conditions)
	}
}

func inMaintenance(t *testing.T, ctx context.Context, c *cluster, api kubernetes.Interface, host string) {
	t.Helper()
	s := c.maintains(t, ctx, host, true)
	for _, m := range s.Etcd.Members {
		if m.Leader && m.Name == host {
			t.Errorf("%s still leads etcd", host)
		}
	}
	if s.Endpoint.Holder == host {
		t.Errorf("%s still has the virtual IP", host)
	}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		lease, err := api.CoordinationV1().Leases("kube-system").Get(ctx, name, metav1.GetOptions{})
		if err != nil || lease.Spec.HolderIdentity == nil || strings.HasPrefix(*lease.Spec.HolderIdentity, host+"_") {
			t.Errorf("%s leads the %ss: %+v, %v", host, name, lease, err)
		}
	}
	n, err := api.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
	if err != nil {
		return // a load balancer
	}
	for kind, want := range map[corev1.NodeConditionType]bool{
		corev1.NodeDrained: true, corev1.NodeMaintenanceInProgress: true, corev1.NodeDrainInProgress: false, corev1.NodeMaintenancePlanned: false,
	} {
		if hasCondition(*n, kind) != want {
			t.Errorf("node %s: the condition %s is not %t: %+v", host, kind, want, n.Status.Conditions)
		}
	}
	pods, err := api.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + host})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		owner := metav1.GetControllerOf(&p)
		if owner != nil && owner.Kind != "DaemonSet" && owner.Kind != "Node" {
			t.Errorf("%s/%s still runs on %s", p.Namespace, p.Name, host)
		}
	}
}

// deployServed runs two replicas that serve until nobody is sent to them any more, with a budget that lets one of them go.
func deployServed(t *testing.T, ctx context.Context, api kubernetes.Interface) (*corev1.Service, *policyv1.PodDisruptionBudget) {
	t.Helper()
	image := workloadsIn(t, ctx, api, maintainNamespace)
	service := deployWebIn(t, ctx, api, maintainNamespace, func(p *corev1.PodTemplateSpec) {
		p.Spec.TerminationGracePeriodSeconds = new(int64(20))
		p.Spec.Containers[0].Args = append(p.Spec.Containers[0].Args, "--delay-shutdown=5")
	}, image)
	pdb, err := api.PolicyV1().PodDisruptionBudgets(maintainNamespace).Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	podsIn(t, ctx, api, maintainNamespace, "web", 2)
	return service, pdb
}

// dialService connects from a node to the API's Service, as clients in pods do, until the returned function is called. That returns how
// many connections were tried, and what became of those that failed.
func (c *cluster) dialService(t *testing.T, ctx context.Context, node string) func() (int, []string) {
	t.Helper()
	const script = `rm -f /run/e2e-stop; n=0
while [ ! -e /run/e2e-stop ]; do
	n=$((n+1)); timeout 2 bash -c 'exec 3<>/dev/tcp/10.96.0.1/443' 2>/dev/null || echo "failed $(date +%T.%3N) status $?"; sleep 0.05
done; echo "tried $n"`
	var out strings.Builder
	done := make(chan error, 1)
	l := c.lab(t)
	go func() { done <- l.Exec(ctx, node, []string{"bash", "-c", script}, nil, &out, &out) }()
	end := func(ctx context.Context) error {
		return l.Exec(ctx, node, []string{"touch", "/run/e2e-stop"}, nil, io.Discard, io.Discard)
	}
	t.Cleanup(func() { // a test that fails must not leave it running
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = end(ctx) // the node may be off
	})
	return func() (tried int, failed []string) {
		if err := end(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(out.String()) {
			if what, is := strings.CutPrefix(strings.TrimSpace(line), "failed "); is {
				failed = append(failed, what)
			} else {
				fmt.Sscanf(line, "tried %d", &tried) //nolint:errcheck // then it is zero, which fails the test
			}
		}
		return tried, failed
	}
}

// workloadUsers ask a workload twenty times a second, each time over a new connection.
type workloadUsers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	sent []workloadRequest
}

type workloadRequest struct {
	at  time.Time
	err string
}

func useWorkload(url string) *workloadUsers {
	ctx, cancel := context.WithCancel(context.Background())
	u := &workloadUsers{cancel: cancel}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	u.wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case at := <-tick.C:
				u.wg.Go(func() {
					r := workloadRequest{at: at}
					resp, err := client.Get(url)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if err == nil && resp.StatusCode != http.StatusOK {
							err = fmt.Errorf("HTTP %d", resp.StatusCode)
						}
					}
					if err != nil {
						r.err = err.Error()
					}
					u.mu.Lock()
					defer u.mu.Unlock()
					u.sent = append(u.sent, r)
				})
			}
		}
	})
	return u
}

func (u *workloadUsers) stop() {
	u.cancel()
	u.wg.Wait()
}

func (u *workloadUsers) between(from, to time.Time) (n int, failed []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.sent {
		if r.at.Before(from) || r.at.After(to) {
			continue
		}
		if n++; r.err != "" {
			failed = append(failed, r.at.Sub(from).Round(time.Millisecond).String()+": "+r.err)
		}
	}
	return n, failed
}

// roles describes the special roles of a part.
func roles(s status.Status, part string) string {
	var out []string
	zone := map[string]bool{}
	for _, n := range s.Nodes {
		zone[n.Name] = n.Zone == part
	}
	for _, m := range s.Etcd.Members {
		if m.Leader && (m.Name == part || zone[m.Name]) {
			out = append(out, "etcd leader")
		}
	}
	for _, b := range s.LoadBalancers {
		if b.Active && (b.Name == part || strings.HasSuffix(b.Name, "-"+part)) {
			out = append(out, "VIP holder")
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " (" + strings.Join(out, ", ") + ")"
}
