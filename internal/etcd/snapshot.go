package etcd

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/snapshot"
)

// SavedSnapshot is a snapshot on a host.
type SavedSnapshot struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	snapshot.Status
}

// Snapshot saves a snapshot of the member on this host, reads it again, and returns where it is. Label is the version that the cluster is
// about to change to (see facts.SnapshotBefore).
var Snapshot = host.Define("etcd.snapshot", func(ctx context.Context, label string) (SavedSnapshot, error) {
	client, err := FromHere("https://" + hostconfig.EtcdLoopback(listens))
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

// listens says that something accepts connections at an address.
func listens(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// SnapshotPiece asks for a piece of a snapshot on a host.
type SnapshotPiece struct {
	Name   string `json:"name"` // of the file
	Offset int64  `json:"offset"`
}

// pieceBytes fits into a reply.
const pieceBytes = 8 << 20

// ReadSnapshot reads a piece of a snapshot that Snapshot saved on this host. The last piece is empty.
var ReadSnapshot = host.Define("etcd.read-snapshot", func(_ context.Context, in SnapshotPiece) ([]byte, error) {
	return readPiece(facts.SnapshotDir, in)
}, host.Secret, host.Reads)

func readPiece(dir string, in SnapshotPiece) ([]byte, error) {
	file, err := snapshotFile(dir, in.Name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, in.Offset, pieceBytes))
}

// KeptSnapshot is a snapshot of another host that this one is to keep.
type KeptSnapshot struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// KeepSnapshot stores a snapshot that was saved on another host, and reads it again. It refuses to fill the disk.
var KeepSnapshot = host.DefineStream("etcd.keep-snapshot", func(ctx context.Context, in KeptSnapshot, r io.Reader) (SavedSnapshot, error) {
	return keep(ctx, facts.SnapshotDir, in, r)
}, host.Secret)

func keep(ctx context.Context, dir string, in KeptSnapshot, r io.Reader) (SavedSnapshot, error) {
	file, err := snapshotFile(dir, in.Name)
	if err != nil {
		return SavedSnapshot{}, err
	}
	if err := system.RoomForSnapshot(dir, in.Bytes); err != nil {
		return SavedSnapshot{}, err
	}
	out, err := save(ctx, file, r)
	if err != nil {
		return SavedSnapshot{}, err
	}
	return out, prune(dir)
}

// snapshotFile is where the snapshot of a name is.
func snapshotFile(dir, name string) (string, error) {
	if ok, err := filepath.Match(facts.SnapshotFiles, name); err != nil || !ok {
		return "", fmt.Errorf("%q is not the name of a snapshot", name)
	}
	return filepath.Join(dir, name), nil
}

// SnapshotSize is the size of a snapshot on a host, in bytes.
var SnapshotSize = host.Define("etcd.snapshot-size", func(_ context.Context, name string) (int64, error) {
	file, err := snapshotFile(facts.SnapshotDir, name)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}, host.Reads)

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

// prune removes old snapshots, but not the one from before a change of the version that may not be finished.
func prune(dir string) error {
	all, err := filepath.Glob(filepath.Join(dir, facts.SnapshotFiles))
	if err != nil {
		return err
	}
	kept := facts.KeptSnapshots(all, facts.SnapshotsKept)
	for _, old := range all {
		if slices.Contains(kept, old) {
			continue
		}
		if err := durable.Remove(old); err != nil {
			return err
		}
	}
	return nil
}
