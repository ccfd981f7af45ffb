// Package byhand writes the guide for one spec: what an operator would do without Quorate, in the order of kubeadm's
// documentation for highly available clusters, with the reason for each part. It is pure. The guide can be run: a test does
// so, and the bootstrap benchmark compares Quorate with it.
package byhand

import (
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// Transcript is the guide: sections in order.
type Transcript struct {
	Cluster    string `json:"cluster"`
	Kubernetes string `json:"kubernetes"`
	// Assumes lists the prerequisites.
	Assumes  []string  `json:"assumes"`
	Sections []Section `json:"sections"`

	hosts []spec.Host
}

// Section is one part of the guide.
type Section struct {
	Title  string `json:"title"`
	Reason string `json:"reason"`
	// AtOnce says that the steps of the section run in parallel; the steps of other sections run one after another.
	AtOnce bool   `json:"atOnce,omitempty"`
	Steps  []Step `json:"steps"`
}

// Step is what to do on one host, or in the same way on several: actions to run as root, or files to copy there.
type Step struct {
	Title   string   `json:"title"`
	Hosts   []string `json:"hosts"`
	Actions []Action `json:"actions,omitempty"`
	Bring   []Bring  `json:"bring,omitempty"`
	// PrintsJoin says that kubeadm init is among the actions. The join parameters that it prints are the shell variables
	// token, hash, and key of later steps.
	PrintsJoin bool `json:"printsJoin,omitempty"`
}

// Action is a set of files to write, and then commands to type.
type Action struct {
	Reason   string   `json:"reason"`
	Files    []File   `json:"files,omitempty"`
	Commands []string `json:"commands,omitempty"`
}

// File is a file on a host.
type File struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal
	// Append says that the content is appended to the file.
	Append bool `json:"append,omitempty"`
	// Expand says that the shell expands variables and commands in the content.
	Expand  bool   `json:"expand,omitempty"`
	Content string `json:"content"`
}

// Bring is a file to copy from another machine.
type Bring struct {
	// From is the host that has the file at the same path. If it is empty, Local is a file on the operator's machine.
	From  string `json:"from,omitempty"`
	Local string `json:"local,omitempty"`
	Path  string `json:"path"`
}

// Images is what the guide needs to know about the images that nodes run.
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
