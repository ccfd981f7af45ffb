package plan

import (
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file plans that kubelets do not restart API servers because of etcd (hostconfig.LivePath). The probes are in the manifests, which kubeadm
// writes with the patches on the host, so nothing has to be stored in the cluster. What is left to do follows from the manifests.

// probesEtcd says that the kubelet of a control plane restarts its API server while etcd does not answer. The static pods of adopted hosts stay
// as they are.
func (b *builder) probesEtcd(h spec.Host) bool {
	return b.joined(h) && b.Facts(h.Name).Kubernetes.ProbesEtcd
}

// changesProbes says that the plan replaces static pods to change that. A repair changes no setting.
func (b *builder) changesProbes() bool {
	return !b.repairs && b.Seen.API != nil && slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), b.probesEtcd) && b.delaysRestarts() == ""
}

// staleProbes is why the API server of a control plane is replaced because of its probes; empty if it is not.
func (b *builder) staleProbes(h spec.Host) []string {
	if !b.probesEtcd(h) || !b.changesProbes() {
		return nil
	}
	return []string{"the kubelet restarts " + facts.APIServer + " while etcd does not answer (its liveness and startup probes)"}
}

// warnOfProbes says that kubelets still restart API servers after this run.
func (b *builder) warnOfProbes() {
	stale := slices.DeleteFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool { return !b.probesEtcd(h) })
	if len(stale) == 0 {
		return
	}
	if why := b.delaysRestarts(); why != "" {
		b.out.Warnings = append(b.out.Warnings, "kubelets restart the API servers of "+cluster.List(cluster.Names(stale))+" while etcd does not answer, and stop doing so only after another `quorate apply`: "+why)
	}
}
