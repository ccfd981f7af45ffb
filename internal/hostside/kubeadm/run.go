// Package kubeadm runs kubeadm's phases, and what belongs to them, on a host. Package render/kubeadm renders their
// configuration.
package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/kubeadm"
)

// KubeletRequest is what a control plane's kubelet starts with.
type KubeletRequest struct {
	Config string // of Init
	// Server is the URL at which the kubelet finds the API at first; empty for the API server beside it.
	Server string
}

// StartKubelet runs kubeadm's phases on one control plane of a new cluster: leaf certificates, kubeconfigs, a stacked
// etcd's manifest, and the kubelet. It does not wait for others, so all control planes do it at once.
var StartKubelet = host.DefineChange("kubeadm.start-kubelet", func(ctx context.Context, in KubeletRequest) (struct{}, error) {
	return struct{}{}, withConfig("start", in.Config, func(path string) error {
		if err := mend(kubernetesDir, kubeletConfig); err != nil {
			return err
		}
		// Everything that needs a running API comes later; preflight was done on all hosts before anything was changed.
		if err := run(ctx, "init", "--config", path, "--skip-phases=preflight,control-plane,kubelet-start,wait-control-plane,upload-config,"+
			"upload-certs,mark-control-plane,bootstrap-token,kubelet-finalize,addon,show-join-command"); err != nil {
			return err
		}
		if err := separateKubeletCertificate(time.Now()); err != nil {
			return err
		}
		server := in.Server
		if server == "" {
			var err error
			if server, err = beside(); err != nil {
				return err
			}
		}
		// In any case: an earlier run may have thought otherwise.
		if err := setServer(server); err != nil {
			return err
		}
		if err := useAdmin(); err != nil {
			return err
		}
		// The kubelet's configuration comes last: it says that everything before it is complete.
		if err := startKubelet(ctx, path); err != nil {
			return err
		}
		return tighten()
	})
}, host.Secret, host.Secret)

// ControlPlaneRequest is what a control plane starts with.
type ControlPlaneRequest struct {
	Config string // of Init
	// Node is the name of the host's node, which should be Ready first if it is within Patience; with 0 nothing is waited for.
	Node     string
	Patience time.Duration
}

// StartControlPlane writes the manifests of a control plane's API server, controller manager and scheduler for the kubelet
// that runs there.
var StartControlPlane = host.DefineChange("kubeadm.start-control-plane", func(ctx context.Context, in ControlPlaneRequest) (struct{}, error) {
	if in.Patience > 0 {
		if err := awaitReady(ctx, in.Node, in.Patience); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, withConfig("control-plane", in.Config, func(path string) error {
		if err := prepareAuditLog(); err != nil {
			return err
		}
		return run(ctx, "init", "phase", "control-plane", "all", "--config", path)
	})
}, host.Secret, host.Secret)

// WorkerRequest is what a worker of a new cluster starts with, beside the certificates of InstallCertificate.
type WorkerRequest struct {
	Config     string // of Worker
	Kubeconfig string // of Kubelet
	CA         string // PEM
}

// StartWorker starts the kubelet of a worker whose certificates are there: nothing has to be asked for or approved.
var StartWorker = host.DefineChange("kubeadm.start-worker", func(ctx context.Context, in WorkerRequest) (struct{}, error) {
	return struct{}{}, withConfig("start", in.Config, func(path string) error {
		if err := mend(kubernetesDir, kubeletConfig); err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(pkiDir, "ca.crt"), []byte(in.CA), 0o644); err != nil {
			return err
		}
		if err := durable.WriteFile(kubeletKubeconfig, []byte(in.Kubeconfig), 0o600); err != nil {
			return err
		}
		if err := startKubelet(ctx, path); err != nil {
			return err
		}
		return tighten()
	})
}, host.Secret, host.Secret)

// startKubelet runs the phase of kubeadm that stops the kubelet, writes its files, and starts it.
func startKubelet(ctx context.Context, config string) error {
	return finish(ctx, "init", "phase", "kubelet-start", "--config", config)
}

// InitCluster runs the phases that speak to the API. kubeadm itself waits until the local apiserver is healthy.
var InitCluster = host.Define("kubeadm.init-cluster", func(ctx context.Context, config string) (struct{}, error) {
	return struct{}{}, withConfig("init", config, func(path string) error {
		return run(ctx, "init", "--config", path,
			"--skip-phases=preflight,certs,kubeconfig,etcd,control-plane,kubelet-start,kubelet-finalize,upload-certs,addon,show-join-command")
	})
}, host.Secret, host.Secret)

// InstallAddons installs kube-proxy and CoreDNS.
var InstallAddons = host.Define("kubeadm.install-addons", func(ctx context.Context, config string) (struct{}, error) {
	return struct{}{}, withConfig("addons", config, func(path string) error {
		return run(ctx, "init", "phase", "addon", "all", "--config", path)
	})
}, host.Secret, host.Secret)

// JoinRequest is a host's way into an existing cluster.
type JoinRequest struct {
	Config       string
	Discovery    string
	ControlPlane bool
}

// DiscoveryFile is where Join puts the request's discovery kubeconfig for kubeadm to read.
const DiscoveryFile = "/run/quorate/discovery.yaml"

// Join runs kubeadm join.
var Join = host.DefineChange("kubeadm.join", func(ctx context.Context, in JoinRequest) (struct{}, error) {
	return struct{}{}, withConfig("discovery", in.Discovery, func(string) error {
		return withConfig("join", in.Config, func(path string) error {
			if err := mend(kubernetesDir, kubeletConfig); err != nil {
				return err
			}
			if in.ControlPlane {
				if err := prepareAuditLog(); err != nil {
					return err
				}
			}
			if err := run(ctx, "join", "--config", path, "--skip-phases=preflight"); err != nil {
				return err
			}
			return errors.Join(tighten(), useAdmin())
		})
	})
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

const adminConf = "/etc/kubernetes/admin.conf"

// Admin returns the host's admin kubeconfig.
var Admin = host.Define("kubeadm.admin", func(_ context.Context, _ struct{}) ([]byte, error) {
	return os.ReadFile(adminConf)
}, host.Reads)

// useAdmin lets root's kubectl speak to the cluster. A link, because a copy would expire while kubeadm renews the
// original; a kubeconfig that somebody else put there stays.
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
