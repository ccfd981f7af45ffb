package sources

import (
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/spec"
)

// GetOptions are the options of a spec for the sources official and mirror, for an architecture.
func GetOptions(version, arch string, c spec.Components) bundle.GetOptions {
	return bundle.GetOptions{Version: version, Arch: arch, Mirror: Mirror(c), Signatures: Signatures(c), Digest: c.Digest}
}

// Mirror is where a spec gets published releases from.
func Mirror(c spec.Components) bundle.Mirror {
	return bundle.Mirror{Releases: c.Releases, Registry: c.Registry, Access: Access(c)}
}

// Signatures says which signatures a spec requires: by default, those that the projects publish. With a mirror, the default
// is none, because a mirror need not have the signatures.
func Signatures(c spec.Components) bundle.Signatures {
	s := c.Signatures
	require := s.Require
	if require == "" && c.Releases == "" {
		require = spec.SignaturesPublished
	}
	return bundle.Signatures{Published: require == spec.SignaturesPublished, All: require == spec.SignaturesAll,
		PublicKeyFile: s.PublicKeyFile, Identity: s.Identity, Issuer: s.Issuer, TrustedRootFile: s.TrustedRootFile}
}

// Access is how to reach a spec's mirror or registry.
func Access(c spec.Components) fetch.Access {
	return fetch.Access{CAFile: c.CAFile, Username: c.Username, PasswordFile: c.PasswordFile}
}
