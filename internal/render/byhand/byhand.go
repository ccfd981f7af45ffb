// Package byhand writes the guide for exactly one spec: what an operator would do without Quorate, in the order of
// kubeadm's documentation for highly available clusters, with the reason for each part. It is pure, and what it writes
// can be run: a test does, and the bootstrap benchmark races against it.
package byhand

import (
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// Transcript is the guide: sections in order.
type Transcript struct {
	Cluster    string `json:"cluster"`
	Kubernetes string `json:"kubernetes"`
	// Assumes is what must be so before.
	Assumes  []string  `json:"assumes"`
	Sections []Section `json:"sections"`

	hosts []spec.Host
}

// Section is one part of the way.
type Section struct {
	Title  string `json:"title"`
	Reason string `json:"reason"`
	// AtOnce says that its steps do not wait for each other; the steps of other sections come one after another.
	AtOnce bool   `json:"atOnce,omitempty"`
	Steps  []Step `json:"steps"`
}

// Step is what is done on one host, or alike on several: actions as root, or files that are brought there.
type Step struct {
	Title   string   `json:"title"`
	Hosts   []string `json:"hosts"`
	Actions []Action `json:"actions,omitempty"`
	Bring   []Bring  `json:"bring,omitempty"`
	// PrintsJoin says that kubeadm init is among the actions. The words that it prints for those who join are the shell
	// variables token, hash and key of later steps.
	PrintsJoin bool `json:"printsJoin,omitempty"`
}

// Action is files to write, and then commands to type.
type Action struct {
	Reason   string   `json:"reason"`
	Files    []File   `json:"files,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// File is a file on a host.
type File struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal
	// Append says that the content is added to what is there.
	Append bool `json:"append,omitempty"`
	// Expand says that the shell fills in variables and commands.
	Expand  bool   `json:"expand,omitempty"`
	Content string `json:"content"`
}

// Bring is a file that comes from elsewhere.
type Bring struct {
	// From is the host that has it at the same path; without it, Local is a file on the operator's machine.
	From  string `json:"from,omitempty"`
	Local string `json:"local,omitempty"`
	Path  string `json:"path"`
}

// Images is what the guide has to know of the images that nodes run.
type Images struct {
	Pause     string // the sandbox image
	Manifests map[string]manifest.Manifest
}

// Write writes the guide. The hosts of the spec have addresses.
func Write(c *spec.Cluster, images Images) (*Transcript, error) {
	w := newWriter(c, images)
	t := &Transcript{Cluster: c.Metadata.Name, Kubernetes: c.Spec.Kubernetes.Version, Assumes: w.assumes(), hosts: c.Spec.Hosts}
	for _, section := range []func() Section{
		w.prepare, w.etcd, w.firstControlPlane, w.podNetwork, w.unsharedFiles, w.controlPlanes, w.workers, w.finish,
	} {
		if s := section(); len(s.Steps) > 0 {
			t.Sections = append(t.Sections, s)
		}
	}
	return t, w.err
}
