// Package kubeadm runs kubeadm's phases, and what belongs to them, on a host. Package render/kubeadm renders their
// configuration.
package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/kubeadm"
)

// KubeletRequest is what a control plane's kubelet starts with.
type KubeletRequest struct {
	Config string // of Init
	// Server is the URL at which the kubelet finds the API at first; empty for the local API server.
	Server string
	// Etcd is the new stacked etcd; without members, etcd is external.
	Etcd hostconfig.EtcdCluster
	// Initialises says that InitCluster will run on this host: it needs super-admin.conf, which no other control plane gets.
	Initialises bool
}

// skippedPhases are those phases of kubeadm init that StartKubelet leaves out: everything that needs a running API comes later,
// and preflight was done on all hosts before anything was changed.
func skippedPhases(initialises bool) string {
	skip := "--skip-phases=preflight,control-plane,kubelet-start,wait-control-plane,upload-config,upload-certs,mark-control-plane,bootstrap-token," +
		"kubelet-finalize,addon,show-join-command"
	if !initialises {
		skip += ",kubeconfig/super-admin"
	}
	return skip
}

// StartKubelet runs kubeadm's phases on one control plane of a new cluster: leaf certificates, kubeconfigs, a stacked
// etcd's manifest, and the kubelet. It does not wait for others, so all control planes do it at the same time. It refuses to
// start an etcd member on a host that has, or had, one of another cluster.
var StartKubelet = host.DefineChange("kubeadm.start-kubelet", func(ctx context.Context, in KubeletRequest) (struct{}, error) {
	if err := mend(kubernetesDir, kubeletConfig); err != nil {
		return struct{}{}, err
	}
	if len(in.Etcd.Members) > 0 {
		if err := beginEtcd(etcd.Local, in.Etcd); err != nil {
			return struct{}{}, err
		}
	}
	if err := runKubeadm(ctx, in.Config, "init", skippedPhases(in.Initialises)); err != nil {
		return struct{}{}, err
	}
	if err := separateKubeletCertificate(time.Now()); err != nil {
		return struct{}{}, err
	}
	server := in.Server
	if server == "" {
		var err error
		if server, err = beside(); err != nil {
			return struct{}{}, err
		}
	}
	// Always, because an earlier run may have decided otherwise.
	if err := turnKubelet(server); err != nil {
		return struct{}{}, err
	}
	if err := useAdmin(); err != nil {
		return struct{}{}, err
	}
	// The kubelet's configuration comes last: it says that everything before it is complete.
	if err := startKubelet(ctx, in.Config); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, tighten()
}, host.Secret, host.Secret)

// beginEtcd allows a member of a new cluster to start on this host, with its guard open as long as it has no data.
func beginEtcd(m etcd.Member, as hostconfig.EtcdCluster) error {
	if err := m.MayBegin(as); err != nil {
		return err
	}
	if m.HasData() {
		return m.Guard()
	}
	return m.Open()
}

// ControlPlaneRequest is what a control plane starts with.
type ControlPlaneRequest struct {
	Config string // of Init
	// Node is the name of the host's node, which should be Ready first if it is within Patience; 0 means not to wait.
	Node     string
	Patience time.Duration
	// ServerFirst is how long the API server may take until it serves. Only then do the controller manager and the scheduler
	// start. If it is 0, they start with it.
	ServerFirst time.Duration
}

// StartControlPlane writes the manifests of a control plane's API server, controller manager and scheduler for the kubelet
// that runs there: all of them together, or the API server's first.
var StartControlPlane = host.DefineChange("kubeadm.start-control-plane", func(ctx context.Context, in ControlPlaneRequest) (struct{}, error) {
	if in.Patience > 0 {
		if err := awaitReady(ctx, in.Node, in.Patience); err != nil {
			return struct{}{}, err
		}
	}
	if err := prepareAuditLog(); err != nil {
		return struct{}{}, err
	}
	if in.ServerFirst > 0 {
		if err := runKubeadm(ctx, in.Config, "init", "phase", "control-plane", "apiserver"); err != nil {
			return struct{}{}, err
		}
		if _, err := awaitLocalAPI(ctx, NodeRequest{Name: in.Node, Patience: in.ServerFirst}); err != nil {
			return struct{}{}, err
		}
		// Not "all": the manifest of an API server that serves is not written again.
		if err := runKubeadm(ctx, in.Config, "init", "phase", "control-plane", "controller-manager"); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, runKubeadm(ctx, in.Config, "init", "phase", "control-plane", "scheduler")
	}
	return struct{}{}, runKubeadm(ctx, in.Config, "init", "phase", "control-plane", "all")
}, host.Secret, host.Secret)

// WorkerRequest is what a worker of a new cluster starts with, in addition to the certificates of InstallCertificate.
type WorkerRequest struct {
	Config     string // of Worker
	Kubeconfig string // of Kubelet
	CA         string // PEM
}

// StartWorker starts the kubelet of a worker that has its certificates: it requests none.
var StartWorker = host.DefineChange("kubeadm.start-worker", func(ctx context.Context, in WorkerRequest) (struct{}, error) {
	if err := mend(kubernetesDir, kubeletConfig); err != nil {
		return struct{}{}, err
	}
	if err := durable.WriteFile(filepath.Join(pkiDir, "ca.crt"), []byte(in.CA), 0o644); err != nil {
		return struct{}{}, err
	}
	if err := durable.WriteFile(kubeletKubeconfig, []byte(in.Kubeconfig), 0o600); err != nil {
		return struct{}{}, err
	}
	if err := startKubelet(ctx, in.Config); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, tighten()
}, host.Secret, host.Secret)

// startKubelet runs the phase of kubeadm that stops the kubelet, writes its files, and starts it.
func startKubelet(ctx context.Context, config string) error {
	return kubeadmCommand{args: []string{"init", "phase", "kubelet-start"}, inputs: []string{config}, finish: true}.run(ctx)
}

// InitCluster runs the phases that talk to the API. kubeadm itself waits until the local API server is healthy. The host is
// the one that keeps super-admin.conf, as with plain kubeadm init: kubeadm uses it to bind the administrator's role, and
// people can use it if RBAC is broken.
var InitCluster = host.Define("kubeadm.init-cluster", func(ctx context.Context, config string) (struct{}, error) {
	if pkifile.Kubeconfig(superAdminConf) != nil { // an earlier run planned another host for this
		if err := remove(superAdminConf); err != nil {
			return struct{}{}, err
		}
		if err := runKubeadm(ctx, config, "init", "phase", "kubeconfig", "super-admin"); err != nil {
			return struct{}{}, err
		}
	}
	err := runKubeadm(ctx, config, "init",
		"--skip-phases=preflight,certs,kubeconfig,etcd,control-plane,kubelet-start,kubelet-finalize,upload-config/kubeadm,upload-certs,addon,show-join-command")
	if err != nil {
		return struct{}{}, err
	}
	// Not with the others: what kubeadm uploads while it skips the addons says that they are disabled, and no upgrade would change them.
	return struct{}{}, runKubeadm(ctx, config, strings.Fields("init phase upload-config kubeadm")...)
}, host.Secret, host.Secret)

// InstallAddons installs kube-proxy and CoreDNS.
var InstallAddons = host.Define("kubeadm.install-addons", func(ctx context.Context, config string) (struct{}, error) {
	return struct{}{}, runKubeadm(ctx, config, "init", "phase", "addon", "all")
}, host.Secret, host.Secret)

// separateKubeletCertificate moves the client certificate that kubeadm embeds into kubelet.conf to where the kubelet
// rotates it. kubeadm does the same at the end of init and then restarts the kubelet; doing it before the first start
// saves that restart and a certificate signing request.
func separateKubeletCertificate(now time.Time) error {
	config, err := clientcmd.LoadFromFile(kubeletKubeconfig)
	if err != nil {
		return fmt.Errorf("reading %s: %w", kubeletKubeconfig, err)
	}
	for _, user := range config.AuthInfos {
		if len(user.ClientCertificateData) == 0 {
			continue // done by an earlier run
		}
		pair := append(append([]byte{}, user.ClientCertificateData...), user.ClientKeyData...)
		link, err := storePair(kubeadm.KubeletPKI, kubeadm.Client, pair, now)
		if err != nil {
			return err
		}
		user.ClientCertificateData, user.ClientKeyData = nil, nil
		user.ClientCertificate, user.ClientKey = link, link
	}
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return durable.WriteFile(kubeletKubeconfig, content, 0o600)
}

const (
	adminConf      = kubernetesDir + "/admin.conf"
	superAdminConf = kubernetesDir + "/super-admin.conf"
)

// Admin returns the host's admin kubeconfig.
var Admin = host.Define("kubeadm.admin", func(_ context.Context, _ struct{}) ([]byte, error) {
	return os.ReadFile(adminConf)
}, host.Reads)

// useAdmin configures kubectl for root. It creates a link, because a copy would expire while kubeadm renews the original. An
// existing kubeconfig is kept.
func useAdmin() error {
	const own = "/root/.kube/config"
	if _, err := os.Stat(adminConf); errors.Is(err, os.ErrNotExist) {
		return nil // a worker
	}
	if err := os.MkdirAll(filepath.Dir(own), 0o750); err != nil {
		return err
	}
	if err := os.Symlink(adminConf, own); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("giving root's kubectl a configuration: %w", err)
	}
	return nil
}
