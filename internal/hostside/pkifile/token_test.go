package pkifile

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"slices"
	"testing"
)

// TestKeysOfCertificatesAndOfServiceAccounts: both are named by the same hash of the public key, which is that of tokens, too.
func TestKeysOfCertificatesAndOfServiceAccounts(t *testing.T) {
	certificate, key, public := pair(t)
	_, otherKey, otherPublic := pair(t)
	id, other := PrivateKeyID(key), PrivateKeyID(otherKey)
	if len(id) != 64 || id == other {
		t.Fatalf("%q, %q", id, other)
	}
	unknown := pem.EncodeToMemory(&pem.Block{Type: "SOMETHING ELSE", Bytes: []byte("x")})
	damaged := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})
	text := slices.Concat(otherPublic, unknown, damaged, []byte("# a comment\n"), certificate, public)
	if have := KeyIDs(text); !slices.Equal(have, []string{other, id}) {
		t.Errorf("%v", have)
	}
	all := Keys(text)
	if string(all[0].PEM) != string(otherPublic) || string(all[1].PEM) != string(certificate) {
		t.Errorf("%s", all[0].PEM)
	}
	block, _ := pem.Decode(public)
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(parsed.(*ecdsa.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	if hex.EncodeToString(sum[:]) != id || FromTokenKeyID(base64.RawURLEncoding.EncodeToString(sum[:])) != id {
		t.Errorf("%x, want %s", sum, id)
	}
}

func TestTokensOfServiceAccounts(t *testing.T) {
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	sum := sha256.Sum256([]byte("a key"))
	header := `{"alg":"ES256","kid":"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"}`
	claims := `{"sub":"system:serviceaccount:shop:web","kubernetes.io":{"namespace":"shop","pod":{"name":"web-1","uid":"u1"}}}`
	for name, tc := range map[string]struct {
		text string
		want Token
		is   bool
	}{
		"of a pod":                {encode(header) + "." + encode(claims) + ".c2ln\n", Token{SignedBy: hex.EncodeToString(sum[:]), Pod: "u1"}, true},
		"of a secret":             {encode(header) + "." + encode(`{"sub":"system:serviceaccount:shop:web"}`) + ".c2ln", Token{SignedBy: hex.EncodeToString(sum[:])}, true},
		"with a key of others":    {encode(`{"alg":"RS256","kid":"2026-11"}`) + "." + encode(claims) + ".c2ln", Token{Pod: "u1"}, true},
		"of an identity provider": {encode(header) + "." + encode(`{"sub":"jane"}`) + ".c2ln", Token{}, false},
		"not signed":              {encode(header) + "." + encode(claims), Token{}, false},
		"a certificate":           {"-----BEGIN CERTIFICATE-----\n", Token{}, false},
		"nothing":                 {"", Token{}, false},
		"not JSON":                {encode("x") + "." + encode(claims) + ".c2ln", Token{}, false},
	} {
		if have, is := ReadToken([]byte(tc.text)); is != tc.is || have != tc.want {
			t.Errorf("%s: %+v, %t", name, have, is)
		}
	}
}
