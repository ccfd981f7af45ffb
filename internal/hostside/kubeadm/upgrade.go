package kubeadm

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// UpgradeRequest is what a control plane becomes.
type UpgradeRequest struct {
	Config  string // kubeadm's, with the version that is to run
	Upgrade string // of kubeadm's upgrade
	// Kubernetes and Etcd are the versions that run then. Etcd is empty where the host has no member in a static pod.
	Kubernetes string
	Etcd       string
	// Programs are containerd's and the kubelet's, as far as they do not run from the bundle.
	Programs programs.SwitchRequest
	// Node is the name of the host's node; empty if there is no other API server that could be told that it lives.
	Node string
}

// How long programs have to end, and to start.
const (
	// apiStopGrace is for clients to learn that an API server stops (--shutdown-delay-duration), and for requests and watches that
	// are under way to end.
	apiStopGrace = 20 * time.Second
	// stopGrace is for the others: they lead nothing, and the only client of the etcd member has stopped.
	stopGrace = 3 * time.Second

	etcdStartPatience = 2 * time.Minute
	apiStartPatience  = 4 * time.Minute
	kubeletPatience   = time.Minute
)

// UpgradeControlPlane replaces the static pods and the kubelet of a control plane together, by newer or by older ones. It can be
// killed anywhere and run again.
//
// The kubelet stops first and starts last: a kubelet of another minor release starts all static pods again, and must not meet an API
// server that is older than it is. Meanwhile this operation renews the lease of its node: containers run on, and nothing may take
// the node for dead. The former containers are stopped here. A kubelet that has just started does not stop what it does not know
// before it has an API server, which would never start next to the former one.
//
// kubeadm's own upgrade would replace one pod after another while the API server serves, copy etcd's data, and never go back.
var UpgradeControlPlane = host.DefineChange("kubeadm.upgrade-control-plane", func(ctx context.Context, in UpgradeRequest) (struct{}, error) {
	if err := runKubeadm(ctx, in.Upgrade, "upgrade", "node", "phase", "kubelet-config", "--kubeconfig", adminConf); err != nil {
		return struct{}{}, err
	}
	if in.Node != "" {
		alive, stop := context.WithCancel(ctx)
		defer stop()
		if err := keepAlive(alive, in.Node); err != nil {
			return struct{}{}, err
		}
	}
	if err := system.Run(ctx, "systemctl", "stop", kubeletUnit); err != nil {
		return struct{}{}, err
	}
	if err := stopStaticPods(ctx, in.Etcd != ""); err != nil {
		return struct{}{}, err
	}
	if in.Etcd != "" {
		if err := runKubeadm(ctx, in.Config, "init", "phase", "etcd", "local"); err != nil {
			return struct{}{}, err
		}
	}
	if err := prepareAuditLog(); err != nil {
		return struct{}{}, err
	}
	if err := runKubeadm(ctx, in.Config, "init", "phase", "control-plane", "all"); err != nil {
		return struct{}{}, err
	}
	if err := tighten(); err != nil {
		return struct{}{}, err
	}
	server, err := beside()
	if err != nil {
		return struct{}{}, err
	}
	if err := turnKubelet(server); err != nil {
		return struct{}{}, err
	}
	start := func() error {
		if len(in.Programs.Programs) > 0 {
			if err := system.Run(ctx, "systemctl", "restart", "containerd.service"); err != nil {
				return err
			}
		}
		return system.Run(ctx, "systemctl", "restart", kubeletUnit)
	}
	if len(in.Programs.Programs) > 0 {
		err = programs.SwitchWith(ctx, in.Programs, start)
	} else {
		err = start()
	}
	if err != nil {
		return struct{}{}, err
	}
	for _, due := range []string{facts.KubeletRestartDue, facts.KubeletSettingsDue} {
		if err := durable.Remove(due); err != nil {
			return struct{}{}, err
		}
	}
	if err := serves(ctx, in); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, pruneVariants()
}, host.Secret)

// serves waits until everything on the control plane works.
func serves(ctx context.Context, in UpgradeRequest) error {
	if err := AwaitKubelet(ctx); err != nil {
		return err
	}
	if in.Etcd != "" {
		if err := within(ctx, etcdStartPatience, "starting etcd "+in.Etcd, func(ctx context.Context) error { return etcdServes(ctx, in.Etcd) }); err != nil {
			return fmt.Errorf("%w: see /var/log/pods/kube-system_etcd-*", err)
		}
	}
	if err := within(ctx, apiStartPatience, "starting the API server "+in.Kubernetes, func(ctx context.Context) error { return apiServes(ctx, in.Kubernetes) }); err != nil {
		return fmt.Errorf("%w: see /var/log/pods/kube-system_kube-apiserver-*", err)
	}
	for _, port := range []string{"10257", "10259"} { // of the controller manager and the scheduler
		if err := within(ctx, kubeletPatience, "starting the controller manager and the scheduler", func(ctx context.Context) error { return healthy(ctx, "https://127.0.0.1:"+port+"/healthz") }); err != nil {
			return fmt.Errorf("%w: see /var/log/pods/kube-system_kube-*", err)
		}
	}
	return nil
}

// stopStaticPods ends the containers of the static pods while their kubelet is stopped: the API server first, and then what it uses
// and what uses it. A member of etcd that is not replaced goes on.
func stopStaticPods(ctx context.Context, member bool) error {
	others := []string{facts.ControllerManager, facts.Scheduler}
	if member {
		others = append(others, "etcd")
	}
	for _, group := range []struct {
		grace time.Duration
		pods  []string
	}{{apiStopGrace, []string{"kube-apiserver"}}, {stopGrace, others}} {
		var ids []string
		for _, pod := range group.pods {
			running, err := containerd.IDs(ctx, pod)
			if err != nil {
				return err
			}
			ids = append(ids, running...)
		}
		if err := containerd.Stop(ctx, ids, group.grace); err != nil {
			return err
		}
	}
	return nil
}

const (
	// leaseLimit ends the renewal of a lease for a kubelet that does not come back.
	leaseLimit = 10 * time.Minute
	leasePace  = time.Second
)

// keepAlive renews the lease of a node for a kubelet that is stopped on purpose, through any API server, until ctx is done.
func keepAlive(ctx context.Context, node string) error {
	config, err := clientcmd.BuildConfigFromFlags("", adminConf)
	if err != nil {
		return fmt.Errorf("reading %s: %w", adminConf, err)
	}
	config.Timeout, config.Proxy = 2*time.Second, host.Direct
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leaseLimit)
	go func() {
		defer cancel()
		tick := time.NewTicker(leasePace)
		defer tick.Stop()
		for {
			patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
			// One that fails is followed by the next.
			_, _ = client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return nil
}

// within waits until a check succeeds. What the check said last is in the error.
func within(ctx context.Context, patience time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s took longer than %s", what, patience))
	defer cancel()
	return poll(ctx, func() (bool, error) { err := check(ctx); return err == nil, err })
}

// AwaitKubelet waits until the kubelet says that it is healthy.
func AwaitKubelet(ctx context.Context) error {
	err := within(ctx, kubeletPatience, "starting the kubelet", func(ctx context.Context) error { return healthy(ctx, "http://127.0.0.1:10248/healthz") })
	if err != nil {
		return fmt.Errorf("%w: see journalctl -u kubelet", err)
	}
	return nil
}

// etcdServes says whether the member on this host runs the version and has a leader.
func etcdServes(ctx context.Context, version string) error {
	body, err := ofEtcd(ctx, hostconfig.EtcdMetrics)
	if err != nil {
		return err
	}
	if have := serverVersion(string(body)); have != strings.TrimPrefix(version, "v") {
		return fmt.Errorf("etcd %s runs", have)
	}
	_, err = ofEtcd(ctx, hostconfig.EtcdReady)
	return err
}

// ofEtcd gets a page of the member on this host. On IPv6 hosts of an adopted cluster, it is at the other loopback address, where kubeadm has it.
func ofEtcd(ctx context.Context, url string) ([]byte, error) {
	body, err := get(ctx, url)
	if err == nil {
		return body, nil
	}
	if six, other := get(ctx, strings.Replace(url, "127.0.0.1", "[::1]", 1)); other == nil {
		return six, nil
	}
	return body, err
}

// serverVersion finds etcd's version among its metrics.
func serverVersion(metrics string) string {
	lines := bufio.NewScanner(strings.NewReader(metrics))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), `etcd_server_version{server_version="`); ok {
			version, _, _ := strings.Cut(rest, `"`)
			return version
		}
	}
	return ""
}

// localAPI is an administrator's client of the API server on this host.
func localAPI() (*kubernetes.Clientset, error) {
	server, err := beside()
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags(server, adminConf)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", adminConf, err)
	}
	config.Timeout, config.Proxy = 5*time.Second, host.Direct
	return kubernetes.NewForConfig(config)
}

// apiServes says whether the API server on this host runs the version and is ready.
func apiServes(ctx context.Context, version string) error {
	client, err := localAPI()
	if err != nil {
		return err
	}
	have, err := client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	if have.GitVersion != version {
		return fmt.Errorf("the API server %s runs", have.GitVersion)
	}
	return apiReady(ctx)
}

// apiReady says whether the API server on this host is ready.
func apiReady(ctx context.Context) error {
	client, err := localAPI()
	if err != nil {
		return err
	}
	return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

func healthy(ctx context.Context, url string) error {
	_, err := get(ctx, url)
	return err
}

// get asks a program on this host. Its certificate is its own: nothing but this host answers on the loopback address.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // loopback only
		DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}
	resp, err := (&http.Client{Timeout: 5 * time.Second, Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}

// PrepareKubelet writes the configuration of a worker's kubelet as the cluster has it, with the kubeadm of the version that is to run.
// The kubelet reads it when it starts next. The request is the configuration of kubeadm's upgrade.
var PrepareKubelet = host.DefineChange("kubeadm.prepare-kubelet", func(ctx context.Context, config string) (struct{}, error) {
	if err := runKubeadm(ctx, config, "upgrade", "node", "phase", "kubelet-config"); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, tighten()
})

// KubeletRestarted waits until a kubelet that was restarted works.
var KubeletRestarted = host.Define("kubeadm.kubelet-restarted", func(ctx context.Context, _ struct{}) (struct{}, error) {
	if err := AwaitKubelet(ctx); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, durable.Remove(facts.KubeletSettingsDue)
})

// ClusterUpgrade is what kubeadm does once for a whole cluster.
type ClusterUpgrade struct {
	Config  string // kubeadm's, with the version that runs
	Upgrade string // of kubeadm's upgrade
}

// UpgradeCluster brings kubeadm's configuration in the API, its roles, kube-proxy and CoreDNS to the version of the control planes.
var UpgradeCluster = host.DefineChange("kubeadm.upgrade-cluster", func(ctx context.Context, in ClusterUpgrade) (struct{}, error) {
	for _, phase := range []string{"upload-config kubelet", "bootstrap-token", "addon coredns", "addon kube-proxy", "post-upgrade"} {
		if err := runKubeadm(ctx, in.Upgrade, append([]string{"upgrade", "apply", "phase"}, strings.Fields(phase)...)...); err != nil {
			return struct{}{}, err
		}
	}
	// The version in the API comes last: it says that everything before it is done.
	return struct{}{}, runKubeadm(ctx, in.Config, strings.Fields("init phase upload-config kubeadm")...)
}, host.Secret)
