package signature

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"os"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/signature/sigtest"
)

const (
	who    = "release@example.test"
	issuer = "https://accounts.example.test"
)

var content = []byte("a program")

func signer(t *testing.T, s *sigtest.Sigstore) Signer {
	t.Helper()
	root, err := ParseRoot(s.RootJSON())
	if err != nil {
		t.Fatal(err)
	}
	return Signer{Identity: who, Issuer: issuer, Root: root}
}

type signedImage struct {
	Payload, Digest string
	Annotations     map[string]string
}

// published is what somebody signed in sigstore's public service, and the root of that.
func published(t testing.TB) (image signedImage, root *Root) {
	t.Helper()
	raw, err := os.ReadFile("testdata/image.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &image); err != nil {
		t.Fatal(err)
	}
	root, err = PublicRoot()
	if err != nil {
		t.Fatal(err)
	}
	return image, root
}

// An image of somebody's, signed in sigstore's public service in 2023, as the registry had it. Nothing in it was made here.
func TestPublicServicesSignature(t *testing.T) {
	image, root := published(t)
	s := Signer{Identity: "cosign-svc-account@mineral-minutia-820.iam.gserviceaccount.com", Issuer: "https://accounts.google.com", Root: root}
	if err := s.Image([]byte(image.Payload), image.Annotations, image.Digest); err != nil {
		t.Error(err)
	}
	s.Identity = "krel-trust@k8s-releng-prod.iam.gserviceaccount.com"
	if err := s.Image([]byte(image.Payload), image.Annotations, image.Digest); err == nil || !strings.Contains(err.Error(), "was signed by [cosign-svc-account@") {
		t.Errorf("got %v", err)
	}
	// And nobody else's root knows of it.
	s = signer(t, sigtest.New(t))
	if err := s.Image([]byte(image.Payload), image.Annotations, image.Digest); err == nil || !strings.Contains(err.Error(), "which is not in the trusted root") {
		t.Errorf("got %v", err)
	}
}

func TestFileByIdentity(t *testing.T) {
	good := sigtest.New(t)
	by := signer(t, good)
	sig, cert := good.File(who, issuer, content)
	if err := by.File(content, sig, cert); err != nil {
		t.Fatal(err)
	}
	stranger := sigtest.New(t)
	unlogged := sigtest.New(t)
	unlogged.WithoutCertificates = true
	for name, tc := range map[string]struct {
		by      Signer
		content []byte
		sign    func() (sig, cert []byte)
		want    string
	}{
		"tampered":            {by, []byte("another program"), func() ([]byte, []byte) { return sig, cert }, "does not match this content"},
		"somebody else":       {by, content, func() ([]byte, []byte) { return good.File("me@example.test", issuer, content) }, "signed by [me@example.test], not by " + who},
		"another issuer":      {by, content, func() ([]byte, []byte) { return good.File(who, "https://evil.test", content) }, "is https://evil.test, not"},
		"another authority":   {by, content, func() ([]byte, []byte) { return stranger.File(who, issuer, content) }, "not from an authority of the trusted root"},
		"in no log":           {signer(t, unlogged), content, func() ([]byte, []byte) { return unlogged.File(who, issuer, content) }, "no signed certificate timestamps"},
		"no certificate":      {by, content, func() ([]byte, []byte) { return sig, nil }, "signature has no certificate"},
		"another certificate": {by, content, func() ([]byte, []byte) { _, other := good.File(who, issuer, content); return sig, other }, "does not match"},
		"no base64":           {by, content, func() ([]byte, []byte) { return []byte("<html>"), cert }, "not valid base64"},
		"a page":              {by, content, func() ([]byte, []byte) { return sig, []byte("<html>") }, "not in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			sig, cert := tc.sign()
			if err := tc.by.File(tc.content, sig, cert); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestImageByIdentity(t *testing.T) {
	const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	good := sigtest.New(t)
	by := signer(t, good)
	payload := sigtest.Payload(digest)
	signed := good.Image(who, issuer, payload)
	if err := by.Image(payload, signed, "sha256:2", digest); err != nil {
		t.Fatal(err)
	}
	late := sigtest.New(t)
	late.Late = time.Hour / 2
	change := func(key, value string) map[string]string {
		out := map[string]string{}
		for k, v := range signed {
			out[k] = v
		}
		out[key] = value
		return out
	}
	other := []byte(strings.Replace(string(payload), claimType, "atomic container signature", 1))
	for name, tc := range map[string]struct {
		by          Signer
		payload     []byte
		annotations map[string]string
		want        string
	}{
		"another image":       {by, sigtest.Payload("sha256:3"), good.Image(who, issuer, sigtest.Payload("sha256:3")), "for another image, sha256:3"},
		"another claim":       {by, other, good.Image(who, issuer, other), `has the type "atomic container signature"`},
		"somebody else":       {by, payload, good.Image("me@example.test", issuer, payload), "not by " + who},
		"changed":             {by, []byte(strings.Replace(string(payload), "optional", "Optional", 1)), signed, "about another signature"},
		"no entry":            {by, payload, change(annotationBundle, ""), "no transparency log entry"},
		"another's entry":     {by, payload, change(annotationBundle, good.Image(who, issuer, payload)[annotationBundle]), "about another signature"},
		"a changed entry":     {by, payload, change(annotationBundle, strings.Replace(signed[annotationBundle], `"logIndex":7`, `"logIndex":8`, 1)), "the log did not sign it"},
		"another log's entry": {by, payload, change(annotationBundle, sigtest.New(t).Image(who, issuer, payload)[annotationBundle]), "which is not in the trusted root"},
		"after its time":      {signer(t, late), payload, late.Image(who, issuer, payload), "was not valid on"},
		"no signature":        {by, payload, change(annotationSignature, ""), "no base64-encoded signature"},
		"with a key instead":  {by, payload, change(annotationCertificate, ""), "signature has no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.by.Image(tc.payload, tc.annotations, digest); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// An authority's own certificate signs no files, and has nobody above it whose log could be asked.
func TestAuthorityIsNoSigner(t *testing.T) {
	const want = "belongs to an authority, not to a signer"
	root, err := PublicRoot()
	if err != nil {
		t.Fatal(err)
	}
	sig, cert := sigtest.New(t).File(who, issuer, content)
	for _, a := range root.authorities {
		own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
		if err := (Signer{Identity: who, Issuer: issuer, Root: root}).File(content, sig, own); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", a.root.Subject, err)
		}
	}
	// A trusted root may name a certificate that does not say that it is an authority's.
	leaf, err := certificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Root{authorities: []authority{{root: leaf}}}).chain(leaf, leaf.NotBefore); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}

func TestKeys(t *testing.T) {
	ec := sigtest.Key(t)
	sum := sha256.Sum256(content)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaSig, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		public crypto.PublicKey
		sig    []byte
	}{
		"ECDSA":   {ec.Public(), sigtest.Sign(t, ec, content)},
		"RSA":     {rsaKey.Public(), rsaSig},
		"Ed25519": {edPublic, ed25519.Sign(edKey, content)},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParseKey(sigtest.PublicPEM(t, tc.public))
			if err != nil {
				t.Fatal(err)
			}
			sig := append(sigtest.Base64(tc.sig), '\n')
			if err := (Signer{Key: key}).File(content, sig, nil); err != nil {
				t.Error(err)
			}
			if err := (Signer{Key: key}).File([]byte("other"), sig, nil); err == nil {
				t.Error("believes other content")
			}
			if err := (Signer{Key: sigtest.Key(t).Public()}).File(content, sig, nil); err == nil {
				t.Error("believes another key")
			}
		})
	}
	for in, want := range map[string]string{"": "no key in PEM", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n": "contains a PRIVATE KEY"} {
		if _, err := ParseKey([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := verify("a string", content, nil); err == nil || !strings.Contains(err.Error(), "not supported") {
		t.Errorf("got %v", err)
	}
}

func TestParseRootRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":   "not a trusted root",
		"{}": "lacks certificate authorities",
		`{"certificateAuthorities":[{"certChain":{"certificates":[{"rawBytes":"AAAA"}]}}]}`: "the certificate of an authority",
		`{"certificateAuthorities":[{}]}`:               "has no certificate",
		`{"tlogs":[{"publicKey":{"rawBytes":"AAAA"}}]}`: "the key of a log",
	} {
		if _, err := ParseRoot([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

// Whatever is in place of a certificate or an entry is refused, not stumbled over.
func FuzzImage(f *testing.F) {
	image, root := published(f)
	s := Signer{Identity: who, Issuer: issuer, Root: root}
	f.Add(image.Payload, image.Annotations[annotationSignature], image.Annotations[annotationCertificate], image.Annotations[annotationBundle])
	f.Fuzz(func(t *testing.T, payload, sig, cert, bundle string) {
		if s.Image([]byte(payload), map[string]string{annotationSignature: sig, annotationCertificate: cert, annotationBundle: bundle}, image.Digest) == nil {
			t.Error("believes it")
		}
		leaf, err := certificate([]byte(cert))
		if err == nil {
			_ = root.inLog(leaf, leaf)
		}
	})
}
