//go:build lab

package balancers

import (
	"bytes"
	"flag"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
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

// compare has TestFailover break the same parts behind load balancers that are configured by hand.
var compare = flag.Bool("compare", false, "measure load balancers that are configured by hand as well")

// TestFailover breaks one part after the other behind Quorate's load balancers, and prints the outages of clients. With
// -compare, it breaks them behind manually configured ones first.
func TestFailover(t *testing.T) {
	s := newSite(t)
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "fault\t")
	rows := make([][]string, len(faults))
	for _, plain := range []bool{true, false} {
		if plain && !*compare {
			continue
		}
		name := map[bool]string{true: "by hand", false: "Quorate"}[plain]
		fmt.Fprint(w, name+": new\tfailed\tHTTP/2\tfailed\treconnects\t")
		t.Run(name, func(t *testing.T) {
			for _, lb := range []string{"lb-a", "lb-b"} {
				s.configure(t, s.cluster, lb, plain)
			}
			s.whole(t, "lb-a", "lb-b")
			s.holder(t)
			for i, f := range faults {
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
					rows[i] = append(rows[i], seconds(o.newGap), fmt.Sprint(o.newFailed), seconds(o.http2Gap), fmt.Sprint(o.http2Failed), fmt.Sprint(o.reconnects))
					if !plain {
						f.judge(t, o)
					}
					if t.Failed() {
						t.Logf("failures of clients: %s", strings.Join(l.reasons(from), "; "))
						for _, lb := range []string{"lb-a", "lb-b"} {
							t.Logf("%s: %s", lb, s.run(t, lb, "journalctl --no-pager -o cat -u haproxy -u quorate-watchdog -u keepalived --since -20s"))
						}
					}
					s.whole(t, "lb-a", "lb-b")
				})
			}
		})
	}
	fmt.Fprintln(w)
	for i, f := range faults {
		fmt.Fprintln(w, f.name+"\t"+strings.Join(rows[i], "\t")+"\t")
	}
	w.Flush()
	t.Logf("longest time without an answer, in seconds, and requests that failed:\n%s", &table)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }

// after waits while a fault lasts: that time is what is measured.
func after(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	case <-time.After(d):
	}
}
