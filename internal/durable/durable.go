// Package durable changes files so that a power cut neither halves nor undoes what has returned.
//
// A rename alone does not do that: after a power cut a file system may know the new name and not the content behind it,
// or still know the old name. Everything that is renamed into place and then relied on, in particular every file whose
// existence claims that something is complete, goes through this package.
//
// Modes do not depend on the caller's umask, except for the files of users: see Update and CreateNew.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// WriteFile replaces the file at path, or creates it together with its directory. A reader sees the old content or the
// new one; once WriteFile has returned, it is the new one even after a power cut.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// Update is WriteFile for a file that belongs to the user: a file that exists keeps its mode and owner, and a symbolic link
// stays and leads to the new content. A file that does not exist yet gets the mode as the umask leaves it. What is no file, such
// as a terminal, a pipe, or /dev/null, is written to and not replaced.
func Update(path string, data []byte, mode fs.FileMode) error {
	info, err := os.Stat(path) // follows links in /proc as well, which lead to what has no path
	if err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(path, data, mode)
	}
	path, err = follow(path)
	if err != nil {
		return err
	}
	info, err = os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, cerr := create(path, mode)
	if cerr != nil {
		return cerr
	}
	defer f.Abort()
	if err == nil {
		if err := f.like(info); err != nil {
			return fmt.Errorf("keeping the mode and the owner of %s: %w", path, err)
		}
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// CanUpdate is the error that Update would meet before it writes anything, for whoever has to know before a long work whether its result can be
// written. It changes nothing.
func CanUpdate(path string) error {
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return &fs.PathError{Op: "write", Path: path, Err: unix.EISDIR}
	case err == nil && !info.Mode().IsRegular():
		return accessible(path, path)
	}
	path, err := follow(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir):
			continue // it will be created
		case err != nil:
			return err
		case !info.IsDir():
			return &fs.PathError{Op: "write", Path: path, Err: unix.ENOTDIR}
		}
		return accessible(dir, path)
	}
}

// accessible is the error of writing the file, if what has to be written for that cannot be.
func accessible(what, file string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, what, unix.W_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "write", Path: file, Err: err}
	}
	return nil
}

// follow resolves symbolic links, also those that lead to a file that does not exist.
func follow(path string) (string, error) {
	for range 40 {
		target, err := os.Readlink(path)
		if err != nil {
			return path, nil // it is not a link
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return "", &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// File is the new content of a file that keeps its old content until Commit.
type File struct {
	*os.File
	path string
	done bool
}

// temporary begins the names of files that are not complete. Whoever finds one that nobody writes may remove it.
const temporary = ".quorate-"

// Create begins the new content of the file at path. Its directory is created if it does not exist.
func Create(path string, mode fs.FileMode) (*File, error) {
	f, err := create(path, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(mode); err != nil {
		f.Abort()
		return nil, err
	}
	return f, nil
}

// CreateNew is Create for a new file of the user's: the umask counts, and a file that exists is an error that matches
// fs.ErrExist.
func CreateNew(path string, mode fs.FileMode) (*File, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	return create(path, mode)
}

func create(path string, mode fs.FileMode) (*File, error) {
	dir := filepath.Dir(path)
	if err := MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.OpenFile(filepath.Join(dir, temporary+rand.Text()), os.O_CREATE|os.O_EXCL|os.O_RDWR, mode)
	if failed, is := errors.AsType[*fs.PathError](err); is {
		return nil, &fs.PathError{Op: "create", Path: path, Err: failed.Err} // nobody knows the temporary name
	}
	if err != nil {
		return nil, err
	}
	return &File{File: tmp, path: path}, nil
}

// like gives the file another one's owner and mode.
func (f *File) like(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(info.Mode().Perm())
}

// Commit gives the content its name. After an error the file has its old content.
func (f *File) Commit() error {
	err := f.Sync()
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if errors.Is(err, unix.EBUSY) {
		// A file that is a mount point, such as a container's /etc/hosts, cannot be replaced.
		if err = f.rewrite(); err == nil {
			f.Abort()
			return nil
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.path, err)
	}
	f.done = true
	return SyncDir(filepath.Dir(f.path))
}

// rewrite puts the content into the file that it should have replaced.
func (f *File) rewrite() error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	old, err := os.OpenFile(f.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(old, f.File)
	return errors.Join(err, old.Sync(), old.Close())
}

// Abort removes content that was not committed. It does nothing after Commit.
func (f *File) Abort() {
	if !f.done {
		f.Close()
		os.Remove(f.Name())
	}
}

// Rename moves a finished file, or a directory with everything below it, to its final name. It replaces a file; a directory
// that has files is exchanged for the new one and then removed.
func Rename(from, to string) error {
	if err := SyncTree(from); err != nil {
		return err
	}
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrExist) {
		if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE); err != nil {
			return fmt.Errorf("exchanging %s for %s: %w", to, from, err)
		}
		if err := SyncDir(filepath.Dir(to)); err != nil {
			return err
		}
		return os.RemoveAll(from)
	}
	if err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return SyncDir(filepath.Dir(from))
	}
	return nil
}

// Move is Rename for data that are finished already, and that must replace nothing: an error that matches fs.ErrExist says that there is
// something at the new name. One that matches unix.EXDEV says that it is on another file system, or mount.
func Move(from, to string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return errors.Join(SyncDir(filepath.Dir(to)), SyncDir(filepath.Dir(from)))
}

// Symlink makes path a link to target, in place of any file or link there.
func Symlink(target, path string) error {
	dir := filepath.Dir(path)
	if have, err := os.Readlink(path); err == nil && have == target {
		return SyncDir(dir)
	}
	if err := MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, temporary+"*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	link := filepath.Join(tmp, "link")
	if err := os.Symlink(target, link); err != nil {
		return err
	}
	if err := os.Rename(link, path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// Remove removes a file. One that does not exist is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll creates a directory and its parents. Directories that exist keep their modes.
func MkdirAll(dir string, mode fs.FileMode) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if err := MkdirAll(parent, mode); err != nil {
		return err
	}
	err := os.Mkdir(dir, mode)
	if err == nil {
		err = os.Chmod(dir, mode)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process may have been faster
		return err
	}
	return SyncDir(parent)
}

// SyncDir brings the names in a directory to the disk.
func SyncDir(dir string) error { return syncPath(dir) }

// SyncTree brings a file, or a directory with everything below it, to the disk. What lies beyond symbolic links is not
// part of it. Files that vanish meanwhile are left out.
func SyncTree(path string) error {
	return filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || e.Type().IsRegular()) {
			err = syncPath(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	// Some network file systems cannot synchronize directories, and write names through instead.
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("syncing %s: %w", path, err)
	}
	return nil
}
