package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
)

// TestPhases lets a request fail in each part.
func TestPhases(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			select {
			case <-hang:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler) // see silence
		case "/half":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
		case "/reset":
			panic(http.ErrAbortHandler)
		case "/readyz":
			http.Error(w, "[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed", http.StatusInternalServerError)
		case "/stops":
			w.Header().Set("Retry-After", "1")
			http.Error(w, "Apiserver is shutting down.", http.StatusServiceUnavailable)
		case "/error":
			http.Error(w, "no", http.StatusTooManyRequests)
		}
	}))
	defer web.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, connection := range []Connection{New, Kept, HTTP2} {
		for _, c := range []struct {
			url, path string
			want      failure
		}{
			{web.URL, "/", failure{}},
			{web.URL, "/hang", failure{Header, TimedOut}},
			{web.URL, "/reset", failure{Header, "connection closed"}},
			{web.URL, "/half", failure{Body, "connection closed"}},
			{web.URL, "/error", failure{Status, "HTTP 429"}},
			{web.URL, "/readyz", failure{Status, ShuttingDown}},
			{web.URL, "/stops", failure{Status, ComeAgain}},
			{"http://" + closed.Addr().String(), "/", failure{Dial, "dial: connect: connection refused"}},
			{strings.Replace(web.URL, "http:", "https:", 1), "/", failure{TLS, "tls: first record does not look like a TLS handshake"}},
		} {
			sender, err := newClient(&rest.Config{Host: c.url}, connection)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if c.path == "/hang" {
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			if got := sender.send(ctx, "GET", c.path, "", ""); got != c.want {
				t.Errorf("%s connections, %s%s: %+v, want %+v", connection, c.url, c.path, got, c.want)
			}
			cancel()
			sender.free()
		}
	}
	if _, err := newClient(&rest.Config{Host: web.URL}, ""); err == nil {
		t.Error("a client without a kind of connections")
	}
}

// TestPhaseAfterALostConnection: a connection that was kept ends, and nobody listens any more.
func TestPhaseAfterALostConnection(t *testing.T) {
	var requests atomic.Int32
	var web *httptest.Server
	web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			return
		}
		web.Listener.Close()
		panic(http.ErrAbortHandler)
	}))
	defer web.Close()
	sender, err := newClient(&rest.Config{Host: web.URL}, Kept)
	if err != nil {
		t.Fatal(err)
	}
	defer sender.free()
	if got := sender.send(t.Context(), "GET", "/", "", ""); got != (failure{}) {
		t.Fatal(got)
	}
	if got, want := sender.send(t.Context(), "GET", "/", "", ""), (failure{Dial, "dial: connect: connection refused"}); got != want || requests.Load() != 2 {
		t.Errorf("%+v after %d requests, want %+v", got, requests.Load(), want)
	}
}

func TestDisruption(t *testing.T) {
	r := record{perSecond: 20}
	from := time.Now()
	for n := range 60 { // three seconds' worth: all of the second one fails
		r.do(func(bool) failure {
			if n/20 == 1 {
				return failure{Dial, TimedOut}
			}
			return failure{}
		})
	}
	o := r.between(from, time.Now().Add(time.Second))
	if o.Requests != 60 || o.Failed != 20 || o.Phases[Dial] != 20 || o.Disruption != 1 {
		t.Errorf("got %+v", o)
	}
}

// watched serves one object and watches of it.
type watched struct {
	mu       sync.Mutex
	number   int
	watchers map[chan string]bool
	from     []string // the versions from which watches began
	gone     bool     // answer the next watch with 410
	mute     bool     // send no events
}

func (s *watched) object() string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"beat","resourceVersion":"%d"},"data":{"n":"%d"}}`, 100+s.number, s.number)
}

func (s *watched) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if path.Base(r.URL.Path) == beat {
		defer s.mu.Unlock()
		fmt.Fprint(w, s.object())
		return
	}
	from := r.URL.Query().Get("resourceVersion")
	s.from = append(s.from, from)
	events := make(chan string, 10)
	switch {
	case s.gone:
		s.gone = false
		events <- `{"type":"ERROR","object":{"kind":"Status","code":410}}`
		close(events)
	default:
		if from != fmt.Sprint(100+s.number) && !s.mute {
			events <- fmt.Sprintf(`{"type":"MODIFIED","object":%s}`, s.object())
		}
		s.watchers[events] = true
	}
	s.mu.Unlock()
	w.(http.Flusher).Flush()
	for {
		select {
		case e, more := <-events:
			if !more {
				return
			}
			fmt.Fprintln(w, e)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			s.mu.Lock()
			delete(s.watchers, events)
			s.mu.Unlock()
			return
		}
	}
}

// beat counts up by n with one event, and says whether there was a watch.
func (s *watched) beat(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number += n
	for events := range s.watchers {
		events <- fmt.Sprintf(`{"type":"MODIFIED","object":%s}`, s.object())
	}
	return len(s.watchers) > 0
}

func (s *watched) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for events := range s.watchers {
		close(events)
		delete(s.watchers, events)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	s := &watched{watchers: map[chan string]bool{}, number: 7}
	server := httptest.NewServer(s)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	set, err := Run(ctx, &rest.Config{Host: server.URL}, []Client{{Path: "x", Operation: Watch, Connection: Kept}}, Options{Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Stop()
	outage := func() Outage { return set.between(begin, time.Now())[0].Outage }
	step := func(what string, do func(), want func(Outage) bool) {
		t.Helper()
		if err := until(ctx, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.watchers) > 0 }); err != nil {
			t.Fatalf("%s: there is no watch", what)
		}
		do()
		if err := until(ctx, func() bool { return want(outage()) }); err != nil {
			t.Fatalf("%s: %+v", what, outage())
		}
	}
	step("an event", func() { s.beat(1) }, func(o Outage) bool { return o.Requests == 1 && o.Failed == 0 })
	step("a watch that ends is resumed, and what happened meanwhile is received", func() { s.close(); s.beat(1) },
		func(o Outage) bool { return o.Requests == 2 && o.Failed == 0 })
	s.mu.Lock()
	if !slices.Equal(s.from, []string{"107", "108"}) {
		t.Errorf("watches began at %v", s.from)
	}
	s.mu.Unlock()
	step("an event is missing", func() { s.beat(2) }, func(o Outage) bool { return o.Errors[EventMissing] == 1 })
	again := func() bool { s.mu.Lock(); defer s.mu.Unlock(); return !s.gone && len(s.watchers) > 0 }
	step("a watch cannot be resumed, and nothing is lost", func() { s.mu.Lock(); s.gone = true; s.mu.Unlock(); s.close() },
		func(o Outage) bool { return again() && o.Failed == 1 })
	step("and begins again", func() { s.beat(1) }, func(o Outage) bool { return o.Failed == 1 && o.Requests == 4 })
	step("a watch cannot be resumed, and an event is lost", func() { s.mu.Lock(); s.gone = true; s.number++; s.mu.Unlock(); s.close() },
		func(o Outage) bool {
			return again() && o.Failed == 2 && o.Errors[EventsLost] == 1 && WatchGaps(o.Errors) == 2
		})
	step("silence while nothing happens is no failure", func() { time.Sleep(2500 * time.Millisecond) }, func(o Outage) bool { return o.Failed == 2 })
	step("silence while something happens is one", func() { s.mu.Lock(); s.mute = true; s.number++; s.mu.Unlock() },
		func(o Outage) bool { return o.Failed == 3 && o.Errors["no event within the timeout"] == 1 })
}

// echoServer echoes lines. close closes all its connections.
func echoServer(t *testing.T) (address string, close func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			go func() {
				for in := bufio.NewScanner(conn); in.Scan(); {
					fmt.Fprintln(conn, in.Text())
				}
				conn.Close()
			}()
		}
	}()
	return l.Addr().String(), func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
		conns = nil
	}
}

func TestEcho(t *testing.T) {
	address, drop := echoServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	set, err := Run(ctx, &rest.Config{Host: "http://127.0.0.1:1"}, []Client{{Path: "x", Operation: Echo, Connection: Kept, Address: address}}, Options{Pace: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	wait := func(what string, want func(Outage) bool) {
		t.Helper()
		if err := until(ctx, func() bool { return want(set.between(begin, time.Now())[0].Outage) }); err != nil {
			t.Fatalf("never: %s", what)
		}
	}
	wait("lines come back", func(o Outage) bool { return o.Requests > 5 && o.Failed == 0 })
	drop()
	wait("a lost connection is a failure", func(o Outage) bool { return o.Failed > 0 && o.Phases[Body] == o.Failed })
	n := set.between(begin, time.Now())[0].Requests
	wait("there is another connection", func(o Outage) bool { return o.Requests > n+10 })
	set.Stop()
	if o := set.between(begin, time.Now())[0].Outage; o.Failed > 3 {
		t.Errorf("one lost connection is %+v", o)
	}
}

// TestEchoMoves has servers say that they are about to stop, while lines are under way: no line is lost, and no end is a failure.
func TestEchoMoves(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var connections, open atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			open.Add(1)
			go func() {
				defer open.Add(-1)
				defer conn.Close()
				var late []string // echoed after the server said bye
				n := 0
				for in := bufio.NewScanner(conn); in.Scan(); n++ {
					switch {
					case n < 5, n > 7:
						fmt.Fprintln(conn, in.Text())
					case n < 7:
						late = append(late, in.Text())
					default:
						fmt.Fprintln(conn, Bye)
						text := strings.Join(append(late, in.Text()), "\n")
						time.AfterFunc(100*time.Millisecond, func() { fmt.Fprintln(conn, text) })
					}
				}
			}()
		}
	}()
	begin := time.Now()
	set, err := Run(t.Context(), &rest.Config{Host: "http://127.0.0.1:1"}, []Client{{Path: "x", Operation: Echo, Connection: Kept, Address: l.Addr().String()}}, Options{Pace: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := until(ctx, func() bool { return connections.Load() >= 4 }); err != nil {
		t.Error("the client does not open another connection")
	}
	set.Stop()
	if o := set.between(begin, time.Now())[0].Outage; o.Failed > 0 || o.Requests < 20 {
		t.Errorf("%+v", o)
	}
	if err := until(ctx, func() bool { return open.Load() == 0 }); err != nil {
		t.Errorf("%d connections stay open", open.Load())
	}
}

func TestLogAndSummary(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/bad") {
			http.Error(w, "bad", http.StatusInternalServerError)
		}
	}))
	defer web.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	good, bad := Client{Path: "good", Operation: Get, Connection: Kept, Address: web.URL}, Client{Path: "bad", Operation: Get, Connection: New, Address: web.URL + "/bad"}
	set, err := Run(ctx, &rest.Config{Host: web.URL}, []Client{good, bad}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	logging, enough := context.WithTimeout(ctx, 4500*time.Millisecond)
	defer enough()
	var log bytes.Buffer
	begin := time.Now()
	if err := set.Log(logging, &log); err != nil {
		t.Fatal(err)
	}
	set.Stop()

	s := NewSummary(begin.Add(-time.Second), time.Now().Add(time.Second))
	log.WriteString(`{"at": 17, "cli`) // its process was killed
	if err := s.Read(&log); err != nil {
		t.Fatal(err)
	}
	results := s.Results()
	if len(results) != 2 || results[0].Client != good || results[1].Client != bad {
		t.Fatalf("got %+v", results)
	}
	if g := results[0]; g.Requests < 20 || g.Failed > 0 || g.Disruption > 0 {
		t.Errorf("good: %+v", g)
	}
	if b := results[1]; b.Requests < 20 || b.Failed != b.Requests || b.Phases[Status] != b.Failed || b.Errors["HTTP 500"] != b.Failed || b.Disruption == 0 {
		t.Errorf("bad: %+v", b)
	}
}

func TestSummary(t *testing.T) {
	c := Client{Path: "endpoint", Operation: Write, Connection: New}
	line := func(at int64, failed int, acked ...int) Second {
		return Second{At: at, Result: Result{c, Outage{Requests: 20, Failed: failed, Longest: time.Duration(failed) * time.Second}}, Ledger: "l", Acknowledged: acked}
	}
	s := NewSummary(time.Unix(100, 0), time.Unix(110, 0))
	for at := int64(95); at < 115; at++ {
		if at != 104 && at != 105 {
			s.Add(line(at, int(at)%3, int(at)))
		}
	}
	got := s.Results()
	if len(got) != 1 || got[0].Requests != 160 || got[0].Failed != 1+2+0+1+1+2+0+1 || got[0].Longest != 2*time.Second {
		t.Errorf("got %+v", got)
	}
	if starved := s.Starved(c, 50*time.Millisecond, time.Unix(90, 0), time.Time{}); !slices.Equal(starved, []string{"endpoint: write, new ran in 8 of 10 seconds"}) {
		t.Errorf("starved: %v", starved)
	}
	if n := len(s.Ledgers["l"]); n != 18 {
		t.Errorf("%d writes are remembered; those outside the interval must not get lost either", n)
	}
}

// TestCreateAgain lets the first requests fail, and then refuses.
func TestCreateAgain(t *testing.T) {
	t.Parallel()
	var requests int
	status := http.StatusServiceUnavailable
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		w.Header().Set("Content-Type", "application/json")
		switch {
		case requests == 1:
			panic(http.ErrAbortHandler)
		case requests == 2 || status/100 == 4:
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":%d}`, status)
		default:
			fmt.Fprint(w, `{"apiVersion":"v1","kind":"ConfigMap"}`)
		}
	}))
	defer server.Close()
	api, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := createConfigMaps(t.Context(), api, "x", "one", "two"); err != nil || requests != 4 {
		t.Errorf("after %d requests: %v", requests, err)
	}
	status = http.StatusForbidden
	if err := createConfigMaps(t.Context(), api, "x", "three"); err == nil || requests != 5 {
		t.Errorf("what is refused is tried again: %d requests, %v", requests, err)
	}
}

// TestPrepareWaits for the removal of what earlier clients wrote.
func TestPrepareWaits(t *testing.T) {
	t.Parallel()
	ending := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x", DeletionTimestamp: &metav1.Time{Time: time.Now()}, Finalizers: []string{"kubernetes"}}}
	api := fake.NewClientset(ending)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("the time was up"))
	defer cancel()
	if err := Prepare(ctx, api, "x"); err == nil || !strings.Contains(err.Error(), "still being removed: the time was up") {
		t.Errorf("a namespace that is being removed: %v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() {
		api.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("namespaces"), "", "x") //nolint:errcheck // the test would notice
	})
	for range 2 { // the second time, everything is there
		if err := Prepare(t.Context(), api, "x"); err != nil {
			t.Fatal(err)
		}
		if n, err := api.CoreV1().Namespaces().Get(t.Context(), "x", metav1.GetOptions{}); err != nil || n.DeletionTimestamp != nil {
			t.Errorf("%v, %v", n, err)
		}
	}
}

func TestLate(t *testing.T) {
	own := Client{Path: "server a", Operation: Ready, Connection: Kept, Address: "https://a"}
	endpoint := Client{Path: "endpoint", Operation: Read}
	for name, c := range map[string]struct {
		client  Client
		at      []int64 // milliseconds
		want    int
		unaware bool // the server does not announce its shutdown
		learned int64
		unknown bool
		hiccup  bool // a request to the server times out while it is shutting down
	}{
		"early":             {client: endpoint, at: []int64{20500, 23999}},
		"late":              {client: endpoint, at: []int64{24600, 24900}, want: 2},
		"before":            {client: endpoint, at: []int64{15000}},
		"the next process":  {client: endpoint, at: []int64{25700, 40000}},
		"by its address":    {client: Client{Path: "server a", Operation: Read, Address: "https://a"}, at: []int64{24600}},
		"nothing announced": {client: endpoint, at: []int64{24600}, unaware: true},
		// The connection over which the server is asked is older than the interval.
		"learned before":       {client: endpoint, at: []int64{24600}, want: 1, learned: 3},
		"learned afterwards":   {client: endpoint, at: []int64{24600}, want: 1, learned: 70},
		"never learned":        {client: endpoint, at: []int64{24600}, learned: -1, unknown: true},
		"it is not gone, late": {client: endpoint, at: []int64{24600}, want: 1, hiccup: true},
	} {
		s := NewSummary(time.Unix(10, 0), time.Unix(60, 0))
		line := func(c Client, at int64, failed map[string]int64, connected map[string][]int64) {
			l := Second{At: at, Result: Result{Client: c}, FailedAt: failed, Connected: connected}
			l.Requests, l.Failed = 20, len(failed)*20
			s.Add(l)
		}
		if c.learned == 0 {
			c.learned = 11
		}
		line(own, 11, nil, nil)
		if c.learned > 0 {
			line(own, c.learned, nil, map[string][]int64{"1": {c.learned * 1000}}) // certificate 3 is another server's
		}
		if !c.unaware {
			for at := int64(20); at < 25; at++ {
				line(own, at, map[string]int64{ShuttingDown: at*1000 + 500}, nil)
			}
		}
		if c.hiccup {
			line(own, 22, map[string]int64{TimedOut: 22900}, nil)
		}
		line(own, 25, map[string]int64{"dial: connect: connection refused": 25600}, nil)
		line(own, 35, nil, nil)
		line(c.client, 24, nil, map[string][]int64{"1": c.at, "3": {24700}})
		late, announced, unknown := s.Late(4 * time.Second)
		if wantSeen := 1; c.unaware && announced["server a"] != 0 || !c.unaware && announced["server a"] != wantSeen || late != c.want {
			t.Errorf("%s: %d late connections in %v shutdowns, want %d", name, late, announced, c.want)
		}
		if c.unknown != slices.Contains(unknown, "server a") {
			t.Errorf("%s: the certificates of %v are unknown", name, unknown)
		}
	}
}

// TestExcused cuts a server off from a client that uses no other: before it stops, while it is stopped, too long, and afterwards.
func TestExcused(t *testing.T) {
	ready, own := Client{Path: "server a", Operation: Ready, Address: "https://a"}, Client{Path: "server a", Operation: Read, Address: "https://a"}
	other := Client{Path: "server b", Operation: Read, Address: "https://b"}
	for name, c := range map[string]struct {
		told, gone, back int64 // seconds; 0: never
		again            int64 // when it refuses a connection without having been ready
		rejects          int64 // when it rejects a request
		unannounced      bool
		fails            []int64
		want             int
	}{
		"while it is stopped":         {told: 100, gone: 105, back: 120, fails: []int64{105, 110, 119, 120}, want: 4},
		"before it said so":           {told: 100, gone: 105, back: 120, fails: []int64{50, 99}},
		"after it was back":           {told: 100, gone: 105, back: 120, fails: []int64{121, 130}},
		"it does not come back":       {told: 100, gone: 105, fails: []int64{219, 220, 221, 250}, want: 2},
		"it crashes":                  {gone: 105, back: 120, fails: []int64{105, 110}},
		"it never says so":            {gone: 105, back: 120, unannounced: true, fails: []int64{105, 110, 121}, want: 2},
		"it never says so, for long":  {gone: 105, unannounced: true, fails: []int64{110, 226}, want: 1},
		"it never says so, and hangs": {back: 120, unannounced: true, fails: []int64{110}},
		"it does not know anybody":    {told: 100, gone: 105, back: 120, rejects: 119, want: 1},
		"it rejects, and is ready":    {told: 100, gone: 105, back: 120, rejects: 121},
		"it is refused again":         {gone: 105, unannounced: true, again: 230, fails: []int64{110, 231}, want: 1},
	} {
		s := NewSummary(time.Unix(10, 0), time.Unix(300, 0))
		line := func(c Client, at int64, o Outage, failed map[string]int64) {
			s.Add(Second{At: at, Result: Result{c, o}, FailedAt: failed})
		}
		line(ready, 20, Outage{Requests: 20}, nil)
		line(own, 102, Outage{Requests: 20, Failed: 1, Phases: map[Phase]int{Status: 1}}, nil) // while it still serves
		if c.told > 0 {
			line(ready, c.told, Outage{Requests: 20, Failed: 10}, map[string]int64{ShuttingDown: c.told*1000 + 300})
			line(ready, c.told+4, Outage{Requests: 20, Failed: 20}, map[string]int64{ShuttingDown: c.told*1000 + 4300})
		}
		if c.gone > 0 {
			line(ready, c.gone, Outage{Requests: 20, Failed: 20}, map[string]int64{"dial: connect: connection refused": c.gone*1000 + 300})
		} else {
			line(ready, 105, Outage{Requests: 20, Failed: 20}, map[string]int64{TimedOut: 105300})
		}
		if c.back > 0 {
			line(ready, c.back, Outage{Requests: 20, Failed: 5}, map[string]int64{"dial: connect: connection refused": c.back * 1000})
		}
		if c.again > 0 {
			line(ready, c.again, Outage{Requests: 20, Failed: 20}, map[string]int64{"dial: connect: connection refused": c.again * 1000})
		}
		if c.rejects > 0 {
			line(own, c.rejects, Outage{Requests: 20, Failed: 1, Phases: map[Phase]int{Status: 1}}, nil)
		}
		for i, at := range c.fails {
			connecting := []Phase{Dial, TLS}[i%2]
			line(own, at, Outage{Requests: 20, Failed: 3, Phases: map[Phase]int{connecting: 1, Header: 2}}, nil)
			line(other, at, Outage{Requests: 20, Failed: 1, Phases: map[Phase]int{Dial: 1}}, nil)
		}
		if got := s.Excused(!c.unannounced); got[own.String()].Requests != c.want || got[other.String()].Requests != 0 {
			t.Errorf("%s: %v, want %d", name, got, c.want)
		}
	}
}

// TestSlowWhileItStarts has a client wait for the only server that it uses: while it serves, while it is gone, and when it is back.
func TestSlowWhileItStarts(t *testing.T) {
	ready, own := Client{Path: "server a", Operation: Ready, Address: "https://a"}, Client{Path: "server a", Operation: Read, Address: "https://a"}
	for name, c := range map[string]struct {
		at   int64
		want time.Duration
	}{
		"before":                {99, 3 * time.Second},
		"while it still serves": {102, 3 * time.Second},
		"while it is gone":      {110, 10 * time.Millisecond},
		"when it is back":       {120, 10 * time.Millisecond},
		"afterwards":            {121, 3 * time.Second},
	} {
		s := NewSummary(time.Unix(10, 0), time.Unix(300, 0))
		for at := int64(95); at < 130; at++ {
			line := Second{At: at, Result: Result{ready, Outage{Requests: 20}}}
			switch {
			case at >= 100 && at < 105:
				line.Failed, line.FailedAt = 20, map[string]int64{ShuttingDown: at*1000 + 900}
			case at >= 105 && at < 120:
				line.Failed, line.FailedAt = 20, map[string]int64{"dial: connect: connection refused": at*1000 + 300}
			}
			s.Add(line)
			slowest := 10 * time.Millisecond
			if at == c.at {
				slowest = 3 * time.Second
			}
			s.Add(Second{At: at, Result: Result{own, Outage{Requests: 20, Slowest: slowest}}})
		}
		if got := s.Excused(true)[own.String()]; got.Slowest != c.want {
			t.Errorf("%s: %s, want %s", name, got.Slowest, c.want)
		}
	}
}

func TestStarved(t *testing.T) {
	c, watch := Client{Path: "endpoint", Operation: Read, Connection: New}, Client{Path: "endpoint", Operation: Watch, Connection: Kept}
	register := Client{Path: "endpoint", Operation: Register, Connection: New}
	none := func(int64) bool { return false }
	between := func(from, to int64) func(int64) bool { return func(at int64) bool { return at >= from && at < to } }
	for name, test := range map[string]struct {
		client   Client
		missing  func(int64) bool // no line
		weak     func(int64) bool // a line with few requests
		from, to time.Time
		want     []string
	}{
		"it ran":                       {},
		"two seconds":                  {missing: between(150, 152)},
		"three seconds":                {missing: between(150, 153), want: []string{"endpoint: read, new sent 0 requests instead of 60 in 3 seconds from 00:02:30"}},
		"three weak seconds":           {weak: between(150, 153), want: []string{"endpoint: read, new sent 27 requests instead of 60 in 3 seconds from 00:02:30"}},
		"the last three":               {missing: between(197, 200), want: []string{"endpoint: read, new sent 0 requests instead of 60 in 3 seconds from 00:03:17"}},
		"now and then":                 {weak: func(at int64) bool { return at%8 == 0 }, want: []string{"endpoint: read, new ran in 88 of 100 seconds"}},
		"nothing":                      {missing: between(0, 300), want: []string{"endpoint: read, new logged nothing"}},
		"a watch has its own pace":     {client: watch, weak: between(0, 300)},
		"a register waits for answers": {client: register, weak: between(0, 300)},
		"a watch is not there":         {client: watch, missing: between(150, 153), want: []string{"endpoint: watch, kept did not run for 3 seconds from 00:02:30"}},
		"it ended with its node":       {to: time.Unix(150, 5e8), missing: between(150, 300)},
		"it ended before its node":     {to: time.Unix(150, 5e8), missing: between(147, 300), want: []string{"endpoint: read, new sent 0 requests instead of 60 in 3 seconds from 00:02:27"}},
		"it came with a node":          {from: time.Unix(0, 1), missing: between(0, 150)},
		"it came with a node and fell": {from: time.Unix(0, 1), missing: func(at int64) bool { return at < 150 || at > 180 && at < 185 }, want: []string{"endpoint: read, new sent 0 requests instead of 80 in 4 seconds from 00:03:01"}},
		"it never came":                {from: time.Unix(0, 1), missing: between(0, 300), want: []string{"endpoint: read, new logged nothing"}},
	} {
		if test.missing == nil {
			test.missing = none
		}
		if test.weak == nil {
			test.weak = none
		}
		if test.client == (Client{}) {
			test.client = c
		}
		begin := time.Unix(90, 0)
		if !test.from.IsZero() {
			begin = time.Time{} // not known
		}
		s := NewSummary(time.Unix(100, 0), time.Unix(200, 0))
		for at := int64(90); at < 210; at++ {
			l := Second{At: at, Result: Result{test.client, Outage{Requests: 20, Failed: 20}}} // those that hang or fail were sent
			if test.weak(at) {
				l.Requests = 9
			}
			if !test.missing(at) {
				s.Add(l)
			}
		}
		got := s.Starved(test.client, 50*time.Millisecond, begin, test.to)
		if len(test.want) > 0 && len(got) > len(test.want) {
			got = got[:len(test.want)] // a tenth of the time as well
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestLogRest ends clients while requests hang: what has failed before is not lost, and neither is what fails meanwhile.
func TestLogRest(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			silence(r)
		}
		http.Error(w, "no", http.StatusInternalServerError)
	}))
	defer web.Close()
	set, err := Run(t.Context(), &rest.Config{Host: web.URL}, []Client{{Path: "x", Operation: Get, Connection: New, Address: web.URL}}, Options{Timeout: 6 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Stop()
	begin := time.Now()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	var log bytes.Buffer
	if err := set.Log(ctx, &log); err != nil {
		t.Fatal(err)
	}
	s := NewSummary(begin.Add(-time.Second), time.Now())
	if err := s.Read(&log); err != nil {
		t.Fatal(err)
	}
	r := s.Results()
	if len(r) != 1 || r[0].Errors["HTTP 500"] < 20 || r[0].Errors[TimedOut] != 1 || r[0].Failed != r[0].Requests {
		t.Errorf("logged: %+v", r)
	}
	if len(r) == 1 && r[0].Longest > time.Second {
		t.Errorf("a gap of %s, and no line is longer than what the client ran of it", r[0].Longest)
	}
	if sent := int(n.Load()); len(r) == 1 && r[0].Requests != sent {
		t.Errorf("%d of %d requests were logged", r[0].Requests, sent)
	}
}

// TestRepeat has an API server ask for requests to be repeated.
func TestRepeat(t *testing.T) {
	for name, c := range map[string]struct {
		operation     Operation
		path          string // of a workload
		status        int
		after         string
		times         int32
		timeout       time.Duration
		text          string
		repeated, min int
	}{
		"a read":                      {operation: Read, status: 503, after: "1", times: 1, repeated: 1},
		"a write":                     {operation: Write, status: 429, after: "1", times: 1, repeated: 1},
		"as often as client-go":       {operation: Read, status: 503, after: "0", times: 10, repeated: 1},
		"and no more":                 {operation: Read, status: 503, after: "0", times: 11, repeated: 1, text: ComeAgain},
		"until the time is over":      {operation: Read, status: 503, after: "5", times: 1, timeout: time.Second, repeated: 1, text: ComeAgain},
		"without a time":              {operation: Read, status: 503, times: 1, text: "HTTP 503"},
		"a status that is not for it": {operation: Read, status: 404, after: "1", times: 1, text: "HTTP 404"},
		"how ready it is":             {operation: Ready, status: 503, after: "1", times: 1, text: ComeAgain},
		"a workload":                  {operation: Get, status: 503, after: "1", times: 1, text: ComeAgain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			var mu sync.Mutex
			bodies := map[string]int{}
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.Method == http.MethodPost { // the ledger
					fmt.Fprint(w, `{"apiVersion":"v1","kind":"ConfigMap"}`)
					return
				}
				body, _ := io.ReadAll(r.Body)
				mu.Lock()
				bodies[string(body)]++
				mu.Unlock()
				if requests.Add(1) <= c.times {
					if c.after != "" {
						w.Header().Set("Retry-After", c.after)
					}
					w.WriteHeader(c.status)
				}
			}))
			defer api.Close()
			begin := time.Now()
			client := Client{Path: "x", Operation: c.operation, Connection: New, Pace: 2 * time.Second}
			if c.operation == Get {
				client.Address = api.URL
			}
			if c.timeout == 0 {
				c.timeout = 5 * time.Second
			}
			set, err := Run(t.Context(), &rest.Config{Host: api.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, []Client{client}, Options{Timeout: c.timeout})
			if err != nil {
				t.Fatal(err)
			}
			m := set.members[0]
			if err := until(t.Context(), func() bool { return requests.Load() > 0 }); err != nil {
				t.Fatal(err)
			}
			set.Stop() // no second request, and the first one ends
			o := m.record.between(begin, time.Now())
			if o.Requests != 1 || o.Repeated != c.repeated || (o.Failed == 1) != (c.text != "") || c.text != "" && o.Errors[c.text] != 1 {
				t.Errorf("%+v, want %d repeated, and %q", o, c.repeated, c.text)
			}
			if c.after == "1" && c.repeated > 0 && o.Slowest < time.Second {
				t.Errorf("it took %s, without the time before it was repeated", o.Slowest)
			}
			if len(bodies) != 1 {
				t.Errorf("what is repeated differs: %v", bodies)
			}
			if m.writer != nil && !slices.Equal(m.writer.acknowledged(begin, time.Now()), []int{0}) {
				t.Error("the write is not in the ledger")
			}
		})
	}
}

func TestLatencies(t *testing.T) {
	l := Latencies{}
	for ms := range 1000 {
		l.add(time.Duration(ms+1) * time.Millisecond)
	}
	l.Add(Latencies{})
	for part, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := l.Quantile(part); got < want || got > want*112/100 {
			t.Errorf("the %v quantile is %s, and not at most a tenth more than %s", part, got, want)
		}
	}
	if (Latencies{}).Quantile(0.5) != 0 {
		t.Error("without a request there is no latency")
	}
	l = Latencies{}
	l.add(20 * time.Microsecond)
	if got := l.Quantile(0.5); got != time.Millisecond {
		t.Errorf("a very short one is %s", got)
	}
}

func TestLookup(t *testing.T) {
	none := &net.DNSError{Err: "no address", IsNotFound: true, Server: "10.96.0.10:53"}
	gone := &net.DNSError{Err: "NXDOMAIN", IsNotFound: true, Server: "10.96.0.10:53"}
	lost := &net.DNSError{Err: "i/o timeout", IsTimeout: true}
	for name, c := range map[string]struct {
		four, six error
		want      failure
	}{
		"IPv4 only":            {six: none},
		"IPv6 only":            {four: none},
		"both":                 {},
		"no such name":         {gone, gone, failure{Header, "NXDOMAIN, says 10.96.0.10:53"}},
		"the query is lost":    {lost, none, failure{Header, TimedOut}},
		"the other one is":     {nil, lost, failure{Header, TimedOut}},
		"the server fails":     {&net.DNSError{Err: "server misbehaving", IsTemporary: true, Server: "10.96.0.10:53"}, none, failure{Header, "server misbehaving, says 10.96.0.10:53"}},
		"nobody listens there": {&net.DNSError{Err: "read udp 10.244.1.2:4711->10.96.0.10:53: read: connection refused", IsTemporary: true, Server: "10.96.0.10:53"}, none, failure{Header, "connection refused, says 10.96.0.10:53"}},
	} {
		got := lookup(t.Context(), func(_ context.Context, network, _ string) error {
			if network == "ip4" {
				return c.four
			}
			return c.six
		}, "x")
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestQuery asks a server that answers one kind of query and drops the other.
func TestQuery(t *testing.T) {
	const typeA, typeAAAA = 1, 28
	for name, c := range map[string]struct {
		dropped byte
		code    byte
		want    failure
	}{
		"IPv4 is lost": {dropped: typeA, want: failure{Header, TimedOut}},
		"IPv6 is lost": {dropped: typeAAAA, want: failure{Header, TimedOut}},
		"no address":   {want: failure{Header, "no address"}},
		"no such name": {code: 3, want: failure{Header, "NXDOMAIN"}},
		"SERVFAIL":     {code: 2, want: failure{Header, "server misbehaving"}},
	} {
		server, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			for b := make([]byte, 1500); ; {
				_, from, err := server.ReadFrom(b)
				if err != nil {
					return
				}
				end := 12 // of the name in the question
				for b[end] != 0 {
					end += int(b[end]) + 1
				}
				if b[end+2] == c.dropped {
					continue
				}
				b[2], b[3], b[11] = 0x85, c.code, 0 // an answer with authority, and nothing else in it
				server.WriteTo(b[:end+5], from)
			}
		}()
		d := dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.LocalAddr().String())
		})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		got := lookup(ctx, d.query, "kubernetes.default.svc.cluster.local.")
		got.text, _, _ = strings.Cut(got.text, ", says ") // the server of this computer
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestClientsAsJSON(t *testing.T) {
	want := Client{Path: "NodePort of cp-a", Operation: Get, Connection: Kept, Address: "http://10.0.0.1:30000"}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Client
	if err := json.Unmarshal(text, &got); err != nil || got != want || want.API() || want.String() != "NodePort of cp-a: get, kept" {
		t.Errorf("%s becomes %+v, %v", text, got, err)
	}
}
