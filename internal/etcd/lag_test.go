package etcd

import (
	"errors"
	"testing"
	"testing/synctest"

	"quorate.dev/quorate/internal/facts"
)

// applied are members a (the leader), b, and c that have applied as many entries.
func applied(leader, b, c uint64) []facts.EtcdMember {
	return []facts.EtcdMember{
		{ID: "a", ClusterID: "1", Started: true, Leader: true, RaftTerm: 3, AppliedIndex: leader},
		{ID: "b", ClusterID: "1", Started: true, RaftTerm: 3, AppliedIndex: b},
		{ID: "c", ClusterID: "1", Started: true, RaftTerm: 3, AppliedIndex: c},
	}
}

// TestMembersThatLag: only one that is far behind in each of several looks is, and whether it comes closer is noted, too.
func TestMembersThatLag(t *testing.T) {
	for name, tc := range map[string]struct {
		looks     [][]facts.EtcdMember
		behind    uint64 // of c
		catchesUp bool
		asked     int // how often the members are asked again
	}{
		"nobody":              {looks: [][]facts.EtcdMember{applied(20000, 19990, 16000)}},
		"for a moment":        {looks: [][]facts.EtcdMember{applied(20000, 20000, 9000), applied(20100, 20100, 20000)}, asked: 1},
		"it stays":            {looks: [][]facts.EtcdMember{applied(20000, 20000, 9000), applied(20100, 20100, 9000), applied(20200, 20200, 9000), applied(20300, 20300, 9000)}, behind: 11300, asked: 3},
		"nobody writes":       {looks: [][]facts.EtcdMember{applied(20000, 20000, 9000), applied(20000, 20000, 9000), applied(20000, 20000, 9000), applied(20000, 20000, 9000)}, behind: 11000, asked: 3},
		"it catches up":       {looks: [][]facts.EtcdMember{applied(90000, 90000, 9000), applied(90100, 90100, 29000), applied(90200, 90200, 49000), applied(90300, 90300, 69000)}, behind: 21300, catchesUp: true, asked: 3},
		"then nobody answers": {looks: [][]facts.EtcdMember{applied(20000, 20000, 9000), nil}, asked: 1},
		"a learner": {looks: [][]facts.EtcdMember{func() []facts.EtcdMember {
			m := applied(20000, 20000, 9000)
			m[2].Learner = true
			return m
		}()}},
		"no leader": {looks: [][]facts.EtcdMember{func() []facts.EtcdMember {
			m := applied(20000, 20000, 9000)
			m[0].Leader = false
			return m
		}()}},
		"it was not asked": {looks: [][]facts.EtcdMember{func() []facts.EtcdMember {
			m := applied(20000, 20000, 0)
			m[2].ClusterID = ""
			return m
		}()}},
		"one that led before": {looks: [][]facts.EtcdMember{func() []facts.EtcdMember {
			m := applied(9000, 8000, 9000) // its term is older, and it has not heard of that
			m[0].RaftTerm, m[1].Leader = 2, true
			return m
		}()}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				members := tc.looks[0]
				lagging(t.Context(), members, func() ([]facts.EtcdMember, error) {
					asked++
					if tc.looks[asked] == nil {
						return nil, errors.New("no member answers")
					}
					return tc.looks[asked], nil
				})
				if c := members[2]; c.Behind != tc.behind || c.CatchesUp != tc.catchesUp || members[0].Behind+members[1].Behind > 0 || asked != tc.asked {
					t.Errorf("%+v, after %d more looks", members, asked)
				}
			})
		})
	}
}
