// Package paths names the few places where Quorate keeps things on the caller's machine.
package paths

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// Cache is the folder for what can be made again: bundles, lab base images. It outlives `quorate down`.
// QUORATE_CACHE overrides it.
func Cache(elem ...string) string { return under("QUORATE_CACHE", "/var/cache/quorate", elem) }

// State is the folder for what belongs to clusters that exist: labs, their keys, kubeconfigs.
// It is empty when no lab exists. QUORATE_STATE overrides it.
func State(elem ...string) string { return under("QUORATE_STATE", "/var/lib/quorate", elem) }

func under(env, fallback string, elem []string) string {
	root := os.Getenv(env)
	if root == "" {
		root = fallback
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// Expand puts the caller's home folder for a leading ~/.
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
