package components

import (
	"path"
	"slices"
	"strings"
)

// Architectures are those for which bundles can be made, as in GOARCH. Hosts can have any of them.
var Architectures = []string{"amd64", "arm64"}

// Published says where the projects themselves publish what a bundle is made of.
type Published struct {
	Files  []PublishedFile
	Images []PublishedImage
}

// PublishedFile is one file of a release: a program, or an archive of some.
type PublishedFile struct {
	Component string // the layer that it goes into
	Version   string
	URL       string // {arch} stands for the architecture
	Checksum  string // URL of a file with its SHA-256 or SHA-512, alone or in a list
	// Programs maps paths in the layer to members of the archive; to "" where the file is the program.
	Programs map[string]string
	// Kubeadm is the path in the layer of the program that is asked for the names of images, where this file has it.
	Kubeadm string

	pattern *PublishedFile // with {arch}, where this is one of its files
}

// PublishedImage is an image that kubeadm does not name.
type PublishedImage struct {
	Short string // as in Release.Images, which has the name that the bundle gives it
	From  string // its published name
}

// For resolves the file for an architecture, also if it is the one for another.
func (f PublishedFile) For(arch string) PublishedFile {
	pattern := f
	if f.pattern != nil {
		pattern = *f.pattern
	}
	f = pattern
	f.pattern = &pattern
	f.URL, f.Checksum = forArch(f.URL, arch), forArch(f.Checksum, arch)
	programs := map[string]string{}
	for target, member := range f.Programs {
		programs[target] = forArch(member, arch)
	}
	f.Programs = programs
	return f
}

func forArch(s, arch string) string { return strings.ReplaceAll(s, "{arch}", arch) }

// Name is the file's own name.
func (f PublishedFile) Name() string { return path.Base(f.URL) }

// PublishedFor is Published of a version of Kubernetes, with the release. It is false for a version that is no patch release of a minor that
// can be built.
func PublishedFor(version, arch string) (Release, Published, bool) {
	r, ok := PublishedRelease(version)
	if !ok {
		return r, Published{}, false
	}
	p, ok := r.Published(arch)
	return r, p, ok
}

// StableURL is where Kubernetes publishes the version of the newest patch release of a minor release, such as v1.37.
func StableURL(minor string) string {
	return "https://dl.k8s.io/release/stable-" + strings.TrimPrefix(minor, "v") + ".txt"
}

// Published is where the projects publish this release for an architecture. It is false for a release that is not one of
// Releases or of PublishedRelease, and for an architecture for which bundles cannot be made.
func (r Release) Published(arch string) (Published, bool) {
	if r.versions == (versions{}) || !slices.Contains(Architectures, arch) {
		return Published{}, false
	}
	p := r.versions.published()
	for i, f := range p.Files {
		p.Files[i] = f.For(arch)
	}
	return p, true
}
