package etcd

import (
	"context"
	"maps"
	"time"

	"quorate.dev/quorate/internal/facts"
)

const (
	// farBehind is how many entries of the log a member may have applied less than the leader. At as many that are committed and not applied,
	// etcd itself refuses requests.
	farBehind = 5000
	// lagLooks is in how many looks in a row a member must be far behind: the members are not asked at one moment, and a member that was away
	// catches up within a moment.
	lagLooks = 4
)

// behind are the members with a vote that are far behind the leader, by ID, and by how many entries of the log. There are none if no leader is
// known.
func behind(members []facts.EtcdMember) map[string]uint64 {
	var leader facts.EtcdMember
	for _, m := range members {
		if m.Leader && m.ClusterID != "" && m.RaftTerm >= leader.RaftTerm {
			leader = m
		}
	}
	out := map[string]uint64{}
	for _, m := range members {
		asked := m.ClusterID != "" && m.ClusterID == leader.ClusterID
		if asked && m.Started && !m.Learner && m.ID != leader.ID && m.AppliedIndex+farBehind < leader.AppliedIndex {
			out[m.ID] = leader.AppliedIndex - m.AppliedIndex
		}
	}
	return out
}

// lagging notes which members stay far behind the leader, and whether they come closer. Where one seems to be behind, again is called for more
// looks.
func lagging(ctx context.Context, members []facts.EtcdMember, again func() ([]facts.EtcdMember, error)) {
	first := behind(members)
	last := maps.Clone(first)
	for look := 1; look < lagLooks && len(last) > 0; look++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		seen, err := again()
		if err != nil {
			return // nothing is known
		}
		now := behind(seen)
		maps.DeleteFunc(last, func(id string, _ uint64) bool { _, still := now[id]; return !still })
		for id := range last {
			last[id] = now[id]
		}
	}
	for i, m := range members {
		if gap, lags := last[m.ID]; lags {
			members[i].Behind, members[i].CatchesUp = gap, gap < first[m.ID]
		}
	}
}
