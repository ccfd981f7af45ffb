package cluster

import (
	"cmp"
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
