package inspect

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/pkifile"
)

// signed makes a key and a certificate for it; without a parent, the certificate is self-signed.
func signed(t *testing.T, name string, by *x509.Certificate, signer *ecdsa.PrivateKey) (certificate, key []byte, parsed *x509.Certificate, private *ecdsa.PrivateKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: by == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if by == nil {
		by, signer = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, private.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), parsed, private
}

// TestTrustDuringARotation: two authorities of the same name, one of which signed each certificate.
func TestTrustDuringARotation(t *testing.T) {
	root := built(t)
	old, oldKey, oldCA, oldPrivate := signed(t, "kubernetes", nil, nil)
	next, nextKey, nextCA, nextPrivate := signed(t, "kubernetes", nil, nil)
	oldID, nextID := pkifile.KeyID(oldCA), pkifile.KeyID(nextCA)
	before, _, _, _ := signed(t, "kube-apiserver", oldCA, oldPrivate)
	after, _, _, _ := signed(t, "kube-apiserver-kubelet-client", nextCA, nextPrivate)
	both := slices.Concat(old, next)
	for name, content := range map[string][]byte{"ca.crt": both, "ca.key": oldKey, "ca-next.crt": next, "ca-next.key": nextKey, "apiserver.crt": before, "apiserver-kubelet-client.crt": after} {
		if err := os.WriteFile(filepath.Join(root, "/etc/kubernetes/pki", name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := "clusters:\n- cluster:\n    certificate-authority-data: " + base64.StdEncoding.EncodeToString(both) + "\n    server: https://10.0.0.100:6443\n"
	for _, name := range []string{"admin.conf", "of-somebody-else.conf"} {
		if err := os.WriteFile(filepath.Join(root, "/etc/kubernetes", name), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k := Kubernetes(root, nil)
	tr := k.Trust[facts.KubernetesAuthority]
	if !slices.Equal(tr.Trusted, []string{oldID, nextID}) || tr.Key != oldID || tr.Next != nextID || tr.NextPEM != string(next) || !bytes.Equal([]byte(tr.PEM), both) || tr.Written.IsZero() || tr.Apart {
		t.Errorf("%+v", tr)
	}
	if len(tr.Kubeconfigs) != 1 || !slices.Equal(tr.Kubeconfigs["admin.conf"], []string{oldID, nextID}) {
		t.Errorf("%+v", tr.Kubeconfigs)
	}
	for name, want := range map[string]string{"pki/apiserver.crt": oldID, "pki/apiserver-kubelet-client.crt": nextID, "pki/front-proxy-ca.crt": ""} {
		i := slices.IndexFunc(k.Certificates, func(c facts.Certificate) bool { return c.Name == name })
		if i < 0 || k.Certificates[i].SignedBy != want {
			t.Errorf("%s: %+v, want %s", name, k.Certificates, want)
		}
	}
	// The certificate is written last: without it, the key is of no use to anybody.
	if err := os.Remove(filepath.Join(root, "/etc/kubernetes/pki/ca-next.crt")); err != nil {
		t.Fatal(err)
	}
	if tr := Kubernetes(root, nil).Trust[facts.KubernetesAuthority]; tr.Next+tr.NextPEM != "" {
		t.Errorf("%+v", tr)
	}
}

// TestTrustOfWhatIsReadAtStart: public keys are trusted as certificates are, what signed before is kept, and the time is that of the last
// file that was written.
func TestTrustOfWhatIsReadAtStart(t *testing.T) {
	root := built(t)
	public := func(key *ecdsa.PrivateKey) []byte {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	_, _, oldCA, oldPrivate := signed(t, "old", nil, nil)
	next, nextKey, nextCA, nextPrivate := signed(t, "new", nil, nil)
	written := time.Now().Add(-time.Hour).Truncate(time.Second)
	for name, content := range map[string][]byte{"sa.pub": append(public(nextPrivate), public(oldPrivate)...), "sa.key": nextKey, "sa.former": public(oldPrivate), "etcd/ca.crt": next, "etcd/ca.key": nextKey, "ca.former": next} {
		path := filepath.Join(root, "/etc/kubernetes/pki", name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		at := written
		if name == "sa.key" {
			at = written.Add(time.Minute)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	k := Kubernetes(root, nil)
	oldID, nextID := pkifile.KeyID(oldCA), pkifile.KeyID(nextCA)
	if tr := k.Trust[facts.ServiceAccountKey]; !slices.Equal(tr.Trusted, []string{nextID, oldID}) || tr.Key != nextID || tr.Former != oldID || tr.FormerPEM == "" || !tr.Written.Equal(written.Add(time.Minute)) {
		t.Errorf("%+v", tr)
	}
	if tr := k.Trust[facts.EtcdAuthority]; !slices.Equal(tr.Trusted, []string{nextID}) || tr.Key != nextID || tr.Former != "" || !tr.Written.Equal(written) {
		t.Errorf("%+v", tr)
	}
	if tr := k.Trust[facts.KubernetesAuthority]; tr.Former != "" {
		t.Errorf("the Kubernetes CA is read again: %+v", tr)
	}
}

// TestUntilWhenAnAuthorityIsTrusted: a renewed certificate is in the file, and a kubeconfig still has the former one.
func TestUntilWhenAnAuthorityIsTrusted(t *testing.T) {
	root := built(t)
	former, key, ca, private := signed(t, "kubernetes", nil, nil)
	longer := *ca
	longer.NotAfter = ca.NotAfter.Add(24 * time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, &longer, &longer, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	renewed := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, "/etc/kubernetes", name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := func(ca []byte) []byte {
		return []byte("clusters:\n- cluster:\n    certificate-authority-data: " + base64.StdEncoding.EncodeToString(ca) + "\n    server: https://10.0.0.100:6443\n")
	}
	write("pki/ca.crt", renewed)
	write("pki/ca.key", key)
	write("admin.conf", conf(renewed))
	write("scheduler.conf", conf(former))
	if tr := Kubernetes(root, nil).Trust[facts.KubernetesAuthority]; !tr.Until.Equal(ca.NotAfter) {
		t.Errorf("%s, want %s", tr.Until, ca.NotAfter)
	}
	write("scheduler.conf", conf(renewed))
	if tr := Kubernetes(root, nil).Trust[facts.KubernetesAuthority]; !tr.Until.Equal(longer.NotAfter.Truncate(time.Second)) {
		t.Errorf("%s, want %s", tr.Until, longer.NotAfter)
	}
	// Somebody put the renewed one next to the former one: the file is valid, of one key, and still has one that expires earlier.
	for name, both := range map[string][]byte{"former first": slices.Concat(former, renewed), "renewed first": slices.Concat(renewed, former)} {
		write("pki/ca.crt", both)
		k := Kubernetes(root, nil)
		tr := k.Trust[facts.KubernetesAuthority]
		if !slices.Equal(tr.Trusted, []string{pkifile.KeyID(ca)}) || tr.Key != tr.Trusted[0] || !tr.Until.Equal(ca.NotAfter) {
			t.Errorf("%s: %+v", name, tr)
		}
		i := slices.IndexFunc(k.Certificates, func(c facts.Certificate) bool { return c.Name == facts.ClusterCA })
		if i < 0 || !k.Certificates[i].Expires.Equal(longer.NotAfter.Truncate(time.Second)) {
			t.Errorf("%s: %+v", name, k.Certificates)
		}
	}
	write("pki/ca.crt", renewed)
	write("admin.conf", conf(slices.Concat(renewed, former)))
	if tr := Kubernetes(root, nil).Trust[facts.KubernetesAuthority]; !tr.Until.Equal(ca.NotAfter) || len(tr.Kubeconfigs["admin.conf"]) != 1 {
		t.Errorf("%+v", tr)
	}
}
