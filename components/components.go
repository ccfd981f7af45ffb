// Package components holds the sources of what a cluster is made of: for every Kubernetes minor the
// pinned Go modules and the few programs of our own, embedded, so that an installed quorate can
// build a bundle anywhere.
//
// The sources of one component lie in <minor>/_modules/<name>. The underscore keeps the go tool from
// taking them for packages of this module; go.mod and go.sum have the ending .embed there, because a
// folder with a go.mod is another module, and another module's files cannot be embedded.
// After a version in a release's table was changed, `go run ./components/tidy` brings the modules in line.
package components

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

//go:embed all:v1.37/_modules
var sources embed.FS

// embedSuffix is what go.mod and go.sum end in while they are embedded.
const embedSuffix = ".embed"

// Release is everything that clusters of one Kubernetes version are made of.
type Release struct {
	Kubernetes string // version, with v
	Components []Component
	Images     []Image
	Host       Image // what is unpacked to a host's root

	dir string
}

// Component becomes one image layer, stored and shipped once however many images use it.
// Exactly one of Go, C and Debian says where its files come from; Dirs, Links and Texts may stand alone.
type Component struct {
	Name     string
	Version  string
	Contents map[string]string `json:",omitempty"` // other projects' programs in it, with versions
	Go       *GoBuild          `json:",omitempty"`
	C        *CBuild           `json:",omitempty"`
	Debian   *DebianFiles      `json:",omitempty"`
	Dirs     []Dir             `json:",omitempty"`
	Links    map[string]string `json:",omitempty"` // path in the layer: target
	Texts    map[string]string `json:",omitempty"` // path in the layer: content of a small file
	Kubeadm  []string          `json:",omitempty"` // how to call the kubeadm in it: path in the layer, arguments
}

// GoBuild compiles packages of one pinned module.
type GoBuild struct {
	Require  map[string]string // modules that go.mod requires at just this version
	Staging  string            `json:",omitempty"` // version of Kubernetes' staging modules, where they are needed
	Cgo      bool              `json:",omitempty"` // linked statically all the same
	Tags     []string          `json:",omitempty"`
	Stamp    map[string]string `json:",omitempty"` // string variables set by the linker
	Binaries []Binary
}

// Binary is one program.
type Binary struct {
	Path           string   // in the layer
	Package        string   // import path
	Tags           []string `json:",omitempty"` // beside those of the build
	NetBindService bool     `json:",omitempty"` // file capability: may bind ports below 1024 without being root
}

// CBuild compiles one C file to a static program.
type CBuild struct {
	Source string
	Path   string
	Define map[string]string `json:",omitempty"`
}

// DebianFiles takes a program and the shared libraries it needs, nothing else, out of Debian packages.
type DebianFiles struct {
	Package string
	Program string
}

// Dir is an empty folder.
type Dir struct {
	Path string
	Mode fs.FileMode
}

// Image is a container image: some components' layers and how to start it.
type Image struct {
	Short      string // the name's last part, without the tag
	Name       string // full name; empty for those that kubeadm names
	Components []string
	Entrypoint []string
	Cmd        []string
	User       string
}

// releases are all that can be built, oldest first.
var releases = []Release{v1_37}

// Releases are all versions that can be built, oldest first.
func Releases() []Release { return append([]Release(nil), releases...) }

// Lookup finds the release of a Kubernetes version.
func Lookup(version string) (Release, bool) {
	for _, r := range releases {
		if r.Kubernetes == version {
			return r, true
		}
	}
	return Release{}, false
}

// Component finds a component by name.
func (r Release) Component(name string) (Component, bool) {
	for _, c := range r.Components {
		if c.Name == name {
			return c, true
		}
	}
	return Component{}, false
}

// Files are a component's sources by file name, as they must lie on disk to be compiled; test files
// are left out. A component without sources of its own has none.
func (r Release) Files(component string) (map[string][]byte, error) {
	return r.files(component, func(name string) bool { return !strings.HasSuffix(name, "_test.go") })
}

// FilesWithTests are a component's sources and their tests.
func (r Release) FilesWithTests(component string) (map[string][]byte, error) {
	return r.files(component, func(string) bool { return true })
}

func (r Release) files(component string, keep func(string) bool) (map[string][]byte, error) {
	files := map[string][]byte{}
	root := path.Join(r.dir, "_modules", component)
	err := fs.WalkDir(sources, root, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == root {
			return nil
		}
		if err != nil || e.IsDir() || !keep(name) {
			return err
		}
		raw, err := sources.ReadFile(name)
		if err != nil {
			return err
		}
		files[strings.TrimSuffix(strings.TrimPrefix(name, root+"/"), embedSuffix)] = raw
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("embedded sources of %s for Kubernetes %s: %w", component, r.Kubernetes, err)
	}
	return files, nil
}

// SourceDir is where a component's sources lie below this package's folder.
func (r Release) SourceDir(component string) string {
	return filepath.Join(r.dir, "_modules", component)
}

// EmbedName is what a file is called in SourceDir.
func EmbedName(file string) string {
	if file == "go.mod" || file == "go.sum" {
		return file + embedSuffix
	}
	return file
}

// Write puts files into dir, which it makes.
func Write(dir string, files map[string][]byte) error {
	for name, raw := range files {
		target := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("write sources: %w", err)
		}
		if err := os.WriteFile(target, raw, 0o644); err != nil {
			return fmt.Errorf("write sources: %w", err)
		}
	}
	return nil
}
