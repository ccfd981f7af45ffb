package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
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

func TestDisruption(t *testing.T) {
	r := record{perSecond: 20}
	from := time.Now()
	for n := range 60 { // three seconds' worth: all of the second one fails
		r.do(func() failure {
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
	step("an event is missing", func() { s.beat(2) }, func(o Outage) bool { return o.Errors["an event is missing"] == 1 })
	step("a watch cannot be resumed", func() { s.mu.Lock(); s.gone = true; s.mu.Unlock(); s.close() },
		func(o Outage) bool { return o.Errors["the watch cannot be resumed"] == 1 })
	step("and begins again", func() { s.beat(1) }, func(o Outage) bool { return o.Failed == 2 && o.Requests == 5 })
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

func TestLogAndSummary(t *testing.T) {
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
	if silent := s.Silent(); !slices.Equal(silent, []string{"endpoint: write, new ran in 8 of 10 seconds"}) {
		t.Errorf("silent: %v", silent)
	}
	if n := len(s.Ledgers["l"]); n != 18 {
		t.Errorf("%d writes are remembered; those outside the interval must not get lost either", n)
	}
}

// TestCreateAgain lets the first requests fail, and then refuses.
func TestCreateAgain(t *testing.T) {
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

func TestLate(t *testing.T) {
	own := Client{Path: "server a", Operation: Ready, Connection: Kept, Address: "https://a"}
	second := func(c Client, at int64, failed map[string]int64, connected ...int64) Second {
		return Second{At: at, Result: Result{Client: c}, FailedAt: failed, Connected: map[string][]int64{"1": connected, "2": connected}}
	}
	for name, c := range map[string]struct {
		client  Client
		at      []int64 // milliseconds
		want    int
		unaware bool // the server does not announce its shutdown
	}{
		"early":             {client: Client{Path: "endpoint", Operation: Read}, at: []int64{20500, 23999}},
		"late":              {client: Client{Path: "endpoint", Operation: Read}, at: []int64{24600, 24900}, want: 2},
		"before":            {client: Client{Path: "endpoint", Operation: Read}, at: []int64{15000}},
		"the next process":  {client: Client{Path: "endpoint", Operation: Read}, at: []int64{25700, 40000}},
		"by its address":    {client: Client{Path: "server a", Operation: Read, Address: "https://a"}, at: []int64{24600}},
		"nothing announced": {client: Client{Path: "endpoint", Operation: Read}, at: []int64{24600}, unaware: true},
	} {
		s := NewSummary(time.Unix(10, 0), time.Unix(60, 0))
		first := second(own, 11, nil)
		first.Connected = map[string][]int64{"1": {11000}} // certificate 2 is another server's
		s.Add(first)
		if !c.unaware {
			for at := int64(20); at < 25; at++ {
				s.Add(second(own, at, map[string]int64{ShuttingDown: at*1000 + 500}))
			}
		}
		gone := second(own, 25, map[string]int64{"dial: connect: connection refused": 25600})
		gone.Connected = nil
		s.Add(gone)
		line := second(c.client, 24, nil, c.at...)
		line.Connected = map[string][]int64{"1": c.at, "3": {24700}}
		s.Add(line)
		late, shutdowns := s.Late(4 * time.Second)
		if c.unaware == (shutdowns == 1) || late != c.want {
			t.Errorf("%s: %d late connections in %d shutdowns, want %d", name, late, shutdowns, c.want)
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
