package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// shared are the directories below /var (slash-separated, * for one element) whose files are never written to after they are
// created, so that many machines can share one file. Databases are not among them.
var shared = []string{
	"lib/containerd/io.containerd.content.v1.content/blobs",
	"lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs",
	"lib/quorate/bundle/blobs",
	"lib/quorate/bin",
}

// rule says how clone treats the entry at a path relative to the tree's root.
type rule func(path string) treatment

type treatment int

const (
	duplicate treatment = iota
	link                // as a hard link if both trees are on one filesystem, otherwise as a copy
	leaveOut
)

// linkAll is the rule for trees that only ever serve as the lower layer of an overlay.
func linkAll(string) treatment { return link }

// linkShared is the rule for /var.
func linkShared(path string) treatment {
	elems := strings.Split(path, "/")
	for _, pattern := range shared {
		want := strings.Split(pattern, "/")
		if len(elems) <= len(want) {
			continue
		}
		if ok, _ := filepath.Match(pattern, strings.Join(elems[:len(want)], "/")); ok {
			return link
		}
	}
	return duplicate
}

// clone copies the tree at from onto to, which may exist: owners, modes, times, extended attributes,
// links and device nodes (an overlay's whiteouts) are kept.
func clone(from, to string, treat rule) error {
	c := cloner{from: from, to: to, treat: treat, names: map[uint64]string{}}
	if err := c.dir("."); err != nil {
		return fmt.Errorf("clone %s to %s: %w", from, to, err)
	}
	return nil
}

type cloner struct {
	from, to string
	treat    rule
	// names maps inodes to names, so that hard links are copied as hard links.
	names map[uint64]string
}

func (c *cloner) dir(rel string) error {
	from, to := filepath.Join(c.from, rel), filepath.Join(c.to, rel)
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(rel, e.Name())
		switch t := c.treat(path); {
		case t == leaveOut:
		case e.IsDir():
			err = c.dir(path)
		default:
			err = c.file(path, t)
		}
		if err != nil {
			return err
		}
	}
	return attributes(from, to, &st)
}

func (c *cloner) file(rel string, t treatment) error {
	from, to := filepath.Join(c.from, rel), filepath.Join(c.to, rel)
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		source := from
		if st.Nlink > 1 && c.names[st.Ino] != "" {
			source = c.names[st.Ino]
		}
		if source != from || t == link {
			err := os.Link(source, to)
			if err == nil {
				return nil
			}
			if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) {
				return err
			}
		}
		if err := copyFile(from, to); err != nil {
			return err
		}
		if st.Nlink > 1 {
			c.names[st.Ino] = to
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	case unix.S_IFSOCK:
		return nil // nothing listens on it any more
	default:
		if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
			return &os.PathError{Op: "mknod", Path: to, Err: err}
		}
	}
	return attributes(from, to, &st)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in) // copy_file_range, where the filesystem can
	return errors.Join(err, out.Close())
}

// attributes copies the attributes of from to to. The owner comes first, because changing it clears set-id bits.
func attributes(from, to string, st *unix.Stat_t) error {
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return &os.PathError{Op: "chown", Path: to, Err: err}
	}
	symlink := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if !symlink {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: to, Err: err}
	}
	return nil
}

func copyXattrs(from, to string) error {
	var small [1024]byte
	names := small[:]
	n, err := unix.Llistxattr(from, names)
	if err == unix.ERANGE {
		names = make([]byte, 1<<16)
		n, err = unix.Llistxattr(from, names)
	}
	if err == unix.ENOTSUP || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "listxattr", Path: from, Err: err}
	}
	value := make([]byte, 1<<16)
	for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		size, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:size], 0)
		}
		if err != nil {
			return &os.PathError{Op: "copy attribute " + name + " to", Path: to, Err: err}
		}
	}
	return nil
}
