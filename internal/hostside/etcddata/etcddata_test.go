package etcddata

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/snapshot"
)

const peerURL = "https://10.0.0.11:2380"

// serve runs an etcd on a data directory.
func serve(t *testing.T, dir string, do func(*embed.Etcd)) {
	t.Helper()
	sockets, err := os.MkdirTemp("", "e") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	peer, client := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "p")}, url.URL{Scheme: "unix", Path: filepath.Join(sockets, "c")}
	config := embed.NewConfig()
	config.Name, config.Dir = "a", dir
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.InitialCluster = "a=" + peer.String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	select {
	case <-server.Server.ReadyNotify():
	case <-t.Context().Done():
		t.Fatal("it is not ready")
	}
	do(server)
}

func put(t *testing.T, e *embed.Etcd, key string) {
	t.Helper()
	if _, err := e.Server.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte("of " + key)}); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, e *embed.Etcd, key string) bool {
	t.Helper()
	r, err := e.Server.KV().Range(t.Context(), []byte(key), nil, mvcc.RangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(r.KVs) == 1
}

// appendEntry writes an entry to the log of a member that does not run, as a follower does before it learns that a majority has it.
func appendEntry(t *testing.T, dir, key string) {
	t.Helper()
	w, err := wal.Open(zap.NewNop(), filepath.Join(dir, "member", "wal"), &walpb.Snapshot{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, state, entries, err := w.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	last := entries[len(entries)-1]
	data, err := proto.Marshal(&pb.InternalRaftRequest{Header: &pb.RequestHeader{ID: 4711}, Put: &pb.PutRequest{Key: []byte(key), Value: []byte("of " + key)}})
	if err != nil {
		t.Fatal(err)
	}
	term, index := last.GetTerm(), last.GetIndex()+1
	if err := w.Save(state, []*raftpb.Entry{{Term: &term, Index: &index, Type: raftpb.EntryNormal.Enum(), Data: data}}); err != nil {
		t.Fatal(err)
	}
}

// TestRecovery reads the data of a member, also while it runs and when they are damaged, and makes a new cluster of them.
func TestRecovery(t *testing.T) {
	dir, scratch := filepath.Join(t.TempDir(), "data"), t.TempDir()
	var running facts.EtcdCopy
	var revision int64
	serve(t, dir, func(e *embed.Etcd) {
		for i := range 20 {
			put(t, e, fmt.Sprint("/registry/", i))
		}
		revision = e.Server.KV().Rev()
		running = Read(dir, scratch)
	})
	got := Read(dir, scratch)
	if got.Error+got.Unread != "" || got.Revision != revision || got.LastIndex < 20 || got.Applied != got.LastIndex || got.Pending != 0 || got.LastWrite.IsZero() {
		t.Fatalf("after it was stopped: %+v, want revision %d", got, revision)
	}
	if len(got.Members) != 1 || got.Members[0].Name != "a" || got.Members[0].ID != got.MemberID {
		t.Errorf("members %+v, and it is %s", got.Members, got.MemberID)
	}
	if running.Error+running.Unread != "" || running.ClusterID != got.ClusterID || running.LastIndex != got.LastIndex || running.Compare(got) != 0 {
		t.Errorf("while it runs: %+v, want the log of %+v", running, got)
	}
	if left, _ := os.ReadDir(scratch); len(left) > 0 {
		t.Errorf("left in scratch: %v", left)
	}

	appendEntry(t, dir, "/registry/last")
	tail := Read(dir, scratch)
	if tail.Pending != 1 || tail.LastIndex != got.LastIndex+1 || tail.Commit != got.Commit || tail.Compare(got) <= 0 {
		t.Errorf("with an entry that is not known to be committed: %+v", tail)
	}

	work := filepath.Join(t.TempDir(), "w")
	in := RebuildRequest{Source: dir, Work: work, Name: "a", PeerURL: peerURL, Token: "prod-recovered-1", Now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	built, err := Rebuild(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if built.Kept != 1 || built.Revision != revision+1 || built.NewRevision != revision+1+snapshot.BumpAt(in.Now, revision+1) {
		t.Errorf("%+v, want revision %d", built, revision+1)
	}
	if again := Read(dir, scratch); again.Compare(tail) != 0 || again.Commit != tail.Commit || again.ClusterID != got.ClusterID {
		t.Errorf("the source has changed: %+v", again)
	}
	fresh := Read(filepath.Dir(built.Member), scratch)
	if !fresh.Usable() || fresh.ClusterID == got.ClusterID || len(fresh.Members) != 1 || fresh.Members[0].PeerURL != peerURL || fresh.StorageVersion != got.StorageVersion {
		t.Errorf("the new data: %+v", fresh)
	}
	serve(t, filepath.Dir(built.Member), func(e *embed.Etcd) {
		if !has(t, e, "/registry/last") || !has(t, e, "/registry/7") {
			t.Error("a write is missing")
		}
		if rev := e.Server.KV().Rev(); rev < built.NewRevision {
			t.Errorf("revision %d, want %d or later", rev, built.NewRevision)
		}
		// A watch from a revision that clients have seen is told to list again, and not given what came later.
		if _, err := e.Server.KV().Range(t.Context(), []byte("/registry/7"), nil, mvcc.RangeOptions{Rev: revision}); !errors.Is(err, mvcc.ErrCompacted) {
			t.Errorf("reading an old revision: %v", err)
		}
		put(t, e, "/registry/new")
	})

	// The same copy is used again a second later. What was written to the first cluster meanwhile has other revisions.
	in.Now = in.Now.Add(time.Second)
	again, err := Rebuild(t.Context(), in)
	if err != nil || again.NewRevision <= built.NewRevision+50_000 {
		t.Errorf("it begins at %d (%v), and the first one began at %d", again.NewRevision, err, built.NewRevision)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Rebuild(ctx, in); err == nil {
		t.Error("it does not end")
	}
}

// TestAlarmsAreNotInherited: with an alarm of the former cluster, the new one would accept no write, or answer nothing.
func TestAlarmsAreNotInherited(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	serve(t, dir, func(e *embed.Etcd) {
		put(t, e, "/registry/1")
		for _, alarm := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			if _, err := e.Server.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: alarm, MemberID: uint64(e.Server.MemberID())}); err != nil {
				t.Fatal(err)
			}
		}
	})
	got := Read(dir, t.TempDir())
	if !got.Usable() || !slices.Equal(got.Corrupt, []string{got.MemberID}) {
		t.Errorf("%+v", got)
	}
	built, err := Rebuild(t.Context(), RebuildRequest{Source: dir, Work: filepath.Join(t.TempDir(), "w"), Name: "a", PeerURL: peerURL, Token: "prod-recovered-1", Now: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, filepath.Dir(built.Member), func(e *embed.Etcd) {
		if alarms := e.Server.Alarms(); len(alarms) > 0 {
			t.Errorf("alarms: %v", alarms)
		}
		put(t, e, "/registry/2")
		if !has(t, e, "/registry/1") {
			t.Error("a write is missing")
		}
	})
}

// TestDamaged damages every part of a member's data.
func TestDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	serve(t, dir, func(e *embed.Etcd) {
		for i := range 50 {
			put(t, e, fmt.Sprint("/registry/", i))
		}
	})
	sound := Read(dir, t.TempDir())
	for name, tc := range map[string]struct {
		damage func(t *testing.T, member string)
		error  string
		torn   bool
	}{
		"no database":     {func(t *testing.T, m string) { remove(t, filepath.Join(m, "snap", "db")) }, "no such file", false},
		"no log":          {func(t *testing.T, m string) { remove(t, filepath.Join(m, "wal")) }, "write-ahead log", false},
		"a flipped byte":  {func(t *testing.T, m string) { flip(t, logOf(t, m), 4000) }, "write-ahead log", false},
		"no start of it":  {func(t *testing.T, m string) { flip(t, filepath.Join(m, "snap", "db"), 20, os.Getpagesize()+20) }, "damaged", false},
		"an empty log":    {func(t *testing.T, m string) { truncate(t, logOf(t, m), 0) }, "to which cluster", false},
		"half a log":      {func(t *testing.T, m string) { truncate(t, logOf(t, m), 2003) }, "not of the same moment", true},
		"nothing at all":  {func(t *testing.T, m string) { remove(t, m) }, "no such file", false},
		"a page is wrong": {func(t *testing.T, m string) { wipe(t, filepath.Join(m, "snap", "db")) }, "damaged", false},
	} {
		// Records of the log are as long as a multiple of eight bytes: "half a
		// log" ends at an odd byte, so that it always ends within a record.
		t.Run(name, func(t *testing.T) {
			to := t.TempDir()
			if err := copyMember(Member(dir), filepath.Join(to, "member")); err != nil {
				t.Fatal(err)
			}
			if got := Read(to, t.TempDir()); got.Compare(sound) != 0 || got.Error != "" {
				t.Fatalf("a copy: %+v", got)
			}
			tc.damage(t, filepath.Join(to, "member"))
			got := Read(to, t.TempDir())
			if !strings.Contains(got.Error, tc.error) || got.Usable() || tc.torn && !got.Torn {
				t.Errorf("%+v, want %q", got, tc.error)
			}
		})
	}
}

func logOf(t *testing.T, member string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(member, "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files[0]
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string, n int64) {
	t.Helper()
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, path string, at ...int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range at {
		data[i] ^= 0x55
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wipe overwrites every page but the two at the beginning.
func wipe(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(data[2*os.Getpagesize():])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
