package hostkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func TestPins(t *testing.T) {
	signer, other := newKey(t), newKey(t)
	key := signer.PublicKey()
	cert := &ssh.Certificate{Key: key, CertType: ssh.HostCert}
	if err := cert.SignCert(rand.Reader, other); err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	fingerprint := ssh.FingerprintSHA256(key)
	for in, keyType := range map[string]string{
		fingerprint: "", " " + fingerprint + "=\n": "", line: ssh.KeyAlgoED25519, line + " root@cp-a\n": ssh.KeyAlgoED25519,
	} {
		p, err := Parse(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if !p.Matches(key) || !p.Matches(cert) || p.Matches(other.PublicKey()) || p.String() != fingerprint || p.Type() != keyType {
			t.Errorf("%q: %+v", in, p)
		}
	}
	for in, want := range map[string]string{
		"":                           "neither",
		"MD5:00:11":                  "neither",
		"SHA256:":                    "not the SHA-256",
		"SHA256:" + fingerprint[8:]:  "not the SHA-256",
		"SHA256:!" + fingerprint[8:]: "not the SHA-256",
		"ssh-ed25519 AAAA":           "neither",
		line + "\n" + line:           "more than one line",
		"command=\"x\" " + line:      "in front of",
		"@cert-authority * " + line:  "neither",
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert))): "certificate",
	} {
		if p, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", in, p, err, want)
		}
	}
}
