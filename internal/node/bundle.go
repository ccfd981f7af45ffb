package node

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/host"
)

// bundleDir is a host's own copy of the bundle, in the same layout as the caller's.
const (
	bundleDir     = "/var/lib/quorate/bundle"
	installedFile = "/var/lib/quorate/bundle.json"
)

// installedMark is left behind by what was installed to its end.
type installedMark struct {
	Binaries string `json:"binaries"` // digest of the bundle whose binaries are in place
	Images   string `json:"images"`   // digest of the bundle whose images containerd has
}

func installed() installedMark {
	var m installedMark
	if data, err := os.ReadFile(installedFile); err == nil {
		// A damaged mark counts as none: installing again is harmless.
		_ = json.Unmarshal(data, &m)
	}
	return m
}

func mark(m installedMark) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return WriteFile(installedFile, data, 0o644)
}

func blobFile(d digest.Digest) string {
	return filepath.Join(bundleDir, specs.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// LackingBlobs tells which of the digests this host does not hold.
var LackingBlobs = host.Define("bundle.lacking", func(_ context.Context, digests []digest.Digest) ([]digest.Digest, error) {
	var lacking []digest.Digest
	for _, d := range digests {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("blob %q: %w", d, err)
		}
		if !exists(blobFile(d)) {
			lacking = append(lacking, d)
		}
	}
	return lacking, nil
})

// PutBlob stores one blob. It gets its name only when its content has the digest.
var PutBlob = host.DefineStream("bundle.put", func(ctx context.Context, d digest.Digest, r io.Reader) (struct{}, error) {
	if err := d.Validate(); err != nil {
		return struct{}{}, err
	}
	path := blobFile(d)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return struct{}{}, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".put-*")
	if err != nil {
		return struct{}{}, err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	verify := d.Verifier()
	_, err = io.Copy(io.MultiWriter(tmp, verify), r)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return struct{}{}, fmt.Errorf("receiving blob %s: %w", d, err)
	case !verify.Verified():
		return struct{}{}, fmt.Errorf("blob %s arrived damaged", d)
	}
	return struct{}{}, os.Rename(tmp.Name(), path)
})

// InstallBinaries unpacks the bundle's host image to the root, once all blobs are there.
var InstallBinaries = host.Define("bundle.install-binaries", func(ctx context.Context, index []byte) (struct{}, error) {
	b, err := acceptIndex(index)
	if err != nil {
		return struct{}{}, err
	}
	for _, layer := range b.Host().Layers {
		if err := unpack(ctx, b, layer); err != nil {
			return struct{}{}, fmt.Errorf("unpacking %s: %w", layer.Digest, err)
		}
	}
	m := installed()
	m.Binaries = b.Digest()
	return struct{}{}, mark(m)
})

func acceptIndex(index []byte) (*bundle.Bundle, error) {
	if err := WriteFile(filepath.Join(bundleDir, specs.ImageLayoutFile), []byte(`{"imageLayoutVersion":"`+specs.ImageLayoutVersion+`"}`), 0o644); err != nil {
		return nil, err
	}
	if err := WriteFile(filepath.Join(bundleDir, specs.ImageIndexFile), index, 0o644); err != nil {
		return nil, err
	}
	return bundle.Open(bundleDir)
}

func unpack(ctx context.Context, b *bundle.Bundle, layer bundle.Blob) error {
	blob, err := b.OpenBlob(layer.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	z, err := zstd.NewReader(blob)
	if err != nil {
		return err
	}
	defer z.Close()
	root, err := os.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	for t := tar.NewReader(z); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(root, head, t); err != nil {
			return fmt.Errorf("%s: %w", head.Name, err)
		}
	}
}

// unpackEntry replaces files by renaming: a program that runs keeps its own until it is restarted.
func unpackEntry(root *os.Root, head *tar.Header, content io.Reader) error {
	name := filepath.Clean(strings.TrimPrefix(head.Name, "/"))
	tmp := filepath.Join(filepath.Dir(name), ".quorate-"+filepath.Base(name))
	switch head.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		f, err := root.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, head.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	case tar.TypeSymlink, tar.TypeLink:
		if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		link := root.Symlink
		if head.Typeflag == tar.TypeLink {
			link = root.Link
		}
		if err := link(head.Linkname, tmp); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unexpected type %q in a bundle", head.Typeflag)
	}
	return root.Rename(tmp, name)
}

// ImportImages gives the bundle's images to the running containerd.
var ImportImages = host.Define("bundle.import-images", func(ctx context.Context, _ struct{}) (struct{}, error) {
	b, err := bundle.Open(bundleDir)
	if err != nil {
		return struct{}{}, err
	}
	cmd := exec.CommandContext(ctx, "ctr", "--namespace", "k8s.io", "images", "import", "--digests=false", "-")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return struct{}{}, err
	}
	var out tailBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return struct{}{}, fmt.Errorf("ctr images import: %w", err)
	}
	werr := b.ImageArchive(ctx, stdin, nil)
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		return struct{}{}, fmt.Errorf("ctr images import: %w: %s", err, lastLines(out, 12))
	}
	if werr != nil {
		return struct{}{}, werr
	}
	m := installed()
	m.Images = b.Digest()
	return struct{}{}, mark(m)
})

// tailBuffer collects what a program prints.
type tailBuffer []byte

func (t *tailBuffer) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	return len(p), nil
}
