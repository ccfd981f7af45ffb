package balancer

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
)

// reach are HAProxy's rows of API servers, each with the status of its check with etcd and of the one without, and whether it accepts connections.
func reach(servers ...[3]string) (out []stats) {
	for i, s := range servers {
		name := string(rune('a' + i))
		row := func(pool, check string) stats {
			status := "DOWN"
			if strings.HasSuffix(check, "OK") {
				status = "UP"
			}
			return stats{"pxname": pool, "svname": name, "status": status, "check_status": check}
		}
		out = append(out, row(hostconfig.PoolWithEtcd, s[0]), row(hostconfig.PoolWithoutEtcd, s[1]), row(hostconfig.PoolListening, s[2]))
	}
	return append(out, stats{"pxname": hostconfig.PoolWithEtcd, "svname": "BACKEND", "status": "UP"})
}

var (
	works      = [3]string{"L7OK", "L7OK", "L4OK"}
	cut        = [3]string{"L4TOUT", "L4TOUT", "L4TOUT"}
	refuses    = [3]string{"L4CON", "L4CON", "L4CON"}
	withoutIts = [3]string{"L7STS", "L7OK", "L4OK"} // etcd
	slow       = [3]string{"L7TOUT", "L7TOUT", "L4OK"}
	hangs      = [3]string{"L7TOUT", "L7OK", "L4OK"} // or its etcd does
	late       = [3]string{"L7OK", "L7OK", "L4TOUT"}
)

func TestReachesNone(t *testing.T) {
	for _, tc := range []struct {
		name string
		rows []stats
		want bool
	}{
		{"all work", reach(works, works), false},
		{"none accepts connections", reach(cut, refuses, cut), true},
		{"one is only slow", reach(cut, slow, cut), false},
		{"one says nothing clear", reach(cut, hangs), false},
		{"the one that is reached has no etcd", reach(cut, withoutIts), true},
		{"none has etcd", reach(withoutIts, withoutIts), true}, // then no other load balancer serves either
		{"one works", reach(cut, works), false},
		{"a check of the weakest kind is late", reach(late, cut), false},
		{"nothing is known", nil, false},
	} {
		if got := reachesNone(tc.rows); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// TestCutOff gives the watchdog what consecutive looks find.
func TestCutOff(t *testing.T) {
	none, some := reach(cut, cut), reach(cut, works)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		type view struct {
			rows  []stats
			fails error
			peer  string
		}
		var c cutOff
		var said bytes.Buffer
		var seen atomic.Pointer[view]
		var asked atomic.Int32
		is := func(v view) { seen.Store(&v) }
		const peer = "10.0.0.32"
		is(view{rows: some, peer: peer})
		go c.watch(ctx, log.New(&said, "", 0), func() ([]stats, error) { v := seen.Load(); return v.rows, v.fails },
			func(context.Context) string { asked.Add(1); return seen.Load().peer })
		after := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if c.is.Load() != want {
				t.Fatalf("stands aside: %v", !want)
			}
		}
		const enough = (cutOffLooks + othersServe) * cutOffPace
		after(time.Minute, false)
		if n := asked.Load(); n > 0 {
			t.Errorf("it asked others %d times, although it reaches an API server", n)
		}
		is(view{rows: none, peer: peer})
		after((cutOffLooks-1)*cutOffPace, false)
		is(view{rows: some, peer: peer}) // a moment
		after(cutOffPace, false)
		is(view{rows: none}) // nobody is better
		after(time.Minute, false)
		is(view{rows: none, peer: peer}) // one answer is not enough
		after(cutOffPace, false)
		is(view{rows: none})
		after(2*cutOffPace, false)
		is(view{rows: none, peer: peer})
		after(enough, true)
		is(view{fails: errors.New("no answer")}) // nothing is known
		after(time.Minute, true)
		is(view{rows: none}) // one miss
		after(cutOffPace, true)
		is(view{rows: none, peer: peer})
		after(2*cutOffPace, true)
		is(view{rows: some, peer: peer})
		after((cutOffEnds+1)*cutOffPace, false)
		is(view{rows: none, peer: peer})
		after(enough, true)
		is(view{rows: none}) // now nobody is better
		after((cutOffEnds+1)*cutOffPace, false)
		cancel()
		synctest.Wait()
		if lines := strings.Count(said.String(), "\n"); lines != 4 || !strings.Contains(said.String(), "the load balancer with the address 10.0.0.32 does") {
			t.Errorf("it says:\n%s", said.String())
		}
	})
}

// TestHAProxyIsAskedOnceForAll: what watches the servers and what finds out that this host is cut off use the same answers, and an answer counts once.
func TestHAProxyIsAskedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var reads atomic.Int32
		var answers atomic.Bool
		answers.Store(true)
		read := func(ctx context.Context) ([]stats, error) {
			if reads.Add(1); answers.Load() {
				return reach(cut, cut), nil
			}
			<-ctx.Done() // it hangs
			return nil, ctx.Err()
		}
		logger := log.New(io.Discard, "", 0)
		var shown views
		var c cutOff
		go careForServers(ctx, logger, read, &shown)
		go c.watch(ctx, logger, shown.take, func(context.Context) string { return "10.0.0.32" })
		const enough = (cutOffLooks + othersServe) * cutOffPace
		time.Sleep(enough)
		synctest.Wait()
		if !c.is.Load() {
			t.Error("it does not find out that it is cut off")
		}
		if n, want := reads.Load(), int32(enough/careInterval); n != want {
			t.Errorf("HAProxy was asked %d times, want %d", n, want)
		}
		answers.Store(false)
		time.Sleep(2 * careInterval)
		shown.take()
		if rows, err := shown.take(); err == nil {
			t.Errorf("an answer counts twice: %v", rows)
		}
		cancel()
		synctest.Wait()
	})
}

// TestFirstServing asks real servers: only one that is ready, and whose certificate is that of the endpoint, counts.
func TestFirstServing(t *testing.T) {
	var ready atomic.Bool
	ready.Store(true)
	var asked atomic.Value
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Host + r.RequestURI)
		if !ready.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	const name = "example.com" // of httptest's certificate
	ask := func(names map[string][]string, ca []byte) string {
		return firstServing(t.Context(), []string{"127.0.0.1"}, names, ca)
	}
	if got := ask(map[string][]string{"1": {name}, port: {"old.example.org", name}}, ca); got != "127.0.0.1" {
		t.Errorf("a ready server: %q", got)
	}
	if got := asked.Load(); got != name+hostconfig.ReadyWithEtcd {
		t.Errorf("it was asked for %v", got)
	}
	if got := ask(map[string][]string{port: {"other.example.org"}}, ca); got != "" {
		t.Errorf("the wrong name: %q", got)
	}
	if got := ask(map[string][]string{port: {name}}, nil); got != "" {
		t.Errorf("an unknown authority: %q", got)
	}
	ready.Store(false)
	if got := ask(map[string][]string{port: {name}}, ca); got != "" {
		t.Errorf("a server that is not ready: %q", got)
	}
	if got := firstServing(t.Context(), nil, nil, ca); got != "" {
		t.Errorf("no peers: %q", got)
	}
	ready.Store(true)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, other, err := net.SplitHostPort(silent.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(map[string][]string{other: {name}, port: {name}}, ca); got != "127.0.0.1" {
		t.Errorf("beside one that is silent: %q", got)
	}
}
