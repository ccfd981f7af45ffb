package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// removeTimeout is for one route to etcd: a change of members needs a majority and its disks.
const removeTimeout = 15 * time.Second

// ErrOtherMember is in the error of RemoveMember if etcd's list of members is no longer the one that the removal was decided
// on.
var ErrOtherMember = errors.New("the members of etcd have changed")

// RemoveMember removes a member from etcd, through any of the others. What is removed was decided on an observation, so the
// list is read again right before, from a majority: if the member is not what it was then (another peer URL, another name, a
// voter instead of a learner), or if it is in another cluster, nothing is removed and the error wraps ErrOtherMember. A member
// that is no longer in the list is removed already.
func RemoveMember(ctx context.Context, via []Member, m facts.EtcdMember) error {
	id, err := strconv.ParseUint(m.ID, 16, 64)
	if err != nil || id == 0 {
		return fmt.Errorf("removing the etcd member %s: it has no ID: %q", m.Name, m.ID)
	}
	if len(via) == 0 {
		return fmt.Errorf("removing the etcd member %s: no other member can be queried", m.Name)
	}
	var errs []error
	for _, v := range via {
		err := removeThrough(ctx, v, id, m)
		if err == nil || errors.Is(err, ErrOtherMember) {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", v.Conn.Name(), err))
	}
	return fmt.Errorf("removing the etcd member %s: %w", m.Name, errors.Join(errs...))
}

func removeThrough(ctx context.Context, via Member, id uint64, m facts.EtcdMember) error {
	client, err := Connect(ctx, via)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, removeTimeout, fmt.Errorf("no answer within %s", removeTimeout))
	defer cancel()
	return remove(ctx, client, id, m)
}

func remove(ctx context.Context, cluster clientv3.Cluster, id uint64, m facts.EtcdMember) error {
	list, err := cluster.MemberList(ctx) // linearizable, so that a member that lags behind does not answer from its own list
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list.Members, func(e *etcdserverpb.Member) bool { return e.ID == id })
	if have := strconv.FormatUint(list.Header.ClusterId, 16); m.ClusterID != "" && have != m.ClusterID {
		return fmt.Errorf("removing the etcd member %s: %w: this is the cluster %s, and the member's is %s", m.Name, ErrOtherMember, have, m.ClusterID)
	}
	if i < 0 {
		return nil
	}
	e := list.Members[i]
	switch {
	case m.PeerURL != "" && !slices.Contains(e.PeerURLs, m.PeerURL):
		err = fmt.Errorf("it is at %v, and was at %s", e.PeerURLs, m.PeerURL)
	case m.Started && e.Name != m.Name:
		err = fmt.Errorf("it is called %s", e.Name)
	case m.Learner && !e.IsLearner:
		err = errors.New("it was a learner, but now has a vote")
	}
	if err != nil {
		return fmt.Errorf("removing the etcd member %s (%s): %w: %w", m.Name, m.ID, ErrOtherMember, err)
	}
	if _, err := cluster.MemberRemove(ctx, id); !errors.Is(err, rpctypes.ErrMemberNotFound) {
		return err
	}
	return nil
}

// HasMember says whether etcd counts a member that has started at the address of a host, as a majority knows it. It asks
// through any of the others.
func HasMember(ctx context.Context, via []Member, address string) (has bool, _ error) {
	err := through(ctx, via, func(ctx context.Context, c *clientv3.Client) error {
		ctx, cancel := context.WithTimeoutCause(ctx, removeTimeout, fmt.Errorf("no answer within %s", removeTimeout))
		defer cancel()
		list, err := c.MemberList(ctx) // linearizable
		if err != nil {
			return err
		}
		has = slices.ContainsFunc(list.Members, func(m *etcdserverpb.Member) bool {
			return m.Name != "" && slices.Contains(m.PeerURLs, spec.PeerURL(address))
		})
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("reading the members of etcd: %w", err)
	}
	return has, nil
}
