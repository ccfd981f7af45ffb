package system

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Size is how many bytes the regular files in a directory have, or a file. What cannot be read counts as empty.
func Size(path string) (sum int64) {
	_ = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

// Exists reports whether there is a file, of any kind, at the path.
func Exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// Missing reports whether there is nothing at the path. It returns an error if nobody can tell, for example because the disk does not answer.
// Code that acts because something does not exist must use it instead of Exists, which takes every error for "no".
func Missing(path string) (bool, error) {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	default:
		return false, err
	}
}

// Filled is Exists for files that kubeadm writes: kubeadm does not write them atomically, so a killed kubeadm may leave an
// empty file.
func Filled(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// ReadTrimmed is a file's text without space around it, empty if the file cannot be read.
func ReadTrimmed(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// ReadAll is a file's content, empty if the file cannot be read.
func ReadAll(path string) []byte { b, _ := os.ReadFile(path); return b }
