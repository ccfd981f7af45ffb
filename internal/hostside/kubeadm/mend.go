package kubeadm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"quorate.dev/quorate/internal/hostside/system"
)

// mend removes what a kubeadm that was killed left half done below /etc/kubernetes: files that it had opened and not yet
// written, and certificates and keys without their other half. kubeadm itself refuses to go on from those, and makes
// anew what is not there. The kubelet's configuration is the last thing that is written: with it the host is complete,
// and a key that is missing then, such as an authority's that is kept elsewhere, is missing on purpose.
func mend(kubernetesDir, kubeletConfig string) error {
	if system.Filled(kubeletConfig) {
		return nil
	}
	errs := []error{mendPairs(filepath.Join(kubernetesDir, "pki")), removeEmpty(filepath.Join(kubernetesDir, "*.conf"))}
	if !externalEtcd(filepath.Join(kubernetesDir, "pki")) {
		errs = append(errs, mendPairs(filepath.Join(kubernetesDir, "pki/etcd")))
	}
	return errors.Join(errs...)
}

// externalEtcd says that the host has what an external etcd's clients need. kubeadm itself makes a client certificate
// only where the authority's key is.
func externalEtcd(pki string) bool {
	_, err := os.Stat(filepath.Join(pki, "etcd/ca.key"))
	return errors.Is(err, fs.ErrNotExist) && system.Filled(filepath.Join(pki, "etcd/ca.crt")) &&
		system.Filled(filepath.Join(pki, "apiserver-etcd-client.crt")) && system.Filled(filepath.Join(pki, "apiserver-etcd-client.key"))
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
		public := stem + ".crt"
		if filepath.Base(stem) == "sa" {
			public = stem + ".pub"
		}
		if system.Filled(stem+".key") && system.Filled(public) {
			continue
		}
		for _, half := range []string{stem + ".key", public} {
			if err := os.Remove(half); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func removeEmpty(glob string) error {
	files, err := filepath.Glob(glob)
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		if !system.Filled(file) {
			errs = append(errs, os.Remove(file))
		}
	}
	return errors.Join(errs...)
}
