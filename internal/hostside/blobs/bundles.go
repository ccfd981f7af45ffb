package blobs

import (
	"errors"
	"fmt"
	"io/fs"
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
func (s Store) Bundles() (out []string) {
	entries, err := os.ReadDir(s.indexes())
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(e.Name(), ".json")); d.Validate() == nil {
			out = append(out, d.String())
		}
	}
	return out
}

// Prune removes every blob that none of these bundles needs. A bundle that cannot be opened is an error, because the blobs
// that it needs are not known.
func (s Store) Prune(keep []string) error {
	wanted := map[string]bool{}
	for _, k := range keep {
		d, err := digest.Parse(k)
		if err != nil {
			return fmt.Errorf("bundle %q: %w", k, err)
		}
		if _, err := os.Stat(s.indexFile(d)); errors.Is(err, fs.ErrNotExist) {
			continue // the host has nothing of it
		}
		b, err := s.Open(k)
		if err != nil {
			return err
		}
		wanted[s.indexFile(d)] = true
		for _, blob := range b.Blobs() {
			wanted[s.file(digest.Digest(blob.Digest))] = true
		}
	}
	// The indexes are removed first, so that no index refers to a missing blob.
	return errors.Join(removeOthers(s.indexes(), wanted), removeOthers(filepath.Join(s.Dir, specs.ImageBlobsDir, digest.SHA256.String()), wanted))
}

// Unneeded is what Prune would remove if it kept these bundles, in bytes: for each other bundle, the blobs that only it and others that are not kept
// need, each counted once; for the empty digest, the blobs that none needs.
func (s Store) Unneeded(keep []string) (map[string]int64, error) {
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
	take := func(bundleDigest string) (sum int64, _ error) {
		b, err := s.Open(bundleDigest)
		if err != nil {
			return 0, err
		}
		for _, blob := range b.Blobs() {
			name := digest.Digest(blob.Digest).Encoded()
			sum += left[name]
			delete(left, name)
		}
		return sum, nil
	}
	all := s.Bundles()
	for _, k := range keep {
		if !slices.Contains(all, k) {
			continue // the host has nothing of it
		}
		if _, err := take(k); err != nil {
			return nil, err // which blobs it needs is not known
		}
	}
	out := map[string]int64{}
	for _, d := range all {
		if slices.Contains(keep, d) {
			continue
		}
		out[d], _ = take(d) // the blobs of one that cannot be opened count as those that none needs
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
