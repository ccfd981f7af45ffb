package drill

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

var everything = Limits{Lab: true, OwnDisks: true}

// remove takes hosts out of a cluster as if they had never been there.
func remove(f clustertest.Fixture, names ...string) {
	gone := func(name string) bool { return slices.Contains(names, name) }
	f.Spec.Spec.Hosts = slices.DeleteFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return gone(h.Name) })
	f.Seen.API.Nodes = slices.DeleteFunc(f.Seen.API.Nodes, func(n facts.Node) bool { return gone(n.Name) })
	f.Seen.Etcd = slices.DeleteFunc(f.Seen.Etcd, func(m facts.EtcdMember) bool { return gone(m.Name) })
	for _, name := range names {
		delete(f.Seen.Hosts, name)
		delete(f.Seen.Endpoint.Hosts, name)
	}
	for _, h := range f.Seen.Hosts {
		if h.Balancer != nil {
			h.Balancer.Backends = slices.DeleteFunc(h.Balancer.Backends, func(b facts.Backend) bool { return gone(b.Name) })
		}
	}
}

// colocated moves the load balancers to the control planes. cp-c has the virtual IP, and cp-b leads etcd.
func colocated() clustertest.Fixture {
	f := clustertest.Whole()
	servers := f.Seen.Hosts["lb-a"].Balancer.Backends
	remove(f, "lb-a", "lb-b")
	for _, h := range f.Spec.HostsWith(spec.RoleControlPlane) {
		f.Change(h.Name, func(seen *facts.Host) {
			seen.Balancer = &facts.Balancer{Healthy: true, Active: h.Name == "cp-c", WrittenFor: "lab", Backends: slices.Clone(servers)}
			seen.Facts.Units = map[string]string{"haproxy.service": "active", "keepalived.service": "active"}
			for _, p := range []string{facts.HAProxy, facts.Keepalived, facts.Watchdog} {
				seen.Components[p] = facts.Component{Answer: clustertest.OK()}
			}
		})
	}
	return f
}

// hyperconverged has the workloads on the control planes.
func hyperconverged() clustertest.Fixture {
	f := clustertest.Whole()
	remove(f, "w-a", "w-b")
	for i, h := range f.Spec.Spec.Hosts {
		if h.Has(spec.RoleControlPlane) {
			f.Spec.Spec.Hosts[i].Roles = append(slices.Clone(h.Roles), spec.RoleWorker)
		}
	}
	return f
}

// small are small clusters, whole and in other conditions, by name.
func small() map[string]func() clustertest.Fixture {
	out := map[string]func() clustertest.Fixture{}
	add := func(name string, make func() clustertest.Fixture, change func(clustertest.Fixture)) {
		out[name] = func() clustertest.Fixture {
			f := make()
			change(f)
			return f
		}
	}
	bases := map[string]func() clustertest.Fixture{
		"whole": clustertest.Whole, "colocated": colocated, "hyperconverged": hyperconverged,
		"external": func() clustertest.Fixture { f := clustertest.Whole(); f.External(); return f },
		"existing": func() clustertest.Fixture { f := clustertest.Whole(); f.Existing(); return f },
		"single": func() clustertest.Fixture {
			f := clustertest.Whole()
			remove(f, "cp-a", "cp-c", "w-b", "lb-b")
			return f
		},
		"own load balancer": func() clustertest.Fixture {
			f := clustertest.Whole()
			remove(f, "lb-a", "lb-b")
			f.Spec.Spec.LoadBalancer.Type = spec.BalancerExternal
			return f
		},
	}
	for base, make := range bases {
		add(base, make, func(clustertest.Fixture) {})
		add(base+", silent", make, func(f clustertest.Fixture) { f.Silent() })
		add(base+", unknown", make, func(f clustertest.Fixture) { f.AllUnknown() })
		add(base+", empty", make, func(f clustertest.Fixture) { f.Empty() })
		for i := range make().Seen.Etcd {
			add(fmt.Sprintf("%s, member %d leads", base, i), make, func(f clustertest.Fixture) {
				for j := range f.Seen.Etcd {
					f.Seen.Etcd[j].Leader = j == i
				}
			})
		}
		add(base+", nobody leads", make, func(f clustertest.Fixture) {
			for j := range f.Seen.Etcd {
				f.Seen.Etcd[j].Leader = false
			}
		})
		add(base+", two lead", make, func(f clustertest.Fixture) {
			for j := range f.Seen.Etcd {
				f.Seen.Etcd[j].Leader = j < 2
			}
		})
		hosts := make().Spec.Spec.Hosts
		for i, h := range hosts {
			add(base+", "+h.Name+" is dead", make, func(f clustertest.Fixture) { f.Dies(h.Name) })
			add(base+", "+h.Name+" is in maintenance", make, func(f clustertest.Fixture) {
				f.Seen.API.Maintenance = map[string]facts.Maintenance{h.Name: {Since: clustertest.Now}}
			})
			for _, o := range hosts[i+1:] {
				if base != "whole" && base != "colocated" {
					break
				}
				add(base+", "+h.Name+" and "+o.Name+" are dead", make, func(f clustertest.Fixture) { f.Dies(h.Name, o.Name) })
			}
			if make().Seen.Hosts[h.Name].Balancer != nil {
				add(base+", "+h.Name+" has the virtual IP", make, func(f clustertest.Fixture) {
					for name := range f.Seen.Hosts {
						if f.Seen.Hosts[name].Balancer != nil {
							f.Change(name, func(seen *facts.Host) { seen.Balancer.Active = name == h.Name })
						}
					}
				})
				add(base+", the load balancer on "+h.Name+" is unknown", make, func(f clustertest.Fixture) {
					f.Change(h.Name, func(seen *facts.Host) { seen.Balancer, seen.BalancerError = nil, "no answer" })
				})
			}
		}
	}
	return out
}

// placedIn is what the API would say.
var placedIn = Known{Leaders: map[Target]string{ControllerManager: "cp-b_0f3c", Scheduler: "CP-A_11aa"}, DNS: []string{"cp-a", "w-a", "cp-b"}}

// misplaced is what is wrong with an injection, as far as what was observed tells: the roles as docs/drill.md describes them.
func misplaced(f clustertest.Fixture, i Injection) string {
	roles := func(name string) []string { h, _ := f.Spec.Host(name); return h.Roles }
	has := func(role string) bool { return slices.Contains(roles(i.Host), role) }
	if i.Target == Zone {
		if i.Host != "" || i.Peer != "" || !slices.ContainsFunc(f.Spec.Spec.Hosts, func(h spec.Host) bool { return h.Zone == i.Zone }) {
			return "it is not the zone"
		}
		return ""
	}
	h, ok := f.Spec.Host(i.Host)
	balances := has(spec.RoleLoadBalancer) || has(spec.RoleControlPlane) && len(f.Spec.HostsWith(spec.RoleLoadBalancer)) == 0 && f.Spec.Spec.LoadBalancer.Type != spec.BalancerExternal
	member := has(spec.RoleEtcd) || has(spec.RoleControlPlane) && f.Spec.Spec.ControlPlane.Topology == spec.TopologyStacked
	leads := false
	switch {
	case i.Target == ControllerManager:
		leads = i.Host == "cp-b"
	case i.Target == Scheduler:
		leads = i.Host == "cp-a"
	default:
		for _, m := range f.Seen.Etcd {
			leads = leads || m.Leader && m.Name == i.Host
		}
	}
	seen := f.Seen.Hosts[i.Host]
	holds := seen.Balancer != nil && seen.Balancer.Active
	switch {
	case !ok:
		return "it is not a host of the spec"
	case seen.Facts == nil:
		return "the host could not be queried"
	case f.Seen.API == nil:
		return "nobody knows how the cluster is"
	case slices.Contains([]Target{APIServer, ControllerManager, Scheduler, API}, i.Target) && !has(spec.RoleControlPlane):
		return "it is not a control plane"
	case (slices.Contains([]Target{Etcd, EtcdPeers}, i.Target) || i.Kind == Slow) && !member:
		return "it has no etcd member"
	case slices.Contains([]Target{Kubelet, Containerd, KubeProxy, Flannel}, i.Target) && !h.IsNode():
		return "it is not a node"
	case slices.Contains([]Target{HAProxy, Keepalived, Watchdog, VRRP}, i.Target) && !balances:
		return "it is not a load balancer"
	case i.Target == CoreDNS && !slices.Contains(placedIn.DNS, i.Host):
		return "it has no CoreDNS"
	case (i.Peer != "") != (i.Target == Link), i.Peer == i.Host:
		return "its other end is wrong"
	}
	switch {
	case i.Role == Leader && !leads:
		return "it does not lead"
	case i.Role == Follower && (leads || holds || !has(spec.RoleControlPlane) && !has(spec.RoleEtcd)):
		return "it does not follow"
	case i.Role == Holder && !holds:
		return "it does not have the virtual IP"
	case i.Role == Standby && (holds || !balances):
		return "it is no standby"
	case i.Role == Worker && !has(spec.RoleWorker):
		return "it is not a worker"
	}
	return ""
}

func TestFaultsAreInjectedWhereTheyBelong(t *testing.T) {
	const lasts = 20 * time.Second
	placed, allowed, none := 0, 0, 0
	for name, make := range small() {
		f := make()
		s := cluster.Evaluate(f.Spec, f.Seen)
		faults, _ := Catalogue(s, everything)
		for _, fault := range faults {
			i, err := Place(s, fault, lasts, placedIn)
			if err != nil {
				none++
				if i != (Injection{}) || err.Error() == "" {
					t.Errorf("%s: %s: %+v, %v", name, fault.Name(), i, err)
				}
				continue
			}
			placed++
			if i.Fault != fault {
				t.Errorf("%s: %s became %s", name, fault.Name(), i.Name())
			}
			if wrong := misplaced(f, i); wrong != "" {
				t.Errorf("%s: %s on %s: %s", name, fault.Name(), i.Where(), wrong)
			}
			if want := map[bool]time.Duration{true: 0, false: lasts}[fault.Once()]; i.Lasts != want {
				t.Errorf("%s: %s lasts %s", name, fault.Name(), i.Lasts)
			}
			c := i.Change()
			if c.Verb != cluster.Stop || c.Part == cluster.WholeZone && c.Subject != fault.Zone || c.Part != cluster.WholeZone && c.Subject != i.Host {
				t.Errorf("%s: %s on %s: %s", name, fault.Name(), i.Where(), c)
			}
			if _, refused := s.Allow(c); refused != nil {
				continue
			}
			allowed++
			if worst := s.Worst(c).Placements(); quorum.Works(s.Placements()) && !quorum.Works(worst) {
				t.Errorf("%s: %s on %s is allowed and takes the cluster away: %+v", name, fault.Name(), i.Where(), worst)
			}
		}
	}
	t.Logf("%d injections, of which %d are allowed; %d times there is no place", placed, allowed, none)
	if placed < 2000 || allowed < 1000 || none < 2000 {
		t.Error("the clusters are too few to show anything")
	}
}

// In a cluster in which everything works, every fault of the catalogue has a place, and the cluster can spare it.
func TestEveryFaultHasAPlace(t *testing.T) {
	for name, f := range map[string]clustertest.Fixture{"whole": clustertest.Whole(), "external": small()["external"]()} {
		s := cluster.Evaluate(f.Spec, f.Seen)
		faults, _ := Catalogue(s, everything)
		if len(faults) < 90 {
			t.Errorf("%s: only %d faults", name, len(faults))
		}
		for _, fault := range faults {
			i, err := Place(s, fault, time.Second, placedIn)
			if err != nil {
				t.Errorf("%s: %s: %v", name, fault.Name(), err)
				continue
			}
			if _, refused := s.Allow(i.Change()); refused != nil {
				t.Errorf("%s: %s on %s: %v", name, fault.Name(), i.Where(), refused)
			}
		}
	}
}

func TestPlaces(t *testing.T) {
	for name, want := range map[string]string{
		"kill/kube-apiserver/leader": "cp-b api-programs", "hang/etcd/leader": "cp-b control-plane", "kill/etcd/follower": "cp-a control-plane",
		"kill/kube-controller-manager/leader": "cp-b api-programs", "kill/kube-controller-manager/follower": "cp-a api-programs", "kill/kube-scheduler/leader": "cp-a api-programs",
		"kill/haproxy/holder": "lb-a load-balancer", "hang/keepalived/standby": "lb-b load-balancer", "cut/vrrp/holder": "lb-a load-balancer",
		"power-off/host/leader": "cp-b", "power-off/host/holder": "lb-a", "freeze/host/standby": "lb-b", "reboot/host/worker": "w-a",
		"power-off/zone/b": "zone/b", "cut/link/leader": "cp-b:cp-a", "cut/link/follower": "cp-a:cp-c", "cut/link/holder": "lb-a:cp-a", "cut/link/worker": "w-a:w-b",
		"kill/coredns/any": "cp-a", "overload/api/follower": "cp-a",
	} {
		f := clustertest.Whole()
		s := cluster.Evaluate(f.Spec, f.Seen)
		faults, _ := Catalogue(s, everything)
		chosen, err := Select(faults, []string{name})
		if err != nil || len(chosen) != 1 {
			t.Errorf("%s: %v, %v", name, chosen, err)
			continue
		}
		i, err := Place(s, chosen[0], time.Second, placedIn)
		if got := strings.TrimSpace(i.Where() + " " + string(i.Takes)); err != nil || got != want {
			t.Errorf("%s is injected on %s (%v), want %s", name, got, err, want)
		}
	}
}

// Where the next failure would be one too many, no fault is allowed that could be it.
func TestWithoutAMarginNothingIsAllowed(t *testing.T) {
	for name, tc := range map[string]struct {
		make func() clustertest.Fixture
		dead string
		only string
	}{
		"etcd":           {clustertest.Whole, "cp-c", "*/etcd,cut/etcd-peers,*/host/leader,*/host/follower,*/zone/a,*/zone/b,cut/link/leader,fill/disk/leader,press/*/follower"},
		"load balancers": {clustertest.Whole, "lb-b", "*/haproxy,*/keepalived,*/watchdog,cut/vrrp/holder,*/host/holder,*/zone/a"},
		"workers":        {clustertest.Whole, "w-b", "*/kubelet/worker,*/containerd/worker,*/host/worker"},
		"external etcd":  {small()["external"], "etcd-c", "*/etcd,cut/etcd-peers,*/host/leader"},
		"API servers":    {small()["external"], "cp-b", "*/kube-apiserver,*/kube-scheduler,*/kube-controller-manager"},
		"a single host":  {small()["single"], "", "*"},
		"colocated":      {colocated, "cp-a", "*/host/leader,*/host/holder,*/host/standby,*/etcd"},
		"hyperconverged": {hyperconverged, "cp-a", "*/etcd,*/host/leader,*/host/follower"},
	} {
		f := tc.make()
		if tc.dead != "" {
			f.Dies(tc.dead)
		}
		s := cluster.Evaluate(f.Spec, f.Seen)
		all, _ := Catalogue(s, everything)
		faults, err := Select(all, []string{tc.only})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		placed := 0
		for _, fault := range faults {
			i, err := Place(s, fault, time.Second, placedIn)
			if err != nil {
				continue
			}
			placed++
			if _, refused := s.Allow(i.Change()); refused == nil {
				t.Errorf("%s: %s is allowed on %s", name, fault.Name(), i.Where())
			}
		}
		if placed == 0 {
			t.Errorf("%s: no fault has a place, so nothing was shown", name)
		}
	}
}

// A process that the cluster has elsewhere is less than its host.
func TestLessThanTheHostIsTaken(t *testing.T) {
	f := clustertest.Whole()
	f.Dies("cp-c") // etcd has no margin, and the API servers have
	s := cluster.Evaluate(f.Spec, f.Seen)
	i, err := Place(s, Fault{Kind: Kill, Target: APIServer, Role: Follower}, 0, placedIn)
	if err != nil || i.Host != "cp-a" {
		t.Fatalf("%+v, %v", i, err)
	}
	if _, refused := s.Allow(i.Change()); refused != nil {
		t.Error(refused)
	}
	if _, refused := s.Allow(Injection{Host: "cp-a"}.Change()); refused == nil {
		t.Error("the host can be lost")
	}
	// On a control plane with workloads, the node is lost with its API server.
	f = hyperconverged()
	s = cluster.Evaluate(f.Spec, f.Seen)
	if i, err := Place(s, Fault{Kind: Hang, Target: APIServer, Role: Leader}, time.Second, placedIn); err != nil || i.Change().Part != cluster.WholeHost {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestWhyThereIsNoPlace(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(clustertest.Fixture)
		fault  string
		known  []Known
		want   string
	}{
		"no known leader":    {func(clustertest.Fixture) {}, "kill/kube-scheduler/leader", nil, "which kube-scheduler leads is not known"},
		"a leader elsewhere": {func(clustertest.Fixture) {}, "kill/kube-scheduler/leader", []Known{{Leaders: map[Target]string{Scheduler: "other_1"}}}, "which kube-scheduler leads is not known"},
		"CoreDNS unknown":    {func(clustertest.Fixture) {}, "kill/coredns/any", nil, "where CoreDNS runs is not known"},
		"no leader":          {func(f clustertest.Fixture) { f.Seen.Etcd[1].Leader = false }, "hang/etcd/leader", nil, "which etcd member leads is not known"},
		"two leaders":        {func(f clustertest.Fixture) { f.Seen.Etcd[0].Leader = true }, "hang/etcd/leader", nil, "several etcd members say that they lead: cp-a and cp-b"},
		"no holder":          {func(f clustertest.Fixture) { f.Change("lb-a", func(h *facts.Host) { h.Balancer.Active = false }) }, "kill/haproxy/holder", nil, "no load balancer has the virtual IP"},
		"two holders":        {func(f clustertest.Fixture) { f.Change("lb-b", func(h *facts.Host) { h.Balancer.Active = true }) }, "kill/haproxy/standby", nil, "several load balancers have the virtual IP: lb-a and lb-b"},
		"an unknown holder": {func(f clustertest.Fixture) {
			f.Change("lb-a", func(h *facts.Host) { h.Balancer, h.BalancerError = nil, "no answer" })
		}, "kill/haproxy/holder", nil, "which load balancer has the virtual IP is not known: lb-a could not be queried"},
		"a dead leader": {func(f clustertest.Fixture) { f.Dies("cp-b"); f.Seen.Etcd[1].Leader = true }, "cut/host/leader", nil, "cp-b: it could not be queried: "},
		"a sick kubelet": {func(f clustertest.Fixture) {
			f.Component("w-a", facts.Kubelet, clustertest.Problem("timeout"))
			f.Component("w-b", facts.Kubelet, clustertest.Unknown("busy"))
		}, "hang/kubelet/worker", nil, "w-a: its kubelet does not work: timeout; w-b: whether its kubelet works is not known: busy"},
		"a dead one in it": {func(f clustertest.Fixture) { f.Dies("w-b") }, "power-off/zone/b", nil, "not everything in zone b works: w-b: it could not be queried"},
		"in maintenance":   {func(f clustertest.Fixture) { f.Seen.API.Maintenance = map[string]facts.Maintenance{"lb-b": {}} }, "kill/haproxy/standby", nil, "lb-b: it is in maintenance"},
		"no other end":     {func(f clustertest.Fixture) { f.Dies("cp-c") }, "cut/link/leader", nil, "cp-b: there is no other end of its link whose loss the cluster would survive"},
	} {
		f := clustertest.Whole()
		tc.change(f)
		s := cluster.Evaluate(f.Spec, f.Seen)
		parts := strings.Split(tc.fault, "/")
		fault := Fault{Kind: Kind(parts[0]), Target: Target(parts[1]), Role: Role(parts[2])}
		if fault.Target == Zone {
			fault.Role, fault.Zone = "", parts[2]
		}
		if i, err := Place(s, fault, time.Second, tc.known...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %+v, %v, want %q", name, i, err, tc.want)
		}
	}
}

// The last replica of CoreDNS has a place, and no permission: no rule for changes knows it.
func TestTheLastReplicaOfCoreDNS(t *testing.T) {
	f := clustertest.Whole()
	s := cluster.Evaluate(f.Spec, f.Seen)
	kill := Fault{Kind: Kill, Target: CoreDNS, Role: Any}
	for name, tc := range map[string]struct {
		dns     []string
		refused bool
	}{"one replica": {[]string{"w-a"}, true}, "both on one node": {[]string{"w-a", "w-a"}, true}, "two nodes": {[]string{"w-a", "w-b"}, false}} {
		i, err := Place(s, kill, 0, Known{DNS: tc.dns})
		if err != nil || i.Host != "w-a" {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
		if _, r := Permit(s, i); (r != nil) != tc.refused || r != nil && !strings.Contains(r.Why, "w-a has the only replica of CoreDNS") {
			t.Errorf("%s: %v", name, r)
		}
		if _, r := PermitBeyond(s, i, true); r != nil {
			t.Errorf("%s: beyond the margins of a lab: %v", name, r)
		}
	}
}

// Faults of certain hosts are injected there, whatever their roles are, and nowhere else.
func TestFaultsOfHosts(t *testing.T) {
	for name, make := range map[string]func() clustertest.Fixture{"whole": clustertest.Whole, "colocated": colocated, "hyperconverged": hyperconverged, "external": small()["external"], "existing": small()["existing"]} {
		f := make()
		s := cluster.Evaluate(f.Spec, f.Seen)
		faults, skipped := OnHosts(s, everything)
		on := map[string]int{}
		for _, fault := range faults {
			i, err := Place(s, fault, time.Second, placedIn)
			if fault.Target == CoreDNS && !slices.Contains(placedIn.DNS, fault.On) {
				if err == nil {
					t.Errorf("%s: %s is injected where CoreDNS does not run", name, fault.Name())
				}
				continue
			}
			if err != nil || i.Host != fault.On || i.Fault != fault || i.Change().Subject != fault.On {
				t.Errorf("%s: %s: %+v, %v", name, fault.Name(), i, err)
				continue
			}
			on[fault.On]++
			if wrong := misplaced(f, i); wrong != "" {
				t.Errorf("%s: %s: %s", name, fault.Name(), wrong)
			}
		}
		for _, h := range f.Spec.Spec.Hosts {
			if on[h.Name] == 0 {
				t.Errorf("%s: no fault is for %s", name, h.Name)
			}
		}
		for _, x := range skipped {
			if x.Why == "" || x.Target == "" {
				t.Errorf("%s: %+v", name, x)
			}
		}
	}
	// Without a margin, they have a place, and a permission only beyond the margins.
	f := clustertest.Whole()
	f.Dies("cp-c")
	s := cluster.Evaluate(f.Spec, f.Seen)
	i, err := Place(s, Fault{Kind: Stop, Target: Etcd, On: "cp-a"}, time.Second, placedIn)
	if err != nil {
		t.Fatal(err)
	}
	if _, r := Permit(s, i); r == nil || r.Rule != cluster.RuleEnough {
		t.Errorf("%v", r)
	}
	if _, r := PermitBeyond(s, i, true); r != nil {
		t.Error(r)
	}
	if _, r := PermitBeyond(s, i, false); r == nil || r.Rule != cluster.RuleOnlyInLab {
		t.Errorf("outside of a lab: %v", r)
	}
	if _, err := Place(s, Fault{Kind: Stop, Target: HAProxy, On: "cp-a"}, time.Second, placedIn); err == nil || !strings.Contains(err.Error(), "cp-a has no haproxy") {
		t.Errorf("a program that the host does not have: %v", err)
	}
}
