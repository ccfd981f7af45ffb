package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// controlPlanePods are the static pods of a control plane, next to those of a stacked etcd.
var controlPlanePods = []string{"kube-apiserver", facts.ControllerManager, facts.Scheduler}

// exists says that the plan changes a cluster that others use.
func (b *builder) exists() bool { return b.Exists() }

// installPackages plans what the host's own distribution has to provide.
func (b *builder) installPackages(h spec.Host) {
	f := b.Facts(h.Name)
	lacks := hostconfig.Lacks(b.c, h, f)
	if len(lacks) == 0 {
		return
	}
	names := f.Family.Packages(lacks)
	b.at[h.Name].packages = b.add(Step{Kind: InstallPackages, Host: h.Name, Title: "install packages",
		Reason:   "its roles need " + strings.Join(lacks, " and ") + ": " + f.Family.Command(names),
		Packages: &facts.Packages{Family: f.Family, Programs: lacks, Names: names}})
}

func (b *builder) importImages(h spec.Host) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	if !b.withoutBundle() && !b.leftAsItIs(h) && h.IsNode() && (f.Images != b.bundleFor(f) || len(f.ImageProblems) > 0) {
		at.images = b.add(Step{Kind: ImportImages, Host: h.Name, Title: "import the images", Reason: importReason(f, b.bundleFor(f))}, at.bundle, at.configure)
	}
}

func otherBundle(have string, more ...string) string {
	if have == "" && len(more) == 0 {
		return "the host has no bundle"
	}
	return "the host has another bundle"
}

func importReason(f *facts.Facts, want string) string {
	if f.Images != want {
		return otherBundle(f.Images)
	}
	const shown = 3
	if more := len(f.ImageProblems) - shown; more > 0 {
		return fmt.Sprintf("%s and %d more", reasons(f.ImageProblems[:shown]), more)
	}
	return reasons(f.ImageProblems)
}

// configureHost brings the host's own configuration into shape: that of a node or an etcd member, and that of a load
// balancer, which is a step of its own because other rules guard it. The CA's certificate that a load balancer needs is
// known only when the shared keys are made.
func (b *builder) configureHost(h spec.Host, pki *Step) {
	b.configureNode(h)
	if b.c.Balances(h) {
		b.configureBalancer(h, pki)
	}
}

// configureNode is the configuration of everything but the load balancer.
func (b *builder) configureNode(h spec.Host) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	d := hostconfig.Hosts(b.c)
	if b.keepsEndpoint {
		d.Files = slices.DeleteFunc(d.Files, func(file facts.File) bool { _, has := f.Files[file.Key()]; return has })
	}
	if b.leftAsItIs(h) {
		d = merge(d, hostconfig.Adopted(b.c, h))
	} else {
		d = merge(d, b.own(h, f))
	}
	if b.former(h) { // its data must not start again: it has to join etcd as a new member
		d.Enable = slices.DeleteFunc(d.Enable, func(unit string) bool { return unit == hostconfig.EtcdUnit })
	}
	d = b.onlyRestored(merge(d, hostconfig.Watched(b.c, h)), f)
	missing := hostconfig.Missing(d, f)
	if len(missing) == 0 && b.plans(MoveClients, h) {
		missing = []string{"/etc/hosts has the former endpoint as well"}
	}
	if len(missing) == 0 {
		return
	}
	s := Step{Kind: Configure, Host: h.Name, Title: "configure " + whatOf(h), Reason: reasons(missing), Desired: &d}
	restarts, starts := hostconfig.Restarts(d, f)
	switch {
	case !b.exists():
		if len(restarts)+len(starts) > 0 {
			s.Change = change(cluster.Create, cluster.Node, h.Name)
		}
		at.configure = b.add(s, at.packages, at.bundle)
	case len(restarts) > 0:
		s.Reason += loads(restarts, nil)
		s.Change = change(cluster.Restart, cluster.Node, h.Name)
		at.configure = b.addInTurn(s, at.packages, at.bundle)
	default:
		switch settings := hostconfig.Settings(b.c, f); {
		case len(starts) > 0:
			s.Change = change(cluster.Start, b.startedPart(h), h.Name)
		case h.IsNode() && !b.leftAsItIs(h) && len(hostconfig.Missing(settings, f)) > 0:
			s.Reason += "; nothing restarts"
		}
		at.configure = b.add(s, at.packages, at.bundle)
	}
}

// loads says in the reason of a step which units load their files, and how.
func loads(restarts, reloads []string) string {
	var out string
	for _, units := range []struct {
		names     []string
		one, more string
	}{{restarts, "restarts", "restart"}, {reloads, "reloads", "reload"}} {
		switch len(units.names) {
		case 0:
		case 1:
			out += "; " + units.names[0] + " " + units.one
		default:
			out += "; " + cluster.List(units.names) + " " + units.more
		}
	}
	return out
}

// startedPart is what starting the units of a host brings back.
func (b *builder) startedPart(h spec.Host) cluster.Part {
	if h.Has(spec.RoleEtcd) {
		return cluster.EtcdMember
	}
	return cluster.Node
}

// configureBalancer is HAProxy, keepalived and the watchdog.
func (b *builder) configureBalancer(h spec.Host, pki *Step) {
	f, at := b.Facts(h.Name), b.at[h.Name]
	d := hostconfig.Balancer(b.Present().WithEndpoint(b.c.Endpoint()).AlsoServing(b.c.Endpoints()...), h, f, b.CA(), b.balancersAmong(b.Removed())...)
	d = b.onlyRestored(d, f)
	missing := hostconfig.Missing(d, f)
	if len(missing) == 0 && at.both != nil {
		missing = []string{"it serves the former endpoint as well"}
	}
	if len(missing) == 0 || b.unknownPeers(h) || b.retires(h) && !b.balancerRuns(h) { // it was stopped for good
		return
	}
	s := Step{Kind: Configure, Host: h.Name, Detail: "load-balancer", Title: "configure the load balancer", Reason: reasons(missing), Desired: &d}
	needs := []*Step{at.packages, at.configure}
	if b.CA() == "" {
		needs = append(needs, pki)
	}
	restarts, starts := hostconfig.Restarts(d, f)
	switch seen := b.Seen.Hosts[h.Name].Balancer; {
	case seen.Balances() && seen.Others != nil && !b.mends:
		s.Reason = "it was set up without Quorate: HAProxy and keepalived restart with Quorate's configuration and get a watchdog; the old files are kept"
	case b.exists() && seen.Balances():
		s.Reason += loads(restarts, hostconfig.Reloads(d, f))
	}
	switch {
	case !b.exists():
		s.Change = change(cluster.Create, cluster.LoadBalancer, h.Name)
		at.balancer = b.add(s, needs...)
	case !b.balances(h):
		if drained := b.drainedServers(); len(drained) > 0 { // before HAProxy starts
			d.Files = append([]facts.File{hostconfig.Drained(drained)}, d.Files...)
			s.Reason += "; it sends no clients to " + cluster.List(drained)
		}
		s.Change = change(cluster.Add, cluster.LoadBalancer, h.Name)
		at.balancer = b.addInTurn(s, needs...)
	case len(restarts) > 0:
		s.Change = change(cluster.Restart, cluster.LoadBalancer, h.Name)
		at.balancer = b.addInTurn(s, needs...)
	case len(starts) > 0 && f.Unknown[facts.UnitsPart] == "": // if nothing is known, it is enough that it balances
		s.Change = change(cluster.Start, cluster.LoadBalancer, h.Name)
		at.balancer = b.addInTurn(s, needs...)
	default:
		s.Change = change(cluster.Reload, cluster.LoadBalancer, h.Name)
		at.balancer = b.addInTurn(s, needs...)
	}
}

// drainedServers are the control planes to which load balancers send no clients: those in maintenance, and those at which an earlier
// run was interrupted.
func (b *builder) drainedServers() (out []string) {
	for _, h := range b.Present().HostsWith(spec.RoleControlPlane) {
		if b.inMaintenance(h.Name) || b.drained(h.Name) {
			out = append(out, h.Name)
		}
	}
	slices.Sort(out)
	return out
}

// unknownPeers says that a load balancer has peers that are no load balancers in the spec, while nobody can read which hosts the cluster
// recorded. It must not forget them: a peer that works and is forgotten would share the virtual IP with another holder.
func (b *builder) unknownPeers(h spec.Host) bool {
	seen := b.Seen.Hosts[h.Name].Balancer
	if record, err := b.Record(); seen == nil || record != nil || err != nil || !b.exists() || b.Seen.API != nil {
		return false
	}
	return slices.ContainsFunc(seen.Peers, func(address string) bool {
		return !slices.ContainsFunc(b.c.BalancerHosts(), func(o spec.Host) bool { return slices.Contains(o.VIPAddresses(), address) })
	})
}

// balances says that the host is a load balancer already, whoever set it up.
func (b *builder) balances(h spec.Host) bool {
	return b.Seen.Hosts[h.Name].Balancer.Balances()
}

// balancersInTurn are the load balancers in the order in which they are configured: those that work without the virtual IP,
// then the one that has it, so that the address moves once and to one that is ready; then the new ones, when the others know
// them as peers.
func (b *builder) balancersInTurn() []spec.Host {
	rank := func(h spec.Host) int {
		switch {
		case !b.balances(h):
			return 2
		case b.Holds(h.Name):
			return 1
		}
		return 0
	}
	hosts := slices.Clone(b.Present().BalancerHosts())
	slices.SortStableFunc(hosts, func(x, y spec.Host) int { return cmp.Compare(rank(x), rank(y)) })
	return hosts
}

// own is the configuration of a host that Quorate set up from the beginning.
func (b *builder) own(h spec.Host, f *facts.Facts) facts.Desired {
	d := facts.Desired{}
	if h.IsNode() {
		d = merge(d, hostconfig.Runtime(f, b.bundle.Pause))
		d = merge(d, hostconfig.Settings(b.c, f))
	}
	if h.Has(spec.RoleEtcd) {
		d = merge(d, hostconfig.Etcd(h, b.withTimers(f), b.beginTimers()))
	}
	if h.Has(spec.RoleControlPlane) {
		d = merge(d, hostconfig.ControlPlane(b.c))
	}
	joins := b.Stage() == cluster.Complete && h.IsNode() && !f.Kubernetes.KubeletConfig
	if (!b.exists() || joins) && (h.IsNode() || h.Has(spec.RoleEtcd)) {
		d.Files = append(d.Files, facts.File{Path: facts.BegunFile, Mode: 0o600, Content: b.c.Metadata.Name + "\n"})
	}
	return d
}

func whatOf(h spec.Host) string {
	switch {
	case h.Has(spec.RoleEtcd):
		return "the etcd host"
	case !h.IsNode():
		return "the host"
	}
	return "the node"
}

func merge(a, b facts.Desired) facts.Desired {
	sysctls := maps.Clone(a.Sysctls)
	if sysctls == nil {
		sysctls = map[string]string{}
	}
	maps.Copy(sysctls, b.Sysctls)
	return facts.Desired{Files: append(a.Files, b.Files...), Modules: append(a.Modules, b.Modules...), Sysctls: sysctls, Absent: append(a.Absent, b.Absent...),
		Self: cmp.Or(a.Self, b.Self), EtcdGuard: a.EtcdGuard || b.EtcdGuard, Enable: append(a.Enable, b.Enable...)}
}

// leftAsItIs says that the host came with an adopted cluster: Quorate does not manage its programs, its runtime and its
// kubelet.
func (b *builder) leftAsItIs(h spec.Host) bool {
	f := b.Facts(h.Name)
	if f == nil {
		return false
	}
	k := f.Kubernetes
	joined := h.IsNode() && k.KubeletConfig || h.Has(spec.RoleEtcd) && k.EtcdData
	return joined && (k.Adopted || b.Stage() == cluster.Foreign)
}

// mark notes on a host what Quorate did there.
func (b *builder) mark(h spec.Host, detail, file, title, reason string, after ...*Step) *Step {
	return b.add(Step{Kind: Mark, Host: h.Name, Detail: detail, Title: title, Reason: reason,
		Desired: &facts.Desired{Files: []facts.File{{Path: file, Mode: 0o600, Content: b.c.Metadata.Name + "\n"}}}}, after...)
}

func (b *builder) markEstablishedOn(h spec.Host, after ...*Step) *Step {
	s := b.mark(h, "established", facts.EstablishedFile, "mark the cluster as established", "from now on, an empty etcd directory is lost data to repair, not the start of a new cluster", after...)
	s.Desired.EtcdGuard = b.c.StackedEtcd()
	return s
}

// markEstablished marks the hosts whose cluster is complete and that have no mark yet.
func (b *builder) markEstablished(after ...*Step) (marks []*Step) {
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		if f == nil || f.Kubernetes.Established {
			continue
		}
		m, has := b.Member(h.Name)
		member := h.Has(spec.RoleEtcd) && (!b.exists() || f.Kubernetes.EtcdData && !(has && m.Learner))
		controlPlane := h.Has(spec.RoleControlPlane) && (!b.exists() || f.Kubernetes.KubeletConfig)
		if member || controlPlane {
			marks = append(marks, b.markEstablishedOn(h, after...))
		}
	}
	return marks
}
