package system

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// WriteFile writes a whole file or nothing: a reader, or a power cut, never meets half of it.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".quorate-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	err = os.Rename(tmp.Name(), path)
	if errors.Is(err, syscall.EBUSY) {
		// A file that is a mount point (a container's /etc/hosts) cannot be replaced, only rewritten.
		return os.WriteFile(path, data, mode)
	}
	return err
}

// Exists reports whether there is a file, of any kind, at the path.
func Exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// Filled is Exists for files of kubeadm: it does not write them at one stroke, so one that was killed may leave an empty one.
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
