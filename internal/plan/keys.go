package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file plans where the keys of authorities are: those of the cluster on its control planes, and that of an external etcd on its
// hosts. A host that leaves takes nothing with it that no other host has.

// keys says which hosts have the keys that all hosts of a role share.
type keys struct {
	// source is a host that stays and has all of them; empty if none that can be reached has.
	source string
	// lacking are the hosts that have not joined yet and need them.
	lacking []spec.Host
	// leaves is a host that leaves and has all of them, if there is no source. heir is the host that stays and then gets them: it
	// has joined without them.
	leaves, heir string
}

// origin is the host that the others get the keys from; empty if none that can be reached has them.
func (k keys) origin() string { return cmp.Or(k.source, k.heir, k.leaves) }

func sharedPKI(k facts.Kubernetes) bool { return k.SharedPKI }

func etcdPKI(k facts.Kubernetes) bool { return k.EtcdCA != "" && k.EtcdCAKey }

// keysOf looks for the keys of a role. A host that has joined without a key keeps on lacking it: kubeadm's documentation keeps the key
// of etcd's authority on one host alone, and others keep keys offline.
func (b *builder) keysOf(role string) (out keys) {
	has, joined := sharedPKI, func(k facts.Kubernetes) bool { return k.KubeletConfig }
	if role == spec.RoleEtcd {
		has, joined = etcdPKI, func(k facts.Kubernetes) bool { return k.EtcdData }
	}
	heir := ""
	for _, h := range b.c.HostsWith(role) {
		switch f := b.Facts(h.Name); {
		case f == nil:
		case has(f.Kubernetes):
			if out.source == "" {
				out.source = h.Name
			}
		case !joined(f.Kubernetes) || !b.exists():
			out.lacking = append(out.lacking, h)
		case heir == "":
			heir = h.Name
		}
	}
	if out.source != "" {
		return out
	}
	for _, h := range b.Departing() {
		if f := b.Facts(h.Name); f != nil && h.Has(role) && has(f.Kubernetes) {
			out.leaves, out.heir = h.Name, heir
			break
		}
	}
	return out
}

// sharePKI plans how the shared keys reach every control plane that lacks them. It returns the step that makes or reads them.
func (b *builder) sharePKI() *Step {
	k := b.keysOf(spec.RoleControlPlane)
	kept := b.keepKeys(k,
		Step{Kind: MakePKI, Title: "read the shared keys", Reason: "it leaves the cluster, and no other control plane has all of them"},
		Step{Kind: KeepPKI, Title: "keep the shared keys", Reason: "the only control plane that has all of them leaves: " + k.leaves})
	if len(k.lacking) == 0 {
		return nil
	}
	from := Step{Kind: MakePKI, Host: k.origin(), Title: "read the shared keys", Reason: "other control planes need the keys that it has"}
	var restored *Step
	if from.Host == "" {
		from.Host, from.Title, from.Reason = k.lacking[0].Name, "create the shared keys", "no control plane has keys yet"
		restored = b.restorePKI(&from)
	}
	made := b.add(from, b.at[from.Host].bundle, kept, restored)
	for _, h := range k.lacking {
		if h.Name != from.Host {
			// Until a host has Quorate's bundle, a cluster's CA on it would be taken for what another cluster left.
			b.at[h.Name].pki = b.add(Step{Kind: SharePKI, Host: h.Name, Title: "copy the shared keys", Reason: "control planes share one set of certificate authorities"}, made, b.at[h.Name].bundle)
		}
	}
	return made
}

// shareEtcdPKI plans how the certificate authority of an external etcd reaches every etcd host that lacks it, and this run,
// when control planes need a client certificate of it.
func (b *builder) shareEtcdPKI() *Step {
	if !b.c.ManagedEtcd() {
		return nil
	}
	k := b.keysOf(spec.RoleEtcd)
	kept := b.keepKeys(k,
		Step{Kind: MakeEtcdPKI, Title: "read etcd's keys", Reason: "it leaves the cluster, and no other etcd host has the key of etcd's CA"},
		Step{Kind: KeepEtcdPKI, Title: "keep the key of etcd's CA", Reason: "the only etcd host that has it leaves: " + k.leaves})
	if len(k.lacking) == 0 && (k.origin() == "" || len(b.withoutEtcdClient()) == 0) {
		return nil
	}
	from := Step{Kind: MakeEtcdPKI, Host: k.origin(), Title: "read etcd's keys", Reason: "other hosts need the keys that it has"}
	if from.Host == "" {
		from.Host, from.Title, from.Reason = k.lacking[0].Name, "create etcd's keys", "etcd has its own CA, which does not exist yet"
	}
	made := b.add(from, b.at[from.Host].bundle, kept)
	for _, h := range k.lacking {
		if h.Name != from.Host {
			b.at[h.Name].etcdPKI = b.add(Step{Kind: ShareEtcdPKI, Host: h.Name, Title: "copy etcd's CA", Reason: "etcd's members trust one CA, whose key stays on their hosts"}, made)
		}
	}
	return made
}

// keepKeys plans that a host that stays gets the keys that otherwise leave the cluster with the only host that has them. This comes
// before any host leaves.
func (b *builder) keepKeys(k keys, read, keep Step) *Step {
	if k.heir == "" {
		return nil
	}
	read.Host, keep.Host = k.leaves, k.heir
	return b.add(keep, b.add(read))
}

// refuseLostKeys holds before a host joins that needs the keys of its role: some host must have them. Where none joins, it warns before
// hosts leave that are down and may have the only copy.
func (b *builder) refuseLostKeys() error {
	for _, role := range []string{spec.RoleControlPlane, spec.RoleEtcd} {
		if role == spec.RoleEtcd && !b.c.ManagedEtcd() {
			continue
		}
		k := b.keysOf(role)
		if k.origin() != "" {
			continue
		}
		rule, kind, missing := RulePKI, "control plane", b.missingKeys()
		if role == spec.RoleEtcd {
			rule, kind, missing = RuleEtcdPKI, "etcd host", pkiDir+facts.EtcdPKI[1]
		}
		var down, lost []string
		for _, h := range b.Present().HostsWith(role) {
			if !b.Reachable(h.Name) {
				down = append(down, h.Name)
				if b.Departs(h.Name) {
					lost = append(lost, h.Name)
				}
			}
		}
		if len(k.lacking) > 0 {
			fix := "If a key is kept elsewhere, put it back on one " + kind + " that has joined, during the join."
			if len(down) > 0 {
				fix += " If a host has it that cannot be reached (" + strings.Join(down, ", ") + "), bring that host up, or copy the key from its disk."
			}
			fix += " Without the key, no " + kind + " can join this cluster."
			return refused(rule, fmt.Sprintf("%s is to join, and no %s that can be reached has the keys that it needs: %s", cluster.List(cluster.Names(k.lacking)), kind, missing), fix)
		}
		if len(lost) > 0 {
			b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("no %s that can be reached has %s. If %s, which is down and leaves the cluster, has the only copy, the key is lost with it, and no %s can join later. "+
				"Before you apply this plan, find a copy: on the disk of that host, in a backup, or where you keep it offline", kind, missing, cluster.List(lost), kind))
		}
	}
	return nil
}

// missingKeys are the files that every control plane which has joined lacks, or a control plane that joins needs.
func (b *builder) missingKeys() string {
	names := map[string]bool{}
	for _, h := range b.c.HostsWith(spec.RoleControlPlane) {
		if f := b.Facts(h.Name); f != nil && f.Kubernetes.KubeletConfig {
			for _, name := range f.Kubernetes.MissingPKI {
				names[pkiDir+name] = true
			}
		}
	}
	return cmp.Or(cluster.List(slices.Sorted(maps.Keys(names))), pkiDir+"*.key")
}

const pkiDir = "/etc/kubernetes/pki/"
