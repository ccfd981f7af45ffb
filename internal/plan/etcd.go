package plan

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

func (p *builder) etcdHostsAre() string {
	switch {
	case p.c.StackedEtcd():
		return "control planes"
	case p.c.ManagedEtcd():
		return "etcd hosts, and a control plane,"
	}
	return "members of your etcd, and a control plane,"
}

func (p *builder) joinReason() string {
	if p.c.StackedEtcd() {
		return "in the spec, not in the cluster; etcd takes one learner at a time"
	}
	return "in the spec, not in the cluster"
}

// lookAtEtcd refuses what cannot be planned with the etcd that there is.
func (p *builder) lookAtEtcd() error {
	for _, h := range p.c.HostsWith(spec.RoleControlPlane) {
		f := p.facts(h.Name)
		if f == nil || !p.established || !f.Kubernetes.KubeletConfig || len(f.Kubernetes.Manifests) == 0 {
			continue
		}
		if stacked := slices.Contains(f.Kubernetes.Manifests, "etcd"); stacked != p.c.StackedEtcd() {
			is := map[bool]string{true: spec.TopologyStacked, false: spec.TopologyExternal}
			return &Refusal{"one topology", fmt.Sprintf("the cluster's etcd is %s, as %s shows, and the spec asks for %s", is[stacked], h.Name, is[!stacked]),
				"A cluster keeps the topology that it was built with: put topology: " + is[stacked] + " back into the spec."}
		}
	}
	if p.c.ManagedEtcd() {
		return p.oneEtcdCA()
	}
	if p.c.ExistingEtcd() {
		return p.lookAtExistingEtcd()
	}
	return nil
}

func (p *builder) oneEtcdCA() error {
	owner, ca := "", ""
	for _, h := range p.c.Spec.Hosts {
		f := p.facts(h.Name)
		if f == nil || f.Kubernetes.EtcdCA == "" || !h.Has(spec.RoleEtcd) && !h.Has(spec.RoleControlPlane) {
			continue
		}
		if ca != "" && ca != f.Kubernetes.EtcdCA {
			return &Refusal{"one etcd", fmt.Sprintf("%s and %s belong to different etcds: their etcd CA certificates differ", owner, h.Name),
				"Take the one that does not belong here out of the spec, or clear it with quorate reset."}
		}
		ca, owner = f.Kubernetes.EtcdCA, h.Name
	}
	return nil
}

// shareEtcdPKI plans the way of etcd's authority to every host of an external etcd that lacks it, and to this run,
// when control planes need a client certificate of it.
func (p *builder) shareEtcdPKI() string {
	if !p.c.ManagedEtcd() {
		return ""
	}
	source, reason := "", "etcd has an authority of its own, and it is not there yet"
	var lacking []spec.Host
	for _, h := range p.c.EtcdHosts() {
		switch f := p.facts(h.Name); {
		case f == nil:
		case !f.Kubernetes.EtcdCAKey && p.leftAsItIs(h):
			// kubeadm's documentation keeps the authority's key on one host alone.
		case f.Kubernetes.EtcdCA == "" || !f.Kubernetes.EtcdCAKey:
			lacking = append(lacking, h)
		case source == "":
			source, reason = h.Name, "others need what it has"
		}
	}
	if len(lacking) == 0 && len(p.withoutEtcdClient()) == 0 {
		return ""
	}
	if source == "" {
		if len(lacking) == 0 {
			return "" // no etcd host can be reached
		}
		source = lacking[0].Name
	}
	made := id("", MakeEtcdPKI)
	p.out.Steps = append(p.out.Steps, Step{ID: made, Kind: MakeEtcdPKI, Host: source, Title: "make etcd's keys", Reason: reason, Needs: p.willHave(source)})
	for _, h := range lacking {
		if h.Name != source {
			p.add(Step{Kind: ShareEtcdPKI, Host: h.Name, Title: "hand over etcd's authority", Reason: "etcd's members trust one authority, whose key stays among them", Needs: []string{made}})
		}
	}
	return made
}

// startEtcd plans the first start of the members of an external etcd: all at once, because each waits for a majority.
func (p *builder) startEtcd(pki string) (ids []string) {
	if !p.c.ManagedEtcd() {
		return nil
	}
	hosts := p.c.EtcdHosts()
	for _, h := range hosts {
		f := p.facts(h.Name)
		if f.Kubernetes.EtcdData && f.Units[hostconfig.EtcdUnit] == "active" {
			continue
		}
		ids = append(ids, p.add(Step{Kind: StartEtcd, Host: h.Name, Title: "start etcd",
			Reason: fmt.Sprintf("one of %d members that start together, as one cluster from its first moment", len(hosts)),
			Needs:  p.present(id(h.Name, InstallBundle), id(h.Name, Configure), id(h.Name, ShareEtcdPKI), pki)}))
	}
	return ids
}

// withoutEtcdClient are the control planes that lack what they need for an external etcd, or have what was replaced.
func (p *builder) withoutEtcdClient() (out []spec.Host) {
	if p.c.StackedEtcd() {
		return nil
	}
	ca, clients, all := p.etcdClients()
	for _, h := range p.c.HostsWith(spec.RoleControlPlane) {
		f := p.facts(h.Name)
		if f == nil || p.leftAsItIs(h) {
			continue
		}
		k := f.Kubernetes
		missing := k.EtcdClient == "" || k.EtcdCA == ""
		replaced := all && (!slices.Contains(clients, k.EtcdClient) || k.EtcdCA != ca)
		if missing || replaced {
			out = append(out, h)
		}
	}
	return out
}

// etcdClients are the client certificates that control planes may have, and whether these are all that there are.
func (p *builder) etcdClients() (ca string, clients []string, all bool) {
	if p.c.ExistingEtcd() {
		e := p.obs.ExistingEtcd
		if e == nil || e.Error != "" {
			return "", nil, false
		}
		return e.CA, []string{e.Client}, true
	}
	all = true
	for _, h := range p.c.EtcdHosts() {
		f := p.facts(h.Name)
		if f == nil || f.Kubernetes.EtcdClient == "" {
			all = false
			continue
		}
		ca = f.Kubernetes.EtcdCA
		clients = append(clients, f.Kubernetes.EtcdClient)
	}
	return ca, clients, all
}

// shareEtcdClient plans the way of the client certificate to the control planes. It comes after the shared keys: until
// a host has those, kubeadm's leftovers are cleared away there.
func (p *builder) shareEtcdClient(pki, etcdPKI string) {
	if p.c.ManagedEtcd() && etcdPKI == "" {
		return
	}
	for _, h := range p.withoutEtcdClient() {
		reason := "its API server needs etcd's CA and a client certificate"
		if p.facts(h.Name).Kubernetes.EtcdClient != "" {
			reason = "the client certificate for etcd, or etcd's CA, was replaced"
		}
		p.add(Step{Kind: ShareEtcdClient, Host: h.Name, Title: "hand over etcd's client certificate", Reason: reason,
			Needs: p.present(id(h.Name, SharePKI), pki, etcdPKI)})
	}
}

// claimEtcd plans that an existing etcd is signed before the first API server writes into it.
func (p *builder) claimEtcd(pki string) []string {
	if !p.c.ExistingEtcd() {
		return nil
	}
	first := p.c.HostsWith(spec.RoleControlPlane)[0].Name
	if probe := p.obs.Hosts[first].EtcdProbe; p.ca != "" && probe != nil && probe.Owner == facts.EtcdOwner(p.c.Metadata.Name, p.ca) {
		return nil
	}
	return []string{p.add(Step{Kind: ClaimEtcd, Host: first, Title: "claim the existing etcd", Reason: "two clusters on one etcd would overwrite each other",
		Needs: p.present(id(first, ShareEtcdClient), id(first, SharePKI), pki)})}
}

// keepEtcdMembers refuses to change the membership of an external etcd.
func (p *builder) keepEtcdMembers() error {
	if !p.c.ManagedEtcd() || p.obs.Etcd == nil {
		return nil
	}
	hosts := p.c.EtcdHosts()
	for _, m := range p.obs.Etcd {
		if !slices.ContainsFunc(hosts, func(h spec.Host) bool { return h.Name == m.Name }) {
			return &Refusal{"no removals yet", fmt.Sprintf("etcd has the member %s, which the spec does not name", m.Name),
				"This quorate cannot remove etcd members yet: put it back into the spec."}
		}
	}
	for _, h := range hosts {
		f := p.facts(h.Name)
		if f == nil || f.Kubernetes.EtcdData {
			continue
		}
		if slices.ContainsFunc(p.obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == h.Name }) {
			return &Refusal{"no replacement yet", fmt.Sprintf("%s is empty, but etcd still has a member of that name", h.Name),
				"This quorate cannot replace a member of an external etcd yet: bring its disk back, or replace the member by hand (etcdctl member remove, then member add --learner)."}
		}
		return &Refusal{"no additions to etcd yet", fmt.Sprintf("%s is to be an etcd member, and the etcd of this cluster has %s", h.Name, members(p.obs.Etcd)),
			"This quorate cannot add members to an external etcd yet: take the host out of the spec again."}
	}
	return nil
}

func members(all []facts.EtcdMember) string {
	var names []string
	for _, m := range all {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}
