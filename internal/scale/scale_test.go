package scale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

func lab() *spec.Cluster {
	c := spec.DefaultLab("test")
	c.Spec.LoadBalancer.Address = "198.18.0.200"
	return c
}

// TestNodes: they are spread over the zones of the cluster, each has a name and an address of its own, and nothing but the load gets on them.
func TestNodes(t *testing.T) {
	names, addresses, zones := map[string]bool{}, map[string]bool{}, map[string]int{}
	for i := range 5000 {
		n := node(i, lab())
		names[n.Name], addresses[n.Status.Addresses[0].Address] = true, true
		zones[n.Labels[corev1.LabelTopologyZone]]++
		if n.Labels[facts.SimulatedLabel] != running || n.Labels[corev1.LabelOSStable] != "" || len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Effect != corev1.TaintEffectNoSchedule {
			t.Fatalf("%+v", n)
		}
	}
	if len(names) != 5000 || len(addresses) != 5000 {
		t.Errorf("%d names and %d addresses of 5000 nodes", len(names), len(addresses))
	}
	if len(zones) != 3 || zones["a"] != 1667 {
		t.Errorf("zones: %v", zones)
	}
	if addresses["100.64.0.0"] || !addresses["100.64.0.1"] || !addresses["100.64.19.136"] {
		t.Error("addresses do not begin at 100.64.0.1, or do not end at 100.64.19.136")
	}
}

// TestSets: more pods are the same Deployments and others, and the last one takes the rest.
func TestSets(t *testing.T) {
	for pods, want := range map[int]int{0: 0, 1: 1, 10: 1, 11: 2, 6000: 600, 6005: 601} {
		all := sets(pods)
		sum := 0
		for i, s := range all {
			if s.index != i {
				t.Errorf("%d pods: set %d is %+v", pods, i, s)
			}
			sum += s.replicas
		}
		if len(all) != want || sum != pods {
			t.Errorf("%d pods: %d sets with %d pods", pods, len(all), sum)
		}
	}
	if got := namespaces(sets(6001)); !slices.Equal(got, []string{"quorate-load-0", "quorate-load-1", "quorate-load-2"}) {
		t.Errorf("namespaces: %v", got)
	}
	d, s := sets(10)[0].deployment(), sets(10)[0].service()
	if d.Spec.Template.Labels[loadLabel] != s.Spec.Selector[loadLabel] || d.Spec.Template.Spec.NodeSelector[facts.SimulatedLabel] == "" {
		t.Errorf("%+v", d)
	}
	taint := node(0, lab()).Spec.Taints[0]
	if tolerated := d.Spec.Template.Spec.Tolerations[0]; tolerated.Key != taint.Key || tolerated.Operator != corev1.TolerationOpExists {
		t.Errorf("pods do not tolerate %+v", taint)
	}
}

// TestDaemonSetsStayAway from simulated nodes, whatever affinity they had, and only those change that would not.
func TestDaemonSetsStayAway(t *testing.T) {
	d := &appsv1.DaemonSet{}
	if a := exclude(d); a != nil {
		t.Errorf("one that does not tolerate the taint: %+v", a)
	}
	d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	a := exclude(d)
	if a == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Key != facts.SimulatedLabel {
		t.Fatalf("%+v", a)
	}
	d.Spec.Template.Spec.Affinity = a
	if again := exclude(d); again != nil {
		t.Errorf("a second time: %+v", again)
	}
	in := func(v string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{v}}}}
	}
	d.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{in("ssd"), in("hdd")}}}}
	for i, term := range exclude(d).NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if len(term.MatchExpressions) != 2 {
			t.Errorf("alternative %d lets simulated nodes in: %+v", i, term)
		}
	}
	d.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: "linux"}
	if exclude(d) != nil {
		t.Error("kube-proxy is changed, and simulated nodes have no operating system")
	}
}

// TestKwok: the configuration is YAML, and kubelets are played as the cluster has them.
func TestKwok(t *testing.T) {
	kinds := map[string]int{}
	for _, doc := range strings.Split(config(), "\n---\n") {
		var object struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.UnmarshalStrict([]byte(doc), &map[string]any{}); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if err := yaml.Unmarshal([]byte(doc), &object); err != nil || object.Metadata.Name == "" {
			t.Errorf("%v: %+v", err, object)
		}
		kinds[object.Kind]++
	}
	if kinds["KwokConfiguration"] != 1 || kinds["Stage"] != 5 {
		t.Errorf("%v", kinds)
	}
	c := lab()
	if got := unit(c); !strings.Contains(got, "--node-lease-duration-seconds=6 --server-address=127.0.0.1:10247 --v=WARN\n") || !strings.Contains(got, "=quorate.dev/simulated=running ") {
		t.Error(got)
	}
	c.Spec.Failover.Profile = spec.ProfileStandard
	if got := unit(c); !strings.Contains(got, "--node-lease-duration-seconds=40 ") {
		t.Error(got)
	}
	text, err := kubeconfig(c, []byte("CA"))
	if err != nil {
		t.Fatal(err)
	}
	read, err := clientcmd.Load(text)
	if err != nil || read.Clusters[account].Server != "https://198.18.0.200:6443" || read.Clusters[account].TLSServerName != "api.test.internal" || read.AuthInfos[account].TokenFile != Token || read.AuthInfos[account].Token != "" {
		t.Errorf("%v: %s", err, text)
	}
}

// TestStagesOfPods: a pod becomes ready once, and again after the control plane has marked it, as with a kubelet.
func TestStagesOfPods(t *testing.T) {
	type requirement struct {
		Key, Operator string
		Values        []string
	}
	ofPods := map[string][]requirement{}
	for _, doc := range strings.Split(stages, "\n---\n") {
		var stage struct {
			Metadata struct{ Name string }
			Spec     struct {
				ResourceRef struct{ Kind string }
				Selector    struct{ MatchExpressions []requirement }
			}
		}
		if err := yaml.Unmarshal([]byte(doc), &stage); err != nil {
			t.Fatal(err)
		}
		if stage.Spec.ResourceRef.Kind == "Pod" {
			ofPods[stage.Metadata.Name] = stage.Spec.Selector.MatchExpressions
		}
	}
	for name, c := range map[string]struct {
		deleted, phase, ready, want string
	}{
		"new":                         {"", "Pending", "", "pod-ready"},
		"ready":                       {"", "Running", "True", ""},
		"its node was silent":         {"", "Running", "False", "pod-ready-again"},
		"deleted":                     {"now", "Running", "True", "pod-delete"},
		"deleted while it was silent": {"now", "Running", "False", "pod-delete"},
	} {
		values := map[string]string{".metadata.deletionTimestamp": c.deleted, ".status.phase": c.phase, `.status.conditions.[] | select( .type == "Ready" ) | .status`: c.ready}
		var got []string
		for stage, all := range ofPods {
			if !slices.ContainsFunc(all, func(r requirement) bool {
				value, known := values[r.Key]
				if !known {
					t.Fatalf("%s looks at %s", stage, r.Key)
				}
				matches := map[string]bool{"Exists": value != "", "DoesNotExist": value == "", "In": slices.Contains(r.Values, value), "NotIn": !slices.Contains(r.Values, value)}
				return !matches[r.Operator]
			}) {
				got = append(got, stage)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: it goes through %q, want %q", name, got, c.want)
		}
	}
}

func pod(uid, node string, ready bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid)}, Spec: corev1.PodSpec{NodeName: node}}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

// TestTracker: what a watcher saw is measured, and what was there before is not.
func TestTracker(t *testing.T) {
	tr := newTracker()
	begin := time.Unix(1000, 0)
	at := begin
	tr.now = func() time.Time { return at }
	after := func(ms int) { at = begin.Add(time.Duration(ms) * time.Millisecond) }
	tr.see(pod("old", "sim-00000", true), true)
	tr.see(pod("a", "", false), false)
	tr.see(pod("b", "", false), false)
	after(100)
	tr.see(pod("a", "sim-00000", false), false)
	after(300)
	tr.see(pod("a", "sim-00000", true), false)
	if all, ready := tr.counts(); all != 3 || ready != 2 {
		t.Errorf("%d pods, %d ready", all, ready)
	}
	after(2000)
	tr.see(pod("b", "sim-00001", false), false)
	after(2100)
	tr.see(pod("b", "sim-00001", true), false)
	tr.gone("a")
	schedule, start, perSecond := tr.measured(begin)
	if schedule.Count != 2 || schedule.P50 != 2000 && schedule.P50 != 100 || schedule.Max != 2000 || start.Max != 2100 || start.Count != 2 {
		t.Errorf("%+v, %+v", schedule, start)
	}
	if perSecond < 1 || perSecond > 1.1 { // two within 1.9 s
		t.Errorf("%f pods per second", perSecond)
	}
	if _, start, _ := tr.measured(begin.Add(time.Millisecond)); start.Count != 0 {
		t.Errorf("pods from before count: %+v", start)
	}
	tr.see(pod("b", "sim-00001", false), false)
	if _, ready := tr.counts(); ready != 1 {
		t.Errorf("%d ready, and b is not any more", ready)
	}
	// One that the simulator misses is not one that is not ready any more, and not one that waits for a node.
	tr.see(pod("c", "sim-00002", false), false)
	tr.see(pod("d", "", false), false)
	for _, tc := range []struct {
		ms, want int
	}{{31_000, 0}, {33_000, 1}, {34_000, 0}, {64_000, 1}} {
		after(tc.ms)
		if got := tr.forgotten(30 * time.Second); len(got) != tc.want || tc.want > 0 && got[0].Name != "c" {
			t.Errorf("after %d ms, %v are forgotten", tc.ms, got)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var all []time.Duration
	for i := 1000; i > 0; i-- {
		all = append(all, time.Duration(i)*time.Millisecond)
	}
	if got := quantiles(all); got.P50 != 501 || got.P99 != 991 || got.Max != 1000 || got.Count != 1000 {
		t.Errorf("%+v", got)
	}
	if got := quantiles(nil); got != (Quantiles{}) {
		t.Errorf("%+v", got)
	}
}

// scaler has an API in which nodes become ready when they are there, and fall silent when they are marked so.
func scaler(objects ...runtime.Object) (*Scaler, *fake.Clientset) {
	client := fake.NewClientset(objects...)
	client.PrependReactor("list", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		all, err := client.Tracker().List(corev1.SchemeGroupVersion.WithResource("nodes"), corev1.SchemeGroupVersion.WithKind("Node"), "")
		if err != nil {
			return true, nil, err
		}
		list := all.(*corev1.NodeList).DeepCopy()
		list.Items = slices.DeleteFunc(list.Items, func(n corev1.Node) bool { return n.Labels[facts.SimulatedLabel] == "" })
		for i := range list.Items {
			status := corev1.ConditionUnknown
			if list.Items[i].Labels[facts.SimulatedLabel] == running {
				status = corev1.ConditionTrue
			}
			list.Items[i].Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
		}
		return true, list, nil
	})
	return &Scaler{Client: client, Cluster: lab(), Sink: progress.Discard, Patience: 5 * time.Second}, client
}

func namesOf(t *testing.T, s *Scaler) []string {
	t.Helper()
	have, err := s.simulated(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(have))
}

// TestNodesComeAndGo: the number is reached from wherever it is, and hosts' nodes are not touched.
func TestNodesComeAndGo(t *testing.T) {
	own := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "cp-a"}}
	s, client := scaler(own, node(1, lab()))
	r, err := s.Nodes(t.Context(), 3)
	if err != nil || r.Added != 2 || r.Ready != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := s.mark(t.Context(), "sim-00001", failed); err != nil {
		t.Fatal(err)
	}
	r, err = s.Nodes(t.Context(), 2) // what an interrupted run has left failed comes back
	if err != nil || r.Removed != 1 || r.Ready != 2 || !slices.Equal(namesOf(t, s), []string{"sim-00000", "sim-00001"}) {
		t.Fatalf("%+v, %v, %v", r, err, namesOf(t, s))
	}
	if _, err := s.Nodes(t.Context(), 0); err != nil || len(namesOf(t, s)) != 0 {
		t.Errorf("%v, %v are left", err, namesOf(t, s))
	}
	if _, err := client.CoreV1().Nodes().Get(t.Context(), "cp-a", metav1.GetOptions{}); err != nil {
		t.Errorf("the node of a host: %v", err)
	}
}

// TestRemoveWithoutKwok: where nothing plays the kubelets, pods and with them namespaces go when their nodes are gone.
func TestRemoveWithoutKwok(t *testing.T) {
	s, client := scaler(namespace("quorate-load-0"), node(0, lab()))
	s.Patience = time.Second
	client.PrependReactor("delete", "namespaces", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, nil // it is being removed
	})
	client.PrependReactor("delete", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		return false, nil, client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("namespaces"), "", "quorate-load-0")
	})
	if err := s.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := namesOf(t, s); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// TestDeploymentsComeAndGo, at the rate.
func TestDeploymentsComeAndGo(t *testing.T) {
	s, _ := scaler()
	count := func() (deployments, pods int) {
		have, err := s.deployments(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range have {
			pods += n
		}
		return len(have), pods
	}
	for _, tc := range []struct{ pods, deployments int }{{25, 3}, {40, 4}, {12, 2}, {0, 0}} {
		begin := time.Now()
		_, before := count()
		if err := s.change(t.Context(), sets(tc.pods), 200); err != nil {
			t.Fatal(err)
		}
		d, pods := count()
		if d != tc.deployments || pods != tc.pods {
			t.Errorf("%d pods in %d Deployments instead of %+v", pods, d, tc)
		}
		if least := time.Duration(distance(before, tc.pods)) * time.Second / 200; time.Since(begin) < least {
			t.Errorf("%d pods came or went in %s, which is faster than 200 per second", distance(before, tc.pods), time.Since(begin))
		}
	}
}

// TestFailedNodesComeBack, also when the run is interrupted while they are silent.
func TestFailedNodesComeBack(t *testing.T) {
	s, _ := scaler(node(0, lab()), node(1, lab()))
	noticed, back, err := s.failOnce(t.Context(), []string{"sim-00000"}, 50*time.Millisecond)
	if err != nil || noticed <= 0 || back <= 0 {
		t.Fatalf("%s, %s, %v", noticed, back, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cut := errors.New("interrupted")
	time.AfterFunc(100*time.Millisecond, func() { cancel(cut) })
	if _, _, err := s.failOnce(ctx, []string{"sim-00001"}, time.Hour); !errors.Is(err, cut) {
		t.Errorf("%v", err)
	}
	have, err := s.simulated(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range have {
		if n.Labels[facts.SimulatedLabel] != running {
			t.Errorf("%s was left %s", name, n.Labels[facts.SimulatedLabel])
		}
	}
	for _, tc := range []struct {
		nodes   int
		percent float64
		want    int
	}{{200, 1, 2}, {10, 1, 1}, {1000, 1, 10}, {3, 100, 3}, {3, 500, 3}} {
		if got := failing(tc.nodes, tc.percent); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

// TestWhatPassesIsRepeated, and what does not pass ends immediately.
func TestWhatPassesIsRepeated(t *testing.T) {
	s, client := scaler()
	n := 0
	client.PrependReactor("create", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		n++
		return n < 3, nil, fmt.Errorf("attempt %d", n)
	})
	if _, err := s.Nodes(t.Context(), 1); err != nil || n < 3 {
		t.Errorf("%v after %d attempts", err, n)
	}
	s.Patience = 700 * time.Millisecond
	err := s.progressing(t.Context(), "scale/things", "things are left", func(context.Context) (int, error) { return 7, errors.New("no answer") })
	if err == nil || !strings.Contains(err.Error(), "an unknown number of things are left") || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
}
