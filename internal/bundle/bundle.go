// Package bundle builds, reads, verifies, and transfers bundles: one OCI image layout per Kubernetes version
// and architecture, with everything in it addressed by digest.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/internal/paths"
)

// Annotations of our own. Those of the index say what the bundle is; those of a layer, or of an image that its
// project published, which component it holds, so that a bundle that came as a file tells as much as one that was built here.
const (
	annotationVersion  = "quorate.dev/kubernetes"
	annotationArch     = "quorate.dev/arch"
	annotationSources  = "quorate.dev/sources"
	annotationRole     = "quorate.dev/role"
	annotationName     = "quorate.dev/component"
	annotationRelease  = "quorate.dev/component.version"
	annotationContents = "quorate.dev/component.contents"

	roleHost = "host"

	// annotationImageName is what containerd takes an imported image's name from.
	annotationImageName = "io.containerd.image.name"
)

// Blob is one stored content.
type Blob struct {
	Digest    string // sha256:…
	Size      int64
	MediaType string
}

// Image is one image of a bundle, by its full name.
type Image struct {
	Name     string
	Manifest Blob
	Config   Blob
	Layers   []Blob
}

// Blobs are all that the image needs.
func (i Image) Blobs() []Blob { return append([]Blob{i.Manifest, i.Config}, i.Layers...) }

// short is the name's last part without its tag.
func (i Image) short() string { return shortName(i.Name) }

// Component is one layer of a bundle, or one published image, and what it holds.
type Component struct {
	Name     string            `json:"name"`
	Version  string            `json:"version"`
	Contents map[string]string `json:"contents,omitempty"` // further programs in it, with versions
	Digest   string            `json:"digest"`
	Size     int64             `json:"size"`
	Images   []string          `json:"images"` // that hold it, by short name
}

// Bundle is an opened layout. Opening checks the index and the manifests; Verify checks everything.
type Bundle struct {
	dir        string
	raw        []byte // the index as it is stored
	index      specs.Index
	digest     string
	images     []Image
	host       Image
	components []Component
	blobs      []Blob
	owners     map[string][]string // by digest: images and components, by name
}

// ErrNotBuilt is wrapped by the error that Open returns if there is no bundle.
var ErrNotBuilt = errors.New("no bundle here")

// DefaultDir is the directory of the bundle of a Kubernetes version for this machine's architecture.
func DefaultDir(version string) string { return DirFor(version, runtime.GOARCH) }

// DirFor is the directory of the bundle of a Kubernetes version for an architecture.
func DirFor(version, arch string) string { return placeOf(version, arch, false) }

// placeOf is the directory of the bundle without or with the images of spec.monitoring.prometheus. Each has its own, so that clusters that differ in this do
// not replace each other's.
func placeOf(version, arch string, monitoring bool) string {
	name := version + "-" + arch
	if monitoring {
		name += "-monitoring"
	}
	return paths.Cache("bundles", name)
}

// Find opens the bundle of a Kubernetes version for an architecture that is without or with the images of spec.monitoring.prometheus. Earlier versions of
// Quorate had one directory for both: what they put there is found, too.
func Find(version, arch string, monitoring bool) (*Bundle, error) {
	b, err := Open(placeOf(version, arch, monitoring))
	if !monitoring || !errors.Is(err, ErrNotBuilt) {
		return b, err
	}
	if old, err := Open(DirFor(version, arch)); err == nil && old.Monitors() {
		return old, nil
	}
	return nil, fmt.Errorf("open bundle %s: %w; run `quorate bundle build --monitoring`", placeOf(version, arch, true), ErrNotBuilt)
}

// Monitors reports whether the bundle has the images of spec.monitoring.prometheus.
func (b *Bundle) Monitors() bool { return monitors(b.index) }

func monitors(index specs.Index) bool {
	return slices.ContainsFunc(index.Manifests, func(d specs.Descriptor) bool {
		return d.Annotations[annotationRole] != roleHost && shortName(d.Annotations[annotationImageName]) == "prometheus"
	})
}

// List opens all bundles in the cache. Bundles that cannot be opened are left out and reported in the error.
func List() ([]*Bundle, error) {
	root := paths.Cache("bundles")
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	var all []*Bundle
	var failures []error
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := Open(filepath.Join(root, e.Name()))
		if err != nil {
			failures = append(failures, err)
			continue
		}
		all = append(all, b)
	}
	return all, errors.Join(failures...)
}

// Open reads a bundle's index and manifests. A damaged manifest is an error that matches *DamageError.
func Open(dir string) (*Bundle, error) {
	raw, err := os.ReadFile(filepath.Join(dir, specs.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open bundle %s: %w; run `quorate bundle build`", dir, ErrNotBuilt)
	}
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	return OpenIndex(dir, raw)
}

// OpenIndex is Open for one of several bundles that share a directory of blobs: the caller keeps the index.
func OpenIndex(dir string, index []byte) (*Bundle, error) {
	b := &Bundle{dir: dir, raw: index, digest: digest.FromBytes(index).String(), owners: map[string][]string{}}
	if err := b.read(); err != nil {
		return nil, fmt.Errorf("open bundle %s: %w", dir, err)
	}
	return b, nil
}

func (b *Bundle) read() error {
	if err := json.Unmarshal(b.raw, &b.index); err != nil {
		return fmt.Errorf("read %s: %w", specs.ImageIndexFile, err)
	}
	for _, key := range []string{annotationVersion, annotationArch} {
		if b.index.Annotations[key] == "" {
			return fmt.Errorf("%s has no annotation %s: this is an OCI layout but not a bundle", specs.ImageIndexFile, key)
		}
	}
	layers := map[string]*Component{}
	for _, d := range b.index.Manifests {
		image, err := b.readImage(d, layers)
		if err != nil {
			return err
		}
		if d.Annotations[annotationRole] == roleHost {
			b.host = image
		} else {
			b.images = append(b.images, image)
		}
	}
	if b.host.Name == "" {
		return fmt.Errorf("%s lists no host image", specs.ImageIndexFile)
	}
	for _, name := range slices.Sorted(maps.Keys(layers)) {
		b.components = append(b.components, *layers[name])
	}
	return nil
}

func (b *Bundle) readImage(d specs.Descriptor, layers map[string]*Component) (Image, error) {
	image := Image{Name: d.Annotations[annotationImageName], Manifest: blobOf(d)}
	if image.Name == "" {
		return image, fmt.Errorf("manifest %s has no name in %s", d.Digest, specs.ImageIndexFile)
	}
	if err := d.Digest.Validate(); err != nil {
		return image, fmt.Errorf("image %s: manifest: %w", image.Name, err)
	}
	b.own(image.Manifest, image.Name)
	raw, err := os.ReadFile(b.blobPath(d.Digest.String()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return image, fmt.Errorf("image %s: %w", image.Name, err)
	}
	if problem := judge(image.Manifest, int64(len(raw)), digest.FromBytes(raw).String(), err); problem != "" {
		return image, &DamageError{[]Damage{{Digest: image.Manifest.Digest, Problem: problem, BelongsTo: []string{image.Name}}}}
	}
	var manifest specs.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return image, fmt.Errorf("image %s: manifest %s: %w", image.Name, d.Digest, err)
	}
	for _, part := range append([]specs.Descriptor{manifest.Config}, manifest.Layers...) {
		if err := part.Digest.Validate(); err != nil {
			return image, fmt.Errorf("image %s: manifest %s: %w", image.Name, d.Digest, err)
		}
	}
	image.Config = blobOf(manifest.Config)
	b.own(image.Config, image.Name)
	for _, layer := range manifest.Layers {
		image.Layers = append(image.Layers, blobOf(layer))
		b.own(blobOf(layer), image.Name)
		if d.Annotations[annotationName] != "" {
			continue
		}
		if err := addComponent(layers, layer, image.short()); err != nil {
			return image, fmt.Errorf("image %s: %w", image.Name, err)
		}
	}
	// A published image is kept as its project made it, byte for byte: what it is stands beside it.
	if name := d.Annotations[annotationName]; name != "" {
		c := &Component{Name: name, Version: d.Annotations[annotationRelease], Digest: image.Manifest.Digest, Images: []string{image.short()}}
		for _, layer := range image.Layers {
			c.Size += layer.Size
		}
		layers[name] = c
	}
	return image, nil
}

func addComponent(all map[string]*Component, layer specs.Descriptor, image string) error {
	name := layer.Annotations[annotationName]
	if name == "" {
		return fmt.Errorf("layer %s has no annotation for its component", layer.Digest)
	}
	c := all[name]
	if c == nil {
		c = &Component{Name: name, Version: layer.Annotations[annotationRelease], Digest: layer.Digest.String(), Size: layer.Size}
		if contents := layer.Annotations[annotationContents]; contents != "" {
			if err := json.Unmarshal([]byte(contents), &c.Contents); err != nil {
				return fmt.Errorf("layer %s: contents: %w", layer.Digest, err)
			}
		}
		all[name] = c
	}
	c.Images = append(c.Images, image)
	return nil
}

// own notes a blob and whose it is.
func (b *Bundle) own(blob Blob, owner string) {
	if _, known := b.owners[blob.Digest]; !known {
		b.blobs = append(b.blobs, blob)
	}
	if !slices.Contains(b.owners[blob.Digest], owner) {
		b.owners[blob.Digest] = append(b.owners[blob.Digest], owner)
	}
}

func blobOf(d specs.Descriptor) Blob {
	return Blob{Digest: d.Digest.String(), Size: d.Size, MediaType: d.MediaType}
}

// Dir is the directory of the bundle.
func (b *Bundle) Dir() string { return b.dir }

// Version is the Kubernetes version.
func (b *Bundle) Version() string { return b.index.Annotations[annotationVersion] }

// Arch is the machine architecture, as in GOARCH.
func (b *Bundle) Arch() string { return b.index.Annotations[annotationArch] }

// Current reports whether this version of Quorate would build the same bundle, with or without the images of spec.monitoring.prometheus. Another
// bundle lacks what the manifests and the host configuration of this version depend on.
func (b *Bundle) Current(monitoring bool) bool {
	release, ok := releaseOf(b.Version(), monitoring)
	if !ok {
		return false
	}
	sources, err := sourcesKey(release)
	return err == nil && b.index.Annotations[annotationSources] == sources
}

// Digest is the digest of the index. It identifies everything in the bundle.
func (b *Bundle) Digest() string { return b.digest }

// Index is what Digest is the digest of.
func (b *Bundle) Index() []byte { return slices.Clone(b.raw) }

// Images are the container images, without the host image.
func (b *Bundle) Images() []Image { return slices.Clone(b.images) }

// Host is the image whose layers are unpacked to a host's root directory.
func (b *Bundle) Host() Image { return b.host }

// Image finds a container image by the last part of its name: "etcd", "kube-proxy", "flannel".
func (b *Bundle) Image(short string) (Image, bool) {
	for _, i := range b.images {
		if i.short() == short {
			return i, true
		}
	}
	return Image{}, false
}

// Components are the layers, by name.
func (b *Bundle) Components() []Component { return slices.Clone(b.components) }

// Blobs are all blobs that the index refers to, each once.
func (b *Bundle) Blobs() []Blob { return slices.Clone(b.blobs) }

// HostBlobs are the blobs that are required to open the bundle, and its binaries.
func (b *Bundle) HostBlobs() []Blob {
	blobs := b.host.Blobs()
	for _, i := range b.images {
		blobs = append(blobs, i.Manifest)
	}
	return blobs
}

// Size is the total size of the blobs, each counted once.
func (b *Bundle) Size() int64 {
	var sum int64
	for _, blob := range b.blobs {
		sum += blob.Size
	}
	return sum
}

func (b *Bundle) blobPath(d string) string { return blobPath(b.dir, d) }

// blobPath is where a layout keeps a content. The digest must have been validated.
func blobPath(dir, d string) string {
	algorithm, hex, _ := strings.Cut(d, ":")
	return filepath.Join(dir, specs.ImageBlobsDir, algorithm, hex)
}

// Etcd is the version of etcd in the bundle, such as v3.7.3; empty if the bundle does not tell.
func (b *Bundle) Etcd() string {
	for _, c := range b.components {
		if c.Name == "etcd" {
			return c.Version
		}
		if v := c.Contents["etcd"]; v != "" {
			return v
		}
	}
	return ""
}
