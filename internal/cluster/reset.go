package cluster

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
)

// ruleEnd lets a cluster be removed as a whole only if it is the one of the spec: Quorate built or adopted it, or began to.
// Nothing else matters then, in whatever condition it is.
func (s *State) ruleEnd(c Change) *Refusal {
	if c.Part != WholeCluster {
		return nil
	}
	if c.Verb != Remove {
		return &Refusal{Rule: RuleOneCluster, Why: c.String() + " is not a change that Quorate makes", Fix: "`quorate plan` shows what it does."}
	}
	return s.NotOurs()
}

// NotOurs refuses to reset hosts of a cluster that is not the one of the spec, or that Quorate has nothing to do with; nil if they are ours.
func (s *State) NotOurs() *Refusal {
	if conflicts := s.Conflicts(); len(conflicts) > 0 {
		return conflicts[0]
	}
	if !s.Marked() && !s.Resetting() && (s.stage == Foreign || s.anyHost(carriesCluster)) {
		return &Refusal{Rule: RuleOneCluster, Why: "the cluster on these hosts was not built by Quorate, and it is not adopted",
			Fix: "To remove hosts from it, or all of it, use what it was built with, such as `kubeadm reset` on a host."}
	}
	return nil
}

// MissesMachines refuses to remove the whole cluster while the spec has hosts at other machines than the cluster: a machine of the cluster would keep running, with
// all that it stores, and one that has nothing to do with it would be reset. It is nil if nothing that can be asked says so.
func (s *State) MissesMachines() *Refusal {
	why, _, on := s.otherMachines()
	miss := func(host, format string, args ...any) {
		if !slices.Contains(on, host) {
			why, on = append(why, fmt.Sprintf(format, args...)), append(on, host)
		}
	}
	if !s.Spec.ExistingEtcd() {
		for _, m := range s.Seen.Etcd { // which answers also where no API server does
			h, known := s.present.Host(s.MemberHost(m))
			if at := peerAddress(m.PeerURL); known && at != "" && !m.Stranger() && !slices.Contains(h.AllAddresses(), at) {
				miss(h.Name, "etcd has the member %s at %s, and the spec has that host at %s", h.Name, at, h.Address)
			}
		}
	}
	for _, h := range s.Spec.Spec.Hosts {
		f := s.Facts(h.Name)
		if f == nil || len(f.Addresses) == 0 || !s.Cleared(h.Name) {
			continue
		}
		if _, has := f.Interface(h.Address); !has {
			miss(h.Name, "the machine that SSH reaches at %s, which is %s in the spec, does not have the address %s, and nothing of the cluster", h.SSHAddress(), h.Name, h.Address)
		}
	}
	if len(why) == 0 {
		return nil
	}
	return &Refusal{Rule: RuleFixed, Subjects: on, Why: whyOtherMachines(why),
		Fix: "Give the hosts in the spec the names and addresses that they have in the cluster, and run `quorate reset --all` again. Then edit the spec; `quorate apply` builds a new cluster."}
}

// Beyond names machines that parts of the cluster know and that no host of the spec is, while the API cannot say which hosts the cluster has: they may be part of it, or have
// left it.
func (s *State) Beyond() (out []string) {
	if s.Seen.API != nil {
		return nil
	}
	var known []string
	for _, h := range slices.Concat(s.present.Spec.Hosts, s.listed) {
		known = append(known, h.AllAddresses()...)
	}
	add := func(address, format string, args ...any) {
		if address == "" || slices.Contains(known, address) {
			return
		}
		known = append(known, address)
		out = append(out, fmt.Sprintf("the machine at %s, which is no host of the spec: %s. If it is part of the cluster, add it to the spec, and run `quorate reset --all` again", address, fmt.Sprintf(format, args...)))
	}
	if !s.Spec.ExistingEtcd() {
		for _, m := range s.Seen.Etcd {
			add(peerAddress(m.PeerURL), "etcd has the member %s there", m.Name)
		}
	}
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil {
			for _, member := range f.Kubernetes.EtcdInitial {
				name, peer, _ := strings.Cut(member, "=")
				add(peerAddress(peer), "the etcd of %s began with the member %s there", h.Name, name)
			}
		}
		if b := s.Seen.Hosts[h.Name].Balancer; b != nil && b.WrittenFor == s.Spec.Metadata.Name {
			for _, peer := range b.Peers {
				add(peer, "it is a peer of the load balancer %s", h.Name)
			}
		}
	}
	return out
}

// peerAddress is the IP address in the URL of an etcd member; empty if it has none.
func peerAddress(peer string) string {
	u, err := url.Parse(peer)
	if err != nil {
		return ""
	}
	a, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return ""
	}
	return a.String()
}

// Resetting says that a reset of some host began and did not end.
func (s *State) Resetting() bool {
	return s.anyHost(func(k facts.Kubernetes) bool { return k.Resetting })
}

// UnfinishedReset refuses to build on hosts of the spec of which a reset began and did not end; nil if there are none. What is
// left on such a host is half of something.
func (s *State) UnfinishedReset() *Refusal {
	on := s.beingReset()
	if len(on) == 0 {
		return nil
	}
	return &Refusal{Rule: RuleUnfinishedReset, Subjects: on, Why: unfinishedReset(on), Fix: s.fixUnfinishedReset(on)}
}

func (s *State) beingReset() (on []string) {
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil && f.Kubernetes.Resetting {
			on = append(on, h.Name)
		}
	}
	return on
}

func unfinishedReset(on []string) string { return "a reset of " + List(on) + " began and did not end" }

// fixUnfinishedReset names the command that was interrupted.
func (s *State) fixUnfinishedReset(on []string) string {
	if s.stage == Complete {
		return "Finish it: `quorate reset " + strings.Join(on, " ") + "`."
	}
	return "Finish it: `quorate reset --all`."
}

// resets reports hosts of which a reset did not end.
func (f *findings) resets() {
	if on := f.beingReset(); len(on) > 0 {
		f.unmet(RuleUnfinishedReset, Warning, unfinishedReset(on), f.fixUnfinishedReset(on), on...)
	}
}

// ruleNoPart lets a host be cleared only if no cluster counts on it.
func (s *State) ruleNoPart(c Change) *Refusal {
	if c.Verb != Clear || c.Part != WholeHost {
		return nil
	}
	if r := s.NotOurs(); r != nil {
		return r
	}
	h, known := s.Spec.Host(c.Subject)
	if !known {
		return nil // the caller has a session to it, and its marks were compared
	}
	refuse := func(transient bool, fix, format string, args ...any) *Refusal {
		return &Refusal{Rule: RuleNoPart, Subjects: []string{h.Name}, Transient: transient, Why: fmt.Sprintf("%s is not reset: ", h.Name) + fmt.Sprintf(format, args...), Fix: fix}
	}
	const all = "To start over, reset the whole cluster: `quorate reset --all`."
	k := facts.Kubernetes{}
	if f := s.Facts(h.Name); f != nil {
		k = f.Kubernetes
	}
	if k.Resetting {
		return nil // it left the cluster before its reset began
	}
	switch s.stage {
	case Absent:
		return nil
	case Partial:
		if k.EtcdData || len(k.EtcdInitial) > 0 {
			return refuse(false, all+" Or finish the build: `quorate apply`.", "etcd of an unfinished cluster began with its member, and a member that starts empty under the same name can lose what others have stored")
		}
		return nil
	case Undetermined:
		return refuse(true, "Bring these hosts up, or take them out of the spec. "+all, "whether a cluster counts on it cannot be told, because some hosts could not be queried: %s", s.unreachableText())
	case Unresponsive:
		if carriesCluster(k) || s.present.Balances(h) {
			return refuse(true, "`quorate status` shows what is wrong. "+all, "the cluster's API does not answer, so it cannot leave the cluster in order")
		}
		return nil
	}
	var parts []string
	if h.IsNode() && s.Node(h.Name) != nil && k.KubeletConfig {
		parts = append(parts, "it is a node")
	}
	if _, member := s.Member(h.Name); member {
		parts = append(parts, "etcd has a member for it")
	}
	if b := s.Seen.Hosts[h.Name].Balancer; s.present.Balances(h) && b != nil && b.Healthy && b.WrittenFor == s.Spec.Metadata.Name {
		parts = append(parts, "its load balancer works")
	}
	if s.MemberUnknown(h.Name) {
		parts = append(parts, "whether etcd has a member for it could not be queried")
	}
	if len(parts) > 0 {
		return refuse(s.anyNotUp(), "`quorate reset "+h.Name+"` makes it leave first.", "it is a part of the cluster: %s", strings.Join(parts, ", "))
	}
	return nil
}
