package kubeadm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// mend removes what a kubeadm that was killed left half done below /etc/kubernetes: files that it had opened and not yet
// written, and certificates and keys without their other half. kubeadm itself refuses to go on from those, and makes
// anew what is not there. The kubelet's configuration is the last thing that is written: with it the host is complete,
// and a key that is missing then, such as an authority's that is kept elsewhere, is missing on purpose.
func mend(kubernetesDir, kubeletConfig string) error {
	if filled(kubeletConfig) {
		return nil
	}
	return errors.Join(
		mendPairs(filepath.Join(kubernetesDir, "pki")),
		mendPairs(filepath.Join(kubernetesDir, "pki/etcd")),
		removeEmpty(filepath.Join(kubernetesDir, "*.conf")),
	)
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
		if filled(stem+".key") && filled(public) {
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
		if !filled(file) {
			errs = append(errs, os.Remove(file))
		}
	}
	return errors.Join(errs...)
}

func filled(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}
