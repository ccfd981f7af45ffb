package step

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/hostside/repairs"
	"quorate.dev/quorate/internal/plan"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
)

// This file is what only repairs do.

func compactEtcd(ctx context.Context, e *Env, _ plan.Step) error {
	return etcd.Compact(ctx, e.otherMembers(""))
}

// defragmentEtcd rewrites the database of one member. The next one is done when this one answers again.
func defragmentEtcd(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	if err := etcd.Defragment(ctx, etcd.On(h.Name, h.Address, c, nil, e.Seen)); err != nil {
		return err
	}
	_, err = kubeadm.AwaitEtcd.On(ctx, c, struct{}{})
	return err
}

func endAlarms(ctx context.Context, e *Env, s plan.Step) error {
	via := e.otherMembers("")
	switch s.Detail {
	case "nospace":
		return etcd.EndNoSpace(ctx, via)
	case "corrupt":
		return etcd.EndCorrupt(ctx, via, s.MemberID)
	}
	return etcd.EndStray(ctx, via)
}

// setEtcdAside keeps the data of a member that has left etcd. Observations read the list of members from one of them, which may lag, so
// a majority is asked right before.
func setEtcdAside(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	h, _ := e.Cluster.Host(s.Host)
	switch counts, err := etcd.HasMember(ctx, e.otherMembers(s.Host), h.Address); {
	case err != nil:
		return err
	case counts:
		return fmt.Errorf("etcd counts a member on %s: its data stays as it is", s.Host)
	}
	in := kubeadm.AsideRequest{Stacked: e.Cluster.StackedEtcd()}
	for _, m := range e.Seen.EtcdAbandoned {
		if m.Name == s.Host {
			in.Abandoned = m.ID
		}
	}
	where, err := kubeadm.SetEtcdAside.Make(ctx, c, permit, in)
	if err == nil && where != "" {
		e.report(s, "the data is kept in "+where)
	}
	return err
}

// storedConfig is kubeadm's configuration for a control plane that exists, as the cluster has it; only while the API cannot be read,
// the one that Quorate renders.
func (e *Env) storedConfig(ctx context.Context, s plan.Step) (h spec.Host, c *host.Conn, config string, _ error) {
	h, c, config, err := e.initConfig(s)
	if err != nil {
		return h, nil, "", err
	}
	client, err := e.api(ctx)
	if err != nil {
		return h, c, config, nil //nolint:nilerr // the API may be what is to be repaired
	}
	stored, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "kubeadm-config", metav1.GetOptions{})
	if err != nil {
		return h, c, config, nil //nolint:nilerr // the same
	}
	raw, err := kubeadmconfig.WithClusterConfiguration(h, stored.Data["ClusterConfiguration"])
	return h, c, string(raw), err
}

// restartUnit restarts a unit whose program does not answer.
func restartUnit(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	for _, unit := range s.Restart {
		if _, err := repairs.RestartUnit.Make(ctx, c, permit, unit); err != nil {
			return err
		}
	}
	return nil
}

func freeDisk(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	freed, err := repairs.FreeDisk.On(ctx, c, repairs.FreeRequest{Bundles: s.Bundles})
	e.report(s, fmt.Sprintf("%d MiB were freed", freed.Bytes>>20))
	if err != nil {
		return err
	}
	if freed.Stays != "" {
		e.report(s, "all blobs stay, because "+freed.Stays+". `quorate apply` brings the bundle again")
	}
	_, err = programs.Tidy.On(ctx, c, struct{}{}) // forgets what is gone
	return err
}
