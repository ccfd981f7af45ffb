package drill

import (
	"cmp"
	"maps"
	"slices"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Limits are what follows from the hosts, and not from the cluster, for what can be injected.
type Limits struct {
	// Lab says that the hosts are machines of a lab: someone else has their power switches, and they share one kernel.
	Lab bool
	// OwnDisks says that each machine of the lab has a disk of its own. Hosts outside of a lab have.
	OwnDisks bool
	// NoNetem is why packets can be neither delayed nor reordered.
	NoNetem string
	// Cannot says why the hosts cannot be given more faults, by patterns for their names (see Match).
	Cannot map[string]string
}

// The roles of the hosts that have a kind of target.
var (
	leading   = []Role{Leader, Follower}
	balancing = []Role{Holder, Standby}
	important = []Role{Leader, Follower, Holder, Worker}
	anyRole   = []Role{Leader, Follower, Holder, Standby, Worker}
)

// targeted are faults that differ only in their role.
type targeted struct {
	target Target
	roles  []Role
}

// processes can be killed, hung, and stopped.
var processes = []targeted{{APIServer, leading}, {ControllerManager, leading}, {Scheduler, leading}, {Etcd, leading}, {Kubelet, []Role{Follower, Worker}},
	{Containerd, []Role{Follower, Worker}}, {KubeProxy, []Role{Worker}}, {Flannel, []Role{Worker}}, {CoreDNS, []Role{Any}}, {HAProxy, balancing}, {Keepalived, balancing}, {Watchdog, balancing}}

// allFaults are those of any cluster, apart from the names of zones.
var allFaults = []struct {
	kind    Kind
	targets []targeted
}{
	{Kill, processes}, {Hang, processes}, {Stop, processes},
	{PowerOff, []targeted{{Host, anyRole}, {Zone, nil}}}, {Freeze, []targeted{{Host, anyRole}}}, {Reboot, []targeted{{Host, anyRole}}},
	{Cut, []targeted{{Host, anyRole}, {Zone, nil}, {Incoming, important}, {Outgoing, important}, {VRRP, balancing}, {EtcdPeers, leading}, {Link, important}}},
	{Loss, []targeted{{Host, important}}}, {Fill, []targeted{{Disk, important}}}, {Slow, []targeted{{Disk, leading}}},
	{Press, []targeted{{CPU, important}, {Memory, important}}}, {Overload, []targeted{{API, leading}}},
}

// Catalogue lists every fault that a drill knows for this cluster, in a fixed order, and those that cannot be injected, each with the
// reason. It looks at the spec and at the programs that were found; whether a fault can be injected now, Place and the margins say.
func Catalogue(s *cluster.State, limits Limits) (faults []Fault, skipped []Skipped) {
	c := catalogue{s, limits, zonesOf(s.Spec)}
	for _, k := range allFaults {
		for _, t := range k.targets {
			for _, f := range c.faults(k.kind, t) {
				if why := c.hindrance(f); why != "" {
					skipped = append(skipped, Skipped{Name: f.Name(), Why: why})
				} else {
					faults = append(faults, f)
				}
			}
		}
	}
	netem := cmp.Or(limits.NoNetem, "this version of Quorate neither delays nor reorders packets")
	clock := "a clock that jumps disturbs everything else on the host, and putting it back does not undo that"
	if limits.Lab {
		clock = "the machines of a lab share the clock of this computer"
	}
	return faults, append(skipped, Skipped{Name: "delay/host", Why: netem}, Skipped{Name: "reorder/host", Why: netem},
		Skipped{Name: "fail/disk", Why: "a disk can be made to fail only below its file system, which would have to be set up for that beforehand"}, Skipped{Name: "jump/clock", Why: clock})
}

// OnHosts lists the faults of certain hosts, whatever their roles are: those of a drill that is to break one thing after the other. Those that cannot be
// injected are returned with the reason, as by Catalogue. A link has no host of its own.
func OnHosts(s *cluster.State, limits Limits) (faults []Fault, skipped []Skipped) {
	c := catalogue{s, limits, nil}
	for _, k := range allFaults {
		for _, t := range k.targets {
			if t.target == Zone || t.target == Link {
				continue
			}
			for _, h := range s.Spec.Spec.Hosts {
				f := Fault{Kind: k.kind, Target: t.target, On: h.Name}
				p := placing{State: s, fault: f}
				if t.target == CoreDNS && !h.IsNode() || t.target != CoreDNS && !p.has(h) { // where CoreDNS runs, Place finds out
					continue
				}
				if why := c.hindrance(f); why != "" {
					skipped = append(skipped, Skipped{Name: f.Name(), Target: h.Name, Why: why})
				} else {
					faults = append(faults, f)
				}
			}
		}
	}
	return faults, skipped
}

// zonesOf are the names of the zones of the spec, sorted.
func zonesOf(c *spec.Cluster) []string {
	zones := map[string]bool{}
	for _, h := range c.Spec.Hosts {
		zones[h.Zone] = true
	}
	return slices.Sorted(maps.Keys(zones))
}

type catalogue struct {
	*cluster.State
	limits Limits
	zones  []string
}

// faults are those of one kind and target.
func (c catalogue) faults(kind Kind, t targeted) (out []Fault) {
	if t.target == Zone {
		for _, zone := range c.zones {
			out = append(out, Fault{Kind: kind, Target: Zone, Zone: zone})
		}
		return out
	}
	for _, role := range t.roles {
		out = append(out, Fault{Kind: kind, Target: t.target, Role: role})
	}
	return out
}

// hindrance is why a fault can never be injected; empty if it can.
func (c catalogue) hindrance(f Fault) string {
	for _, patterns := range slices.Sorted(maps.Keys(c.limits.Cannot)) {
		if Match(patterns, f.Name()) {
			return c.limits.Cannot[patterns]
		}
	}
	switch {
	case f.Kind == PowerOff && !c.limits.Lab:
		return "only in a lab can Quorate give a machine its power back"
	case f.Kind == Freeze && !c.limits.Lab:
		return "only in a lab can Quorate suspend and resume a whole machine"
	case f.Kind == Stop && (f.Target == KubeProxy || f.Target == Flannel || f.Target == CoreDNS):
		return "it runs in pods that a DaemonSet or a Deployment replaces, so it cannot be stopped on one host; it can be killed and hung"
	case f.Kind == Fill && c.limits.Lab && !c.limits.OwnDisks:
		return "the machines of this lab share a disk with this computer"
	case f.Kind == Press && f.Target == Memory && c.limits.Lab:
		return "the machines of a lab share the memory of this computer"
	case f.Target == Zone && len(c.zones) < 2:
		return "all hosts are in one zone"
	case f.Target == Flannel && c.Spec.Spec.Network.CNI != spec.CNIFlannel:
		return "the pod network is not flannel"
	case f.Target == KubeProxy && !c.hasKubeProxy():
		return "the cluster has no kube-proxy"
	case f.Target == CoreDNS && c.Seen.API != nil && c.Seen.API.DNSVersion == "" && c.Seen.API.DNSReady == 0:
		return "the cluster has no CoreDNS"
	}
	return c.lacking(f)
}

// hasKubeProxy says that one is expected on a node, or that nobody can tell.
func (c catalogue) hasKubeProxy() bool {
	asked := false
	for _, h := range c.Spec.Spec.Hosts {
		if seen := c.Seen.Hosts[h.Name]; h.IsNode() && seen.Facts != nil {
			asked = true
			if _, expected := seen.Components[facts.KubeProxy]; expected {
				return true
			}
		}
	}
	return !asked
}

// elected says that the target has a leader of its own kind, whose lease is in the API.
func elected(t Target) bool { return t == ControllerManager || t == Scheduler }

// ofAPIServer says that the target is a part of a control plane.
func ofAPIServer(t Target) bool { return t == APIServer || t == API }

// ofEtcd says that the fault concerns an etcd member, or what two of them exchange, as far as its role is one in etcd. Of the disks, only those
// of members can be slow.
func ofEtcd(f Fault) bool {
	return f.Target == Etcd || f.Target == EtcdPeers || f.Target == Link || f.Kind == Slow
}

// lacking is which host the cluster does not have for the role, as its spec says; empty if it has one.
func (c catalogue) lacking(f Fault) string {
	controlPlanes, members := len(c.Spec.HostsWith(spec.RoleControlPlane)), len(c.Spec.EtcdHosts())
	balancers, workers := len(c.Spec.BalancerHosts()), len(c.Spec.HostsWith(spec.RoleWorker))
	switch f.Role {
	case Leader, Follower:
		switch {
		case elected(f.Target):
			if f.Role == Follower && controlPlanes < 2 {
				return "there is only one control plane"
			}
		case members == 0 && (f.Role == Leader || ofEtcd(f)):
			return "Quorate does not manage the etcd of this cluster"
		case f.Role == Leader && ofAPIServer(f.Target) && !c.Spec.StackedEtcd():
			return "etcd has hosts of its own, so no API server is next to its leader"
		case ofEtcd(f):
			need := 1
			if f.Role == Follower {
				need++
			}
			if f.Target == Link || f.Target == EtcdPeers && f.Role == Leader {
				need++ // the other end
			}
			if members < need {
				return "etcd has only " + ui.Plural(members, "member")
			}
		case f.Role == Follower && controlPlanes < 2 && c.Spec.StackedEtcd():
			return "there is only one control plane"
		}
	case Holder, Standby:
		switch {
		case balancers == 0:
			return "Quorate does not manage the load balancer of this cluster"
		case balancers < 2 && (f.Role == Standby || f.Target == VRRP):
			return "there is only one load balancer"
		}
	case Worker:
		switch {
		case workers == 0:
			return "the cluster has no workers"
		case workers < 2 && f.Target == Link:
			return "there is only one worker"
		}
	}
	return ""
}

// usual are the names of the faults of DefaultSet. The first one of each row that can be injected counts.
var usual = [][]string{
	{"kill/kube-apiserver/follower"}, {"hang/kube-apiserver/follower"}, {"kill/etcd/leader"}, {"hang/etcd/leader"}, {"kill/haproxy/holder"}, {"hang/haproxy/holder"}, {"kill/keepalived/holder"},
	{"power-off/host/leader", "cut/host/leader"}, {"power-off/host/follower", "cut/host/follower"}, {"power-off/host/holder", "cut/host/holder"}, {"cut/host/leader"},
}

// DefaultSet are the faults that a drill injects if nobody chooses: the single failures of what clients of the API depend on. A program
// of each kind is killed and hung, and hosts lose their power or, where nobody could give it back, their network. They are in the
// order in which they are given.
func DefaultSet(faults []Fault) []Fault {
	chosen := map[string]bool{}
	names := namesOf(faults)
	for _, row := range usual {
		if i := slices.IndexFunc(row, func(name string) bool { return slices.Contains(names, name) }); i >= 0 {
			chosen[row[i]] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(faults), func(f Fault) bool { return !chosen[f.Name()] })
}
