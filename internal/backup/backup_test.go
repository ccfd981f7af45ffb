package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"filippo.io/age"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"quorate.dev/quorate/internal/snapshot"
)

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func manifest() Manifest {
	return Manifest{Created: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Host: "cp-a", Quorate: "devel", Cluster: Cluster{Name: "prod", UID: "1a2b3c4d-0000"}, Etcd: Etcd{ClusterID: "5e6f7a8b00112233"}}
}

func nameOf(t *testing.T, m Manifest) Name {
	t.Helper()
	n, err := NameOf(m)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func written(t *testing.T, id *age.X25519Identity, contents ...Content) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, []age.Recipient{id.Recipient()}, manifest(), contents); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	id, big := identity(t), bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	file := written(t, id, InMemory(SnapshotPart, big), InMemory("kubernetes/pki/ca.key", []byte("key")))
	if bytes.Contains(file, []byte("manifest")) || bytes.Contains(file, []byte("prod")) {
		t.Error("something of the backup is readable without an identity")
	}
	r, err := Open(bytes.NewReader(file), id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if m := r.Manifest(); m.Format != Format || m.Cluster.Name != "prod" || len(m.Parts) != 2 || m.Parts[0].Bytes != int64(len(big)) {
		t.Errorf("the manifest is %+v", m)
	}
	dir := t.TempDir()
	if err := r.Extract(dir, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{SnapshotPart: big, "kubernetes/pki/ca.key": []byte("key")} {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s: %d bytes, %v", name, len(have), err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: others can read it: %v", name, info.Mode())
		}
	}
}

func TestDamageIsFound(t *testing.T) {
	id := identity(t)
	file := written(t, id, InMemory(SnapshotPart, bytes.Repeat([]byte("x"), 10_000)), InMemory(SpecPart, []byte("spec")))
	read := func(data []byte) error {
		r, err := Open(bytes.NewReader(data), id)
		if err != nil {
			return err
		}
		defer r.Close()
		return r.Extract(t.TempDir(), nil)
	}
	if err := read(file); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(file); n += 7 {
		flipped := bytes.Clone(file)
		flipped[n] ^= 1
		if read(flipped) == nil {
			t.Errorf("a flipped bit in byte %d of %d is not found", n, len(file))
		}
		if read(file[:n]) == nil {
			t.Errorf("a file that was cut off after %d of %d bytes is not found", n, len(file))
		}
	}
	_, err := Open(bytes.NewReader(file), identity(t))
	if err == nil || !strings.Contains(err.Error(), "not encrypted to this identity") {
		t.Errorf("with the wrong identity: %v", err)
	}
}

func TestWhatCannotBeWritten(t *testing.T) {
	id := identity(t)
	if err := Write(io.Discard, nil, manifest(), nil); err == nil {
		t.Error("a backup without a recipient was written")
	}
	for _, name := range []string{"", "../x", "/etc/passwd", "a/../../b", "manifest.json", "a//b", "."} {
		if err := Write(io.Discard, []age.Recipient{id.Recipient()}, manifest(), []Content{InMemory(name, nil)}); err == nil {
			t.Errorf("a part with the name %q was written", name)
		}
	}
	changed := InMemory("kubernetes/x", []byte("before"))
	changed.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("after!")), nil }
	if err := Write(io.Discard, []age.Recipient{id.Recipient()}, manifest(), []Content{changed}); err == nil {
		t.Error("a file that changed was written")
	}
}

func TestNames(t *testing.T) {
	n := nameOf(t, manifest())
	if n.String() != "prod.1a2b3c4d.5e6f7a8b.20260304T050607Z.cp-a.backup.age" {
		t.Error(n)
	}
	if back, ok := ParseName(n.String()); !ok || back != n {
		t.Errorf("%+v", back)
	}
	for _, c := range []struct {
		cluster, uid, etcd string
		want               bool
	}{
		{"prod", "1a2b3c4d-0000", "5e6f7a8b00112233", true}, {"prod", "", "", true}, {"prod", "1a2b3c4d-0000", "", true},
		{"prod", "ffffffff-0000", "", false}, {"test", "1a2b3c4d-0000", "5e6f7a8b00112233", false}, {"prod", "1a2b3c4d-0000", "0e6f7a8b00112233", false},
	} {
		if n.Of(c.cluster, c.uid, c.etcd) != c.want {
			t.Errorf("%+v", c)
		}
	}
	for _, s := range []string{"", "x", "." + n.String() + ".partial", "../" + n.String(), "prod.1a2b3c4d.5e6f7a8b.20261304T050607Z.cp-a.backup.age", n.String() + "x"} {
		if _, ok := ParseName(s); ok {
			t.Errorf("%q is taken for a backup", s)
		}
	}
	for name, change := range map[string]func(*Manifest){
		"a host with dots": func(m *Manifest) { m.Host = "cp-a.example.com" }, "a host in capitals": func(m *Manifest) { m.Host = "CP-A" }, "no host": func(m *Manifest) { m.Host = "" },
		"a path": func(m *Manifest) { m.Cluster.Name = "../prod" }, "no UID": func(m *Manifest) { m.Cluster.UID = "" }, "no etcd": func(m *Manifest) { m.Etcd.ClusterID = "" },
	} {
		m := manifest()
		change(&m)
		if n, err := NameOf(m); err == nil {
			t.Errorf("%s: %s", name, n)
		}
	}
}

func TestRetention(t *testing.T) {
	end := time.Date(2026, 3, 31, 23, 0, 0, 0, time.UTC)
	newest := nameOf(t, manifest())
	newest.Time = end
	var all []Entry
	for h := range 24 * 90 { // one each hour for ninety days
		n := newest
		n.Time = end.Add(-time.Duration(h) * time.Hour)
		all = append(all, Entry{Name: n, File: fmt.Sprint(h)})
	}
	for _, c := range []struct {
		r    Retention
		kept int
	}{
		{Retention{}, 1}, {Retention{Last: 3}, 3}, {Retention{Daily: 7}, 7}, {Retention{Weekly: 4}, 4},
		{Retention{Last: 24, Daily: 7, Weekly: 4}, 24 + 6 + 2}, {Retention{Last: 10_000}, len(all)},
	} {
		expired := c.r.Expired(all, newest)
		if kept := len(all) - len(expired); kept != c.kept {
			t.Errorf("%+v keeps %d, want %d", c.r, kept, c.kept)
		}
		if again := c.r.Expired(without(all, expired), newest); len(again) != 0 {
			t.Errorf("%+v: applied again, it removes %d more", c.r, len(again))
		}
	}
	if len(Retention{Last: 1}.Expired(nil, newest)) != 0 {
		t.Error("something of nothing expired")
	}
}

func without(all, expired []Entry) (left []Entry) {
	for _, e := range all {
		if !slices.Contains(expired, e) {
			left = append(left, e)
		}
	}
	return left
}

// Clocks that are wrong, several hosts, several clusters of the same name, backups in any order.
func TestRetentionNeverRemovesWhatItMustNot(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(1, 2))
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for range 2000 {
		taken := nameOf(t, manifest())
		taken.Time = now
		all := []Entry{{Name: taken, File: taken.String()}}
		for range r.IntN(40) {
			n := taken
			n.Time = now.Add(time.Duration(r.IntN(24*60)-24*40) * time.Hour)
			n.Host = []string{"cp-a", "cp-b"}[r.IntN(2)]
			switch r.IntN(6) {
			case 0:
				n.UID = "ffffffff"
			case 1:
				n.Etcd = "ffffffff"
			case 2:
				n.Time = now.Add(time.Duration(r.IntN(1000)+1) * time.Hour)
			}
			if !slices.ContainsFunc(all, func(e Entry) bool { return e.Name == n }) {
				all = append(all, Entry{Name: n, File: n.String()})
			}
		}
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		keep := Retention{Last: r.IntN(4), Daily: r.IntN(4), Weekly: r.IntN(4)}
		expired := keep.Expired(all, taken)
		var mine []Entry // without the future
		for _, e := range all {
			if e.Same(taken) && !e.Time.After(now) {
				mine = append(mine, e)
			}
		}
		for _, e := range expired {
			if e.Name == taken || !e.Same(taken) || e.Time.After(now) {
				t.Fatalf("%+v, after %s, removes %s of %v", keep, taken, e.File, all)
			}
		}
		if left := len(mine) - len(expired); left < min(max(keep.Last, 1), len(mine)) {
			t.Fatalf("%+v keeps %d of %v", keep, left, mine)
		}
		if got := keep.Expired(mine, taken); !sameEntries(got, expired) {
			t.Fatalf("backups in the future, or of others, change what is removed: %v and %v", got, expired)
		}
		if again := keep.Expired(without(all, expired), taken); len(again) > 0 {
			t.Fatalf("applied again, it removes %v", again)
		}
	}
}

func sameEntries(a, b []Entry) bool {
	return len(a) == len(b) && len(without(a, b)) == 0
}

// startEtcd starts a real etcd with some keys, and returns a client.
func startEtcd(t *testing.T) (*clientv3.Client, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "q") // the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := embed.NewConfig()
	config.Dir, config.UnsafeNoFsync = filepath.Join(dir, "d"), true
	peer, client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "p")}, url.URL{Scheme: "unix", Path: filepath.Join(dir, "c")}
	config.ListenPeerUrls, config.AdvertisePeerUrls, config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{peer}, []url.URL{peer}, []url.URL{client}, []url.URL{client}
	config.InitialCluster = config.Name + "=" + peer.String()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{client.String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, client.String()
}

func TestVerifyRestoresIntoARealEtcd(t *testing.T) {
	ctx := context.Background()
	client, endpoint := startEtcd(t)
	for i := range 300 {
		if _, err := client.Put(ctx, fmt.Sprintf("/registry/%d", i%100), strings.Repeat("v", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Delete(ctx, "/registry/7"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(ctx, 150, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	in, err := client.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := snapshot.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := client.HashKV(ctx, endpoint, read.Revision)
	if err != nil {
		t.Fatal(err)
	}
	m := manifest()
	pki := testpki(t)
	m.Etcd = Etcd{Revision: read.Revision, Keys: 99, Hash: read.Hash, KVHash: hash.Hash, CompactRevision: hash.CompactRevision}
	id := identity(t)
	verify := func(m Manifest, data []byte) (Verified, error) {
		var out bytes.Buffer
		contents := []Content{InMemory(SnapshotPart, data)}
		for name, part := range pki {
			contents = append(contents, InMemory(name, part))
		}
		if err := Write(&out, []age.Recipient{id.Recipient()}, m, contents); err != nil {
			t.Fatal(err)
		}
		r, err := Open(iotest.HalfReader(&out), id)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		dir, err := os.MkdirTemp("", "q")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		return Verify(ctx, r, dir, nil)
	}
	v, err := verify(m, data)
	if err != nil {
		t.Fatal(err)
	}
	if !v.KVHashCompared || v.Restored.Keys != 99 || v.Restored.Revision != read.Revision || v.Restored.CompactRevision != 150 {
		t.Errorf("%+v", v)
	}
	for name, change := range map[string]func(*Etcd){
		"hash": func(e *Etcd) { e.Hash++ }, "revision": func(e *Etcd) { e.Revision-- },
		"number of keys": func(e *Etcd) { e.Keys++ }, "hash of the keys": func(e *Etcd) { e.KVHash++ },
	} {
		wrong := m
		change(&wrong.Etcd)
		if _, err := verify(wrong, data); err == nil || !strings.Contains(err.Error(), "has the "+name) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	delete(pki, "kubernetes/pki/sa.key")
	if _, err := verify(m, data); err == nil || !strings.Contains(err.Error(), "sa.key") {
		t.Errorf("without the key of service accounts: %v", err)
	}
	damaged := bytes.Clone(data)
	damaged[len(damaged)/3] ^= 0xff
	if _, err := verify(m, damaged); err == nil {
		t.Error("a damaged snapshot is accepted")
	}
}

// failing is a store that damages what it stores.
type failing struct{ directory }

func (f failing) Put(ctx context.Context, name string, content io.Reader, check func(io.Reader) error) error {
	return f.directory.Put(ctx, name, io.MultiReader(content, strings.NewReader("x")), check)
}

// careless is a store that takes a stream that broke for one that ended.
type careless struct{ directory }

func (c careless) Put(ctx context.Context, name string, content io.Reader, check func(io.Reader) error) error {
	data, _ := io.ReadAll(content)
	return c.directory.Put(ctx, name, bytes.NewReader(data), check)
}

func TestKeepReadsAgain(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	name := nameOf(t, manifest()).String()
	write := func(w io.Writer) error { _, err := io.WriteString(w, "content"); return err }
	kept, err := Keep(ctx, directory(dir), name, write)
	if err != nil || kept.Bytes != 7 {
		t.Fatalf("%+v %v", kept, err)
	}
	if _, err := Keep(ctx, failing{directory(t.TempDir())}, name, write); err == nil || !strings.Contains(err.Error(), "reading") {
		t.Errorf("a store that damages backups: %v", err)
	}
	hasty := careless{directory(t.TempDir())}
	if _, err := Keep(ctx, hasty, name, func(w io.Writer) error { io.WriteString(w, "half"); return errors.New("broke") }); err == nil {
		t.Error("a store that takes a part for the whole")
	}
	if left, err := os.ReadDir(string(hasty.directory)); err != nil || len(left) != 0 {
		t.Errorf("a store that takes a part for the whole keeps %v %v", left, err)
	}
	empty := directory(t.TempDir())
	if _, err := Keep(ctx, empty, name, func(w io.Writer) error { w.Write([]byte("half")); return errors.New("broke") }); err == nil || !strings.Contains(err.Error(), "broke") {
		t.Errorf("a backup that broke: %v", err)
	}
	if left, err := os.ReadDir(string(empty)); err != nil || len(left) != 0 {
		t.Errorf("a backup that broke left %v %v", left, err)
	}
	if err := (directory(filepath.Join(dir, "none"))).Put(ctx, name, strings.NewReader(""), accept); err == nil {
		t.Error("a directory that is not there was created")
	}
}
