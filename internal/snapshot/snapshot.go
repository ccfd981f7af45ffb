// Package snapshot reads snapshot files of etcd and tries them out, without an etcd on the machine: it links etcd's own code.
package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
)

// Status is what a snapshot file says about itself, as `etcdutl snapshot status` prints it.
type Status struct {
	Hash     uint32 `json:"hash"`
	Revision int64  `json:"revision"`
	Keys     int64  `json:"keys"`
}

// Read compares a snapshot file with the SHA-256 that etcd appended to it, and reads all of its database.
func Read(file string) (out Status, err error) {
	// In this order: the database is mapped into memory, and a damaged one can end the process.
	if err := whole(file); err != nil {
		return Status{}, err
	}
	defer func() {
		if p := recover(); p != nil { // etcd's code expects its own buckets
			err = fmt.Errorf("its database is damaged: %v", p)
		}
	}()
	st, err := snapshot.NewV3(zap.NewNop()).Status(file)
	if err != nil {
		return Status{}, fmt.Errorf("its database is damaged: %w", err)
	}
	return Status{st.Hash, st.Revision, int64(st.TotalKey)}, nil
}

// whole reads a file and compares it with the sum at its end.
func whole(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size <= sha256.Size || size%512 != sha256.Size {
		return fmt.Errorf("it has %d bytes, and no sum at its end", size)
	}
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

// Restored is what an etcd said that was restored from a snapshot.
type Restored struct {
	Revision int64 `json:"revision"`
	Keys     int64 `json:"keys"`
	// KVHash is the hash of its keys since its compaction at CompactRevision.
	KVHash          uint32        `json:"kvHash"`
	CompactRevision int64         `json:"compactRevision"`
	Took            time.Duration `json:"tookNanoseconds"`
}

// Member is a member of a new etcd cluster that begins with the content of a snapshot.
type Member struct {
	Name    string
	PeerURL string
	// Cluster are all members, each as name=peerURL, and Token is the token of the new cluster: they determine its ID.
	Cluster []string
	Token   string
}

// writesPerSecond is more than an etcd can write.
const writesPerSecond = 100_000

// epoch is before the first cluster that Quorate made.
var epoch = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)

// RevisionBump is how much the revision is raised where the clock cannot be right. etcd's documentation recommends a tenth of it, which is a
// week of 1500 writes per second.
const RevisionBump = 10_000_000_000

// BumpAt is how much the revision of a snapshot, or of a copy of a member's data, is raised by what makes a new cluster of it now: clients
// that saw later revisions must never see them again with other content. Where the new cluster begins follows from the time alone, and no
// etcd has written so much since the epoch. So it does not matter which copy is used, how old it is, and how often it was used before: what
// is made later begins above everything that was written to what was made earlier. A larger step than that would break this: an older copy
// that is used next would begin below it.
func BumpAt(now time.Time, revision int64) int64 {
	if begin := int64(now.Sub(epoch)/time.Second) * writesPerSecond; begin > revision {
		return begin - revision
	}
	return RevisionBump
}

// Restore makes the data directory dir of a member from a snapshot that Read accepted. All members of the new cluster must be restored from
// the same snapshot, and with the same bump: by so much is the revision raised, and everything up to then counts as compacted. A watch that wants
// to go on from an earlier revision is told so, instead of being given a history that has gaps.
func Restore(file, dir string, m Member, bump int64) error {
	if bump <= 0 {
		return fmt.Errorf("the revision has to be raised, and not by %d", bump)
	}
	if err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, OutputDataDir: dir, Name: m.Name, PeerURLs: []string{m.PeerURL},
		InitialCluster: strings.Join(m.Cluster, ","), InitialClusterToken: m.Token, RevisionBump: uint64(bump), MarkCompacted: true,
	}); err != nil {
		return err
	}
	return ForgetAlarms(filepath.Join(dir, "member", "snap", "db"))
}

// ForgetAlarms ends the alarms in the database of a member of a new cluster that was not started yet. They are of members of the cluster before, and
// count for all members of the new one: with the alarm NOSPACE, it would accept no write, and with CORRUPT answer nothing. An alarm that has its
// reasons is raised again.
func ForgetAlarms(db string) (err error) {
	be := backend.NewDefaultBackend(zap.NewNop(), db)
	defer func() { err = errors.Join(err, be.Close()) }()
	alarms := schema.NewAlarmBackend(zap.NewNop(), be)
	alarms.CreateAlarmBucket()
	all, err := alarms.GetAllAlarms()
	if err != nil {
		return fmt.Errorf("reading the alarms of the former cluster: %w", err)
	}
	for _, a := range all {
		alarms.MustDeleteAlarm(a)
	}
	alarms.ForceCommit()
	return nil
}

const (
	// startTimeout is how long an etcd may take to start on the data of a large cluster.
	startTimeout = 5 * time.Minute
	scratchName  = "scratch"
	// socketLimit is the longest path that a socket can have.
	socketLimit = 107
	// pageKeys is how many keys are read at a time, with their values.
	pageKeys = 500
)

// Scratch is an etcd that runs inside this process on the data of a snapshot. It listens on sockets in its directory only, so nobody else on
// the machine can reach it. It never compacts its data.
type Scratch struct {
	server   *embed.Etcd
	endpoint string
	begin    time.Time
}

// Start restores a snapshot into a new etcd below dir and starts it. Close stops it, and leaves its data in dir.
func Start(ctx context.Context, dir, file string) (*Scratch, error) {
	begin := time.Now()
	socket := url.URL{Scheme: "unix", Path: filepath.Join(dir, "peer")}
	client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "client")}
	if len(client.Path) > socketLimit {
		return nil, fmt.Errorf("the path of the temporary directory %s is too long for sockets: set TMPDIR to a shorter one", dir)
	}
	data := filepath.Join(dir, "data")
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, Name: scratchName, OutputDataDir: data, PeerURLs: []string{socket.String()},
		InitialCluster: scratchName + "=" + socket.String(), InitialClusterToken: scratchName,
	}); err != nil {
		return nil, fmt.Errorf("restoring the snapshot: %w", err)
	}
	if err := ForgetAlarms(filepath.Join(data, "member", "snap", "db")); err != nil {
		return nil, fmt.Errorf("restoring the snapshot: %w", err)
	}
	config := embed.NewConfig()
	config.Name, config.Dir, config.InitialClusterToken = scratchName, data, scratchName
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{socket}, []url.URL{socket}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.InitialCluster = scratchName + "=" + socket.String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	config.UnsafeNoFsync = true // its data is thrown away
	config.QuotaBackendBytes = max(config.QuotaBackendBytes, 2*info.Size(), 8<<30)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return nil, fmt.Errorf("starting an etcd on the restored data: %w", err)
	}
	s := &Scratch{server, client.String(), begin}
	if err := s.ready(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Scratch) ready(ctx context.Context) error {
	select {
	case <-s.server.Server.ReadyNotify():
		return nil
	case err := <-s.server.Err():
		return fmt.Errorf("the etcd on the restored data stopped: %w", err)
	case <-time.After(startTimeout):
		return fmt.Errorf("the etcd on the restored data was not ready within %s", startTimeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Endpoint is where clients of this user reach it.
func (s *Scratch) Endpoint() string { return s.endpoint }

// Close stops it.
func (s *Scratch) Close() { s.server.Close() }

// At says what it has at a revision.
func (s *Scratch) At(ctx context.Context, revision int64) (Restored, error) {
	kv := s.server.Server.KV()
	out := Restored{Revision: kv.Rev()}
	keys, err := kv.Range(ctx, []byte{0}, []byte{}, mvcc.RangeOptions{CountOnly: true, Rev: revision})
	if err != nil {
		return out, fmt.Errorf("counting the keys of the restored etcd at revision %d: %w", revision, err)
	}
	out.Keys = int64(keys.Count)
	hash, _, err := kv.HashStorage().HashByRev(revision)
	if err != nil {
		return out, fmt.Errorf("hashing the keys of the restored etcd at revision %d: %w", revision, err)
	}
	out.KVHash, out.CompactRevision = hash.Hash, hash.CompactRevision
	out.Took = time.Since(s.begin)
	return out, nil
}

// Keys calls each for every key at a revision, in their order, with its value.
func (s *Scratch) Keys(ctx context.Context, revision int64, each func(key string, value []byte)) error {
	kv := s.server.Server.KV()
	for from := []byte{0}; ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		page, err := kv.Range(ctx, from, []byte{}, mvcc.RangeOptions{Limit: pageKeys, Rev: revision})
		if err != nil {
			return fmt.Errorf("reading the keys of the restored etcd at revision %d: %w", revision, err)
		}
		for _, k := range page.KVs {
			each(string(k.Key), k.Value)
		}
		if len(page.KVs) < pageKeys {
			return nil
		}
		from = append([]byte(page.KVs[len(page.KVs)-1].Key), 0)
	}
}
