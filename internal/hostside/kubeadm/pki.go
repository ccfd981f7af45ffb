package kubeadm

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/host"
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

// Only is the part of it that has these names.
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

// MakePKI makes the shared keys, as far as they are not there, with kubeadm's own phases, and returns them.
var MakePKI = host.Define("kubeadm.make-pki", func(ctx context.Context, in PKIRequest) (PKI, error) {
	// Where a kubelet has its configuration nothing is left to make, and kubeadm would only hold what it finds against our
	// configuration.
	if have, err := readPKI(in.Files); err == nil && system.Filled(kubeletConfig) {
		return have, nil
	}
	err := withConfig("pki", in.Config, func(path string) error {
		if err := mend(kubernetesDir, kubeletConfig); err != nil {
			return err
		}
		// All certificates at once, this host's own included, which it needs next anyway: one process instead of four.
		if err := run(ctx, "init", "phase", "certs", "all", "--config", path); err != nil {
			return err
		}
		if !slices.Contains(in.Files, encryption.File) {
			return nil
		}
		return ensureEncryption(encryptionFile)
	})
	if err != nil {
		return nil, err
	}
	return readPKI(in.Files)
}, host.Secret, host.Secret)

func readPKI(names []string) (PKI, error) {
	pki := PKI{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(pkiDir, name))
		if err != nil {
			return nil, fmt.Errorf("reading the shared keys: %w", err)
		}
		pki[name] = data
	}
	return pki, nil
}

// WritePKI puts the shared keys where kubeadm looks for them. It refuses to replace another cluster's.
var WritePKI = host.Define("kubeadm.write-pki", func(_ context.Context, pki PKI) (struct{}, error) {
	for name := range pki {
		path := filepath.Join(pkiDir, name)
		if have, err := os.ReadFile(path); err == nil && string(have) != string(pki[name]) {
			return struct{}{}, fmt.Errorf("%s exists and belongs to another cluster; if nobody needs that one any more, run `kubeadm reset` on the host", path)
		}
	}
	return struct{}{}, writePKI(pki, slices.Sorted(maps.Keys(pki))...)
}, host.Secret, host.Secret)

func writePKI(pki PKI, names ...string) error {
	for _, name := range names {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".crt") || strings.HasSuffix(name, ".pub") {
			mode = 0o644
		}
		if err := durable.WriteFile(filepath.Join(pkiDir, name), pki[name], mode); err != nil {
			return err
		}
	}
	return nil
}

// withConfig keeps a configuration, which holds a token, in a file of root's in memory for as long as f runs.
func withConfig(name, content string, f func(path string) error) error {
	const dir = "/run/quorate"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, name+".yaml")
	if err := durable.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	defer os.Remove(path) //nolint:errcheck // in memory, and rewritten by the next run
	return f(path)
}
