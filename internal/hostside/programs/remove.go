package programs

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
)

// RemoveAll removes all bundles and programs of Quorate's from a host whose files are below root (empty for the host itself):
// the links in /usr/local/bin, the CNI plugins that were copied, and the unpacked bundles. Files that somebody else put in
// these places stay. It returns the paths that it removed. Nothing may run from the bundles any more.
func RemoveAll(root string) (removed []string, err error) {
	s := store{root: filepath.Join("/", root)}
	marks, err := s.marks()
	if err != nil {
		return nil, err
	}
	for _, encoded := range slices.Sorted(maps.Keys(marks)) {
		for _, e := range marks[encoded].Entries {
			file, _ := s.outer(facts.ProgramOf(e.Path), e)
			before := lexists(file)
			if copied(e) {
				if err := s.displace(facts.ProgramOf(e.Path), e); err != nil {
					return removed, err
				}
			}
			if before && !lexists(file) {
				removed = append(removed, file)
			}
		}
	}
	for _, dir := range places {
		entries, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		for _, e := range entries {
			file := filepath.Join(s.root, dir, e.Name())
			target, err := os.Readlink(file)
			if err != nil || !strings.HasPrefix(target, s.dir()+"/") {
				continue
			}
			if err := durable.Remove(file); err != nil {
				return removed, err
			}
			removed = append(removed, file)
		}
	}
	if !lexists(s.dir()) {
		return removed, nil
	}
	// The marks go first: what they claim is not so any more.
	for encoded := range marks {
		if err := durable.Remove(s.markFile(encoded)); err != nil {
			return removed, err
		}
	}
	if err := os.RemoveAll(s.dir()); err != nil {
		return removed, err
	}
	return append(removed, s.dir()), durable.SyncDir(filepath.Dir(s.dir()))
}

func lexists(path string) bool { _, err := os.Lstat(path); return err == nil }

// Linked says whether a program in /usr/local/bin is one of Quorate's bundles'.
func Linked(root, name string) bool {
	target, err := os.Readlink(filepath.Join("/", root, "usr/local/bin", name))
	return err == nil && strings.HasPrefix(target, store{root: filepath.Join("/", root)}.dir()+"/")
}
