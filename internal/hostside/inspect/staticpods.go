package inspect

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
)

// staticPodFlags reads those arguments of static pods that are compared.
func staticPodFlags(dir string) map[string]string {
	out := map[string]string{}
	var last string
	var args map[string]string
	for _, key := range facts.ComparedFlags {
		pod, flag, _ := strings.Cut(key, "/")
		if pod != last {
			last, args = pod, podArguments(filepath.Join(dir, pod+".yaml"))
		}
		if value, ok := args[flag]; ok {
			out[key] = value
		}
	}
	return out
}

func podArguments(path string) map[string]string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var pod corev1.Pod
	if yaml.Unmarshal(data, &pod) != nil || len(pod.Spec.Containers) == 0 {
		return nil
	}
	c := pod.Spec.Containers[0]
	return system.Flags(append(slices.Clone(c.Command), c.Args...))
}
