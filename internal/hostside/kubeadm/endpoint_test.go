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
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// signedPair writes a certificate and its key, signed by a parent, or self-signed without one.
func signedPair(t *testing.T, dir, stem string, template *x509.Certificate, parent *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, signed := any(key), template
	if parent != nil {
		signer, signed = parent.PrivateKey, parent.Leaf
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signed, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{stem + ".crt": {Type: "CERTIFICATE", Bytes: der}, stem + ".key": {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, path), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := tls.LoadX509KeyPair(filepath.Join(dir, stem+".crt"), filepath.Join(dir, stem+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestWidenCertificate keeps the key and every name, and adds what is missing.
func TestWidenCertificate(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	ca := signedPair(t, dir, "ca", &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now, NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign}, nil)
	before := signedPair(t, dir, "apiserver", &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: now.Add(-365 * 24 * time.Hour), NotAfter: now.Add(time.Hour),
		DNSNames: []string{"api.old.internal"}, IPAddresses: []net.IP{net.ParseIP("10.0.0.100")}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, &ca)
	for range 2 { // the second time changes nothing
		if err := widenCertificate(dir, []string{"api.new.internal", "10.0.0.101", "api.old.internal"}, now); err != nil {
			t.Fatal(err)
		}
	}
	after, err := tls.LoadX509KeyPair(filepath.Join(dir, "apiserver.crt"), filepath.Join(dir, "apiserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	for _, name := range []string{"api.old.internal", "10.0.0.100", "api.new.internal", "10.0.0.101"} {
		if _, err := after.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now.Add(time.Minute)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !after.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(before.Leaf.PublicKey) || after.Leaf.Subject.CommonName != "kube-apiserver" || len(after.Leaf.DNSNames) != 2 {
		t.Errorf("%+v", after.Leaf.Subject)
	}
	if after.Leaf.NotAfter.After(ca.Leaf.NotAfter) {
		t.Error("it outlives its CA")
	}
	written, err := os.ReadFile(filepath.Join(dir, "apiserver.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := widenCertificate(dir, []string{"api.new.internal"}, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "apiserver.crt")); err != nil || string(again) != string(written) {
		t.Errorf("a certificate that is wide enough was made again: %v", err)
	}
}

// TestKubeconfigsMove changes only those that name a former endpoint.
func TestKubeconfigsMove(t *testing.T) {
	dir := t.TempDir()
	move := MoveRequest{From: []string{"https://api.old.internal:6443"}, To: "https://api.new.internal:443"}
	for have, want := range map[string]string{
		"clusters:\n- cluster:\n    server: https://api.old.internal:6443\n  name: a\n": "clusters:\n- cluster:\n    server: https://api.new.internal:443\n  name: a\n",
		"clusters:\n- cluster:\n    server: \"https://api.old.internal:6443\"\n":        "clusters:\n- cluster:\n    server: https://api.new.internal:443\n",
		"clusters:\n- cluster: \n    server: https://10.0.0.11:6443\n":                  "clusters:\n- cluster: \n    server: https://10.0.0.11:6443\n",
		"clusters:\n- cluster:\n    server: https://api.old.internal:64430\n":           "clusters:\n- cluster:\n    server: https://api.old.internal:64430\n",
	} {
		path := filepath.Join(dir, "kubelet.conf")
		if err := os.WriteFile(path, []byte(have), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := setServer(path, move); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%v: %q becomes %q", err, have, got)
		}
	}
	flow := filepath.Join(dir, "flow.conf")
	if err := os.WriteFile(flow, []byte(`{clusters: [{name: a, cluster: {server: "https://api.old.internal:6443"}}, {name: b, cluster: {server: "https://10.0.0.11:6443"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := setServer(flow, move); err != nil {
		t.Fatal(err)
	}
	if config, err := clientcmd.LoadFromFile(flow); err != nil || config.Clusters["a"].Server != move.To || config.Clusters["b"].Server != "https://10.0.0.11:6443" {
		t.Errorf("%v: %+v", err, config)
	}
	if err := setServer(filepath.Join(dir, "absent.conf"), move); err != nil {
		t.Error(err)
	}
}
