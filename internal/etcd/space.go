package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// compactTimeout and defragmentTimeout are for databases of several GiB on slow disks.
	compactTimeout    = 5 * time.Minute
	defragmentTimeout = 10 * time.Minute
	disarmTimeout     = 15 * time.Second

	// roomLeft is which part of its quota a database may use when the alarm is ended: otherwise it would be raised again soon.
	roomLeft = 0.9
)

// Compact forgets all revisions before the current one, through any of the members, and waits until the space is free for others.
// Clients whose watches are further behind list again. It does not make the database's file smaller: Defragment does.
func Compact(ctx context.Context, via []Member) error {
	err := through(ctx, via, func(ctx context.Context, c *clientv3.Client) error {
		ctx, cancel := context.WithTimeoutCause(ctx, compactTimeout, fmt.Errorf("not within %s", compactTimeout))
		defer cancel()
		return compact(ctx, c)
	})
	if err != nil {
		return fmt.Errorf("compacting etcd: %w", err)
	}
	return nil
}

func compact(ctx context.Context, c clientv3.KV) error {
	now, err := c.Get(ctx, "\x00", clientv3.WithCountOnly()) // by a majority: a member that lags would give an older revision
	if err != nil {
		return err
	}
	_, err = c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return err
}

// Defragment rewrites the database of one member without its free space. The member answers nothing meanwhile.
func Defragment(ctx context.Context, m Member) error {
	client, err := Connect(ctx, m)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, defragmentTimeout, fmt.Errorf("not within %s", defragmentTimeout))
	defer cancel()
	if _, err := client.Defragment(ctx, "https://"+m.Address); err != nil {
		return fmt.Errorf("defragmenting the database of the etcd member on %s: %w", m.Host, err)
	}
	return nil
}

// ErrFull is in the error of EndNoSpace if a database is still full of data that is in use.
var ErrFull = errors.New("the database of etcd is full of data that is in use")

// EndNoSpace ends the alarm NOSPACE, unless the database of a member still uses almost all of its quota.
func EndNoSpace(ctx context.Context, via []Member) error {
	members, _, err := Observe(ctx, via)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.QuotaBytes > 0 && float64(m.DBSizeBytes) > roomLeft*float64(m.QuotaBytes) {
			return fmt.Errorf("ending the alarm NOSPACE: %w: %s uses %d of %d MiB", ErrFull, m.Name, m.DBSizeBytes>>20, m.QuotaBytes>>20)
		}
	}
	return disarm(ctx, via, func(a *pb.AlarmMember, _ []*pb.Member) bool { return a.Alarm == pb.AlarmType_NOSPACE })
}

// EndStray ends the alarms that name a member that etcd does not have any more. Such an alarm counts for all members, and nobody
// else ends it.
func EndStray(ctx context.Context, via []Member) error {
	return disarm(ctx, via, func(a *pb.AlarmMember, members []*pb.Member) bool {
		return !slices.ContainsFunc(members, func(m *pb.Member) bool { return m.ID == a.MemberID })
	})
}

// EndCorrupt ends the alarm CORRUPT of a member whose data has been compared with that of the others since, and is the same.
func EndCorrupt(ctx context.Context, via []Member, id string) error {
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return fmt.Errorf("ending the alarm CORRUPT: the member has no ID: %q", id)
	}
	return disarm(ctx, via, func(a *pb.AlarmMember, _ []*pb.Member) bool {
		return a.Alarm == pb.AlarmType_CORRUPT && a.MemberID == n
	})
}

// disarm ends those alarms.
func disarm(ctx context.Context, via []Member, which func(*pb.AlarmMember, []*pb.Member) bool) error {
	err := through(ctx, via, func(ctx context.Context, c *clientv3.Client) error {
		ctx, cancel := context.WithTimeoutCause(ctx, disarmTimeout, fmt.Errorf("no answer within %s", disarmTimeout))
		defer cancel()
		return disarmThrough(ctx, c, which)
	})
	if err != nil {
		return fmt.Errorf("ending an alarm of etcd: %w", err)
	}
	return nil
}

// alarmed is the part of etcd's client that ending alarms needs.
type alarmed interface {
	MemberList(ctx context.Context, opts ...clientv3.OpOption) (*clientv3.MemberListResponse, error)
	AlarmList(ctx context.Context) (*clientv3.AlarmResponse, error)
	AlarmDisarm(ctx context.Context, m *clientv3.AlarmMember) (*clientv3.AlarmResponse, error)
}

func disarmThrough(ctx context.Context, c alarmed, which func(*pb.AlarmMember, []*pb.Member) bool) error {
	list, err := c.MemberList(ctx) // linearizable
	if err != nil {
		return err
	}
	alarms, err := c.AlarmList(ctx)
	if err != nil {
		return err
	}
	for _, a := range alarms.Alarms {
		if !which(a, list.Members) {
			continue
		}
		if _, err := c.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return err
		}
	}
	return nil
}
