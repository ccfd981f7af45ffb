package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/spec"
)

// promotePace is how often a learner is asked to be promoted: etcd refuses until it has caught up.
const promotePace = 500 * time.Millisecond

// membership is the part of etcd's client that adding a member needs.
type membership interface {
	MemberList(ctx context.Context, opts ...clientv3.OpOption) (*clientv3.MemberListResponse, error)
	MemberAddAsLearner(ctx context.Context, peerAddrs []string) (*clientv3.MemberAddResponse, error)
	MemberPromote(ctx context.Context, id uint64) (*clientv3.MemberPromoteResponse, error)
}

// AddLearner adds a member without a vote, through any of the others. A member at the same address stays as it is, so it can be
// called again. It returns all members, each as name=peerURL, as the new one is told of them.
func AddLearner(ctx context.Context, via []Member, name, peerURL string) (out []string, _ error) {
	err := through(ctx, via, func(ctx context.Context, c *clientv3.Client) (err error) {
		out, err = addLearner(ctx, c, name, peerURL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("adding the etcd member %s: %w", name, err)
	}
	return out, nil
}

func addLearner(ctx context.Context, c membership, name, peerURL string) (out []string, _ error) {
	list, err := c.MemberList(ctx)
	if err != nil {
		return nil, err
	}
	all := list.Members
	if !slices.ContainsFunc(all, func(m *etcdserverpb.Member) bool { return slices.Contains(m.PeerURLs, peerURL) }) {
		added, err := c.MemberAddAsLearner(ctx, []string{peerURL})
		if err != nil {
			return nil, err
		}
		all = added.Members
	}
	for _, m := range all {
		for _, url := range m.PeerURLs {
			if url == peerURL {
				out = append(out, name+"="+url)
			} else if m.Name != "" {
				out = append(out, m.Name+"="+url)
			}
		}
	}
	return out, nil
}

// Promote gives the member at an address its vote, as soon as it has caught up. One that has it stays as it is.
func Promote(ctx context.Context, via []Member, name, address string, note func(string)) error {
	err := through(ctx, via, func(ctx context.Context, c *clientv3.Client) error {
		return promote(ctx, c, spec.PeerURL(address), note)
	})
	if err != nil {
		return fmt.Errorf("promoting the etcd member %s: %w", name, err)
	}
	return nil
}

func promote(ctx context.Context, c membership, peerURL string, note func(string)) error {
	for {
		list, err := c.MemberList(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Members, func(m *etcdserverpb.Member) bool { return slices.Contains(m.PeerURLs, peerURL) })
		switch {
		case i < 0:
			return errors.New("etcd has no member at " + peerURL)
		case !list.Members[i].IsLearner:
			return nil
		}
		_, err = c.MemberPromote(ctx, list.Members[i].ID)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
			return err
		}
		note("it is catching up")
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-time.After(promotePace):
		}
	}
}

// through does something by one of the members, the next if that fails.
func through(ctx context.Context, via []Member, do func(context.Context, *clientv3.Client) error) error {
	errs := []error{errors.New("no other member can be asked")}
	for _, v := range via {
		client, err := Connect(ctx, v)
		if err == nil {
			err = do(ctx, client)
			client.Close()
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", v.Host, err))
	}
	if len(errs) > 1 {
		errs = errs[1:]
	}
	return errors.Join(errs...)
}
