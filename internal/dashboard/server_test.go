package dashboard

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster/clustertest"
)

// served starts a server with a page of a whole cluster.
func served(t *testing.T) (*Server, *Feed) {
	t.Helper()
	f, err := NewFeed(nil, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.next(Look{State: stateOf(clustertest.Whole())}, nil); err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(t.Context(), "127.0.0.1:0", nil, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.listener.Close() })
	return s, f
}

func TestRequests(t *testing.T) {
	s, _ := served(t)
	h := s.handler()
	host := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/")
	_, port, _ := strings.Cut(host, ":")
	good := "Bearer " + s.token
	for name, c := range map[string]struct {
		method, path, host, token, site string
		want                            int
	}{
		"the page":                           {"GET", "/", host, "", "", 200},
		"a link from another page":           {"GET", "/", host, "", "cross-site", 200},
		"localhost":                          {"GET", "/", "localhost:" + port, "", "", 200},
		"IPv6":                               {"GET", "/", "[::1]:" + port, "", "", 200},
		"a name that leads here":             {"GET", "/", "evil.example.com:" + port, "", "", 421},
		"a name that begins like this":       {"GET", "/page", "127.0.0.1.example.com", good, "", 421},
		"no name":                            {"GET", "/page", "", good, "", 421},
		"a copy":                             {"GET", "/page", host, good, "", 200},
		"no token":                           {"GET", "/page", host, "", "", 401},
		"another token":                      {"GET", "/page", host, "Bearer " + strings.Repeat("A", len(s.token)), "", 401},
		"a part of the token":                {"GET", "/page", host, good[:len(good)-1], "", 401},
		"an empty token":                     {"GET", "/page", host, "Bearer ", "", 401},
		"another scheme":                     {"GET", "/page", host, "Basic " + s.token, "", 401},
		"no scheme":                          {"GET", "/page", host, s.token, "", 401},
		"a token in the address":             {"GET", "/page?token=" + s.token, host, "", "", 401},
		"events without a token":             {"GET", "/events", host, "", "", 401},
		"a request of another page":          {"GET", "/page", host, good, "cross-site", 403},
		"a request of this page":             {"GET", "/page", host, good, "same-origin", 200},
		"something else":                     {"GET", "/status", host, good, "", 404},
		"a change":                           {"POST", "/page", host, good, "", 405},
		"a change of the page without token": {"DELETE", "/", host, "", "", 405},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, nil)
			r.Host = c.host
			if c.token != "" {
				r.Header.Set("Authorization", c.token)
			}
			if c.site != "" {
				r.Header.Set("Sec-Fetch-Site", c.site)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("%d, want %d: %s", w.Code, c.want, w.Body)
			}
			if w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Security-Policy") == "" || w.Header().Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%v", w.Header())
			}
			if body := w.Body.String(); (w.Code != 200 || c.path == "/") && (strings.Contains(body, "cp-a") || strings.Contains(body, s.token)) {
				t.Error("whoever has no token sees something of the cluster")
			}
		})
	}
}

// TestThePageHasOneScript: the policy allows the script and the style sheet of the page, and nothing else.
func TestThePageHasOneScript(t *testing.T) {
	s, _ := served(t)
	if strings.Count(s.policy, "'sha256-") != 2 || strings.Contains(s.policy, "unsafe") || !strings.Contains(s.policy, "frame-ancestors 'none'") {
		t.Error(s.policy)
	}
	document := string(s.live)
	if strings.Count(document, "<script>") != 1 || strings.Contains(document, " style=") || !strings.Contains(document, "</script>\n</body>") || strings.Contains(document, "ZgotmplZ") {
		t.Error(document)
	}
	parts, err := Of(inputs()["degraded"]).parts()
	if err != nil {
		t.Fatal(err)
	}
	for name, part := range parts {
		if strings.Contains(string(part), " style=") || strings.Contains(string(part), "ZgotmplZ") {
			t.Errorf("%s has styles, which the policy forbids:\n%s", name, part)
		}
		if name != summary && !strings.Contains(document, `<section id="`+name+`">`) {
			t.Errorf("the page has no place for %s", name)
		}
	}
}

func TestAddresses(t *testing.T) {
	f, err := NewFeed(nil, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"0.0.0.0:0", "10.0.0.1:8080", ":8080", "example.com:80", "8080", ""} {
		_, err := NewServer(t.Context(), address, nil, f)
		if _, is := errors.AsType[*AddressError](err); !is {
			t.Errorf("%q: %v", address, err)
		}
	}
	for host, want := range map[string]bool{"127.0.0.1": true, "127.1.2.3": true, "::1": true, "LocalHost": true, "::ffff:127.0.0.1": true, "": false, "localhost.example.com": false, "0.0.0.0": false} {
		if got := loopbackName(host); got != want {
			t.Errorf("%q: %t", host, got)
		}
	}
}

// TestEvents: a browser gets the whole page, then what changes, and the end of the server ends its stream.
func TestEvents(t *testing.T) {
	s, f := served(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s, %v", answer.Status, answer.Header)
	}
	lines := bufio.NewReader(answer.Body)
	next := func() (m message) {
		t.Helper()
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		data, is := strings.CutPrefix(line, "data: ")
		if err := json.Unmarshal([]byte(data), &m); err != nil || !is {
			t.Fatalf("%v: %q", err, line)
		}
		if end, err := lines.ReadString('\n'); err != nil || end != "\n" {
			t.Fatalf("%v: %q", err, end)
		}
		return m
	}
	if m := next(); len(m.Parts) != len(sections)+1 || m.Title != "lab: healthy" || m.Stale {
		t.Errorf("%d parts, %q", len(m.Parts), m.Title)
	}
	if err := f.next(Look{}, errors.New("no session")); err != nil {
		t.Fatal(err)
	}
	if m := next(); len(m.Parts) != 1 || m.Parts[0].ID != summary || !m.Stale || m.Announce != "Stale: nothing can be observed." || !strings.Contains(m.Parts[0].HTML, "Stale since 2026-08-03 12:00:00 UTC") {
		t.Errorf("%+v", m)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(lines); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// TestStreamsAreLimited: whoever forgets tabs does not take all connections.
func TestStreamsAreLimited(t *testing.T) {
	s, _ := served(t)
	for range maxStreams {
		s.streams <- struct{}{}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/events", nil)
	r.Host = "127.0.0.1"
	r.Header.Set("Authorization", "Bearer "+s.token)
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
}

// certificateFor makes a certificate for a name, signed by itself.
func certificateFor(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestTLS: with a certificate, the server answers to the names of the certificate, and to no others.
func TestTLS(t *testing.T) {
	f, err := NewFeed(nil, time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	certificate := certificateFor(t, "dash.example.com")
	s, err := NewServer(t.Context(), "127.0.0.1:0", certificate, f)
	if err != nil {
		t.Fatal(err)
	}
	address := s.listener.Addr().String()
	_, port, _ := strings.Cut(address, ":")
	if want := "https://dash.example.com:" + port + "/"; s.URL() != want {
		t.Errorf("%s, want %s", s.URL(), want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}}
	defer client.CloseIdleConnections()
	for host, want := range map[string]int{"dash.example.com:" + port: http.StatusUnauthorized, "127.0.0.1:" + port: http.StatusMisdirectedRequest} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"page", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s", host, answer.Status)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
