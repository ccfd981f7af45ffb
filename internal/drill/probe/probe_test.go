package probe

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// store answers what the probe asks of an API server, and can be told to fail and to forget.
type store struct {
	mu      sync.Mutex
	down    bool
	objects map[string]map[string]string
	reads   map[string]int // by protocol
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	var body corev1.ConfigMap
	if r.Method == http.MethodPost || r.Method == http.MethodPatch {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusUnsupportedMediaType)
			return
		}
	}
	name := path.Base(r.URL.Path)
	list := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"}}
	switch {
	case r.Method == http.MethodPost && name == "configmaps":
		s.objects[body.Name] = map[string]string{}
	case r.Method == http.MethodPatch:
		for k, v := range body.Data {
			s.objects[name][k] = v
		}
	case name == "configmaps":
		for name, data := range s.objects {
			list.Items = append(list.Items, corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data})
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(list)
		return
	case r.Method == http.MethodGet:
		s.reads[r.Proto]++
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"apiVersion":"v1","kind":"ConfigMap"}`)
}

func (s *store) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// forget drops one write, and returns its number.
func (s *store) forget() (key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, data := range s.objects {
		for key := range data {
			if strings.HasPrefix(name, "writes-") {
				delete(data, key)
				return key
			}
		}
	}
	return ""
}

func TestProber(t *testing.T) {
	t.Parallel()
	s := &store{objects: map[string]map[string]string{}, reads: map[string]int{}}
	server := httptest.NewUnstartedServer(s)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	config := &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
		TLSClientConfig: rest.TLSClientConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}}

	p, err := Start(ctx, config, Options{Pace: 100 * time.Millisecond, StreamPace: 100 * time.Millisecond, Connections: 2, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	wait := func(what string, f func(Report) bool) {
		t.Helper()
		if err := until(ctx, func() bool { return f(p.between(begin, time.Now())) }); err != nil {
			t.Fatalf("never: %s", what)
		}
	}
	wait("all clients are answered", func(r Report) bool { return min(r.New.Requests, r.Writes.Requests, r.HTTP2.Requests) > 10 })
	s.set(true)
	wait("all clients fail", func(r Report) bool { return min(r.New.Failed, r.Writes.Failed, r.HTTP2.Failed) > 5 })
	s.set(false)
	if err := p.Calm(ctx, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	r, err := p.Between(ctx, begin, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Outage{r.New, r.Writes, r.HTTP2} {
		if o.Errors["HTTP 503"] == 0 || o.Longest == 0 || o.Longest > r.Longest() {
			t.Errorf("got %+v", o)
		}
	}
	if lost, acked, err := p.Lost(ctx); err != nil || len(lost) > 0 || acked == 0 {
		t.Errorf("lost %v of %d, %v", lost, acked, err)
	}
	p.set.Stop()
	forgotten := s.forget()
	if lost, _, err := p.Lost(ctx); err != nil || len(lost) != 1 || fmt.Sprint(lost[0]) != forgotten {
		t.Errorf("lost %v, want %s; %v", lost, forgotten, err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
	if s.reads["HTTP/1.1"] == 0 || s.reads["HTTP/2.0"] == 0 {
		t.Errorf("reads by protocol: %v", s.reads)
	}
}
