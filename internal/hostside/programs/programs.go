// Package programs keeps the programs of bundles on a host, and decides which bundle each program runs from.
//
// A bundle is unpacked into its own directory, named by its digest, next to the bundle that is running. For each program there
// is a link in the directory current to the bundle that it runs from, and its files in /usr/local/bin are links through that
// one:
//
//	/usr/local/bin/kubelet            -> /opt/quorate/programs/current/kubelet/usr/local/bin/kubelet
//	/opt/quorate/programs/current/kubelet -> ../<digest>
//	/opt/quorate/programs/<digest>/usr/local/bin/kubelet
//	/opt/quorate/programs/<digest>.json
//
// Switching a program to another bundle is the replacement of one link. CNI plugins are copied to /opt/cni/bin, not linked:
// pods of pod networks mount that directory and write there, and in a pod the links would lead nowhere.
//
// The directory is below /opt, like the CNI plugins: /var may be mounted without the permission to execute, and SELinux
// does not let systemd execute what lies there.
package programs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/blobs"
)

// store is where a host keeps its programs; root is "/" except in tests.
type store struct {
	root  string
	blobs blobs.Store
}

var local = store{"/", blobs.Host}

const (
	base    = facts.ProgramsDir
	current = "current"
	// pending has a file for each program whose unit has to restart.
	pending = "pending"
	cniDir  = "opt/cni/bin"
)

// places are the only directories in which a bundle may have files.
var places = []string{"usr/local/bin", cniDir}

func (s store) dir(elem ...string) string {
	return filepath.Join(append([]string{s.root, base}, elem...)...)
}

// entry is one file or link of an unpacked bundle.
type entry struct {
	// Path is slash-separated, from the root of the bundle and of the host.
	Path string `json:"path"`
	// Target is the target of a symbolic link, which is in the same directory.
	Target string `json:"target,omitempty"`
	// SHA256, Size, and Mode are those of a file. Modified is its modification time when the content was last compared with
	// the digest, in nanoseconds. A copy of the whole disk keeps it.
	SHA256   string      `json:"sha256,omitempty"`
	Size     int64       `json:"size,omitempty"`
	Mode     fs.FileMode `json:"mode,omitempty"`
	Modified int64       `json:"modified,omitempty"`
}

// mark says that a bundle is unpacked. It is written after everything that it lists is on the disk.
type mark struct {
	Bundle  string  `json:"bundle"`
	Entries []entry `json:"entries"`
}

func (m *mark) entry(path string) *entry {
	i := slices.IndexFunc(m.Entries, func(e entry) bool { return e.Path == path })
	if i < 0 {
		return nil
	}
	return &m.Entries[i]
}

// of are the entries of a program.
func (m *mark) of(program string) []entry {
	var out []entry
	for _, e := range m.Entries {
		if facts.ProgramOf(e.Path) == program {
			out = append(out, e)
		}
	}
	return out
}

// programs are the names of those in the bundle, in the order in which they are switched.
func (m *mark) programs() []string {
	return slices.DeleteFunc(slices.Clone(facts.SwitchOrder), func(p string) bool { return len(m.of(p)) == 0 })
}

func (s store) markFile(encoded string) string { return s.dir(encoded + ".json") }

// mark reads the mark of a bundle. Without a readable mark, the bundle counts as not unpacked.
func (s store) mark(encoded string) (*mark, error) {
	data, err := os.ReadFile(s.markFile(encoded))
	if err != nil {
		return nil, err
	}
	var m mark
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.markFile(encoded), err)
	}
	if digest.Digest(m.Bundle).Validate() != nil || digest.Digest(m.Bundle).Encoded() != encoded {
		return nil, fmt.Errorf("%s is the mark of %q", s.markFile(encoded), m.Bundle)
	}
	if len(m.Entries) == 0 {
		return nil, fmt.Errorf("%s names no program", s.markFile(encoded))
	}
	return &m, nil
}

func (s store) write(m *mark) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.markFile(digest.Digest(m.Bundle).Encoded()), data, 0o644)
}

// marks reads all marks, by the encoded part of the bundle's digest. An unreadable mark counts as missing: the bundle has to
// be unpacked again.
func (s store) marks() (map[string]*mark, error) {
	entries, err := os.ReadDir(s.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := map[string]*mark{}
	for _, e := range entries {
		encoded, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if m, err := s.mark(encoded); err == nil {
			all[encoded] = m
		}
	}
	return all, nil
}

// check compares a file of an unpacked bundle with the mark, and follows links within the bundle. The content is read only if
// the file was written since it was last compared; changed reports that the mark has a new time.
func (s store) check(ctx context.Context, m *mark, path string) (problem string, changed bool, err error) {
	e := m.entry(path)
	if e == nil {
		return "is missing in the bundle", false, nil
	}
	file := s.dir(digest.Digest(m.Bundle).Encoded(), path)
	if e.Target != "" {
		if target, err := os.Readlink(file); err != nil || target != e.Target {
			return file + " is not the link that the bundle has", false, nil
		}
		return s.check(ctx, m, filepath.Join(filepath.Dir(path), e.Target))
	}
	problem, modified, err := compare(ctx, file, *e)
	if problem == "" && err == nil && modified != e.Modified {
		e.Modified, changed = modified, true
	}
	return problem, changed, err
}

// verify compares everything in an unpacked bundle with its mark, and records in the mark what it has compared.
func (s store) verify(ctx context.Context, m *mark) (problems []string, err error) {
	changed := false
	for _, e := range m.Entries {
		problem, learnt, err := s.check(ctx, m, e.Path)
		if err != nil {
			return nil, err
		}
		if problem != "" {
			problems = append(problems, problem)
		}
		changed = changed || learnt
	}
	if changed {
		err = s.write(m)
	}
	return problems, err
}

// compare compares a file with an entry; "" means that it is the same.
func compare(ctx context.Context, file string, e entry) (problem string, modified int64, err error) {
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return file + " is missing", 0, nil
	case err != nil:
		return "", 0, err
	case !info.Mode().IsRegular():
		return file + " is not a file", 0, nil
	case info.Size() != e.Size:
		return fmt.Sprintf("%s has %d bytes instead of %d", file, info.Size(), e.Size), 0, nil
	case info.Mode().Perm() != e.Mode:
		return fmt.Sprintf("%s has the mode %04o instead of %04o", file, info.Mode().Perm(), e.Mode), 0, nil
	}
	modified = info.ModTime().UnixNano()
	if modified == e.Modified {
		return "", modified, nil
	}
	want := digest.NewDigestFromEncoded(digest.SHA256, e.SHA256)
	if problem, err = blobs.CheckFile(ctx, file, want); problem != "" {
		problem = file + " " + problem
	}
	return problem, modified, err
}

// label gives a file the SELinux label of the directory whose link leads to it, where systemd may execute files.
func label(file, like string) error {
	const attribute = "security.selinux"
	value := make([]byte, 256)
	n, err := unix.Lgetxattr(like, attribute, value)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, fs.ErrNotExist) {
		return nil // a host without SELinux
	}
	if err == nil {
		err = unix.Lsetxattr(file, attribute, value[:n], 0)
	}
	if err != nil {
		return fmt.Errorf("giving %s the SELinux label of %s: %w", file, like, err)
	}
	return nil
}

// hashing is a writer that computes the digest and the size of what it passes on.
type hashing struct {
	io.Writer
	sum  hash.Hash
	size int64
}

func newHashing(w io.Writer) *hashing { return &hashing{Writer: w, sum: sha256.New()} }

func (h *hashing) Write(p []byte) (int, error) {
	n, err := h.Writer.Write(p)
	h.sum.Write(p[:n]) //nolint:errcheck // it never fails
	h.size += int64(n)
	return n, err
}

func (h *hashing) hex() string { return hex.EncodeToString(h.sum.Sum(nil)) }
