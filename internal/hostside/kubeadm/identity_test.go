package kubeadm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/render/kubeadm"
)

func authority(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestCertificatesAreTheNodesAlone(t *testing.T) {
	ca, pool := authority(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// What a request claims does not count.
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, DNSNames: []string{"api"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	sign := func(usage kubeadm.Usage) *x509.Certificate {
		out, err := signCertificate(ca, SigningRequest{Request: request, Usage: usage, Node: "worker-a", Addresses: []string{"10.0.0.14"}}, now)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(out)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Subject.CommonName != "system:node:worker-a" || !slices.Equal(cert.Subject.Organization, []string{"system:nodes"}) || cert.IsCA {
			t.Errorf("a certificate for %s", cert.Subject)
		}
		if !key.PublicKey.Equal(cert.PublicKey) || cert.NotAfter.Sub(now) < 360*24*time.Hour {
			t.Errorf("another key, or soon over: %s", cert.NotAfter)
		}
		return cert
	}
	client := sign(kubeadm.Client)
	if _, err := client.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := client.Verify(x509.VerifyOptions{Roots: pool}); err == nil || len(client.DNSNames)+len(client.IPAddresses) != 0 {
		t.Errorf("it can be used as a server's: %v, %v", client.DNSNames, client.IPAddresses)
	}
	cert := sign(kubeadm.Serving)
	for _, name := range []string{"worker-a", "10.0.0.14"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
	if len(cert.DNSNames) != 1 {
		t.Errorf("a certificate for %v", cert.DNSNames)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("it can be used as a client's")
	}
	for _, bad := range []SigningRequest{
		{Request: request, Usage: kubeadm.Serving, Node: "worker-a"}, {Request: request, Usage: kubeadm.Serving, Addresses: []string{"10.0.0.14"}},
		{Usage: kubeadm.Serving, Node: "worker-a", Addresses: []string{"10.0.0.14"}}, {Request: request, Node: "worker-a", Addresses: []string{"10.0.0.14"}},
	} {
		if _, err := signCertificate(ca, bad, now); err == nil {
			t.Errorf("signed %+v", bad)
		}
	}
	two, err := signCertificate(ca, SigningRequest{Request: request, Usage: kubeadm.Serving, Node: "worker-a", Addresses: []string{"10.0.0.14", "fd00::14"}}, now)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(two)
	if cert, err := x509.ParseCertificate(block.Bytes); err != nil || cert.VerifyHostname("10.0.0.14") != nil || cert.VerifyHostname("fd00::14") != nil {
		t.Errorf("a node with two addresses has a certificate for %v, %v", cert.IPAddresses, err)
	}
}

func TestPairsAreStoredAsTheKubeletDoes(t *testing.T) {
	dir := t.TempDir()
	for i, content := range []string{"one", "two"} {
		link, err := storePair(dir, kubeadm.Serving, []byte(content), time.Date(2026, 8, 1, 12, 0, i, 0, time.UTC))
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(link)
		if err != nil || string(data) != content || filepath.Base(link) != "kubelet-server-current.pem" {
			t.Errorf("%s holds %q, %v", link, data, err)
		}
		if info, err := os.Stat(link); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "kubelet-server-2026-08-01-12-00-00.pem")); err != nil {
		t.Error(err)
	}
}

func TestEncryptionKeyIsMadeOnceAndNeverLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pki", encryption.File)
	if err := ensureEncryption(path); err != nil {
		t.Fatal(err)
	}
	first, err := readEncryption(path)
	if err != nil || !slices.Equal(first.Names(), []string{encryption.FirstKey}) {
		t.Fatalf("%v, %v", first.Names(), err)
	}
	if err := ensureEncryption(path); err != nil {
		t.Fatal(err)
	}
	if again, err := readEncryption(path); err != nil || !slices.Equal(again, first) {
		t.Errorf("a second run made another key: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	fresh := encryption.NewKey("key2")
	for _, lost := range []encryption.Keys{{fresh}, {fresh, encryption.NewKey(encryption.FirstKey)}} {
		if _, err := writeEncryption(path, lost); err == nil || strings.Contains(err.Error(), first[0].Secret) {
			t.Errorf("the key that secrets are encrypted with was given up: %v", err)
		}
	}
	hash, err := writeEncryption(path, encryption.Keys{first[0], fresh})
	if err != nil {
		t.Fatal(err)
	}
	if file, err := os.ReadFile(path); err != nil || encryption.Hash(file) != hash {
		t.Errorf("the hash %s is not the file's, %v", hash, err)
	}
}
