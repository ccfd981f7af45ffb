package kubeadm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/system"
)

// mend removes what a kubeadm that was killed left half done below /etc/kubernetes: files that are not whole, and
// certificates and keys without their other half. kubeadm itself refuses to go on from those, and creates what does not
// exist. The kubelet's configuration is the last thing that is written: with it the host is complete, and a key that is
// missing then, such as an authority's that is kept elsewhere, is missing on purpose.
func mend(kubernetesDir, kubeletConfig string) error {
	if system.Filled(kubeletConfig) {
		return nil
	}
	pki := filepath.Join(kubernetesDir, "pki")
	errs := []error{mendPairs(pki)}
	if !externalEtcd(pki) {
		errs = append(errs, mendPairs(filepath.Join(pki, "etcd")))
	}
	for _, name := range kubeconfigs {
		if path := filepath.Join(kubernetesDir, name); pkifile.Kubeconfig(path) != nil {
			errs = append(errs, remove(path))
		}
	}
	return errors.Join(errs...)
}

// kubeconfigs are those that kubeadm writes, and the kubelet. Other files beside them are somebody else's.
var kubeconfigs = []string{"admin.conf", "super-admin.conf", "controller-manager.conf", "scheduler.conf", "kubelet.conf", "bootstrap-kubelet.conf"}

// externalEtcd says that the host has what an external etcd's clients need. kubeadm itself makes a client certificate
// only where the authority's key is.
func externalEtcd(pki string) bool {
	_, err := os.Stat(filepath.Join(pki, "etcd/ca.key"))
	return errors.Is(err, fs.ErrNotExist) && pkifile.Certificate(filepath.Join(pki, "etcd/ca.crt")) == nil &&
		wholePair(filepath.Join(pki, "apiserver-etcd-client"))
}

// wholePair says whether a private key and its certificate, or for the service accounts its public key, are both there.
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
