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
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// fakeAPI knows the tokens of two users. Only one of them may read the metrics.
type fakeAPI struct {
	down  error
	asked int
	// unready is why the API is not ready. It answers all the same.
	unready error
	users   map[string]string // by token
	may     []string
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

func (f *fakeAPI) ready(context.Context) error { return errors.Join(f.down, f.unready) }

// exposed is an observation of a whole cluster.
func exposed(t *testing.T) metrics.Exposed {
	t.Helper()
	f := clustertest.Whole()
	s, err := metrics.Observed("lab", cluster.Evaluate(f.Spec, f.Seen))
	if err != nil {
		t.Fatal(err)
	}
	return metrics.Exposed{Cluster: "lab", Now: func() time.Time { return clustertest.Now }, Last: func() (metrics.Snapshot, time.Time, error) { return s, clustertest.Now, nil }}
}

// unlimited are limits that one test does not reach.
func unlimited() *sources {
	now := time.Now()
	return newSources(func() time.Time { now = now.Add(time.Minute); return now })
}

func TestWhoMayRead(t *testing.T) {
	handler := (&Server{Metrics: exposed(t)}).handler(&access{api: newAPI(), now: time.Now}, unlimited())
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

// TestDecisionsAreRemembered, and kept while the API cannot be asked, however long that is: by those who could read the metrics before, and not by
// others.
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
	now = now.Add(30 * 24 * time.Hour)
	check("no API for a month", "good", allowed, 8)
	check("no API, and it was refused a month ago", "other", undecided, 9)
	api.down = nil
	check("the API is back", "good", allowed, 10)
	api.unready, api.users = errors.New("etcd failed"), nil
	now = now.Add(allowedFor)
	check("the API is not ready, and refuses everybody", "good", allowed, 11)
	check("the API is not ready, and nobody knows the token", "other", stranger, 12)
	api.users = newAPI().users
	api.unready = nil
	api.may, api.down = nil, nil
	now = now.Add(allowedFor)
	check("it was taken away", "good", forbidden, 13)
	api.down = errors.New("no route to host")
	now = now.Add(deniedFor)
	check("what was taken away is not held", "good", undecided, 14)
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
	s := &Server{Metrics: exposed(t), Log: func(text string) { logged = append(logged, text) }}
	handler := s.handler(&access{api: api, now: time.Now}, unlimited())
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

// TestUnusedPermissionsAreNotHeld: a permission that nobody used for long while the API answered may have been taken away since.
func TestUnusedPermissionsAreNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI()
		a := &access{api: api, now: time.Now}
		a.of(t.Context(), "good")
		ctx, cancel := context.WithCancel(t.Context())
		go a.probe(ctx)
		time.Sleep(2 * heldFor)
		cancel()
		synctest.Wait()
		api.down = errors.New("no route to host")
		if v, _ := a.of(t.Context(), "good"); v != undecided {
			t.Errorf("%d after two hours without a question", v)
		}
	})
}

// saved waits until nothing is left to write.
func saved(a *access) {
	for saving := true; saving; time.Sleep(time.Millisecond) {
		a.mu.Lock()
		saving = a.saving
		a.mu.Unlock()
	}
}

// TestPermissionsOutliveARestart, for the time in which the API cannot be asked. Refusals do not, and what was taken away stays so.
func TestPermissionsOutliveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "permissions.json")
	api, now := newAPI(), clustertest.Now
	start := func() *access {
		a := &access{api: api, now: func() time.Time { return now }, memory: path, forgot: func(err error) { t.Error(err) }}
		a.recall()
		return a
	}
	restarted := func(token string) verdict {
		a := start()
		v, _ := a.of(t.Context(), token)
		saved(a)
		return v
	}
	a := start()
	a.of(t.Context(), "good")
	a.of(t.Context(), "other")
	saved(a)
	if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), "good") {
		t.Errorf("%v: the token itself is on the disk: %s", err, text)
	}
	api.down = errors.New("no route to host")
	now = now.Add(10 * 24 * time.Hour)
	for token, want := range map[string]verdict{"good": allowed, "other": undecided, "bad": undecided} {
		if v := restarted(token); v != want {
			t.Errorf("%s after a restart without the API: %d, want %d", token, v, want)
		}
	}
	api.down, api.may = nil, nil
	if v := restarted("good"); v != forbidden {
		t.Errorf("%d after a restart, and it was taken away", v)
	}
	api.down = errors.New("no route to host")
	if v := restarted("good"); v != undecided {
		t.Errorf("%d after another restart", v)
	}
}

// TestADiskThatHangs keeps nobody from reading the metrics. What was decided meanwhile is written when it goes on.
func TestADiskThatHangs(t *testing.T) {
	a := &access{api: newAPI(), now: time.Now, memory: filepath.Join(t.TempDir(), "permissions.json"), forgot: func(err error) { t.Error(err) }}
	a.saving = true // and will for as long as it hangs
	for range 3 {
		if v, _ := a.of(t.Context(), "good"); v != allowed {
			t.Errorf("%d while the disk hangs", v)
		}
	}
	if _, err := os.Stat(a.memory); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("somebody else writes: %v", err)
	}
	a.save() // what hung goes on
	if text, err := os.ReadFile(a.memory); err != nil || !strings.Contains(string(text), "permissions") || a.saving {
		t.Errorf("%s, %v; it goes on: %t", text, err, a.saving)
	}
}

// TestMemoryThatCannotBeUsed keeps nobody out while the API answers.
func TestMemoryThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte(`{"permissions": {"00": "2026"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"broken": broken, "it cannot be written": filepath.Join(broken, "x")} {
		var said []error
		a := &access{api: newAPI(), now: time.Now, memory: path, forgot: func(err error) { said = append(said, err) }}
		a.recall()
		v, _ := a.of(t.Context(), "good")
		saved(a)
		if v != allowed || len(said) == 0 {
			t.Errorf("%s: %d, %v", name, v, said)
		}
	}
}

// TestOneAddressGetsAPart of the connections and requests, and others get theirs.
func TestOneAddressGetsAPart(t *testing.T) {
	now := clustertest.Now
	s := newSources(func() time.Time { return now })
	var ends []func()
	for i := range sourceConnections + 1 {
		end, ok := s.connect(fmt.Sprintf("10.0.0.1:%d", 1000+i))
		if ok != (i < sourceConnections) {
			t.Errorf("connection %d: %t", i, ok)
		}
		if ok {
			ends = append(ends, end)
		}
	}
	if _, ok := s.connect("10.0.0.2:1000"); !ok {
		t.Error("another address is kept out")
	}
	ends[0]()
	ends[0]()
	for i, want := range []bool{true, false} {
		if _, ok := s.connect("[::ffff:10.0.0.1]:2000"); ok != want { // the same address
			t.Errorf("after one has ended, connection %d: %t", i, ok)
		}
	}
	requests := func(address string) (n int) {
		for s.request(address) {
			n++
		}
		return n
	}
	if n := requests("[2001:db8::1]:1"); n != sourceBurst {
		t.Errorf("%d requests", n)
	}
	if n := requests("[2001:db8::2]:1"); n != 0 {
		t.Errorf("%d more from the same network", n)
	}
	if n := requests("[2001:db8:0:1::1]:1"); n != sourceBurst {
		t.Errorf("%d requests from another network", n)
	}
	now = now.Add(2 * time.Second)
	if n := requests("[2001:db8::3]:1"); n != 2*sourceRate {
		t.Errorf("%d requests after two seconds", n)
	}
	for i := range 2 * mostSources {
		s.request(fmt.Sprintf("10.%d.%d.1:1", 1+i/256, i%256))
	}
	if len(s.all) > mostSources {
		t.Errorf("%d addresses are known", len(s.all))
	}
	now = now.Add(time.Minute)
	if !s.request("192.0.2.1:1") || len(s.all) > 10 {
		t.Errorf("%d addresses are still known, and a new one is kept out", len(s.all))
	}
}

// TestSnapshots are read as they were written; what is not there, or not whole, is an error.
func TestSnapshots(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, facts.SnapshotName)
	if _, _, err := Snapshot(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	at := clustertest.Now.UTC()
	for _, text := range []string{"", "{", `{"leads": 1}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, _, err := Snapshot(dir); err == nil {
			t.Errorf("%q: %+v", text, s)
		}
	}
	if err := os.WriteFile(path, []byte(`{"leads":true,"at":"`+at.Format(time.RFC3339)+`","metrics":"x 1\n"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if s, said, err := Snapshot(dir); err != nil || !s.Leads || !s.At.Equal(at) || s.Metrics != "x 1\n" || !said.Equal(at.Add(time.Minute)) {
		t.Errorf("%+v, %v, %v", s, said, err)
	}
	if err := os.Truncate(path, mostSnapshot+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Snapshot(dir); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
}

// TestWhatFollowsAnAttempt: an exporter whose certificate expires while it serves is started again immediately, but not again and again.
func TestWhatFollowsAnAttempt(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		took  time.Duration
		wait  time.Duration
		again bool
	}{
		"the port is taken":                {errors.New("address already in use"), 0, retryAfter, true},
		"there is no certificate yet":      {fmt.Errorf("serving: %w", &credentialsError{ofServer, fs.ErrNotExist}), time.Second, renewAfter - time.Second, false},
		"it expires after days":            {errExpired, 7 * 24 * time.Hour, 0, false},
		"it had expired before, at a boot": {errExpired, 0, renewAfter, false},
	} {
		if wait, again := after(tc.err, tc.took); wait != tc.wait || again != tc.again {
			t.Errorf("%s: it waits for %s, and tries again: %t; want %s, %t", name, wait, again, tc.wait, tc.again)
		}
	}
}

// TestServes: over TLS, and until the context ends or the certificate has expired.
func TestServes(t *testing.T) {
	dir := t.TempDir()
	s := &Server{CertificateFile: filepath.Join(dir, "certificate"), KubeconfigFile: filepath.Join(dir, "kubeconfig"), Metrics: exposed(t), Address: "127.0.0.1:0"}
	ca := newAuthority(t)
	write := func(text []byte) {
		if err := durable.WriteFile(s.CertificateFile, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	useless := func(what string) {
		t.Helper()
		err := s.serve(t.Context())
		if _, is := errors.AsType[*credentialsError](err); !is || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), hostconfig.ApproverService) {
			t.Errorf("%v, want %q", err, what)
		}
	}
	useless("no such file")
	write([]byte("none")) // of the unit
	useless("the certificate to serve metrics with cannot be used")
	write(ca.serving(t, 2, time.Now().Add(-time.Second)))
	useless("has expired")
	write(ca.serving(t, 3, time.Now().Add(time.Hour)))
	if err := os.WriteFile(s.KubeconfigFile, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	useless("to ask the API with")

	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	serve := func(ctx context.Context) (address string, ended <-chan error) {
		cert, err := s.certificate()
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", s.Address)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.serveOn(ctx, listener, cert, &access{api: newAPI(), now: time.Now}) }()
		return listener.Addr().String(), done
	}
	scrape := func(address, token string) (int, string) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: hostconfig.ExporterName}}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+Path, nil)
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
		return answer.StatusCode, string(body)
	}
	end := func(ended <-chan error, want error) {
		t.Helper()
		select {
		case err := <-ended:
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		case <-time.After(time.Minute):
			t.Error("it goes on")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	address, ended := serve(ctx)
	if code, body := scrape(address, "good"); code != 200 || !strings.Contains(body, `quorate_margin{cluster="lab",of="etcd_members"} 1`) {
		t.Errorf("%d: %s", code, body)
	}
	if code, _ := scrape(address, "bad"); code != 401 {
		t.Error(code)
	}
	for n := 0; ; n++ {
		if n > 2*sourceBurst {
			t.Fatal("one address is never refused")
		}
		conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: hostconfig.ExporterName})
		if err != nil { // it is closed without a word
			break
		}
		conn.Close()
	}
	cancel()
	end(ended, nil)
	ctx, expire := context.WithCancelCause(t.Context())
	_, ended = serve(ctx)
	expire(errExpired)
	end(ended, errExpired)
}
