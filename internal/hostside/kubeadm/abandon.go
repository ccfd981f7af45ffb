package kubeadm

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
)

// AbandonJoin removes what an interrupted join of a control plane left on its host, so that another join can begin: static
// pods, etcd's data, and kubeadm's files that belong to this host alone. The keys that all control planes share stay. It
// refuses on a host that has joined.
var AbandonJoin = host.DefineChange("kubeadm.abandon-join", func(ctx context.Context, _ struct{}) (struct{}, error) {
	if system.Filled(kubeletKubeconfig) {
		return struct{}{}, errors.New("this host has joined its cluster: there is no join to undo")
	}
	return struct{}{}, abandonJoin(ctx)
})

func abandonJoin(ctx context.Context) error {
	// The kubelet first: it would start the static pods again.
	if err := system.Run(ctx, "systemctl", "stop", kubeletUnit); err != nil {
		return err
	}
	manifests, err := filepath.Glob(kubernetesDir + "/manifests/*.yaml")
	if err != nil {
		return err
	}
	for _, path := range append(manifests, kubeletConfig, kubernetesDir+"/bootstrap-kubelet.conf") {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll("/var/lib/etcd/member")
}
