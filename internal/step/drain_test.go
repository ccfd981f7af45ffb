package step

import (
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"quorate.dev/quorate/internal/evict"
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

// TestTheBudgetOfPrometheusYields: while it is relaxed, the cluster has a note that its objects must be applied again. Afterwards everything is as before. The
// budgets of others stay what they are.
func TestTheBudgetOfPrometheusYields(t *testing.T) {
	one, all := intstr.FromInt32(1), intstr.FromString("100%")
	budget := func(namespace string) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "prometheus"}, Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one}}
	}
	for name, tc := range map[string]struct {
		namespace, noted string
		yields           bool
	}{
		"that of Quorate":          {monitoring.Namespace, "sha256:one", true},
		"that of somebody else":    {"shop", "sha256:one", false},
		"of another of that name":  {monitoring.Namespace, "", false},
		"after an interrupted run": {monitoring.Namespace, plan.BeingApplied, true},
	} {
		own := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: observe.ConfigMap}, Data: map[string]string{manifest.Prometheus: tc.noted}}
		api, ctx := fake.NewClientset(budget(tc.namespace), own), t.Context()
		y := &yielding{e: &Env{}, client: &kube.Client{Interface: api}, note: func(string) {}, relaxed: map[string]*relaxedBudget{}}
		is := func(when string, want intstr.IntOrString, noted string) {
			t.Helper()
			b, err := api.PolicyV1().PodDisruptionBudgets(tc.namespace).Get(ctx, "prometheus", metav1.GetOptions{})
			if err != nil || *b.Spec.MaxUnavailable != want {
				t.Errorf("%s, %s: %+v, %v", name, when, b, err)
			}
			c, err := api.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, observe.ConfigMap, metav1.GetOptions{})
			if err != nil || c.Data[manifest.Prometheus] != noted {
				t.Errorf("%s, %s: %+v, %v", name, when, c.Data, err)
			}
		}
		for range 2 {
			if err := y.yield(ctx, evict.Budget{Name: tc.namespace + "/prometheus", Unhealthy: []string{"p"}}); err != nil {
				t.Fatal(err)
			}
		}
		if tc.yields {
			is("while it yields", all, plan.BeingApplied)
		} else {
			is("while it does not", one, tc.noted)
		}
		if err := y.restore(ctx); err != nil {
			t.Fatal(err)
		}
		is("afterwards", one, tc.noted)
	}
}

// TestALostAnswerDoesNotLeaveABudgetRelaxed: the API may have relaxed a budget although its answer was lost, and is asked again. What the budget was, and what was
// noted, is what it was before the first request.
func TestALostAnswerDoesNotLeaveABudgetRelaxed(t *testing.T) {
	one := intstr.FromInt32(1)
	for name, tc := range map[string]struct {
		lost  string // the resource whose first change is not answered
		first string // a budget that was relaxed before; empty for none
		retry bool
	}{
		"the budget's, and nobody asks again":        {lost: "poddisruptionbudgets"},
		"the budget's":                               {lost: "poddisruptionbudgets", retry: true},
		"the second budget's":                        {lost: "poddisruptionbudgets", first: "alertmanager", retry: true},
		"the note's, and nobody asks again":          {lost: "configmaps"},
		"the note's":                                 {lost: "configmaps", retry: true},
		"the note's, of the second budget":           {lost: "configmaps", first: "alertmanager", retry: true},
		"the second budget's, and nobody asks again": {lost: "poddisruptionbudgets", first: "alertmanager"},
	} {
		objects := []runtime.Object{&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: observe.ConfigMap}, Data: map[string]string{manifest.Prometheus: "sha256:one"}}}
		for _, name := range []string{"prometheus", "alertmanager"} {
			objects = append(objects, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: monitoring.Namespace, Name: name}, Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one}})
		}
		api, ctx := fake.NewClientset(objects...), t.Context()
		y := &yielding{e: &Env{}, client: &kube.Client{Interface: api}, note: func(string) {}, relaxed: map[string]*relaxedBudget{}}
		yield := func(budget string) error {
			return y.yield(ctx, evict.Budget{Name: monitoring.Namespace + "/" + budget, Unhealthy: []string{"p"}})
		}
		if tc.first != "" {
			if err := yield(tc.first); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		lost := false
		api.PrependReactor("patch", tc.lost, func(a clienttesting.Action) (bool, runtime.Object, error) {
			if lost {
				return false, nil, nil
			}
			lost = true
			_, _, err := clienttesting.ObjectReaction(api.Tracker())(a)
			return true, nil, errors.Join(errors.New("the answer is lost"), err)
		})
		if err := yield("prometheus"); err == nil {
			t.Errorf("%s: an answer that is lost is no error", name)
		}
		if tc.retry {
			if err := yield("prometheus"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := y.restore(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, budget := range []string{"prometheus", "alertmanager"} {
			if b, err := api.PolicyV1().PodDisruptionBudgets(monitoring.Namespace).Get(ctx, budget, metav1.GetOptions{}); err != nil || *b.Spec.MaxUnavailable != one {
				t.Errorf("%s: %s is %v, %v", name, budget, b.Spec.MaxUnavailable, err)
			}
		}
		if c, err := api.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, observe.ConfigMap, metav1.GetOptions{}); err != nil || c.Data[manifest.Prometheus] != "sha256:one" {
			t.Errorf("%s: %v is noted, %v", name, c.Data, err)
		}
	}
}
