package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/kubeadm"
)

const (
	kubernetesDir = "/etc/kubernetes"
	pkiDir        = kubeadm.PKIDir
	kubeletConfig = "/var/lib/kubelet/config.yaml"
)

// PKI holds files below /etc/kubernetes/pki by name. It lives in memory only on its way between hosts.
type PKI map[string][]byte

// Only returns the files with these names.
func (p PKI) Only(names []string) PKI {
	out := PKI{}
	for _, n := range names {
		out[n] = p[n]
	}
	return out
}

// CA is the cluster's CA certificate in PEM.
func (p PKI) CA() string { return string(p["ca.crt"]) }

// PKIRequest asks for the files that control planes share.
type PKIRequest struct {
	Config string
	Files  []string
}

// MakePKI creates those shared keys that do not exist yet, with kubeadm's own phases, and returns all of them. On a host whose
// kubelet is configured, it creates nothing: a missing key is then kept elsewhere, and the error names it.
var MakePKI = host.Define("kubeadm.make-pki", func(ctx context.Context, in PKIRequest) (PKI, error) {
	if system.Filled(kubeletConfig) {
		return readPKI(in.Files)
	}
	if err := mend(kubernetesDir, kubeletConfig); err != nil {
		return nil, err
	}
	// All certificates in one process instead of four, including this host's own, which it needs next anyway.
	if err := runKubeadm(ctx, in.Config, "init", "phase", "certs", "all"); err != nil {
		return nil, err
	}
	if slices.Contains(in.Files, encryption.File) {
		if err := ensureEncryption(encryptionFile); err != nil {
			return nil, err
		}
	}
	return readPKI(in.Files)
}, host.Secret, host.Secret)

func readPKI(names []string) (PKI, error) { return readPKIFrom(pkiDir, names) }

func readPKIFrom(dir string, names []string) (PKI, error) {
	pki := PKI{}
	var missing []string
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
		case err != nil:
			return nil, fmt.Errorf("reading the shared keys: %w", err)
		}
		pki[name] = data
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("reading the shared keys: %s is missing in %s", strings.Join(missing, " and "), dir)
	}
	return pki, nil
}

// WritePKI puts the shared keys where kubeadm looks for them. It refuses to replace those of another cluster. A host that has
// joined, or has an etcd member, gets no private key of an authority: if one is missing, it was removed on purpose.
var WritePKI = host.Define("kubeadm.write-pki", func(_ context.Context, pki PKI) (struct{}, error) {
	return struct{}{}, pki.write(pkiDir, joined("") || etcd.Local.HasData())
}, host.Secret, host.Secret)

// KeepPKI is WritePKI for a host that has joined and is to have the keys of authorities from now on, because the only host that has them
// leaves the cluster.
var KeepPKI = host.Define("kubeadm.keep-pki", func(_ context.Context, pki PKI) (struct{}, error) {
	return struct{}{}, pki.write(pkiDir, false)
}, host.Secret, host.Secret)

func (p PKI) write(dir string, joined bool) error {
	names := slices.Sorted(maps.Keys(p))
	for _, name := range names {
		path := filepath.Join(dir, name)
		if have, err := os.ReadFile(path); err == nil && string(have) != string(p[name]) {
			return fmt.Errorf("%s exists but is not this cluster's: the host belongs, or belonged, to another cluster", path)
		}
	}
	if joined {
		names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "ca.key") })
	}
	return p.put(dir, names...)
}

// put writes some of the files, in this order. Those that are there already are not written again.
func (p PKI) put(dir string, names ...string) error {
	for _, name := range names {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".crt") || strings.HasSuffix(name, ".pub") {
			mode = 0o644
		}
		if err := replaceFile(filepath.Join(dir, name), p[name], mode); err != nil {
			return err
		}
	}
	return nil
}
