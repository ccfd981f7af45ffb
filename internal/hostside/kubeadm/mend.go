package kubeadm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/system"
)

// mend removes what a killed kubeadm left incomplete below /etc/kubernetes: truncated files, and certificates and keys without
// their counterpart. kubeadm itself refuses to continue with those, but creates what does not exist. The kubelet's
// configuration is written last. If it exists, the host is complete, and a missing key, such as that of a CA that is kept
// elsewhere, is missing on purpose.
func mend(kubernetesDir, kubeletConfig string) error {
	if system.Filled(kubeletConfig) {
		return nil
	}
	pki := filepath.Join(kubernetesDir, "pki")
	errs := []error{mendPairs(pki)}
	if !externalEtcd(pki) {
		errs = append(errs, mendPairs(filepath.Join(pki, "etcd")))
	}
	for _, name := range facts.Kubeconfigs {
		if path := filepath.Join(kubernetesDir, name); pkifile.Kubeconfig(path) != nil {
			errs = append(errs, remove(path))
		}
	}
	return errors.Join(errs...)
}

// externalEtcd reports whether the host has what clients of an external etcd need. kubeadm itself creates a client certificate
// only where the CA's key is.
func externalEtcd(pki string) bool {
	_, err := os.Stat(filepath.Join(pki, "etcd/ca.key"))
	return errors.Is(err, fs.ErrNotExist) && pkifile.Certificate(filepath.Join(pki, "etcd/ca.crt")) == nil &&
		wholePair(filepath.Join(pki, "apiserver-etcd-client"))
}

// wholePair reports whether a private key and its certificate (for service accounts, its public key) are both intact.
func wholePair(stem string) bool {
	if pkifile.PrivateKey(stem+".key") != nil {
		return false
	}
	if filepath.Base(stem) == "sa" {
		return pkifile.PublicKey(stem+".pub") == nil
	}
	return pkifile.Certificate(stem+".crt") == nil
}

func mendPairs(dir string) error {
	keys, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil {
		return err
	}
	certificates, err := filepath.Glob(filepath.Join(dir, "*.crt"))
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range append(keys, certificates...) {
		stem := strings.TrimSuffix(file, filepath.Ext(file))
		if wholePair(stem) {
			continue
		}
		for _, half := range []string{stem + ".key", stem + ".crt"} {
			errs = append(errs, remove(half))
		}
		if filepath.Base(stem) == "sa" {
			errs = append(errs, remove(stem+".pub"))
		}
	}
	return errors.Join(errs...)
}

// remove removes a file that need not exist.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
