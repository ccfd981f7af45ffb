package exporter

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// fakeAPI knows the tokens of two users. Only one of them may read the metrics.
type fakeAPI struct {
	down  error
	asked int
	users map[string]string // by token
	may   []string
}

func newAPI() *fakeAPI {
	return &fakeAPI{users: map[string]string{"good": "prometheus", "other": "somebody"}, may: []string{"prometheus"}}
}

func (f *fakeAPI) authenticate(_ context.Context, token string) (authenticationv1.UserInfo, bool, error) {
	f.asked++
	user, known := f.users[token]
	return authenticationv1.UserInfo{Username: user}, known, f.down
}

func (f *fakeAPI) authorize(_ context.Context, user authenticationv1.UserInfo) (bool, error) {
	return slices.Contains(f.may, user.Username), f.down
}

func collector() *metrics.Collector {
	f := clustertest.Whole()
	c := metrics.NewCollector("lab", func() time.Time { return clustertest.Now })
	c.Observed(cluster.Evaluate(f.Spec, f.Seen))
	return c
}

func TestWhoMayRead(t *testing.T) {
	handler, err := (&Server{Metrics: collector()}).handler(&access{api: newAPI(), now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		method, path, authorization string
		code                        int
		says                        string
	}{
		"who may":           {authorization: "Bearer good", code: 200, says: "quorate_margin{"},
		"in other letters":  {authorization: "bearer  good", code: 200, says: "quorate_margin{"},
		"HEAD":              {method: http.MethodHead, authorization: "Bearer good", code: 200},
		"without a token":   {code: 401, says: "bearer token"},
		"an unknown token":  {authorization: "Bearer bad", code: 401, says: "bearer token"},
		"a password":        {authorization: "Basic Z29vZA==", code: 401},
		"who may not":       {authorization: "Bearer other", code: 403, says: "somebody may not get the nonResourceURL /metrics"},
		"another path":      {path: "/", authorization: "Bearer good", code: 404},
		"to change it":      {method: http.MethodPost, authorization: "Bearer good", code: 405},
		"a path that is no": {path: "/metrics/../etc", authorization: "Bearer good", code: 404},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(cmp.Or(tc.method, http.MethodGet), cmp.Or(tc.path, Path), nil)
		if tc.authorization != "" {
			r.Header.Set("Authorization", tc.authorization)
		}
		handler.ServeHTTP(w, r)
		if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.says) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if closes := w.Header().Get("Connection") == "close"; closes != (tc.code != 200) {
			t.Errorf("%s: %d, and the connection is closed: %t", name, w.Code, closes)
		}
		if tc.code != 200 && strings.Contains(w.Body.String(), "quorate_") {
			t.Errorf("%s: the metrics are told: %s", name, w.Body)
		}
	}
}

// TestDecisionsAreRemembered, and kept while the API cannot be asked: by those who could read the metrics before, and not by others, and not for
// ever.
func TestDecisionsAreRemembered(t *testing.T) {
	api, now := newAPI(), clustertest.Now
	a := &access{api: api, now: func() time.Time { return now }}
	check := func(what, token string, want verdict, asked int) {
		t.Helper()
		got, why := a.of(t.Context(), token)
		if got != want || api.asked != asked || want == undecided && !strings.Contains(why, "no route") {
			t.Errorf("%s: %d (%s) after %d questions, want %d after %d", what, got, why, api.asked, want, asked)
		}
	}
	check("the first time", "good", allowed, 1)
	check("again", "good", allowed, 1)
	check("somebody else", "other", forbidden, 2)
	now = now.Add(deniedFor)
	check("a refusal does not count for long", "other", forbidden, 3)
	now = now.Add(allowedFor)
	check("a permission does not count for ever", "good", allowed, 4)
	api.down = errors.New("no route to host")
	check("it counts a moment", "good", allowed, 4)
	now = now.Add(allowedFor)
	check("no API", "good", allowed, 5)
	check("no API, and nobody knows the token", "new", undecided, 6)
	now = now.Add(deniedFor)
	check("no API, and it was refused", "other", undecided, 7)
	now = now.Add(heldFor)
	check("no API for too long", "good", undecided, 8)
	api.down = nil
	check("the API is back", "good", allowed, 9)
	api.may, api.down = nil, nil
	now = now.Add(allowedFor)
	check("it was taken away", "good", forbidden, 10)
	api.down = errors.New("no route to host")
	now = now.Add(deniedFor)
	check("what was taken away is not held", "good", undecided, 11)
}

// TestManyTokens: whoever tries ever other tokens fills no memory, and does not push out who may read.
func TestManyTokens(t *testing.T) {
	api := newAPI()
	a := &access{api: api, now: func() time.Time { return clustertest.Now }}
	a.of(t.Context(), "good")
	for i := range 3 * mostKnown {
		a.of(t.Context(), "token "+big.NewInt(int64(i)).String())
	}
	if len(a.known) > mostKnown {
		t.Errorf("%d are remembered", len(a.known))
	}
	asked := api.asked
	if v, _ := a.of(t.Context(), "good"); v != allowed || api.asked != asked {
		t.Errorf("%d after %d questions more", v, api.asked-asked)
	}
}

// TestRefusedWhileFull: a permission that was taken away is not held, even if no more refusals are remembered.
func TestRefusedWhileFull(t *testing.T) {
	api, now := newAPI(), clustertest.Now
	a := &access{api: api, now: func() time.Time { return now }}
	a.of(t.Context(), "good")
	for i := range 2 * mostKnown {
		token := "token " + big.NewInt(int64(i)).String()
		api.users[token] = "prometheus"
		a.of(t.Context(), token)
	}
	api.may = nil
	now = now.Add(allowedFor)
	if v, _ := a.of(t.Context(), "good"); v != forbidden {
		t.Errorf("%d after the permission was taken away", v)
	}
	api.down = errors.New("no route to host")
	now = now.Add(deniedFor)
	if v, _ := a.of(t.Context(), "good"); v != undecided {
		t.Errorf("%d when nobody can be asked", v)
	}
}

// TestNobodyCanBeAsked: why not is for the log, and not for strangers.
func TestNobodyCanBeAsked(t *testing.T) {
	api := newAPI()
	api.down = errors.New("no route to host")
	var logged []string
	s := &Server{Metrics: collector(), Log: func(text string) { logged = append(logged, text) }}
	handler, err := s.handler(&access{api: api, now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, Path, nil)
		r.Header.Set("Authorization", "Bearer good")
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "no route") || w.Header().Get("Connection") != "close" {
			t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
		}
	}
	if len(logged) != 1 || !strings.Contains(logged[0], "no route to host") {
		t.Errorf("logged: %q", logged)
	}
}

// authority signs certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{key, cert}
}

// serving is a certificate with its key, as PEM.
func (a authority) serving(t *testing.T, serial int64, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "exporter"}, DNSNames: []string{hostconfig.ExporterName}, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
}

// TestServes: over TLS, with a certificate that is replaced while it runs, and until the context ends.
func TestServes(t *testing.T) {
	dir := t.TempDir()
	s := &Server{CertificateFile: filepath.Join(dir, "exporter.pem"), KubeconfigFile: filepath.Join(dir, "exporter.conf"), Metrics: collector(), Address: "127.0.0.1:0"}
	cert := &certificate{path: s.CertificateFile}
	handler, err := s.handler(&access{api: newAPI(), now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.serve(t.Context(), cert, handler); err == nil || !strings.Contains(err.Error(), "there is no certificate") || !strings.Contains(s.Problem(), "there is no certificate") {
		t.Errorf("without a certificate: %v, %s", err, s.Problem())
	}
	ca := newAuthority(t)
	write := func(serial int64, until time.Time) {
		if err := durable.WriteFile(s.CertificateFile, ca.serving(t, serial, until), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(2, time.Now().Add(time.Hour))
	if why := s.Problem(); !strings.Contains(why, "cannot ask the API") {
		t.Errorf("without credentials: %q", why)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{GetCertificate: cert.get}
	server.StartTLS()
	defer server.Close()
	// What httptest serves by default is another certificate, for clients that name no server.
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	scrape := func(token string) (int, string, *big.Int) {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: hostconfig.ExporterName}}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body), answer.TLS.PeerCertificates[0].SerialNumber
	}
	if code, body, serial := scrape("good"); code != 200 || !strings.Contains(body, `quorate_margin{cluster="lab",of="etcd_members"} 1`) || serial.Int64() != 2 {
		t.Errorf("%d, certificate %d: %s", code, serial, body)
	}
	write(3, time.Now().Add(time.Hour))
	if code, _, serial := scrape("bad"); code != 401 || serial.Int64() != 3 {
		t.Errorf("%d, certificate %d", code, serial)
	}
	write(4, time.Now().Add(-time.Second))
	if _, err := cert.get(nil); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("%v", err)
	}
	write(5, time.Now().Add(time.Hour))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, cert, handler) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it goes on when its context has ended")
	}
}
