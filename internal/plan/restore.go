package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// This file plans a restore. It is a first build (see create.go) with two differences: the keys that all hosts share come from the backup,
// and every member of etcd begins with the content of its snapshot. What the API then remembers of the hosts of before is removed before
// anything else uses it.

// RuleNoClusterThere lets a cluster be restored only where there is none.
const RuleNoClusterThere = "restore-over-cluster"

// RuleBackupsCA wants the hosts of a restore to have no other authority than the backup.
const RuleBackupsCA = "authority-of-backup"

// Restore makes the plan that builds the cluster of the spec from a backup with this CA (PEM), or finishes that. The CA is empty if it is lost, and
// the cluster gets a new one.
func Restore(s *cluster.State, bundle Bundle, from facts.Restore, ca string) (*Plan, error) {
	if r := s.UnfinishedRestore(from.Backup); r != nil {
		return nil, r
	}
	otherCA := ""
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); ca != "" && otherCA == "" && f != nil && f.Kubernetes.CA != "" && !cluster.SameAuthority(f.Kubernetes.CA, ca) {
			otherCA = h.Name + " has another CA certificate than the " + from.Kind() + ": " + whoseCA(s, from)
		}
	}
	if r := inTheWay(s, from, otherCA); r != nil {
		return nil, r
	}
	if otherCA != "" {
		return nil, refused(RuleBackupsCA, otherCA, fixReplace(s))
	}
	return buildFrom(s, bundle, &from)
}

// whoseCA says what it means that the hosts have another CA than the backup. The ID of etcd tells whether it is the same cluster: it stays when
// the CA is replaced. But it changes with a restore and with a recovery of the quorum, and only an etcd that answers tells it.
func whoseCA(s *cluster.State, from facts.Restore) string {
	same := func(id string) bool {
		return id != "" && strings.TrimLeft(id, "0") == strings.TrimLeft(from.EtcdCluster, "0")
	}
	if slices.ContainsFunc(s.Seen.Etcd, func(m facts.EtcdMember) bool { return same(m.ClusterID) }) {
		return "it is the same cluster (its etcd has the same ID), and its CA was replaced since. A restore brings the former CA back: kubeconfigs and certificates of the new one are not accepted any more"
	}
	return "either it is of another cluster, or the CA was replaced since (`quorate certs rotate ca`). In that case, a restore brings the former CA back, and kubeconfigs and certificates of the new one are not accepted any more"
}

// Restored says that the hosts have the cluster that was restored from the backup, and that the restore ended.
func Restored(s *cluster.State, backup string) bool {
	done := false
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil && f.Kubernetes.Restore != nil {
			if !f.Kubernetes.Restore.Complete || f.Kubernetes.Restore.Backup != backup {
				return false
			}
			done = true
		}
	}
	return done
}

// inTheWay refuses to restore over a cluster, or where nobody can tell whether there is one. Hosts that this restore has begun on are
// no cluster. The last argument says that the hosts have another CA than the backup; empty if they have not.
func inTheWay(s *cluster.State, from facts.Restore, otherCA string) *cluster.Refusal {
	if why := s.Unreachable(); len(why) > 0 {
		var lines []string
		for _, h := range s.Spec.Spec.Hosts {
			if text, dead := why[h.Name]; dead {
				lines = append(lines, h.Name+": "+text)
			}
		}
		return &cluster.Refusal{Rule: RuleAllHosts, Why: "some hosts cannot be reached, and what is on them is unknown: " + strings.Join(lines, "; "),
			Fix: "A cluster is restored on all of its hosts together. Bring these up, or take them out of the spec. Nothing was changed."}
	}
	if marks, _ := s.Restores(); len(marks) > 0 {
		return nil
	}
	var on []string
	for _, h := range s.Spec.Spec.Hosts {
		if s.Carries(h.Name) {
			on = append(on, h.Name)
		}
	}
	if len(on) == 0 {
		return nil
	}
	why := "parts of a cluster are on " + cluster.List(on)
	switch s.Stage() {
	case cluster.Complete, cluster.Foreign:
		why = "a cluster runs on these hosts, and its API answers"
	case cluster.Unresponsive:
		why = "there is a cluster on these hosts (" + cluster.List(on) + "), and its API does not answer"
	}
	if Restored(s, from.Backup) {
		why += "; it was restored from this " + from.Kind() + " before"
	}
	if otherCA != "" {
		why += "; " + otherCA
	}
	return &cluster.Refusal{Rule: RuleNoClusterThere, Subjects: on, Why: "restoring would replace what is there: " + why, Fix: fixReplace(s)}
}

func fixReplace(s *cluster.State) string {
	return "If that cluster can still be repaired, do that: a restore loses everything that was written after the backup. To give it up, add `--replace-cluster " + s.Spec.Metadata.Name +
		"`: its hosts are reset, and its etcd data and keys are kept in " + facts.KeptDir + ". Nothing was changed."
}

// refuseRestore keeps everything but the same restore away from a cluster that is being restored.
func (b *builder) refuseRestore() error {
	backup := ""
	if b.from != nil {
		backup = b.from.Backup
	}
	if r := b.UnfinishedRestore(backup); r != nil {
		return r
	}
	return nil
}

// restoreMark is the content of the mark.
func restoreMark(from facts.Restore) string {
	text, err := json.MarshalIndent(from, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("plan: the mark of a restore: %v", err)) // it has nothing that cannot be written
	}
	return string(text) + "\n"
}

// keepsState says that a host has something that a restore brings back.
func keepsState(h spec.Host) bool { return h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd) }

// beginRestore marks the hosts before anything is changed on any of them: from then on, only this restore goes on.
func (b *builder) beginRestore() {
	if b.from == nil {
		return
	}
	var marks []*Step
	for _, h := range b.c.Spec.Hosts {
		// A mark of a restore that ended is what is left of a cluster that somebody cleared by hand.
		if f := b.Facts(h.Name); f != nil && (f.Kubernetes.Restore == nil || f.Kubernetes.Restore.Complete) && keepsState(h) {
			marks = append(marks, b.markRestore(h, *b.from, "begun", "note which "+b.from.Kind()+" is restored", "if this run ends early, only the same "+b.from.Kind()+" may be restored here"))
		}
	}
	b.beginWith(marks...)
}

func (b *builder) markRestore(h spec.Host, from facts.Restore, detail, title, reason string, after ...*Step) *Step {
	return b.add(Step{Kind: Mark, Host: h.Name, Detail: "restore-" + detail, Title: title, Reason: reason,
		Desired: &facts.Desired{Files: []facts.File{{Path: facts.RestoreFile, Mode: 0o600, Content: restoreMark(from)}}}}, after...)
}

// restorePKI gives the keys of the backup to the control plane that would otherwise create new ones.
func (b *builder) restorePKI(create *Step) *Step {
	if b.from == nil || b.from.NewKeys {
		return nil
	}
	create.Title, create.Reason = "read the shared keys", "other control planes need them; what the "+b.from.Kind()+" does not have is created"
	reason := "certificates, tokens of service accounts, and encrypted secrets stay valid with the keys of the backup"
	if b.from.Data {
		reason = "what was issued with the keys that are left of the cluster stays valid"
	}
	return b.add(Step{Kind: RestorePKI, Host: create.Host, Title: "restore the shared keys", Reason: reason}, b.at[create.Host].bundle)
}

// restoreEtcd makes the data of all members from the same snapshot. No member starts before all of them have theirs.
func (b *builder) restoreEtcd(pki, etcdPKI *Step) {
	if b.from == nil {
		return
	}
	hosts := b.c.EtcdHosts()
	for _, h := range hosts {
		if b.Facts(h.Name).Kubernetes.EtcdData {
			continue
		}
		s := Step{Kind: RestoreEtcd, Host: h.Name, Title: "restore etcd's data", Change: change(cluster.Create, cluster.EtcdMember, h.Name),
			Reason: fmt.Sprintf("all %d members begin with the snapshot of the %s, at revision %d", len(hosts), b.from.Kind(), b.from.Revision)}
		if b.c.StackedEtcd() {
			s.Members = members(hosts)
		}
		at := b.at[h.Name]
		at.etcdData = b.add(s, at.bundle, at.configure, at.pki, pki, at.etcdPKI, etcdPKI)
	}
}

// members are the members of a stacked etcd as it starts.
func members(hosts []spec.Host) (out []Member) {
	for _, h := range hosts {
		out = append(out, Member{h.Name, h.Address})
	}
	return out
}

// repairRestored comes before everything else that uses the API.
func (b *builder) repairRestored(after ...*Step) *Step {
	if b.from == nil {
		return nil
	}
	first := b.c.HostsWith(spec.RoleControlPlane)[0].Name
	return b.add(Step{Kind: RepairRestored, Host: first, Title: "remove what belongs to the hosts of before", Change: change(cluster.Create, cluster.Node, first),
		Reason: "etcd has the nodes, the tokens, the endpoint, and the notes of the cluster at " + b.from.Taken.UTC().Format(time.RFC3339)}, after...)
}

// endRestore ends a restore when the cluster was verified.
func (b *builder) endRestore() {
	if b.from == nil {
		return
	}
	marks, _ := b.Restores()
	if b.Stage() != cluster.Complete && len(marks) == 0 && len(b.ofKind(RestoreEtcd)) == 0 {
		return
	}
	if b.Stage() == cluster.Unresponsive {
		return // first its API has to answer; the next pass ends the restore
	}
	done := *b.from
	done.Complete = true
	settled := b.add(Step{Kind: SettleRestored, Title: "settle the restored cluster", Reason: "webhooks that fail closed could not be answered while their pods were not running"}, b.all()...)
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f != nil && keepsState(h) {
			b.markRestore(h, done, "complete", "note that the restore is complete", "from now on, it is a cluster like any other", settled)
		}
	}
}

// KeepReplaced has a plan of ResetAll keep etcd's data and the keys in a directory of this name.
func KeepReplaced(p *Plan, name string) {
	for i := range p.Steps {
		if p.Steps[i].Kind == ResetHost {
			p.Steps[i].Keep = facts.KeptDir + "/" + name
		}
	}
}

// DiffersFixed are the differences between the spec of a backup and the one that it is restored to, as far as they cannot be made: what is
// stored in etcd depends on them.
func DiffersFixed(before, after *spec.Cluster) (out []spec.Edit) {
	fixed := []string{"metadata.name", "spec.network.cni", "spec.network.podCIDR", "spec.network.serviceCIDR"}
	return slices.DeleteFunc(spec.Compare(before, after), func(e spec.Edit) bool { return !slices.Contains(fixed, e.Path) })
}

// Outdated are the labels of a restored node, and the taints, that the spec of the backup gave it and that this one does not: those of a
// pool, a zone, or a role that its host no longer has.
func Outdated(before, after *spec.Cluster, h spec.Host, have map[string]string) (labels []string, taints []facts.Taint) {
	want := labelsOf(after, h)
	former := Step{}
	if before != nil {
		if old, was := before.Host(h.Name); was {
			former = labelsOf(before, old)
		}
	}
	if _, controls := have[controlPlaneLabel]; controls && !h.Has(spec.RoleControlPlane) {
		// What every control plane has, whatever its zone.
		if former.Labels == nil {
			former.Labels = map[string]string{}
		}
		former.Labels[controlPlaneLabel], former.Labels[excludeLabel] = "", ""
		former.Taints = append(former.Taints, Taints(spec.Host{Roles: []string{spec.RoleControlPlane}})...)
	}
	for _, k := range slices.Sorted(maps.Keys(former.Labels)) {
		if _, still := want.Labels[k]; !still {
			labels = append(labels, k)
		}
	}
	for _, t := range former.Taints {
		if !slices.Contains(want.Taints, t) {
			taints = append(taints, t)
		}
	}
	return labels, taints
}
