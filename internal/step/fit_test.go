package step

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestFit(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-a"}, Status: corev1.NodeStatus{Capacity: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi")}}}
	request := func(cpu, memory string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}}}
	}
	var pods []corev1.Pod
	for i := range 10 {
		pods = append(pods, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}, Spec: corev1.PodSpec{Containers: []corev1.Container{request("300m", "700Mi")}}})
	}
	ended := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{request("40", "1Ti")}}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	pods = append(pods, ended) // 3 of 4 CPUs and 7000 of 8192 MiB are requested
	for name, tc := range map[string]struct {
		kubelet spec.KubeletSettings
		want    string
	}{
		"nothing":              {spec.KubeletSettings{}, ""},
		"as many pods":         {spec.KubeletSettings{MaxPods: 10}, ""},
		"fewer pods":           {spec.KubeletSettings{MaxPods: 9}, "10 pods, and 9 are allowed"},
		"what is left":         {spec.KubeletSettings{SystemReserved: map[string]string{"cpu": "500m", "memory": "500Mi"}, KubeReserved: map[string]string{"cpu": "500m", "memory": "500Mi"}}, ""},
		"more CPU":             {spec.KubeletSettings{SystemReserved: map[string]string{"cpu": "500m"}, KubeReserved: map[string]string{"cpu": "501m"}}, "request 3 of cpu, and 2999m are left"},
		"more memory":          {spec.KubeletSettings{SystemReserved: map[string]string{"memory": "1100Mi"}}, "of memory"},
		"an eviction":          {spec.KubeletSettings{EvictionHard: map[string]string{"memory.available": "1200Mi"}}, "of memory"},
		"an eviction in parts": {spec.KubeletSettings{EvictionHard: map[string]string{"memory.available": "15%"}}, "of memory"},
	} {
		c := spec.DefaultLab("test")
		c.Spec.Settings.Kubelet = tc.kubelet
		r := judgeFit(c, []*facts.Facts{{}}, node, pods)
		switch {
		case tc.want == "" && r != nil:
			t.Errorf("%s: %s", name, r.Why)
		case tc.want != "" && (r == nil || !strings.Contains(r.Why, tc.want) || r.Fix == ""):
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestForbiddenSysctls(t *testing.T) {
	for name, want := range map[string]string{"net.core.somaxconn": "", "kernel.msgmax": "", "net.ipv4.tcp_syncookies": "", "net.ipv4.udp_mem": "", "net.ipv4.tcp_mem": "net.ipv4.tcp_mem"} {
		p := corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}, Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name}}}}}
		if got := forbiddenSysctl([]string{"net.core.somaxconn", "kernel.msg*", "net/ipv4/udp_mem"}, p); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestRequests(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	cpu := func(text string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(text)}}}
	}
	sidecar := cpu("1")
	sidecar.RestartPolicy = &always
	for want, p := range map[string]corev1.PodSpec{
		"3": {Containers: []corev1.Container{cpu("1"), cpu("2")}},
		"5": {Containers: []corev1.Container{cpu("1")}, InitContainers: []corev1.Container{cpu("5")}},
		"7": {Containers: []corev1.Container{cpu("6")}, InitContainers: []corev1.Container{sidecar, cpu("5")}},
		"6": {Containers: []corev1.Container{cpu("1")}, InitContainers: []corev1.Container{sidecar, cpu("5")}},
		"8": {Containers: []corev1.Container{cpu("7")}, Overhead: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
		"9": {Containers: []corev1.Container{cpu("1")}, Resources: &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9")}}},
	} {
		if got := requested(corev1.Pod{Spec: p}, corev1.ResourceCPU); got.String() != want {
			t.Errorf("%s instead of %s", got.String(), want)
		}
	}
}
