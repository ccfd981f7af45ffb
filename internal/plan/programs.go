package plan

import (
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// installBundle plans how a host gets the bundle: it is unpacked next to the one that is running, and then one program after
// the other is switched to it. Where nothing runs yet, all programs are switched immediately.
func (b *builder) installBundle(h spec.Host) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	if b.leftAsItIs(h) || !h.IsNode() && !h.Has(spec.RoleEtcd) || f.Binaries == b.bundle.Digest {
		return
	}
	idle := !b.runsSomething(h)
	if idle || !slices.Contains(f.Bundles, b.bundle.Digest) {
		at.bundle = b.add(Step{Kind: InstallBundle, Host: h.Name, Title: "install " + b.bundle.Version, Reason: installReason(f), Switch: idle})
	}
	if idle {
		return
	}
	for _, p := range programsOf(h) {
		var differ []string
		for _, name := range p.names {
			if f.Programs[name] != b.bundle.Digest {
				differ = append(differ, name)
			}
		}
		if len(differ) == 0 {
			continue
		}
		s := Step{Kind: SwitchPrograms, Host: h.Name, Detail: p.detail, Title: "switch " + p.title + " to " + b.bundle.Version, Programs: differ, Reason: installReason(f)}
		if !p.runs(f) {
			at.bundle = b.add(s, at.bundle)
			continue
		}
		s.Restart = []string{p.unit}
		s.Reason += "; " + p.unit + " restarts"
		if b.exists() {
			s.Change = change(cluster.Restart, p.part, h.Name)
			at.bundle = b.addInTurn(s, at.bundle)
			continue
		}
		s.Change = change(cluster.Create, p.part, h.Name)
		at.bundle = b.add(s, at.bundle)
	}
}

// unpackInTurn orders what brings a bundle to hosts that already run something. Unpacking it and importing its images takes processor time
// and disk from what runs there. So one control plane or member of etcd comes after another, and the others answer without delay. The workers
// follow, as many at the same time as restart their kubelets at the same time. A step depends only on those that were planned before it.
func (b *builder) unpackInTurn() {
	lanes := map[string]int{} // of workers
	for _, h := range b.c.Spec.Hosts {
		if b.runsSomething(h) && !serves(h) {
			lanes[h.Name] = len(lanes)
		}
	}
	n := nodesAtOnce(len(lanes))
	var served *Step
	ends := make([]*Step, n)
	for _, s := range b.ofKind(InstallBundle, ImportImages) {
		h, _ := b.c.Host(s.Host)
		before := []*Step{served}
		lane, works := lanes[s.Host]
		switch {
		case works:
			before = append(before, ends[lane%n])
			ends[lane%n] = s
		case b.runsSomething(h):
			served = s
		default:
			continue
		}
		for _, o := range before {
			if o != nil && !slices.Contains(s.Needs, o.ID) {
				s.Needs = append(s.Needs, o.ID)
			}
		}
	}
}

// serves says that others cannot do without what a host runs.
func serves(h spec.Host) bool { return h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd) }

func (b *builder) runsSomething(h spec.Host) bool {
	f := b.Facts(h.Name)
	return f != nil && slices.ContainsFunc(programsOf(h), func(p program) bool { return p.runs(f) })
}

// program is what is switched together.
type program struct {
	detail, title string
	names         []string // as of facts.ProgramOf
	unit          string   // that runs it
	part          cluster.Part
}

func (p program) runs(f *facts.Facts) bool {
	return p.unit != "" && (f.Units[p.unit] == "active" || f.Units[p.unit] == "activating")
}

// programsOf are the programs of a host in the order in which they are switched: kubeadm before what it configures, and
// containerd before the kubelet that uses it.
func programsOf(h spec.Host) []program {
	tools := program{detail: "tools", title: "tools", names: []string{facts.KubeadmProgram, facts.KubectlProgram, facts.CNIPlugins, facts.OtherPrograms}}
	etcd := program{detail: "etcd", title: "etcd", names: []string{facts.EtcdProgram}}
	if h.Has(spec.RoleEtcd) {
		etcd.unit, etcd.part = hostconfig.EtcdUnit, cluster.EtcdMember
	}
	if !h.IsNode() {
		tools.names = append(tools.names, facts.RuncProgram, facts.Containerd, facts.Kubelet)
		return []program{tools, etcd}
	}
	return []program{tools, etcd,
		{detail: "containerd", title: "containerd and runc", names: []string{facts.RuncProgram, facts.Containerd}, unit: "containerd.service", part: cluster.Node},
		{detail: "kubelet", title: "the kubelet", names: []string{facts.Kubelet}, unit: "kubelet.service", part: cluster.Node},
	}
}

func installReason(f *facts.Facts) string {
	if len(f.ProgramProblems) > 0 {
		const shown = 2
		text := strings.Join(f.ProgramProblems[:min(shown, len(f.ProgramProblems))], ", ")
		if len(f.ProgramProblems) > shown {
			text += ", and more"
		}
		return text
	}
	return otherBundle(f.Binaries, f.Bundles...)
}

// superseded are the hosts that have a bundle besides the plan's, or the remains of one. The former bundle stays until every host runs the new one,
// so that going back is only a switch.
func (b *builder) superseded() (hosts []spec.Host) {
	if len(b.Unreachable()) > 0 {
		return nil
	}
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		if b.leftAsItIs(h) {
			continue
		}
		if slices.ContainsFunc(slices.Concat(f.Bundles, f.Remains), func(d string) bool { return d != b.bundle.Digest }) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// pruneBundles removes superseded bundles when the cluster has been verified.
func (b *builder) pruneBundles(verified *Step) {
	for _, h := range b.superseded() {
		b.add(Step{Kind: PruneBundles, Host: h.Name, Title: "remove the previous bundle", Reason: "every host runs from the new one"}, verified)
	}
}
