package kubeadm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
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

// NodeRequest is the name of a host's own node, and how long to wait for it.
type NodeRequest struct {
	Name     string
	Patience time.Duration
}

func (r NodeRequest) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.Patience, fmt.Errorf("waited for %s", r.Patience))
}

// RegisterNode waits until a control plane's node is registered at the API. A kubelet that has waited long for the API is
// restarted as soon as the API answers, because it would otherwise continue to wait.
var RegisterNode = host.DefineChange("kubeadm.register-node", func(ctx context.Context, in NodeRequest) (struct{}, error) {
	ctx, cancel := in.limit(ctx)
	defer cancel()
	look, err := ownNode(in.Name)
	if err != nil {
		return struct{}{}, err
	}
	err = register(ctx, kubelet{
		node:    func() (*corev1.Node, error) { return look(ctx) },
		runs:    func() (time.Duration, error) { return system.UnitRuns(ctx, kubeletUnit) },
		restart: func() error { return system.Run(ctx, "systemctl", "restart", kubeletUnit) },
	})
	if err != nil {
		return struct{}{}, fmt.Errorf("the node does not register: %w: see journalctl -u kubelet", err)
	}
	return struct{}{}, nil
})

// UseLocalAPI waits until the local API server of a control plane is ready, and switches the kubelet to it. A kubelet that
// turned to one that only listens would be refused what it asks, and its restart would take processor time from the start of
// that API server.
var UseLocalAPI = host.DefineChange("kubeadm.use-local-api", func(ctx context.Context, in NodeRequest) (struct{}, error) {
	server, err := awaitLocalAPI(ctx, in)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, changeKubelet(facts.KubeletRestartDue, func() error { return turnKubelet(server) }, func() error {
		return system.Systemctl(context.WithoutCancel(ctx), "restart", kubeletUnit)
	})
})

// awaitLocalAPI waits until the local API server of a control plane is ready for the kubelet, and returns its URL.
func awaitLocalAPI(ctx context.Context, in NodeRequest) (server string, err error) {
	ctx, cancel := in.limit(ctx)
	defer cancel()
	if server, err = beside(); err != nil {
		return "", err
	}
	client, err := asKubelet(server)
	if err != nil {
		return "", err
	}
	if err := poll(ctx, func() (bool, error) { err := ready(ctx, client, in.Name); return err == nil, err }); err != nil {
		return "", fmt.Errorf("the API server of this host does not serve: %w: see /var/log/pods/kube-system_kube-apiserver-*", err)
	}
	return server, nil
}

// changeKubelet changes what the kubelet reads only when it starts, and restarts it. It can be killed anywhere: while the kubelet may
// run without the change, the file due exists, and a plan repeats the step. The restart is a single job of systemd, so the kubelet
// does not stay stopped. A reboot restarts the kubelet and removes the file, which is below /run.
func changeKubelet(due string, change, restart func() error) error {
	if err := noteDue(due); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	if err := restart(); err != nil {
		return err
	}
	return durable.Remove(due)
}

// noteDue notes that the kubelet has to restart.
func noteDue(due string) error {
	if err := durable.MkdirAll(filepath.Dir(due), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(due, nil, 0o600)
}

// restartKubelet restarts the kubelet and waits until it works.
func restartKubelet(ctx context.Context) error {
	if err := system.Systemctl(context.WithoutCancel(ctx), "restart", kubeletUnit); err != nil {
		return err
	}
	return AwaitKubelet(ctx)
}

// awaitReady gives a node some time to become Ready. One that has no pod network does not, and that is no reason to fail.
func awaitReady(ctx context.Context, name string, patience time.Duration) error {
	look, err := ownNode(name)
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

// ready asks an API server as the kubelet of a node whether it is ready. A cluster may allow its nodes no look at that; then it
// is enough that the kubelet gets an answer about its node. That there is no such node yet is one: a kubelet without another
// path to the API registers there.
func ready(ctx context.Context, client kubernetes.Interface, node string) error {
	if _, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	if apierrors.IsForbidden(err) {
		return nil
	}
	return err
}

// ownNode gets a node with the credentials of its kubelet, from the server that the kubelet uses.
func ownNode(name string) (look func(context.Context) (*corev1.Node, error), err error) {
	client, err := asKubelet("")
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (*corev1.Node, error) {
		return client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}, nil
}

// asKubelet makes a client with the credentials of the kubelet, for a given server or for the one that the kubelet uses.
func asKubelet(server string) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags(server, kubeletKubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", kubeletKubeconfig, err)
	}
	config.Timeout, config.Proxy = 5*time.Second, host.Direct
	return kubernetes.NewForConfig(config)
}

// beside is the URL of a control plane's local API server, which kubeadm also configures for the controllers.
func beside() (string, error) {
	config, err := clientcmd.BuildConfigFromFlags("", controllersKubeconfig)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", controllersKubeconfig, err)
	}
	return config.Host, nil
}

// turnKubelet has the kubelet's kubeconfig name an API server, whatever it names now.
func turnKubelet(server string) error {
	config, err := clientcmd.LoadFromFile(kubeletKubeconfig)
	if err != nil {
		return fmt.Errorf("reading %s: %w", kubeletKubeconfig, err)
	}
	in := MoveRequest{To: server}
	for _, cluster := range config.Clusters {
		in.From = append(in.From, cluster.Server)
	}
	return setServer(kubeletKubeconfig, in)
}

// kubelet is what register needs from a kubelet.
type kubelet struct {
	node    func() (*corev1.Node, error)  // its node, when it is registered
	runs    func() (time.Duration, error) // since when it has been running
	restart func() error
}

// register waits until the node exists, and restarts its kubelet at the API's first answer if the kubelet has waited long for
// it.
func register(ctx context.Context, k kubelet) error {
	answered := false
	return poll(ctx, func() (done bool, err error) {
		n, err := k.node()
		if answered || err != nil && !apierrors.IsNotFound(err) {
			return err == nil, err
		}
		answered = true
		waited, failed := k.runs()
		if err == nil {
			// What matters is how long the kubelet had waited when it registered. One that was started after that may still be
			// waiting.
			if age := time.Since(n.CreationTimestamp.Time); age < waited {
				waited -= age
			}
		}
		if failed == nil && waited > longWait {
			failed = k.restart()
		}
		return err == nil || failed != nil, cmp.Or(failed, err)
	})
}

var errNotYet = errors.New("it is not there yet")

// poll calls look until it is done, immediately and then at every tick. Its error is that of the last complete call.
func poll(ctx context.Context, look func() (done bool, err error)) error {
	tick := time.NewTicker(registrationTick)
	defer tick.Stop()
	last := errNotYet
	for {
		done, err := look()
		if done {
			return err
		}
		if err != nil && ctx.Err() == nil {
			last = err // the actual problem, rather than that this call was interrupted
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (gave up: %w)", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
