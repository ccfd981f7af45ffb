package blobs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/durable"
)

// The bundles on a host share one directory of blobs. Each has its own index, named by its digest, so that the blobs of a
// bundle can be distinguished from those of others.

func (s Store) indexes() string { return filepath.Join(s.Dir, "indexes") }

func (s Store) indexFile(d digest.Digest) string {
	return filepath.Join(s.indexes(), d.Encoded()+".json")
}

// Accept stores a bundle's index. The blobs that are required to open the bundle must exist.
func (s Store) Accept(index []byte) (*bundle.Bundle, error) {
	b, err := bundle.OpenIndex(s.Dir, index)
	if err != nil {
		return nil, err
	}
	return b, durable.WriteFile(s.indexFile(digest.FromBytes(index)), index, 0o644)
}

// Open opens a bundle whose index was accepted.
func (s Store) Open(bundleDigest string) (*bundle.Bundle, error) {
	d, err := digest.Parse(bundleDigest)
	if err != nil {
		return nil, fmt.Errorf("bundle %q: %w", bundleDigest, err)
	}
	index, err := os.ReadFile(s.indexFile(d))
	if err != nil {
		return nil, fmt.Errorf("the index of bundle %s: %w", d, err)
	}
	if got := digest.FromBytes(index); got != d {
		return nil, fmt.Errorf("the index of bundle %s is damaged: its content is %s", d, got)
	}
	return bundle.OpenIndex(s.Dir, index)
}

// Bundles are the digests of those whose index was accepted.
func (s Store) Bundles() (out []string, _ error) {
	entries, err := os.ReadDir(s.indexes())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(e.Name(), ".json")); d.Validate() == nil {
			out = append(out, d.String())
		}
	}
	return out, nil
}

// DamagedError says that bundles that are needed cannot be opened, with the reason by digest. Which blobs they need is not known, so any may be
// needed, and all stay.
type DamagedError struct{ Bundles map[string]string }

// Error names them.
func (e *DamagedError) Error() string {
	var out []string
	for _, d := range slices.Sorted(maps.Keys(e.Bundles)) {
		out = append(out, e.Bundles[d])
	}
	return "the copy of a bundle on this host is damaged, and it is not known which of its blobs are needed: " + strings.Join(out, "; ")
}

// open opens the bundles that the host uses, and of others those of which the host has anything. If one cannot be opened, the error is a DamagedError. So
// it is if the host has nothing of a bundle that it uses.
func (s Store) open(used, others []string) (out []*bundle.Bundle, _ error) {
	damaged := &DamagedError{map[string]string{}}
	for i, k := range append(slices.Clone(used), others...) {
		d, err := digest.Parse(k)
		if err != nil {
			return nil, fmt.Errorf("bundle %q: %w", k, err)
		}
		if _, err := os.Stat(s.indexFile(d)); errors.Is(err, fs.ErrNotExist) && i >= len(used) {
			continue
		}
		b, err := s.Open(k)
		if err != nil {
			damaged.Bundles[k] = err.Error()
			continue
		}
		out = append(out, b)
	}
	if len(damaged.Bundles) > 0 {
		return nil, damaged
	}
	return out, nil
}

// Prune removes every blob that none of these bundles needs: those that the host uses, and others. It removes no blob if one of them cannot be
// opened, and returns a DamagedError.
func (s Store) Prune(used, others []string) error {
	bundles, err := s.open(used, others)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, b := range bundles {
		wanted[s.indexFile(digest.Digest(b.Digest()))] = true
		for _, blob := range b.Blobs() {
			wanted[s.file(digest.Digest(blob.Digest))] = true
		}
	}
	// The indexes are removed first, so that no index refers to a missing blob.
	return errors.Join(removeOthers(s.indexes(), wanted), removeOthers(filepath.Join(s.Dir, specs.ImageBlobsDir, digest.SHA256.String()), wanted))
}

// Unneeded is what Prune would remove if it kept the bundles that the host uses, in bytes: for each other bundle, the blobs that only it and others that are not
// used need, each counted once; for the empty digest, the blobs that none needs. If one that is used cannot be opened, the error is a DamagedError.
func (s Store) Unneeded(used []string) (map[string]int64, error) {
	bundles, err := s.open(used, nil)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(s.Dir, specs.ImageBlobsDir, digest.SHA256.String()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	left := map[string]int64{}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			left[e.Name()] = info.Size()
		}
	}
	take := func(b *bundle.Bundle) (sum int64) {
		for _, blob := range b.Blobs() {
			name := digest.Digest(blob.Digest).Encoded()
			sum += left[name]
			delete(left, name)
		}
		return sum
	}
	for _, b := range bundles {
		take(b)
	}
	all, err := s.Bundles()
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, d := range all {
		if slices.Contains(used, d) {
			continue
		}
		out[d] = 0
		if b, err := s.Open(d); err == nil { // the blobs of one that cannot be opened count as those that none needs
			out[d] = take(b)
		}
	}
	for _, n := range left {
		out[""] += n
	}
	return out, nil
}

// removeOthers removes the files of a directory that are not wanted, also those that were never completed.
func removeOthers(dir string, wanted map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); e.Type().IsRegular() && !wanted[path] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(append(errs, durable.SyncDir(dir))...)
}
