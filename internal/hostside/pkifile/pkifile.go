// Package pkifile tells whole files of keys, certificates and kubeconfigs from those that a program left half written.
// kubeadm writes its files in place and does not sync them, so one that is killed, or a power cut, leaves files that are
// empty, cut off, or full of zeros.
package pkifile

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
)

// Certificate returns an error unless the file holds certificates in PEM, each of them whole.
func Certificate(path string) error {
	return each(path, func(b *pem.Block) error {
		_, err := x509.ParseCertificate(b.Bytes)
		return err
	})
}

// PrivateKey returns an error unless the file holds a whole private key in PEM.
func PrivateKey(path string) error {
	return each(path, func(b *pem.Block) error {
		switch b.Type {
		case "EC PARAMETERS": // openssl writes them in front of the key
			return nil
		case "EC PRIVATE KEY":
			_, err := x509.ParseECPrivateKey(b.Bytes)
			return err
		case "RSA PRIVATE KEY":
			_, err := x509.ParsePKCS1PrivateKey(b.Bytes)
			return err
		}
		_, err := x509.ParsePKCS8PrivateKey(b.Bytes)
		return err
	})
}

// PublicKey returns an error unless the file holds a whole public key in PEM.
func PublicKey(path string) error {
	return each(path, func(b *pem.Block) error {
		_, err := x509.ParsePKIXPublicKey(b.Bytes)
		return err
	})
}

func each(path string, parse func(*pem.Block) error) error {
	rest, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for found := false; ; found = true {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			if !found || len(bytes.TrimSpace(rest)) > 0 {
				return fmt.Errorf("%s is incomplete", path)
			}
			return nil
		}
		if err := parse(block); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

// Kubeconfig returns an error unless the file holds a kubeconfig with which somebody can reach an API: a current context
// whose server is named and whose user has credentials. Credentials that are inside the file must be whole; files that it
// names are not looked at.
func Kubeconfig(path string) error {
	config, err := clientcmd.LoadFromFile(path)
	if err == nil {
		err = usable(config)
	}
	if err != nil {
		return fmt.Errorf("the kubeconfig %s: %w", path, err)
	}
	return nil
}

// Identity returns an error unless the kubelet of a host has its identity: a kubeconfig with a client certificate that exists.
// A kubelet that is joining writes the kubeconfig when it starts, and gets the certificate only when the API answers it. root
// is empty for the host itself, or a directory in tests.
func Identity(root string) error {
	_, err := KubeletClient(root)
	return err
}

// KubeletClient is the client certificate of that identity; nil if the kubelet has other credentials.
func KubeletClient(root string) (*x509.Certificate, error) {
	path := filepath.Join(root, "/etc/kubernetes/kubelet.conf")
	if err := Kubeconfig(path); err != nil {
		return nil, err
	}
	config, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, err
	}
	user := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo]
	if user.ClientCertificate == "" { // Kubeconfig has checked what is inside the file
		if all := Certificates(user.ClientCertificateData); len(all) > 0 {
			return all[0], nil
		}
		return nil, nil
	}
	at := func(file string) string {
		if filepath.IsAbs(file) {
			return filepath.Join(root, file)
		}
		return filepath.Join(filepath.Dir(path), file)
	}
	pair, err := tls.LoadX509KeyPair(at(user.ClientCertificate), at(user.ClientKey))
	if err != nil {
		return nil, fmt.Errorf("the kubelet's client certificate: %w", err)
	}
	return pair.Leaf, nil
}

func usable(config *clientcmdapi.Config) error {
	context := config.Contexts[config.CurrentContext]
	if context == nil {
		return errors.New("it has no current context")
	}
	cluster, user := config.Clusters[context.Cluster], config.AuthInfos[context.AuthInfo]
	if cluster == nil || cluster.Server == "" {
		return errors.New("it names no server")
	}
	switch {
	case user == nil:
		return errors.New("it has no user")
	case len(user.ClientCertificateData) > 0 || len(user.ClientKeyData) > 0:
		_, err := tls.X509KeyPair(user.ClientCertificateData, user.ClientKeyData)
		return err
	case user.ClientCertificate != "" && user.ClientKey != "", user.Token != "", user.TokenFile != "", user.Exec != nil:
		return nil
	}
	return errors.New("its user has no credentials")
}

// Certificates are the certificates in a PEM text, in its order. What is not a certificate, or cannot be read, is left out.
func Certificates(text []byte) (out []*x509.Certificate) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// KeyID names the key of a certificate, as facts.Trust does.
func KeyID(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Key is a key that others trust.
type Key struct {
	// ID names it, as facts.Trust does.
	ID string
	// PEM is the block with its certificate, or with the public key itself.
	PEM []byte
}

// Keys are the keys of the certificates in a PEM text, and its public keys, in its order. What cannot be read is left out. A key is there once: of
// several certificates for it, its PEM is that of the one that expires last, because it was renewed.
func Keys(text []byte) (out []Key) {
	until := map[string]time.Time{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		id, expires := "", time.Time{}
		switch block.Type {
		case "CERTIFICATE":
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				id, expires = KeyID(c), c.NotAfter
			}
		case "PUBLIC KEY":
			if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
				id = PublicKeyID(key)
			}
		}
		known := slices.IndexFunc(out, func(k Key) bool { return k.ID == id })
		if id == "" || known >= 0 && !expires.After(until[id]) {
			continue
		}
		key := Key{ID: id, PEM: pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})}
		if until[id] = expires; known >= 0 {
			out[known] = key
			continue
		}
		out = append(out, key)
	}
	return out
}

// Latest is the certificate in a PEM text that expires last of those for the key of another one, or that other one itself.
func Latest(c *x509.Certificate, text []byte) *x509.Certificate {
	for _, o := range Certificates(text) {
		if o.NotAfter.After(c.NotAfter) && KeyID(o) == KeyID(c) {
			c = o
		}
	}
	return c
}

// KeyIDs are the IDs of Keys, each of them once.
func KeyIDs(text []byte) (out []string) {
	for _, k := range Keys(text) {
		out = append(out, k.ID)
	}
	return out
}

// Expiries are when the certificates in a PEM text expire, by the IDs of their keys. Of several for one key, the last counts: who trusts
// the text accepts what either of them verifies.
func Expiries(text []byte) map[string]time.Time {
	out := map[string]time.Time{}
	for _, c := range Certificates(text) {
		if id := KeyID(c); c.NotAfter.After(out[id]) {
			out[id] = c.NotAfter
		}
	}
	return out
}

// SameCertificates says that two PEM texts have the same certificates, in any order. One that was renewed for its key is another one.
func SameCertificates(a, b []byte) bool {
	of := func(text []byte) (out []string) {
		for _, c := range Certificates(text) {
			out = append(out, string(c.Raw))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(of(a), of(b))
}

// PublicKeyID names a public key; empty if it is of a kind that has no standard form.
func PublicKeyID(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// PrivateKeyID names a private key in PEM by its public part; empty if it cannot be read.
func PrivateKeyID(text []byte) string {
	key, err := keyutil.ParsePrivateKeyPEM(text)
	if err != nil {
		return ""
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return ""
	}
	return PublicKeyID(signer.Public())
}
