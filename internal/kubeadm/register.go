package kubeadm

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/node"
)

const (
	kubeletUnit      = "kubelet.service"
	registrationTick = 200 * time.Millisecond
	// longWait is when a kubelet that waits for its API server begins to make long pauses. It doubles them with each
	// attempt: up to seven seconds before it registers, and up to thirty before it reads the Services, without which it
	// starts no pod.
	longWait = 5 * time.Second
)

// RegisterNode waits until a control plane's node is registered at the API server beside it. A kubelet that has waited long
// for that server is started again as soon as it answers, because it would go on waiting when the server has long been there.
var RegisterNode = host.Define("kubeadm.register-node", func(ctx context.Context, name string) (struct{}, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeletKubeconfig)
	if err != nil {
		return struct{}{}, fmt.Errorf("reading %s: %w", kubeletKubeconfig, err)
	}
	config.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, register(ctx, kubelet{
		node: func() error {
			_, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			return err
		},
		runs:    func() (time.Duration, error) { return node.UnitRuns(ctx, kubeletUnit) },
		restart: func() error { return node.Run(ctx, "systemctl", "restart", kubeletUnit) },
	})
})

// kubelet is what register needs of one.
type kubelet struct {
	node    func() error                  // whether its node is registered
	runs    func() (time.Duration, error) // since when it has been running
	restart func() error
}

// register polls until the node is there. A node that is there at the first look has registered in an earlier run, and
// then its kubelet has waited for nothing.
func register(ctx context.Context, k kubelet) error {
	tick := time.NewTicker(registrationTick)
	defer tick.Stop()
	for looked, answered := false, false; ; looked = true {
		err := k.node()
		if err == nil && (!looked || answered) {
			return nil
		}
		if !answered && (err == nil || apierrors.IsNotFound(err)) {
			answered = true
			waited, err := k.runs()
			if err != nil {
				return err
			}
			if waited > longWait {
				if err := k.restart(); err != nil {
					return err
				}
			}
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up: %w)", err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
