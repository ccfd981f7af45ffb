package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Abandoned says that the host runs an etcd member of a cluster that a recovery of the quorum has replaced. Such members may be a majority of
// their cluster, and then they serve what does not count any more.
func (s *State) Abandoned(host string) bool { return s.Seen.AbandonedOn(host) != "" }

// ServesAbandoned says that the API server of a control plane may serve what a recovery of the quorum has replaced: a member of such a cluster runs on
// its host or, with etcd on hosts of its own, on one of those that it uses.
func ServesAbandoned(c *spec.Cluster, seen *facts.Observation, host string) bool {
	if c.StackedEtcd() {
		return seen.AbandonedOn(host) != ""
	}
	uses := etcdServers(seen.Hosts[host].Facts)
	return slices.ContainsFunc(seen.EtcdAbandoned, func(m facts.EtcdMember) bool {
		h, known := c.Host(m.Name)
		return known && slices.Contains(uses, hostconfig.EtcdClientURL(h))
	})
}

// etcdServers are the client URLs that the API server of a control plane was started with.
func etcdServers(f *facts.Facts) []string {
	if f == nil || f.Kubernetes.Flags[facts.EtcdServersFlag] == "" {
		return nil
	}
	return strings.Split(f.Kubernetes.Flags[facts.EtcdServersFlag], ",")
}

// FormerEtcd are the client URLs that the API server of a control plane uses and at which etcd has no member, where a recovery of the quorum has replaced
// an etcd: if the machines there come back as they were, it serves what does not count any more, in turn with what does.
func (s *State) FormerEtcd(host string) []string {
	if !s.Spec.ManagedEtcd() || len(s.Seen.Etcd) == 0 || len(s.Seen.AbandonedEtcds()) == 0 {
		return nil
	}
	return slices.DeleteFunc(etcdServers(s.Facts(host)), func(server string) bool {
		return slices.ContainsFunc(s.present.EtcdHosts(), func(h spec.Host) bool {
			_, member := s.Member(h.Name)
			return member && server == hostconfig.EtcdClientURL(h)
		})
	})
}

// ruleFormerEtcd keeps clients from an API server that may use an etcd that a recovery has replaced.
func (s *State) ruleFormerEtcd(c Change) *Refusal {
	if c.Part != PoolServer || c.Verb != Start || s.restarted[c.Subject] || !s.Spec.ManagedEtcd() || len(s.Seen.AbandonedEtcds()) == 0 {
		return nil
	}
	if s.Facts(c.Subject) == nil || len(s.Seen.Etcd) == 0 {
		return &Refusal{Rule: RuleUnknown, Transient: true, Subjects: []string{c.Subject}, Why: fmt.Sprintf("%s is not safe: the quorum of etcd was recovered, and whether the API server on %s uses only etcd's members of today could not be queried", c, c.Subject),
			Fix: "`quorate status` shows why."}
	}
	former := s.FormerEtcd(c.Subject)
	if len(former) == 0 {
		return nil
	}
	return &Refusal{Rule: RuleOneEtcd, Subjects: []string{c.Subject}, Why: fmt.Sprintf("the API server on %s also uses %s, where etcd has had no member since its quorum was recovered: a machine that comes back there has the data of the cluster before", c.Subject, List(former)),
		Fix: "Run `quorate apply`: it restarts this API server with etcd's members of today, and then sends clients to it."}
}

// abandoned are the hosts with such a member, and the clusters of these.
func (s *State) abandoned() (hosts, clusters []string) {
	for _, m := range s.Seen.EtcdAbandoned {
		hosts = append(hosts, m.Name)
		if !slices.Contains(clusters, m.ClusterID) {
			clusters = append(clusters, m.ClusterID)
		}
	}
	slices.Sort(hosts)
	slices.Sort(clusters)
	return hosts, clusters
}

// NoneAbandoned refuses to go on while members run that a recovery has replaced; nil if none does.
func (s *State) NoneAbandoned() *Refusal {
	hosts, clusters := s.abandoned()
	if len(hosts) == 0 {
		return nil
	}
	fix := "Run `quorate repair`: it stops these members, keeps their data aside, and has the hosts join etcd again. What was written to them since the recovery is only in the data that is kept."
	if !slices.ContainsFunc(s.Seen.Etcd, func(m facts.EtcdMember) bool { return m.Healthy }) {
		fix = "Bring the recovered cluster back first: until it works, their data is kept in place. Then run `quorate repair`, which has these hosts join it. If it is lost, `quorate recover` shows what is left."
	}
	return &Refusal{Rule: RuleOneEtcd, Subjects: hosts, Why: fmt.Sprintf("etcd on %s belongs to the cluster %s, which a recovery has replaced, and clients may write to it", List(hosts), List(clusters)), Fix: fix}
}

// OneEtcd refuses to go on while members of several etcd clusters run, and nobody knows which of them counts; nil if there is one.
func (s *State) OneEtcd() *Refusal {
	ids, on := s.etcdClusters()
	if len(ids) < 2 || s.Spec.ExistingEtcd() {
		return nil
	}
	var parts, all []string
	for _, id := range ids {
		parts, all = append(parts, List(on[id])+" in "+id), append(all, on[id]...)
	}
	return &Refusal{Rule: RuleOneEtcd, Subjects: all, Why: "the etcd members belong to different clusters: " + strings.Join(parts, "; "),
		Fix: "Find out which of them has the data that you need. Then reset the others one by one (`quorate reset HOST`), and run it again: they join as new members."}
}

// etcdClusters are the IDs of the clusters to which members say that they belong, and the hosts of these members.
func (s *State) etcdClusters() (ids []string, on map[string][]string) {
	on = map[string][]string{}
	for _, m := range s.Seen.Etcd {
		id := cmp.Or(m.OtherCluster, m.ClusterID)
		if id == "" {
			continue
		}
		if on[id] == nil {
			ids = append(ids, id)
		}
		on[id] = append(on[id], s.MemberHost(m))
	}
	slices.Sort(ids)
	return ids, on
}
