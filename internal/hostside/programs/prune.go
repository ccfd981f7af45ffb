package programs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
)

// Prune removes from the host the bundles that are not among these digests: unpacked programs and blobs. A bundle that a
// program runs from, or whose images containerd has, stays in any case.
var Prune = host.Define("programs.prune", func(_ context.Context, keep []string) (struct{}, error) {
	return struct{}{}, local.prune(append(slices.Clone(keep), blobs.Imported()))
})

// Tidy removes the binaries of other versions of quorate that nothing on the host uses, and what uploads and writers left that
// were killed.
var Tidy = host.Define("programs.tidy", func(context.Context, struct{}) (struct{}, error) {
	self, err := os.Executable()
	if err != nil {
		return struct{}{}, err
	}
	before := time.Now().Add(-binaryLife)
	return struct{}{}, errors.Join(pruneBinaries(self, before), pruneTemporary("/", before), pruneVerified(self, verified))
})

func (s store) prune(keep []string) error {
	kept := map[string]bool{}
	for _, k := range keep {
		if d, err := digest.Parse(k); err == nil {
			kept[d.Encoded()] = true
		} else if k != "" {
			return err
		}
	}
	links, err := os.ReadDir(s.dir(current))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, l := range links {
		encoded, err := s.linked(l.Name())
		if err != nil {
			continue // not a link, so it leads to no bundle
		}
		kept[encoded] = true
	}
	entries, err := os.ReadDir(s.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		encoded, isMark := strings.CutSuffix(e.Name(), ".json")
		if kept[encoded] || e.Name() == current || e.Name() == pending {
			continue
		}
		if !isMark {
			// The mark is removed first, because it is no longer true.
			if err := durable.Remove(s.markFile(encoded)); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(s.dir(e.Name())); err != nil {
			return err
		}
	}
	var digests []string
	for encoded := range kept {
		digests = append(digests, digest.NewDigestFromEncoded(digest.SHA256, encoded).String())
	}
	return s.blobs.Prune(digests)
}

// binaryLife protects a binary that was uploaded a moment ago and is about to be started.
const binaryLife = time.Hour

var binaryName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// pruneBinaries removes other binaries of quorate next to self, each in a directory named by its digest, that were uploaded
// before a time, unless they are running or the link for units leads to them.
func pruneBinaries(self string, before time.Time) error {
	mine := filepath.Dir(self)
	all := filepath.Dir(mine)
	if !binaryName.MatchString(filepath.Base(mine)) {
		return nil // this process was not uploaded
	}
	used := map[string]bool{mine: true}
	if target, err := filepath.EvalSymlinks(filepath.Join(all, "quorate")); err == nil {
		used[filepath.Dir(target)] = true
	}
	processes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	for _, p := range processes {
		if exe, err := os.Readlink(p); err == nil { // it may have ended in the meantime
			used[filepath.Dir(exe)] = true
		}
	}
	entries, err := os.ReadDir(all)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(all, e.Name())
		info, err := e.Info()
		if err != nil || !e.IsDir() || !binaryName.MatchString(e.Name()) || used[dir] || info.ModTime().After(before) {
			continue
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// temporary are where writers work that may be killed: package durable and the upload of the binary.
var temporary = []string{"usr/local/bin/.quorate-*", "opt/cni/bin/.quorate-*", "opt/quorate/programs/.quorate-*", "var/lib/quorate/.quorate-*", "var/lib/quorate/bin/*/.upload.*"}

// pruneTemporary removes files that nobody has finished since a time.
func pruneTemporary(root string, before time.Time) error {
	var errs []error
	for _, pattern := range temporary {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if info, err := os.Lstat(path); err == nil && info.ModTime().Before(before) {
				errs = append(errs, os.RemoveAll(path))
			}
		}
	}
	return errors.Join(errs...)
}

// verified has a file for each binary that was compared with its digest since the host was started.
const verified = "/run/quorate/verified"

// pruneVerified forgets binaries that are gone.
func pruneVerified(self, dir string) error {
	all := filepath.Dir(filepath.Dir(self))
	entries, err := os.ReadDir(dir)
	if err != nil || !binaryName.MatchString(filepath.Base(filepath.Dir(self))) {
		return nil //nolint:nilerr // nothing was verified
	}
	var errs []error
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(all, e.Name())); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
