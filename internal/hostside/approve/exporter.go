package approve

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
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// ExporterUser is the user of the exporter of metrics in the API, which asks who may read them; the manifest exporter binds its role.
const ExporterUser = "quorate:exporter"

// backdated allows for clocks that differ.
const backdated = 5 * time.Minute

// exporter makes sure that the exporter of this control plane has a certificate to serve with and one for the API, and restarts it with what is new. It removes them if
// there is no exporter.
func (r *renewal) exporter(ctx context.Context) error {
	config, err := watch.ReadConfig()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(config.ExporterNames) == 0 {
		return errors.Join(durable.Remove(facts.ExporterCertificateFile), durable.Remove(facts.ExporterFile), durable.Remove(facts.ExporterRestartDue))
	}
	r.due = facts.ExporterRestartDue
	return errors.Join(r.serving(config.ExporterNames, facts.ExporterCertificateFile, filepath.Dir(authorityFile)), r.user(ctx, ExporterUser, facts.ExporterFile),
		r.restart(func() error { return system.Systemctl(ctx, "try-restart", "--no-block", hostconfig.ExporterUnit) }))
}

// restart restarts whoever uses what was replaced, because its copies are those with which it was started. A run that ended before it got here left that to this one.
func (r *renewal) restart(restart func() error) error {
	if !system.Exists(r.due) {
		return nil
	}
	if err := restart(); err != nil {
		return err
	}
	return durable.Remove(r.due)
}

// serving makes sure that the file has a certificate for these names, and its key. The cluster's authority in dir signs it.
func (r *renewal) serving(names []string, path, dir string) error {
	now := time.Now()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	signer := authority(filepath.Join(dir, "ca.crt"))
	until := validUntil(text, names, signer)
	if until.Sub(now) > renewBefore || until.After(now) && signer != nil && until.Equal(signer.NotAfter) { // no certificate outlives its authority
		return nil
	}
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		return fmt.Errorf("signing a certificate to serve metrics with: %w", err)
	}
	content, err := signServing(names, ca, now)
	if err != nil {
		return fmt.Errorf("signing a certificate to serve metrics with: %w", err)
	}
	if err := r.replace(path, content); err != nil {
		return err
	}
	fmt.Fprintf(r.log, "the exporter of metrics has a new certificate for %s\n", lifetime)
	return nil
}

// validUntil says until when the certificate in a PEM text can be used for all these names; zero if it cannot, or if an authority signed it
// that is being replaced.
func validUntil(text []byte, names []string, signer *x509.Certificate) time.Time {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil || signer != nil && pair.Leaf.CheckSignatureFrom(signer) != nil {
		return time.Time{}
	}
	for _, name := range names {
		if pair.Leaf.VerifyHostname(name) != nil {
			return time.Time{}
		}
	}
	return pair.Leaf.NotAfter
}

// signServing returns a new certificate and its key as PEM.
func signServing(names []string, ca tls.Certificate, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: ExporterUser}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, NotBefore: now.Add(-backdated), NotAfter: now.Add(lifetime)}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if template.NotAfter.After(ca.Leaf.NotAfter) {
		template.NotAfter = ca.Leaf.NotAfter
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	signer, ok := ca.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key of the authority cannot sign")
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...), nil
}
