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

// installBundle plans how a host gets the bundle: it is unpacked next to the one that is running, and then one program after
// the other is switched to it. Where nothing runs yet, all programs are switched immediately.
func (b *builder) installBundle(h spec.Host) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	if b.withoutBundle() || b.leftAsItIs(h) || !h.IsNode() && !h.Has(spec.RoleEtcd) {
		return
	}
	want := b.bundleFor(f)
	damage, damaged := f.BundleDamage[want]
	if f.Binaries == want {
		if damaged {
			at.bundle = b.add(Step{Kind: InstallBundle, Host: h.Name, Title: "bring the bundle again", Reason: "the host's copy is damaged: " + damage})
		}
		return
	}
	idle := !b.runsSomething(h)
	if idle || damaged || !slices.Contains(f.Bundles, want) {
		at.bundle = b.add(Step{Kind: InstallBundle, Host: h.Name, Title: "install " + b.bundle.Version, Reason: installReason(f), Switch: idle})
	}
	if idle {
		return
	}
	for _, p := range programsOf(h) {
		var differ []string
		for _, name := range p.names {
			if f.Programs[name] != want {
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

// withoutBundle says that programs and images are left as they are, because the bundle that hosts run is not here.
func (b *builder) withoutBundle() bool { return b.bundle.Digest == "" }

// bundleFor is the digest of the bundle for the architecture of a host.
func (b *builder) bundleFor(f *facts.Facts) string { return b.bundle.For(f.Arch) }

// refuseArchitecture refuses hosts for which this run has no bundle.
func (b *builder) refuseArchitecture() error {
	if b.withoutBundle() {
		return nil
	}
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		switch {
		case f == nil || !h.IsNode() && !h.Has(spec.RoleEtcd) || b.bundleFor(f) != "":
		case f.Arch == "":
			return refused(RuleArch, h.Name+" does not say what architecture its processor has, so no bundle can be chosen for it", "Run this version of `quorate preflight`, which asks it again.")
		default:
			return refused(RuleArch, fmt.Sprintf("%s is linux/%s, and there is no bundle of Kubernetes %s for this architecture", h.Name, f.Arch, b.bundle.Version),
				"Use hosts of other architectures. Bundles can be made for these: `quorate bundle build --help`.")
		}
	}
	return nil
}

// unpackInTurn orders what brings a bundle to hosts that already run something, and what removes one. Unpacking it, importing its images, and
// deleting its files take processor time and disk from what runs there. So one control plane or member of etcd comes after another, each as a
// whole, and the others answer without delay. The workers follow, as many at the same time as restart their kubelets at the same time.
func (b *builder) unpackInTurn() {
	var serving, workers []string
	for _, h := range b.c.Spec.Hosts {
		switch {
		case !b.runsSomething(h):
		case serves(h):
			serving = append(serving, h.Name)
		default:
			workers = append(workers, h.Name)
		}
	}
	for _, kinds := range [][]Kind{{InstallBundle, ImportImages}, {PruneBundles}} {
		steps := b.ofKind(kinds...)
		served := chain(steps, serving, nil)
		lanes := nodesAtOnce(len(workers))
		for lane := range lanes {
			var names []string
			for i := lane; i < len(workers); i += lanes {
				names = append(names, workers[i])
			}
			chain(steps, names, served)
		}
	}
	b.sort()
}

// chain makes the steps of each host wait for those of the host before it, and the first ones for a step, and returns the last one.
func chain(steps []*Step, hosts []string, last *Step) *Step {
	for _, name := range hosts {
		for _, s := range steps {
			if s.Host != name {
				continue
			}
			if last != nil && !slices.Contains(s.Needs, last.ID) {
				s.Needs = append(s.Needs, last.ID)
			}
			last = s
		}
	}
	return last
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
		if b.leftAsItIs(h) || b.bundleFor(f) == "" { // a load balancer whose architecture no node has: what to keep there is not known
			continue
		}
		if slices.ContainsFunc(slices.Concat(f.Bundles, f.Remains), func(d string) bool { return d != b.bundleFor(f) }) {
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
