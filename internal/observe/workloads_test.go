package observe

import (
	"context"
	"errors"
	"reflect"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
)

func workloadPod(namespace, name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{}},
		Spec:   corev1.PodSpec{NodeName: "w-a", Containers: []corev1.Container{{Image: "web:1"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	if change != nil {
		change(p)
	}
	return p
}

func controlledBy(kind, name string) []metav1.OwnerReference {
	return []metav1.OwnerReference{{Kind: kind, Name: name, Controller: new(true)}}
}

func TestWorkloadsAreRead(t *testing.T) {
	objects := []runtime.Object{
		workloadPod("default", "web-1", func(p *corev1.Pod) {
			p.OwnerReferences, p.Labels = controlledBy("ReplicaSet", "web-7d9f"), map[string]string{"pod-template-hash": "7d9f", "app": "web"}
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(5))}}
		}),
		workloadPod("default", "db-0", func(p *corev1.Pod) {
			p.OwnerReferences = controlledBy("StatefulSet", "db")
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
			p.Spec.Containers[0] = corev1.Container{Image: "registry.example.com/db", ImagePullPolicy: corev1.PullAlways}
			p.Status.Conditions[0].Status = corev1.ConditionFalse
		}),
		workloadPod("kube-system", "coredns-1", func(p *corev1.Pod) { p.Labels["k8s-app"] = "kube-dns" }),
		// These do not count.
		workloadPod("kube-system", "etcd-cp-a", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }),
		workloadPod("default", "ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv-1"}},
		volumeIn("pv-1", corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}}}),
		volumeIn("pv-unused", corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"w-a"}}}}),
		&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
			Status: policyv1.PodDisruptionBudgetStatus{ExpectedPods: 1, DesiredHealthy: 1}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w-a"}, Status: corev1.NodeStatus{Images: []corev1.ContainerImage{{Names: []string{"docker.io/library/web:1", "other:1"}}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w-b"}, Status: corev1.NodeStatus{Images: make([]corev1.ContainerImage, reportedImages)}},
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "policy"}, Webhooks: []admissionv1.ValidatingWebhook{
			{Name: "all.example.com", Rules: []admissionv1.RuleWithOperations{rule("*", "*", admissionv1.OperationAll)}, ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "policy", Name: "hook"}}},
			{Name: "open.example.com", FailurePolicy: new(admissionv1.Ignore), Rules: []admissionv1.RuleWithOperations{rule("*", "*", admissionv1.OperationAll)}},
		}},
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "inject"}, Webhooks: []admissionv1.MutatingWebhook{
			{Name: "pods.example.com", Rules: []admissionv1.RuleWithOperations{rule("", "pods", admissionv1.Create)}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"inject": "yes"}},
				ClientConfig: admissionv1.WebhookClientConfig{URL: new("https://hooks.example.com/x")}},
		}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "policy", Name: "hook-1", Labels: map[string]string{discoveryv1.LabelServiceName: "hook"}}, Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.1.1"}, NodeName: new("w-a"), Conditions: discoveryv1.EndpointConditions{Ready: new(true)}},
			{Addresses: []string{"10.244.1.2"}, NodeName: new("w-b"), Conditions: discoveryv1.EndpointConditions{Ready: new(false)}},
		}},
	}
	got := Workloads(t.Context(), fake.NewClientset(objects...))
	want := &facts.Workloads{
		Pods: []facts.Pod{
			{Namespace: "default", Name: "db-0", Kind: "StatefulSet", Owner: "db", Node: "w-a", Images: []facts.PodImage{{Name: "registry.example.com/db:latest", Always: true}}, Volumes: []string{"pv-1"}, Evicted: new(int64(0))},
			{Namespace: "default", Name: "web-1", Kind: "Deployment", Owner: "web", Node: "w-a", Ready: true, Images: []facts.PodImage{{Name: "docker.io/library/web:1"}}, Evicted: new(int64(5))},
			{Namespace: "kube-system", Name: "coredns-1", Node: "w-a", Ready: true, DNS: true, Images: []facts.PodImage{{Name: "docker.io/library/web:1"}}, Evicted: new(int64(0))},
		},
		Budgets: []facts.Budget{{Namespace: "default", Name: "web", Expected: 1, Desired: 1, Pods: []string{"web-1"}}},
		Volumes: []facts.Volume{{Name: "pv-1", Zones: []string{"a"}}},
		Webhooks: []facts.Webhook{
			{Name: "all.example.com", Configuration: "policy", Resources: []string{"*", "pods"}, Service: "policy/hook", Ready: 1, Nodes: []string{"w-a"}},
			{Name: "pods.example.com", Configuration: "inject", Resources: []string{"pods"}, Selective: true, URL: "https://hooks.example.com/x"},
		},
		Images:  map[string][]string{"w-a": {"docker.io/library/web:1"}},
		Unknown: map[string]string{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func rule(group, resource string, operations ...admissionv1.OperationType) admissionv1.RuleWithOperations {
	return admissionv1.RuleWithOperations{Operations: operations, Rule: admissionv1.Rule{APIGroups: []string{group}, Resources: []string{resource}}}
}

func volumeIn(name string, terms ...corev1.NodeSelectorTerm) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}}}
}

// What could not be read is unknown, and the rest is there.
func TestPartsOfWorkloadsAreUnknown(t *testing.T) {
	client := fake.NewClientset(workloadPod("default", "web-1", nil))
	client.PrependReactor("list", "poddisruptionbudgets", func(ktesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("forbidden") })
	got := Workloads(context.Background(), client)
	if len(got.Pods) != 1 || len(got.Unknown) != 1 || got.Unknown[facts.BudgetsPart] != "forbidden" {
		t.Errorf("%+v", got)
	}
}

func TestNamesOfImagesAreCompleted(t *testing.T) {
	for name, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "nginx:1": "docker.io/library/nginx:1", "team/web": "docker.io/team/web:latest",
		"registry.example.com/web": "registry.example.com/web:latest", "registry:5000/web:2": "registry:5000/web:2", "localhost/web": "localhost/web:latest",
		"registry.example.com/web@sha256:00": "registry.example.com/web@sha256:00",
	} {
		if got := ImageName(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestWhatWebhooksJudge(t *testing.T) {
	for _, tc := range []struct {
		rule admissionv1.RuleWithOperations
		want []string
	}{
		{rule("*", "*", admissionv1.OperationAll), []string{"*", "pods"}},
		{rule("*", "*/*", admissionv1.Create, admissionv1.Update), []string{"*", "pods"}},
		{rule("*", "*", admissionv1.Update), []string{"every resource"}},
		{rule("", "*", admissionv1.Create), []string{"pods"}},
		{rule("", "pods", admissionv1.Create), []string{"pods"}},
		{rule("", "pods", admissionv1.Delete), []string{"existing pods"}},
		{rule("", "pods/exec", admissionv1.Connect), []string{"pods/exec"}},
		{rule("apps", "deployments", admissionv1.Create), []string{"deployments.apps"}},
		{rule("apps", "*", admissionv1.Create), []string{"every resource of apps"}},
	} {
		if got := judged([]admissionv1.RuleWithOperations{tc.rule}); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%+v: got %q, want %q", tc.rule, got, tc.want)
		}
	}
}

func TestWhereVolumesCanBeUsed(t *testing.T) {
	in := func(key string, values ...string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}}
	}
	for _, tc := range []struct {
		name  string
		terms []corev1.NodeSelectorTerm
		want  facts.Volume
	}{
		{"zone", []corev1.NodeSelectorTerm{in(corev1.LabelTopologyZone, "a")}, facts.Volume{Zones: []string{"a"}}},
		{"zone-of-a-driver", []corev1.NodeSelectorTerm{in("topology.ebs.csi.aws.com/zone", "a", "b")}, facts.Volume{Zones: []string{"a", "b"}}},
		{"alternatives", []corev1.NodeSelectorTerm{in(corev1.LabelTopologyZone, "a"), in(corev1.LabelTopologyZone, "b")}, facts.Volume{Zones: []string{"a", "b"}}},
		{"node", []corev1.NodeSelectorTerm{in(corev1.LabelHostname, "w-a")}, facts.Volume{Nodes: []string{"w-a"}}},
		{"anything-else", []corev1.NodeSelectorTerm{in(corev1.LabelTopologyZone, "a"), in("disk", "ssd")}, facts.Volume{}},
	} {
		if got := tie("", tc.terms); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// TestSimulatedNodesAreOutOfSight: no host is behind them, and no pod runs on them.
func TestSimulatedNodesAreOutOfSight(t *testing.T) {
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w-a"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sim-00000", Labels: map[string]string{facts.SimulatedLabel: "running"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "sim-00001", Labels: map[string]string{facts.SimulatedLabel: "failed"}}},
		workloadPod("default", "web-1", nil),
		workloadPod("quorate-load-0", "load-1", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.NodeSelector = "sim-00000", map[string]string{facts.SimulatedLabel: "running"}
		}))
	var api facts.API
	if err := readNodes(t.Context(), &kube.Client{Interface: client}, "", &api); err != nil {
		t.Fatal(err)
	}
	if len(api.Nodes) != 1 || api.Nodes[0].Name != "w-a" || api.Simulated != 2 {
		t.Errorf("%+v, and %d simulated", api.Nodes, api.Simulated)
	}
	got := Workloads(t.Context(), client)
	if len(got.Pods) != 1 || got.Pods[0].Name != "web-1" {
		t.Errorf("%+v", got.Pods)
	}
	if _, there := got.Images["sim-00000"]; there {
		t.Errorf("%v", got.Images)
	}
}
