package step

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"quorate.dev/quorate/internal/kube"
)

// TestPodsThatMayTrustAFormerCertificate: those that were created or started after it was published read the new one.
func TestPodsThatMayTrustAFormerCertificate(t *testing.T) {
	published := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	pod := func(created time.Duration, started ...time.Duration) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(published.Add(created))}}
		for _, at := range started {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(published.Add(at))}}})
		}
		return p
	}
	waiting := pod(-time.Hour)
	waiting.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
	evicted := pod(-time.Hour)
	evicted.Status.Phase = corev1.PodFailed
	for name, tc := range map[string]struct {
		pod       *corev1.Pod
		published time.Time
		want      bool
	}{
		"before":                            {pod(-time.Hour, -time.Hour), published, true},
		"after":                             {pod(time.Minute, time.Minute), published, false},
		"created after, and not started":    {pod(time.Minute), published, false},
		"restarted, as with its machine":    {pod(-time.Hour, 10*time.Minute), published, false},
		"restarted before files followed":   {pod(-time.Hour, time.Minute), published, true},
		"one of two containers restarted":   {pod(-time.Hour, 10*time.Minute, -time.Hour), published, true},
		"created before, and never started": {pod(-time.Hour), published, true},
		"it ends again and again":           {waiting, published, true},
		"evicted":                           {evicted, published, false},
		"nobody knows when":                 {pod(time.Minute, time.Minute), time.Time{}, true},
	} {
		if got := startedBefore(tc.pod, tc.published); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestNodesThatAreNotReady do not keep others waiting for ever.
func TestNodesThatAreNotReady(t *testing.T) {
	node := func(name string, status corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}}}
	}
	client := &kube.Client{Interface: fake.NewClientset(node("cp-a", corev1.ConditionTrue), node("worker-a", corev1.ConditionUnknown), node("worker-b", corev1.ConditionTrue))}
	ready, err := readyNodes(t.Context(), client, []string{"cp-a", "worker-a", "gone"}, 10*time.Millisecond)
	if err != nil || !slices.Equal(ready, []string{"cp-a"}) {
		t.Errorf("%v, %v", ready, err)
	}
	ready, err = readyNodes(t.Context(), client, []string{"cp-a", "worker-b"}, time.Minute)
	if err != nil || len(ready) != 2 {
		t.Errorf("%v, %v", ready, err)
	}
}

// TestOneNodeFails is left, and the others go on. If none works, it is not the nodes that are wrong.
func TestOneNodeFails(t *testing.T) {
	var nodes []string
	for i := range 3 * agentsAtOnce {
		nodes = append(nodes, "worker-"+string(rune('A'+i)))
	}
	broken := errors.New("its new pod is not ready yet")
	failed, err := onNodes(t.Context(), nodes, func(_ context.Context, node string) error {
		if node == nodes[len(nodes)-1] {
			return broken
		}
		return nil
	})
	if err != nil || len(failed) != 1 || failed[nodes[len(nodes)-1]] != broken.Error() {
		t.Errorf("%v, %v", failed, err)
	}
	var mu sync.Mutex
	tried := 0
	failed, err = onNodes(t.Context(), nodes, func(context.Context, string) error {
		mu.Lock()
		defer mu.Unlock()
		tried++
		return broken
	})
	if err == nil || !strings.Contains(err.Error(), broken.Error()) || failed != nil || tried < agentsAtOnce || tried >= 2*agentsAtOnce {
		t.Errorf("%d were tried: %v, %v", tried, failed, err)
	}
	if failed, err := onNodes(t.Context(), nil, nil); err != nil || len(failed) > 0 {
		t.Errorf("%v, %v", failed, err)
	}
}
