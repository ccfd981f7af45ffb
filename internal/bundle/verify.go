package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Damage is one blob that does not match its digest, and what is affected.
type Damage struct {
	Digest    string   `json:"digest"`
	Problem   string   `json:"problem"`
	BelongsTo []string `json:"belongsTo"` // image names, and "component X"
}

func (d Damage) String() string {
	return fmt.Sprintf("%s %s (part of %s)", d.Digest, d.Problem, strings.Join(d.BelongsTo, ", "))
}

// DamageError says that a bundle is damaged.
type DamageError struct{ Damages []Damage }

func (e *DamageError) Error() string {
	var all []string
	for _, d := range e.Damages {
		all = append(all, d.String())
	}
	return "the bundle is damaged: " + strings.Join(all, "; ") + "; run `quorate bundle build`, or import the bundle again"
}

// Verify reads every blob and compares it with its digest. Damage is not an error; the error says why
// the bundle could not be verified.
func (b *Bundle) Verify(ctx context.Context) ([]Damage, error) {
	damages := make([]*Damage, len(b.blobs))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(4)
	for i, blob := range b.blobs {
		work.Go(func() error {
			problem, err := b.check(ctx, blob)
			if problem != "" {
				damages[i] = b.damage(blob, problem)
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, fmt.Errorf("verify bundle %s: %w", b.dir, err)
	}
	var found []Damage
	for _, d := range damages {
		if d != nil {
			found = append(found, *d)
		}
	}
	return found, nil
}

func (b *Bundle) check(ctx context.Context, blob Blob) (problem string, err error) {
	f, err := os.Open(b.blobPath(blob.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return judge(blob, 0, "", err), nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := digest.SHA256.Hash()
	n, err := io.Copy(hash, reader{ctx, f})
	if err != nil {
		return "", fmt.Errorf("read blob %s: %w", blob.Digest, err)
	}
	return judge(blob, n, digest.NewDigest(digest.SHA256, hash).String(), nil), nil
}

// judge compares what was read with what a blob should be; "" is sound.
func judge(blob Blob, size int64, sum string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is missing"
	case size != blob.Size:
		return fmt.Sprintf("has %d bytes instead of %d", size, blob.Size)
	case sum != blob.Digest:
		return "has the digest " + sum
	}
	return ""
}

func (b *Bundle) damage(blob Blob, problem string) *Damage {
	d := &Damage{Digest: blob.Digest, Problem: problem, BelongsTo: slices.Clone(b.owners[blob.Digest])}
	for _, c := range b.components {
		if c.Digest == blob.Digest {
			d.BelongsTo = append(d.BelongsTo, "component "+c.Name)
		}
	}
	return d
}

// OpenBlob opens a blob for reading. The reader fails at the end, instead of io.EOF, with a
// *DamageError when the content is not the digest's.
func (b *Bundle) OpenBlob(d string) (io.ReadCloser, error) {
	i := slices.IndexFunc(b.blobs, func(blob Blob) bool { return blob.Digest == d })
	if i < 0 {
		return nil, fmt.Errorf("bundle %s has no blob %s", b.dir, d)
	}
	f, err := os.Open(b.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &DamageError{[]Damage{*b.damage(b.blobs[i], "is missing")}}
	}
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	// Said at once: who has announced the size to a receiver cannot take more.
	if info, err := f.Stat(); err != nil || info.Size() > b.blobs[i].Size {
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("open blob: %w", err)
		}
		return nil, &DamageError{[]Damage{*b.damage(b.blobs[i], judge(b.blobs[i], info.Size(), "", nil))}}
	}
	return &verifiedFile{File: f, bundle: b, blob: b.blobs[i], hash: digest.SHA256.Digester()}, nil
}

type verifiedFile struct {
	*os.File
	bundle *Bundle
	blob   Blob
	hash   digest.Digester
	n      int64
}

func (f *verifiedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.hash.Hash().Write(p[:n])
	f.n += int64(n)
	if err == io.EOF {
		if problem := judge(f.blob, f.n, f.hash.Digest().String(), nil); problem != "" {
			err = &DamageError{[]Damage{*f.bundle.damage(f.blob, problem)}}
		}
	}
	return n, err
}

// WriteTo keeps io.Copy from using os.File's own, which would go around Read.
func (f *verifiedFile) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{f})
}

// reader ends a long read when ctx does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
