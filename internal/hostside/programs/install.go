// Package programs installs the programs of a bundle on a host, and remembers which bundle they came from.
package programs

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/system"
)

const installedFile = "/var/lib/quorate/bundle.json"

// Record is left behind by what was installed to its end.
type Record struct {
	Binaries string `json:"binaries"` // digest of the bundle whose binaries are in place
	Images   string `json:"images"`   // digest of the bundle whose images containerd has
}

// Installed reads what the host says it has; nothing, if it says nothing that can be read.
func Installed() Record {
	var m Record
	if data, err := os.ReadFile(installedFile); err == nil {
		// A damaged mark counts as none: installing again is harmless.
		_ = json.Unmarshal(data, &m)
	}
	return m
}

// Mark records what was installed.
func Mark(m Record) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return system.WriteFile(installedFile, data, 0o644)
}

// Install unpacks the bundle's host image to the root, once all blobs are there.
var Install = host.Define("bundle.install-binaries", func(ctx context.Context, index []byte) (struct{}, error) {
	b, err := acceptIndex(index)
	if err != nil {
		return struct{}{}, err
	}
	for _, layer := range b.Host().Layers {
		if err := unpack(ctx, b, layer); err != nil {
			return struct{}{}, fmt.Errorf("unpacking %s: %w", layer.Digest, err)
		}
	}
	m := Installed()
	m.Binaries = b.Digest()
	return struct{}{}, Mark(m)
})

func acceptIndex(index []byte) (*bundle.Bundle, error) {
	if err := system.WriteFile(filepath.Join(blobs.BundleDir, specs.ImageLayoutFile), []byte(`{"imageLayoutVersion":"`+specs.ImageLayoutVersion+`"}`), 0o644); err != nil {
		return nil, err
	}
	if err := system.WriteFile(filepath.Join(blobs.BundleDir, specs.ImageIndexFile), index, 0o644); err != nil {
		return nil, err
	}
	return bundle.Open(blobs.BundleDir)
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
