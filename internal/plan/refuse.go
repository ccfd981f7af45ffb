package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// refuse is everything because of which no plan is made at all.
func (b *builder) refuse() error {
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		if f == nil {
			continue
		}
		if lacks := hostconfig.Lacks(b.c, h, f); len(lacks) > 0 && f.Family == "" {
			return refused(RulePackages, fmt.Sprintf("%s lacks %s, and Quorate does not know the package manager of its system (%s)", h.Name, strings.Join(lacks, " and "), f.OS),
				"Install these programs there, and run it again.")
		}
	}
	if err := b.refuseArchitecture(); err != nil {
		return err
	}
	if conflicts := b.Conflicts(); len(conflicts) > 0 {
		return conflicts[0]
	}
	if r := b.UnfinishedReset(); r != nil {
		return r
	}
	if r := b.OneEtcd(); r != nil {
		return r
	}
	if err := b.refuseRestore(); err != nil {
		return err
	}
	switch b.Stage() {
	case cluster.Foreign:
		if err := b.refuseAdoption(); err != nil {
			return err
		}
		return b.refuseSchedule()
	case cluster.Complete:
		// Without an API, what brings it back comes first.
		if r := b.NoneAbandoned(); r != nil {
			return r
		}
	case cluster.Unresponsive:
		if r := b.Vanished(); r != nil {
			return r
		}
		if !b.Marked() {
			r := refused(RuleAnswer, "there are control planes on these hosts that Quorate did not build, and their API does not answer",
				"To adopt the cluster, bring it up first. If it is no longer needed, clear the hosts: "+facts.HowToClear()+".")
			r.Transient = true
			return r
		}
		// API servers that may serve what a recovery has replaced are not asked. If there are no others, only a repair brings the API back.
		if r := b.NoneAbandoned(); r != nil && !slices.ContainsFunc(b.c.HostsWith(spec.RoleControlPlane), func(h spec.Host) bool {
			return b.Reachable(h.Name) && !cluster.ServesAbandoned(b.c, b.Seen, h.Name)
		}) {
			return r
		}
	case cluster.Absent, cluster.Partial, cluster.Undetermined:
		if err := b.refuseCreation(); err != nil {
			return err
		}
		if err := b.refuseVersion("Write that version into the spec (kubernetes.version) until the cluster is complete; then change it."); err != nil {
			return err
		}
	}
	if r := b.Fixed(); r != nil {
		return r
	}
	if b.c.ExistingEtcd() {
		if err := b.refuseExistingEtcd(); err != nil {
			return err
		}
	}
	if b.Stage() == cluster.Unresponsive { // what brings it back needs no credentials
		return nil
	}
	return b.refuseSchedule()
}

func (b *builder) any(is func(facts.Kubernetes) bool) bool {
	return slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool { f := b.Facts(h.Name); return f != nil && is(f.Kubernetes) })
}

// refuseCreation holds for a first build. All hosts must answer: one that does not may carry a cluster, and etcd begins with
// all of its members.
func (b *builder) refuseCreation() error {
	if len(b.out.Unreachable) > 0 {
		var lines []string
		for _, name := range slices.Sorted(maps.Keys(b.out.Unreachable)) {
			lines = append(lines, name+": "+b.out.Unreachable[name])
		}
		fix := "A new cluster is built on all of its hosts together. Bring these up, or take them out of the spec."
		if b.Stage() == cluster.Partial {
			fix = "An interrupted build is finished on all of its hosts together. Bring these up. Workers can be taken out of the spec, and so can load balancers on which keepalived does not run (`systemctl disable --now keepalived`); the members that etcd was started with cannot."
		}
		return refused(RuleAllHosts, "some hosts cannot be reached: "+strings.Join(lines, "; "), fix)
	}
	if r := b.InitialMembers(); r != nil {
		return r
	}
	if err := b.refuseSecondCluster(); err != nil {
		return err
	}
	if b.Stage() == cluster.Partial && !b.Marked() {
		for _, h := range b.c.Spec.Hosts {
			if k := b.Facts(h.Name).Kubernetes; k.KubeletConfig || k.EtcdData {
				return refused(cluster.RuleNewCluster, h.Name+" carries parts of a cluster that Quorate did not build (a kubelet's identity or etcd data), and its API does not answer",
					"To adopt the cluster, bring it up first. If it is no longer needed, clear the hosts: "+facts.HowToClear()+".")
			}
		}
	}
	return nil
}

// refuseSecondCluster refuses to build new control planes for workers that have joined a cluster already. A worker starts only when the
// API of its cluster answers, so the spec names none of the control planes that the workers belong to.
func (b *builder) refuseSecondCluster() error {
	if b.anyOf(b.c.HostsWith(spec.RoleControlPlane), func(k facts.Kubernetes) bool {
		return k.KubeletConfig || k.EtcdData || k.CA != "" || len(k.Manifests) > 0
	}) {
		return nil
	}
	for _, h := range b.c.HostsWith(spec.RoleWorker) {
		if f := b.Facts(h.Name); f != nil && f.Kubernetes.KubeletConfig {
			return refused(cluster.RuleNewCluster, h.Name+" is a worker of a cluster, and the spec names none of its control planes",
				"Keep at least one control plane of the cluster in the spec until the new ones have joined, then remove it. If that cluster is gone for good, clear "+h.Name+": "+facts.HowToClear()+".")
		}
	}
	return nil
}

func (b *builder) anyOf(hosts []spec.Host, is func(facts.Kubernetes) bool) bool {
	return slices.ContainsFunc(hosts, func(h spec.Host) bool { f := b.Facts(h.Name); return f != nil && is(f.Kubernetes) })
}

// etcdHosts names the hosts that etcd needs, in a sentence.
func (b *builder) etcdHosts() string {
	switch {
	case b.c.StackedEtcd():
		return "control planes"
	case b.c.ManagedEtcd():
		return "etcd hosts and a control plane"
	}
	return "members of your etcd and a control plane"
}
