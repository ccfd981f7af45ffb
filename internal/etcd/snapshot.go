package etcd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/system"
)

const (
	// snapshotsKept are the last ones; older ones are removed.
	snapshotsKept = 3

	localClient = "127.0.0.1:2379"
)

// SavedSnapshot is a snapshot on a host.
type SavedSnapshot struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// Snapshot saves a snapshot of the member on this host, reads it again, and returns where it is. Label says before what it was
// saved.
var Snapshot = host.Define("etcd.snapshot", func(ctx context.Context, label string) (SavedSnapshot, error) {
	pem, err := kubeadm.LocalEtcdClient()
	if err != nil {
		return SavedSnapshot{}, err
	}
	client, err := connect([]string{"https://" + localClient}, pem)
	if err != nil {
		return SavedSnapshot{}, err
	}
	defer client.Close()
	snapshot, err := client.Snapshot(ctx)
	if err != nil {
		return SavedSnapshot{}, fmt.Errorf("saving a snapshot: %w", err)
	}
	defer snapshot.Close()
	out, err := save(ctx, facts.SnapshotDir, time.Now().UTC().Format("20060102T150405Z")+"-before-"+label+".db", snapshot)
	if err != nil {
		return SavedSnapshot{}, err
	}
	if _, err := system.Output(ctx, "etcdutl", "snapshot", "status", out.File); err != nil {
		return SavedSnapshot{}, fmt.Errorf("checking the snapshot %s: %w", out.File, err)
	}
	return out, nil
})

// save stores a snapshot under a name and removes old ones. etcd appends the SHA-256 of the database to it.
func save(ctx context.Context, dir, name string, snapshot io.Reader) (SavedSnapshot, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return SavedSnapshot{}, err
	}
	f, err := durable.Create(filepath.Join(dir, name), 0o600)
	if err != nil {
		return SavedSnapshot{}, err
	}
	defer f.Abort()
	n, err := io.Copy(f, snapshot)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return SavedSnapshot{}, fmt.Errorf("saving the snapshot %s: %w", name, err)
	}
	if err := whole(f.Name(), n); err != nil {
		return SavedSnapshot{}, fmt.Errorf("the snapshot %s is damaged: %w", name, err)
	}
	if err := f.Commit(); err != nil {
		return SavedSnapshot{}, err
	}
	all, err := filepath.Glob(filepath.Join(dir, "*-before-*.db"))
	if err != nil {
		return SavedSnapshot{}, err
	}
	slices.Sort(all) // by time
	for _, old := range all[:max(0, len(all)-snapshotsKept)] {
		if err := durable.Remove(old); err != nil {
			return SavedSnapshot{}, err
		}
	}
	return SavedSnapshot{File: filepath.Join(dir, name), Bytes: n}, nil
}

// whole reads a file again and compares it with the sum at its end.
func whole(file string, size int64) error {
	if size <= sha256.Size || size%512 != sha256.Size {
		return fmt.Errorf("it has %d bytes, and no sum at its end", size)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, size-sha256.Size); err != nil {
		return err
	}
	said, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if !slices.Equal(said, sum.Sum(nil)) {
		return errors.New("its content does not match the sum at its end")
	}
	return nil
}
