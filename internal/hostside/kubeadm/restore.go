package kubeadm

import (
	"context"
	"fmt"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// RestoreRequest names static pods whose manifests are missing on a control plane of the cluster.
type RestoreRequest struct {
	Config string // kubeadm's, as stored in the cluster
	Pods   []string
}

// restorePhases are the phases of kubeadm init that write the manifest of a static pod.
var restorePhases = map[string][]string{
	"etcd":                    {"etcd", "local"},
	"kube-apiserver":          {"control-plane", "apiserver"},
	"kube-controller-manager": {"control-plane", "controller-manager"},
	"kube-scheduler":          {"control-plane", "scheduler"},
}

// RestoreControlPlane writes the manifests of static pods again; the kubelet starts them.
var RestoreControlPlane = host.DefineChange("kubeadm.restore-control-plane", func(ctx context.Context, in RestoreRequest) (struct{}, error) {
	// kubeadm needs the directory, which an older version of Quorate did not create where etcd is external.
	if err := durable.MkdirAll(hostconfig.PatchesDir, 0o755); err != nil {
		return struct{}{}, err
	}
	for _, pod := range in.Pods {
		phase, known := restorePhases[pod]
		if !known {
			return struct{}{}, fmt.Errorf("kubeadm has no phase for the static pod %s", pod)
		}
		if err := runKubeadm(ctx, in.Config, append([]string{"init", "phase"}, phase...)...); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, tighten()
}, host.Secret)

// ForgetBackOff has the kubelet start programs again that it makes wait, up to five minutes, because they ended again and again: it forgets
// that when it restarts. Call it when what kept them from working is gone. Containers that run go on.
func ForgetBackOff(ctx context.Context) error {
	return system.Systemctl(ctx, startVerb("", time.Now()), kubeletUnit)
}

// startVerb is how a kubelet is started that may run. One whose certificate has expired would not come back from a restart.
func startVerb(root string, now time.Time) string {
	if c, err := pkifile.KubeletClient(root); err != nil || c != nil && !now.Before(c.NotAfter) {
		return "start"
	}
	return "restart"
}

// RestartKubelet restarts the kubelet. The containers of its pods continue to run.
var RestartKubelet = host.DefineChange("kubeadm.restart-kubelet", func(ctx context.Context, _ struct{}) (struct{}, error) {
	return struct{}{}, system.Run(ctx, "systemctl", "restart", kubeletUnit)
})
