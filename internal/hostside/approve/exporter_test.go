package approve

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/hostside/pkifile"
)

// writeAuthority writes a new authority that expires then.
func writeAuthority(t *testing.T, dir string, until time.Time) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"ca.crt": {Type: "CERTIFICATE", Bytes: der}, "ca.key": {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestTheExportersCertificate is renewed when it must be, and not otherwise.
func TestTheExportersCertificate(t *testing.T) {
	dir := t.TempDir()
	path, names := filepath.Join(dir, "exporter.pem"), []string{"quorate-exporter.kube-system.svc", "cp-a", "10.0.0.11"}
	var log bytes.Buffer
	r := &renewal{log: &log, due: filepath.Join(dir, "due")}
	failed := errors.New("systemd does not answer")
	renewed := func(what string, names []string, want bool) {
		t.Helper()
		before, _ := os.ReadFile(path)
		log.Reset()
		if err := r.serving(names, path, dir); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		// The first restart fails, as if this run had ended, and a later run makes up for it.
		restarts := 0
		for _, err := range []error{failed, nil, nil} {
			if got := r.restart(func() error { restarts++; return err }); restarts > 0 != want || got != nil && !errors.Is(got, err) {
				t.Errorf("%s: %d restarts, %v", what, restarts, got)
			}
		}
		if want && restarts != 2 {
			t.Errorf("%s: %d restarts", what, restarts)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if is := !bytes.Equal(before, after); is != want || is != (log.Len() > 0) {
			t.Errorf("%s: renewed %t, log %q", what, is, log.String())
		}
	}
	if err := r.serving(names, path, dir); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("without an authority: %v", err)
	}
	ca := writeAuthority(t, dir, time.Now().AddDate(10, 0, 0))
	renewed("there is none", names, true)
	renewed("there is one", names, false)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("everybody can read its key: %v, %v", info, err)
	}
	cert := pkifile.Certificates(text)[0]
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, name := range names {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("with its certificate, it is a user of the API")
	}
	renewed("the address changed", []string{names[0], names[1], "10.0.0.12"}, true)
	if err := os.WriteFile(path, text[:len(text)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	renewed("half of it is there", names, true)
	writeAuthority(t, dir, time.Now().Add(renewBefore-time.Hour))
	renewed("another authority", names, true)
	renewed("it ends with its authority", names, false)
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	renewed("the key is elsewhere, and it is valid", names, false)
	if err := r.serving([]string{"cp-b"}, path, dir); err == nil || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("the key is elsewhere: %v", err)
	}
}
