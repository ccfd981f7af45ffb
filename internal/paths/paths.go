// Package paths defines the directories that Quorate uses on the caller's machine.
package paths

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// Cache is the directory for what can be recreated: bundles and lab base images. `quorate down` keeps it. QUORATE_CACHE
// overrides it.
func Cache(elem ...string) string { return under("QUORATE_CACHE", "/var/cache/quorate", elem) }

// State is the directory for what belongs to existing clusters: labs, their keys, kubeconfigs. It is empty if no lab exists.
// QUORATE_STATE overrides it.
func State(elem ...string) string { return under("QUORATE_STATE", "/var/lib/quorate", elem) }

func under(env, fallback string, elem []string) string {
	root := os.Getenv(env)
	if root == "" {
		root = fallback
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// Expand replaces a leading ~/ with the caller's home directory.
func Expand(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		if u, uerr := user.Current(); uerr == nil {
			home = u.HomeDir
		}
	}
	if home == "" {
		return path // the error that follows names it
	}
	return filepath.Join(home, rest)
}

// maxRead is more than any file has that a user passes to a command.
const maxRead = 256 << 20

// UnreadableError says that a file that the user names cannot be read.
type UnreadableError struct{ error }

func (e *UnreadableError) Unwrap() error { return e.error }

// Read reads a file that the user names; a leading ~/ is the home directory. What is too large for that, or has no end, as a device, is an error
// and does not fill the memory. The error is an [UnreadableError].
func Read(path string) ([]byte, error) {
	path = Expand(path)
	f, err := os.Open(path)
	if err != nil {
		return nil, &UnreadableError{err}
	}
	defer f.Close()
	return ReadAll(f, path)
}

// ReadAll is Read for a file that is open already, such as stdin. The name is for errors.
func ReadAll(in io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxRead+1))
	var failed *fs.PathError
	switch {
	case err != nil && !errors.As(err, &failed):
		return nil, &UnreadableError{fmt.Errorf("read %s: %w", name, err)}
	case err != nil:
		return nil, &UnreadableError{err}
	case len(data) > maxRead:
		return nil, &UnreadableError{fmt.Errorf("read %s: it is larger than %d MiB, which no file of this kind is", name, maxRead>>20)}
	}
	return data, nil
}
