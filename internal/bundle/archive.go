package bundle

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageArchive writes the container images as a stream that `ctr --namespace k8s.io images import -`
// accepts. Blobs for which have returns true are left out: the receiver's content store already has them.
func (b *Bundle) ImageArchive(ctx context.Context, w io.Writer, have func(digest string) bool) error {
	index := b.index
	index.Manifests = nil
	for _, d := range b.index.Manifests {
		if d.Annotations[annotationRole] != roleHost {
			index.Manifests = append(index.Manifests, d)
		}
	}
	var blobs []Blob
	seen := map[string]bool{}
	for _, image := range b.images {
		for _, blob := range image.Blobs() {
			if !seen[blob.Digest] && (have == nil || !have(blob.Digest)) {
				blobs = append(blobs, blob)
			}
			seen[blob.Digest] = true
		}
	}
	raw, err := encode(index)
	if err != nil {
		return err
	}
	if err := b.archive(ctx, w, raw, blobs); err != nil {
		return fmt.Errorf("write image archive of %s: %w", b.dir, err)
	}
	return nil
}

// Export writes the bundle as one file, which Import reads back. The same bundle always gives the same
// bytes. It fails if a blob is damaged.
func (b *Bundle) Export(ctx context.Context, w io.Writer) error {
	if err := b.archive(ctx, w, b.raw, b.blobs); err != nil {
		return fmt.Errorf("export bundle %s: %w", b.dir, err)
	}
	return nil
}

func (b *Bundle) archive(ctx context.Context, w io.Writer, index []byte, blobs []Blob) error {
	t := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		raw  []byte
	}{{specs.ImageLayoutFile, layoutFile}, {specs.ImageIndexFile, index}} {
		if err := t.WriteHeader(archiveHeader(f.name, int64(len(f.raw)))); err != nil {
			return err
		}
		if _, err := t.Write(f.raw); err != nil {
			return err
		}
	}
	for _, blob := range blobs {
		if err := b.archiveBlob(ctx, t, blob); err != nil {
			return err
		}
	}
	return t.Close()
}

func (b *Bundle) archiveBlob(ctx context.Context, t *tar.Writer, blob Blob) error {
	f, err := b.OpenBlob(blob.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(archiveHeader(archiveName(blob.Digest), blob.Size)); err != nil {
		return err
	}
	_, err = io.Copy(t, reader{ctx, f})
	return err
}

// archiveName is a blob's name in an archive and in a layout, with slashes.
func archiveName(d string) string {
	algorithm, hex, _ := strings.Cut(d, ":")
	return path.Join(specs.ImageBlobsDir, algorithm, hex)
}

func archiveHeader(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// layoutFile is the content of a layout's marker file.
var layoutFile = []byte(`{"imageLayoutVersion":"` + specs.ImageLayoutVersion + `"}`)

func encode(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return raw, nil
}
