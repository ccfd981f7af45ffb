package sources

import (
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/spec"
)

// GetOptions are what a spec asks of the source official or mirror.
func GetOptions(version string, c spec.Components) bundle.GetOptions {
	return bundle.GetOptions{Version: version, Mirror: Mirror(c), Signatures: Signatures(c), Digest: c.Digest}
}

// Mirror is where a spec takes published releases from.
func Mirror(c spec.Components) bundle.Mirror {
	return bundle.Mirror{Releases: c.Releases, Registry: c.Registry, Access: Access(c)}
}

// Signatures are those that a spec wants to be verified: where it does not say, those that the projects publish. Who mirrors
// the projects' files need not have mirrored their signatures.
func Signatures(c spec.Components) bundle.Signatures {
	s := c.Signatures
	require := s.Require
	if require == "" && c.Releases == "" {
		require = spec.SignaturesPublished
	}
	return bundle.Signatures{Published: require == spec.SignaturesPublished, All: require == spec.SignaturesAll,
		PublicKeyFile: s.PublicKeyFile, Identity: s.Identity, Issuer: s.Issuer, TrustedRootFile: s.TrustedRootFile}
}

// Access is how a spec's mirror or registry is reached.
func Access(c spec.Components) fetch.Access {
	return fetch.Access{CAFile: c.CAFile, Username: c.Username, PasswordFile: c.PasswordFile}
}
