package kubeadm

import (
	"errors"
	"os"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// prepareAuditLog creates the directory of the audit log before the API server does, so that only root can access it.
func prepareAuditLog() error {
	if err := os.MkdirAll(hostconfig.AuditLogDir, 0o700); err != nil {
		return err
	}
	return os.Chmod(hostconfig.AuditLogDir, 0o700)
}

// tighten restricts the modes of files that kubeadm makes world-readable without need. kubeadm keeps the modes of existing
// files, so this is done once.
func tighten() error {
	if err := os.Chmod(kubeletConfig, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncTree(kubeletConfig)
}
