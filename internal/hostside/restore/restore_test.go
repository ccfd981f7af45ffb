package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/snapshot"
)

// start runs a member of an etcd, whose client uses a socket in a short directory.
func start(t *testing.T, dir, data, name string, as hostconfig.EtcdCluster) *clientv3.Client {
	t.Helper()
	config := embed.NewConfig()
	config.Name, config.Dir, config.InitialClusterToken, config.InitialCluster = name, data, as.Token, strings.Join(as.Members, ",")
	m, err := memberOf(Request{Name: name, Cluster: as})
	if err != nil {
		t.Fatal(err)
	}
	peer, err := url.Parse(m.PeerURL)
	if err != nil {
		t.Fatal(err)
	}
	client := url.URL{Scheme: "unix", Path: filepath.Join(dir, "c"+name)}
	config.ListenPeerUrls, config.AdvertisePeerUrls, config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*peer}, []url.URL{*peer}, []url.URL{client}, []url.URL{client}
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Server.HardStop(); e.Close() }) // also without a leader
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{client.String()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// address is a URL of this machine on which nobody listens.
func address(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "q") // the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// taken is a snapshot of an etcd with 100 keys, and its revision.
func taken(t *testing.T, ctx context.Context) ([]byte, int64) {
	t.Helper()
	dir := short(t)
	c := start(t, dir, filepath.Join(dir, "d"), "old", hostconfig.EtcdCluster{Members: []string{"old=" + address(t)}, Token: "old"})
	var revision int64
	for i := range 100 {
		r, err := c.Put(ctx, fmt.Sprintf("/registry/%d", i), "value")
		if err != nil {
			t.Fatal(err)
		}
		revision = r.Header.Revision
	}
	// It has run out of space. What is restored has not.
	alarm := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_ACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE}
	if _, err := etcdserverpb.NewMaintenanceClient(c.ActiveConnection()).Alarm(ctx, alarm); err != nil {
		t.Fatal(err)
	}
	in, err := c.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return data, revision
}

func request(name string, data []byte, as hostconfig.EtcdCluster) Request {
	sum := sha256.Sum256(data)
	return Request{Cluster: as, Name: name, Bump: snapshot.RevisionBump, Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

// TestThreeMembersBeginAsOneEtcd restores three members, starts them, and looks at what clients of before see.
func TestThreeMembersBeginAsOneEtcd(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	data, revision := taken(t, ctx)
	dir := short(t)
	as := hostconfig.EtcdCluster{Token: "prod-0123-backup1"}
	names := []string{"a", "b", "c"}
	for _, n := range names {
		as.Members = append(as.Members, n+"="+address(t))
	}
	clients := make(chan *clientv3.Client, len(names))
	for _, n := range names {
		m := etcd.Member{Root: filepath.Join(dir, "r"+n)}
		if r, err := restore(ctx, m, request(n, data, as), bytes.NewReader(data)); err != nil || r.Already {
			t.Fatal(r, err)
		}
		if r, err := restore(ctx, m, request(n, data, as), strings.NewReader("nothing")); err != nil || !r.Already {
			t.Errorf("a second time: %+v, %v", r, err)
		}
		other := as
		other.Token = "prod-0123-backup2"
		if _, err := restore(ctx, m, request(n, data, other), bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), "did not make") {
			t.Errorf("another backup: %v", err)
		}
		if err := m.MayBegin(as); err != nil {
			t.Error(err)
		}
		if err := m.MayBegin(other); err == nil {
			t.Error("the data of one backup may begin with the token of another one")
		}
		if left, _ := filepath.Glob(m.DataDir() + "/*"); len(left) != 1 {
			t.Errorf("%s has %q", m.DataDir(), left)
		}
		go func() { clients <- start(t, dir, m.DataDir(), n, as) }()
	}
	c := <-clients
	for range names[1:] {
		<-clients
	}
	if alarms, err := c.AlarmList(ctx); err != nil || len(alarms.Alarms) > 0 {
		t.Errorf("it begins with the alarms of the former cluster: %v, %v", alarms, err)
	}
	r, err := c.Get(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || r.Count != 100 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r.Header.Revision < revision+snapshot.RevisionBump {
		t.Errorf("the revision is %d, and was %d", r.Header.Revision, revision)
	}
	members, err := c.MemberList(ctx)
	if err != nil || len(members.Members) != 3 {
		t.Errorf("%+v, %v", members, err)
	}
	// A client that wants to go on from before is told to list again.
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	event, open := <-c.Watch(limited, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	if err := event.Err(); !open || !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("a watch from revision %d: %v, %d events", revision+1, err, len(event.Events))
	}
	if _, err := c.Get(ctx, "/registry/1", clientv3.WithRev(revision)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("reading at revision %d: %v", revision, err)
	}
	if w, err := c.Put(ctx, "/registry/new", "value"); err != nil || w.Header.Revision <= revision+snapshot.RevisionBump {
		t.Errorf("%+v, %v", w, err)
	}
}

func TestWhatIsNotRestored(t *testing.T) {
	ctx := context.Background()
	data, _ := taken(t, ctx)
	as := hostconfig.EtcdCluster{Token: "prod", Members: []string{"a=https://10.0.0.11:2380"}}
	for name, tc := range map[string]struct {
		prepare func(*testing.T, etcd.Member)
		request func(*Request)
		body    []byte
		want    string
	}{
		"a stream that ends early":  {body: data[:len(data)/2], want: "is not what was sent"},
		"a stream that goes on":     {body: append(bytes.Clone(data), 1), want: "is not what was sent"},
		"another content":           {request: func(r *Request) { r.SHA256 = strings.Repeat("0", 64) }, body: data, want: "is not what was sent"},
		"a member of another etcd":  {request: func(r *Request) { r.Name = "z" }, body: data, want: "not one of the members"},
		"a revision that goes back": {request: func(r *Request) { r.Bump = 0 }, body: data, want: "has to be raised"},
		"more than the disk can do": {request: func(r *Request) { r.Bytes = 1 << 60 }, body: data, want: "needs"},
		"data of somebody else": {prepare: func(t *testing.T, m etcd.Member) {
			if err := os.MkdirAll(filepath.Join(m.DataDir(), "member/wal"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, body: data, want: "did not make"},
	} {
		t.Run(name, func(t *testing.T) {
			m := etcd.Member{Root: t.TempDir()}
			in := request("a", data, as)
			had := 0
			if tc.prepare != nil {
				tc.prepare(t, m)
				had = 1
			}
			if tc.request != nil {
				tc.request(&in)
			}
			if _, err := restore(ctx, m, in, bytes.NewReader(tc.body)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v", err)
			}
			if left, _ := filepath.Glob(m.DataDir() + "/*"); len(left) != had {
				t.Errorf("%q is left", left)
			}
			if _, err := os.Stat(filepath.Join(m.Root, facts.EtcdRestoredFile)); err == nil {
				t.Error("it is noted that the member was restored")
			}
		})
	}
}

// TestAKilledRestoreIsRepeated leaves what a process leaves that was killed at any moment.
func TestAKilledRestoreIsRepeated(t *testing.T) {
	ctx := context.Background()
	data, _ := taken(t, ctx)
	as := hostconfig.EtcdCluster{Token: "prod", Members: []string{"a=https://10.0.0.11:2380"}}
	m := etcd.Member{Root: t.TempDir()}
	for _, path := range []string{m.DataDir() + "/" + workName + "/snapshot.db", m.DataDir() + "/" + workName + "/data/member/snap/db", filepath.Join(m.Root, facts.EtcdRestoredFile)} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(`{"members": ["x"], "token": "half"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := restore(ctx, m, request("a", data, as), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := m.MayBegin(as); err != nil || !m.HasData() {
		t.Errorf("%v", err)
	}
}

// TestADiskThatDoesNotAnswerIsNotRestored: nobody knows whether an earlier run has made the data that it noted, and a member without them must not start.
func TestADiskThatDoesNotAnswerIsNotRestored(t *testing.T) {
	as := hostconfig.EtcdCluster{Token: "prod", Members: []string{"a=https://10.0.0.11:2380"}}
	m := etcd.Member{Root: t.TempDir()}
	note, err := json.Marshal(as)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{filepath.Join(m.Root, facts.EtcdRestoredFile): note, m.DataDir() + "/member": []byte("what is below a file cannot be looked up")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := restore(t.Context(), m, request("a", nil, as), bytes.NewReader(nil)); err == nil {
		t.Errorf("it counts as restored: %+v", got)
	}
	if err := m.MayBegin(as); err == nil {
		t.Error("the member could start without its data")
	}
}
