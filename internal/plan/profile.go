package plan

import (
	"fmt"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how another failover profile reaches a cluster that exists. The profile is arguments and fields of kubelets
// (hostconfig.Profile), which change as settings do, but in an order of their own: a controller manager that expects a report
// every few seconds takes a node for dead whose kubelet reports less often. To become faster, kubelets come first, and to become
// slower, control planes do. Each of kubeadm's ConfigMaps changes just before what is written from it, so that this holds for a
// host that joins or restarts at any moment as well.

// RuleEveryNode is the rule that refuses to change the failover profile while a node cannot follow.
const RuleEveryNode = "every-node"

// failoverProfile is the field of the spec.
const failoverProfile = "spec.failover.profile"

// changesProfile says that the plan brings something to the failover profile of the spec.
func (b *builder) changesProfile() bool { return b.otherProfile() && b.blocksProfile() == nil }

// otherProfile says that something of the cluster does not have what the failover profile sets. What could not be read says
// nothing.
func (b *builder) otherProfile() bool {
	if b.Seen.API == nil || b.Stage() == cluster.Foreign {
		return false
	}
	arguments, kubelet := hostconfig.Profile(b.c)
	kubeletDiffers := func(have map[string]any) bool { return have != nil && len(otherFields(have, kubelet)) > 0 }
	programDiffers := func(have map[string]map[string]string) bool {
		return slices.ContainsFunc(hostconfig.Programs, func(p string) bool { return have[p] != nil && len(differences(p, have[p], arguments[p])) > 0 })
	}
	if k := b.Seen.API.Kubeadm; k != nil && programDiffers(k.Arguments) || kubeletDiffers(b.Seen.API.KubeletConfig) {
		return true
	}
	return slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool {
		f := b.Facts(h.Name)
		return f != nil && h.IsNode() && f.Kubernetes.KubeletConfig && (programDiffers(f.Kubernetes.Arguments) || kubeletDiffers(f.Kubernetes.Kubelet))
	})
}

// refuseProfile refuses an edit of the profile that cannot be carried out now. Without an edit, what differs is the remnant of an
// earlier run, or somebody's change: that must not keep a lost host from being removed, so it waits for a later run.
func (b *builder) refuseProfile() error {
	if !b.otherProfile() {
		return nil
	}
	r := b.blocksProfile()
	if r == nil {
		return nil
	}
	edits, err := b.Edits()
	if err != nil {
		return err
	}
	edited := slices.ContainsFunc(edits, func(e spec.Edit) bool { return e.Path == failoverProfile })
	switch {
	case !edited && r.Rule == RuleOwnProgram: // the cluster was adopted with timings of its own
		return nil
	case edited && r.Rule != RuleEveryNode || edited && !slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), b.stopped):
		return r
	}
	b.blocked, b.onlyServes = r, edited
	b.out.Warnings = append(b.out.Warnings, "the timings of the cluster do not match "+failoverProfile+", and stay as they are in this run: "+r.Why)
	return nil
}

// serveAgain is all that is planned when an edit of the profile cannot be carried out, and an earlier run ended while a control plane
// was stopped: the cluster has one failure less to spare as long as it is away.
func (b *builder) serveAgain() {
	for _, h := range b.controlPlanesInTurn() {
		if b.stopped(h) {
			b.programsInTurn(h, nil)
		}
	}
	b.add(verification(nil), b.all()...)
}

// stopped says that an earlier run ended while a control plane was stopped.
func (b *builder) stopped(h spec.Host) bool { return b.interrupted(h) && !b.APIServer(h.Name).OK }

// blocksProfile says why the profile cannot be changed now; nil if it can.
func (b *builder) blocksProfile() *cluster.Refusal {
	const oneThing = "Do one thing at a time: run `quorate apply` with the former profile first, then with the new one."
	alone := func(why string) *cluster.Refusal {
		return refused(RuleOneThing, "the failover profile is to change, and "+why, oneThing)
	}
	faster := b.c.Spec.Failover.Profile == spec.ProfileFast
	for _, h := range b.c.Spec.Hosts {
		if h.IsNode() && b.leftAsItIs(h) {
			return refused(RuleOwnProgram, fmt.Sprintf("the failover profile is to change, and the programs on %s were installed without Quorate", h.Name),
				"Put the old profile back, and change the arguments of the control planes and the configuration of the kubelets as this cluster was installed. `quorate plan --by-hand` shows what differs between the profiles.")
		}
	}
	if b.changesVersion() {
		return alone("the version is, too")
	}
	for _, h := range b.Present().Spec.Hosts {
		if r := b.blocksOn(h, faster, alone); r != nil {
			return r
		}
	}
	return nil
}

// blocksOn says why a host keeps the profile from being changed.
func (b *builder) blocksOn(h spec.Host, faster bool, alone func(string) *cluster.Refusal) *cluster.Refusal {
	f := b.Facts(h.Name)
	switch {
	case b.Departs(h.Name):
		return alone(h.Name + " is to leave the cluster")
	case f == nil && !h.IsNode():
		return nil
	case f == nil && (faster || h.Has(spec.RoleControlPlane)):
		why := fmt.Sprintf("nodes that are silent for %s are to count as dead, and the kubelet of %s cannot be changed to report more often: %s", hostconfig.FastGracePeriod, h.Name, b.Unreachable()[h.Name])
		if !faster {
			why = fmt.Sprintf("kubelets are to report less often, and the controller manager of %s, which cannot be changed, would take their nodes for dead: %s", h.Name, b.Unreachable()[h.Name])
		}
		r := refused(RuleEveryNode, why, "Bring it up first, or end its maintenance (`quorate maintain --undo "+h.Name+"`). If it is lost, remove it from the cluster with the former profile in the spec.")
		r.Transient = !b.inMaintenance(h.Name)
		return r
	case f == nil:
		return nil // a kubelet that reports more often than it has to
	case h.IsNode() && !f.Kubernetes.KubeletConfig || h.Has(spec.RoleEtcd) && !f.Kubernetes.EtcdData:
		return alone(h.Name + " is to join")
	case !h.IsNode() || b.stopped(h):
		return nil
	case faster && f.Kubernetes.Kubelet == nil:
		return refused(RuleEveryNode, "how often the kubelet of "+h.Name+" reports could not be read from /var/lib/kubelet/config.yaml", "Correct that file, and run it again.")
	case h.Has(spec.RoleControlPlane) && f.Kubernetes.Arguments[facts.ControllerManager] == nil:
		return alone("the controller manager of " + h.Name + " has no manifest, which is restored first")
	}
	return nil
}

// changeProfile is the order in which a profile, and the settings of the same edit, reach a cluster. It returns the step that comes
// last.
func (b *builder) changeProfile(hosts []spec.Host) *Step {
	if b.c.Spec.Failover.Profile == spec.ProfileFast {
		b.changeKubelets(hosts)
		b.changePrograms()
	} else {
		b.changePrograms()
		b.changeKubelets(hosts)
	}
	return b.last
}

// changeKubelets gives all kubelets their fields. A control plane that was stopped gets them when its static pods are replaced.
func (b *builder) changeKubelets(hosts []spec.Host) {
	b.storeSettings(storeKubelets, b.all()...)
	after := b.all()
	for _, h := range b.controlPlanesInTurn() {
		if b.joined(h) && (!b.stopped(h) || b.at[h.Name].controlPlane != nil) {
			b.kubeletInTurn(h, after)
		}
	}
	b.restartKubelets(hosts, after...)
}

// changePrograms gives all control planes their arguments.
func (b *builder) changePrograms() {
	b.storeSettings(storePrograms, b.all()...)
	after := b.all()
	for _, h := range b.controlPlanesInTurn() {
		if b.joined(h) && !b.programsInTurn(h, after) && b.interrupted(h) {
			b.returnFromReplacement(h, after)
		}
	}
}
