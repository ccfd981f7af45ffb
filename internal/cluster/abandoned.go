package cluster

import (
	"fmt"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
)

// Abandoned says that the host runs an etcd member of a cluster that a recovery of the quorum has replaced. Such members may be a majority of
// their cluster, and then they serve what does not count any more.
func (s *State) Abandoned(host string) bool { return s.Seen.AbandonedOn(host) != "" }

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
	return &Refusal{Rule: RuleOneEtcd, Subjects: hosts, Why: fmt.Sprintf("etcd on %s belongs to the cluster %s, which a recovery has replaced, and clients may write to it", List(hosts), List(clusters)), Fix: fixAbandoned}
}

const fixAbandoned = "Run `quorate repair`: it stops these members, keeps their data aside, and has the hosts join etcd again. What was written to them since the recovery is only in the data that is kept."

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
		if m.ClusterID == "" {
			continue
		}
		if on[m.ClusterID] == nil {
			ids = append(ids, m.ClusterID)
		}
		on[m.ClusterID] = append(on[m.ClusterID], s.MemberHost(m))
	}
	slices.Sort(ids)
	return ids, on
}

// OtherEtcd is the cluster of a member, if it is another one than that of the other members; empty otherwise. The member is in their list
// only because it answers where one of them was, or could be, and they cannot remove it.
func (s *State) OtherEtcd(m facts.EtcdMember) string {
	if m.ClusterID == "" {
		return ""
	}
	_, on := s.etcdClusters()
	for id, hosts := range on {
		if id != m.ClusterID && len(hosts) >= len(on[m.ClusterID]) {
			return m.ClusterID
		}
	}
	return ""
}
