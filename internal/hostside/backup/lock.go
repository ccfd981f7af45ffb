package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"quorate.dev/quorate/internal/host"
)

const (
	// lockKey, in etcd, is there while a control plane takes a backup, and says which one. If that dies, etcd removes it after
	// lockSeconds.
	lockKey     = "/quorate.dev/backup-lock"
	lockSeconds = 30
	// leaveTimeout is how long giving up the lock may take. If it takes longer, the lock ends after lockSeconds.
	leaveTimeout = 5 * time.Second
)

// ErrBusy is in the error of Take if another control plane is taking a backup.
var ErrBusy = host.NewCause("backup-busy", "another control plane is taking a backup")

// errFull says that etcd accepts no writes, and so no lock, because its database is full.
var errFull = errors.New("the database of etcd is full (NOSPACE), and backups cannot be locked")

// errLost says that a lock is held no longer.
var errLost = errors.New("the lock on backups was lost, because etcd did not answer in time; another control plane may be taking a backup")

// holder is who holds the lock.
type holder struct {
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// locked runs f while this control plane holds the lock in etcd. When it loses the lock, f is interrupted, and what f compares in etcd with
// held is false.
func (p controlPlane) locked(ctx context.Context, client *clientv3.Client, f func(ctx context.Context, held *clientv3.Cmp) error) error {
	session, err := concurrency.NewSession(client, concurrency.WithTTL(lockSeconds), concurrency.WithContext(ctx))
	if err != nil {
		return unlockable(err)
	}
	defer func() {
		session.Orphan() // it must not be kept while it is given up
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		client.Revoke(ctx, session.Lease()) //nolint:errcheck // otherwise, the lease ends after lockSeconds
	}()
	text, err := json.Marshal(holder{p.host, time.Now().UTC()})
	if err != nil {
		return err
	}
	r, err := client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(lockKey), "=", 0)).
		Then(clientv3.OpPut(lockKey, string(text), clientv3.WithLease(session.Lease()))).Else(clientv3.OpGet(lockKey)).Commit()
	if err != nil {
		return unlockable(err)
	}
	if !r.Succeeded {
		return busy(r.Responses[0].GetResponseRange().Kvs[0].Value)
	}
	held := clientv3.Compare(clientv3.CreateRevision(lockKey), "=", r.Header.Revision)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-session.Done():
			cancel(errLost)
		case <-ctx.Done():
		}
	}()
	return f(ctx, &held)
}

func unlockable(err error) error {
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return fmt.Errorf("%w: %w", errFull, err)
	}
	return fmt.Errorf("locking backups in etcd: %w", err)
}

func busy(by []byte) error {
	var h holder
	if json.Unmarshal(by, &h) != nil || h.Host == "" {
		return fmt.Errorf("%w; wait until it is done", ErrBusy)
	}
	return fmt.Errorf("%w: %s began at %s. Wait until it is done; if it takes too long, it is ended after %d hours",
		ErrBusy, h.Host, h.Since.UTC().Format(time.RFC3339), int(mostPatience.Hours()))
}
