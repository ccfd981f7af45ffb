package kubeadm

import (
	"context"
	"errors"
	"path/filepath"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/hostside/system"
)

// kubeletFiles are what kubeadm writes for a kubelet.
var kubeletFiles = []string{kubeletConfig, "/var/lib/kubelet/kubeadm-flags.env", "/var/lib/kubelet/instance-config.yaml"}

// settle syncs what kubeadm has written to the disk, because kubeadm does not. After a power cut, files that later steps and
// marks claim to be complete could otherwise be empty.
func settle() error {
	errs := []error{durable.SyncTree(kubernetesDir)}
	for _, f := range kubeletFiles {
		errs = append(errs, durable.SyncTree(f))
	}
	return errors.Join(append(errs, durable.SyncTree(filepath.Join(filepath.Dir(kubeletConfig), "pki")))...)
}

// runKubeadm runs kubeadm with a configuration, which can hold a bootstrap token: it is in memory alone and gone with the
// processes, however they end.
func runKubeadm(ctx context.Context, config string, args ...string) error {
	return kubeadmCommand{args: args, inputs: []string{config}}.run(ctx)
}

// kubeadmCommand is a run of kubeadm. The first input is its configuration; the others are at system.Input(1), system.Input(2),
// and so on. Every call of kubeadm is one: what it has written is on the disk when run returns.
type kubeadmCommand struct {
	args   []string
	inputs []string
	finish bool // as of system.Command
}

func (k kubeadmCommand) run(ctx context.Context) error {
	c := system.Command{Name: "kubeadm", Args: append(k.args, "--config", system.Input(0)), Finish: k.finish}
	for _, content := range k.inputs {
		f, err := system.Memory("kubeadm", []byte(content))
		if err != nil {
			return err
		}
		defer f.Close()
		c.Inputs = append(c.Inputs, f)
	}
	if err := c.Run(ctx); err != nil {
		return err
	}
	return settle()
}
