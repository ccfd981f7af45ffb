package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/recovery"
	"quorate.dev/quorate/internal/spec"
)

// Recovery is what is recovered, and what becomes of everything else.
type Recovery struct {
	// Note is what the hosts note as long as it is under way.
	Note facts.EtcdRecovery `json:"note"`
	// Members are the hosts on which etcd ends, and APIServers those on which the API server ends.
	Members    []string `json:"members"`
	APIServers []string `json:"apiServers"`
	// Excluded are the control planes that could not be examined. They may come back as they were, so the load balancers send them no
	// clients until they have joined again.
	Excluded []string `json:"excluded,omitempty"`
	// Aside are the data that are set aside, by host.
	Aside map[string]Aside `json:"aside,omitempty"`
	// Missing says what is lost.
	Missing []string `json:"missing,omitempty"`
}

// Aside are data in place, as they were read.
type Aside struct {
	ClusterID string `json:"clusterID"`
	MemberID  string `json:"memberID"`
}

// Recover plans how etcd gets a quorum again that it has lost for good: everything that is left of it ends, one copy of its data
// becomes a cluster of one, and the API serves again. After that the cluster is complete, and Build plans how the other members join.
// It refuses what stands in the way of the decision in the observation (see package recovery). Now becomes part of names.
func Recover(s *cluster.State, now time.Time) (*Plan, error) {
	if r := s.NotOurs(); r != nil {
		return nil, refused(r.Rule, r.Why, "Recover it with what it was built with, or by hand: https://etcd.io/docs/latest/op-guide/recovery/.")
	}
	if r := s.UnfinishedRestore(""); r != nil {
		return nil, r
	}
	c := cluster.Change{Verb: cluster.Recover, Part: cluster.Quorum}
	if _, r := s.Allow(c); r != nil {
		return nil, r
	}
	j := s.Judgment()
	r := &Recovery{Missing: j.Missing, Aside: map[string]Aside{}}
	present := s.Present()
	for _, h := range present.Spec.Hosts {
		remains, examined := s.Seen.LostQuorum.Remains[h.Name]
		if !examined || remains.Error != "" {
			if h.Has(spec.RoleControlPlane) {
				r.Excluded = append(r.Excluded, h.Name)
			}
			continue
		}
		if h.Has(spec.RoleControlPlane) {
			r.APIServers = append(r.APIServers, h.Name)
		}
		if !slices.Contains(cluster.Names(present.EtcdHosts()), h.Name) {
			continue
		}
		r.Members = append(r.Members, h.Name)
		for _, copied := range remains.Copies {
			if copied.Kind == facts.CopyInPlace {
				r.Aside[h.Name] = Aside{copied.ClusterID, copied.MemberID}
			}
		}
	}
	b := resetBuilder(s)
	b.out.Unreachable = nil // the judgment says what is unknown
	var recovered *Step
	host := j.Placed
	if host == "" {
		host = j.Chosen.Host
		r.Note = note(s, j, now)
		stop := b.add(Step{Kind: StopMembers, Title: "stop what is left of etcd, and the API servers", Recovery: r, Change: &c,
			Reason: "no member of the old cluster may vote or serve any more; what they have stays"})
		recovered = b.add(Step{Kind: RecoverMember, Host: host, Title: "make a cluster of one from the data on " + j.Chosen.String(), Recovery: r, Change: &c,
			Reason: fmt.Sprintf("its log ends at term %d, index %d; the data that are in place on other hosts are renamed and kept", j.Chosen.LastTerm, j.Chosen.LastIndex)}, stop)
	} else {
		r.Note = *j.UnderWay
	}
	b.add(Step{Kind: ServeRecovered, Host: host, Title: "start etcd and the API", Recovery: r, Change: &c,
		Reason: "it ends when the API has accepted a write"}, recovered)
	b.out.Steps = b.list()
	return b.out, nil
}

// note is what the hosts note. A recovery from the same copy that was interrupted goes on under its old name.
func note(s *cluster.State, j *recovery.Judgment, now time.Time) facts.EtcdRecovery {
	d := s.Seen.LostQuorum.Decision
	out := facts.EtcdRecovery{Cluster: s.Spec.Metadata.Name, OldClusterID: j.ClusterID, Host: j.Chosen.Host, Path: j.Chosen.Path, Member: j.Chosen.MemberID,
		Decided: now.UTC(), Stamp: now.UTC().Format(facts.EtcdKeptStamp), Lost: d.Lost}
	if u := j.UnderWay; u != nil && u.Host == out.Host && u.Member == out.Member && u.OldClusterID == out.OldClusterID {
		out.Decided, out.Stamp = u.Decided, cmp.Or(u.Stamp, out.Stamp)
	}
	return out
}
