package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// RemoveMember removes a member by its ID in hexadecimal, asking any of the other members. It reads the list immediately
// before: a member that is not there any more needs no removal.
func RemoveMember(ctx context.Context, others []Member, id string) error {
	want, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return fmt.Errorf("removing an etcd member: %q is not the ID of one", id)
	}
	var errs []error
	for _, m := range others {
		if err := remove(ctx, m, want); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Conn.Name(), err))
			continue
		}
		return nil
	}
	return fmt.Errorf("removing the etcd member %s: %w", id, errors.Join(errs...))
}

func remove(ctx context.Context, m Member, id uint64) error {
	client, err := Connect(ctx, m)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, member := range list.Members {
		if member.ID == id {
			_, err := client.MemberRemove(ctx, id)
			return err
		}
	}
	return nil
}
