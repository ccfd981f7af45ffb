package step

import (
	"encoding/json"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"quorate.dev/quorate/internal/facts"
)

// TestCoreDNSEndsSlowly: the patch keeps the rest of kubeadm's Deployment, and the kubelet kills no replica that still answers.
func TestCoreDNSEndsSlowly(t *testing.T) {
	kubeadms := appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "coredns", Image: "coredns:v1", Args: []string{"-conf", "/etc/coredns/Corefile"}}}}}}}
	original, err := json.Marshal(kubeadms)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := dnsPatch()
	if err != nil {
		t.Fatal(err)
	}
	patched, err := strategicpatch.StrategicMergePatch(original, patch, appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.Deployment
	if err := json.Unmarshal(patched, &d); err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	if len(pod.Containers) != 1 || pod.Containers[0].Image != "coredns:v1" || len(pod.Containers[0].Args) != 2 || len(pod.TopologySpreadConstraints) != 2 {
		t.Fatalf("%+v", pod)
	}
	const lameduck = 5 // in kubeadm's Corefile
	pause := pod.Containers[0].Lifecycle.PreStop.Sleep.Seconds
	if pause != facts.DNSLingerSeconds || pod.TerminationGracePeriodSeconds == nil || *pod.TerminationGracePeriodSeconds < pause+lameduck+5 {
		t.Errorf("it pauses for %d s, and the kubelet gives it %v", pause, pod.TerminationGracePeriodSeconds)
	}
}
