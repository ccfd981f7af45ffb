package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/host"
	_ "quorate.dev/quorate/internal/hostside"
	hostbackup "quorate.dev/quorate/internal/hostside/backup"
)

// backupFigures are those of one size.
type backupFigures struct {
	Etcd string `json:"etcd"`
	// EtcdBytes is the size of the snapshot.
	EtcdBytes   int64   `json:"etcdBytes"`
	Keys        int64   `json:"keys"`
	BackupBytes int64   `json:"backupBytes"`
	Seconds     float64 `json:"seconds"`
	// VerifySeconds is how long `backup verify` takes.
	VerifySeconds float64 `json:"verifySeconds"`
}

// backups takes a backup of etcds of several sizes into a directory, and verifies it.
func backups(ctx context.Context, o options) (any, error) {
	fmt.Printf("%-8s %12s %10s %12s %10s %10s\n", "etcd", "snapshot", "keys", "backup", "taken in", "verified in")
	var all []backupFigures
	for _, s := range o.sizes {
		f, err := backupOf(ctx, o, s)
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Printf("%-8s %9.1f MB %10d %9.1f MB %8.1f s %8.1f s\n", f.Etcd, float64(f.EtcdBytes)/1e6, f.Keys, float64(f.BackupBytes)/1e6, f.Seconds, f.VerifySeconds)
		all = append(all, f)
	}
	return all, nil
}

func backupOf(ctx context.Context, o options, s size) (f backupFigures, err error) {
	dir := filepath.Join(o.dir, s.name)
	kept := filepath.Join(dir, "store")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	cp, err := startControlPlane(ctx, dir)
	if err != nil {
		return f, err
	}
	defer cp.stop()
	if err := cp.fill(ctx, s.bytes); err != nil {
		return f, fmt.Errorf("filling etcd: %w", err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return f, err
	}
	c, err := host.Local(ctx, "bench")
	if err != nil {
		return f, err
	}
	defer c.Close()
	taken, err := hostbackup.Take.On(ctx, c, hostbackup.Request{Cluster: "bench", Host: "bench", Recipients: []string{identity.Recipient().String()},
		Location: backup.Location{Directory: kept}, Keep: backup.Retention{Last: 1}})
	if err != nil {
		return f, err
	}
	snapshot, _ := taken.Manifest.Part(backup.SnapshotPart)
	f = backupFigures{Etcd: s.name, EtcdBytes: snapshot.Bytes, Keys: taken.Manifest.Etcd.Keys, BackupBytes: taken.Bytes, Seconds: taken.Took.Seconds()}
	begin := time.Now()
	if err := verify(ctx, filepath.Join(kept, taken.File), dir, identity); err != nil {
		return f, fmt.Errorf("verifying the backup: %w", err)
	}
	f.VerifySeconds = time.Since(begin).Seconds()
	return f, nil
}

func verify(ctx context.Context, file, dir string, identity age.Identity) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	r, err := backup.Open(in, identity)
	if err != nil {
		return err
	}
	defer r.Close()
	scratch, err := os.MkdirTemp(dir, "v")
	if err != nil {
		return err
	}
	_, err = backup.Verify(ctx, r, scratch, nil)
	return err
}
