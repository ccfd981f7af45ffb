package step

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// RuleFit refuses to restart a kubelet that would end pods of its node.
const RuleFit = "pods-fit"

// defaultMaxPods is the kubelet's own.
const defaultMaxPods = 110

// fits reads what a node runs, and returns a refusal if a kubelet that starts with the settings would end some of it.
func (e *Env) fits(ctx context.Context, client *kube.Client, name string) error {
	var node *corev1.Node
	var pods *corev1.PodList
	ctx, cancel := withDeadline(ctx, time.Minute, "reading the pods of "+name)
	defer cancel()
	if err := retry(ctx, time.Second, func(ctx context.Context) (err error) {
		if node, err = client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		pods, err = client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name})
		return err
	}); err != nil {
		return err
	}
	if r := judgeFit(e.Cluster, e.kubeadm().Facts, node, pods.Items); r != nil {
		return r
	}
	return nil
}

// judgeFit compares what pods request with what the settings leave of a node.
func judgeFit(c *spec.Cluster, nodes []*facts.Facts, node *corev1.Node, pods []corev1.Pod) *cluster.Refusal {
	pods = slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	var lacks []string
	most := c.Spec.Settings.Kubelet.MaxPods
	if most == 0 {
		most = defaultMaxPods
	}
	if len(pods) > most {
		lacks = append(lacks, fmt.Sprintf("it runs %d pods, and %d are allowed", len(pods), most))
	}
	for _, kind := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		left, known := node.Status.Capacity[kind]
		if !known {
			continue
		}
		left = left.DeepCopy()
		for _, r := range reservedOf(c, nodes, kind, left) {
			left.Sub(r)
		}
		var used resource.Quantity
		for _, p := range pods {
			used.Add(requested(p, kind))
		}
		if used.Cmp(left) > 0 {
			lacks = append(lacks, fmt.Sprintf("its pods request %s of %s, and %s are left for them", used.String(), kind, left.String()))
		}
	}
	for _, p := range pods {
		if name := forbiddenSysctl(c.Spec.Settings.Kubelet.AllowedUnsafeSysctls, p); name != "" {
			lacks = append(lacks, fmt.Sprintf("the pod %s/%s sets %s, which is not among allowedUnsafeSysctls", p.Namespace, p.Name, name))
		}
	}
	if len(lacks) == 0 {
		return nil
	}
	return &cluster.Refusal{Rule: RuleFit, Why: "with spec.settings.kubelet, " + node.Name + " could not run all of its pods: " + strings.Join(lacks, "; ") + ". Its kubelet would end some of them when it restarts",
		Fix: "Choose other limits, or move pods away first: `kubectl drain " + node.Name + " --ignore-daemonsets`, and `kubectl uncordon " + node.Name + "` afterwards."}
}

// safeSysctls are those that every pod can set.
var safeSysctls = []string{"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem"}

// forbiddenSysctl is a kernel setting of a pod that runs and that its kubelet would not admit any more; empty if there is none.
func forbiddenSysctl(allowed []string, p corev1.Pod) string {
	if p.Status.Phase != corev1.PodRunning || p.Spec.SecurityContext == nil {
		return ""
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		if slices.Contains(safeSysctls, name) {
			continue
		}
		if !slices.ContainsFunc(allowed, func(pattern string) bool {
			pattern = strings.ReplaceAll(pattern, "/", ".")
			prefix, all := strings.CutSuffix(pattern, "*")
			return pattern == name || all && strings.HasPrefix(name, prefix)
		}) {
			return name
		}
	}
	return ""
}

// reservedOf is what pods do not get of a resource.
func reservedOf(c *spec.Cluster, nodes []*facts.Facts, kind corev1.ResourceName, capacity resource.Quantity) (out []resource.Quantity) {
	k := c.Spec.Settings.Kubelet
	for _, text := range []string{k.SystemReserved[string(kind)], k.KubeReserved[string(kind)]} {
		if q, err := resource.ParseQuantity(text); err == nil {
			out = append(out, q)
		}
	}
	signal := map[corev1.ResourceName]string{corev1.ResourceMemory: "memory.available", corev1.ResourceEphemeralStorage: "nodefs.available"}[kind]
	text := hostconfig.EvictionHard(c, nodes)[signal]
	if percent, is := strings.CutSuffix(text, "%"); is {
		if q, err := resource.ParseQuantity(percent); err == nil {
			out = append(out, *resource.NewQuantity(int64(float64(capacity.Value())*q.AsApproximateFloat64()/100), resource.BinarySI))
		}
	} else if q, err := resource.ParseQuantity(text); err == nil {
		out = append(out, q)
	}
	return out
}

// requested is what a pod requests: its containers and sidecars together, or an init container that needs more.
func requested(p corev1.Pod, kind corev1.ResourceName) resource.Quantity {
	if p.Spec.Resources != nil {
		if q, set := p.Spec.Resources.Requests[kind]; set {
			return q
		}
	}
	var sum, most resource.Quantity
	for _, c := range p.Spec.InitContainers {
		q := c.Resources.Requests[kind]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sum.Add(q)
			continue
		}
		q = q.DeepCopy()
		q.Add(sum)
		if q.Cmp(most) > 0 {
			most = q
		}
	}
	for _, c := range p.Spec.Containers {
		sum.Add(c.Resources.Requests[kind])
	}
	if most.Cmp(sum) > 0 {
		sum = most
	}
	if q, set := p.Spec.Overhead[kind]; set {
		sum.Add(q)
	}
	return sum
}
