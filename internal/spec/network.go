package spec

import (
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Published says that the components are the projects' own, as they publish them, and not compiled.
func (c *Cluster) Published() bool {
	return c.Spec.Components.Source == SourceOfficial || c.Spec.Components.Source == SourceMirror
}

// RelativeTo makes the paths that are relative to the spec's folder independent of it.
func (c *Cluster) RelativeTo(dir string) {
	n := &c.Spec.Network
	n.Manifests = slices.Clone(n.Manifests)
	for i := range n.Manifests {
		n.Manifests[i] = below(dir, n.Manifests[i])
	}
	n.Chart.Path, n.Chart.Values = below(dir, n.Chart.Path), below(dir, n.Chart.Values)
	s := &c.Spec.Components.Signatures
	s.PublicKeyFile, s.TrustedRootFile = below(dir, s.PublicKeyFile), below(dir, s.TrustedRootFile)
}

func below(dir, path string) string {
	if path == "" || filepath.IsAbs(path) || strings.HasPrefix(path, "~/") {
		return path
	}
	return filepath.Join(dir, path)
}

// Wrong is an error about a field that only shows where the spec is used: the file that it names cannot be read, say.
func (c *Cluster) Wrong(path, message, fix string) Errors {
	return Errors{c.src.problem(path, message, fix)}
}

// cni checks that the plugin's fields belong to it.
func (k *checker) cni(n Network) {
	const path = "spec.network"
	k.choose(path+".cni", "Network.cni", n.CNI)
	if n.CNI == CNIFlannel {
		k.choose(path+".policies", "Network.policies", n.Policies)
	}
	for _, f := range []struct {
		name, cni string
		given     bool
	}{
		{"policies", CNIFlannel, n.Policies != ""}, {"manifests", CNIManifest, len(n.Manifests) > 0},
		{"chart", CNIChart, n.Chart.Path != "" || n.Chart.Values != "" || n.Chart.Release != ""},
	} {
		if f.given && n.CNI != f.cni && slices.Contains(choices["Network.cni"], n.CNI) {
			k.refuse(path+"."+f.name, "remove it, or write `cni: "+f.cni+"`", "`%s` belongs to `cni: %s`, and this is `cni: %s`", f.name, f.cni, n.CNI)
		}
	}
	switch {
	case n.CNI == CNIFlannel && n.Policies == PoliciesEnforced && k.c.Published():
		k.refuse(path+".policies", "write `policies: ignored`, take components from `modules` or a bundle that was compiled, or install a plugin that enforces them (`cni: manifest` or `cni: chart`)",
			"the flannel that its project publishes has nothing that enforces network policies")
	case n.CNI == CNIManifest && len(n.Manifests) == 0:
		k.refuse(path+".cni", "name its files in `manifests`", "no manifest is given")
	case n.CNI == CNIManifest && slices.Contains(n.Manifests, ""):
		k.refuse(path+".manifests", "name a file or a folder", "one of the manifests is empty")
	case n.CNI == CNIChart && n.Chart.Path == "":
		k.refuse(path+".cni", "name its archive or folder in `chart.path`", "no chart is given")
	case n.CNI == CNIChart && strings.Contains(n.Chart.Path, "://"):
		k.refuse(path+".chart.path", "download it first (`helm pull`), so that every plan sees the same chart", "`%s` is not a file", n.Chart.Path)
	}
	if i := slices.IndexFunc(n.Manifests, func(m string) bool { return strings.Contains(m, "://") }); i >= 0 {
		k.refuse(path+".manifests", "download it first, so that every plan sees the same manifest", "`%s` is not a file", n.Manifests[i])
	}
	if n.CNI == CNIChart {
		k.label(path+".chart.namespace", n.Chart.Namespace)
		if n.Chart.Release != "" && len(validation.IsDNS1123Subdomain(n.Chart.Release)) > 0 {
			k.refuse(path+".chart.release", "use lower-case letters, digits and dashes", "`%s` cannot be a release's name", n.Chart.Release)
		}
	}
}
