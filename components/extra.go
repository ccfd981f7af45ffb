package components

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

// Extras are components that no release contains.
func Extras() []Component { return []Component{Simulator} }

// All are the components of all releases, and those that no release contains. One that releases share is there several times.
func All() (out []Component) {
	for _, r := range releases {
		out = append(out, r.Components...)
	}
	return append(out, Extras()...)
}
