package cluster

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/spec"
)

// RuleDead says that a host is removed by force only if it is known to be down.
const RuleDead = "known-to-be-down"

// depart finds the hosts that leave the cluster, and those that left it while they were down.
func (s *State) depart() {
	s.present = s.Spec
	record, err := s.Record()
	if record != nil && err == nil {
		for _, h := range record.Cluster().Spec.Hosts {
			if _, stays := s.Spec.Host(h.Name); !stays {
				s.departing = append(s.departing, s.Spec.Reachable(h))
			}
		}
		s.present = s.Spec.With(s.departing...).Balancing(s.Spec, record.Cluster())
		for i, h := range s.departing {
			s.departing[i], _ = s.present.Host(h.Name)
		}
		if now := record.Cluster().Endpoint(); now != s.Spec.Endpoint() {
			s.present = s.present.WithEndpoint(now)
		}
	}
	text := s.Seen.LastRemoved
	if s.Seen.API != nil {
		text = s.Seen.API.Removed
	}
	removed, err := spec.ParseHosts(text)
	if err != nil {
		return // only Quorate writes it, and a list that nobody can read holds nobody back
	}
	for _, h := range removed {
		s.listed = append(s.listed, h)
		again := slices.ContainsFunc(s.present.Spec.Hosts, func(o spec.Host) bool { return o.Name == h.Name || o.SharesAddress(h) })
		if !again {
			s.removed = append(s.removed, s.Spec.Reachable(h))
		}
	}
}

// Departing are the hosts of the cluster that the spec does not name any more, as the cluster recorded them. They are part of
// the cluster until they have left it: they count as members and servers, and are observed like all others.
func (s *State) Departing() []spec.Host { return slices.Clone(s.departing) }

// Departs says that the host is one of them.
func (s *State) Departs(host string) bool {
	return slices.ContainsFunc(s.departing, func(h spec.Host) bool { return h.Name == host })
}

// Retiring are the hosts of the spec that are load balancers of the cluster, as it recorded them, and that the spec does not have as
// load balancers any more. They are part of the load balancers until they have been stopped.
func (s *State) Retiring() []spec.Host {
	return slices.DeleteFunc(s.present.BalancerHosts(), func(h spec.Host) bool { return s.Departs(h.Name) || s.Spec.Balances(h) })
}

// Gains says that the host carries its other parts of the cluster already, and is to become a load balancer.
func (s *State) Gains(h spec.Host) bool {
	seen := s.Seen.Hosts[h.Name]
	configured := seen.Balancer != nil && (seen.Balancer.WrittenFor == s.Spec.Metadata.Name || seen.Balancer.Others != nil && seen.Balancer.Balances())
	return s.Exists() && s.Joined(h) && s.Spec.Balances(h) && !configured && seen.BalancerError == ""
}

// Present is the spec with the departing hosts and the retiring load balancers, everything that is part of the cluster, or will be, and
// with the endpoint that the cluster recorded: as long as the endpoint changes, that is the one that certainly answers.
func (s *State) Present() *spec.Cluster { return s.present }

// Reached is the spec with the endpoint that the cluster recorded. It is the spec itself unless the endpoint is to change.
func (s *State) Reached() *spec.Cluster {
	if now := s.present.Endpoint(); now != s.Spec.Endpoint() {
		return s.Spec.WithEndpoint(now)
	}
	return s.Spec
}

// Removed are the hosts that were removed while they were down, and that nobody has reset since. A host whose name or address
// the spec uses again is not among them.
func (s *State) Removed() []spec.Host { return slices.Clone(s.removed) }

// Listed are the hosts that the cluster remembers as removed, also those whose name or address the spec uses again.
func (s *State) Listed() []spec.Host { return slices.Clone(s.listed) }

// Cleared says that a host that was removed carries no part of this cluster any more: it was reset, or installed again.
func (s *State) Cleared(host string) bool {
	f := s.Facts(host)
	if f == nil {
		return false
	}
	k := f.Kubernetes
	lb := s.Seen.Hosts[host].Balancer
	return (lb == nil || lb.WrittenFor == "") && !carriesCluster(k) && k.CA == "" && !k.Established && !k.Begun && !k.Resetting && len(k.Clusters) == 0
}

// Ours says that a host that was removed carries this very cluster: it came back as it was.
func (s *State) Ours(host string) bool {
	f := s.Facts(host)
	if f == nil {
		return false
	}
	k := f.Kubernetes
	lb := s.Seen.Hosts[host].Balancer // a host that is only a load balancer has no other marks
	return k.CA != "" && SameAuthority(k.CA, s.ca) || k.CA == "" && (slices.Contains(k.Clusters, s.Spec.Metadata.Name) || lb != nil && lb.WrittenFor == s.Spec.Metadata.Name)
}

// Dead refuses to take a host for dead that cannot be reached: nil if everything that the others can see of it is down. An
// unreachable host may work. Its node is NotReady and its address silent for every host that was asked only if it does not.
func (s *State) Dead(h spec.Host) *Refusal {
	alive := func(transient bool, format string, args ...any) *Refusal {
		return &Refusal{Rule: RuleDead, Subjects: []string{h.Name}, Transient: transient,
			Why: fmt.Sprintf("%s cannot be reached (%s), and it is not known to be down: ", h.Name, s.whyUnreachable(h.Name)) + fmt.Sprintf(format, args...),
			Fix: "Make " + h.Name + " reachable, so that it can be drained and reset. Or, if it is lost for good, power it off, and run this again when `quorate status` shows it as down."}
	}
	if s.Reachable(h.Name) {
		return &Refusal{Rule: RuleDead, Subjects: []string{h.Name}, Why: h.Name + " can be reached", Fix: "It is drained and reset like any other host."}
	}
	if h.IsNode() {
		switch n := s.Node(h.Name); {
		case s.Seen.API == nil:
			return alive(true, "the API could not be read%s", after(": ", s.Seen.APIError))
		case n != nil && n.Ready:
			return alive(true, "its node is Ready")
		}
	}
	if m, is := s.Member(h.Name); is && m.Healthy {
		return alive(true, "its etcd member works")
	} else if s.MemberUnknown(h.Name) {
		return alive(true, "no etcd member could be asked%s", after(": ", s.Seen.EtcdError))
	}
	asked := 0
	by := s.Seen.Hosts[h.Name].SeenBy
	for _, name := range slices.Sorted(maps.Keys(by)) {
		switch a := by[name]; {
		case a.OK:
			return alive(false, "something answers %s at its address, %s", name, h.Address)
		case a.Known():
			asked++
		}
	}
	if asked == 0 {
		return alive(true, "no other host could try its address")
	}
	return nil
}

// departures reports the hosts that are about to leave, and those that left while they were down.
func (f *findings) departures() {
	for _, h := range f.departing {
		what := "host " + h.Name + " is not in the spec any more, and still is part of the cluster (" + strings.Join(h.Roles, ", ") + ")"
		if !f.Reachable(h.Name) {
			fix := "`quorate apply` removes it without draining and resetting it: it is down."
			if r := f.Dead(h); r != nil {
				fix = r.Fix
			}
			f.unmet(RuleDeparting, Warning, what+"; it cannot be reached: "+f.whyUnreachable(h.Name), fix, h.Name)
			continue
		}
		f.unmet(RuleDeparting, Warning, what, "`quorate apply` removes it. Or put it back into the spec.", h.Name)
	}
	for _, h := range f.Retiring() {
		f.unmet(RuleDeparting, Warning, "the spec does not have "+h.Name+" as a load balancer any more, and its load balancer is still part of the cluster", "`quorate apply` removes the load balancer from it. Or undo the edit.", h.Name)
	}
	for _, h := range f.removed {
		switch {
		case !f.Reachable(h.Name):
			f.add(RuleRemoved, Info, "host "+h.Name+" ("+h.Address+") was removed from the cluster while it was down, and was not reset", "If it comes back, run `quorate apply` to reset it. It cannot join by itself.", h.Name)
		case f.Cleared(h.Name):
			f.add(RuleRemoved, Info, "host "+h.Name+" ("+h.Address+"), which was removed while it was down, was reset or installed again", "`quorate apply` forgets it.", h.Name)
		case f.Ours(h.Name) && len(f.HeldBy(h.Name)) > 0:
			f.add(RuleRemoved, Critical, "host "+h.Name+" ("+h.Address+") is back, and has the virtual IP "+List(f.HeldBy(h.Name))+". It was removed from the cluster while it was down",
				"`quorate apply` resets it. Until then, clients that use this address reach a load balancer that nobody maintains.", h.Name)
		case f.Ours(h.Name):
			f.add(RuleRemoved, Warning, "host "+h.Name+" ("+h.Address+") is back. It was removed from the cluster while it was down, and is locked out: "+f.lockedOut(h), "`quorate apply` resets it.", h.Name)
		default:
			f.add(RuleRemoved, Warning, "a machine at "+h.Address+" answers for host "+h.Name+", which was removed while it was down, and carries another cluster", "Remove its entry from the list `removed-hosts` in the ConfigMap kube-system/quorate (`kubectl -n kube-system edit configmap quorate`).", h.Name)
		}
	}
}

// lockedOut says what keeps a removed host from taking part again.
func (s *State) lockedOut(h spec.Host) string {
	var out []string
	if h.IsNode() {
		out = append(out, "the API does not let its kubelet register")
	}
	switch {
	case slices.Contains(h.Roles, spec.RoleEtcd), h.Has(spec.RoleControlPlane) && s.Spec.StackedEtcd():
		out = append(out, "etcd does not accept its member")
	case h.Has(spec.RoleControlPlane):
		out = append(out, "but its API server can still use etcd with its client certificate, so reset it or power it off soon")
	}
	if s.Spec.Spec.LoadBalancer.Type == spec.BalancerManaged && (h.Has(spec.RoleLoadBalancer) || s.Spec.Balances(h)) {
		out = append(out, "the load balancers keep it as a standby")
	}
	return cmp.Or(strings.Join(out, "; "), "nothing of the cluster uses it")
}
