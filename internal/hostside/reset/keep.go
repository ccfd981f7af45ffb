package reset

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
)

// keep moves the data of etcd, and /etc/kubernetes with the keys that the data needs, to the directory that the request names. Nothing
// uses them any more. What is already there was moved by a reset that was interrupted. Files elsewhere that the flags of an adopted cluster
// name, such as an encryption configuration, stay where they are: a reset removes none of them.
func (w work) keep() error {
	if w.Keep == "" || !w.Node {
		return nil
	}
	if w.EtcdWAL != "" && wholeSystem(w.EtcdWAL) {
		if logs, err := filepath.Glob(filepath.Join(w.at(w.EtcdWAL), "*.wal")); err != nil || len(logs) > 0 {
			return fmt.Errorf("the log of the etcd member is in %s, with other files: move the files *.wal to a directory of their own by hand", w.EtcdWAL)
		}
	}
	dir := w.at(w.Keep)
	// The name of the directory above is public, what is in it is not.
	if err := durable.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, from := range []struct{ path, as string }{{filepath.Join(w.EtcdData, "member"), "etcd/member"}, {w.EtcdWAL, "etcd/wal"}, {"/etc/kubernetes", "kubernetes"}} {
		if err := w.next(); err != nil {
			return err
		}
		to := filepath.Join(dir, from.as)
		if from.path == "" || wholeSystem(from.path) || !system.Exists(w.at(from.path)) || system.Exists(to) {
			continue
		}
		if err := durable.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := move(w.at(from.path), to); err != nil {
			return fmt.Errorf("moving %s to %s: %w", from.path, w.shown(to), err)
		}
		w.note("%s was kept in %s", from.path, w.shown(to))
	}
	return nil
}

// move moves a directory, also to another file system. One that is a file system of its own is copied. The new name exists only when everything
// in it is on the disk.
func move(from, to string) error {
	err := durable.Rename(from, to)
	if !errors.Is(err, syscall.EXDEV) && !errors.Is(err, syscall.EBUSY) {
		return err
	}
	partial := to + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return err
	}
	if err := os.CopyFS(partial, os.DirFS(from)); err != nil {
		return err
	}
	if err := durable.SyncTree(partial); err != nil {
		return err
	}
	return durable.Rename(partial, to)
}
