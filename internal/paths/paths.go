// Package paths defines the directories that Quorate uses on the caller's machine.
package paths

import (
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
	return filepath.Join(home, rest)
}
