// Package paths names the few places where Quorate keeps things on the caller's machine.
package paths

import (
	"os"
	"path/filepath"
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
