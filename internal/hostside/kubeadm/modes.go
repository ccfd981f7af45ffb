package kubeadm

import (
	"errors"
	"os"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// prepareAuditLog makes the directory of the audit log before the first apiserver does: then it is root's alone.
func prepareAuditLog() error {
	if err := os.MkdirAll(hostconfig.AuditLogDir, 0o700); err != nil {
		return err
	}
	return os.Chmod(hostconfig.AuditLogDir, 0o700)
}

// tighten takes away what kubeadm leaves readable for everybody without need. kubeadm keeps the modes of files that it
// finds, so that this is done once.
func tighten() error {
	if err := os.Chmod(kubeletConfig, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncTree(kubeletConfig)
}
