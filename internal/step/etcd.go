package step

import (
	"context"
	"errors"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

func makeEtcdPKI(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	config, err := e.kubeadm().EtcdHost(h)
	if err != nil {
		return err
	}
	pki, err := kubeadm.MakeEtcdPKI.On(ctx, c, string(config))
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.etcdPKI = pki
	return nil
}

func startEtcd(ctx context.Context, e *Env, s plan.Step) error {
	_, c, config, token, err := e.etcdHost(s)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.StartEtcd.Make(ctx, c, permit, kubeadm.EtcdStart{Config: config, Etcd: hostconfig.ExternalEtcd(e.Cluster, token)})
	return err
}

// setEtcdTimers restarts a member of an external etcd with other timers.
func setEtcdTimers(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	for _, file := range s.Desired.Files {
		if _, err := kubeadm.SetEtcdTimers.Make(ctx, c, permit, file.Content); err != nil {
			return err
		}
	}
	return nil
}

// etcdHost is what an etcd host starts its member with: kubeadm's configuration, and the token of this external etcd.
func (e *Env) etcdHost(s plan.Step) (h spec.Host, c *host.Conn, config, token string, err error) {
	if h, c, err = e.target(s); err != nil {
		return h, c, "", "", err
	}
	raw, err := e.kubeadm().EtcdHost(h)
	if err != nil {
		return h, c, "", "", err
	}
	ca, err := e.etcdCA()
	if err != nil {
		return h, c, "", "", err
	}
	token, err = hostconfig.EtcdToken(e.Cluster.Metadata.Name, ca, e.backupID())
	return h, c, string(raw), token, err
}

// etcdCA is the certificate of an external etcd's authority, from this run or from an etcd host that has it.
func (e *Env) etcdCA() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ca := e.etcdPKI[facts.EtcdPKI[0]]; len(ca) > 0 {
		return string(ca), nil
	}
	for _, h := range e.Cluster.EtcdHosts() {
		if f := e.Seen.Hosts[h.Name].Facts; f != nil && f.Kubernetes.EtcdCA != "" {
			return f.Kubernetes.EtcdCA, nil
		}
	}
	return "", errors.New("no etcd host has etcd's CA certificate yet")
}

// shareEtcdClient gives a control plane etcd's client certificate: one that etcd's hosts made, or the caller's own.
func shareEtcdClient(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	e.mu.Lock()
	client := e.etcdPKI.Client()
	e.mu.Unlock()
	if s.Detail != "" { // the host whose certificate was renewed
		source, err := e.Conns.Get(s.Detail)
		if err != nil {
			return err
		}
		if client, err = kubeadm.TakeEtcdClient.On(ctx, source, struct{}{}); err != nil {
			return err
		}
	}
	if e.Cluster.ExistingEtcd() {
		if client, err = etcd.Files(e.Cluster.Spec.Etcd); err != nil {
			return err
		}
	}
	_, err = kubeadm.WriteEtcdClient.On(ctx, c, client)
	return err
}

func claimEtcd(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	ca, err := e.ca()
	if err != nil {
		return err
	}
	_, err = etcd.Claim.On(ctx, c, etcd.ClaimRequest{Endpoints: e.Cluster.Spec.Etcd.Endpoints, Owner: facts.EtcdOwner(e.Cluster.Metadata.Name, ca)})
	return err
}
