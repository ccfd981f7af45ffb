package probe

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/pem"
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
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/drill/ledger"
)

// values is an API server with objects that have one value.
type values struct {
	mu      sync.Mutex
	objects map[string][]string // all values that each object ever had, by name
	// trouble may answer a request. do carries out what was requested.
	trouble func(w http.ResponseWriter, r *http.Request, name string, do func()) bool
}

func (s *values) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var o corev1.ConfigMap
	if text, _ := io.ReadAll(r.Body); len(text) > 0 {
		if err := json.Unmarshal(text, &o); err != nil {
			http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	name := path.Base(r.URL.Path)
	do := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch r.Method {
		case http.MethodPost:
			name = o.Name
			s.objects[name] = []string{""}
		case http.MethodPatch:
			s.objects[name] = append(s.objects[name], o.Data[registerKey])
		}
	}
	if s.trouble != nil && r.Method != http.MethodPost && s.trouble(w, r, name, do) {
		return
	}
	do()
	s.answer(w, name, 1)
}

// answer sends an object with the value that was the nth last, or the first.
func (s *values) answer(w http.ResponseWriter, name string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.objects[name]
	json.NewEncoder(w).Encode(corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: name},
		Data: map[string]string{registerKey: all[max(0, len(all)-n)]}})
}

// serve serves an API, over HTTP/1.1 and HTTP/2, and returns how to use it.
func serve(t *testing.T, s http.Handler) *rest.Config {
	server := httptest.NewUnstartedServer(s)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
		TLSClientConfig: rest.TLSClientConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}}
}

// silence never answers a request. A handler that only returned when the client has given up would answer with 200, and a client that is about
// to close its connection may still receive that.
func silence(r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// sixRegisters are three clients on each of two keys.
func sixRegisters() (out []Client) {
	for key := range 2 {
		for _, c := range []Connection{New, Kept, HTTP2} {
			out = append(out, Client{Path: "endpoint", Operation: Register, Connection: c, Key: key, Pace: 10 * time.Millisecond})
		}
	}
	return out
}

func operations(t *testing.T, ctx context.Context, s *Set, n int) {
	t.Helper()
	if err := until(ctx, func() bool { return len(s.History()) >= n }); err != nil {
		t.Fatalf("there are never %d operations", n)
	}
}

func TestRegister(t *testing.T) {
	for name, c := range map[string]struct {
		trouble func(s *values) func(n int64, w http.ResponseWriter, r *http.Request, name string, do func()) bool
		check   func(t *testing.T, r ledger.Result, o Outage)
	}{
		"all is well": {
			check: func(t *testing.T, r ledger.Result, o Outage) {
				if r.Verdict != ledger.Yes || r.Keys != 2 || r.Operations < 300 || r.Unknown > 0 || o.Failed > 0 || o.Requests < 300 {
					t.Errorf("%+v; %+v", r, o)
				}
			},
		},
		// Each of these is legal: a write without an answer may have happened, or not.
		"answers get lost": {
			trouble: func(s *values) func(n int64, w http.ResponseWriter, r *http.Request, name string, do func()) bool {
				return func(n int64, w http.ResponseWriter, r *http.Request, name string, do func()) bool {
					switch {
					case n%7 == 0:
						do()
						panic(http.ErrAbortHandler)
					case n%11 == 0:
						panic(http.ErrAbortHandler)
					case n%5 == 0:
						do() // etcd was too slow to confirm it
						w.Header().Set("Retry-After", "0")
						http.Error(w, "no answer from etcd", http.StatusInternalServerError)
						return true
					}
					return false
				}
			},
			check: func(t *testing.T, r ledger.Result, o Outage) {
				if r.Verdict != ledger.Yes || r.Unknown < 20 || len(r.Missing) > 0 || o.Errors["connection closed"] == 0 || o.Repeated == 0 || o.Errors[ComeAgain] > 0 {
					t.Errorf("%+v; %+v", r, o)
				}
			},
		},
		"stale reads": {
			trouble: func(s *values) func(n int64, w http.ResponseWriter, r *http.Request, name string, do func()) bool {
				return func(n int64, w http.ResponseWriter, r *http.Request, name string, _ func()) bool {
					if r.Method != http.MethodGet || n%20 != 0 {
						return false
					}
					s.answer(w, name, 6)
					return true
				}
			},
			check: func(t *testing.T, r ledger.Result, o Outage) {
				if r.Verdict != ledger.No || !strings.Contains(r.Why, "is stale") || o.Failed > 0 {
					t.Errorf("%+v; %+v", r, o)
				}
			},
		},
		"from some time on, writes get lost": {
			trouble: func(s *values) func(n int64, w http.ResponseWriter, r *http.Request, name string, do func()) bool {
				return func(n int64, w http.ResponseWriter, r *http.Request, name string, _ func()) bool {
					if r.Method != http.MethodPatch || n < 200 {
						return false
					}
					s.answer(w, name, 1)
					return true
				}
			},
			check: func(t *testing.T, r ledger.Result, o Outage) {
				if r.Verdict != ledger.No || len(r.Missing) == 0 || o.Failed > 0 {
					t.Errorf("%+v; %+v", r, o)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s := &values{objects: map[string][]string{}}
			if c.trouble != nil {
				var n atomic.Int64
				trouble := c.trouble(s)
				s.trouble = func(w http.ResponseWriter, r *http.Request, name string, do func()) bool {
					return trouble(n.Add(1), w, r, name, do)
				}
			}
			config := serve(t, s)
			begin := time.Now()
			set, err := Run(ctx, config, sixRegisters(), Options{Timeout: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer set.Stop()
			operations(t, ctx, set, 400)
			if err := set.ReadBack(ctx); err != nil {
				t.Fatal(err)
			}
			var outages []Outage
			for _, r := range set.between(begin, time.Now()) {
				outages = append(outages, r.Outage)
			}
			c.check(t, ledger.Check(ctx, set.History()), Worst(outages))

			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.objects) != 2 {
				t.Errorf("%d objects were used", len(s.objects))
			}
			for name, all := range s.objects {
				if slices.Sort(all); len(slices.Compact(all)) != len(all) {
					t.Errorf("a value was written to %s twice", name)
				}
			}
		})
	}
}

// TestRegisterOutcomes has writes fail in ways that prove that they were never sent, and in others.
func TestRegisterOutcomes(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	for name, c := range map[string]struct {
		trouble func(w http.ResponseWriter, r *http.Request)
		address string
		want    ledger.Outcome
		phase   Phase
		timeout time.Duration // 20 s if it is 0: a slow computer must not cause what the clients report
	}{
		"nobody listens":    {address: "https://" + closed.Addr().String(), want: ledger.Failed, phase: Dial},
		"no handshake":      {address: strings.Replace(plain.URL, "http:", "https:", 1), want: ledger.Failed, phase: TLS},
		"no answer":         {trouble: func(_ http.ResponseWriter, r *http.Request) { silence(r) }, phase: Header, timeout: 3 * time.Second},
		"a lost connection": {trouble: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, phase: Header},
		"an answer that ends": {trouble: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			fmt.Fprint(w, "{}")
		}, phase: Body},
		"it is rejected": {trouble: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "conflict", http.StatusConflict) }, phase: Status},
		"the server stops": {trouble: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "[-]shutdown failed", http.StatusServiceUnavailable)
		}, phase: Status},
		"it fails":                    {trouble: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "etcd", http.StatusInternalServerError) }, phase: Status},
		"an answer that is no object": {trouble: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }, phase: Body},
	} {
		for _, connection := range []Connection{New, Kept, HTTP2} {
			t.Run(name+", "+string(connection), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				s := &values{objects: map[string][]string{}}
				if c.trouble != nil {
					s.trouble = func(w http.ResponseWriter, r *http.Request, _ string, _ func()) bool {
						c.trouble(w, r)
						return true
					}
				}
				begin := time.Now()
				set, err := Run(ctx, serve(t, s), []Client{{Path: "x", Operation: Register, Connection: connection, Pace: 10 * time.Millisecond, Address: c.address}}, Options{Timeout: cmp.Or(c.timeout, 20*time.Second)})
				if err != nil {
					t.Fatal(err)
				}
				operations(t, ctx, set, 2)
				set.Stop()
				for _, o := range set.History() {
					if !o.Write || o.Outcome != c.want {
						t.Errorf("%+v, want a write with the outcome %d", o, c.want)
					}
				}
				if o := set.between(begin, time.Now())[0].Outage; o.Failed == 0 || o.Failed != o.Requests || o.Phases[c.phase] != o.Failed {
					t.Errorf("%+v, want failures of the phase %s", o, c.phase)
				}
			})
		}
	}
}

// TestUnderWay asks for the history while a write has no answer.
func TestUnderWay(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer := make(chan struct{})
	s := &values{objects: map[string][]string{}}
	s.trouble = func(_ http.ResponseWriter, r *http.Request, _ string, do func()) bool {
		if r.Method == http.MethodPatch {
			do()
			<-answer
		}
		return r.Method == http.MethodPatch
	}
	// The second one begins with a read, and later.
	set, err := Run(ctx, serve(t, s), []Client{{Path: "x", Operation: Register, Connection: New, Pace: 10 * time.Millisecond}, {Path: "x", Operation: Register, Connection: New, Pace: time.Second}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Stop()
	defer close(answer)
	seen := func() bool {
		return slices.ContainsFunc(set.History(), func(o ledger.Operation) bool { return !o.Write && o.Value == "0-1" })
	}
	if err := until(ctx, seen); err != nil {
		t.Fatal("the value is never read")
	}
	i := slices.IndexFunc(set.History(), func(o ledger.Operation) bool { return o.Write && o.Value == "0-1" })
	if i < 0 || set.History()[i].Outcome != ledger.Unknown {
		t.Errorf("the write is not part of %+v", set.History())
	}
	if moment := set.Clock(time.Now()); moment < set.History()[i].Called || moment > time.Minute {
		t.Errorf("it is %s, and the write was called at %s", moment, set.History()[i].Called)
	}
}

// TestReadBack reads back what an API server does not have any more, and from something that is none.
func TestReadBack(t *testing.T) {
	for name, c := range map[string]struct {
		gone string
		want ledger.Verdict // none if nothing can be read
	}{
		"the object is gone":    {gone: `{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"NotFound","code":404}`, want: ledger.No},
		"no API server answers": {gone: "404 page not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var gone atomic.Bool
			s := &values{objects: map[string][]string{}}
			s.trouble = func(w http.ResponseWriter, _ *http.Request, _ string, _ func()) bool {
				if gone.Load() {
					w.WriteHeader(http.StatusNotFound)
					fmt.Fprint(w, c.gone)
				}
				return gone.Load()
			}
			set, err := Run(ctx, serve(t, s), sixRegisters(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer set.Stop()
			operations(t, ctx, set, 100)
			gone.Store(true)
			brief, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			err = set.ReadBack(brief)
			if (err == nil) != (c.want != "") {
				t.Fatal(err)
			}
			if r := ledger.Check(ctx, set.History()); c.want != "" && (r.Verdict != c.want || len(r.Missing) == 0) {
				t.Errorf("%+v", r)
			}
		})
	}
}
