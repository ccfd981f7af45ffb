package etcd

import (
	"os"
	"path/filepath"
	"strings"
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
		// As etcd 3.7.3 ended after a byte in a branch page was changed.
		page = "2026-11-28T19:29:34.682920251Z stderr F panic: runtime error: index out of range [1161084300210176] with length 281474976710655\n" +
			"2026-11-28T19:29:34.682942028Z stderr F \n2026-11-28T19:29:34.682946252Z stderr F goroutine 229 [running]:\n" +
			"2026-11-28T19:29:34.68294871Z stderr F go.etcd.io/bbolt.(*DB).page(...)\n2026-11-28T19:29:34.682951116Z stderr F \tgo.etcd.io/bbolt@v1.5.0/db.go:1132\n"
		fault = "unexpected fault address 0x7f2a2d7401b9\nfatal error: fault\n[signal SIGBUS: bus error code=0x2 addr=0x7f2a2d7401b9 pc=0x9a3f10]\n\ngoroutine 1 gp=0xc000002380 m=0 mp=0x2a1 [running]:\n" +
			"runtime.throw({0x1a3b2c4?, 0x0?})\n\t/usr/local/go/src/runtime/panic.go:1094 +0x48\nruntime.sigpanic()\n\t/usr/local/go/src/runtime/signal_unix.go:939 +0x26c\ngo.etcd.io/bbolt/internal/common.(*Page).LeafPageElement(...)\n"
		pages = "panic: freepages: failed to get all reachable pages (page 3: multiple references (stack: [3]))\n\ngoroutine 58 [running]:\ngo.etcd.io/bbolt.(*DB).freepages.func2()\n"
		late  = "panic: assertion failed: tx closed\n\ngoroutine 81 [running]:\ngo.etcd.io/bbolt._assert(...)\n"
		other = "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x9a]\n\ngoroutine 1 [running]:\n" +
			"go.etcd.io/etcd/server/v3/embed.StartEtcd(0xc00)\n\t/x/embed/etcd.go:112\ngo.etcd.io/bbolt.(*DB).View(0xc00)\n"
		memory = "fatal error: runtime: out of memory\n\nruntime stack:\nruntime.throw({0x1a3b2c4?, 0x0?})\n\ngoroutine 1 [running]:\nmain.main()\n"
	)
	for name, tc := range map[string]struct {
		log  string
		want facts.EtcdCause
	}{
		"an older copy":              {served + forgot, facts.EtcdForgot},
		"a damaged log":              {wal, facts.EtcdDamaged},
		"a damaged database":         {served + db, facts.EtcdDamaged},
		"other data":                 {peers, facts.EtcdDamaged},
		"removed":                    {served + removed, facts.EtcdRemoved},
		"a full disk":                {served + full, facts.EtcdDiskFull},
		"no memory for the database": {strings.Replace(db, "invalid database", "cannot allocate memory", 1), ""},
		"the database is locked":     {strings.Replace(db, "invalid database", "timeout", 1), ""},
		"a damaged page":             {served + page, facts.EtcdDamaged},
		"a page is not there":        {served + fault, facts.EtcdDamaged},
		"pages do not fit":           {pages, facts.EtcdDamaged},
		"it served after it":         {page + served, ""},
		"bbolt was closed":           {served + late, ""},
		"another crash":              {served + other, ""},
		"no memory":                  {served + memory, ""},
		"a crash before one":         {other + page, facts.EtcdDamaged},
		"it serves again":            {forgot + served, ""},
		"a port that is used":        {served + port, ""},
		"no end":                     {hint, ""},
		"nothing":                    {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := failureOf([]byte(tc.log))
			if (got == nil) != (tc.want == "") || got != nil && got.Cause != tc.want {
				t.Errorf("got %+v, want %q", got, tc.want)
			}
		})
	}
}

// TestTheCrashItself: what is said of a crash is the message of that one.
func TestTheCrashItself(t *testing.T) {
	const first = "panic: one\n\ngoroutine 1 [running]:\nmain.main()\n"
	for _, before := range []string{"", first, "panic: no stack follows\n{\"level\":\"info\",\"msg\":\"starting\"}\n"} {
		f := failureOf([]byte(before + "panic: two\n\ngoroutine 7 [running]:\npanic({0x1, 0x2})\n\t/go/panic.go:783\ngo.etcd.io/bbolt.(*Tx).page(0x1)\n"))
		if f == nil || f.Said != "panic: two" {
			t.Errorf("after %q: %+v", before, f)
		}
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
