package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// tidyAge is how old a binary must be to be removed. A younger one may have just been uploaded by another run that has
// not started it yet.
const tidyAge = time.Hour

// removeOldBinaries removes the binaries of other versions that no unit and no process uses. It is run after an upload:
// each version that ever looked at the host would otherwise leave its copy there.
var removeOldBinaries = Define("host.remove-old-binaries", func(context.Context, struct{}) ([]string, error) {
	return removeBinaries(binDir, unitDirs, "/proc", time.Now())
})

// tidy makes room after an upload. A failure is not worth an error: nothing depends on it.
func tidy(ctx context.Context, name string, s *session) {
	_, _ = removeOldBinaries.On(ctx, connOf(name, s), struct{}{})
}

var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/run/systemd/transient"}

// removeBinaries returns the folders that it removed.
func removeBinaries(bin string, units []string, proc string, now time.Time) (removed []string, err error) {
	used, err := usedBinaries(bin, units, proc)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(bin)
	if err != nil {
		return nil, err
	}
	// Links are how units name the binary that they run.
	for _, e := range entries {
		if target, err := filepath.EvalSymlinks(filepath.Join(bin, e.Name())); err == nil && e.Type()&fs.ModeSymlink != 0 {
			used[filepath.Base(filepath.Dir(target))] = true
		}
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || used[e.Name()] || now.Sub(info.ModTime()) < tidyAge {
			continue
		}
		if err := os.RemoveAll(filepath.Join(bin, e.Name())); err != nil {
			return removed, err
		}
		removed = append(removed, e.Name())
	}
	return removed, nil
}

var pathInUnit = regexp.MustCompile(`/[^\s"':;=]+`)

// usedBinaries finds the folders of bin that a process runs from, or that a unit names, directly or through a link.
func usedBinaries(bin string, units []string, proc string) (map[string]bool, error) {
	used := map[string]bool{}
	mark := func(path string) {
		if rest, ok := strings.CutPrefix(path, bin+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			used[name] = true
		}
	}
	processes, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "exe"))
	if err != nil {
		return nil, err
	}
	for _, exe := range processes {
		if path, err := os.Readlink(exe); err == nil {
			mark(path)
		}
	}
	for _, dir := range units {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return ignoreAbsent(err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return ignoreAbsent(err) // a link to nothing
			}
			for _, p := range pathInUnit.FindAllString(string(data), -1) {
				mark(p)
				if target, err := filepath.EvalSymlinks(p); err == nil {
					mark(target)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return used, nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
