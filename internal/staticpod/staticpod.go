// Package staticpod reads the manifests of static pods on a host.
package staticpod

import (
	"errors"
	"fmt"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/flags"
)

// Dir is where the kubelet looks for the manifests of static pods.
const Dir = "/etc/kubernetes/manifests"

// Read reads a manifest. A partially written manifest, for example of a killed kubeadm, is an error: the beginning of a YAML
// document is often a valid document itself.
func Read(path string) (*corev1.Pod, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse is Read for a manifest that was read, with its path for errors.
func Parse(path string, data []byte) (*corev1.Pod, error) {
	var pod corev1.Pod
	if err := yaml.Unmarshal(data, &pod); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := complete(&pod, data); err != nil {
		return nil, fmt.Errorf("%s is incomplete: %w", path, err)
	}
	return &pod, nil
}

// complete checks that a pod has containers and every volume that they mount. The last line of a manifest that kubeadm
// writes is an empty status.
func complete(pod *corev1.Pod, manifest []byte) error {
	if len(pod.Spec.Containers) == 0 {
		return errors.New("it has no containers")
	}
	var end struct{ Status map[string]any }
	if err := yaml.Unmarshal(manifest, &end); err != nil {
		return err
	}
	if pod.Labels["tier"] == "control-plane" && end.Status == nil {
		return errors.New("its end is missing")
	}
	for _, c := range pod.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
				return fmt.Errorf("the volume %s is missing", m.Name)
			}
		}
	}
	return nil
}

// Arguments are the flags of a pod's first container, without their dashes.
func Arguments(pod *corev1.Pod) map[string]string {
	return flags.Parse(words(pod))
}

// ArgumentList is Arguments for flags that can be given several times.
func ArgumentList(pod *corev1.Pod) []flags.Flag { return flags.List(words(pod)) }

func words(pod *corev1.Pod) []string {
	c := pod.Spec.Containers[0]
	return append(slices.Clone(c.Command), c.Args...)
}
