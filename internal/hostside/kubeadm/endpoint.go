package kubeadm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/kubeadm"
)

// WidenCertificate makes the API server's certificate valid for more names and addresses. It keeps the key, so that the certificate's
// file is replaced in one moment and always belongs to it. The API server reloads it without a restart.
var WidenCertificate = host.Define("kubeadm.widen-certificate", func(_ context.Context, names []string) (struct{}, error) {
	return struct{}{}, widenCertificate(pkiDir, names, time.Now())
})

func widenCertificate(dir string, names []string, now time.Time) error {
	path := filepath.Join(dir, "apiserver.crt")
	serving, err := tls.LoadX509KeyPair(path, filepath.Join(dir, "apiserver.key"))
	if err != nil {
		return fmt.Errorf("reading the API server's certificate: %w", err)
	}
	have := serving.Leaf
	template := &x509.Certificate{Subject: have.Subject, DNSNames: have.DNSNames, IPAddresses: have.IPAddresses, KeyUsage: have.KeyUsage, ExtKeyUsage: have.ExtKeyUsage,
		BasicConstraintsValid: true, NotBefore: now.Add(-backdated), NotAfter: now.Add(have.NotAfter.Sub(have.NotBefore))}
	for _, name := range names {
		if have.VerifyHostname(name) == nil {
			continue
		}
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if len(template.DNSNames)+len(template.IPAddresses) == len(have.DNSNames)+len(have.IPAddresses) {
		return nil
	}
	ca, err := loadAuthority(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		return fmt.Errorf("reading the cluster's CA: %w", err)
	}
	if template.NotAfter.After(ca.Leaf.NotAfter) {
		template.NotAfter = ca.Leaf.NotAfter
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, serving.PrivateKey.(crypto.Signer).Public(), ca.PrivateKey.(crypto.Signer))
	if err != nil {
		return fmt.Errorf("signing the API server's certificate: %w", err)
	}
	return durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// MoveRequest says which API server kubeconfigs are to name, and where: only those that name one of From change.
type MoveRequest struct {
	From []string
	To   string
}

// MoveKubeconfigs has the kubeconfigs of this host name another API server, except for the kubelet's own.
var MoveKubeconfigs = host.Define("kubeadm.move-kubeconfigs", func(_ context.Context, in MoveRequest) (struct{}, error) {
	for _, name := range facts.Kubeconfigs {
		if path := filepath.Join(kubernetesDir, name); path != kubeletKubeconfig {
			if err := setServer(path, in); err != nil {
				return struct{}{}, err
			}
		}
	}
	return struct{}{}, nil
})

// setServer changes the API server that a kubeconfig names; one that does not exist stays absent.
func setServer(path string, in MoveRequest) error {
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	want := []byte(kubeadm.WithServer(string(have), in.From, in.To)) // the rest of the file stays as it is
	config, err := clientcmd.Load(want)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	otherForm := false // such as {cluster: {server: …}}
	for _, cluster := range config.Clusters {
		if cluster.Server != in.To && slices.Contains(in.From, cluster.Server) {
			cluster.Server, otherForm = in.To, true
		}
	}
	if otherForm {
		if want, err = clientcmd.Write(*config); err != nil {
			return err
		}
	}
	if bytes.Equal(want, have) {
		return nil
	}
	return durable.WriteFile(path, want, 0o600)
}

// KubeletIsDue notes that the kubelet has to restart, before something is changed that it reads only when it starts. A reboot, which
// restarts the kubelet, removes the note.
var KubeletIsDue = host.Define("kubeadm.kubelet-is-due", func(context.Context, struct{}) (struct{}, error) {
	return struct{}{}, noteDue(facts.KubeletSettingsDue)
})

// MoveKubelet has the kubelet use another API server, and restarts it. Containers go on.
var MoveKubelet = host.DefineChange("kubeadm.move-kubelet", func(ctx context.Context, in MoveRequest) (struct{}, error) {
	return struct{}{}, changeKubelet(facts.KubeletSettingsDue, func() error { return setServer(kubeletKubeconfig, in) }, func() error { return restartKubelet(ctx) })
})
