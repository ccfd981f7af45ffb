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

// shareEtcdPKI plans how the certificate authority of an external etcd reaches every etcd host that lacks it, and this run,
// when control planes need a client certificate of it.
func (b *builder) shareEtcdPKI() *Step {
	if !b.c.ManagedEtcd() {
		return nil
	}
	source, reason := "", "etcd has its own CA, which does not exist yet"
	var lacking []spec.Host
	for _, h := range b.c.EtcdHosts() {
		switch f := b.Facts(h.Name); {
		case f == nil:
		case !f.Kubernetes.EtcdCAKey && f.Kubernetes.EtcdData && b.exists():
			// kubeadm's documentation keeps the authority's key on one host alone, and others keep it offline.
		case f.Kubernetes.EtcdCA == "" || !f.Kubernetes.EtcdCAKey:
			lacking = append(lacking, h)
		case source == "":
			source, reason = h.Name, "other hosts need the keys that it has"
		}
	}
	if len(lacking) == 0 && len(b.withoutEtcdClient()) == 0 {
		return nil
	}
	if source == "" {
		if len(lacking) == 0 {
			return nil // no etcd host that can be reached has the key
		}
		source = lacking[0].Name
	}
	made := b.add(Step{Kind: MakeEtcdPKI, Host: source, Title: "create etcd's keys", Reason: reason}, b.at[source].bundle)
	for _, h := range lacking {
		if h.Name != source {
			b.at[h.Name].etcdPKI = b.add(Step{Kind: ShareEtcdPKI, Host: h.Name, Title: "copy etcd's CA", Reason: "etcd's members trust one CA, whose key stays on their hosts"}, made)
		}
	}
	return made
}

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
			Reason: fmt.Sprintf("it is one of %d members that start together, as one cluster", len(hosts))}, at.bundle, at.configure, at.etcdPKI, pki))
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
		replaced := all && (!slices.Contains(clients, k.EtcdClient) || !cluster.SameCertificate(k.EtcdCA, ca))
		if missing || replaced {
			out = append(out, h)
		}
	}
	return out
}

// etcdClients are the client certificates that control planes may have, and whether these are all that exist.
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
		if f == nil || f.Kubernetes.EtcdClient == "" {
			all = false
			continue
		}
		ca = f.Kubernetes.EtcdCA
		clients = append(clients, f.Kubernetes.EtcdClient)
	}
	return ca, clients, all
}

// shareEtcdClient plans how the client certificate reaches the control planes. It comes after the shared keys: until a host
// has those, what an interrupted kubeadm left is removed there.
func (b *builder) shareEtcdClient(pki, etcdPKI *Step) {
	if b.c.ManagedEtcd() && etcdPKI == nil {
		return
	}
	for _, h := range b.withoutEtcdClient() {
		reason := "its API server needs etcd's CA and a client certificate"
		if b.Facts(h.Name).Kubernetes.EtcdClient != "" {
			reason = "the client certificate for etcd, or etcd's CA, was replaced"
		}
		at := b.at[h.Name]
		at.etcdClient = b.add(Step{Kind: ShareEtcdClient, Host: h.Name, Title: "copy etcd's client certificate", Reason: reason}, at.pki, pki, etcdPKI)
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
