package inspect

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

// staticPodFlags reads those arguments of static pods that are compared.
func staticPodFlags(dir string) map[string]string {
	out := map[string]string{}
	var last string
	var args map[string]string
	for _, key := range facts.ComparedFlags {
		pod, flag, _ := strings.Cut(key, "/")
		if pod != last {
			last, args = pod, nil
			if p, err := staticpod.Read(filepath.Join(dir, pod+".yaml")); err == nil {
				args = staticpod.Arguments(p)
			}
		}
		if value, ok := args[flag]; ok {
			out[key] = value
		}
	}
	return out
}

// staticPodArguments reads all arguments of the programs of a control plane, by program.
func staticPodArguments(dir string) map[string]map[string]string {
	var out map[string]map[string]string
	for _, pod := range []string{facts.APIServer, facts.ControllerManager, facts.Scheduler} {
		if p, err := staticpod.Read(filepath.Join(dir, pod+".yaml")); err == nil {
			if out == nil {
				out = map[string]map[string]string{}
			}
			out[pod] = staticpod.Arguments(p)
		}
	}
	return out
}

// probesEtcd says of an API server what facts.Kubernetes has as ProbesEtcd. How long its startup may take is a setting of kubeadm's, and says nothing
// about whose the probe is.
func probesEtcd(pod *corev1.Pod) bool {
	c := pod.Spec.Containers[0]
	if c.LivenessProbe == nil || c.LivenessProbe.HTTPGet == nil || c.StartupProbe == nil || c.StartupProbe.HTTPGet == nil {
		return false
	}
	kubeadms := func(p *corev1.Probe) bool {
		return p.HTTPGet.Path == hostconfig.KubeadmLivePath && p.InitialDelaySeconds == 10 && p.PeriodSeconds == 10 && p.TimeoutSeconds == 15
	}
	own := func(p *corev1.Probe) bool { return p.HTTPGet.Path == hostconfig.LivePath }
	live, start := kubeadms(c.LivenessProbe) && c.LivenessProbe.FailureThreshold == 8, kubeadms(c.StartupProbe)
	return (live || start) && (live || own(c.LivenessProbe)) && (start || own(c.StartupProbe))
}

// issuers reads those of the API server.
func issuers(dir string) (out []string) {
	p, err := staticpod.Read(filepath.Join(dir, facts.APIServer+".yaml"))
	if err != nil {
		return nil
	}
	for _, f := range staticpod.ArgumentList(p) {
		if f.Name == facts.AccountIssuerFlag {
			out = append(out, f.Value)
		}
	}
	return out
}

// kubeletFields reads a kubelet's configuration file; nil if there is none.
func kubeletFields(path string) map[string]any {
	var out map[string]any
	if content, err := os.ReadFile(path); err != nil || yaml.Unmarshal(content, &out) != nil {
		return nil
	}
	return out
}

// registryFiles are the files of containerd's registries that Quorate wrote.
func registryFiles(root string) (out []string) {
	found, _ := filepath.Glob(filepath.Join(root, hostconfig.RegistriesDir, "*", "*"))
	for _, path := range found {
		content, err := os.ReadFile(path)
		if first, _, _ := bytes.Cut(content, []byte("\n")); err == nil && string(first) == hostconfig.WrittenRegistry {
			out = append(out, strings.TrimPrefix(path, root))
		}
	}
	return out
}
