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
	registrationTick = 200 * time.Millisecond
	// A kubelet that waits for its API server doubles its pause with each attempt, up to seven seconds. One that has not
	// come within this time of the server's first answer is in a long one.
	registrationPatience = time.Second
)

// RegisterNode waits until a control plane's node is registered at the API server beside it. A kubelet that has waited long
// for that server is started again, because it would go on waiting when the server has long been there.
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
	get := func() error {
		_, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		return err
	}
	return struct{}{}, register(ctx, get, func() error { return node.Run(ctx, "systemctl", "restart", "kubelet.service") })
})

// register polls with get and calls again once, when the server answers and the node still does not come.
func register(ctx context.Context, get, again func() error) error {
	tick := time.NewTicker(registrationTick)
	defer tick.Stop()
	var answered time.Time
	for restarted := false; ; {
		err := get()
		if err == nil {
			return nil
		}
		if apierrors.IsNotFound(err) && answered.IsZero() {
			answered = time.Now()
		}
		if !restarted && !answered.IsZero() && time.Since(answered) > registrationPatience {
			restarted = true
			if err := again(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up: %w)", err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
