package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/evict"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/manifest"
)

// TestConditions: a drain and a maintenance set the conditions that Kubernetes defines for them, and leave those of others alone. A condition
// that stays what it is keeps the time since when it is so.
func TestConditions(t *testing.T) {
	long := metav1.NewTime(time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC))
	const theirs = corev1.NodeConditionType("DiskIsOld")
	api := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w-a"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: theirs, Status: corev1.ConditionTrue},
		{Type: corev1.NodeDrained, Status: corev1.ConditionFalse, LastTransitionTime: long},
	}}})
	client, e, ctx := &kube.Client{Interface: api}, &Env{}, t.Context()
	has := func(kinds map[corev1.NodeConditionType]corev1.ConditionStatus) corev1.Node {
		t.Helper()
		n, err := api.CoreV1().Nodes().Get(ctx, "w-a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		kinds[corev1.NodeReady], kinds[theirs] = corev1.ConditionTrue, corev1.ConditionTrue
		if len(n.Status.Conditions) != len(kinds) {
			t.Errorf("conditions %+v, want %v", n.Status.Conditions, kinds)
		}
		for _, c := range n.Status.Conditions {
			if kinds[c.Type] != c.Status {
				t.Errorf("%s is %s, want %q", c.Type, c.Status, kinds[c.Type])
			}
		}
		return *n
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(e.setConditions(ctx, client, "w-a", condition{corev1.NodeMaintenancePlanned, true, "Test", "it begins"}))
	do(e.setConditions(ctx, client, "w-a", condition{corev1.NodeDrainInProgress, true, "Test", "pods leave"}, condition{corev1.NodeDrained, false, "Test", "pods are left"}))
	n := has(map[corev1.NodeConditionType]corev1.ConditionStatus{corev1.NodeMaintenancePlanned: corev1.ConditionTrue, corev1.NodeDrainInProgress: corev1.ConditionTrue, corev1.NodeDrained: corev1.ConditionFalse})
	drained := n.Status.Conditions[slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeDrained })]
	if !drained.LastTransitionTime.Equal(&long) || drained.Message != "pods are left" {
		t.Errorf("a condition that stays: %+v", drained)
	}

	do(e.setConditions(ctx, client, "w-a", condition{corev1.NodeDrainInProgress, false, "Test", "done"}, condition{corev1.NodeDrained, true, "Test", "done"}))
	do(e.setConditions(ctx, client, "w-a", condition{corev1.NodeMaintenanceInProgress, true, "Test", "it can be powered off"}))
	do(e.removeConditions(ctx, client, "w-a", corev1.NodeMaintenancePlanned))
	n = has(map[corev1.NodeConditionType]corev1.ConditionStatus{corev1.NodeMaintenanceInProgress: corev1.ConditionTrue, corev1.NodeDrainInProgress: corev1.ConditionFalse, corev1.NodeDrained: corev1.ConditionTrue})
	drained = n.Status.Conditions[slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeDrained })]
	if drained.LastTransitionTime.Equal(&long) {
		t.Errorf("a condition that changes keeps the time of before: %+v", drained)
	}

	do(e.removeConditions(ctx, client, "w-a", corev1.NodeMaintenancePlanned, corev1.NodeMaintenanceInProgress, corev1.NodeDrainInProgress, corev1.NodeDrained))
	has(map[corev1.NodeConditionType]corev1.ConditionStatus{})
	do(e.setConditions(ctx, client, "lb-a", condition{corev1.NodeMaintenancePlanned, true, "Test", "a host without a node"}))
}

// budgets is an API with the budgets of Prometheus and one of somebody else, and with what is noted of the manifest.
func budgets(noted string) *fake.Clientset {
	one := intstr.FromInt32(1)
	objects := []runtime.Object{&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: observe.ConfigMap}, Data: map[string]string{manifest.Prometheus: noted}}}
	for _, name := range []string{monitoring.Namespace + "/prometheus", monitoring.Namespace + "/alertmanager", "shop/prometheus"} {
		namespace, name, _ := strings.Cut(name, "/")
		objects = append(objects, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one}})
	}
	return fake.NewClientset(objects...)
}

// haveBudgets expects which of them are relaxed, that each of those says what it was, and that the others say nothing.
func haveBudgets(t *testing.T, api *fake.Clientset, when string, relaxed ...string) {
	t.Helper()
	list, err := api.PolicyV1().PodDisruptionBudgets(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list.Items {
		want, noted := "1", ""
		if slices.Contains(relaxed, b.Namespace+"/"+b.Name) {
			want, noted = "100%", "1"
		}
		if have := b.Spec.MaxUnavailable.String(); have != want || b.Annotations[facts.RelaxedAnnotation] != noted {
			t.Errorf("%s: %s/%s is %s, want %s; its annotations are %v", when, b.Namespace, b.Name, have, want, b.Annotations)
		}
	}
	c, err := api.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), observe.ConfigMap, metav1.GetOptions{})
	if err != nil || c.Data[manifest.Prometheus] == plan.BeingApplied {
		t.Errorf("%s: a plan would take the manifest for one that is not applied: %v, %v", when, c, err)
	}
}

const (
	ofPrometheus   = monitoring.Namespace + "/prometheus"
	ofAlertmanager = monitoring.Namespace + "/alertmanager"
)

// TestTheBudgetOfPrometheusYields to a drain, and is restored after it. The budgets of others stay what they are.
func TestTheBudgetOfPrometheusYields(t *testing.T) {
	for name, tc := range map[string]struct {
		budget, noted string
		relaxed       []string
	}{
		"that of Quorate":         {ofPrometheus, "sha256:one", []string{ofPrometheus}},
		"that of somebody else":   {"shop/prometheus", "sha256:one", nil},
		"of another of that name": {ofPrometheus, "", nil},
	} {
		api, e := budgets(tc.noted), &Env{}
		client, notes := &kube.Client{Interface: api}, 0
		for range 2 {
			y := &yielding{client: client, note: func(string) { notes++ }}
			if err := y.yield(t.Context(), evict.Budget{Name: tc.budget, Unhealthy: []string{"p"}}); err != nil {
				t.Fatal(err)
			}
		}
		haveBudgets(t, api, name+", during the drain", tc.relaxed...)
		if notes != len(tc.relaxed) {
			t.Errorf("%s: %d notes", name, notes)
		}
		for range 2 {
			if err := e.restoreBudgets(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			haveBudgets(t, api, name+", afterwards")
		}
	}
}

// TestAnInterruptedDrainLeavesNoBudgetRelaxed for good: whatever ended at whichever request, and whatever comes next, the budgets are what they were
// when a run has restored them.
func TestAnInterruptedDrainLeavesNoBudgetRelaxed(t *testing.T) {
	type action struct {
		name string
		do   func(context.Context, *Env, *kube.Client) error
	}
	yields := func(budget string) action {
		return action{"a drain that relaxes " + budget, func(ctx context.Context, _ *Env, client *kube.Client) error {
			return (&yielding{client: client, note: func(string) {}}).yield(ctx, evict.Budget{Name: budget, Unhealthy: []string{"p"}})
		}}
	}
	restores := action{"the end of a drain", func(ctx context.Context, e *Env, client *kube.Client) error { return e.restoreBudgets(ctx, client) }}
	// An apply sets the fields of the manifest, and leaves the annotations of others.
	applies := action{"an apply", func(ctx context.Context, _ *Env, client *kube.Client) error {
		_, err := client.PolicyV1().PodDisruptionBudgets(monitoring.Namespace).Patch(ctx, "prometheus", types.MergePatchType, []byte(`{"spec": {"maxUnavailable": 1}}`), metav1.PatchOptions{})
		return err
	}}
	actions := []action{yields(ofPrometheus), yields(ofAlertmanager), restores, applies}
	for _, lost := range []int{0, 1, 2, 3} { // the first that many requests are carried out, and the answer of the next one is lost
		for i := range len(actions) * len(actions) * len(actions) {
			order := []action{actions[i%len(actions)], actions[i/len(actions)%len(actions)], actions[i/len(actions)/len(actions)]}
			api, e := budgets("sha256:one"), &Env{}
			client, patches := &kube.Client{Interface: api}, 0
			api.PrependReactor("patch", "poddisruptionbudgets", func(a clienttesting.Action) (bool, runtime.Object, error) {
				if patches++; patches != lost {
					return false, nil, nil
				}
				_, _, err := clienttesting.ObjectReaction(api.Tracker())(a)
				return true, nil, errors.Join(errors.New("the answer is lost"), err)
			})
			var names []string
			for _, x := range order {
				names = append(names, x.name)
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond) // it is interrupted before it can ask again
				_ = x.do(ctx, e, client)
				cancel()
			}
			if err := e.restoreBudgets(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			haveBudgets(t, api, fmt.Sprintf("answer %d is lost; %s", lost, strings.Join(names, ", ")))
		}
	}
}

// TestADrainEndsWithoutRelaxedBudgets, also of an earlier drain, and so does the end of a maintenance.
func TestADrainEndsWithoutRelaxedBudgets(t *testing.T) {
	for name, f := range map[string]func(context.Context, *Env, plan.Step) error{"drain": drainNode, "uncordon": uncordonNode, "restore": restorePrometheusBudgets} {
		api := budgets("sha256:one")
		if _, err := api.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w-a"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		client := &kube.Client{Interface: api}
		if err := (&yielding{client: client, note: func(string) {}}).yield(t.Context(), evict.Budget{Name: ofPrometheus, Unhealthy: []string{"p"}}); err != nil {
			t.Fatal(err)
		}
		e := &Env{client: client, Permit: func(context.Context, plan.Step) (cluster.Permit, error) { return cluster.Permit{}, nil }}
		if err := f(t.Context(), e, plan.Step{Host: "w-a", Change: &cluster.Change{}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		haveBudgets(t, api, name)
	}
}
