package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/internal/paths"
)

// Import reads what Export wrote into the directory of its version and architecture. It checks every blob, and installs
// the bundle completely or not at all. It keeps an identical, intact bundle that already exists.
func Import(ctx context.Context, r io.Reader) (*Bundle, error) {
	root := paths.Cache("bundles")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("import bundle: %w", err)
	}
	tmp, err := os.MkdirTemp(root, ".import-")
	if err != nil {
		return nil, fmt.Errorf("import bundle: %w", err)
	}
	defer os.RemoveAll(tmp)

	if err := unpack(ctx, r, tmp); err != nil {
		return nil, fmt.Errorf("import bundle: the file is truncated, damaged, or not a bundle; copy or export it again: %w", err)
	}
	fresh, err := Open(tmp)
	switch {
	case errors.Is(err, ErrNotBuilt):
		return nil, errors.New("import bundle: the file is truncated, or not a bundle: it has no index; copy or export it again")
	case err != nil:
		return nil, fmt.Errorf("import bundle: the file is truncated, or not a bundle; copy or export it again: %w", err)
	}
	if err := fresh.complete(); err != nil {
		return nil, fmt.Errorf("import bundle: the file is truncated; copy or export it again: %w", err)
	}
	return install(ctx, fresh, placeOf(fresh.Version(), fresh.Arch(), fresh.Monitors()))
}

// fileDigest reads an exported file as far as its index.
func fileDigest(r io.Reader) (string, error) {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		switch {
		case err == io.EOF:
			return "", errors.New("this is not an exported bundle: it has no index")
		case err != nil:
			return "", fmt.Errorf("read the archive: %w", err)
		case h.Name != specs.ImageIndexFile:
			continue
		case h.Size > maxIndex:
			return "", fmt.Errorf("its index has %d bytes, which is too large for a bundle", h.Size)
		}
		d, err := digest.FromReader(t)
		return d.String(), err
	}
}

var blobName = regexp.MustCompile(`^blobs/sha256/[0-9a-f]{64}$`)

// maxIndex bounds what an archive can make us hold in memory.
const maxIndex = 4 << 20

func unpack(ctx context.Context, r io.Reader, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, specs.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	t := tar.NewReader(reader{ctx, r})
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
		switch {
		case h.Typeflag == tar.TypeDir:
		case h.Typeflag == tar.TypeReg && blobName.MatchString(h.Name):
			err = unpackBlob(t, filepath.Join(dir, h.Name))
		case h.Typeflag == tar.TypeReg && (h.Name == specs.ImageIndexFile || h.Name == specs.ImageLayoutFile):
			err = unpackSmall(t, filepath.Join(dir, h.Name), h.Size)
		default:
			err = errors.New("has no place in a bundle")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func unpackBlob(r io.Reader, target string) error {
	f, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := digest.SHA256.Hash()
	if _, err := io.Copy(io.MultiWriter(f, hash), r); err != nil {
		return err
	}
	if sum := digest.NewDigest(digest.SHA256, hash); sum.Encoded() != filepath.Base(target) {
		return fmt.Errorf("damaged: its content is %s", sum)
	}
	return f.Close()
}

func unpackSmall(r io.Reader, target string, size int64) error {
	if size > maxIndex {
		return fmt.Errorf("has %d bytes, which is too large for a bundle", size)
	}
	var buffer bytes.Buffer
	if _, err := io.Copy(&buffer, r); err != nil {
		return err
	}
	return os.WriteFile(target, buffer.Bytes(), 0o644)
}

// complete reports whether all blobs are there with their sizes; their content was checked on the way in.
func (b *Bundle) complete() error {
	var damages []Damage
	for _, blob := range b.blobs {
		info, err := os.Stat(b.blobPath(blob.Digest))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		size := int64(0)
		if info != nil {
			size = info.Size()
		}
		if problem := judge(blob, size, blob.Digest, err); problem != "" {
			damages = append(damages, *b.damage(blob, problem))
		}
	}
	if len(damages) > 0 {
		return &DamageError{damages}
	}
	return nil
}
