package etcd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
)

// elections is a member that knows who leads.
type elections struct {
	leader  uint64
	refuses []uint64 // that cannot become the leader
	asked   []uint64
}

const ownID = 0xa

func (e *elections) Status(context.Context, string) (*clientv3.StatusResponse, error) {
	return &clientv3.StatusResponse{Header: &etcdserverpb.ResponseHeader{MemberId: ownID}, Leader: e.leader}, nil
}

func (e *elections) MoveLeader(_ context.Context, to uint64) (*clientv3.MoveLeaderResponse, error) {
	e.asked = append(e.asked, to)
	if slices.Contains(e.refuses, to) {
		return nil, errors.New("etcdserver: bad leader transferee")
	}
	e.leader = to
	return &clientv3.MoveLeaderResponse{}, nil
}

func TestMoveLeader(t *testing.T) {
	to := []facts.EtcdMember{{Name: "unknown"}, {Name: "cp-b", ID: "b"}, {Name: "cp-c", ID: "c"}}
	for name, tc := range map[string]struct {
		e     elections
		to    []facts.EtcdMember
		want  string
		asked []uint64
		fails string
	}{
		"it leads":                   {elections{leader: ownID}, to, "cp-b", []uint64{0xb}, ""},
		"it does not":                {elections{leader: 0xb}, to, "", nil, ""},
		"nobody does":                {elections{}, to, "", nil, ""},
		"the first one cannot":       {elections{leader: ownID, refuses: []uint64{0xb}}, to, "cp-c", []uint64{0xb, 0xc}, ""},
		"none can":                   {elections{leader: ownID, refuses: []uint64{0xb, 0xc}}, to, "", []uint64{0xb, 0xc}, "bad leader transferee"},
		"there is nobody else ready": {elections{leader: ownID}, nil, "", nil, "no other member is ready"},
	} {
		got, err := moveLeader(t.Context(), &tc.e, "https://10.0.0.11:2379", tc.to)
		if got != tc.want || !slices.Equal(tc.e.asked, tc.asked) || (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
			t.Errorf("%s: %q, %v, asked %x", name, got, err, tc.e.asked)
		}
	}
}
