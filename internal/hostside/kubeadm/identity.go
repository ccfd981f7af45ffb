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
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/kubeadm"
)

// A kubelet without certificates asks the API for them and waits until somebody approves. Quorate installs its certificates
// before its first start, where the kubelet keeps and renews them, so that it has to request nothing while the cluster is
// being built. The private keys are generated on the node and stay there.

const (
	kubeletKubeconfig = "/etc/kubernetes/kubelet.conf"
	kubeletLifetime   = 365 * 24 * time.Hour // as long as the controller manager signs for
	backdated         = facts.Backdated
)

// pending are the keys of requested certificates; they exist as long as the session.
var pending = struct {
	sync.Mutex
	keys map[kubeadm.Usage]*ecdsa.PrivateKey
}{keys: map[kubeadm.Usage]*ecdsa.PrivateKey{}}

// RequestCertificate generates a new key on a node and returns a certificate request for it.
var RequestCertificate = host.Define("kubeadm.request-certificate", func(_ context.Context, usage kubeadm.Usage) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	pending.Lock()
	defer pending.Unlock()
	pending.keys[usage] = key
	return request, nil
}, host.Secret, host.Secret)

// SigningRequest asks a control plane to sign for a node.
type SigningRequest struct {
	Request []byte // of RequestCertificate
	Usage   kubeadm.Usage
	Node    string
	// Addresses are those of the node.
	Addresses []string
}

// SignCertificate signs a kubelet's certificate with the cluster's CA. The caller determines the names and addresses; only the
// key is taken from the request.
var SignCertificate = host.Define("kubeadm.sign-certificate", func(_ context.Context, in SigningRequest) ([]byte, error) {
	ca, err := loadAuthority(filepath.Join(pkiDir, "ca.crt"), filepath.Join(pkiDir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's CA: %w", err)
	}
	return signCertificate(ca, in, time.Now())
}, host.Secret, host.Secret)

func signCertificate(ca tls.Certificate, in SigningRequest, now time.Time) ([]byte, error) {
	request, err := x509.ParseCertificateRequest(in.Request)
	if err == nil {
		err = request.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("the request of %s: %w", in.Node, err)
	}
	var ips []net.IP
	for _, address := range in.Addresses {
		ip := net.ParseIP(address)
		if ip == nil {
			return nil, fmt.Errorf("%q is not an address of %s", address, in.Node)
		}
		ips = append(ips, ip)
	}
	if len(ips) == 0 || in.Node == "" {
		return nil, fmt.Errorf("a certificate for %q at %q would be useless", in.Node, in.Addresses)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "system:node:" + in.Node, Organization: []string{"system:nodes"}},
		NotBefore:    now.Add(-backdated), NotAfter: now.Add(kubeletLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	switch in.Usage {
	case kubeadm.Client:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case kubeadm.Serving:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.DNSNames, template.IPAddresses = []string{in.Node}, ips
	default:
		return nil, fmt.Errorf("a kubelet has no %q certificate", in.Usage)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, request.PublicKey, ca.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, fmt.Errorf("signing for %s: %w", in.Node, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Signed is a certificate in PEM for a key that its node has generated.
type Signed struct {
	Usage       kubeadm.Usage
	Certificate []byte
}

// InstallCertificate stores a certificate and its key where the kubelet looks for them.
var InstallCertificate = host.Define("kubeadm.install-certificate", func(_ context.Context, in Signed) (struct{}, error) {
	pending.Lock()
	defer pending.Unlock()
	waiting := pending.keys[in.Usage]
	if waiting == nil {
		return struct{}{}, fmt.Errorf("no %s certificate was requested in this session", in.Usage)
	}
	key, err := x509.MarshalECPrivateKey(waiting)
	if err != nil {
		return struct{}{}, err
	}
	pair := append(in.Certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})...)
	if _, err := tls.X509KeyPair(pair, pair); err != nil {
		return struct{}{}, fmt.Errorf("the %s certificate is not this node's: %w", in.Usage, err)
	}
	delete(pending.keys, in.Usage)
	if in.Usage == kubeadm.Client && system.Filled(kubeletKubeconfig) {
		if err := separateKubeletCertificate(time.Now()); err != nil { // kubeadm may have left the former one inside the kubeconfig
			return struct{}{}, err
		}
	}
	_, err = storePair(kubeadm.KubeletPKI, in.Usage, pair, time.Now())
	return struct{}{}, err
})

// storePair keeps a certificate and its key as the kubelet does: in a dated file, with a link to the current one.
func storePair(dir string, usage kubeadm.Usage, pair []byte, now time.Time) (link string, err error) {
	target := filepath.Join(dir, "kubelet-"+string(usage)+"-"+now.Format("2006-01-02-15-04-05")+".pem")
	link = kubeadm.CurrentPair(dir, usage)
	if err := durable.WriteFile(target, pair, 0o600); err != nil {
		return link, err
	}
	return link, durable.Symlink(target, link)
}
