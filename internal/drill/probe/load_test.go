package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestSample: the one request of each second that counts for seconds of disruption may take longer than the others.
func TestSample(t *testing.T) {
	for name, c := range map[string]struct {
		takes              time.Duration // of the first request, which is the sample
		failed, disruption int
	}{
		"in time":                    {},
		"late, and no failure":       {takes: 1500 * time.Millisecond, failed: 1},
		"not even in that time":      {takes: time.Minute, failed: 1, disruption: 1},
		"immediately, and no answer": {takes: -1, failed: 1, disruption: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) > 1 {
					return
				}
				if c.takes < 0 {
					panic(http.ErrAbortHandler)
				}
				select {
				case <-time.After(c.takes):
				case <-r.Context().Done():
					panic(http.ErrAbortHandler) // see silence
				}
			}))
			defer web.Close()
			begin := time.Now()
			set, err := Run(t.Context(), &rest.Config{Host: web.URL}, []Client{{Path: "x", Operation: Get, Connection: New, Address: web.URL, Pace: 2 * time.Second}},
				Options{Timeout: time.Second, SampleTimeout: 3 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if err := until(t.Context(), func() bool { return n.Load() > 0 }); err != nil {
				t.Fatal(err)
			}
			set.Stop() // no second request, and the first one ends
			if o := set.between(begin, time.Now())[0].Outage; o.Requests != 1 || o.Failed != c.failed || o.Disruption != c.disruption {
				t.Errorf("%+v", o)
			}
		})
	}
}

// TestLive: what was told is not part of it, and a second that was told makes no gap.
func TestLive(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer web.Close()
	begin := time.Now()
	set, err := Run(t.Context(), &rest.Config{Host: web.URL}, []Client{{Path: "x", Operation: Get, Connection: Kept, Address: web.URL}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, enough := context.WithCancel(t.Context())
	var mu sync.Mutex
	told := 0
	done := make(chan error, 1)
	go func() {
		done <- set.Follow(ctx, func(line Second) error {
			mu.Lock()
			defer mu.Unlock()
			told += line.Requests
			return nil
		})
	}()
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		before := told
		mu.Unlock()
		live := set.Live(begin, time.Now())[0].Outage
		if live.Failed > 0 {
			t.Errorf("%+v", live)
		}
		// Only a computer that is very busy is slower than that.
		if live.Longest > 700*time.Millisecond && live.Lag < 100*time.Millisecond {
			t.Errorf("a gap of %s after %d requests were told", live.Longest, before)
		}
	}
	enough()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if left := set.Live(begin, time.Now())[0]; left.Requests > 0 {
		t.Errorf("%d requests were told, and %d are there again", told, left.Requests)
	}
	set.Stop()
}

// TestList lists several pages. One of them may fail.
func TestList(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	var mu sync.Mutex
	var asked []string
	created := 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPost {
			created++
			fmt.Fprint(w, `{"apiVersion":"coordination.k8s.io/v1","kind":"Lease"}`)
			return
		}
		next := map[string]string{"": "p2", "p2": "p3", "p3": ""}[r.URL.Query().Get("continue")]
		asked = append(asked, r.URL.Path+" "+r.URL.Query().Get("limit")+" "+r.URL.Query().Get("continue"))
		if next == "" && fails.Load() {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"kind":"LeaseList","metadata":{"continue":%q},"items":[]}`, next)
	}))
	defer api.Close()
	begin := time.Now()
	set, err := Run(t.Context(), &rest.Config{Host: api.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}},
		[]Client{{Path: "x", Operation: List, Connection: New, Pace: time.Second}}, Options{Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	outage := func() Outage { return set.between(begin, time.Now())[0].Outage }
	if err := until(t.Context(), func() bool { return outage().Requests > 0 }); err != nil {
		t.Fatal(err)
	}
	if o := outage(); o.Failed > 0 {
		t.Errorf("%+v", o)
	}
	fails.Store(true)
	if err := until(t.Context(), func() bool { return outage().Failed > 0 }); err != nil {
		t.Fatal(err)
	}
	set.Stop()
	mu.Lock()
	defer mu.Unlock()
	const path = "/apis/coordination.k8s.io/v1/namespaces/n/leases 100 "
	if created != listed || !slices.Equal(asked[:3], []string{path, path + "p2", path + "p3"}) {
		t.Errorf("%d objects, and lists of %q", created, asked[:3])
	}
}

// TestEchoGivesUp: a connection on which nothing comes back is replaced, however open it looks.
func TestEchoGivesUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan(); {
					if n > 0 {
						fmt.Fprintln(conn, in.Text())
					}
				}
			}()
		}
	}()
	begin := time.Now()
	set, err := Run(t.Context(), &rest.Config{Host: "http://127.0.0.1:1"}, []Client{{Path: "x", Operation: Echo, Connection: Kept, Address: l.Addr().String()}},
		Options{Pace: 50 * time.Millisecond, Timeout: time.Second, SampleTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	outage := func() Outage { return set.between(begin, time.Now())[0].Outage }
	if err := until(t.Context(), func() bool { return outage().Requests > outage().Failed+10 }); err != nil {
		t.Fatal(err)
	}
	set.Stop()
	o := outage()
	if o.Failed == 0 || o.Errors[TimedOut] != o.Failed {
		t.Errorf("what was lost with the connection: %+v", o)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestWritesDoNotMeet hangs writes: no two of them are under way to the same object.
func TestWritesDoNotMeet(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	busy, met, most := map[string]bool{}, 0, 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, _ := io.ReadAll(r.Body)
		if r.Method == http.MethodPost {
			fmt.Fprint(w, `{"apiVersion":"v1","kind":"ConfigMap"}`)
			return
		}
		if text := string(body); !strings.HasPrefix(text, `{"data":{"`) || !json.Valid(body) {
			t.Errorf("a write of %s", text)
		}
		mu.Lock()
		if busy[r.URL.Path] {
			met++
		}
		busy[r.URL.Path] = true
		most = max(most, len(busy))
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			delete(busy, r.URL.Path)
		}()
		silence(r)
	}))
	defer api.Close()
	set, err := Run(t.Context(), &rest.Config{Host: api.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}},
		[]Client{{Path: "x", Operation: Write, Connection: New, Pace: 100 * time.Millisecond}}, Options{Timeout: time.Second, SampleTimeout: 4 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(6 * time.Second)
	set.Stop()
	mu.Lock()
	defer mu.Unlock()
	if met > 0 || most < 8 {
		t.Errorf("%d of at most %d writes met another one", met, most)
	}
}

// entries is an API with the entries 1, 3, and 4 of one ledger and one entry of another. It returns what is patched, by object.
func entries(t *testing.T) (client kubernetes.Interface, patched map[string]string) {
	t.Helper()
	patched = map[string]string{}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodPatch {
			body, _ := io.ReadAll(r.Body)
			patched[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]] = string(body)
			fmt.Fprint(w, `{"apiVersion":"v1","kind":"ConfigMap"}`)
			return
		}
		fmt.Fprint(w, `{"apiVersion":"v1","kind":"ConfigMapList","items":[
			{"metadata":{"name":"one.0"},"data":{"1":"","3":""}}, {"metadata":{"name":"one.1"},"data":{"4":""}},
			{"metadata":{"name":"two.0"},"data":{"1":""}}, {"metadata":{"name":"read"}}]}`)
	}))
	t.Cleanup(api.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: api.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	return client, patched
}

func TestClear(t *testing.T) {
	client, patched := entries(t)
	if err := (Ledgers{"one": {1, 2, 3}}).Clear(t.Context(), client, "n"); err != nil {
		t.Fatal(err)
	}
	if len(patched) != 1 || patched["one.0"] != `{"data":{"1":null,"3":null}}` {
		t.Errorf("%v", patched)
	}
}

func TestTrim(t *testing.T) {
	client, patched := entries(t)
	writes := newWriter(nil, "n", 0, 2)
	writes.ledger = "one"
	before := time.Now().Add(-time.Minute)
	for _, n := range []int{1, 2, 3} {
		writes.acked[n] = before
	}
	m := &member{writer: writes}
	m.record.add(before, before, failure{})
	m.record.add(before, before, failure{})
	s := &Set{options: Options{Namespace: "n"}, api: client, members: []*member{m}}
	lost, acknowledged, err := s.Trim(t.Context())
	if err != nil || !slices.Equal(lost, []int{2}) || acknowledged != 3 {
		t.Errorf("lost %v of %d: %v", lost, acknowledged, err)
	}
	if len(patched) != 1 || patched["one.0"] != `{"data":{"1":null,"3":null}}` {
		t.Errorf("removed: %v", patched)
	}
	writes.acked[4] = time.Now()
	if lost, acknowledged, err = s.Lost(t.Context()); err != nil || len(lost) > 0 || acknowledged != 1 {
		t.Errorf("afterwards, lost %v of %d: %v", lost, acknowledged, err)
	}
	if n := len(m.record.ended); n > 1 { // the last success before an interval may be needed
		t.Errorf("%d requests are remembered", n)
	}
}

func TestLag(t *testing.T) {
	l := &lag{}
	l.add(at(100), at(100))
	l.add(at(200), at(350))
	l.add(at(1200), at(1250))
	for _, c := range []struct{ from, to, want int }{{0, 150, 0}, {0, 1000, 150}, {300, 400, 150}, {360, 1300, 50}, {2000, 3000, 0}} {
		if got := l.between(at(c.from), at(c.to)); got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("from %d to %d: %s, want %d ms", c.from, c.to, got, c.want)
		}
	}
	l.forget(at(1000))
	if got := l.between(at(0), at(3000)); got != 50*time.Millisecond || len(l.late) != 1 {
		t.Errorf("after the rest was forgotten: %s", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { l.measure(ctx); close(done) }()
	time.Sleep(100 * time.Millisecond)
	stop()
	<-done
}
