package observe

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/monitoring"
)

// TestHowPrometheusRuns: what keeps pods from running is said by whoever knows: the kubelet, the end of the last run, an event, or the scheduler.
func TestHowPrometheusRuns(t *testing.T) {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: monitoring.Namespace, Name: name, UID: types.UID(name), Generation: 2}
	}
	deployment := func(name string, ready, updated int32) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: meta(name), Spec: appsv1.DeploymentSpec{Replicas: new(int32(2))},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 2, ReadyReplicas: ready, UpdatedReplicas: updated}}
	}
	pod := func(of, name, node string, status corev1.PodStatus) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{NodeName: node}, Status: status}
		p.Labels = map[string]string{"app.kubernetes.io/name": of}
		return p
	}
	waiting := func(reason, message string, last *corev1.ContainerStateTerminated) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
			LastTerminationState: corev1.ContainerState{Terminated: last}}}}
	}
	ready := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	unschedulable := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no room"}}}
	event := func(of, message string, ago time.Duration) *corev1.Event {
		e := &corev1.Event{ObjectMeta: meta(of + "-" + message), Type: corev1.EventTypeWarning, Reason: "FailedMount", Message: message, LastTimestamp: metav1.NewTime(time.Now().Add(-ago))}
		e.InvolvedObject = corev1.ObjectReference{Kind: "Pod", UID: types.UID(of)}
		return e
	}
	ends := pod("alertmanager", "am-0", "w-c", waiting("ContainerCreating", "", nil))
	ends.DeletionTimestamp, ends.Finalizers = new(metav1.Now()), []string{"keep"}
	alertmanager := deployment("alertmanager", 0, 1)
	alertmanager.Generation = 3
	alertmanager.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Message: "exceeded quota"}}
	set := &appsv1.DaemonSet{ObjectMeta: meta("node-exporter"), Status: appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 5, NumberReady: 4, UpdatedNumberScheduled: 3}}
	exporter := pod("node-exporter", "ne-1", "w-a", waiting("ErrImagePull", "no such host", nil))
	exporter.DeletionTimestamp, exporter.Finalizers = ends.DeletionTimestamp, ends.Finalizers

	client := fake.NewClientset(deployment("prometheus", 1, 2), alertmanager, set,
		pod("prometheus", "p-1", "w-a", ready), pod("prometheus", "p-2", "w-b", waiting("CrashLoopBackOff", "back-off 10s", &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"})),
		pod("alertmanager", "am-1", "w-b", waiting("ContainerCreating", "", nil)), pod("alertmanager", "am-2", "", unschedulable), ends, exporter,
		event("am-1", "an old reason", time.Hour), event("am-1", `secret "receivers" not found`, time.Second))
	want := []facts.Workload{
		{Kind: "Deployment", Namespace: monitoring.Namespace, Name: "prometheus", Title: "Prometheus", Desired: 2, Ready: 1, Updated: 2, On: []string{"w-a"}, NotReady: []facts.WaitingPod{{Node: "w-b", Why: "p-2 on w-b: CrashLoopBackOff: back-off 10s: c ended with exit status 137 (OOMKilled)"}}},
		{Kind: "Deployment", Namespace: monitoring.Namespace, Name: "alertmanager", Title: "Alertmanager", Desired: 2, Updated: 1, Stale: true, Problem: "exceeded quota", NotReady: []facts.WaitingPod{
			{Node: "w-b", Why: `am-1 on w-b: ContainerCreating: FailedMount: secret "receivers" not found`}, {Why: "am-2: Unschedulable: no room"}}},
		{Kind: "Deployment", Namespace: monitoring.Namespace, Name: "kube-state-metrics", Title: "kube-state-metrics", Missing: true},
		{Kind: "DaemonSet", Namespace: monitoring.Namespace, Name: "node-exporter", Title: "the node exporter", Desired: 5, Ready: 4, Updated: 3, NotReady: []facts.WaitingPod{{Node: "w-a", Why: "ne-1 on w-a: ErrImagePull: no such host"}}},
	}
	got := readPrometheus(t.Context(), client, "")
	if got.Unknown != "" || len(got.Workloads) != len(want) || !got.Missing() {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		if !reflect.DeepEqual(got.Workloads[i], w) {
			t.Errorf("got  %+v\nwant %+v", got.Workloads[i], w)
		}
	}

	for _, name := range []string{"prometheus", "alertmanager"} {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: monitoring.Namespace, Name: name}}
		if name == "prometheus" {
			b.Annotations = map[string]string{facts.RelaxedAnnotation: "1"}
		}
		if err := client.Tracker().Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if got := readPrometheus(t.Context(), client, ""); !slices.Equal(got.Relaxed, []string{monitoring.Namespace + "/prometheus"}) {
		t.Errorf("relaxed budgets: %v", got.Relaxed)
	}

	client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no answer") })
	if got := readPrometheus(t.Context(), client, ""); got.Unknown != "no answer" || len(got.Workloads) > 0 {
		t.Errorf("what could not be read: %+v", got)
	}
}
