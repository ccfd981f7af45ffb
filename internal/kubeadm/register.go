package kubeadm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/node"
)

const (
	kubeletUnit           = "kubelet.service"
	controllersKubeconfig = "/etc/kubernetes/controller-manager.conf"

	registrationTick = 200 * time.Millisecond
	// longWait is when a kubelet that waits for its API server begins to make long pauses. It doubles them with each
	// attempt: up to seven seconds before it registers, and up to thirty before it reads the Services, without which it
	// starts no pod.
	longWait = 5 * time.Second
)

// RegisterNode waits until a control plane's node is registered at the API. A kubelet that has waited long for that is
// started again as soon as it answers, because it would go on waiting when the API has long been there.
var RegisterNode = host.Define("kubeadm.register-node", func(ctx context.Context, name string) (struct{}, error) {
	look, err := ownNode("", name)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, register(ctx, kubelet{
		node:    func() (*corev1.Node, error) { return look(ctx) },
		runs:    func() (time.Duration, error) { return node.UnitRuns(ctx, kubeletUnit) },
		restart: func() error { return restartKubelet(ctx) },
	})
})

// UseLocalAPI waits until the API server beside a control plane's kubelet serves, and has the kubelet turn to it.
var UseLocalAPI = host.Define("kubeadm.use-local-api", func(ctx context.Context, name string) (struct{}, error) {
	beside, err := clientcmd.BuildConfigFromFlags("", controllersKubeconfig) // kubeadm leads it to the API server beside it, too
	if err != nil {
		return struct{}{}, fmt.Errorf("reading %s: %w", controllersKubeconfig, err)
	}
	look, err := ownNode(beside.Host, name)
	if err != nil {
		return struct{}{}, err
	}
	if err := poll(ctx, func() (bool, error) {
		_, err := look(ctx)
		return err == nil, err
	}); err != nil {
		return struct{}{}, err
	}
	if err := setServer(beside.Host); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, restartKubelet(ctx)
})

// awaitReady gives a node some time to become Ready. One that has no pod network does not, and that is no reason to fail.
func awaitReady(ctx context.Context, name string, patience time.Duration) error {
	look, err := ownNode("", name)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = poll(within, func() (bool, error) {
		n, err := look(within)
		return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}), err
	})
	if ctx.Err() != nil {
		return err
	}
	return nil
}

// ownNode asks for a node with the credentials of its kubelet: at a server, or where the kubelet itself finds the API.
func ownNode(server, name string) (look func(context.Context) (*corev1.Node, error), err error) {
	config, err := clientcmd.BuildConfigFromFlags(server, kubeletKubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", kubeletKubeconfig, err)
	}
	config.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*corev1.Node, error) {
		return client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}, nil
}

func restartKubelet(ctx context.Context) error {
	return node.Run(ctx, "systemctl", "restart", kubeletUnit)
}

// setServer says where the kubelet finds the API.
func setServer(server string) error {
	config, err := clientcmd.LoadFromFile(kubeletKubeconfig)
	if err != nil {
		return fmt.Errorf("reading %s: %w", kubeletKubeconfig, err)
	}
	for _, cluster := range config.Clusters {
		cluster.Server = server
	}
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return node.WriteFile(kubeletKubeconfig, content, 0o600)
}

// kubelet is what register needs of one.
type kubelet struct {
	node    func() (*corev1.Node, error)  // its node, when it is registered
	runs    func() (time.Duration, error) // since when it has been running
	restart func() error
}

// register waits until the node is there, and restarts its kubelet at the API's first answer if that had to wait long for it.
func register(ctx context.Context, k kubelet) error {
	answered := false
	return poll(ctx, func() (done bool, err error) {
		n, err := k.node()
		if answered || err != nil && !apierrors.IsNotFound(err) {
			return err == nil, err
		}
		answered = true
		waited, failed := k.runs()
		if err == nil { // what matters is how long it had waited when it registered
			waited -= time.Since(n.CreationTimestamp.Time)
		}
		if failed == nil && waited > longWait {
			failed = k.restart()
		}
		return err == nil || failed != nil, cmp.Or(failed, err)
	})
}

// poll looks until look says that it is done, at once and then at every tick. Its error is that of the last look.
func poll(ctx context.Context, look func() (done bool, err error)) error {
	tick := time.NewTicker(registrationTick)
	defer tick.Stop()
	for {
		done, err := look()
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("gave up: %w", context.Cause(ctx)))
		case <-tick.C:
		}
	}
}
