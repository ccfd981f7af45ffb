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

// RelativeTo resolves the relative paths of the spec against dir, the directory of the spec.
func (c *Cluster) RelativeTo(dir string) {
	n := &c.Spec.Network
	n.Manifests = slices.Clone(n.Manifests)
	for i := range n.Manifests {
		n.Manifests[i] = below(dir, n.Manifests[i])
	}
	n.Chart.Path, n.Chart.Values = below(dir, n.Chart.Path), below(dir, n.Chart.Values)
	s := &c.Spec.Components.Signatures
	s.PublicKeyFile, s.TrustedRootFile = below(dir, s.PublicKeyFile), below(dir, s.TrustedRootFile)
	a := &c.Spec.Settings.APIServer
	a.AuditPolicyFile, a.AuthenticationConfigFile = below(dir, a.AuditPolicyFile), below(dir, a.AuthenticationConfigFile)
	b := &c.Spec.Backup
	b.SFTP.KeyFile, b.S3.CredentialsFile, b.S3.CAFile = below(dir, b.SFTP.KeyFile), below(dir, b.S3.CredentialsFile), below(dir, b.S3.CAFile)
	c.Spec.Settings.Registries = slices.Clone(c.Spec.Settings.Registries)
	for i := range c.Spec.Settings.Registries {
		r := &c.Spec.Settings.Registries[i]
		r.CAFile = below(dir, r.CAFile)
	}
}

func below(dir, path string) string {
	if path == "" || filepath.IsAbs(path) || strings.HasPrefix(path, "~/") {
		return path
	}
	return filepath.Join(dir, path)
}

// Wrong returns an error about a field that can be detected only when the spec is used, such as an unreadable file.
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
			k.refuse(path+"."+f.name, "remove it, or write `cni: "+f.cni+"`", "`%s` belongs to `cni: %s`, but this is `cni: %s`", f.name, f.cni, n.CNI)
		}
	}
	switch {
	case n.CNI == CNIFlannel && n.Policies == PoliciesEnforced && k.c.Published():
		k.refuse(path+".policies", "set `policies: ignored`, use the source `modules` or a compiled bundle, or install a plugin that enforces them (`cni: manifest` or `cni: chart`)",
			"flannel as its project publishes it does not enforce network policies")
	case n.CNI == CNIManifest && len(n.Manifests) == 0:
		k.refuse(path+".cni", "list its files in `manifests`", "no manifest is set")
	case n.CNI == CNIManifest && slices.Contains(n.Manifests, ""):
		k.refuse(path+".manifests", "set it to a file or a directory", "one of the manifests is empty")
	case n.CNI == CNIChart && n.Chart.Path == "":
		k.refuse(path+".cni", "set `chart.path` to its archive or directory", "no chart is set")
	case n.CNI == CNIChart && strings.Contains(n.Chart.Path, "://"):
		k.refuse(path+".chart.path", "download it first (`helm pull`), so that every plan sees the same chart", "`%s` is not a file", n.Chart.Path)
	}
	if i := slices.IndexFunc(n.Manifests, func(m string) bool { return strings.Contains(m, "://") }); i >= 0 {
		k.refuse(path+".manifests", "download it first, so that every plan sees the same manifest", "`%s` is not a file", n.Manifests[i])
	}
	if n.CNI == CNIChart {
		k.label(path+".chart.namespace", n.Chart.Namespace)
		if n.Chart.Release != "" && len(validation.IsDNS1123Subdomain(n.Chart.Release)) > 0 {
			k.refuse(path+".chart.release", "use lower-case letters, digits, and dashes", "`%s` cannot be the name of a release", n.Chart.Release)
		}
	}
}
