//go:build lab

package balancers

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"quorate.dev/quorate/internal/spec"
)

// fault is something that breaks, and what must hold for clients in the meantime.
type fault struct {
	name         string
	inject, heal func(t *testing.T, s *site)
	lasts        time.Duration
	rest         time.Duration // after it was healed; clients are observed then, too
	// judge checks the outcome for the load balancers that Quorate manages.
	judge func(t *testing.T, o outcome)
}

// sane is an upper limit for a failover on any computer. The real time is printed.
const sane = 5 * time.Second

func quick(t *testing.T, o outcome) {
	t.Helper()
	if o.newGap > sane || o.http2Gap > sane {
		t.Errorf("an outage of %s for new connections, %s for HTTP/2", o.newGap, o.http2Gap)
	}
}

// nobodyMoves: no connection was closed.
func nobodyMoves(t *testing.T, o outcome) {
	t.Helper()
	if o.reconnects > 0 {
		t.Errorf("%d HTTP/2 clients had to connect again", o.moved)
	}
}

func api(command string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) { t.Helper(); s.run(t, "api-a", command) }
}

func etcdIs(state string, machines ...string) func(*testing.T, *site) {
	return func(t *testing.T, s *site) {
		t.Helper()
		for _, m := range machines {
			s.put(t, m, "/etc/api/etcd", state)
		}
	}
}

func nothing(*testing.T, *site) {}

func restartAPI(t *testing.T, s *site) {
	s.run(t, "api-a", "systemctl stop api || true")
	s.startAPI(t, "api-a")
}

var faults = []fault{
	{"nothing", nothing, nothing, 5 * time.Second, 0, nobodyMoves},
	{"API server hung (SIGSTOP)", api("systemctl kill -s STOP api"), api("systemctl kill -s CONT api"), 10 * time.Second, 0, quick},
	{"API server killed", api("systemctl kill -s KILL api"), restartAPI, 8 * time.Second, 0, quick},
	{"API server's host vanished", func(t *testing.T, s *site) { must(t, s.Cut(t.Context(), "api-a")) }, func(t *testing.T, s *site) { must(t, s.Heal(t.Context(), "api-a")) }, 10 * time.Second, 0, quick},
	{"API server's host frozen", func(t *testing.T, s *site) { must(t, s.Freeze(t.Context(), "api-a")) }, func(t *testing.T, s *site) { must(t, s.Thaw(t.Context(), "api-a")) }, 10 * time.Second, 0, quick},
	{"API server short of CPU", api("systemctl set-property --runtime api CPUQuota=2%"), api("systemctl set-property --runtime api CPUQuota="), 15 * time.Second, 0, func(t *testing.T, o outcome) {
		// It gets so little CPU time that it may be taken for hung once, and is then given more time.
		if o.reconnects > http2Clients/2 {
			t.Errorf("%d HTTP/2 clients connected %d times", o.moved, o.reconnects)
		}
	}},
	{"the only API server short of CPU", func(t *testing.T, s *site) {
		for _, m := range []string{"api-b", "api-c"} {
			s.run(t, m, "systemctl stop api || true")
		}
		s.run(t, "api-a", "systemctl set-property --runtime api CPUQuota=10%")
	}, func(t *testing.T, s *site) {
		s.run(t, "api-a", "systemctl set-property --runtime api CPUQuota=")
		for _, m := range []string{"api-b", "api-c"} {
			s.startAPI(t, m)
		}
	}, 15 * time.Second, 0, func(t *testing.T, o outcome) {
		// The clients of the other servers connect to it. Their connections are not closed again.
		if o.reconnects > 2*http2Clients {
			t.Errorf("%d HTTP/2 clients connected %d times", o.moved, o.reconnects)
		}
	}},
	{"API server's etcd dead", etcdIs("dead", "api-a"), etcdIs("ok", "api-a"), 15 * time.Second, 0, func(t *testing.T, o outcome) {
		if o.http2Gap > 10*time.Second {
			t.Errorf("clients stayed for %s with an API server without etcd", o.http2Gap)
		}
	}},
	{"election of 1.5 s", etcdIs("electing", "api-a", "api-b", "api-c"), etcdIs("ok", "api-c", "api-b", "api-a"), 1500 * time.Millisecond, 6 * time.Second, nobodyMoves},
	{"no leader for 6 s", etcdIs("electing", "api-a", "api-b", "api-c"), etcdIs("ok", "api-c", "api-b", "api-a"), 6 * time.Second, 8 * time.Second, nobodyMoves},
	{"HAProxy hung", func(t *testing.T, s *site) { s.run(t, s.holder(t), "kill -STOP $(pidof haproxy)") }, func(t *testing.T, s *site) {
		for _, lb := range []string{"lb-a", "lb-b"} {
			s.run(t, lb, "kill -CONT $(pidof haproxy)") // where no watchdog has replaced it
		}
	}, 8 * time.Second, 0, quick},
	{"HAProxy killed", func(t *testing.T, s *site) { s.run(t, s.holder(t), "kill -KILL $(pidof haproxy)") }, nothing, 8 * time.Second, 0, quick},
}

// compare has TestFailover break the same parts behind other load balancers.
var compare = flag.Bool("compare", false, "measure kubeadm's documented example, load balancers that are configured by hand, and the profile standard as well; write artifacts/failover.txt and .json")

// contender is one way to configure the load balancers.
type contender struct {
	name    string
	manner  manner
	profile string // of failover; of Quorate's alone
}

var contenders = []contender{
	{"documented", documented, ""}, // kubeadm's example, with upstream defaults
	{"by hand", byHand, ""},
	{"standard", ours, spec.ProfileStandard},
	{"fast", ours, spec.ProfileFast},
}

// measured is what clients experienced of one fault. Its JSON keys are those of the last line of make bench-failover.
type measured struct {
	Fault       string `json:"fault"`
	NewMs       int64  `json:"newMs"`
	NewFailed   int    `json:"newFailed"`
	HTTP2Ms     int64  `json:"http2Ms"`
	HTTP2Failed int    `json:"http2Failed"`
	Reconnects  int    `json:"reconnects"`
}

// TestFailover breaks one part after the other behind Quorate's load balancers, and prints the outages of clients. With
// -compare, it breaks them behind other load balancers first, in the same lab.
func TestFailover(t *testing.T) {
	s := newSite(t)
	results := map[string][]measured{}
	var names []string
	for _, c := range contenders {
		if !*compare && c.name != spec.ProfileFast {
			continue
		}
		names = append(names, c.name)
		t.Run(c.name, func(t *testing.T) { results[c.name] = s.breakAll(t, c) })
	}
	table := failoverTable(names, results)
	t.Logf("longest time without an answer, in seconds, and requests that failed:\n%s", table)
	if !*compare {
		return
	}
	data, err := json.Marshal(map[string]any{"contenders": results, "processors": runtime.NumCPU()})
	must(t, err)
	const artifacts = "../../artifacts"
	must(t, os.MkdirAll(artifacts, 0o755))
	must(t, os.WriteFile(artifacts+"/failover.txt", []byte(table), 0o644))
	must(t, os.WriteFile(artifacts+"/failover.json", append(data, '\n'), 0o644))
}

// breakAll breaks one part after the other behind the load balancers of a contender. What Quorate promises is checked for its own.
func (s *site) breakAll(t *testing.T, c contender) (out []measured) {
	lbs := []string{"lb-a", "lb-b"}
	cluster := *s.cluster
	cluster.Spec.Failover.Profile = cmp.Or(c.profile, cluster.Spec.Failover.Profile)
	for _, lb := range lbs {
		s.configure(t, &cluster, lb, c.manner)
	}
	s.allServe(t, c.manner, lbs...)
	s.holder(t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			l := s.clients(t) // new ones, spread evenly over the API servers
			l.calm(t, 3*time.Second)
			from := time.Now()
			f.inject(t, s)
			after(t, f.lasts)
			healed := time.Now()
			f.heal(t, s)
			after(t, f.rest)
			if f.rest > 0 {
				healed = time.Now()
			}
			o := l.between(from, healed)
			out = append(out, measured{f.name, o.newGap.Milliseconds(), o.newFailed, o.http2Gap.Milliseconds(), o.http2Failed, o.reconnects})
			if c.manner == ours {
				f.judge(t, o)
			}
			if t.Failed() {
				t.Logf("failures of clients: %s", strings.Join(l.reasons(from), "; "))
				for _, lb := range lbs {
					t.Logf("%s: %s", lb, s.run(t, lb, "journalctl --no-pager -o cat -u haproxy -u quorate-watchdog -u keepalived --since -20s"))
				}
			}
			s.allServe(t, c.manner, lbs...)
		})
	}
	return out
}

// failoverTable has one row for each fault, and the figures of each contender.
func failoverTable(names []string, results map[string][]measured) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "fault\t")
	for _, name := range names {
		fmt.Fprint(w, name+": new\tfailed\tHTTP/2\tfailed\treconnects\t")
	}
	fmt.Fprintln(w)
	seconds := func(ms int64) string { return fmt.Sprintf("%.2f", float64(ms)/1000) }
	for _, f := range faults {
		fmt.Fprint(w, f.name+"\t")
		for _, name := range names {
			i := slices.IndexFunc(results[name], func(m measured) bool { return m.Fault == f.name })
			if i < 0 { // the test of this fault failed before
				fmt.Fprint(w, "–\t–\t–\t–\t–\t")
				continue
			}
			m := results[name][i]
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%d\t", seconds(m.NewMs), m.NewFailed, seconds(m.HTTP2Ms), m.HTTP2Failed, m.Reconnects)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return b.String()
}

// after waits while a fault lasts: that time is what is measured.
func after(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(d):
	}
}
