package kubeadm

import (
	"context"
	"errors"
	"path/filepath"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
)

// kubeletFiles are what kubeadm writes for a kubelet.
var kubeletFiles = []string{kubeletConfig, "/var/lib/kubelet/kubeadm-flags.env", "/var/lib/kubelet/instance-config.yaml", filepath.Join(filepath.Dir(kubeletConfig), "pki")}

// run runs kubeadm and brings to the disk what it has written, which kubeadm itself leaves to the kernel. Files of which later
// steps and marks say that they are complete would otherwise be empty after a power cut. Every call of kubeadm goes through
// this function or finish.
func run(ctx context.Context, args ...string) error { return settled(ctx, system.Command{Args: args}) }

// finish is run for what must not be left half done when the session ends.
func finish(ctx context.Context, args ...string) error {
	return settled(ctx, system.Command{Args: args, Finish: true})
}

func settled(ctx context.Context, c system.Command) error {
	c.Name = "kubeadm"
	if err := c.Run(ctx); err != nil {
		return err
	}
	errs := []error{durable.SyncTree(kubernetesDir)}
	for _, f := range kubeletFiles {
		errs = append(errs, durable.SyncTree(f))
	}
	return errors.Join(errs...)
}
