package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/registry"
)

// Push uploads the bundle to a registry, as an index with the bundle's digest, and returns the reference with that digest.
// It does not upload a damaged bundle.
func (b *Bundle) Push(ctx context.Context, reference string, a fetch.Access, sink progress.Sink) (string, error) {
	ref, err := registry.Parse(reference)
	if err != nil {
		return "", err
	}
	if d, ok := ref.(name.Digest); ok && d.DigestStr() != b.Digest() {
		return "", fmt.Errorf("push to %s: the bundle has the digest %s; leave out the digest, or use a tag", reference, b.Digest())
	}
	damages, err := b.Verify(ctx)
	if err != nil {
		return "", err
	}
	if len(damages) > 0 {
		return "", &DamageError{damages}
	}
	c, err := registry.New(a)
	if err != nil {
		return "", err
	}
	w := newTransfer(sink)
	err = progress.Track(ctx, sink, "", "push", "push to "+ref.String(), func(ctx context.Context) error {
		return c.Push(ctx, b.dir, ref, func(have, total int64) { downloading(w, "push", have, total) })
	})
	if err != nil {
		return "", err
	}
	byDigest := ref.Context().Digest(b.Digest())
	// Read back: a registry that rewrites indexes would hand out something else under this name.
	if _, err := c.Manifest(ctx, byDigest); err != nil {
		return "", fmt.Errorf("read the bundle back from the registry after the upload: %w", err)
	}
	return byDigest.String(), nil
}

func newTransfer(sink progress.Sink) *workshop {
	return &workshop{sink: sink, cache: paths.Cache("components"), noted: map[string]time.Time{}}
}

// Pull downloads a bundle that Push uploaded. The result is byte for byte the same.
func Pull(ctx context.Context, reference string, a fetch.Access, sink progress.Sink) (*Bundle, error) {
	ref, err := registry.Parse(reference)
	if err != nil {
		return nil, err
	}
	c, err := registry.New(a)
	if err != nil {
		return nil, err
	}
	w := newTransfer(sink)
	unlock, err := w.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	index, err := c.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	version, arch, monitoring, err := identify(index.Raw)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", reference, err)
	}
	if old, err := Find(version, arch, monitoring); err == nil && old.Digest() == index.Digest.String() {
		if damages, err := old.Verify(ctx); err == nil && len(damages) == 0 {
			return old, nil
		}
	}
	var b *Bundle
	err = progress.Track(ctx, sink, "", "pull", "pull "+ref.String(), func(ctx context.Context) error {
		b, err = w.pull(ctx, c, ref.Context(), index, version, arch, placeOf(version, arch, monitoring))
		return err
	})
	return b, err
}

func (w *workshop) pull(ctx context.Context, c *registry.Client, repo name.Repository, index registry.Manifest, version, arch, dir string) (*Bundle, error) {
	var parsed v1.Index
	if err := json.Unmarshal(index.Raw, &parsed); err != nil {
		return nil, fmt.Errorf("parse the index in %s: %w", repo, err)
	}
	from := newDepot()
	images := make([]publishedImage, len(parsed.Manifests))
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	for i, d := range parsed.Manifests {
		if err := d.Digest.Validate(); err != nil {
			return nil, errors.Join(fmt.Errorf("the index in %s refers to %q: %w", repo, d.Digest, err), work.Wait())
		}
		work.Go(func() (err error) {
			if images[i].manifest, err = c.Manifest(workCtx, repo.Digest(d.Digest.String())); err != nil {
				return err
			}
			if err := json.Unmarshal(images[i].manifest.Raw, &images[i].parts); err != nil {
				return fmt.Errorf("parse the manifest %s in %s: %w", d.Digest, repo, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	if err := w.pullBlobs(ctx, c, repo, images, from); err != nil {
		return nil, err
	}
	l, done, err := beginLayout(ctx, version, arch, "")
	if err != nil {
		return nil, err
	}
	defer done()
	for _, image := range images {
		if err := l.addPublished(image, from); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(l.write(filepath.Join(l.dir, v1.ImageLayoutFile), layoutFile), l.write(filepath.Join(l.dir, v1.ImageIndexFile), index.Raw)); err != nil {
		return nil, err
	}
	fresh, err := Open(l.dir)
	if err != nil {
		return nil, err
	}
	b, err := install(ctx, fresh, dir)
	if err != nil {
		return nil, err
	}
	return b, from.clear()
}

// pullBlobs downloads each blob once, however many images share it.
func (w *workshop) pullBlobs(ctx context.Context, c *registry.Client, repo name.Repository, images []publishedImage, to depot) error {
	var parts []v1.Descriptor
	seen := map[string]bool{}
	for _, image := range images {
		for _, part := range append([]v1.Descriptor{image.parts.Config}, image.parts.Layers...) {
			if !seen[part.Digest.String()] {
				parts = append(parts, part)
			}
			seen[part.Digest.String()] = true
		}
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	for _, part := range parts {
		work.Go(func() error {
			return fetchBlobs(ctx, w, c, repo, v1.Manifest{Config: part}, "pull", to)
		})
	}
	return work.Wait()
}

// identify reads from an index what bundle it is of.
func identify(index []byte) (version, arch string, monitoring bool, err error) {
	var i v1.Index
	if err := json.Unmarshal(index, &i); err != nil {
		return "", "", false, fmt.Errorf("read the index: %w", err)
	}
	version, arch = i.Annotations[annotationVersion], i.Annotations[annotationArch]
	if version == "" || arch == "" || strings.ContainsAny(version+arch, "/\\") {
		return "", "", false, errors.New("this is not a bundle that `quorate bundle push` uploaded")
	}
	return version, arch, monitors(i), nil
}

// FileDigest is the digest of the bundle in an exported file, from the file's beginning.
func FileDigest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return fileDigest(f)
}
