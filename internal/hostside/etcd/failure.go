package etcd

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

const (
	// listenTimeout is how long a member on the same host may take to accept a connection.
	listenTimeout = 500 * time.Millisecond
	// tailBytes of a log are read. A panic of etcd, with its stacks, is shorter.
	tailBytes = 256 << 10
	// saidLimit keeps what a member said readable.
	saidLimit = 300

	podLogs = "/var/log/pods/kube-system_etcd-*/etcd/*.log"
)

// causes are what etcd (3.5 to 3.7), raft, and bbolt say when they end because of their data. The order counts: a full disk damages
// nothing, whatever else is said because of it.
var causes = []struct {
	cause facts.EtcdCause
	words []string
}{
	{facts.EtcdDiskFull, []string{"no space left on device", "disk quota exceeded"}},
	{facts.EtcdRemoved, []string{"the member has been permanently removed from the cluster"}},
	{facts.EtcdForgot, []string{"Was the raft log corrupted, truncated, or lost?", "wal: snapshot not found", "wal: snapshot mismatch"}},
	{facts.EtcdDamaged, []string{
		"failed to read WAL, cannot be repaired", "failed to repair WAL", "failed to open WAL", "walpb: crc mismatch", "wal: crc mismatch", "wal: file not found", "wal: slice bounds out of range",
		"snap: crc mismatch", "failed to recover v3 backend from snapshot", "failed to unmarshal mvccpb.KeyValue",
		"failed to open database", "invalid database", "invalid freelist page", "invalid page", "unexpected page type", "checksum error",
		"found data inconsistency with peers",
	}},
}

// outside is what a member says of what its host does not let it do. It ends all the same, and its data is what it was.
var outside = []string{
	"cannot allocate memory", "too many open files", "permission denied", "operation not permitted", "read-only file system",
	`"error":"timeout"`, // another process has locked the database
}

// serves is what a member says when its data was read.
const serves = "ready to serve client requests"

// endings are the marks of lines with which a program ends.
var endings = []string{`"level":"fatal"`, `"level":"panic"`, "panic: ", "permanently removed", "found data inconsistency"}

// crashes begin the lines with which the Go runtime says that a program ends, before the stack of the goroutine that ended it.
var crashes = []string{"panic: ", "fatal error: ", "unexpected fault address "}

// misuse are panics of bbolt that say nothing about the data: who uses it came too late.
var misuse = []string{"tx closed", "database not open"}

// failureOf finds in the log of a member how it ended. It is nil if the member said after that that it serves, or if it ended for
// a reason that says nothing about its data.
func failureOf(log []byte) (out *facts.EtcdFailure) {
	var c crash
	for line := range strings.Lines(string(log)) {
		said := content(line)
		has := func(words string) bool { return strings.Contains(said, words) }
		if has(serves) {
			out = nil
			continue
		}
		if c.follow(said) {
			out = &facts.EtcdFailure{Cause: facts.EtcdDamaged, Said: shortened(c.said)}
		}
		if !slices.ContainsFunc(endings, has) || slices.ContainsFunc(outside, has) {
			continue
		}
		for _, c := range causes {
			if slices.ContainsFunc(c.words, has) {
				out = &facts.EtcdFailure{Cause: c.cause, Said: shortened(said)}
				break
			}
		}
	}
	return out
}

// crash follows the report of the Go runtime on a crash.
type crash struct {
	said  string // why the program ended
	stack bool   // the next function is the one that crashed
}

// follow takes the next line of a log, and reports whether it says that bbolt crashed because of its data. A damaged page does not always
// get a message: bbolt trusts what it reads, and then looks where nothing is.
func (c *crash) follow(line string) bool {
	switch begins := func(words string) bool { return strings.HasPrefix(line, words) }; {
	case begins("{"): // the program logs, so it runs, or another one does
		*c = crash{}
	case slices.ContainsFunc(crashes, begins):
		if c.said == "" { // a fault has two such lines
			c.said = line
		}
	case begins("goroutine "):
		c.stack = c.said != ""
	case c.stack && frame(line) != "":
		c.stack = false
		inBbolt := begins("go.etcd.io/bbolt.") || begins("go.etcd.io/bbolt/")
		if inBbolt && !slices.ContainsFunc(misuse, func(words string) bool { return strings.Contains(c.said, words) }) {
			return true
		}
		c.said = "" // the log may have another crash
	}
	return false
}

// frame is the function in a line of a stack; empty for other lines, and for functions of the runtime, which end the program for somebody else.
func frame(line string) string {
	if line == "" || strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "[") || strings.HasPrefix(line, "runtime.") || strings.HasPrefix(line, "panic(") {
		return ""
	}
	return line
}

// content is a line of a log without what the container runtime puts before it.
func content(line string) string {
	line = strings.TrimRight(line, "\r\n")
	for _, stream := range []string{" stderr F ", " stdout F "} {
		if _, rest, found := strings.Cut(line, stream); found {
			return rest
		}
	}
	return line
}

// shortened keeps what a member said readable.
func shortened(said string) string {
	said = strings.TrimSpace(said)
	if r := []rune(said); len(r) > saidLimit {
		said = string(r[:saidLimit]) + "…"
	}
	return said
}

// Failure is how the member on this host ended, in its own words. It is nil while the member accepts connections, on a host without
// one, and if nothing is known.
func (m Member) Failure(ctx context.Context) *facts.EtcdFailure {
	if m.Root == "" && !m.HasData() {
		return nil
	}
	if m.Root == "" {
		for _, address := range hostconfig.EtcdLoopbacks {
			nc, err := (&net.Dialer{Timeout: listenTimeout}).DialContext(ctx, "tcp", address)
			if err == nil {
				nc.Close()
				return nil
			}
		}
	}
	if m.Root == "" && system.Exists(hostconfig.EtcdEnvFile) {
		out, err := system.Output(ctx, "journalctl", "--unit", hostconfig.EtcdUnit, "--lines", "400", "--no-pager", "--output", "cat")
		if err != nil {
			return nil
		}
		return failureOf(out)
	}
	return failureOf(m.podLog())
}

// podLog is the end of the log of a stacked member, over its last two starts: the last one may have said nothing yet.
func (m Member) podLog() []byte {
	files, _ := filepath.Glob(m.path(podLogs))
	modified := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	slices.SortFunc(files, func(a, b string) int { return modified(a).Compare(modified(b)) })
	const starts = 2
	var out [][]byte
	for _, path := range files[max(0, len(files)-starts):] {
		out = append(out, tail(path))
	}
	return bytes.Join(out, []byte("\n"))
}

func tail(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
			return nil
		}
	}
	out, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return nil
	}
	return out
}
