package etcd

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/snapshot"
)

const (
	// snapshotsKept are the last ones; older ones are removed.
	snapshotsKept = 3

	localClient = "127.0.0.1:2379"
)

// SavedSnapshot is a snapshot on a host.
type SavedSnapshot struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	snapshot.Status
}

// Snapshot saves a snapshot of the member on this host, reads it again, and returns where it is. Label says before what it was
// saved.
var Snapshot = host.Define("etcd.snapshot", func(ctx context.Context, label string) (SavedSnapshot, error) {
	client, err := FromHere("https://" + localClient)
	if err != nil {
		return SavedSnapshot{}, err
	}
	defer client.Close()
	out, err := Save(ctx, client, filepath.Join(facts.SnapshotDir, time.Now().UTC().Format("20060102T150405Z")+"-before-"+label+".db"))
	if err != nil {
		return SavedSnapshot{}, err
	}
	return out, prune(facts.SnapshotDir)
})

// Save saves a snapshot of the member at the other end of a client, and reads it again.
func Save(ctx context.Context, client *clientv3.Client, file string) (SavedSnapshot, error) {
	in, err := client.Snapshot(ctx)
	if err != nil {
		return SavedSnapshot{}, fmt.Errorf("saving a snapshot of etcd: %w", err)
	}
	defer in.Close()
	return save(ctx, file, in)
}

func save(ctx context.Context, file string, in io.Reader) (SavedSnapshot, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return SavedSnapshot{}, err
	}
	f, err := durable.Create(file, 0o600)
	if err != nil {
		return SavedSnapshot{}, err
	}
	defer f.Abort()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), in)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return SavedSnapshot{}, fmt.Errorf("saving the snapshot %s: %w", file, err)
	}
	out := SavedSnapshot{File: file, Bytes: n, SHA256: fmt.Sprintf("%x", sum.Sum(nil))}
	if out.Status, err = snapshot.Read(f.Name()); err != nil {
		return SavedSnapshot{}, fmt.Errorf("the snapshot %s is damaged: %w", file, err)
	}
	return out, f.Commit()
}

// prune removes old snapshots.
func prune(dir string) error {
	all, err := filepath.Glob(filepath.Join(dir, "*-before-*.db"))
	if err != nil {
		return err
	}
	slices.Sort(all) // by time
	for _, old := range all[:max(0, len(all)-snapshotsKept)] {
		if err := durable.Remove(old); err != nil {
			return err
		}
	}
	return nil
}
