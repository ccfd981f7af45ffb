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
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Prune removes from the host the bundles that are not among these digests: unpacked programs and blobs. A bundle that a
// program runs from, or whose images containerd has, stays in any case.
var Prune = host.Define("programs.prune", func(_ context.Context, keep []string) (struct{}, error) {
	return struct{}{}, local.prune(keep, blobs.Imported())
})

// Tidy removes the binaries of other versions of quorate that nothing on the host uses, and what uploads and writers left that
// were killed.
var Tidy = host.Define("programs.tidy", func(context.Context, struct{}) (struct{}, error) {
	paths, err := Untidy(time.Now())
	errs := []error{err}
	for _, path := range paths {
		errs = append(errs, os.RemoveAll(path))
	}
	return struct{}{}, errors.Join(append(errs, pruneVerified(host.BinDir, verified))...)
})

// Untidy are the files and directories that Tidy removes.
func Untidy(now time.Time) ([]string, error) {
	before := now.Add(-binaryLife)
	out, err := temporaries("/", before)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if !onHost(self) {
		return out, nil
	}
	binaries, err := unusedBinaries(host.BinDir, self, before)
	return append(out, binaries...), err
}

// onHost says that a binary was uploaded to this host, or is the copy for units: what is next to it there is Quorate's.
func onHost(self string) bool {
	dir := filepath.Dir(self)
	return self == hostconfig.SelfPath || filepath.Dir(dir) == host.BinDir && binaryName.MatchString(filepath.Base(dir))
}

// Unused is how many bytes the bundles have on this host from which no program runs and whose images containerd does not have, by digest: unpacked
// programs, and blobs that no other bundle needs. For the empty digest, it is blobs that no bundle needs. With a *blobs.DamagedError, it is only what is unpacked.
func Unused() (map[string]int64, error) { return local.unused(blobs.Imported()) }

func (s store) unused(imported string) (map[string]int64, error) {
	linked, err := s.inUse()
	if err != nil {
		return nil, err
	}
	used := usedBundles(linked, imported)
	out, err := s.blobs.Unneeded(used)
	_, damaged := errors.AsType[*blobs.DamagedError](err)
	if err != nil && !damaged {
		return nil, err
	}
	all, uerr := s.unpacked()
	if uerr != nil {
		return nil, uerr
	}
	for _, d := range all {
		if !slices.Contains(used, d) {
			if out == nil {
				out = map[string]int64{}
			}
			out[d] += system.Size(s.dir(digest.Digest(d).Encoded()))
		}
	}
	return out, err
}

// usedBundles are the digests of the bundles from which programs run, and of that whose images containerd has.
func usedBundles(linked map[string]bool, imported string) (out []string) {
	for encoded := range linked {
		out = append(out, digest.NewDigestFromEncoded(digest.SHA256, encoded).String())
	}
	if imported != "" && !slices.Contains(out, imported) {
		out = append(out, imported)
	}
	return out
}

// RemoveUnused removes those of these bundles that are unused (see Unused), and blobs that no bundle needs. It returns how many bytes that were. With a
// *blobs.DamagedError, all blobs are still there, and the rest was done.
func RemoveUnused(bundles []string) (int64, error) {
	return local.removeUnused(bundles, blobs.Imported())
}

func (s store) removeUnused(bundles []string, imported string) (freed int64, _ error) {
	unused, err := s.unused(imported)
	if _, damaged := errors.AsType[*blobs.DamagedError](err); err != nil && !damaged {
		return 0, err
	}
	all, err := s.unpacked()
	if err != nil {
		return 0, err
	}
	accepted, err := s.blobs.Bundles()
	if err != nil {
		return 0, err
	}
	var keep []string
	for _, d := range append(all, accepted...) {
		n, is := unused[d]
		switch {
		case !is || !slices.Contains(bundles, d):
			keep = append(keep, d)
		case n > 0:
			freed += n
			unused[d] = 0 // it is in both lists
		}
	}
	return freed + unused[""], s.prune(keep, imported)
}

// unpacked are the digests of the bundles of which something is unpacked.
func (s store) unpacked() (out []string, _ error) {
	entries, err := os.ReadDir(s.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(e.Name(), ".json")); d.Validate() == nil && !slices.Contains(out, d.String()) {
			out = append(out, d.String())
		}
	}
	return out, nil
}

// inUse are the bundles from which a program runs, by the encoded part of their digests.
func (s store) inUse() (map[string]bool, error) {
	out := map[string]bool{}
	links, err := os.ReadDir(s.dir(current))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, l := range links {
		encoded, err := s.linked(l.Name())
		if err != nil {
			continue // not a link, so it leads to no bundle
		}
		out[encoded] = true
	}
	return out, nil
}

func (s store) prune(keep []string, imported string) error {
	linked, err := s.inUse()
	if err != nil {
		return err
	}
	used, others := usedBundles(linked, imported), []string{}
	kept := map[string]bool{}
	for _, k := range append(slices.Clone(used), keep...) {
		if k == "" {
			continue
		}
		d, err := digest.Parse(k)
		if err != nil {
			return err
		}
		if kept[d.Encoded()] = true; !slices.Contains(used, k) {
			others = append(others, k)
		}
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
	return s.blobs.Prune(used, others)
}

// binaryLife protects a binary that was uploaded a moment ago and is about to be started.
const binaryLife = time.Hour

var binaryName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// unusedBinaries are the binaries of quorate in a directory, each in one named by its digest, that were uploaded before a time, unless they are
// running, or are self, or the link for units leads to them.
func unusedBinaries(all, self string, before time.Time) (out []string, _ error) {
	used := map[string]bool{filepath.Dir(self): true}
	if target, err := filepath.EvalSymlinks(filepath.Join(all, "quorate")); err == nil {
		used[filepath.Dir(target)] = true
	}
	processes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		if exe, err := os.Readlink(p); err == nil { // it may have ended in the meantime
			used[filepath.Dir(exe)] = true
		}
	}
	entries, err := os.ReadDir(all)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		dir := filepath.Join(all, e.Name())
		info, err := e.Info()
		if err != nil || !e.IsDir() || !binaryName.MatchString(e.Name()) || used[dir] || info.ModTime().After(before) {
			continue
		}
		out = append(out, dir)
	}
	return out, nil
}

// temporary are where writers work that may be killed: package durable and the upload of the binary.
var temporary = []string{"usr/local/bin/.quorate-*", "opt/cni/bin/.quorate-*", "opt/quorate/programs/.quorate-*", "var/lib/quorate/.quorate-*", "var/lib/quorate/bin/*/.upload.*"}

// temporaries are files that nobody has finished since a time.
func temporaries(root string, before time.Time) (out []string, _ error) {
	for _, pattern := range temporary {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			if info, err := os.Lstat(path); err == nil && info.ModTime().Before(before) {
				out = append(out, path)
			}
		}
	}
	return out, nil
}

// verified has a file for each binary that was compared with its digest since the host was started.
const verified = "/run/quorate/verified"

// pruneVerified forgets binaries that are gone.
func pruneVerified(all, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
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
