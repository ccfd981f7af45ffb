// Package blobs keeps the host's own copy of a bundle, blob by blob, and passes blobs on to other hosts.
package blobs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
)

// Store is a directory of blobs by digest, as in an OCI layout. A blob has its name only when its content has the digest.
type Store struct{ Dir string }

// Host is the host's own copy of the bundles that it uses.
var Host = Store{"/var/lib/quorate/bundle"}

func (s Store) file(d digest.Digest) string {
	return filepath.Join(s.Dir, specs.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// lacking returns the blobs that are missing or damaged. It removes those that are damaged.
func (s Store) lacking(ctx context.Context, digests []digest.Digest) ([]digest.Digest, error) {
	lacking := []digest.Digest{}
	for _, d := range digests {
		if err := d.Validate(); err != nil {
			return nil, fmt.Errorf("blob %q: %w", d, err)
		}
		problem, err := CheckFile(ctx, s.file(d), d)
		if err != nil {
			return nil, err
		}
		if problem == "" {
			continue
		}
		lacking = append(lacking, d)
		if err := os.Remove(s.file(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return lacking, nil
}

// Put stores one blob. It keeps nothing of a blob that does not have the digest.
func (s Store) Put(d digest.Digest, r io.Reader) error {
	if err := d.Validate(); err != nil {
		return err
	}
	f, err := durable.Create(s.file(d), 0o644)
	if err != nil {
		return err
	}
	defer f.Abort()
	verify := d.Verifier()
	if _, err := io.Copy(io.MultiWriter(f, verify), r); err != nil {
		return fmt.Errorf("receiving blob %s: %w", d, err)
	}
	if !verify.Verified() {
		return fmt.Errorf("blob %s arrived damaged", d)
	}
	return f.Commit()
}

// CheckFile compares a file's content with a SHA-256 digest; "" is sound.
func CheckFile(ctx context.Context, path string, want digest.Digest) (problem string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "is missing", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			// A file that cannot be read is as bad as one with wrong content.
			return "cannot be read: " + err.Error(), nil
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.Encoded() {
		return "has other content: sha256:" + got, nil
	}
	return "", nil
}

// Lacking returns those of the digests that this host does not have intact.
var Lacking = host.Define("bundle.lacking", func(ctx context.Context, digests []digest.Digest) ([]digest.Digest, error) {
	return Host.lacking(ctx, digests)
}, host.Reads)

// Put stores one blob that the caller sends.
var Put = host.DefineStream("bundle.put", func(_ context.Context, d digest.Digest, r io.Reader) (struct{}, error) {
	return struct{}{}, Host.Put(d, r)
})
