package bundle

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/registry"
)

// Mirror says where to find what the projects publish. The zero value means their own addresses.
type Mirror struct {
	Releases string // base address of released files: a file is below it at its own host's name and path
	Registry string // registry, with or without a path, that has the images at their own path and tag
	Access   fetch.Access
}

// File is where the mirror has a released file.
func (m Mirror) File(published string) string {
	u, err := url.Parse(published)
	if m.Releases == "" || err != nil {
		return published
	}
	return strings.TrimSuffix(m.Releases, "/") + "/" + u.Host + u.Path
}

// Image is where the mirror has an image.
func (m Mirror) Image(published string) string {
	_, rest, ok := strings.Cut(published, "/")
	if m.Registry == "" || !ok {
		return published
	}
	return strings.TrimSuffix(m.Registry, "/") + "/" + rest
}

// publishedPrefix begins the sources key of bundles that were put together from published releases.
const publishedPrefix = "published-"

// IsPublished reports whether the bundle was assembled from what the projects publish.
func (b *Bundle) IsPublished() bool {
	return strings.HasPrefix(b.index.Annotations[annotationSources], publishedPrefix)
}

// publishedKey is the sum of all that such a bundle is made of; where it was taken from does not matter.
func publishedKey(r components.Release, p components.Published) string {
	return publishedPrefix + hashOf([]any{recipe, r.Kubernetes, p, r.Images, r.Host.Name})
}

// GetOptions says what to assemble from published releases.
type GetOptions struct {
	Version    string
	Arch       string // as in GOARCH; empty: this machine's
	Mirror     Mirror
	Signatures Signatures
	Digest     string // what the bundle's digest must be; empty: whatever it is
	Progress   progress.Sink
}

// PinError says that a bundle does not have the required digest.
type PinError struct{ What, Want, Got string }

func (e *PinError) Error() string {
	return fmt.Sprintf("%s has the digest %s instead of %s: the published files have changed, or another version of quorate built the bundle with the recorded digest; "+
		"find out which before you change components.digest", e.What, e.Got, e.Want)
}

func pinned(b *Bundle, want, what string) error {
	if want != "" && b.Digest() != want {
		return &PinError{what, want, b.Digest()}
	}
	return nil
}

// Here reports whether Get would have nothing to download. It does not read the bundle.
func Here(o GetOptions) bool {
	arch, err := archOf(o.Arch)
	release, published, ok := components.PublishedFor(o.Version, arch)
	if err != nil || !ok {
		return false
	}
	b, err := Open(DirFor(o.Version, arch))
	if err != nil || b.index.Annotations[annotationSources] != publishedKey(release, published) {
		return false
	}
	signers, err := o.Signatures.signers()
	return err == nil && (o.Digest != "" || signers.seen(b))
}

// Get assembles the bundle of a version from what the projects publish, or returns the existing one.
func Get(ctx context.Context, o GetOptions) (*Bundle, error) {
	arch, err := archOf(o.Arch)
	if err != nil {
		return nil, err
	}
	release, published, ok := components.PublishedFor(o.Version, arch)
	if !ok {
		return nil, &UnknownVersionError{o.Version}
	}
	if o.Progress == nil {
		o.Progress = progress.Discard
	}
	w := &workshop{release: release, arch: arch, sink: o.Progress, cache: paths.Cache("components"), noted: map[string]time.Time{}}
	return w.get(ctx, published, o)
}

func (w *workshop) get(ctx context.Context, published components.Published, o GetOptions) (*Bundle, error) {
	signers, err := o.Signatures.signers()
	if err != nil {
		return nil, err
	}
	unlock, err := w.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, key := DirFor(w.release.Kubernetes, w.arch), publishedKey(w.release, published)
	if b := w.existing(ctx, dir, key); b != nil {
		// Whoever noted the digest has said which one it must be; that is more than a signature says.
		if o.Digest != "" || signers.seen(b) {
			return b, pinned(b, o.Digest, dir)
		}
		w.sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "bundle", Detail: "downloading again: nobody has verified the signatures of the one that is here"})
	}
	if err := w.sweep(); err != nil {
		return nil, err
	}
	g := &gathering{workshop: w, published: published, mirror: o.Mirror, depot: newDepot(), names: map[string]string{}, signers: signers}
	if g.files, err = o.Mirror.Access.Client(o.Mirror.Releases); err != nil {
		return nil, err
	}
	if g.images, err = registry.New(o.Mirror.Access); err != nil {
		return nil, err
	}
	b, err := g.bundle(ctx, key, dir, o.Digest)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted (run it again to continue; what was downloaded is kept): %w", err)
		}
		return nil, fmt.Errorf("assemble the bundle for Kubernetes %s: %w", w.release.Kubernetes, err)
	}
	return b, errors.Join(signers.note(b), g.depot.clear())
}

// lock keeps two processes from making bundles at once.
func (w *workshop) lock(ctx context.Context) (unlock func(), err error) {
	unlock, err = lock(ctx, filepath.Join(w.cache, ".lock"), func() {
		w.sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "bundle", Detail: "waiting: another quorate is building"})
	})
	if err != nil {
		return nil, fmt.Errorf("build bundle: %w", err)
	}
	return unlock, nil
}

// depot keeps downloads by digest until they are part of a bundle.
type depot struct {
	dir string
	one *singleflight.Group // images share layers, and two downloads must not write one file
}

func newDepot() depot { return depot{paths.Cache("downloads"), new(singleflight.Group)} }

// ensure calls get for a content that is not there yet.
func (d depot) ensure(ctx context.Context, sum digest.Digest, get func(file string) error) error {
	_, err, _ := d.one.Do(sum.String(), func() (any, error) {
		have, err := fetch.Has(ctx, d.path(sum), sum)
		if err == nil && !have {
			err = get(d.path(sum))
		}
		return nil, err
	})
	return err
}

func (d depot) path(sum digest.Digest) string {
	return filepath.Join(d.dir, sum.Algorithm().String()+"-"+sum.Encoded())
}

func (d depot) clear() error {
	if err := os.RemoveAll(d.dir); err != nil {
		return fmt.Errorf("remove downloaded files: %w", err)
	}
	return nil
}

// gathering collects one bundle's parts.
type gathering struct {
	*workshop
	published components.Published
	mirror    Mirror
	depot     depot
	files     *fetch.Client
	images    *registry.Client
	signers   *signers
	names     map[string]string // of the images that kubeadm wants, by short name
}

// parallel is the number of parallel downloads: enough to use the bandwidth, few enough not to overload a mirror.
const parallel = 4

func (g *gathering) bundle(ctx context.Context, key, dir, digest string) (*Bundle, error) {
	layers, order, err := g.programs(ctx)
	if err != nil {
		return nil, err
	}
	found, err := g.fetchImages(ctx)
	if err != nil {
		return nil, err
	}
	l, done, err := beginLayout(ctx, g.release.Kubernetes, g.arch, key)
	if err != nil {
		return nil, err
	}
	defer done()
	for _, image := range found {
		if err := l.addPublished(image, g.depot); err != nil {
			return nil, fmt.Errorf("image %s: %w", image.name, err)
		}
	}
	host := components.Image{Name: g.release.Host.Name, Components: order}
	if err := l.addImage(host, layers, roleHost); err != nil {
		return nil, fmt.Errorf("host image: %w", err)
	}
	if err := l.finish(); err != nil {
		return nil, err
	}
	fresh, err := Open(l.dir)
	if err != nil {
		return nil, err
	}
	if err := pinned(fresh, digest, "what was downloaded"); err != nil {
		return nil, err
	}
	return install(ctx, fresh, dir)
}

// programs downloads the released files and packs each component's programs into a layer.
func (g *gathering) programs(ctx context.Context) (layers map[string]*made, order []string, err error) {
	root, err := os.MkdirTemp(g.cache, ".work-published-")
	if err != nil {
		return nil, nil, err
	}
	// The layers must outlive this function: they lie in the depot.
	defer os.RemoveAll(root)
	entries := make([][]entry, len(g.published.Files))
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	for i, f := range g.published.Files {
		work.Go(func() error {
			return progress.Track(workCtx, g.sink, "", "bundle/"+f.Name(), f.Name()+" "+f.Version, func(ctx context.Context) (err error) {
				entries[i], err = g.oneRelease(ctx, f, root)
				return err
			})
		})
	}
	if err := work.Wait(); err != nil {
		return nil, nil, err
	}
	layers = map[string]*made{}
	byComponent := map[string][]entry{}
	for i, f := range g.published.Files {
		if !slices.Contains(order, f.Component) {
			order = append(order, f.Component)
			layers[f.Component] = &made{Version: f.Version, file: filepath.Join(g.depot.dir, "layer-"+f.Component)}
		}
		if err := madeFor(g.arch, entries[i]); err != nil {
			return nil, nil, fmt.Errorf("%s: %w; do not use it", f.Name(), err)
		}
		byComponent[f.Component] = append(byComponent[f.Component], entries[i]...)
		if f.Kubeadm != "" {
			kubeadm := filepath.Join(root, filepath.FromSlash(f.Kubeadm))
			if foreign(g.arch) {
				if kubeadm, err = g.kubeadmOf(ctx, f, root); err != nil {
					return nil, nil, err
				}
			}
			if err := g.askKubeadm(ctx, kubeadm); err != nil {
				return nil, nil, err
			}
		}
	}
	err = progress.Track(ctx, g.sink, "", "bundle/layers", "pack the programs", func(ctx context.Context) error {
		for _, name := range order {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if layers[name].layer, err = writeLayer(layers[name].file, byComponent[name]); err != nil {
				return err
			}
		}
		return nil
	})
	return layers, order, err
}

// oneRelease downloads one released file, checks it against the sum and the signature that are published beside it, and
// unpacks its programs.
func (g *gathering) oneRelease(ctx context.Context, f components.PublishedFile, root string) ([]entry, error) {
	const maxChecksums = 1 << 20
	from := g.mirror.File(f.Checksum)
	text, err := g.files.Text(ctx, "the checksum of "+f.Name(), from, maxChecksums)
	if err != nil {
		return nil, err
	}
	want, err := fetch.ParseChecksum(text, f.Name())
	if err != nil {
		return nil, &fetch.Error{What: "the checksum of " + f.Name(), URL: from, Why: err.Error(), Fix: "correct the mirror: this must be the file that the project published"}
	}
	err = g.depot.ensure(ctx, want, func(file string) error {
		return g.files.Get(ctx, fetch.File{What: f.Name() + " " + f.Version, URL: g.mirror.File(f.URL), Digest: want, Origin: from,
			Progress: g.downloading("bundle/" + f.Name())}, file)
	})
	if err != nil {
		return nil, err
	}
	if err := g.signedFile(ctx, f, g.depot.path(want)); err != nil {
		return nil, err
	}
	return extract(ctx, f, g.depot.path(want), root)
}

// downloading shows how far a download is.
func (g *gathering) downloading(id string) func(have, total int64) {
	return func(have, total int64) { downloading(g.workshop, id, have, total) }
}

func downloading(w *workshop, id string, have, total int64) {
	detail := fmt.Sprintf("%.1f MiB", float64(have)/(1<<20))
	if total > 0 {
		detail = fmt.Sprintf("%.1f of %.1f MiB", float64(have)/(1<<20), float64(total)/(1<<20))
	}
	w.noteID(id, detail)
}

// extract lays a file's programs out below root as they will lie in the layer.
func extract(ctx context.Context, f components.PublishedFile, file, root string) ([]entry, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	var entries []entry
	put := func(name string, content io.Reader) error {
		target := filepath.Join(root, filepath.FromSlash(name))
		entries = append(entries, entry{name: name, mode: 0o755, source: target})
		return writeProgram(ctx, target, content)
	}
	byMember := map[string]string{}
	for target, member := range f.Programs {
		if member == "" {
			return entries, put(target, in)
		}
		byMember[member] = target
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", f.Name(), err)
	}
	for t := tar.NewReader(z); len(byMember) > 0; {
		h, err := t.Next()
		if err == io.EOF {
			return nil, fmt.Errorf("unpack %s: it lacks %s", f.Name(), strings.Join(slices.Sorted(maps.Keys(byMember)), ", "))
		}
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", f.Name(), err)
		}
		member := path.Clean(h.Name)
		target, wanted := byMember[member]
		if !wanted || h.Typeflag != tar.TypeReg {
			continue
		}
		if err := put(target, t); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", f.Name(), err)
		}
		delete(byMember, member)
	}
	return entries, nil
}

func writeProgram(ctx context.Context, target string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, reader{ctx, content})
	return errors.Join(err, out.Close())
}

// askKubeadm asks the kubeadm that was downloaded which images it will look for, by which names. It must be that of the version: a signature
// and a checksum say who made a file, and not which release it is.
func (g *gathering) askKubeadm(ctx context.Context, kubeadm string) error {
	ask := command{what: "ask kubeadm for its version"}
	says, err := ask.output(ctx, kubeadm, "version", "-o", "short")
	if err != nil {
		return err
	}
	if says = strings.TrimSpace(says); says != g.release.Kubernetes {
		return fmt.Errorf("the kubeadm that was downloaded as %s says that it is %s: the source serves another release under this name, which a checksum from the same place does not show; do not use it", g.release.Kubernetes, says)
	}
	ask.what = "ask kubeadm for its images"
	out, err := ask.output(ctx, kubeadm, "config", "images", "list", "--kubernetes-version", g.release.Kubernetes)
	for _, image := range strings.Fields(out) {
		g.names[shortName(image)] = image
	}
	return err
}

// publishedImage is an image in the depot.
type publishedImage struct {
	name, short, release string
	manifest             registry.Manifest
	parts                v1.Manifest
}

func (g *gathering) fetchImages(ctx context.Context) ([]publishedImage, error) {
	from := map[string]string{}
	for _, p := range g.published.Images {
		from[p.Short] = p.From
	}
	found := make([]publishedImage, len(g.release.Images))
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	for i, image := range g.release.Images {
		name := image.Name
		if name == "" {
			if name = g.names[image.Short]; name == "" {
				return nil, fmt.Errorf("kubeadm %s does not need an image %s", g.release.Kubernetes, image.Short)
			}
			from[image.Short] = name
			delete(g.names, image.Short)
		}
		published := from[image.Short]
		if published == "" {
			return nil, fmt.Errorf("no known project publishes the image %s", image.Short)
		}
		work.Go(func() error {
			return progress.Track(workCtx, g.sink, "", "bundle/"+image.Short, "image "+published, func(ctx context.Context) (err error) {
				found[i], err = g.fetchImage(ctx, name, published)
				found[i].name, found[i].short = name, image.Short
				return err
			})
		})
	}
	for _, name := range g.names {
		return nil, errors.Join(fmt.Errorf("kubeadm %s needs %s, which no release contains", g.release.Kubernetes, name), work.Wait())
	}
	return found, work.Wait()
}

func (g *gathering) fetchImage(ctx context.Context, as, published string) (publishedImage, error) {
	var image publishedImage
	at := g.mirror.Image(published)
	ref, err := registry.Parse(at)
	if err != nil {
		return image, err
	}
	if image.manifest, err = g.images.Image(ctx, ref, g.arch); err != nil {
		return image, err
	}
	if err := g.signedImage(ctx, published, ref, image.manifest); err != nil {
		return image, err
	}
	if err := json.Unmarshal(image.manifest.Raw, &image.parts); err != nil {
		return image, fmt.Errorf("read the manifest of image %s: %w", at, err)
	}
	_, image.release, _ = strings.Cut(path.Base(published), ":")
	if err := fetchBlobs(ctx, g.workshop, g.images, ref.Context(), image.parts, "bundle/"+shortName(as), g.depot); err != nil {
		return image, err
	}
	return image, checkPlatform(g.depot.path(image.parts.Config.Digest), at, g.arch)
}

// fetchBlobs downloads what a manifest names, as far as it is not there.
func fetchBlobs(ctx context.Context, w *workshop, c *registry.Client, repo name.Repository, m v1.Manifest, id string, d depot) error {
	for _, part := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := part.Digest.Validate(); err != nil {
			return fmt.Errorf("%s: the manifest refers to %q: %w", repo, part.Digest, err)
		}
		err := d.ensure(ctx, part.Digest, func(file string) error {
			return c.Blob(ctx, repo, "a part of "+repo.String(), part, file, func(have, total int64) { downloading(w, id, have, total) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkPlatform makes sure that an image without an index is for an architecture.
func checkPlatform(config, image, arch string) error {
	raw, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var p v1.Platform
	if err := json.Unmarshal(raw, &p); err != nil {
		return fmt.Errorf("read the configuration of image %s: %w", image, err)
	}
	if p.OS != "linux" || p.Architecture != arch {
		return fmt.Errorf("image %s is for %s/%s, not for linux/%s; use a mirror that has the latter", image, p.OS, p.Architecture, arch)
	}
	return nil
}

// addPublished takes an image over as it is, under the name that the bundle gives it.
func (l *layout) addPublished(image publishedImage, from depot) error {
	for _, part := range append([]v1.Descriptor{image.parts.Config}, image.parts.Layers...) {
		if err := l.addFile(from.path(part.Digest), part); err != nil {
			return err
		}
	}
	d := image.manifest.Descriptor()
	if err := l.write(blobPath(l.dir, d.Digest.String()), image.manifest.Raw); err != nil {
		return err
	}
	d.Platform = &v1.Platform{OS: "linux", Architecture: l.arch}
	d.Annotations = map[string]string{annotationImageName: image.name, v1.AnnotationRefName: image.name,
		annotationName: "image " + image.short, annotationRelease: image.release}
	l.index.Manifests = append(l.index.Manifests, d)
	return nil
}
