package kubeadm

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// MakeEtcdPKI creates the CA of an external etcd on one of its hosts, unless it exists, and returns it with the client
// certificate for API servers. On a host with a member that has all of these files, it only reads them.
var MakeEtcdPKI = host.Define("kubeadm.make-etcd-pki", func(ctx context.Context, config string) (PKI, error) {
	names := slices.Concat(facts.EtcdPKI, facts.EtcdClientPKI)
	if pki, err := readPKI(names); err == nil && etcd.Local.HasData() {
		return pki, nil
	}
	if err := etcdCertificates(ctx, config); err != nil {
		return nil, err
	}
	return readPKI(names)
}, host.Secret, host.Secret)

// etcdCertificates runs kubeadm's phases for an etcd host in one process. Existing files are kept.
func etcdCertificates(ctx context.Context, config string) error {
	if err := mend(kubernetesDir, kubeletConfig); err != nil {
		return err
	}
	return runKubeadm(ctx, config, "init", "--skip-phases=preflight,certs/ca,certs/apiserver,certs/apiserver-kubelet-client,"+
		"certs/front-proxy-ca,certs/front-proxy-client,certs/etcd-healthcheck-client,certs/sa,kubeconfig,etcd,control-plane,kubelet-start,"+
		"wait-control-plane,upload-config,upload-certs,mark-control-plane,bootstrap-token,kubelet-finalize,addon,show-join-command")
}

// EtcdStart is the first start of an external etcd member.
type EtcdStart struct {
	Config string // of EtcdHost
	// Etcd is the new cluster.
	Etcd hostconfig.EtcdCluster
}

// etcdPatience is how long a new member may wait for a majority of the others.
const etcdPatience = 2 * time.Minute

// StartEtcd creates the member's certificates and starts it. It returns when the member has a leader, and so needs the others
// to start at the same time. It refuses to start a member on a host that has, or had, one of another cluster.
var StartEtcd = host.DefineChange("kubeadm.start-etcd", func(ctx context.Context, in EtcdStart) (struct{}, error) {
	if err := etcdCertificates(ctx, in.Config); err != nil {
		return struct{}{}, err
	}
	if err := etcd.Local.MayBegin(in.Etcd); err != nil {
		return struct{}{}, err
	}
	if err := durable.WriteFile(hostconfig.EtcdMembersFile, []byte(in.Etcd.Environment()), 0o600); err != nil {
		return struct{}{}, err
	}
	if err := system.Run(ctx, "systemctl", "enable", "--now", hostconfig.EtcdUnit); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, awaitEtcd(ctx)
}, host.Secret, host.Secret)

// JoinEtcd creates the certificates of a member that was added to an etcd that exists, as a learner, and starts it. It returns when
// the member runs; the caller promotes it.
var JoinEtcd = host.DefineChange("kubeadm.join-etcd", func(ctx context.Context, in EtcdStart) (struct{}, error) {
	if err := etcdCertificates(ctx, in.Config); err != nil {
		return struct{}{}, err
	}
	has, err := etcd.Local.Data()
	if err != nil {
		return struct{}{}, err
	}
	if !has {
		// If the host was part of a complete cluster and was cleared, it is not any more.
		if err := durable.Remove(facts.EstablishedFile); err != nil {
			return struct{}{}, err
		}
		if err := durable.WriteFile(hostconfig.EtcdMembersFile, []byte(in.Etcd.Environment()), 0o600); err != nil {
			return struct{}{}, err
		}
	}
	return struct{}{}, system.Run(ctx, "systemctl", "enable", "--now", hostconfig.EtcdUnit)
}, host.Secret, host.Secret)

// SetEtcdTimers restarts the member on this host with another environment file. It can be killed anywhere and run again.
var SetEtcdTimers = host.DefineChange("kubeadm.set-etcd-timers", func(ctx context.Context, environment string) (struct{}, error) {
	if err := durable.WriteFile(hostconfig.EtcdEnvFile, []byte(environment), 0o600); err != nil {
		return struct{}{}, err
	}
	if err := system.Systemctl(ctx, "restart", hostconfig.EtcdUnit); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, awaitEtcd(ctx)
})

// AwaitEtcd returns when the member on this host can read through a leader, which a learner cannot.
var AwaitEtcd = host.Define("kubeadm.await-etcd", func(ctx context.Context, _ struct{}) (struct{}, error) {
	return struct{}{}, awaitEtcd(ctx)
})

func awaitEtcd(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, etcdPatience, fmt.Errorf("etcd has no leader after %s", etcdPatience))
	defer cancel()
	client := &http.Client{Timeout: 2 * time.Second}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, hostconfig.EtcdReady, nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			// The end of the session says nothing about the member, and the member's own message is more useful than a
			// timeout.
			late, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer stop()
			out, _ := system.Output(late, "journalctl", "--unit", hostconfig.EtcdUnit, "--lines", "5", "--no-pager", "--output", "cat")
			return fmt.Errorf("%w; it last said: %s", context.Cause(ctx), strings.TrimSpace(string(out)))
		}
	}
}

// EtcdClient is what a client of etcd needs, in PEM.
type EtcdClient struct{ CA, Certificate, Key []byte }

// Client is the part of etcd's files that API servers get.
func (p PKI) Client() EtcdClient {
	return EtcdClient{CA: p[facts.EtcdPKI[0]], Certificate: p[facts.EtcdClientPKI[0]], Key: p[facts.EtcdClientPKI[1]]}
}

// ReadEtcdClient reads the client certificate with which API servers connect to etcd. Control planes have it in every
// topology, and so do the hosts of an external etcd.
var ReadEtcdClient = host.Define("kubeadm.etcd-client", func(context.Context, struct{}) (EtcdClient, error) { return LocalEtcdClient() }, host.Reads)

// TakeEtcdClient is ReadEtcdClient for a caller that gives the certificate and its key to another host.
var TakeEtcdClient = host.Define("kubeadm.take-etcd-client", func(context.Context, struct{}) (EtcdClient, error) { return LocalEtcdClient() }, host.Reads, host.Secret)

// LocalEtcdClient is ReadEtcdClient for operations that run on the host.
func LocalEtcdClient() (EtcdClient, error) {
	pki, err := readPKI(append(slices.Clone(facts.EtcdClientPKI), facts.EtcdPKI[0]))
	return pki.Client(), err
}

// WriteEtcdClient writes what a control plane's API server needs for an external etcd. The CA certificate is written last: if
// it exists, all three files do.
var WriteEtcdClient = host.Define("kubeadm.write-etcd-client", func(_ context.Context, in EtcdClient) (struct{}, error) {
	pki := PKI{facts.EtcdPKI[0]: in.CA, facts.EtcdClientPKI[0]: in.Certificate, facts.EtcdClientPKI[1]: in.Key}
	return struct{}{}, pki.put(pkiDir, facts.EtcdClientPKI[1], facts.EtcdClientPKI[0], facts.EtcdPKI[0])
}, host.Secret, host.Secret)
