package etcddata

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/server/v3/lease"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"

	"quorate.dev/quorate/internal/snapshot"
)

// SnapshotRequest says of which data a snapshot is made.
type SnapshotRequest struct {
	// Dir is a copy of a data directory that nobody else uses. It is changed.
	Dir string `json:"dir"`
	// Work is an existing directory for sockets, whose paths have to be short.
	Work string `json:"work"`
	// File is where the snapshot is written. It must not exist.
	File string `json:"file"`
	// Marks are those of encrypted values for which there are keys (see encryption.Mark). With Drop, keys whose values have other marks are not
	// in the snapshot: an API server that cannot decrypt one of them cannot list any object of its kind.
	Marks []string `json:"marks,omitempty"`
	Drop  bool     `json:"drop,omitempty"`
	// Secrets is the prefix of keys whose values are counted that are not encrypted.
	Secrets string `json:"secrets,omitempty"`
}

// Snapshotted is what a snapshot was made of.
type Snapshotted struct {
	// Revision is the one up to which the data had writes.
	Revision int64 `json:"revision"`
	// Kept are the entries at the end of the log of which the copy did not know that a majority had them. They count.
	Kept uint64 `json:"kept"`
	// Version is that of etcd's cluster, such as 3.6.0; empty if the data do not say it.
	Version string `json:"version,omitempty"`
	// Unreadable are the keys whose values are encrypted with other marks than those of the request, in their order.
	Unreadable []string `json:"unreadable,omitempty"`
	// Plain is how many keys below the prefix of the request have values that are not encrypted.
	Plain int `json:"plain,omitempty"`
}

// Snapshot makes a snapshot of a copy of a member's data, with everything that is in its log, as in the first two stages of Rebuild: the log is
// committed to its end, and an etcd applies it, alone. The same data give the same keys and values at the same revisions each time.
//
// A damaged database can end the process: run Snapshot in a process of its own.
func Snapshot(ctx context.Context, in SnapshotRequest) (out Snapshotted, err error) {
	member := filepath.Join(in.Dir, "member")
	if out.Kept, err = commitAll(member); err != nil {
		return out, fmt.Errorf("committing the end of the log: %w", err)
	}
	db := filepath.Join(member, "snap", "db")
	had, err := readVersions(db)
	if err != nil {
		return out, err
	}
	if had.cluster != nil {
		out.Version = had.cluster.String()
	}
	if out.Revision, err = replay(ctx, in.Work, in.Dir); err != nil {
		return out, err
	}
	if err := had.restore(db); err != nil {
		return out, err
	}
	marks, plain, err := snapshot.Sealed(db, in.Secrets)
	if err != nil {
		return out, err
	}
	out.Plain = plain
	for _, key := range slices.Sorted(maps.Keys(marks)) {
		if !slices.Contains(in.Marks, marks[key]) {
			out.Unreadable = append(out.Unreadable, key)
		}
	}
	if in.Drop && len(out.Unreadable) > 0 {
		if err := drop(db, out.Unreadable); err != nil {
			return out, err
		}
	}
	if err := space(filepath.Dir(in.File), size(filepath.Dir(db))); err != nil {
		return out, err
	}
	return out, seal(db, in.File)
}

// drop deletes keys in the database of a member that does not run.
func drop(db string, keys []string) (err error) {
	be, err := open(db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, be.Close()) }()
	kv := mvcc.New(zap.NewNop(), be, &lease.FakeLessor{}, mvcc.StoreConfig{})
	for _, key := range keys {
		kv.DeleteRange([]byte(key), nil)
	}
	kv.Commit()
	return kv.Close()
}

// seal copies a database into a snapshot file: with its sum at the end, as etcd writes it.
func seal(db, file string) error {
	in, err := os.Open(db)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), in)
	if err == nil {
		_, err = out.Write(sum.Sum(nil))
	}
	return errors.Join(err, out.Close())
}
