package etcd

import (
	"reflect"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
)

// TestJudge: what a member says of itself counts only where it has a leader and no alarm, and silence is no health.
func TestJudge(t *testing.T) {
	list := &clientv3.MemberListResponse{Members: []*pb.Member{
		{ID: 4, PeerURLs: []string{"https://10.0.0.4:2380"}, IsLearner: true},
		{ID: 3, Name: "c"}, {ID: 2, Name: "b"}, {ID: 1, Name: "a"}, {ID: 5, Name: "e"},
	}}
	status := func(member, leader uint64, errors ...string) *clientv3.StatusResponse {
		return &clientv3.StatusResponse{Header: &pb.ResponseHeader{MemberId: member}, Leader: leader, Errors: errors, DbSize: 7}
	}
	seen := map[uint64]*clientv3.StatusResponse{1: status(1, 1), 2: status(2, 0), 3: status(3, 1, "alarm: NOSPACE")}
	got := judge(list, seen, func(urls []string) string { return "host of " + urls[0] })
	want := []facts.EtcdMember{
		{Name: "a", Healthy: true, Leader: true, Started: true, DBSizeBytes: 7},
		{Name: "b", Started: true, DBSizeBytes: 7},
		{Name: "c", Started: true, DBSizeBytes: 7},
		{Name: "e", Started: true},
		{Name: "host of https://10.0.0.4:2380", Learner: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
