package components

import (
	"path"
	"slices"
	"strings"
)

// Simulator is kwok, which simulates nodes and their pods: it renews leases, reports status, and has pods become ready that run
// nowhere. No release contains it. `quorate lab scale` compiles it.
var Simulator = Component{
	Name:    "kwok",
	Version: "v0.8.0",
	Go: &GoBuild{
		Require:  map[string]string{"sigs.k8s.io/kwok": "v0.8.0"},
		Binaries: []Binary{{Path: "usr/local/bin/kwok", Package: "sigs.k8s.io/kwok/cmd/kwok"}},
	},
}

// Extras are components that no release contains. Those of monitoring are in the bundle of a cluster whose spec asks for them: see Monitored.
func Extras() []Component { return append([]Component{Simulator}, monitoring...) }

// monitoring are the programs that watch a cluster from inside of it, the largest first. They have the same versions with every release of Kubernetes.
var monitoring = []Component{
	promProgram("prometheus", "v3.16.0", "github.com/prometheus/prometheus", "v0.316.0", "cmd/prometheus",
		// The targets are in the configuration, and the Alertmanagers in DNS. Clients of two dozen clouds would make the program four times as large.
		"remove_all_sd", "enable_dns_sd"),
	// Later modules cannot be compiled: they embed files of the web interface that they do not contain.
	promProgram("alertmanager", "v0.31.1", "github.com/prometheus/alertmanager", "v0.31.1", "cmd/alertmanager"),
	promProgram("kube-state-metrics", "v2.18.0", "k8s.io/kube-state-metrics/v2", "v2.18.0", ""),
	promProgram("node-exporter", "v1.12.1", "github.com/prometheus/node_exporter", "v1.12.1", ""),
	// What Alertmanager sends messages with goes to servers on the internet.
	{Name: "ca-certificates", Version: "debian", Debian: &DebianFiles{Package: "ca-certificates", Folder: "usr/share/ca-certificates/mozilla"}},
}

// promProgram is a program in the style of the Prometheus project: one binary, which knows its version from the linker.
func promProgram(name, version, module, moduleVersion, dir string, tags ...string) Component {
	return Component{
		Name:    name,
		Version: version,
		Go: &GoBuild{
			Require:  map[string]string{module: moduleVersion},
			Tags:     append([]string{"netgo"}, tags...),
			Stamp:    map[string]string{"github.com/prometheus/common/version.Version": strings.TrimPrefix(version, "v")},
			Binaries: []Binary{{Path: name, Package: path.Join(module, dir)}},
		},
	}
}

// Monitored is the release with the components and images of spec.monitoring.prometheus.
func (r Release) Monitored() Release {
	const nobody = "65534:65534"
	r.Components = slices.Concat(r.Components, monitoring)
	r.Images = slices.Clone(r.Images)
	for _, c := range monitoring {
		if c.Go == nil {
			continue
		}
		image := Image{Short: c.Name, Name: "quorate.dev/" + c.Name + ":" + c.Version, Components: []string{c.Name}, Entrypoint: []string{"/" + c.Name}, User: nobody}
		if c.Name == "alertmanager" {
			image.Components = append(image.Components, "ca-certificates")
		}
		r.Images = append(r.Images, image)
	}
	return r
}

// All are the components of all releases, and those that no release contains. One that releases share is there several times.
func All() (out []Component) {
	for _, r := range releases {
		out = append(out, r.Components...)
	}
	return append(out, Extras()...)
}
