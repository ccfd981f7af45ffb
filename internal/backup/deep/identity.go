package deep

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Files of the API server.
const (
	authority         = "ca.crt"
	serverCertificate = "server.crt"
	serverKey         = "server.key"
)

// lifetime of the certificates. They are used only by processes of this machine, and for less time than that.
const lifetime = 7 * 24 * time.Hour

// identity is who the only client of the API server is. Its key is in memory only.
type identity struct{ ca, certificate, key []byte }

// identify makes the certificates of an API server on loopback, and of its client. Their authority signs nothing else.
func identify(dir string) (identity, error) {
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "quorate backup verify"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, err
	}
	caPEM, _, err := issue(ca, ca, caKey, caKey)
	if err != nil {
		return identity{}, err
	}
	certificate := func(t *x509.Certificate) (certificate, key []byte, _ error) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		t.KeyUsage = x509.KeyUsageDigitalSignature
		return issue(t, ca, own, caKey)
	}
	served, servedKey, err := certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "kube-apiserver"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return identity{}, err
	}
	mine, myKey, err := certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "quorate"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return identity{}, err
	}
	var errs []error
	for name, content := range map[string][]byte{authority: caPEM, serverCertificate: served, serverKey: servedKey} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	return identity{caPEM, mine, myKey}, errors.Join(errs...)
}

func issue(t, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (certificate, keyPEM []byte, err error) {
	if t.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return nil, nil, err
	}
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(lifetime)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}
