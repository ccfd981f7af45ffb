package plan

import (
	"maps"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how a control plane, or a member of an external etcd, that died while the version changes is replaced. The margins are
// restored first: without it, no other one could be spared for a restart. The new host joins with the version that the others are
// brought to, so that it is not replaced once more: a newer member of etcd may join older ones, and an older one joins when the
// data of etcd has been brought to its version (see convertEtcd).

// comes says that the host is to get a control plane, or a member of an external etcd, and has none yet.
func (b *builder) comes(h spec.Host) bool {
	f := b.Facts(h.Name)
	return f != nil && (h.Has(spec.RoleControlPlane) && !f.Kubernetes.KubeletConfig || b.c.ManagedEtcd() && h.Has(spec.RoleEtcd) && !f.Kubernetes.EtcdData)
}

// heals says that a host that is to come may do so while the version changes: another one died, or the machine that had its name, or
// the version is halfway and the hosts that are left cannot be spared.
func (b *builder) heals(h spec.Host) bool {
	_, had := b.Member(h.Name)
	return had || b.Node(h.Name) != nil || b.halfway() || slices.ContainsFunc(b.dead(), func(d spec.Host) bool {
		return d.Has(spec.RoleControlPlane) && h.Has(spec.RoleControlPlane) || d.Has(spec.RoleEtcd) && h.Has(spec.RoleEtcd)
	})
}

// halfway says that a part of the cluster that is replaced in turn runs the version already, and another one does not.
func (b *builder) halfway() bool {
	have := map[bool]bool{}
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if v := b.Runs(h.Name, facts.APIServer); v != "" {
			have[v == b.bundle.Version] = true
		}
	}
	for _, h := range b.c.EtcdHosts() {
		if f := b.Facts(h.Name); f != nil && b.c.ManagedEtcd() && b.Runs(h.Name, "etcd") != "" {
			have[b.switchedEtcd(h)] = true // releases of Kubernetes can have the same etcd
		}
	}
	if k := b.Seen.API.Kubeadm; k != nil && k.Version != "" {
		have[k.Version == b.bundle.Version] = true
	}
	return len(have) > 1
}

// begun says that an earlier run has begun to bring the cluster to the bundle's version, also where it only switched a program of a control plane
// or of an etcd host to the bundle.
func (b *builder) begun() bool {
	return b.BeginsWith(b.bundle.Version) || slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool {
		f := b.Facts(h.Name)
		if f == nil || b.comes(h) || !h.Has(spec.RoleControlPlane) && !h.Has(spec.RoleEtcd) {
			return false
		}
		return slices.Contains(slices.Collect(maps.Values(f.Programs)), b.bundleFor(f))
	})
}

// hasLeft says that a host that leaves is no part of the cluster any more, although it carries one: it was removed while it was down.
func (b *builder) hasLeft(h spec.Host) bool {
	_, member := b.Member(h.Name)
	return !member && b.Node(h.Name) == nil
}

// heal has the hosts join that are to come. It comes after the data of etcd was brought to the version.
func (b *builder) heal(pki, etcdPKI, remembered *Step) error {
	if !slices.ContainsFunc(b.c.Spec.Hosts, b.comes) {
		return nil
	}
	if err := b.joinEtcd(); err != nil {
		return err
	}
	b.setEtcdServers(b.replacesSettings)
	b.shareEtcdClient(pki, etcdPKI)
	var stored *Step
	if k := b.Seen.API.Kubeadm; k != nil && differs(k.Version, b.bundle.Version) && slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), b.comes) {
		stored = b.add(Step{Kind: StoreVersion, Title: "have control planes join with " + b.bundle.Version, Record: b.bundle.Version,
			Reason: "kubeadm's configuration in the cluster says " + k.Version + ", and the host that replaces another one joins with the version that all will run"}, b.all()...)
	}
	token := b.makeToken(remembered, stored)
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if err := b.joinControlPlane(h, pki, token); err != nil {
			return err
		}
	}
	for _, h := range b.c.Spec.Hosts {
		if join := b.at[h.Name].join; join != nil {
			if h.Has(spec.RoleControlPlane) {
				join.Change.Kubernetes = b.bundle.Version
			}
			if join.Change.Part == cluster.EtcdMember || b.c.StackedEtcd() {
				join.Change.Etcd = b.bundle.Etcd
			}
		}
	}
	b.removeTokens(token)
	return nil
}
