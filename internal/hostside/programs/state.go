package programs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/system"
)

// State is the state of the programs on a host; the fields are those of facts.Facts.
type State struct {
	Bundles  []string
	Programs map[string]string
	Problems []string
	Binaries string
	// Remains are the bundles of which a part is unpacked that nobody can rely on.
	Remains []string
}

// Read reads the state and changes nothing. The content of files that were written since they were last compared with their
// digests is read again.
func Read(ctx context.Context) (State, error) { return local.read(ctx) }

// Unpacked reports whether there is any bundle of Quorate's on this host.
func Unpacked() bool {
	marks, err := filepath.Glob(local.dir("*.json"))
	return err == nil && len(marks) > 0
}

func (s store) read(ctx context.Context) (State, error) {
	out := State{Programs: map[string]string{}}
	marks, err := s.marks()
	if err != nil {
		return out, err
	}
	wrong := map[string]map[string]string{} // by bundle and path
	for _, encoded := range slices.Sorted(maps.Keys(marks)) {
		m := marks[encoded]
		wrong[encoded] = map[string]string{}
		for _, e := range m.Entries {
			problem, _, err := s.check(ctx, m, e.Path)
			if err != nil {
				return out, err
			}
			if problem != "" {
				wrong[encoded][e.Path] = problem
			}
		}
		if len(wrong[encoded]) == 0 {
			out.Bundles = append(out.Bundles, m.Bundle)
		}
	}
	if out.Remains, err = s.remains(out.Bundles); err != nil {
		return out, err
	}
	links, err := os.ReadDir(s.dir(current))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, err
	}
	for _, l := range links {
		program := l.Name()
		if !slices.Contains(facts.SwitchOrder, program) {
			continue
		}
		encoded, err := s.linked(program)
		if err != nil {
			return out, err
		}
		m := marks[encoded]
		out.Programs[program] = ""
		if m == nil {
			out.Problems = append(out.Problems, fmt.Sprintf("%s runs from an unknown bundle", program))
			continue
		}
		intact := !system.Exists(s.dir(pending, program))
		if !intact {
			out.Problems = append(out.Problems, program+" has not restarted since it was switched to another bundle")
		}
		for _, e := range m.of(program) {
			problem := wrong[encoded][e.Path]
			if problem == "" {
				if problem, err = s.misplaced(ctx, program, e, marks); err != nil {
					return out, err
				}
			}
			intact = intact && problem == ""
			if problem != "" && !slices.Contains(out.Problems, problem) { // several links may lead to one file
				out.Problems = append(out.Problems, problem)
			}
		}
		if intact {
			out.Programs[program] = m.Bundle
		}
	}
	for _, m := range marks {
		if !slices.ContainsFunc(m.programs(), func(p string) bool { return out.Programs[p] != m.Bundle }) {
			out.Binaries = m.Bundle
		}
	}
	return out, nil
}

// misplaced reports what is wrong with a program's file in the place where the host looks for it.
func (s store) misplaced(ctx context.Context, program string, e entry, marks map[string]*mark) (string, error) {
	file, target := s.outer(program, e)
	if !copied(e) {
		if have, err := os.Readlink(file); err != nil || have != target {
			return file + " is not the bundle's", nil
		}
		return "", nil
	}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return file + " is missing", nil
	case err != nil:
		return "", err
	case info.Size() == 0:
		return file + " is empty", nil
	case info.Mode().Perm()&0o111 == 0:
		return file + " cannot be executed", nil
	case info.Size() == e.Size && info.ModTime().UnixNano() == e.Modified:
		return "", nil
	}
	// A pod network may have put its own plugin there, which is fine. A plugin of another bundle is not.
	same := func(e entry) (bool, error) {
		if info.Size() != e.Size {
			return false, nil
		}
		problem, err := blobs.CheckFile(ctx, file, digest.NewDigestFromEncoded(digest.SHA256, e.SHA256))
		return problem == "", err
	}
	if ours, err := same(e); ours || err != nil {
		return "", err
	}
	for _, m := range marks {
		other := m.entry(e.Path)
		if other == nil || other.Target != "" {
			continue
		}
		if theirs, err := same(*other); theirs || err != nil {
			return file + " is that of another bundle", err
		}
	}
	return "", nil
}

// remains are the bundles that have a directory or a mark and are not intact.
func (s store) remains(intact []string) ([]string, error) {
	all, err := s.unpacked()
	return slices.DeleteFunc(all, func(d string) bool { return slices.Contains(intact, d) }), err
}
