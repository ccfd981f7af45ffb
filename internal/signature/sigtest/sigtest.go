// Package sigtest signs as sigstore does, with authorities and logs of its own, for tests.
package sigtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// Sigstore is an authority for certificates and two logs.
type Sigstore struct {
	t                   *testing.T
	root, intermediate  *x509.Certificate
	key, tlog, certsKey *ecdsa.PrivateKey
	WithoutCertificates bool          // certificates are not logged
	Late                time.Duration // after which signatures are logged
	serial              int64
}

// New makes one.
func New(t *testing.T) *Sigstore {
	t.Helper()
	s := &Sigstore{t: t, key: Key(t), tlog: Key(t), certsKey: Key(t)}
	rootKey := Key(t)
	s.root = s.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, rootKey.Public(), rootKey)
	s.intermediate = s.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}, s.root, s.key.Public(), rootKey)
	return s
}

// Key makes a key as cosign does.
func Key(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// PublicPEM is a public key as cosign writes it.
func PublicPEM(t *testing.T, key crypto.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der(t, key)})
}

func der(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	raw, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (s *Sigstore) issue(c, by *x509.Certificate, key crypto.PublicKey, with *ecdsa.PrivateKey) *x509.Certificate {
	s.t.Helper()
	s.serial++
	c.SerialNumber = big.NewInt(s.serial)
	if c.NotBefore.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if by == nil {
		by = c
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, by, key, with)
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(raw)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// RootJSON is the trusted_root.json.
func (s *Sigstore) RootJSON() []byte {
	s.t.Helper()
	log := func(key *ecdsa.PrivateKey) []any {
		raw := der(s.t, key.Public())
		id := sha256.Sum256(raw)
		return []any{map[string]any{
			"publicKey": map[string]any{"rawBytes": raw, "validFor": map[string]any{"start": time.Now().Add(-time.Hour)}},
			"logId":     map[string]any{"keyId": id[:]}}}
	}
	raw, err := json.Marshal(map[string]any{
		"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		"tlogs":     log(s.tlog), "ctlogs": log(s.certsKey),
		"certificateAuthorities": []any{map[string]any{
			"certChain": map[string]any{"certificates": []any{map[string]any{"rawBytes": s.intermediate.Raw}, map[string]any{"rawBytes": s.root.Raw}}},
			"validFor":  map[string]any{"start": time.Now().Add(-time.Hour)}}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// certificate gives a key to an identity for ten minutes, which begin five minutes ago.
func (s *Sigstore) certificate(identity, issuer string, key crypto.PublicKey) *x509.Certificate {
	s.t.Helper()
	name, err := asn1.MarshalWithParams(issuer, "utf8")
	if err != nil {
		s.t.Fatal(err)
	}
	template := func() *x509.Certificate {
		return &x509.Certificate{NotBefore: time.Now().Add(-5 * time.Minute).Truncate(time.Second), NotAfter: time.Now().Add(5 * time.Minute).Truncate(time.Second),
			EmailAddresses: []string{identity}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: name}}}
	}
	first := template()
	bare := s.issue(first, s.intermediate, key, s.key)
	if s.WithoutCertificates {
		return bare
	}
	s.serial-- // the same certificate once more, with the log's promise in it
	second := template()
	second.NotBefore, second.NotAfter = first.NotBefore, first.NotAfter
	second.ExtraExtensions = append(second.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: s.promise(bare.RawTBSCertificate)})
	return s.issue(second, s.intermediate, key, s.key)
}

func (s *Sigstore) promise(tbs []byte) []byte {
	s.t.Helper()
	id, by := sha256.Sum256(der(s.t, s.certsKey.Public())), sha256.Sum256(s.intermediate.RawSubjectPublicKeyInfo)
	now := uint64(time.Now().UnixMilli())
	var text cryptobyte.Builder
	text.AddUint16(0)
	text.AddUint64(now)
	text.AddUint16(1)
	text.AddBytes(by[:])
	text.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(tbs) })
	text.AddUint16(0)
	sig := Sign(s.t, s.certsKey, text.BytesOrPanic())
	var list cryptobyte.Builder
	list.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint8(0)
			b.AddBytes(id[:])
			b.AddUint64(now)
			b.AddUint16(0)
			b.AddUint8(4)
			b.AddUint8(3)
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(sig) })
		})
	})
	raw, err := asn1.Marshal(list.BytesOrPanic())
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// Sign signs content as cosign does with a key.
func Sign(t *testing.T, key *ecdsa.PrivateKey, content []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(content)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// Base64 is how cosign writes a signature.
func Base64(sig []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(sig)) }

// File signs a file: what its FILE.sig and FILE.cert hold.
func (s *Sigstore) File(identity, issuer string, content []byte) (sig, cert []byte) {
	s.t.Helper()
	key := Key(s.t)
	c := s.certificate(identity, issuer, key.Public())
	return Base64(Sign(s.t, key, content)), Base64(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// Payload is what is signed for an image.
func Payload(digest string) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"example.test/x"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, digest)
}

// Image signs a payload: the annotations of its layer.
func (s *Sigstore) Image(identity, issuer string, payload []byte) map[string]string {
	s.t.Helper()
	key := Key(s.t)
	c := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate(identity, issuer, key.Public()).Raw})
	sig := Sign(s.t, key, payload)
	return map[string]string{
		"dev.cosignproject.cosign/signature": string(Base64(sig)),
		"dev.sigstore.cosign/certificate":    string(c),
		"dev.sigstore.cosign/bundle":         s.entry(payload, sig, c),
	}
}

// entry is what the log of signatures answers.
func (s *Sigstore) entry(content, sig, cert []byte) string {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": map[string]any{
		"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": fmt.Sprintf("%x", sha256.Sum256(content))}},
		"signature": map[string]any{"content": sig, "publicKey": map[string]any{"content": cert}}}})
	if err != nil {
		s.t.Fatal(err)
	}
	payload := map[string]any{"body": string(Base64(body)), "integratedTime": time.Now().Add(s.Late).Unix(), "logIndex": 7,
		"logID": fmt.Sprintf("%x", sha256.Sum256(der(s.t, s.tlog.Public())))}
	text, err := json.Marshal(payload) // a map's keys are sorted: the canonical form
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := json.Marshal(map[string]any{"SignedEntryTimestamp": Sign(s.t, s.tlog, text), "Payload": payload})
	if err != nil {
		s.t.Fatal(err)
	}
	return string(out)
}
