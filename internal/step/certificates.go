package step

import (
	"context"
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/plan"
)

// renewCertificates signs new certificates on a host. Keys stay where they are.
func renewCertificates(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.RenewCertificates.Make(ctx, c, permit, kubeadm.RenewRequest{Names: s.Certificates, Lifetime: time.Duration(s.LifetimeSeconds) * time.Second,
		Await: s.Change.Verb == cluster.Restart})
	return err
}

// restartPrograms restarts static pods. Where they are to start again only because nothing works, nobody waits for them here.
func restartPrograms(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.RestartPrograms.Make(ctx, c, permit, kubeadm.RestartRequest{Pods: s.Pods, Await: s.Change.Verb == cluster.Restart})
	return err
}

// servingExpired says that the certificate with which a kubelet serves had expired when the cluster was observed.
func (e *Env) servingExpired(host string) bool {
	f := e.Seen.Hosts[host].Facts
	return f != nil && slices.ContainsFunc(f.Kubernetes.Certificates, func(c facts.Certificate) bool {
		return c.Name == facts.KubeletServer && !c.Expires.After(e.Seen.Time)
	})
}
