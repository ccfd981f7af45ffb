package evict

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
)

const here, elsewhere = "worker-a", "worker-b"

// api is a cluster with an eviction API that keeps disruption budgets, as far as a drain can see.
type api struct {
	*fake.Clientset

	mu      sync.Mutex
	evicted []string
	deleted int // deletions that were no evictions
	// fail is asked before each eviction.
	fail func(pod string) error
	// replace makes the controller create a ready replacement elsewhere.
	replace bool
	// returns makes the scheduler place that replacement on the node that is drained.
	returns bool
	// lingers is for how long a pod terminates.
	lingers time.Duration
}

func newAPI(t *testing.T, objects ...runtime.Object) *api {
	t.Helper()
	pace = 5 * time.Millisecond
	replacementPatience = 200 * time.Millisecond
	objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: here}},
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent"}})
	a := &api{Clientset: fake.NewClientset(objects...)}
	a.PrependReactor("list", "pods", a.listPods)
	a.PrependReactor("create", "pods", a.evict)
	a.PrependReactor("delete", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { a.deleted++; return false, nil, nil })
	return a
}

// listPods filters by the node: the fake does not know field selectors.
func (a *api) listPods(action k8stesting.Action) (bool, runtime.Object, error) {
	list := action.(k8stesting.ListAction)
	all, err := a.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), list.GetNamespace())
	if err != nil {
		return true, nil, err
	}
	out := &corev1.PodList{}
	for _, p := range all.(*corev1.PodList).Items {
		restrictions := list.GetListRestrictions()
		if restrictions.Fields.Matches(fields.Set{"spec.nodeName": p.Spec.NodeName}) && restrictions.Labels.Matches(labels.Set(p.Labels)) {
			out.Items = append(out.Items, p)
		}
	}
	return true, out, nil
}

func (a *api) evict(action k8stesting.Action) (bool, runtime.Object, error) {
	if action.GetSubresource() != "eviction" {
		return false, nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e := action.(k8stesting.CreateAction).GetObject().(*policyv1.Eviction)
	key := e.Namespace + "/" + e.Name
	if a.fail != nil {
		if err := a.fail(key); err != nil {
			return true, nil, err
		}
	}
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	o, err := a.Tracker().Get(pods, e.Namespace, e.Name)
	if err != nil {
		return true, nil, err
	}
	a.evicted = append(a.evicted, key)
	if a.lingers > 0 {
		ending := o.(*corev1.Pod).DeepCopy()
		ending.DeletionTimestamp, ending.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now().Add(a.lingers)}, new(int64(a.lingers/time.Second))
		time.AfterFunc(a.lingers, func() { a.Tracker().Delete(pods, e.Namespace, e.Name) }) //nolint:errcheck // the test would notice
		return true, nil, a.Tracker().Update(pods, ending, e.Namespace)
	}
	if err := a.Tracker().Delete(pods, e.Namespace, e.Name); err != nil {
		return true, nil, err
	}
	if p := o.(*corev1.Pod); a.replace {
		next := p.DeepCopy()
		next.Name, next.UID, next.Spec.NodeName = p.Name+"-new", p.UID+"-new", elsewhere
		if a.returns {
			next.Spec.NodeName = here
			return true, nil, a.Tracker().Add(next)
		}
		time.AfterFunc(20*time.Millisecond, func() { a.Tracker().Add(next) }) //nolint:errcheck // the test would notice
	}
	return true, nil, nil
}

func pod(name string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}, OwnerReferences: []metav1.OwnerReference{owner("ReplicaSet", "web")}},
		Spec:   corev1.PodSpec{NodeName: here},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	for _, f := range edit {
		f(p)
	}
	return p
}

func owner(kind, name string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(kind + name), Controller: new(true)}
}

func bare(p *corev1.Pod) { p.OwnerReferences = nil }

func emptyDir(p *corev1.Pod) {
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
}

func agent(p *corev1.Pod) {
	p.Namespace, p.OwnerReferences = "kube-system", []metav1.OwnerReference{owner("DaemonSet", "agent")}
}

func mirror(p *corev1.Pod) {
	p.OwnerReferences, p.Annotations = nil, map[string]string{corev1.MirrorPodAnnotationKey: "x"}
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }

func budget(name string, healthy, desired, expected, allowed int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:   policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, MinAvailable: new(intstr.FromInt32(desired))},
		Status: policyv1.PodDisruptionBudgetStatus{CurrentHealthy: healthy, DesiredHealthy: desired, ExpectedPods: expected, DisruptionsAllowed: allowed}}
}

func tooMany(string) error {
	return apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
}

func TestCordon(t *testing.T) {
	a := newAPI(t)
	cordoned := func() bool {
		n, err := a.CoreV1().Nodes().Get(t.Context(), here, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n.Spec.Unschedulable
	}
	for range 2 { // it is idempotent
		if err := Cordon(t.Context(), a, here); err != nil || !cordoned() {
			t.Fatal(err, cordoned())
		}
	}
	for range 2 {
		if err := Uncordon(t.Context(), a, here); err != nil || cordoned() {
			t.Fatal(err, cordoned())
		}
	}
	if err := Cordon(t.Context(), a, "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Error(err)
	}
}

// TestOnlyOurCordonIsMarked: a node that its administrator has cordoned must not be uncordoned because a drain of it was given up.
func TestOnlyOurCordonIsMarked(t *testing.T) {
	for name, tc := range map[string]struct {
		before       corev1.Node
		marked       bool // after it was cordoned
		cordonedPast bool // after it was uncordoned
	}{
		"a node that takes pods":             {corev1.Node{}, true, false},
		"a node that is cordoned":            {corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}}, false, false},
		"one that we have cordoned":          {corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{facts.CordonedAnnotation: "true"}}, Spec: corev1.NodeSpec{Unschedulable: true}}, true, false},
		"one that was uncordoned without us": {corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{facts.CordonedAnnotation: "true", "other": "x"}}}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t)
			node := func() *corev1.Node {
				n, err := a.CoreV1().Nodes().Get(t.Context(), here, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			n := node()
			n.Annotations, n.Spec.Unschedulable = tc.before.Annotations, tc.before.Spec.Unschedulable
			if _, err := a.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			others := n.Annotations["other"]
			if err := Cordon(t.Context(), a, here); err != nil {
				t.Fatal(err)
			}
			n = node()
			if _, marked := n.Annotations[facts.CordonedAnnotation]; !n.Spec.Unschedulable || marked != tc.marked {
				t.Errorf("cordoned %t, marked %t", n.Spec.Unschedulable, marked)
			}
			if err := Uncordon(t.Context(), a, here); err != nil {
				t.Fatal(err)
			}
			n = node()
			if _, marked := n.Annotations[facts.CordonedAnnotation]; n.Spec.Unschedulable != tc.cordonedPast || marked || n.Annotations["other"] != others {
				t.Errorf("afterwards: cordoned %t, annotations %v", n.Spec.Unschedulable, n.Annotations)
			}
		})
	}
}

func TestDrainEvictsWhatMayLeave(t *testing.T) {
	a := newAPI(t, pod("web-1", emptyDir), pod("web-2", func(p *corev1.Pod) { p.Spec.NodeName = elsewhere }), pod("agent", agent), pod("mirror", mirror),
		pod("done", bare, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }))
	var notes []string
	if err := Drain(t.Context(), a, here, Options{Note: func(s string) { notes = append(notes, s) }}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(a.evicted)
	if !slices.Equal(a.evicted, []string{"shop/done", "shop/web-1"}) || a.deleted > 0 {
		t.Errorf("evicted %v, deleted %d", a.evicted, a.deleted)
	}
	if all := strings.Join(notes, "\n"); !strings.Contains(all, "emptyDir") || !strings.Contains(all, "shop/web-1") {
		t.Errorf("the loss of data is not said: %s", all)
	}
	if err := Drain(t.Context(), a, here, Options{}); err != nil { // again
		t.Error(err)
	}
}

func TestPodsWithoutAControllerAreRefusedUnlessForced(t *testing.T) {
	a := newAPI(t, pod("web-1"), pod("alone", bare), pod("orphan", func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{owner("DaemonSet", "gone")} }))
	for name, f := range map[string]func() error{
		"drain": func() error { return Drain(t.Context(), a, here, Options{}) },
		"check": func() error { return Check(t.Context(), a, here, Options{}) },
	} {
		var r *cluster.Refusal
		if err := f(); !errors.As(err, &r) || r.Rule != RuleUnmanaged || !strings.Contains(r.Why, "shop/alone") || !strings.Contains(r.Why, "shop/orphan") || strings.Contains(r.Why, "web-1") || !strings.Contains(r.Fix, "--force") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(a.evicted) > 0 {
		t.Errorf("refused, and evicted %v", a.evicted)
	}
	if err := Drain(t.Context(), a, here, Options{Force: true}); err != nil || len(a.evicted) != 3 {
		t.Errorf("%v, evicted %v", err, a.evicted)
	}
}

// TestTheCheckNamesEverything: pods without a controller do not hide a budget, and the other way around.
func TestTheCheckNamesEverything(t *testing.T) {
	a := newAPI(t, pod("web-1"), pod("alone", bare, func(p *corev1.Pod) { p.Labels = nil }), budget("web", 1, 1, 1, 0))
	var r *cluster.Refusal
	if err := Check(t.Context(), a, here, Options{}); !errors.As(err, &r) || r.Rule != RuleUnmanaged {
		t.Fatal(err)
	}
	for _, part := range []string{"shop/alone", "would never end: the disruption budget shop/web"} {
		if !strings.Contains(r.Why, part) {
			t.Errorf("no %q in %s", part, r.Why)
		}
	}
	if !strings.Contains(r.Fix, "--force") || !strings.Contains(r.Fix, "kubectl -n shop edit pdb web") {
		t.Error(r.Fix)
	}
	if err := Check(t.Context(), a, here, Options{Force: true}); !errors.As(err, &r) || r.Rule != RuleBudget || strings.Contains(r.Why, "alone") {
		t.Errorf("with --force: %v", err)
	}
}

// TestABudgetThatBlocksIsNamed with its numbers, its pods, and what to do about it.
func TestABudgetThatBlocksIsNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		objects []runtime.Object
		fail    func(string) error
		never   bool
		want    []string
	}{
		"it never allows any": {[]runtime.Object{budget("web", 2, 2, 2, 0)}, tooMany, true,
			[]string{"shop/web allows no eviction of shop/web-1, shop/web-2", "2 of 2 pods are healthy, and 2 must be", "kubectl -n shop edit pdb web"}},
		"a pod elsewhere is not healthy": {[]runtime.Object{budget("web", 2, 2, 3, 0), pod("web-3", unready, func(p *corev1.Pod) { p.Spec.NodeName = elsewhere })}, tooMany, false,
			[]string{"2 of 3 pods are healthy, and 2 must be", "Bring these pods back first: shop/web-3"}},
		"two budgets": {[]runtime.Object{budget("web", 2, 1, 2, 1), budget("web-too", 2, 1, 2, 1)}, func(string) error {
			return apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
		}, true, []string{"shop/web, shop/web-too", "several disruption budgets", "kubectl delete pdb"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t, append(tc.objects, pod("web-1"), pod("web-2"))...)
			a.fail = tc.fail
			ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("the time is over"))
			defer cancel()
			err := Drain(ctx, a, here, Options{})
			var blocked *BlockedError
			if !errors.As(err, &blocked) || !slices.Equal(blocked.Left, []string{"shop/web-1", "shop/web-2"}) || !strings.Contains(err.Error(), "the time is over") {
				t.Fatalf("%v", err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in %v", w, err)
				}
			}
			if a.deleted > 0 || len(a.evicted) > 0 {
				t.Errorf("pods were removed past their budget: %v, %d", a.evicted, a.deleted)
			}
			var r *cluster.Refusal
			if err := Check(t.Context(), a, here, Options{}); errors.As(err, &r) != tc.never || tc.never && r.Rule != RuleBudget {
				t.Errorf("before anything is changed: %v", err)
			}
		})
	}
}

// TestABudgetThatIsStuckMayYield: only where every pod that it waits for lacks a node, and has lacked it for a while.
func TestABudgetThatIsStuckMayYield(t *testing.T) {
	waits := func(p *corev1.Pod) {
		unready(p)
		p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable})
	}
	on := func(node string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { unready(p); p.Spec.NodeName = node }
	}
	up := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "up"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
	down := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "down"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}}}
	for name, tc := range map[string]struct {
		others []func(*corev1.Pod)
		yields bool
	}{
		"a pod that finds no node":         {[]func(*corev1.Pod){waits}, true},
		"a pod on a node that is down":     {[]func(*corev1.Pod){on("down")}, true},
		"a pod that starts":                {[]func(*corev1.Pod){on("up")}, false},
		"one that waits and one that does": {[]func(*corev1.Pod){waits, on("up")}, false},
		"no pod yet":                       {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			objects := []runtime.Object{budget("web", 1, 1, 2, 0), pod("web-1"), up, down}
			for i, edit := range tc.others {
				objects = append(objects, pod(fmt.Sprint("other-", i), edit))
			}
			a := newAPI(t, objects...)
			replacementPatience = 50 * time.Millisecond
			begin, asked := time.Now(), time.Duration(0)
			var mu sync.Mutex
			a.fail = func(string) error {
				mu.Lock()
				defer mu.Unlock()
				if asked > 0 {
					return nil
				}
				return tooMany("")
			}
			err := Drain(t.Context(), a, here, Options{Patience: 300 * time.Millisecond, Yield: func(_ context.Context, b Budget) error {
				mu.Lock()
				defer mu.Unlock()
				if asked = time.Since(begin); b.Name != "shop/web" {
					t.Errorf("%+v", b)
				}
				return nil
			}})
			if (err == nil) != tc.yields || (asked >= replacementPatience) != tc.yields || (asked > 0) != tc.yields {
				t.Errorf("asked after %s: %v", asked, err)
			}
		})
	}
}

func TestADrainWithoutProgressEnds(t *testing.T) {
	a := newAPI(t, budget("web", 1, 1, 1, 0), pod("web-1"))
	a.fail = tooMany
	err := Drain(t.Context(), a, here, Options{Patience: 100 * time.Millisecond})
	var blocked *BlockedError
	if !errors.As(err, &blocked) || len(blocked.Budgets) != 1 {
		t.Fatal(err)
	}
}

// TestAPodThatIsAllowedOnACordonedNode is evicted once, and not again and again.
func TestAPodThatIsAllowedOnACordonedNode(t *testing.T) {
	for name, c := range map[string]struct {
		toleration corev1.Toleration
		evictions  int // of a pod and its replacements
	}{
		"everything":    {corev1.Toleration{Operator: corev1.TolerationOpExists}, 1},
		"the cordon":    {corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, 1},
		"its value":     {corev1.Toleration{Key: corev1.TaintNodeUnschedulable}, 1},
		"another taint": {corev1.Toleration{Key: "gpu", Operator: corev1.TolerationOpExists}, 2},
		"its eviction":  {corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t, pod("web-1", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{c.toleration} }))
			a.replace, a.returns = true, true
			a.fail = func(pod string) error {
				if pod == "shop/web-1-new" {
					a.replace = false // it leaves as well, at last
				}
				return nil
			}
			if err := Drain(t.Context(), a, here, Options{}); err != nil {
				t.Fatal(err)
			}
			if len(a.evicted) != c.evictions {
				t.Errorf("evicted: %v", a.evicted)
			}
		})
	}
}

// TestAGracePeriodIsNoLackOfProgress: a pod may take longer to end than a drain waits without progress.
func TestAGracePeriodIsNoLackOfProgress(t *testing.T) {
	a := newAPI(t, pod("web-1"))
	a.lingers = time.Second
	if err := Drain(t.Context(), a, here, Options{Patience: 200 * time.Millisecond}); err != nil {
		t.Error(err)
	}
}

// TestADrainOutlivesFailures of the API, and budgets that allow the eviction later.
func TestADrainOutlivesFailures(t *testing.T) {
	a := newAPI(t, budget("web", 1, 1, 2, 0), pod("web-1"))
	answers := []error{errors.New("connection refused"), tooMany(""), apierrors.NewServiceUnavailable("shutting down")}
	a.fail = func(string) error {
		if len(answers) == 0 {
			return nil
		}
		err := answers[0]
		answers = answers[1:]
		return err
	}
	if err := Drain(t.Context(), a, here, Options{}); err != nil || len(a.evicted) != 1 || len(answers) > 0 {
		t.Errorf("%v, evicted %v, %d answers left", err, a.evicted, len(answers))
	}
}

// TestReplicasLeaveOneAfterTheOther: without a budget, nothing else keeps a drain from taking all replicas at the same time.
func TestReplicasLeaveOneAfterTheOther(t *testing.T) {
	a := newAPI(t, pod("web-1"), pod("web-2"), pod("web-3"))
	a.replace = true
	least := 3
	a.fail = func(string) error {
		list, _, _ := func() (*corev1.PodList, bool, error) {
			o, err := a.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), "shop")
			return o.(*corev1.PodList), true, err
		}()
		least = min(least, len(list.Items))
		return nil
	}
	if err := Drain(t.Context(), a, here, Options{}); err != nil || len(a.evicted) != 3 {
		t.Fatal(err, a.evicted)
	}
	if least < 3 {
		t.Errorf("an eviction began with %d of 3 replicas", least)
	}
	// Replacements that never come must not block the drain.
	a = newAPI(t, pod("web-1"), pod("web-2"))
	if err := Drain(t.Context(), a, here, Options{}); err != nil || len(a.evicted) != 2 {
		t.Fatal(err, a.evicted)
	}
}

func ExampleBudget_String() {
	fmt.Println(Budget{Name: "shop/web", Pods: []string{"shop/web-1"}, Healthy: 2, Expected: 2, Desired: 2})
	// Output: the disruption budget shop/web allows no eviction of shop/web-1: 2 of 2 pods are healthy, and 2 must be
}
