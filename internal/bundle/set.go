package bundle

import "slices"

// Set is the bundles of one Kubernetes version, at most one for each architecture. The first one tells what the bundles have in common, such as
// the names of images.
type Set []*Bundle

// For is the bundle for an architecture; nil if there is none.
func (s Set) For(arch string) *Bundle {
	if i := slices.IndexFunc(s, func(b *Bundle) bool { return b.Arch() == arch }); i >= 0 {
		return s[i]
	}
	return nil
}

// Main is the first bundle; nil if there is none.
func (s Set) Main() *Bundle {
	if len(s) == 0 {
		return nil
	}
	return s[0]
}
