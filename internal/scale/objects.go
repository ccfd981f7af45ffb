// Package scale adds simulated nodes and pods to the cluster of a lab, as many as Kubernetes' own scalability tests have, and measures how
// the control plane bears them. kwok, which runs on a machine of its own, plays the kubelets: see docs/scale.md.
package scale

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// Values of facts.SimulatedLabel. kwok plays the kubelets of running nodes only: a failed one falls silent, like a node without power.
const (
	running = "running"
	failed  = "failed"
)

const (
	// loadLabel is on everything that is created for the load. Its value on a Deployment, its pods, and its Service is their name.
	loadLabel = "quorate.dev/load"
	// podsPerDeployment keeps the rate even: at ten pods per second, one Deployment is created each second.
	podsPerDeployment = 10
	// podsPerNamespace is as in Kubernetes' tests: a namespace for each hundred nodes.
	podsPerNamespace = 3000
	namespacePrefix  = "quorate-load-"
	// image is never pulled: no node runs it.
	image = "quorate.dev/simulated:v1"
)

// addresses of simulated nodes are of the range that providers use between themselves (RFC 6598). Nothing is sent there.
var addresses = netip.MustParsePrefix("100.64.0.0/10")

// nodeName is the name of a simulated node, counted from 0.
func nodeName(i int) string { return fmt.Sprintf("sim-%05d", i) }

// node is one simulated node. It has no label with its operating system, which keeps DaemonSets away that ask for one, such as kube-proxy.
func node(i int, c *spec.Cluster) *corev1.Node {
	zones := zonesOf(c)
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("500Gi"), corev1.ResourcePods: resource.MustParse("110")}
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
			facts.SimulatedLabel: running, corev1.LabelHostname: nodeName(i), corev1.LabelTopologyZone: zones[i%len(zones)]}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: facts.SimulatedLabel, Value: "true", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity.DeepCopy(),
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address(i)}, {Type: corev1.NodeHostName, Address: nodeName(i)}},
			NodeInfo:  corev1.NodeSystemInfo{KubeletVersion: c.Spec.Kubernetes.Version, OperatingSystem: "linux", Architecture: "amd64", OSImage: "simulated by kwok", ContainerRuntimeVersion: "kwok://" + Version()}},
	}
	return n
}

func address(i int) string {
	a := addresses.Addr()
	bytes := a.As4()
	n := i + 1
	bytes[1], bytes[2], bytes[3] = bytes[1]+byte(n>>16), byte(n>>8), byte(n)
	return netip.AddrFrom4(bytes).String()
}

// zonesOf are the zones of the cluster's nodes, in the order of the spec.
func zonesOf(c *spec.Cluster) (out []string) {
	seen := map[string]bool{}
	for _, h := range c.Spec.Hosts {
		if h.IsNode() && !seen[h.Zone] {
			seen[h.Zone] = true
			out = append(out, h.Zone)
		}
	}
	if len(out) == 0 {
		return []string{"a"}
	}
	return out
}

// set is a Deployment with its Service.
type set struct {
	index, replicas int
}

func (s set) name() string      { return fmt.Sprintf("load-%05d", s.index) }
func (s set) namespace() string { return namespaceOf(s.index) }
func namespaceOf(index int) string {
	return fmt.Sprintf("%s%d", namespacePrefix, index*podsPerDeployment/podsPerNamespace)
}

// sets are the Deployments for so many pods. Those for fewer pods are the first of them.
func sets(pods int) (out []set) {
	for i := 0; pods > 0; i++ {
		n := min(pods, podsPerDeployment)
		out = append(out, set{i, n})
		pods -= n
	}
	return out
}

// namespaces are those that the sets are in.
func namespaces(all []set) (out []string) {
	for _, s := range all {
		if n := s.namespace(); len(out) == 0 || out[len(out)-1] != n {
			out = append(out, n)
		}
	}
	return out
}

func isNamespace(name string) bool { return strings.HasPrefix(name, namespacePrefix) }

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{loadLabel: "true"}}}
}

func (s set) deployment() *appsv1.Deployment {
	labels := map[string]string{loadLabel: s.name()}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: s.name(), Namespace: s.namespace(), Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(s.replicas)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector:                  map[string]string{facts.SimulatedLabel: running},
					Tolerations:                   []corev1.Toleration{{Key: facts.SimulatedLabel, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
					TerminationGracePeriodSeconds: new(int64(1)),
					Containers: []corev1.Container{{Name: "load", Image: image, ImagePullPolicy: corev1.PullNever, Ports: []corev1.ContainerPort{{ContainerPort: 80}},
						Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi")}}}},
				},
			},
		},
	}
}

func (s set) service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: s.name(), Namespace: s.namespace(), Labels: map[string]string{loadLabel: s.name()}},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{loadLabel: s.name()}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}},
	}
}

// exclude is the node affinity that keeps a DaemonSet off simulated nodes; nil if it has it, asks for an operating system, which these nodes do
// not have, or does not tolerate their taint.
func exclude(d *appsv1.DaemonSet) *corev1.Affinity {
	pods := d.Spec.Template.Spec
	if pods.NodeSelector[corev1.LabelOSStable] != "" || !slices.ContainsFunc(pods.Tolerations, toleratesSimulation) {
		return nil
	}
	not := corev1.NodeSelectorRequirement{Key: facts.SimulatedLabel, Operator: corev1.NodeSelectorOpDoesNotExist}
	out := &corev1.Affinity{}
	if pods.Affinity != nil {
		out = pods.Affinity.DeepCopy()
	}
	if out.NodeAffinity == nil {
		out.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := out.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		required = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
	}
	missing := false
	for i, term := range required.NodeSelectorTerms { // one of them is enough, so each must have it
		has := false
		for _, e := range term.MatchExpressions {
			has = has || e.Key == not.Key && e.Operator == not.Operator
		}
		if !has {
			missing = true
			required.NodeSelectorTerms[i].MatchExpressions = append(term.MatchExpressions, not)
		}
	}
	if !missing {
		return nil
	}
	out.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
	return out
}

// toleratesSimulation says that a pod with this toleration can be on simulated nodes.
func toleratesSimulation(t corev1.Toleration) bool {
	return (t.Key == "" || t.Key == facts.SimulatedLabel) && (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule)
}
