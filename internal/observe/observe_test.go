package observe

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/facts"
)

func TestReadiness(t *testing.T) {
	const plugin = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
	ready := func(s corev1.ConditionStatus, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeReady, Status: s, Message: message}
	}
	network := func(s corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: s, Message: "no answer from cp-b"}
	}
	for name, c := range map[string]struct {
		conditions []corev1.NodeCondition
		want       facts.Node
	}{
		"ready":                  {[]corev1.NodeCondition{network(corev1.ConditionFalse), ready(corev1.ConditionTrue, "fine")}, facts.Node{Ready: true}},
		"no network":             {[]corev1.NodeCondition{ready(corev1.ConditionFalse, plugin)}, facts.Node{NotReady: "its pod network is not ready yet", NoNetwork: true}},
		"no network, and why":    {[]corev1.NodeCondition{ready(corev1.ConditionFalse, plugin), network(corev1.ConditionTrue)}, facts.Node{NotReady: "no answer from cp-b", NoNetwork: true}},
		"why in the other order": {[]corev1.NodeCondition{network(corev1.ConditionTrue), ready(corev1.ConditionFalse, plugin)}, facts.Node{NotReady: "no answer from cp-b", NoNetwork: true}},
		"an ill kubelet":         {[]corev1.NodeCondition{network(corev1.ConditionTrue), ready(corev1.ConditionFalse, "PLEG is not healthy")}, facts.Node{NotReady: "PLEG is not healthy"}},
		"a full disk": {[]corev1.NodeCondition{
			{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Message: "kubelet has sufficient memory available"},
			{Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue, Message: "kubelet has disk pressure"}, ready(corev1.ConditionTrue, "fine"),
		}, facts.Node{Ready: true, Short: "kubelet has disk pressure"}},
		"a kubelet that is silent": {[]corev1.NodeCondition{ready(corev1.ConditionUnknown, "Kubelet stopped posting node status.")}, facts.Node{NotReady: "Kubelet stopped posting node status."}},
	} {
		var got facts.Node
		readiness(&got, c.conditions)
		if got.Ready != c.want.Ready || got.NotReady != c.want.NotReady || got.NoNetwork != c.want.NoNetwork || got.Short != c.want.Short {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestWhyNotReady(t *testing.T) {
	condition := func(kind corev1.PodConditionType, s corev1.ConditionStatus, reason, message string) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: s, Reason: reason, Message: message}
	}
	notReady := condition(corev1.PodReady, corev1.ConditionFalse, "ContainersNotReady", "containers with unready status: [coredns]")
	waiting := func(reason, message string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "coredns", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	}
	for want, c := range map[string]struct {
		node   string
		status corev1.PodStatus
	}{
		"": {"cp-a", corev1.PodStatus{Conditions: []corev1.PodCondition{condition(corev1.PodScheduled, corev1.ConditionTrue, "", ""), condition(corev1.PodReady, corev1.ConditionTrue, "", "")}}},
		"dns: Unschedulable: 0/3 nodes are available": {"", corev1.PodStatus{Conditions: []corev1.PodCondition{condition(corev1.PodScheduled, corev1.ConditionFalse, "Unschedulable", "0/3 nodes are available")}}},
		"dns on cp-b: ErrImagePull: no route to host": {"cp-b", corev1.PodStatus{Conditions: []corev1.PodCondition{notReady}, ContainerStatuses: waiting("ErrImagePull", "no route to host")}},
		"dns on cp-b: ContainerCreating":              {"cp-b", corev1.PodStatus{Conditions: []corev1.PodCondition{notReady}, ContainerStatuses: waiting("ContainerCreating", "")}},
		"dns on cp-b: container coredns was restarted 3 times and is not ready": {"cp-b", corev1.PodStatus{Conditions: []corev1.PodCondition{notReady},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "coredns", RestartCount: 3}}}},
		"dns on cp-b: containers with unready status: [coredns]": {"cp-b", corev1.PodStatus{Conditions: []corev1.PodCondition{notReady}}},
	} {
		p := &corev1.Pod{Status: c.status}
		p.Name, p.Spec.NodeName = "dns", c.node
		if got := whyNotReady(p); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestWhereCoreDNSIs: a replica that is being restarted, or was just created, stays where it is. One that fails, ends, or waits for a node is nowhere.
func TestWhereCoreDNSIs(t *testing.T) {
	now := time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)
	pod := func(node string, ready corev1.ConditionStatus, since time.Duration) corev1.Pod {
		var p corev1.Pod
		p.Name, p.Spec.NodeName, p.CreationTimestamp = "dns", node, metav1.NewTime(now.Add(-time.Hour))
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.NewTime(now.Add(-since))}}
		return p
	}
	created := func(ago time.Duration) corev1.Pod {
		p := pod("b", corev1.ConditionFalse, 0)
		p.Status.Conditions, p.CreationTimestamp = nil, metav1.NewTime(now.Add(-ago))
		return p
	}
	ends := pod("b", corev1.ConditionTrue, time.Hour)
	ends.DeletionTimestamp = new(metav1.NewTime(now))
	for name, tc := range map[string]struct {
		second corev1.Pod
		on     []string
		ready  int
	}{
		"both work":            {pod("b", corev1.ConditionTrue, time.Hour), []string{"a", "b"}, 2},
		"both on one node":     {pod("a", corev1.ConditionTrue, time.Hour), []string{"a"}, 2},
		"one restarts":         {pod("b", corev1.ConditionFalse, time.Minute), []string{"a", "b"}, 1},
		"one fails":            {pod("b", corev1.ConditionFalse, 2*time.Minute), []string{"a"}, 1},
		"one is new":           {created(time.Second), []string{"a", "b"}, 1},
		"one does not start":   {created(time.Hour), []string{"a"}, 1},
		"one waits for a node": {pod("", corev1.ConditionFalse, time.Second), []string{"a"}, 1},
		"one ends":             {ends, []string{"a"}, 1},
	} {
		var api facts.API
		readReplicas([]corev1.Pod{pod("a", corev1.ConditionTrue, time.Hour), tc.second}, now, &api)
		if !slices.Equal(api.DNSOn, tc.on) || api.DNSReady != tc.ready || (api.DNSNotReady != "") != (tc.ready == 1 && name != "one ends") {
			t.Errorf("%s: %+v", name, api)
		}
	}
}

func TestWhatIsRememberedOfMaintenance(t *testing.T) {
	var api facts.API
	remembered(map[string]string{SpecKey: "s", "flannel": "sha256:f", MaintenanceKey + "cp-b": `{"since":"2026-08-03T11:00:00Z","ready":true,"cordoned":true}`, MaintenanceKey + "lb-a": "of a later version"}, &api)
	if m := api.Maintenance["cp-b"]; !m.Ready || !m.Cordoned || m.Since.IsZero() {
		t.Errorf("%+v", m)
	}
	if m, in := api.Maintenance["lb-a"]; !in || m.Ready {
		t.Errorf("what cannot be read is not in maintenance: %+v, %t", m, in)
	}
	remembered(map[string]string{facts.DrillKey: `{"ended":"2026-08-03T11:00:00Z","pass":true,"faults":{"kill/etcd/leader":{"passed":3}}}`}, &api)
	if d := api.LastDrill; d == nil || !d.Pass || d.Faults["kill/etcd/leader"].Passed != 3 {
		t.Errorf("%+v", d)
	}
	if len(api.Maintenance) != 2 || len(api.Applied) != 1 || api.Record != "s" {
		t.Errorf("%+v", api)
	}
}
