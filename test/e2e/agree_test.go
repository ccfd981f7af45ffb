//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/drill/agreement"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/spof"
	"quorate.dev/quorate/test/e2e/parts"
)

// TestAuditAgrees audits clusters, drills what can fail in them, and compares: what the audit calls a single point of failure takes away what it says, and
// nothing else is lost. One cluster is whole, and six are broken. Without -whole, one element of two of them is drilled.
func TestAuditAgrees(t *testing.T) {
	var a agreeing
	parts.Of(t, func(run func(string, func(*testing.T)) bool) {
		run("three zones", a.threeZones)
		if *whole {
			run("all control planes in one zone", a.oneZone)
			run("five etcd hosts", a.fiveMembers)
		}
	})
	a.print(t)
}

// agreeing is what was compared so far.
type agreeing struct {
	names   []string // of clusters
	results map[string][]agreement.Result
	untried map[string][]agreement.Untried
}

// way is a way to break a cluster. With mend, it is undone before the next one.
type way struct {
	name      string
	damage    func(*testing.T, context.Context, *cluster)
	mend      func(*testing.T, context.Context, *cluster)
	predicted func(spof.Report) bool // whether the audit sees it
	// within says that the margins allow every fault that the audit calls survivable.
	within bool
}

func (a *agreeing) threeZones(t *testing.T) {
	c := newCluster(t, "e2e-agree")
	up(t, c)
	for _, w := range sample([]way{
		{"whole", unharmed, nil, func(r spof.Report) bool { return !slices.ContainsFunc(r.Capabilities, brokenAlone) }, true},
		{"one load balancer", loadBalancerStops, loadBalancerStarts, takes(spof.APIReads, balancer("lb-a")), false},
		{"a control plane outside the pool", leavesPool, joinsPool, takes(spof.APIReads, apiServer("cp-a"), apiServer("cp-b")), false},
		{"CoreDNS on one node", dnsOnOneNode, dnsSpreads, takes(spof.ClusterDNS, spof.Element{Kind: spof.Host, Name: "worker-a"}), false},
	}, 0, 1) {
		t.Run(w.name, func(t *testing.T) {
			c.whole(t, testContext(t))
			a.broken(t, c, w)
		})
	}
}

// oneZone is a cluster whose spec says that all control planes are in one zone.
func (a *agreeing) oneZone(t *testing.T) {
	c := newCluster(t, "e2e-agree-zone")
	s := shapeOf(t, spec.InitOptions{Name: c.name})
	for i, h := range s.Spec.Hosts {
		if h.Has(spec.RoleControlPlane) {
			s.Spec.Hosts[i].Zone = "a"
		}
	}
	s.Spec.ControlPlane.Placement = spec.PlacementZonal
	upWith(t, c, s)
	a.broken(t, c, way{"all control planes in one zone", unharmed, nil, takes(spof.APIReads, zone("a")), false})
}

// fiveMembers has five etcd hosts in three zones. Without the one that is alone in its zone, each of the other zones has those that the quorum
// needs. Then, two members are left. API servers that have etcd next to them would be gone with their members.
func (a *agreeing) fiveMembers(t *testing.T) {
	c := newCluster(t, "e2e-agree-etcd")
	s := shapeOf(t, spec.InitOptions{Name: c.name, Topology: spec.TopologyExternal, EtcdHosts: 5, ControlPlanes: 2})
	upWith(t, c, s)
	zones := map[string][]string{}
	for _, h := range s.EtcdHosts() {
		zones[h.Zone] = append(zones[h.Zone], h.Name)
	}
	var alone, stay, leave []string
	full := ""
	for name, hosts := range zones {
		if len(hosts) == 1 {
			alone = append(alone, hosts[0])
			continue
		}
		full = name
		stay, leave = append(stay, hosts[0]), append(leave, hosts[1:]...)
	}
	if len(alone) != 1 || len(stay) != 2 || len(leave) != 2 {
		t.Fatalf("the etcd hosts are in the zones %v", zones)
	}
	stops := func(t *testing.T, ctx context.Context, c *cluster) {
		c.ssh(t, ctx, alone[0], "systemctl disable --now etcd")
	}
	t.Run("a zone that holds the quorum", func(t *testing.T) {
		a.broken(t, c, way{"a zone that holds the quorum", stops, nil, takes(spof.APIReads, zone(full)), false})
	})
	leaves := func(t *testing.T, ctx context.Context, c *cluster) {
		for _, name := range append(slices.Clone(alone), leave...) {
			memberLeaves(t, ctx, c, stay[0], name)
		}
	}
	t.Run("two etcd members", func(t *testing.T) {
		a.broken(t, c, way{"two etcd members", leaves, nil, takes(spof.APIWrites, member(stay[0])), false})
	})
}

// upWith builds the cluster of a spec.
func upWith(t *testing.T, c *cluster, s *spec.Cluster) {
	t.Helper()
	text, err := spec.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.dir, "spec.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, testContext(t), "up", "-f", file, "--name", c.name)
}

func balancer(host string) spof.Element {
	return spof.Element{Kind: spof.Kind(quorum.Balancers.Name), Name: host}
}

func apiServer(host string) spof.Element {
	return spof.Element{Kind: spof.Kind(quorum.APIServers.Name), Name: host}
}

func member(host string) spof.Element {
	return spof.Element{Kind: spof.Kind(quorum.Members.Name), Name: host}
}

func zone(name string) spof.Element { return spof.Element{Kind: spof.Zone, Name: name} }

// takes says that an audit finds that the elements together take a capability away.
func takes(capability string, elements ...spof.Element) func(spof.Report) bool {
	return func(r spof.Report) bool {
		return slices.ContainsFunc(r.Findings, func(f spof.Finding) bool {
			return !f.Possible && slices.Equal(f.Elements, elements) && slices.Contains(f.Capabilities, capability)
		})
	}
}

// brokenAlone says that something can be lost with one element of what clients use. A default cluster has no backup, and after a node was away, all of CoreDNS may
// be in one zone.
func brokenAlone(c spof.Capability) bool {
	return c.Single > 0 && c.Name != spof.ClusterData && c.Name != spof.ClusterDNS
}

func unharmed(*testing.T, context.Context, *cluster) {}

func loadBalancerStops(t *testing.T, ctx context.Context, c *cluster) {
	c.ssh(t, ctx, "lb-b", "systemctl disable --now quorate-watchdog keepalived haproxy")
}

func loadBalancerStarts(t *testing.T, ctx context.Context, c *cluster) {
	c.ssh(t, ctx, "lb-b", "systemctl enable --now haproxy keepalived quorate-watchdog")
}

func leavesPool(t *testing.T, ctx context.Context, c *cluster) { setPools(t, ctx, c, "drain", "cp-c") }
func joinsPool(t *testing.T, ctx context.Context, c *cluster)  { setPools(t, ctx, c, "ready", "") }

// setPools sets the state of cp-c in the pools, as an operator would at HAProxy's socket. The watchdog undoes what is not noted. A load balancer
// that loses its power forgets it: then the other one still has it.
func setPools(t *testing.T, ctx context.Context, c *cluster, state, noted string) {
	t.Helper()
	command := fmt.Sprintf("mkdir -p %s; echo %s >%s", filepath.Dir(hostconfig.DrainedFile), noted, hostconfig.DrainedFile)
	for _, pool := range []string{hostconfig.PoolWithEtcd, hostconfig.PoolWithoutEtcd, hostconfig.PoolListening} {
		command += fmt.Sprintf("; echo 'set server %s/cp-c state %s' | socat - UNIX-CONNECT:%s", pool, state, hostconfig.HAProxySocket)
	}
	for _, lb := range []string{"lb-a", "lb-b"} {
		c.ssh(t, ctx, lb, command)
	}
}

const kubectlAsAdmin = "kubectl --kubeconfig /etc/kubernetes/admin.conf "

func dnsOnOneNode(t *testing.T, ctx context.Context, c *cluster) {
	c.ssh(t, ctx, "cp-a", kubectlAsAdmin+`-n kube-system patch deployment coredns --type merge -p '{"spec":{"template":{"spec":{"topologySpreadConstraints":null,"affinity":null,"nodeSelector":{"kubernetes.io/hostname":"worker-a"}}}}}'`)
	c.ssh(t, ctx, "cp-a", kubectlAsAdmin+"-n kube-system rollout status deployment coredns --timeout=120s")
}

func dnsSpreads(t *testing.T, ctx context.Context, c *cluster) {
	c.ssh(t, ctx, "cp-a", kubectlAsAdmin+"-n kube-system rollout undo deployment coredns")
	c.ssh(t, ctx, "cp-a", kubectlAsAdmin+"-n kube-system rollout status deployment coredns --timeout=120s")
}

// memberLeaves takes the member of a host out of etcd, as an operator would on the host of another one.
func memberLeaves(t *testing.T, ctx context.Context, c *cluster, by, name string) {
	t.Helper()
	command := "id=$(" + etcdctlAsAPIServer + "member list | awk -F', ' '$3 == \"" + name + "\" {print $1}') && { [ -z \"$id\" ] || " + etcdctlAsAPIServer + "member remove $id; }"
	eventually(t, ctx, "the member of "+name+" is removed", func() error {
		if r := c.run(ctx, "lab", "--lab", c.name, "ssh", by, command); r.code != 0 { // etcd refuses it for a moment after each change
			return errors.New(r.String())
		}
		return nil
	})
	c.ssh(t, ctx, name, "systemctl disable --now etcd")
}

// broken breaks a cluster, audits it, drills it, compares, and mends it. What loses nodes is drilled one fault at a time, and audited right before: pods
// of nodes that were away are elsewhere afterwards, and those of CoreDNS decide what is lost with the next one.
func (a *agreeing) broken(t *testing.T, c *cluster, w way) {
	ctx := testContext(t)
	report, plan := a.audited(t, ctx, c, w)
	if len(plan.Trials) == 0 {
		t.Fatalf("nothing can be tried: %+v", plan.Untried)
	}
	together := []string{}
	var batches [][]string // of names of faults
	for _, x := range plan.Trials {
		name := x.Fault.Name()
		switch {
		case x.Fault.Kind != drill.PowerOff:
			together = append(together, name)
		case !slices.ContainsFunc(batches, func(b []string) bool { return b[0] == name }):
			batches = append(batches, []string{name})
		}
	}
	if len(together) > 0 {
		batches = slices.Insert(batches, 0, together)
	}

	config, api := c.client(t, ctx)
	namespace := fmt.Sprintf("e2e-canary-%d", len(a.names)) // of its own: the last one may still be there
	image := workloadsIn(t, ctx, api, namespace)
	s, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	k := startCanary(t, ctx, config, s, namespace, image)
	a.names = append(a.names, w.name)
	if a.results == nil {
		a.results, a.untried = map[string][]agreement.Result{}, map[string][]agreement.Untried{}
	}
	a.untried[w.name] = plan.Untried
	judged := 0
	for n, names := range batches {
		if n > 0 {
			report, plan = a.audited(t, ctx, c, w)
		}
		plan.Trials = slices.DeleteFunc(plan.Trials, func(x agreement.Trial) bool { return !slices.Contains(names, x.Fault.Name()) })
		results := agreement.Compare(report, plan, a.drilled(t, ctx, c, w, plan), k.seen())
		a.results[w.name] = append(a.results[w.name], results...)
		for _, x := range results {
			wrong := x.Wrong()
			if w.within && x.Skipped != "" {
				wrong = "the audit calls it survivable, and the drill does not inject it: " + x.Skipped
			}
			if wrong != "" {
				t.Errorf("%s (%s): %s: %s", x.Element, x.Fault, x.Capability, wrong)
			}
			if x.Skipped == "" && x.Unjudged == "" {
				judged++
			}
		}
		fmt.Printf("\n%s\n%s", t.Name(), agreementTable(results, nil))
	}
	if judged == 0 {
		t.Error("nothing was compared")
	}
	if w.mend != nil {
		w.mend(t, ctx, c)
		c.whole(t, ctx)
	}
}

// audited breaks a cluster, or makes sure that it still is broken in this way, and audits it as soon as the audit sees that.
func (a *agreeing) audited(t *testing.T, ctx context.Context, c *cluster, w way) (report spof.Report, plan agreement.Plan) {
	t.Helper()
	w.damage(t, ctx, c)
	eventually(t, ctx, "the audit sees what is broken, and nothing is lost yet", func() error {
		r := c.run(ctx, "audit", "-f", c.specFile(), "--depth", "2", "-o", "json")
		report = spof.Report{}
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
			return fmt.Errorf("%w: %s", err, r)
		}
		works := !slices.ContainsFunc(report.Capabilities, func(c spof.Capability) bool {
			return slices.Contains(spof.Capabilities, c.Name) && c.State != spof.Works
		})
		if report.From != spof.FromCluster || !works || !w.predicted(report) {
			return errors.New(c.run(ctx, "audit", "-f", c.specFile(), "--depth", "2").String())
		}
		return nil
	})
	s, err := spec.Load(c.specFile())
	if err != nil {
		t.Fatal(err)
	}
	_, api := c.client(t, ctx)
	plan = agreement.PlanFor(report, agreement.Where{Spec: s, DNS: dnsPods(t, ctx, api), Lab: true})
	if !*whole {
		plan.Trials = slices.DeleteFunc(plan.Trials, func(x agreement.Trial) bool { return x.Element != balancer("lb-a") })
	}
	return report, plan
}

// drilled drills the faults of a plan.
func (a *agreeing) drilled(t *testing.T, ctx context.Context, c *cluster, w way, plan agreement.Plan) (d drill.Report) {
	t.Helper()
	if len(plan.Trials) == 0 {
		return d
	}
	args := []string{"drill", "-f", c.specFile(), "--only", plan.Only(), "--yes", "--lasts", agreement.Lasts.String(), "--abort-after", "5m", "--pace", min(4*unhurried(t, ctx), time.Second).String(), "-o", "json"}
	if !w.within {
		args = append(args, "--beyond-margins")
	}
	r := c.run(ctx, args...)
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	nothing := r.code == 3 && len(d.Skipped) > 0 // each of them has its reason
	if r.code != 0 && r.code != 4 && !nothing {
		t.Errorf("the drill ended early: exit status %d: %s", r.code, r.stderr)
	}
	// While nobody is served, so many writes may or may not have happened that a history may stay undecided.
	if d.Ledger.Lost > 0 || strings.HasPrefix(d.Ledger.Linearizable, "no") {
		t.Errorf("the ledger: %+v", d.Ledger)
	}
	return d
}

// dnsPods are the pods of CoreDNS that are ready, and their nodes.
func dnsPods(t *testing.T, ctx context.Context, api kubernetes.Interface) map[string]string {
	t.Helper()
	list, err := api.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && p.Spec.NodeName != "" {
			out[p.Name] = p.Spec.NodeName
		}
	}
	return out
}

func agreementTable(results []agreement.Result, untried []agreement.Untried) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ELEMENT\tFAULT\tCAPABILITY\tPREDICTED\tSEEN\tNOBODY FOR\tAGREES")
	word := map[bool]string{true: "lost", false: "survives"}
	for _, x := range results {
		seen, longest, agrees := word[x.Lost], fmt.Sprintf("%.0f s", (time.Duration(x.LongestMs)*time.Millisecond).Seconds()), "yes"
		switch {
		case x.Skipped != "":
			seen, longest, agrees = "not injected", "–", x.Skipped
		case x.Wrong() != "":
			agrees = "NO: " + x.Wrong()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Element, x.Fault, x.Capability, word[x.Predicted], seen, longest, agrees)
	}
	for _, x := range untried {
		fmt.Fprintf(w, "%s\t–\t%s\t\t\t\tnot tried: %s\n", x.Element, strings.Join(x.Lost, ", "), x.Why)
	}
	w.Flush()
	return b.String()
}

// print writes the tables, and one line of JSON.
func (a *agreeing) print(t *testing.T) {
	type total struct {
		Cluster string `json:"cluster"`
		Faults  int    `json:"faults"`
		// Compared are pairs of an element and a capability, and Lost those of which both say that the capability is lost.
		Compared int      `json:"compared"`
		Lost     int      `json:"lost"`
		Skipped  int      `json:"skipped"`
		Wrong    []string `json:"wrong"`
		Untried  int      `json:"untried"`
	}
	totals := []total{}
	var text strings.Builder
	for _, name := range a.names {
		n := total{Cluster: name, Wrong: []string{}, Untried: len(a.untried[name])}
		faults := map[string]bool{}
		for _, x := range a.results[name] {
			switch wrong := x.Wrong(); {
			case wrong != "":
				n.Wrong = append(n.Wrong, fmt.Sprintf("%s: %s: %s", x.Element, x.Capability, wrong))
			case x.Skipped != "":
				n.Skipped++
				continue
			case x.Lost:
				n.Lost++
			}
			n.Compared++
			faults[x.Fault] = true
		}
		n.Faults = len(faults)
		totals = append(totals, n)
		text.WriteString(name + "\n\n" + agreementTable(a.results[name], a.untried[name]) + "\n")
	}
	printArtifact(t, "agree.txt", text.String())
	data, err := json.Marshal(map[string]any{"clusters": totals})
	if err != nil {
		t.Fatal(err)
	}
	printArtifact(t, "agree.json", string(data)+"\n")
}

const (
	// canaryTimeout is that of one request, and scheduleWithin and finishWithin how long a pod may take until another one is tried.
	canaryTimeout  = 2 * time.Second
	scheduleWithin = 5 * time.Second
	finishWithin   = 15 * time.Second
	// finishers is how many pods run at the same time: while some wait on a node that is gone, the others do not.
	finishers = 3
)

// canary creates pods all the time, through whichever API server answers: whether the endpoint works is another question.
type canary struct {
	apis             []*kubernetes.Clientset // of each control plane
	namespace, image string

	mu     sync.Mutex
	events agreement.Events
}

// startCanary starts to create pods, until the test ends.
func startCanary(t *testing.T, ctx context.Context, config *rest.Config, s *spec.Cluster, namespace, image string) *canary {
	t.Helper()
	k := &canary{namespace: namespace, image: image, events: agreement.Events{}}
	for _, h := range s.HostsWith(spec.RoleControlPlane) {
		direct := rest.CopyConfig(config)
		direct.Host, direct.Timeout = "https://"+net.JoinHostPort(h.Address, hostconfig.APIPort), canaryTimeout
		api, err := kubernetes.NewForConfig(direct)
		if err != nil {
			t.Fatal(err)
		}
		k.apis = append(k.apis, api)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { k.again(ctx, k.schedule) })
	for n := range finishers {
		wg.Go(func() {
			k.again(ctx, func(ctx context.Context, i int) { k.finish(ctx, fmt.Sprintf("finish-%d-%d", n, i)) })
		})
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return k
}

// seen is what has become of the pods until now.
func (k *canary) seen() agreement.Events {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := agreement.Events{}
	for e, moments := range k.events {
		out[e] = slices.Clone(moments)
	}
	return out
}

// again does something again and again. It rests for as long as the work takes, so that pods are not a burden on a busy computer, but not for so long
// that a capability looks lost.
func (k *canary) again(ctx context.Context, do func(context.Context, int)) {
	for i := 0; ctx.Err() == nil; i++ {
		begin := time.Now()
		do(ctx, i)
		select {
		case <-ctx.Done():
		case <-time.After(min(max(time.Second, time.Since(begin)), 5*time.Second)):
		}
	}
}

func (k *canary) note(e agreement.PodEvent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events[e] = append(k.events[e], time.Now())
}

// ask sends a request to one API server after the other, until one answers.
func (k *canary) ask(ctx context.Context, request func(*kubernetes.Clientset) error) (err error) {
	for _, api := range k.apis {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		k.note(agreement.Tried)
		if err = request(api); err == nil {
			return nil
		}
	}
	return err
}

// await looks until something has happened.
func (k *canary) await(ctx context.Context, within time.Duration, happened func(*kubernetes.Clientset) (bool, error)) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for ctx.Err() == nil {
		yes := false
		err := k.ask(ctx, func(api *kubernetes.Clientset) (err error) {
			yes, err = happened(api)
			return err
		})
		if err == nil && yes {
			return true
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	return false
}

func (k *canary) pod(restart corev1.RestartPolicy) corev1.PodTemplateSpec {
	labels := map[string]string{"app": "canary"}
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
		RestartPolicy: restart, TerminationGracePeriodSeconds: new(int64(1)),
		Containers: []corev1.Container{{Name: "agnhost", Image: k.image, Args: []string{"--version"}}},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}},
	}}
}

// schedule creates a pod, and waits until it is bound to a node. A volume that does not exist keeps its kubelet from starting it, which costs time of the
// processors and tells nothing here.
func (k *canary) schedule(ctx context.Context, i int) {
	template := k.pod(corev1.RestartPolicyNever)
	absent := corev1.LocalObjectReference{Name: "never-there"}
	template.Spec.Volumes = []corev1.Volume{{Name: "never", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: absent}}}}
	name := fmt.Sprintf("schedule-%d", i)
	template.ObjectMeta.Name = name
	err := k.ask(ctx, func(api *kubernetes.Clientset) error {
		_, err := api.CoreV1().Pods(k.namespace).Create(ctx, &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}, metav1.CreateOptions{})
		return err
	})
	if err == nil && k.await(ctx, scheduleWithin, func(api *kubernetes.Clientset) (bool, error) {
		p, err := api.CoreV1().Pods(k.namespace).Get(ctx, name, metav1.GetOptions{})
		return err == nil && p.Spec.NodeName != "", err
	}) {
		k.note(agreement.Scheduled)
	}
	// It may exist even if nobody said so. What cannot be deleted now is deleted with the namespace.
	_ = k.ask(ctx, func(api *kubernetes.Clientset) error {
		return api.CoreV1().Pods(k.namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))})
	})
}

// finish creates a Job, and waits until the pod that its controller creates has finished.
func (k *canary) finish(ctx context.Context, name string) {
	err := k.ask(ctx, func(api *kubernetes.Clientset) error {
		_, err := api.BatchV1().Jobs(k.namespace).Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{Template: k.pod(corev1.RestartPolicyNever)}}, metav1.CreateOptions{})
		return err
	})
	if err == nil && k.await(ctx, finishWithin, func(api *kubernetes.Clientset) (bool, error) {
		pods, err := api.CoreV1().Pods(k.namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + name})
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }), nil
	}) {
		k.note(agreement.Finished)
	}
	_ = k.ask(ctx, func(api *kubernetes.Clientset) error {
		background := metav1.DeletePropagationBackground
		return api.BatchV1().Jobs(k.namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background})
	})
}
