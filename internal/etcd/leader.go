package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/facts"
)

const (
	// moveTimeout is how long a member may take to become the leader: etcd itself gives up after its election timeout.
	moveTimeout = 5 * time.Second
	movePace    = 100 * time.Millisecond
)

// MoveLeader has the member at the end of the route hand leadership to one of the others, in the order of their preference. It
// returns the name of the new leader; empty if the member was not the leader.
func MoveLeader(ctx context.Context, from Member, to []facts.EtcdMember) (string, error) {
	client, err := Connect(ctx, from)
	if err != nil {
		return "", err
	}
	defer client.Close()
	return moveLeader(ctx, client, "https://"+from.Address, to)
}

// maintenance is the part of etcd's client that moving the leader needs.
type maintenance interface {
	Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error)
	MoveLeader(ctx context.Context, transferee uint64) (*clientv3.MoveLeaderResponse, error)
}

func moveLeader(ctx context.Context, client maintenance, endpoint string, to []facts.EtcdMember) (string, error) {
	leads := func() (bool, uint64, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
		defer cancel()
		st, err := client.Status(ctx, endpoint)
		if err != nil {
			return false, 0, err
		}
		return st.Leader == st.Header.MemberId, st.Leader, nil
	}
	leader, _, err := leads()
	if err != nil || !leader {
		return "", err
	}
	errs := []error{errors.New("no other member is ready to lead")}
	for _, m := range to {
		id, err := strconv.ParseUint(m.ID, 16, 64)
		if err != nil || id == 0 {
			continue
		}
		move, cancel := context.WithTimeoutCause(ctx, moveTimeout, fmt.Errorf("not within %s", moveTimeout))
		_, err = client.MoveLeader(move, id)
		for err == nil { // until the member knows of the new leader
			var now uint64
			if leader, now, err = leads(); err == nil && !leader && now != 0 {
				cancel()
				return m.Name, nil
			}
			select {
			case <-move.Done():
				err = context.Cause(move)
			case <-time.After(movePace):
			}
		}
		cancel()
		errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
	}
	return "", fmt.Errorf("moving etcd's leadership: %w", errors.Join(errs...))
}
