package etcddata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-semver/semver"
	etcdsnapshot "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/snapshot"
)

// startTimeout is how long an etcd may take to apply the log of a large cluster.
const startTimeout = 5 * time.Minute

// RebuildRequest says what becomes of a copy.
type RebuildRequest struct {
	// Source is a data directory on which no etcd runs. It stays as it is.
	Source string `json:"source"`
	// Work is a directory on the same file system as the new data. Its contents are removed.
	Work string `json:"work"`
	// Name and PeerURL are those of the new cluster's only member, and Token tells the new cluster from every other one.
	Name    string `json:"name"`
	PeerURL string `json:"peerURL"`
	Token   string `json:"token"`
	// Now is the time by the caller's clock: the revision at which the new cluster begins follows from it (see snapshot.BumpAt).
	Now time.Time `json:"now"`
}

// Rebuilt is what the new data contain.
type Rebuilt struct {
	// Member is the finished directory, which becomes DATADIR/member.
	Member string `json:"member"`
	// Revision is the one up to which the copy had writes, and NewRevision the one at which the new cluster begins.
	Revision    int64 `json:"revision"`
	NewRevision int64 `json:"newRevision"`
	// Kept are the entries at the end of the log of which the copy did not know that a majority had them. They count.
	Kept uint64        `json:"kept"`
	Took time.Duration `json:"tookNanoseconds"`
}

// Rebuild makes the data of a cluster with one member from a copy of a member's data, in three stages, each in a directory below Work:
//
// The copy's log is committed to its end. A follower learns late that a majority has an entry, so the last acknowledged writes are at
// the end of its log, and --force-new-cluster alone would drop them. An elected leader commits its whole log, too.
//
// An etcd applies that log, alone. It listens on sockets below Work only.
//
// The database becomes that of a new cluster, with another ID, so that no member of the old one can take part in it, and with
// revisions that are later than all that clients have seen.
func Rebuild(ctx context.Context, in RebuildRequest) (out Rebuilt, err error) {
	begin := time.Now()
	source := Member(in.Source)
	if err := os.RemoveAll(in.Work); err != nil {
		return out, err
	}
	if err := durable.MkdirAll(in.Work, 0o700); err != nil {
		return out, err
	}
	if err := space(in.Work, 3*size(source)); err != nil {
		return out, err
	}
	old := filepath.Join(in.Work, "old")
	if err := copyMember(source, filepath.Join(old, "member")); err != nil {
		return out, fmt.Errorf("copying %s: %w", source, err)
	}
	if out.Kept, err = commitAll(filepath.Join(old, "member")); err != nil {
		return out, fmt.Errorf("committing the end of the log: %w", err)
	}
	db := filepath.Join(old, "member", "snap", "db")
	had, err := readVersions(db)
	if err != nil {
		return out, err
	}
	if out.Revision, err = replay(ctx, in.Work, old); err != nil {
		return out, err
	}
	fresh := filepath.Join(in.Work, "new")
	bump := snapshot.BumpAt(in.Now, out.Revision)
	if err := etcdsnapshot.NewV3(zap.NewNop()).Restore(etcdsnapshot.RestoreConfig{
		SnapshotPath: db, SkipHashCheck: true, Name: in.Name, OutputDataDir: fresh, PeerURLs: []string{in.PeerURL},
		InitialCluster: in.Name + "=" + in.PeerURL, InitialClusterToken: in.Token, RevisionBump: uint64(bump), MarkCompacted: true,
	}); err != nil {
		return out, fmt.Errorf("making a new cluster of the data: %w", err)
	}
	out.NewRevision = out.Revision + bump
	if err := snapshot.ForgetAlarms(filepath.Join(fresh, "member", "snap", "db")); err != nil {
		return out, err
	}
	if err := had.restore(filepath.Join(fresh, "member", "snap", "db")); err != nil {
		return out, err
	}
	ready := filepath.Join(in.Work, "ready")
	if err := durable.MkdirAll(ready, 0o700); err != nil {
		return out, err
	}
	out.Member = filepath.Join(ready, "member")
	if err := durable.Rename(filepath.Join(fresh, "member"), out.Member); err != nil {
		return out, err
	}
	out.Took = time.Since(begin)
	return out, errors.Join(os.RemoveAll(old), os.RemoveAll(fresh))
}

// copyMember copies the files that etcd reads.
func copyMember(from, to string) error {
	for _, dir := range []string{"wal", "snap"} {
		if err := durable.MkdirAll(filepath.Join(to, dir), 0o700); err != nil {
			return err
		}
		files, err := os.ReadDir(filepath.Join(from, dir))
		if err != nil {
			return err
		}
		for _, f := range files {
			if !f.Type().IsRegular() || filepath.Ext(f.Name()) == ".tmp" {
				continue
			}
			if err := copyFile(filepath.Join(from, dir, f.Name()), filepath.Join(to, dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// commitAll says in the log of a member that a majority has all of its entries, and returns of how many it did not know that.
func commitAll(member string) (uint64, error) {
	dir, nop := filepath.Join(member, "wal"), zap.NewNop()
	known, err := wal.ValidSnapshotEntries(nop, dir)
	if err != nil {
		return 0, err
	}
	newest, err := snap.New(nop, filepath.Join(member, "snap")).LoadNewestAvailable(known)
	if err != nil && !errors.Is(err, snap.ErrNoSnapshot) {
		return 0, err
	}
	var from walpb.Snapshot
	if newest != nil {
		index, term := newest.GetMetadata().GetIndex(), newest.GetMetadata().GetTerm()
		from.Index, from.Term = &index, &term
	}
	var (
		w       *wal.WAL
		state   *raftpb.HardState
		entries []*raftpb.Entry
	)
	for repaired := false; ; repaired = true {
		if w, err = wal.Open(nop, dir, &from); err != nil {
			return 0, err
		}
		if _, state, entries, err = w.ReadAll(); err == nil {
			break
		}
		w.Close()
		if repaired || !errors.Is(err, io.ErrUnexpectedEOF) || !wal.Repair(nop, dir) { // an entry that was not written whole
			return 0, err
		}
	}
	last := from.GetIndex()
	if n := len(entries); n > 0 {
		last = entries[n-1].GetIndex()
	}
	var kept uint64
	if commit := state.GetCommit(); last > commit {
		kept = last - commit
		state.Commit = &last
		if err := w.Save(state, nil); err != nil {
			return 0, errors.Join(err, w.Close())
		}
	}
	return kept, w.Close()
}

// replay starts an etcd without its peers on a data directory, waits until it has applied its log, and stops it. It returns the
// revision.
func replay(ctx context.Context, work, dir string) (int64, error) {
	const name = "recovering"
	peer, client := url.URL{Scheme: "unix", Path: filepath.Join(work, "peer")}, url.URL{Scheme: "unix", Path: filepath.Join(work, "client")}
	config := embed.NewConfig()
	config.Name, config.Dir = name, dir
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.InitialCluster = name + "=" + peer.String()
	config.ForceNewCluster = true
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	config.QuotaBackendBytes = max(config.QuotaBackendBytes, 2*size(dir), 8<<30)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return 0, fmt.Errorf("starting an etcd on a copy of the data: %w", err)
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		return 0, fmt.Errorf("the etcd on a copy of the data stopped: %w", err)
	case <-time.After(startTimeout):
		return 0, fmt.Errorf("the etcd on a copy of the data was not ready within %s", startTimeout)
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	// It is ready when it has applied everything that was committed when it began to lead.
	if err := server.Server.LinearizableReadNotify(ctx); err != nil {
		return 0, fmt.Errorf("waiting until the etcd on a copy of the data has applied its log: %w", err)
	}
	return server.Server.KV().Rev(), nil
}

// versions are those that a database says that it has. The etcd that replays the log may be newer than the cluster's members, and must not
// make the database unreadable for them.
type versions struct {
	storage, cluster *semver.Version
}

func readVersions(file string) (v versions, err error) {
	be, err := open(file)
	if err != nil {
		return v, err
	}
	defer be.Close()
	tx := be.ReadTx()
	v.storage = schema.ReadStorageVersion(tx)
	v.cluster = schema.NewMembershipBackend(zap.NewNop(), be).ClusterVersionFromBackend()
	return v, nil
}

// restore gives a database the versions that it had.
func (v versions) restore(file string) error {
	be, err := open(file)
	if err != nil {
		return err
	}
	defer be.Close()
	if v.cluster != nil {
		schema.NewMembershipBackend(zap.NewNop(), be).MustSaveClusterVersionToBackend(v.cluster)
	}
	tx := be.BatchTx()
	tx.LockOutsideApply()
	if v.storage != nil {
		schema.UnsafeSetStorageVersion(tx, v.storage)
	} else {
		schema.UnsafeClearStorageVersion(tx)
	}
	tx.Unlock()
	be.ForceCommit()
	return nil
}

func open(file string) (backend.Backend, error) {
	if _, err := os.Stat(file); err != nil {
		return nil, fmt.Errorf("the database: %w", err)
	}
	return backend.NewDefaultBackend(zap.NewNop(), file), nil
}
