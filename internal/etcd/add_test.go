package etcd

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// growing is an etcd that takes learners and promotes them after some questions.
type growing struct {
	list   []*etcdserverpb.Member
	behind int
	added  int
}

func (g *growing) MemberList(context.Context, ...clientv3.OpOption) (*clientv3.MemberListResponse, error) {
	return &clientv3.MemberListResponse{Members: g.list}, nil
}

func (g *growing) MemberAddAsLearner(_ context.Context, urls []string) (*clientv3.MemberAddResponse, error) {
	g.added++
	g.list = append(g.list, &etcdserverpb.Member{ID: 0xd, PeerURLs: urls, IsLearner: true})
	return &clientv3.MemberAddResponse{Members: g.list}, nil
}

func (g *growing) MemberPromote(_ context.Context, id uint64) (*clientv3.MemberPromoteResponse, error) {
	if g.behind--; g.behind >= 0 {
		return nil, rpctypes.ErrMemberLearnerNotReady
	}
	for _, m := range g.list {
		if m.ID == id {
			m.IsLearner = false
		}
	}
	return &clientv3.MemberPromoteResponse{}, nil
}

// TestAMemberIsAddedOnce: whoever is killed in between calls it again.
func TestAMemberIsAddedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &growing{behind: 3, list: []*etcdserverpb.Member{{ID: 0xa, Name: "etcd-a", PeerURLs: []string{"https://10.0.0.11:2380"}}}}
		for range 2 {
			all, err := addLearner(t.Context(), g, "etcd-d", "https://10.0.0.14:2380")
			if err != nil || !slices.Equal(all, []string{"etcd-a=https://10.0.0.11:2380", "etcd-d=https://10.0.0.14:2380"}) || g.added != 1 {
				t.Fatalf("%v, %v, added %d times", all, err, g.added)
			}
		}
		waited := 0
		for range 2 {
			if err := promote(t.Context(), g, "https://10.0.0.14:2380", func(string) { waited++ }); err != nil || g.list[1].IsLearner {
				t.Fatal(err)
			}
		}
		if waited != 3 {
			t.Errorf("it waited %d times", waited)
		}
		if err := promote(t.Context(), g, "https://10.0.0.15:2380", func(string) {}); err == nil {
			t.Error("somebody was promoted who is no member")
		}
		g.list[1].IsLearner, g.behind = true, 1000
		ctx, cancel := context.WithTimeout(t.Context(), 10*promotePace)
		defer cancel()
		if err := promote(ctx, g, "https://10.0.0.14:2380", func(string) {}); !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
			t.Errorf("one that never catches up: %v", err)
		}
	})
}
