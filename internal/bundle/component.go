package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/progress"
)

// made is a finished component: its layer and its metadata.
type made struct {
	layer
	Version  string
	Contents map[string]string `json:",omitempty"`
	Images   []string          `json:",omitempty"` // that kubeadm wants, where this component has kubeadm

	file string
}

const (
	madeFile  = "component.json"
	layerFile = "layer.tar.zst"
)

// recipe is raised when the code that makes components changes what comes out for the same sources.
const recipe = 1

// make returns a component from the cache, building it there if necessary.
func (w *workshop) make(ctx context.Context, c components.Component) (*made, error) {
	key, err := w.key(c)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(w.cache, c.Name+"-"+key)
	if !w.force {
		if m, err := loadMade(ctx, dir); err == nil {
			return m, nil
		} else if ctx.Err() != nil {
			return nil, err
		} else if !errors.Is(err, fs.ErrNotExist) {
			w.note(c, "making it again: "+err.Error())
		}
	}
	var m *made
	err = progress.Track(ctx, w.sink, "", stepID(c), c.Name+" "+c.Version, func(ctx context.Context) error {
		root, err := os.MkdirTemp(w.cache, ".work-"+c.Name+"-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(root)
		if err := w.makeIn(ctx, c, workDir{root}); err != nil {
			return err
		}
		// A finished component is one that has its name; there is no half.
		if err := durable.Rename(filepath.Join(root, "done"), dir); err != nil {
			return err
		}
		m, err = loadMade(ctx, dir)
		return err
	})
	return m, err
}

func (w *workshop) makeIn(ctx context.Context, c components.Component, dir workDir) error {
	files, err := c.Files()
	if err != nil {
		return err
	}
	if err := components.Write(dir.src(), files); err != nil {
		return err
	}
	done := filepath.Join(dir.root, "done")
	for _, d := range []string{dir.out(), done} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}

	m := made{Version: c.Version, Contents: maps.Clone(c.Contents)}
	var entries []entry
	switch {
	case c.Go != nil:
		entries, err = w.compileGo(ctx, c, dir)
	case c.C != nil:
		entries, err = w.compileC(ctx, c, dir)
	case c.Debian != nil:
		entries, m.Contents, err = w.takeDebian(ctx, c, dir)
		m.Version = m.Contents[c.Debian.Package]
	}
	if err != nil {
		return err
	}
	for _, d := range c.Dirs {
		entries = append(entries, entry{name: d.Path, mode: d.Mode, dir: true})
	}
	for name, target := range c.Links {
		entries = append(entries, entry{name: name, link: target})
	}
	for name, text := range c.Texts {
		file := filepath.Join(dir.root, "texts", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			return err
		}
		entries = append(entries, entry{name: name, mode: 0o644, source: file})
	}
	if m.Images, err = w.wantedImages(ctx, c, dir); err != nil {
		return err
	}
	if err := madeFor(w.arch, entries); err != nil {
		return err
	}
	w.note(c, "pack the layer")
	if m.layer, err = writeLayer(filepath.Join(done, layerFile), entries); err != nil {
		return err
	}
	raw, err := encode(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(done, madeFile), raw, 0o644)
}

// wantedImages asks the kubeadm that was just built which images it will look for, by which names.
func (w *workshop) wantedImages(ctx context.Context, c components.Component, dir workDir) ([]string, error) {
	if c.Kubeadm == nil {
		return nil, nil
	}
	program, args := filepath.Join(dir.out(), c.Kubeadm[0]), slices.Clone(c.Kubeadm[1:])
	if foreign(w.arch) {
		var err error
		if program, err = w.kubeadmHere(ctx, c, dir); err != nil {
			return nil, err
		}
		args = nil
	}
	ask := command{what: "ask kubeadm for its images"}
	out, err := ask.output(ctx, program, append(args, "config", "images", "list", "--kubernetes-version", w.release.Kubernetes)...)
	return strings.Fields(out), err
}

// key names a component's result by all that goes into it.
func (w *workshop) key(c components.Component) (string, error) {
	sum, err := componentSum(w.release, c)
	if err != nil {
		return "", err
	}
	inputs := []string{sum, "linux/" + w.arch} // the same sources make other binaries for another platform
	if c.Go != nil {
		inputs = append(inputs, w.tools.goVersion)
	}
	if c.C != nil || c.Go != nil && c.Go.Cgo {
		inputs = append(inputs, w.tools.cVersion)
	}
	return hashOf(inputs)[:16], nil
}

// componentSum is the sum of a component's own description and sources. A component that does not depend on the release
// has the same sum in all of them, and is made once.
func componentSum(release components.Release, c components.Component) (string, error) {
	files, err := c.Files()
	if err != nil {
		return "", err
	}
	version := ""
	if c.Kubeadm != nil { // asked for the images of this version
		version = release.Kubernetes
	}
	return hashOf([]any{recipe, version, c, files}), nil
}

// sourcesKey is the sum of all that a bundle is made of, but not of the tools that make it: a bundle
// that is there does not have to be built again because Go was updated.
func sourcesKey(release components.Release) (string, error) {
	var sums []string
	for _, c := range release.Components {
		sum, err := componentSum(release, c)
		if err != nil {
			return "", err
		}
		sums = append(sums, sum)
	}
	return hashOf([]any{sums, release.Images, release.Host}), nil
}

// hashOf sums plain data. Its JSON is the same each time: encoding/json sorts the keys of maps.
func hashOf(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("plain data does not encode: %v", err))
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// loadMade reads a finished component and verifies its layer.
func loadMade(ctx context.Context, dir string) (*made, error) {
	raw, err := os.ReadFile(filepath.Join(dir, madeFile))
	if err != nil {
		return nil, err
	}
	m := &made{file: filepath.Join(dir, layerFile)}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, madeFile), err)
	}
	f, err := os.Open(m.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hash := digest.SHA256.Hash()
	n, err := io.Copy(hash, reader{ctx, f})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.file, err)
	}
	if problem := judge(blobOf(m.Descriptor), n, digest.NewDigest(digest.SHA256, hash).String(), nil); problem != "" {
		return nil, fmt.Errorf("%s %s", m.file, problem)
	}
	return m, nil
}
