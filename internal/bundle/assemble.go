package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/paths"
)

// beginLayout starts a layout beside the finished bundles. The caller calls done when it is installed or given up.
func beginLayout(ctx context.Context, version, arch, sources string) (l *layout, done func(), err error) {
	root := paths.Cache("bundles")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, nil, fmt.Errorf("assemble bundle: %w", err)
	}
	tmp, err := os.MkdirTemp(root, ".build-")
	if err != nil {
		return nil, nil, fmt.Errorf("assemble bundle: %w", err)
	}
	return &layout{ctx: ctx, dir: tmp, arch: arch, index: v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Annotations: map[string]string{
			annotationVersion: version,
			annotationArch:    arch,
			annotationSources: sources,
		},
	}}, func() { os.RemoveAll(tmp) }, nil
}

// assemble writes the layout of finished components and puts it into dir.
func (w *workshop) assemble(ctx context.Context, layers map[string]*made, sources, dir string) (*Bundle, error) {
	l, done, err := beginLayout(ctx, w.release.Kubernetes, w.arch, sources)
	if err != nil {
		return nil, err
	}
	defer done()
	wanted := map[string]string{} // by short name
	for _, m := range layers {
		for _, name := range m.Images {
			wanted[shortName(name)] = name
		}
	}
	for _, image := range w.release.Images {
		if image.Name == "" {
			if image.Name = wanted[image.Short]; image.Name == "" {
				return nil, fmt.Errorf("assemble bundle: kubeadm %s does not need an image %s", w.release.Kubernetes, image.Short)
			}
			delete(wanted, image.Short)
		}
		if err := l.addImage(image, layers, ""); err != nil {
			return nil, fmt.Errorf("assemble bundle: image %s: %w", image.Name, err)
		}
	}
	for _, name := range wanted {
		return nil, fmt.Errorf("assemble bundle: kubeadm %s needs %s, which no component builds", w.release.Kubernetes, name)
	}
	if err := l.addImage(w.release.Host, layers, roleHost); err != nil {
		return nil, fmt.Errorf("assemble bundle: host image: %w", err)
	}
	if err := l.finish(); err != nil {
		return nil, fmt.Errorf("assemble bundle: %w", err)
	}
	fresh, err := Open(l.dir)
	if err != nil {
		return nil, err
	}
	return install(ctx, fresh, dir)
}

func shortName(image string) string {
	name, _, _ := strings.Cut(path.Base(image), ":")
	return name
}

// layout is an OCI image layout that is being written.
type layout struct {
	ctx   context.Context
	dir   string
	arch  string
	index v1.Index
}

// searchPath is what images and shells have: kubeadm's manifests name programs without their folder.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (l *layout) addImage(image components.Image, layers map[string]*made, role string) error {
	platform := v1.Platform{OS: "linux", Architecture: l.arch}
	config := v1.Image{
		Platform: platform,
		Config: v1.ImageConfig{
			User: image.User, Env: []string{searchPath},
			Entrypoint: image.Entrypoint, Cmd: image.Cmd, WorkingDir: "/",
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, name := range image.Components {
		m := layers[name]
		if m == nil {
			return fmt.Errorf("no component %q", name)
		}
		if err := l.addFile(m.file, m.Descriptor); err != nil {
			return err
		}
		d := m.Descriptor
		d.Annotations = map[string]string{annotationName: name, annotationRelease: m.Version}
		if len(m.Contents) > 0 {
			contents, err := encode(m.Contents)
			if err != nil {
				return err
			}
			d.Annotations[annotationContents] = string(contents)
		}
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, m.DiffID)
		config.History = append(config.History, v1.History{CreatedBy: name + " " + m.Version})
	}
	var err error
	if manifest.Config, err = l.add(v1.MediaTypeImageConfig, config); err != nil {
		return err
	}
	d, err := l.add(v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	d.Platform = &platform
	d.Annotations = map[string]string{annotationImageName: image.Name, v1.AnnotationRefName: image.Name}
	if role != "" {
		d.Annotations[annotationRole] = role
	}
	l.index.Manifests = append(l.index.Manifests, d)
	return nil
}

func (l *layout) add(mediaType string, v any) (v1.Descriptor, error) {
	raw, err := encode(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return d, l.write(blobPath(l.dir, d.Digest.String()), raw)
}

func (l *layout) write(file string, raw []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o644)
}

// addFile copies a layer, so that damage to a bundle leaves the component it can be mended from.
func (l *layout) addFile(file string, d v1.Descriptor) error {
	target := blobPath(l.dir, d.Digest.String())
	if _, err := os.Stat(target); err == nil {
		return nil // another image's layer, too
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	out, err := os.Create(target)
	if err != nil {
		return err
	}
	hash := digest.SHA256.Hash()
	n, err := io.Copy(io.MultiWriter(out, hash), reader{l.ctx, in})
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", file, err)
	}
	if problem := judge(blobOf(d), n, digest.NewDigest(digest.SHA256, hash).String(), nil); problem != "" {
		return fmt.Errorf("copy %s: it %s", file, problem)
	}
	return nil
}

func (l *layout) finish() error {
	raw, err := encode(l.index)
	if err != nil {
		return err
	}
	return errors.Join(
		l.write(filepath.Join(l.dir, v1.ImageLayoutFile), layoutFile),
		l.write(filepath.Join(l.dir, v1.ImageIndexFile), raw))
}
