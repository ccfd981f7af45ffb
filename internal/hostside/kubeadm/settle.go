package kubeadm

import (
	"errors"
	"path/filepath"

	"quorate.dev/quorate/internal/durable"
)

// kubeletFiles are what kubeadm writes for a kubelet.
var kubeletFiles = []string{kubeletConfig, "/var/lib/kubelet/kubeadm-flags.env", "/var/lib/kubelet/instance-config.yaml"}

// settle brings to the disk what kubeadm has written, which kubeadm itself leaves to the kernel. Files of which later steps
// and marks say that they are complete would otherwise be empty after a power cut.
func settle() error {
	errs := []error{durable.SyncTree(kubernetesDir)}
	for _, f := range kubeletFiles {
		errs = append(errs, durable.SyncTree(f))
	}
	return errors.Join(append(errs, durable.SyncTree(filepath.Join(filepath.Dir(kubeletConfig), "pki")))...)
}
