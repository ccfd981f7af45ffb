package kubeadm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/node"
)

// A kubelet with serverTLSBootstrap has no serving certificate until somebody approves what it asks for. Quorate gives it
// one before its first start, in the place where it keeps and renews it: nothing has to be asked for while the cluster
// is being built. The private key is made on the node and stays there.

const (
	kubeletPKI      = "/var/lib/kubelet/pki"
	servingLifetime = 365 * 24 * time.Hour // as long as the controller manager signs for
	backdated       = 5 * time.Minute      // for clocks that are a little behind, as the controller manager does it
)

// pendingServing is the key between the request and the certificate; it lives as long as the session.
var pendingServing struct {
	sync.Mutex
	key *ecdsa.PrivateKey
}

// RequestServing makes a new key on a node and returns a request for its public half.
var RequestServing = host.Define("kubeadm.request-serving", func(context.Context, struct{}) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	pendingServing.Lock()
	defer pendingServing.Unlock()
	pendingServing.key = key
	return request, nil
})

// ServingRequest asks a control plane to sign for a node.
type ServingRequest struct {
	Request []byte // of RequestServing
	Node    string
	Address string
}

// SignServing signs a kubelet's serving certificate with the cluster's CA. Names and addresses are the caller's; of the
// request only the key counts.
var SignServing = host.Define("kubeadm.sign-serving", func(_ context.Context, in ServingRequest) ([]byte, error) {
	ca, err := tls.LoadX509KeyPair(filepath.Join(pkiDir, "ca.crt"), filepath.Join(pkiDir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's CA: %w", err)
	}
	return signServing(ca, in, time.Now())
})

func signServing(ca tls.Certificate, in ServingRequest, now time.Time) ([]byte, error) {
	request, err := x509.ParseCertificateRequest(in.Request)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("the request of %s: %w", in.Node, err)
	}
	ip := net.ParseIP(in.Address)
	if ip == nil || in.Node == "" {
		return nil, fmt.Errorf("a serving certificate for %q at %q would be good for nothing", in.Node, in.Address)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "system:node:" + in.Node, Organization: []string{"system:nodes"}},
		DNSNames:     []string{in.Node}, IPAddresses: []net.IP{ip},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(servingLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, request.PublicKey, ca.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, fmt.Errorf("signing for %s: %w", in.Node, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// InstallServing puts the certificate beside its key where the kubelet looks for it.
var InstallServing = host.Define("kubeadm.install-serving", func(_ context.Context, certificate []byte) (struct{}, error) {
	pendingServing.Lock()
	defer pendingServing.Unlock()
	if pendingServing.key == nil {
		return struct{}{}, errors.New("no serving certificate was requested in this session")
	}
	key, err := x509.MarshalECPrivateKey(pendingServing.key)
	if err != nil {
		return struct{}{}, err
	}
	pair := append(certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})...)
	if _, err := tls.X509KeyPair(pair, pair); err != nil {
		return struct{}{}, fmt.Errorf("the serving certificate is not this node's: %w", err)
	}
	pendingServing.key = nil
	_, err = storePair(kubeletPKI, "kubelet-server", pair, time.Now())
	return struct{}{}, err
})

// storePair keeps a certificate and its key as the kubelet does: in a dated file, with a link to the current one.
func storePair(dir, prefix string, pair []byte, now time.Time) (link string, err error) {
	target := filepath.Join(dir, prefix+"-"+now.Format("2006-01-02-15-04-05")+".pem")
	link = filepath.Join(dir, prefix+"-current.pem")
	if err := node.WriteFile(target, pair, 0o600); err != nil {
		return link, err
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return link, err
	}
	return link, os.Symlink(target, link)
}
