//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
)

// standstill is how late something may run before a computer counts as having stood still. The peers of a load balancer take the
// virtual IP after 0.6 s.
const standstill = 500 * time.Millisecond

// noticed counts the requests of an interval that were refused, closed, reset, or answered with an error, and prints all that
// clients met. A client that is not given a processor for two seconds times out, whatever the cluster does: timeouts are only
// printed. It counts nothing if this computer stood still meanwhile, and says so: where a whole cluster shares a few processors and
// one disk, no change is needed for that.
func (c *cluster) noticed(t *testing.T, ctx context.Context, begin, end time.Time, report probe.Report) int {
	t.Helper()
	failed := 0
	for _, o := range []probe.Outage{report.New, report.Writes, report.HTTP2} {
		failed += counted(o)
	}
	// When the virtual IP moves, connections that stay open are closed when they have been silent for a moment. A request that begins in
	// that moment fails: nothing between the client and the API server can know of it.
	failed = max(0, failed-min(counted(report.HTTP2), report.HTTP2.Requests/1000))
	text, _ := json.Marshal(report)
	fmt.Printf("%s: clients in %s: %s\n", t.Name(), end.Sub(begin).Round(time.Second), text)
	if failed == 0 || c.excused(t, ctx, fmt.Sprintf("%d failed requests", failed), begin, end) {
		return 0
	}
	for name, o := range map[string]probe.Outage{"new connections": report.New, "writes": report.Writes, "HTTP/2": report.HTTP2} {
		if counted(o) > 0 {
			first, last := o.FirstFailed.UTC().Format("15:04:05.000"), o.LastFailed.UTC().Format("15:04:05.000")
			fmt.Printf("%s: from %s to %s:\n%s", t.Name(), first, last, c.saidAround(t, ctx, o.FirstFailed, o.LastFailed))
			t.Logf("%s: %d of %d requests failed from %s to %s: %v, in the phases %v; the longest gap was %s", name, o.Failed, o.Requests, first, last, o.Errors, o.Phases, o.Longest.Round(time.Millisecond))
		}
	}
	return failed
}

// unserved are the failed requests of clients other than those of noticed, each with the reason: none if this computer stood still meanwhile. Timeouts
// count: these clients are few, and what is sent to a pod or a host that is gone times out.
func (c *cluster) unserved(t *testing.T, ctx context.Context, who string, begin, end time.Time, failed []string) []string {
	t.Helper()
	if len(failed) == 0 {
		return nil
	}
	fmt.Printf("%s: %s: %d requests failed: the first: %s; the last: %s\n", t.Name(), who, len(failed), failed[0], failed[len(failed)-1])
	if c.excused(t, ctx, fmt.Sprintf("%d failed requests (%s)", len(failed), who), begin, end) {
		return nil
	}
	return failed
}

// excused says that this computer stood still in an interval, so that something does not count for which no fault of the cluster is needed then.
func (c *cluster) excused(t *testing.T, ctx context.Context, what string, begin, end time.Time) bool {
	t.Helper()
	stood := c.stoodStill(t, ctx, begin, end)
	if len(stood) > 0 {
		fmt.Printf("%s: this does not count, because this computer stood still: %s: %s\n", t.Name(), what, strings.Join(stood, "; "))
	}
	return len(stood) > 0
}

// saidAround is what load balancers, and members of etcd, say of an outage, so that a failure explains itself wherever it happens. Of the
// connections it has only those that a load balancer or the watchdog ended.
func (c *cluster) saidAround(t *testing.T, ctx context.Context, begin, end time.Time) string {
	t.Helper()
	const around = 3 * time.Second
	var out strings.Builder
	for _, m := range c.lab(t).Machines() {
		r := c.run(ctx, "lab", "--lab", c.name, "ssh", m.Name, fmt.Sprintf("journalctl -q --no-hostname -o short-precise --since=@%d --until=@%d -u 'haproxy*' -u 'keepalived*' -u 'quorate*' | grep -vE ' (--|[CS][CD]) [0-9]+/[0-9]+/' | tail -n 40; cat /var/log/pods/kube-system_etcd-*/etcd/*.log 2>/dev/null | grep -E 'ReadIndex|heartbeat on time|slow fdatasync|elected leader|lost leader' | tail -n 10",
			begin.Add(-around).Unix(), end.Add(around).Unix()))
		for line := range strings.Lines(r.stdout) {
			fmt.Fprintf(&out, "    %s %s", m.Name, line)
		}
	}
	return out.String()
}

// counted are the failures of one kind of client that a user would notice.
func counted(o probe.Outage) int {
	return o.Failed - o.Errors[probe.TimedOut]
}

// stoodStill is the evidence that this computer, or a part of the cluster on it, stood still in an interval: what load balancers say, and
// a clock of the test.
func (c *cluster) stoodStill(t *testing.T, ctx context.Context, begin, end time.Time) (out []string) {
	t.Helper()
	if late, at := ownClock().latest(begin, end); late > standstill {
		out = append(out, fmt.Sprintf("the test ran %s late at %s", late.Round(time.Millisecond), at.Format(time.TimeOnly)))
	}
	for _, m := range c.lab(t).Machines() {
		// A machine that is off, or has no load balancer, has nothing to say.
		r := c.run(ctx, "lab", "--lab", c.name, "ssh", m.Name, fmt.Sprintf("journalctl -q -o cat --since=@%d --until=@%d --grep='%s'", begin.Unix(), end.Unix()+1, late.String()))
		for line := range strings.Lines(r.stdout) {
			said := late.FindStringSubmatch(line)
			if said == nil {
				continue
			}
			if seconds, err := strconv.ParseFloat(said[1]+said[2], 64); err == nil && seconds < standstill.Seconds() {
				continue
			}
			out = append(out, m.Name+" says: "+strings.TrimSpace(line))
		}
		r = c.run(ctx, "lab", "--lab", c.name, "ssh", m.Name, "grep -hE 'slow fdatasync|failed to send out heartbeat on time|waiting for ReadIndex response took too long|raft.node: .* leader' /var/log/pods/kube-system_etcd-*/etcd/*.log | tail -n 1000")
		out = append(out, etcdSays(m.Name, strings.Split(r.stdout, "\n"), begin, end)...)
	}
	return out[:min(len(out), 5)]
}

// etcdLog is what is read of a line of etcd's log, as the kubelet keeps it.
type etcdLog struct {
	At       time.Time `json:"ts"`
	Message  string    `json:"msg"`
	Took     string    `json:"took"`              // by the disk
	Exceeded string    `json:"exceeded-duration"` // by the heartbeats of a leader
	Waited   string    `json:"retry-timeout"`     // for what a majority has committed
}

// etcdSays are the lines in which a member says that the disk or the CPU was not there for it for long. Its waiting for a majority says
// that only while nobody changes the leader: a cluster that has none for long is what a test is to find.
func etcdSays(member string, lines []string, begin, end time.Time) (out []string) {
	var late, waited []string
	for _, line := range lines {
		_, text, _ := strings.Cut(line, "{")
		var said etcdLog
		if json.Unmarshal([]byte("{"+text), &said) != nil || said.At.Before(begin) || said.At.After(end) {
			continue
		}
		line = member + " says: " + strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(said.Message, "raft.node: "):
			return late
		case atLeast(said.Waited, standstill):
			waited = append(waited, line)
		case atLeast(cmp.Or(said.Took, said.Exceeded), standstill):
			late = append(late, line)
		}
	}
	return append(late, waited...)
}

func atLeast(duration string, least time.Duration) bool {
	d, err := time.ParseDuration(duration)
	return err == nil && d >= least
}

// TestEtcdSays: these are lines of its log.
func TestEtcdSays(t *testing.T) {
	const (
		disk      = `2026-11-29T07:03:16.11Z stderr F {"level":"warn","ts":"2026-11-29T07:03:16.103Z","caller":"wal/wal.go:896","msg":"slow fdatasync","took":"1.31s","expected-duration":"1s"}`
		heartbeat = `2026-11-29T07:03:16.11Z stderr F {"level":"warn","ts":"2026-11-29T07:03:16.103Z","caller":"etcdserver/raft.go:415","msg":"leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk","to":"a8","heartbeat-interval":"100ms","expected-duration":"200ms","exceeded-duration":"640.5ms"}`
		soon      = `2026-11-29T07:03:16.11Z stderr F {"level":"warn","ts":"2026-11-29T07:03:16.103Z","caller":"etcdserver/raft.go:415","msg":"leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk","to":"a8","heartbeat-interval":"100ms","expected-duration":"200ms","exceeded-duration":"14.2ms"}`
		majority  = `2026-11-29T07:03:16.50Z stderr F {"level":"warn","ts":"2026-11-29T07:03:16.502Z","caller":"read/read.go:206","msg":"waiting for ReadIndex response took too long, retrying","sent-request-id":10115263056414624002,"retry-timeout":"500ms"}`
		lost      = `2026-11-29T07:03:16.05Z stderr F {"level":"info","ts":"2026-11-29T07:03:16.050Z","logger":"raft","caller":"v3@v3.7.0/node.go:376","msg":"raft.node: 602765acc2bb8c60 lost leader 3c740b1165bbad14 at term 4"}`
		before    = `2026-11-29T07:02:16.05Z stderr F {"level":"info","ts":"2026-11-29T07:02:16.050Z","logger":"raft","caller":"v3@v3.7.0/node.go:376","msg":"raft.node: 602765acc2bb8c60 lost leader 3c740b1165bbad14 at term 4"}`
	)
	begin := time.Date(2026, 11, 29, 7, 3, 0, 0, time.UTC)
	for name, tc := range map[string]struct{ lines, want []string }{
		"disk":              {[]string{disk}, []string{disk}},
		"heartbeats":        {[]string{soon, heartbeat}, []string{heartbeat}},
		"majority":          {[]string{before, majority}, []string{majority}},
		"no leader":         {[]string{lost, majority}, nil},
		"disk and election": {[]string{disk, lost, majority}, []string{disk}},
		"no JSON":           {[]string{"no JSON", ""}, nil},
	} {
		var want []string
		for _, line := range tc.want {
			want = append(want, "cp-a says: "+line)
		}
		if got := etcdSays("cp-a", tc.lines, begin, begin.Add(time.Minute)); !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
		if got := etcdSays("cp-a", tc.lines, begin.Add(time.Hour), begin.Add(2*time.Hour)); len(got) > 0 {
			t.Errorf("%s, of another time: %q", name, got)
		}
	}
}

// late is what load balancers say when programs do not run in time: keepalived of itself, the watchdog of HAProxy, HAProxy of an API server
// whose connection is accepted and whose answer does not come, and Quorate of one that many clients wait for, and that sends nothing to any of them, not even
// what begins a connection. Nothing that these tests do on purpose stops a whole API server.
var late = regexp.MustCompile(`thread timer expired ([0-9.]+) seconds ago|gets too little CPU time|Server control-planes/\S+ is DOWN, reason: Layer7 timeout|it answers nobody and has sent nothing for ([0-9.]+)s`)

// clock remembers when it ran late.
type clock struct {
	mu   sync.Mutex
	late []lateness
}

type lateness struct {
	at time.Time
	by time.Duration
}

// ownClock is the clock of this process, which begins with its first use.
var ownClock = sync.OnceValue(func() *clock {
	c := &clock{}
	go func() {
		const every = 50 * time.Millisecond
		for last := time.Now(); ; {
			time.Sleep(every) // the lateness of this is what it measures
			now := time.Now()
			if by := now.Sub(last) - every; by > every {
				c.mu.Lock()
				c.late = append(c.late, lateness{now, by})
				c.mu.Unlock()
			}
			last = now
		}
	}()
	return c
})

// latest is by how much the clock ran late at most in an interval.
func (c *clock) latest(begin, end time.Time) (by time.Duration, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.late {
		if l.at.After(begin) && l.at.Before(end) && l.by > by {
			by, at = l.by, l.at
		}
	}
	return by, at
}
