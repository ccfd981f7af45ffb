package etcd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// TestFailures are ends of logs of etcd 3.7, and what they mean.
func TestFailures(t *testing.T) {
	const (
		served  = `2026-08-03T12:00:00.1Z stderr F {"level":"info","caller":"embed/serve.go:124","msg":"ready to serve client requests"}` + "\n"
		forgot  = `2026-08-03T12:00:01.1Z stderr F {"level":"panic","caller":"etcdserver/zap_raft.go:101","msg":"tocommit(9137) is out of range [lastIndex(8021)]. Was the raft log corrupted, truncated, or lost?","stacktrace":"go.etcd.io/…"}` + "\n"
		wal     = `{"level":"fatal","caller":"etcdserver/bootstrap.go:647","msg":"failed to read WAL, cannot be repaired","error":"walpb: crc mismatch: expected: 1d2e computed: a01f"}` + "\n"
		db      = `{"level":"panic","caller":"backend/backend.go:215","msg":"failed to open database","path":"/var/lib/etcd/member/snap/db","error":"invalid database"}` + "\n"
		full    = `{"level":"fatal","caller":"etcdserver/raft.go:257","msg":"failed to save Raft hard state and entries","error":"write /var/lib/etcd/member/wal/0.wal: no space left on device"}` + "\n"
		peers   = `{"level":"fatal","caller":"etcdmain/etcd.go:157","msg":"discovery failed","error":"8e9e05c52164694d found data inconsistency with peers"}` + "\n"
		removed = `{"level":"warn","caller":"rafthttp/stream.go:653","msg":"stopping remote peer","error":"the member has been permanently removed from the cluster"}` + "\n"
		port    = `{"level":"fatal","caller":"etcdmain/etcd.go:172","msg":"listener failed","error":"listen tcp 10.0.0.11:2380: bind: address already in use"}` + "\n"
		hint    = `{"level":"info","msg":"walpb: crc mismatch was repaired"}` + "\n"
	)
	for name, tc := range map[string]struct {
		log  string
		want facts.EtcdCause
	}{
		"an older copy":       {served + forgot, facts.EtcdForgot},
		"a damaged log":       {wal, facts.EtcdDamaged},
		"a damaged database":  {served + db, facts.EtcdDamaged},
		"other data":          {peers, facts.EtcdDamaged},
		"removed":             {served + removed, facts.EtcdRemoved},
		"a full disk":         {served + full, facts.EtcdDiskFull},
		"it serves again":     {forgot + served, ""},
		"a port that is used": {served + port, ""},
		"no end":              {hint, ""},
		"nothing":             {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := failureOf([]byte(tc.log))
			if (got == nil) != (tc.want == "") || got != nil && got.Cause != tc.want {
				t.Errorf("got %+v, want %q", got, tc.want)
			}
		})
	}
}

// TestTheLastStartsCount: each start of a static pod has a log of its own, and the newest may have said nothing yet.
func TestTheLastStartsCount(t *testing.T) {
	m := Member{Root: t.TempDir()}
	dir := filepath.Join(m.Root, "/var/log/pods/kube-system_etcd-cp-a_0123/etcd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{
		`{"level":"fatal","msg":"failed to read WAL, cannot be repaired"}` + "\n",
		`{"level":"info","msg":"ready to serve client requests"}` + "\n",
		`{"level":"panic","msg":"tocommit(7) is out of range [lastIndex(5)]. Was the raft log corrupted, truncated, or lost?"}` + "\n",
		"",
	} {
		path := filepath.Join(dir, string(rune('0'+i))+".log")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if f := m.Failure(t.Context()); f == nil || f.Cause != facts.EtcdForgot {
		t.Errorf("got %+v", f)
	}
}
