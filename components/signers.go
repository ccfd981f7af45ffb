package components

import "strings"

// Signer is the identity with which a project signs what it publishes, and who makes sure of that identity.
type Signer struct{ Identity, Issuer string }

// signers are by the beginning of addresses. Who is not here publishes no signatures that can be verified without asking
// a log or a keyserver.
var signers = []struct {
	prefix string
	Signer
}{
	{"https://dl.k8s.io/", Signer{"krel-staging@k8s-releng-prod.iam.gserviceaccount.com", "https://accounts.google.com"}},
	{"registry.k8s.io/", Signer{"krel-trust@k8s-releng-prod.iam.gserviceaccount.com", "https://accounts.google.com"}},
}

// SignerOf is who signs what is published at an address.
func SignerOf(address string) (Signer, bool) {
	for _, s := range signers {
		if strings.HasPrefix(address, s.prefix) {
			return s.Signer, true
		}
	}
	return Signer{}, false
}
