package step

import (
	"context"
	"errors"
	"fmt"
	"time"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
)

// joinTimeout is how long a learner may take to get etcd's data and to catch up.
const joinTimeout = 10 * time.Minute

// joinEtcd adds a member to an external etcd: as a learner, which is promoted when it has caught up. Each part is skipped if it was
// done before.
func joinEtcd(ctx context.Context, e *Env, s plan.Step) error {
	h, c, config, token, err := e.etcdHost(s)
	if err != nil {
		return err
	}
	as := hostconfig.EtcdCluster{Exists: true, Token: token}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, joinTimeout, "joining etcd")
	defer cancel()
	via := e.otherMembers(s.Host)
	if as.Members, err = etcd.AddLearner(ctx, via, h.Name, spec.PeerURL(h.Address)); err != nil {
		return err
	}
	e.tellAbandoned(ctx, s, c)
	if _, err := kubeadm.JoinEtcd.Make(ctx, c, permit, kubeadm.EtcdStart{Config: config, Etcd: as}); err != nil {
		return err
	}
	if err := etcd.Promote(ctx, via, h.Name, h.Address, func(text string) { e.note(s, text) }); err != nil {
		return err
	}
	_, err = kubeadm.AwaitEtcd.On(ctx, c, struct{}{})
	return err
}

// storeEtcdServers changes the members in kubeadm's configuration of the cluster, and nothing else of it.
func storeEtcdServers(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	return changeStored(ctx, client, "kubeadm-config", "ClusterConfiguration", func(text string) (string, error) {
		return kubeadmconfig.WithEtcdServers(text, s.Servers)
	})
}

// serveTimeout is how long an API server may take to serve after a restart.
const serveTimeout = 3 * time.Minute

// setEtcdServers restarts a control plane's API server with other members of etcd, and waits until it serves.
func setEtcdServers(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.SetEtcdServers.Make(ctx, c, permit, s.Servers); err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, serveTimeout, "restarting the API server")
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		if a := e.observe(ctx).APIServer(s.Host); !a.OK {
			return fmt.Errorf("the API server on %s does not serve yet: %w", s.Host, errors.New(a.Problem+a.Unknown))
		}
		return nil
	})
}
