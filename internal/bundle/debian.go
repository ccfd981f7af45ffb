package bundle

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"quorate.dev/quorate/components"
)

// takeDebian gets a program out of its Debian package, with the loader and the shared libraries that
// it needs from the packages that it depends on, or the files of a folder. apt checks the packages' signatures and hashes.
// It returns the versions of the packages that files came from.
func (w *workshop) takeDebian(ctx context.Context, c components.Component, dir workDir) ([]entry, map[string]string, error) {
	packages, err := downloadPackages(ctx, c.Debian.Package, w.arch, dir)
	if err != nil {
		return nil, nil, err
	}
	root := debianRoot{dir: dir.out(), owner: map[string]string{}}
	for _, p := range packages {
		if err := root.add(ctx, p); err != nil {
			return nil, nil, err
		}
	}
	what, mode, choose := c.Debian.Program, fs.FileMode(0o755), root.closure
	if c.Debian.Folder != "" {
		what, mode, choose = c.Debian.Folder, 0o644, root.below
	}
	names, err := choose(what)
	if err != nil {
		return nil, nil, fmt.Errorf("extract %s from the Debian package %s: %w", what, c.Debian.Package, err)
	}
	var entries []entry
	versions := map[string]string{}
	for _, name := range names {
		file, owner, err := root.resolve(name)
		if err != nil {
			return nil, nil, err
		}
		// The library's content under the name that the loader asks for, without the chain of links.
		entries = append(entries, entry{name: name, mode: mode, source: file})
		versions[owner] = packages[slices.IndexFunc(packages, func(p debianPackage) bool { return p.name == owner })].version
	}
	return entries, versions, nil
}

type debianPackage struct{ name, version, file string }

// downloadPackages fetches a package and all that it depends on. The machine's own package lists may
// be missing or so old that their files are gone from the archive: then it reads fresh lists into a
// folder of its own. It also does so for another architecture, which these lists need not have.
func downloadPackages(ctx context.Context, name, arch string, dir workDir) ([]debianPackage, error) {
	if !foreign(arch) {
		packages, err := downloadWith(ctx, name, dir, nil)
		if err == nil || ctx.Err() != nil {
			return packages, err
		}
	}
	lists := filepath.Join(dir.root, "apt")
	if err := os.MkdirAll(filepath.Join(lists, "lists", "partial"), 0o755); err != nil {
		return nil, err
	}
	options := []string{"-o", "Dir::State::lists=" + filepath.Join(lists, "lists"), "-o", "Dir::Cache=" + lists}
	if foreign(arch) {
		options = append(options, "-o", "APT::Architecture="+arch, "-o", "APT::Architectures="+arch)
	}
	update := command{what: "read Debian's package lists"}
	// One unreachable source of several does not matter if the rest has the packages.
	_, updateErr := update.output(ctx, "apt-get", slices.Concat(aptOptions, options, []string{"update"})...)
	packages, err := downloadWith(ctx, name, dir, options)
	if err != nil {
		return nil, &DownloadError{
			What:   "Debian's package " + name,
			Detail: lastLine(errors.Join(err, updateErr).Error()),
			Hint:   "check this machine's network and /etc/apt/sources.list, then run `apt-get update`",
		}
	}
	return packages, nil
}

// aptOptions let apt write into a folder that its own user cannot enter.
var aptOptions = []string{"-q", "-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1", "-o", "Acquire::Retries=3"}

func downloadWith(ctx context.Context, name string, dir workDir, options []string) ([]debianPackage, error) {
	list := command{what: "find what Debian's " + name + " depends on"}
	out, err := list.output(ctx, "apt-cache", slices.Concat(options, []string{"depends", "--recurse", "--important",
		"--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", name})...)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(out) {
		// Indented lines are the relations; virtual packages stand in angle brackets, and a colon
		// marks another architecture's.
		if line = strings.TrimRight(line, "\n"); line != "" && !strings.ContainsAny(line, " <|:") {
			names = append(names, line)
		}
	}
	target := filepath.Join(dir.root, "packages")
	if err := os.RemoveAll(target); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return nil, err
	}
	download := command{what: "download " + strings.Join(names, " "), dir: target}
	if _, err := download.output(ctx, "apt-get", slices.Concat(aptOptions, options, []string{"download"}, names)...); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(target, "*.deb"))
	if err != nil {
		return nil, err
	}
	var packages []debianPackage
	for _, file := range files {
		show := command{what: "read " + filepath.Base(file)}
		out, err := show.output(ctx, "dpkg-deb", "--show", "--showformat=${Package} ${Version}", file)
		if err != nil {
			return nil, err
		}
		name, version, _ := strings.Cut(out, " ")
		packages = append(packages, debianPackage{name, version, file})
	}
	return packages, nil
}

// debianRoot is a tree that packages were unpacked to.
type debianRoot struct {
	dir   string
	owner map[string]string // package, by path
}

// add unpacks a package. Files of several packages never collide: Debian's own rules say so.
func (r debianRoot) add(ctx context.Context, p debianPackage) error {
	own, err := os.MkdirTemp(r.dir, ".package-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(own)
	if _, err := (command{what: "unpack " + filepath.Base(p.file)}).output(ctx, "dpkg-deb", "--extract", p.file, own); err != nil {
		return err
	}
	return filepath.WalkDir(own, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(own, file)
		if err != nil {
			return err
		}
		target := filepath.Join(r.dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		r.owner[name] = p.name
		return os.Rename(file, target)
	})
}

// closure finds what a program needs to start: itself, its loader, and its libraries, theirs included.
func (r debianRoot) closure(program string) ([]string, error) {
	found := map[string]bool{}
	for queue := []string{program}; len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		if found[name] {
			continue
		}
		found[name] = true
		interpreter, libraries, err := r.needs(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if interpreter != "" {
			queue = append(queue, interpreter)
		}
		for _, library := range libraries {
			at, ok := r.find(library)
			if !ok {
				return nil, fmt.Errorf("%s needs %s, which none of the packages it depends on contains", name, library)
			}
			queue = append(queue, at)
		}
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// below are the files of a folder.
func (r debianRoot) below(folder string) (names []string, err error) {
	for name := range r.owner {
		if strings.HasPrefix(name, folder+"/") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("it has no files there")
	}
	slices.Sort(names)
	return names, nil
}

func (r debianRoot) needs(name string) (interpreter string, libraries []string, err error) {
	file, _, err := r.resolve(name)
	if err != nil {
		return "", nil, err
	}
	f, err := elf.Open(file)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		raw := make([]byte, p.Filesz)
		if _, err := p.ReadAt(raw, 0); err != nil {
			return "", nil, err
		}
		interpreter = strings.Trim(string(raw), "\x00/")
	}
	libraries, err = f.ImportedLibraries()
	return interpreter, libraries, err
}

// resolve follows a file's links inside the tree, where absolute ones mean the tree's root, and says
// which package has the content.
func (r debianRoot) resolve(name string) (file, owner string, err error) {
	const maxLinks = 16
	at := name
	for range maxLinks {
		if r.owner[at] == "" {
			// A distribution with one /usr has its files there, but programs still ask for the old paths.
			at = path.Join("usr", at)
		}
		file = filepath.Join(r.dir, at)
		target, err := os.Readlink(file)
		switch {
		case errors.Is(err, syscall.EINVAL): // no link
			return file, r.owner[at], nil
		case err != nil:
			return "", "", err
		case path.IsAbs(target):
			at = path.Clean(target)[1:]
		default:
			at = path.Join(path.Dir(at), target)
		}
	}
	return "", "", fmt.Errorf("%s: too many links", name)
}

// find looks for a library where Debian's loader looks.
func (r debianRoot) find(library string) (string, bool) {
	for _, pattern := range []string{"lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "lib", "usr/lib"} {
		matches, _ := filepath.Glob(filepath.Join(r.dir, pattern, library))
		for _, m := range matches {
			if name, err := filepath.Rel(r.dir, m); err == nil {
				return path.Clean(filepath.ToSlash(name)), true
			}
		}
	}
	return "", false
}
