// Package components holds what a cluster is made of: the versions of every release, the pinned Go modules, and the few
// programs of our own. All of it is embedded, so that an installed quorate can build a bundle anywhere.
//
// programs/<component> has our own programs, once for all releases. Each folder is the root of a Go module of its own: the
// programs import what the root module must not depend on, so go.mod tells the go command to ignore them.
// modules/<component>/<version>.mod and .sum are the go.mod and go.sum of that module at one version of the component.
// Releases with the same version of a component share them. They are not in the folders of the programs, because the files
// of a nested module cannot be embedded, and because a program can have several.
//
// variants/<component>/<variant> has the files that take the place of those with the same names where a release needs other
// code. They are apart from the programs, so that a new one does not compile the component again for the other releases.
//
// After a change in a release's versions, `go run ./components/tidy` brings the modules in line. `go run ./components/check`
// runs go vet and staticcheck on the programs, each in its own module.
package components

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

//go:embed modules programs variants
var sources embed.FS

// Release is everything that clusters of one Kubernetes version are made of.
type Release struct {
	Kubernetes string // version, with v
	Components []Component
	Images     []Image
	Host       Image // what is unpacked to a host's root

	versions versions
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
	Variant  string            `json:",omitempty"` // of its sources
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

// DebianFiles takes a program and the shared libraries it needs, or all files of a folder, and nothing else, out of Debian packages.
type DebianFiles struct {
	Package string
	Program string `json:",omitempty"`
	Folder  string `json:",omitempty"`
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
var releases = []Release{v1_36.release(), v1_37.release()}

// oldestManaged is the oldest minor release of clusters that Quorate can work with, whether or not it can build their bundle:
// since then, kubeadm's configuration and the parts of the API that Quorate reads are as they are now.
const oldestManaged = 33

// Managed are the minor releases of clusters that Quorate can work with, such as v1.36, oldest first. They are more than those
// that can be built: a newer quorate never refuses to look at an older cluster.
func Managed() (out []string) {
	newest, err := strconv.Atoi(releases[len(releases)-1].versions.minor())
	if err != nil {
		panic("components: " + err.Error()) // a test lists them
	}
	for minor := oldestManaged; minor <= newest; minor++ {
		out = append(out, fmt.Sprintf("v1.%d", minor))
	}
	return out
}

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

// patchRelease is the version of a release, and of no pre-release.
var patchRelease = regexp.MustCompile(`^v1\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$`)

// Minors are the minor releases of which bundles can be made, such as v1.37, oldest first.
func Minors() (out []string) {
	for _, r := range releases {
		out = append(out, "v1."+r.versions.minor())
	}
	return out
}

// PublishedRelease is the release of a Kubernetes version as its projects publish it. Every patch release of a minor that can be built has one:
// Kubernetes in that version, and everything else in the versions that the minor has here. Only those of Releases can also be compiled.
func PublishedRelease(version string) (Release, bool) {
	if r, ok := Lookup(version); ok {
		return r, true
	}
	m := patchRelease.FindStringSubmatch(version)
	if m == nil {
		return Release{}, false
	}
	for _, r := range releases {
		if v := r.versions; v.minor() == m[1] {
			v.Kubernetes, v.BuildDate = version, "" // which is only for what is compiled
			return v.release(), true
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

// Own reports whether a component contains Go programs of our own.
func (c Component) Own() bool {
	if c.Go == nil {
		return false
	}
	_, err := fs.Stat(sources, path.Join(programs, c.Name))
	return err == nil
}

const (
	programs = "programs"
	variants = "variants"
	modules  = "modules"
)

// Files are a component's sources by file name, as they must lie on disk to be compiled. Tests are left out. A component
// that is not compiled has none.
func (c Component) Files() (map[string][]byte, error) {
	return c.files(func(name string) bool { return !strings.HasSuffix(name, "_test.go") })
}

// FilesWithTests are a component's sources and their tests.
func (c Component) FilesWithTests() (map[string][]byte, error) {
	return c.files(func(string) bool { return true })
}

func (c Component) files(keep func(string) bool) (map[string][]byte, error) {
	files := map[string][]byte{}
	roots := []string{path.Join(programs, c.Name)}
	if c.Variant != "" {
		roots = append(roots, path.Join(variants, c.Name, c.Variant))
	}
	var err error
	for _, root := range roots {
		err = errors.Join(err, fs.WalkDir(sources, root, func(name string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && name == root && c.Variant == "" {
				return nil
			}
			if err != nil || e.IsDir() || !keep(name) {
				return err
			}
			files[strings.TrimPrefix(name, root+"/")], err = sources.ReadFile(name)
			return err
		}))
	}
	for name, pinned := range c.ModuleFiles() {
		if err == nil {
			files[name], err = sources.ReadFile(filepath.ToSlash(pinned))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("embedded sources of %s %s: %w", c.Name, c.Version, err)
	}
	return files, nil
}

// ModuleFiles are the files of this package's folder that pin the modules of a component, by the names that the go command
// expects: go.mod and go.sum.
func (c Component) ModuleFiles() map[string]string {
	if c.Go == nil {
		return nil
	}
	base := filepath.Join(modules, c.Name, c.Version)
	return map[string]string{"go.mod": base + ".mod", "go.sum": base + ".sum"}
}

// ProgramDir is the folder below this package's with our own programs of a component.
func (c Component) ProgramDir() string { return filepath.Join(programs, c.Name) }

// Pinned are the versions of a component that have pinned modules, in no particular order.
func Pinned(component string) ([]string, error) {
	found, err := fs.Glob(sources, path.Join(modules, component, "*.mod"))
	for i, name := range found {
		found[i] = strings.TrimSuffix(path.Base(name), ".mod")
	}
	return found, err
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
