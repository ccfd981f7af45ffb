package step

import (
	"context"
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/plan"
	kubeadmconfig "quorate.dev/quorate/internal/render/kubeadm"
	"quorate.dev/quorate/internal/spec"
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
	e.mu.Lock()
	defer e.mu.Unlock()
	e.client = nil // admin.conf may have another certificate
	return err
}

// reissueKubelet gives a kubelet that works new certificates, and restarts it. The note that it has to restart comes first: if the step is
// interrupted, it is repeated.
func reissueKubelet(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.KubeletIsDue.On(ctx, c, struct{}{}); err != nil {
		return err
	}
	for name, usage := range map[string]kubeadmconfig.Usage{facts.KubeletClient: kubeadmconfig.Client, facts.KubeletServer: kubeadmconfig.Serving} {
		if slices.Contains(s.Certificates, name) {
			if err := certify(ctx, e, s, usage); err != nil {
				return err
			}
		}
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.RestartKubelet.Make(ctx, c, permit, struct{}{}); err != nil {
		return err
	}
	if _, err := kubeadm.KubeletRestarted.On(ctx, c, struct{}{}); err != nil {
		return err
	}
	return e.nodeIsReady(ctx, s.Host)
}

// restartPrograms restarts static pods. Where they are to start again only because nothing works, nobody waits for them here.
func restartPrograms(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	in := kubeadm.RestartRequest{Pods: s.Pods, Kubelet: len(s.Restart) > 0, Await: s.Change.Verb == cluster.Restart}
	if in.Await && slices.Contains(s.Pods, facts.APIServer) && len(e.Cluster.HostsWith(spec.RoleControlPlane)) > 1 {
		in.Node = s.Host
	}
	_, err = kubeadm.RestartPrograms.Make(ctx, c, permit, in)
	return err
}

// servingExpired says that the certificate with which a kubelet serves had expired when the cluster was observed.
func (e *Env) servingExpired(host string) bool {
	f := e.Seen.Hosts[host].Facts
	return f != nil && slices.ContainsFunc(f.Kubernetes.Certificates, func(c facts.Certificate) bool {
		return c.Name == facts.KubeletServer && !c.Expires.After(e.Seen.Time)
	})
}
