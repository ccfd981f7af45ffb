package plan

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// startEtcd plans the first start of the members of an external etcd: all together, because each waits for a majority.
func (b *builder) startEtcd(pki *Step) (started []*Step) {
	if !b.c.ManagedEtcd() {
		return nil
	}
	hosts := b.c.EtcdHosts()
	for _, h := range hosts {
		f, at := b.Facts(h.Name), b.at[h.Name]
		if f.Kubernetes.EtcdData && f.Units[hostconfig.EtcdUnit] == "active" {
			continue
		}
		started = append(started, b.add(Step{Kind: StartEtcd, Host: h.Name, Title: "start etcd", Change: change(cluster.Create, cluster.EtcdMember, h.Name),
			Reason: fmt.Sprintf("it is one of %d members that start together, as one cluster", len(hosts))}, append(b.ofKind(RestoreEtcd), at.bundle, at.configure, at.etcdPKI, pki)...))
	}
	return started
}

// withoutEtcdClient are the control planes that lack what they need for an external etcd, or have what was replaced.
func (b *builder) withoutEtcdClient() (out []spec.Host) {
	if b.c.StackedEtcd() {
		return nil
	}
	ca, clients, all := b.etcdClients()
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		f := b.Facts(h.Name)
		if f == nil || b.leftAsItIs(h) {
			continue
		}
		k := f.Kubernetes
		missing := k.EtcdClient == "" || k.EtcdCA == ""
		same := cluster.SameAuthority // its own authority is changed by a rotation alone
		if b.c.ExistingEtcd() {
			same = cluster.EqualAuthorities
		}
		replaced := all && (!slices.Contains(clients, k.EtcdClient) || !same(k.EtcdCA, ca))
		if missing || replaced {
			out = append(out, h)
		}
	}
	return out
}

// etcdClients are the client certificates that control planes may have, and whether these are all that exist. Each etcd host issues one.
// That of a host that leaves is not among them, because nobody renews it any more, and a host that has not joined has none yet.
func (b *builder) etcdClients() (ca string, clients []string, all bool) {
	if b.c.ExistingEtcd() {
		e := b.Seen.ExistingEtcd
		if e == nil || e.Error != "" {
			return "", nil, false
		}
		return e.CA, []string{e.Client}, true
	}
	all = true
	for _, h := range b.c.EtcdHosts() {
		f := b.Facts(h.Name)
		switch {
		case f == nil:
			all = false
		case f.Kubernetes.EtcdClient != "":
			ca = f.Kubernetes.EtcdCA
			clients = append(clients, f.Kubernetes.EtcdClient)
		case f.Kubernetes.EtcdData:
			all = false
		}
	}
	return ca, clients, all && len(clients) > 0
}

// shareEtcdClient plans how the client certificate reaches the control planes. It comes after the shared keys: until a host
// has those, what an interrupted kubeadm left is removed there. Where this run does not read etcd's keys, an etcd host gives its own
// client certificate.
func (b *builder) shareEtcdClient(pki, etcdPKI *Step) {
	source := ""
	if b.c.ManagedEtcd() && etcdPKI == nil {
		if source = b.validEtcdClient(); source == "" {
			return
		}
	}
	for _, h := range b.withoutEtcdClient() {
		reason := "its API server needs etcd's CA and a client certificate"
		if b.Facts(h.Name).Kubernetes.EtcdClient != "" {
			reason = "the client certificate for etcd, or etcd's CA, was replaced"
		}
		at := b.at[h.Name]
		at.etcdClient = b.copyEtcdClient(h, source, reason, at.pki, pki, etcdPKI)
	}
}

// claimEtcd plans that an existing etcd is marked as this cluster's before the first API server writes to it.
func (b *builder) claimEtcd() *Step {
	if !b.c.ExistingEtcd() {
		return nil
	}
	first := b.c.HostsWith(spec.RoleControlPlane)[0].Name
	if probe := b.Seen.Hosts[first].EtcdProbe; b.CA() != "" && probe != nil && probe.Owner == facts.EtcdOwner(b.c.Metadata.Name, b.CA()) {
		return nil
	}
	at := b.at[first]
	return b.add(Step{Kind: ClaimEtcd, Host: first, Title: "claim the existing etcd", Reason: "two clusters on one etcd would overwrite each other"},
		append(b.ofKind(MakePKI), at.etcdClient, at.pki)...)
}

func memberNames(all []facts.EtcdMember) string {
	var names []string
	for _, m := range all {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}
