package etcd

import (
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestFollowersAreChosen(t *testing.T) {
	member := func(id uint64, change func(*clientv3.StatusResponse)) Candidate {
		s := &clientv3.StatusResponse{Header: &etcdserverpb.ResponseHeader{MemberId: id}, Leader: 1, RaftAppliedIndex: 5000}
		if change != nil {
			change(s)
		}
		return Candidate{URL: "https://10.0.0." + string(rune('0'+id)) + ":2379", Status: s}
	}
	prefer := func(address string) bool { return address == "10.0.0.3" }
	down := Candidate{URL: "https://10.0.0.9:2379", Err: errors.New("connection refused")}
	for name, c := range map[string]struct {
		all  []Candidate
		want uint64 // 0: none
	}{
		"a follower":                {[]Candidate{member(1, nil), member(2, nil)}, 2},
		"the one on the host":       {[]Candidate{member(1, nil), member(2, nil), member(3, nil)}, 3},
		"the leader is on the host": {[]Candidate{member(3, func(s *clientv3.StatusResponse) { s.Leader = 3 }), member(2, func(s *clientv3.StatusResponse) { s.Leader = 3 })}, 2},
		"only the leader":           {[]Candidate{member(1, nil), down}, 1},
		"an alarm":                  {[]Candidate{member(1, nil), member(2, func(s *clientv3.StatusResponse) { s.Errors = []string{"CORRUPT"} })}, 1},
		"no space":                  {[]Candidate{member(1, func(s *clientv3.StatusResponse) { s.Errors = []string{"memberID:2 alarm:NOSPACE "} }), member(2, func(s *clientv3.StatusResponse) { s.Errors = []string{"memberID:2 alarm:NOSPACE "} })}, 2},
		"a learner":                 {[]Candidate{member(1, nil), member(2, func(s *clientv3.StatusResponse) { s.IsLearner = true })}, 1},
		"behind":                    {[]Candidate{member(1, nil), member(2, func(s *clientv3.StatusResponse) { s.RaftAppliedIndex = 10 })}, 1},
		"no leader":                 {[]Candidate{member(2, func(s *clientv3.StatusResponse) { s.Leader = 0 })}, 0},
		"nobody":                    {[]Candidate{down}, 0},
	} {
		have, err := choose(c.all, prefer)
		switch {
		case c.want == 0 && err == nil:
			t.Errorf("%s: %s was chosen", name, have.URL)
		case c.want != 0 && (err != nil || have.Status.Header.MemberId != c.want):
			t.Errorf("%s: %s, %v", name, have.URL, err)
		}
	}
}
