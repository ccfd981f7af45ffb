package etcd

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
)

// members is an etcd that changes its list.
type members struct {
	clientv3.Cluster
	list    []*etcdserverpb.Member
	removed []uint64
}

func (m *members) MemberList(_ context.Context, opts ...clientv3.OpOption) (*clientv3.MemberListResponse, error) {
	if len(opts) > 0 {
		return nil, errors.New("asked for a list that may be old")
	}
	return &clientv3.MemberListResponse{Header: &etcdserverpb.ResponseHeader{ClusterId: 0xc1}, Members: m.list}, nil
}

func (m *members) MemberRemove(_ context.Context, id uint64) (*clientv3.MemberRemoveResponse, error) {
	m.removed = append(m.removed, id)
	return &clientv3.MemberRemoveResponse{}, nil
}

// TestOnlyTheMemberThatWasMeant is removed: between the look and the removal the list may have changed.
func TestOnlyTheMemberThatWasMeant(t *testing.T) {
	learner := facts.EtcdMember{Name: "cp-d", ID: "d", ClusterID: "c1", PeerURL: "https://10.0.0.14:2380", Learner: true}
	started := learner
	started.Started, started.Learner = true, false
	for name, tc := range map[string]struct {
		meant   facts.EtcdMember
		is      *etcdserverpb.Member
		removed bool
		refused bool
	}{
		"a learner":                       {meant: learner, is: &etcdserverpb.Member{ID: 0xd, PeerURLs: []string{"https://10.0.0.14:2380"}, IsLearner: true}, removed: true},
		"a learner that started":          {meant: learner, is: &etcdserverpb.Member{ID: 0xd, Name: "cp-d", PeerURLs: []string{"https://10.0.0.14:2380"}, IsLearner: true}, removed: true},
		"a voter":                         {meant: started, is: &etcdserverpb.Member{ID: 0xd, Name: "cp-d", PeerURLs: []string{"https://10.0.0.14:2380"}}, removed: true},
		"removed already":                 {meant: learner},
		"a learner that was promoted":     {meant: learner, is: &etcdserverpb.Member{ID: 0xd, Name: "cp-d", PeerURLs: []string{"https://10.0.0.14:2380"}}, refused: true},
		"a member that moved":             {meant: learner, is: &etcdserverpb.Member{ID: 0xd, PeerURLs: []string{"https://10.0.0.15:2380"}, IsLearner: true}, refused: true},
		"a member of another name":        {meant: started, is: &etcdserverpb.Member{ID: 0xd, Name: "cp-e", PeerURLs: []string{"https://10.0.0.14:2380"}}, refused: true},
		"a member of another cluster":     {meant: facts.EtcdMember{Name: "cp-d", ID: "d", ClusterID: "c2"}, is: &etcdserverpb.Member{ID: 0xd}, refused: true},
		"removed, and of another cluster": {meant: facts.EtcdMember{Name: "cp-d", ID: "d", ClusterID: "c2"}, refused: true},
	} {
		m := &members{list: []*etcdserverpb.Member{{ID: 0xa, Name: "cp-a", PeerURLs: []string{"https://10.0.0.11:2380"}}}}
		if tc.is != nil {
			m.list = append(m.list, tc.is)
		}
		err := remove(t.Context(), m, 0xd, tc.meant)
		if errors.Is(err, ErrOtherMember) != tc.refused || err != nil && !tc.refused || (len(m.removed) == 1 && m.removed[0] == 0xd) != tc.removed {
			t.Errorf("%s: removed %v, %v", name, m.removed, err)
		}
	}
	for _, id := range []string{"", "0", "cp-d"} {
		if err := RemoveMember(t.Context(), []Member{{}}, facts.EtcdMember{Name: "cp-d", ID: id}); err == nil {
			t.Errorf("a member with the ID %q was removed", id)
		}
	}
	if err := RemoveMember(t.Context(), nil, learner); err == nil {
		t.Error("a member was removed through nobody")
	}
}
