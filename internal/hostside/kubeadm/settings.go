package kubeadm

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/staticpod"
)

// RestartWithSettings writes the configuration of a kubelet as the cluster has it, and restarts the kubelet. Containers go on. The
// request is the configuration of kubeadm's upgrade. A mark makes sure that a kubelet whose file was written restarts, even if this
// operation is killed in between.
var RestartWithSettings = host.DefineChange("kubeadm.restart-with-settings", func(ctx context.Context, config string) (struct{}, error) {
	return struct{}{}, changeKubelet(facts.KubeletSettingsDue, func() error {
		args := []string{"upgrade", "node", "phase", "kubelet-config"}
		if system.Exists(adminConf) { // the kubelet of a control plane must not need itself to read its configuration
			args = append(args, "--kubeconfig", adminConf)
		}
		if err := runKubeadm(ctx, config, args...); err != nil {
			return err
		}
		return tighten()
	}, func() error { return restartKubelet(ctx) })
})

// pruneVariants removes the files of former settings that the API server on this host does not read any more.
func pruneVariants() error { return pruneVariantsIn("") }

func pruneVariantsIn(root string) error {
	pod, err := staticpod.Read(filepath.Join(root, staticpod.Dir, facts.APIServer+".yaml"))
	if err != nil {
		return err
	}
	args := staticpod.Arguments(pod)
	used := []string{args["audit-policy-file"], args["authentication-config"]}
	entries, err := os.ReadDir(filepath.Join(root, hostconfig.APIServerDir))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join(hostconfig.APIServerDir, e.Name()); hostconfig.IsVariant(e.Name()) && !slices.Contains(used, path) {
			if err := durable.Remove(filepath.Join(root, path)); err != nil {
				return err
			}
		}
	}
	return nil
}
