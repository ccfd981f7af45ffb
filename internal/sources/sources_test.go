package sources

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// mirror is a file server and a registry behind one listener, with everything that is asked for.
type mirror struct {
	*httptest.Server
	ca, password string
	// answer, if it is not 0, is what everybody gets.
	answer int
	silent chan struct{}
}

const user, secret = "reader", "correct horse"

func start(t *testing.T) *mirror {
	t.Helper()
	t.Setenv("QUORATE_CACHE", t.TempDir())
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	m := &mirror{}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, password, _ := r.BasicAuth()
		switch {
		case m.silent != nil:
			<-m.silent
		case m.answer != 0:
			http.Error(w, "no", m.answer)
		case name != user || password != secret:
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			http.Error(w, "log in", http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			images.ServeHTTP(w, r)
		default:
			io.WriteString(w, strings.Repeat("0", 64))
		}
	}))
	m.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(m.Close)
	m.ca, m.password = file(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate().Raw})), file(t, []byte(secret))
	release, _ := components.Lookup(spec.DefaultVersion)
	published, _ := release.Published(runtime.GOARCH)
	for _, i := range published.Images {
		m.push(t, bundle.Mirror{Registry: m.Listener.Addr().String() + "/m"}.Image(i.From))
	}
	return m
}

func (m *mirror) push(t *testing.T, at string) {
	t.Helper()
	ref, err := name.ParseReference(at)
	if err != nil {
		t.Fatal(err)
	}
	login := remote.WithTransport(login{m.Client().Transport})
	if err := remote.Write(ref, empty.Image, login); err != nil {
		t.Fatal(err)
	}
}

type login struct{ next http.RoundTripper }

func (l login) RoundTrip(r *http.Request) (*http.Response, error) {
	r.SetBasicAuth(user, secret)
	return l.next.RoundTrip(r)
}

func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (m *mirror) spec() *spec.Cluster {
	c := spec.DefaultLab("x")
	c.Spec.Components = spec.Components{Source: spec.SourceMirror, Releases: m.URL + "/files", Registry: m.Listener.Addr().String() + "/m",
		CAFile: m.ca, Username: user, PasswordFile: m.password}
	return c
}

func TestMirrors(t *testing.T) {
	for name, tc := range map[string]struct {
		harm func(t *testing.T, m *mirror, c *spec.Components)
		// want is in every finding; there is one for files and one for each image.
		want, fix string
		number    int
		// filesOnly: registries on this very machine are tried in the clear as well, which is then what is found.
		filesOnly bool
	}{
		"good": {},
		"no login": {func(t *testing.T, m *mirror, c *spec.Components) { c.Username, c.PasswordFile = "", "" },
			"401 Unauthorized", "components.username", 3, false},
		"a wrong password": {func(t *testing.T, m *mirror, c *spec.Components) { c.PasswordFile = file(t, []byte("wrong")) },
			"401 Unauthorized", "components.username", 3, false},
		"no right":      {func(t *testing.T, m *mirror, c *spec.Components) { m.answer = 403 }, "403 Forbidden", "may not read", 3, false},
		"nothing there": {func(t *testing.T, m *mirror, c *spec.Components) { m.answer = 404 }, "404 Not Found", "bundle sources", 3, false},
		"ill":           {func(t *testing.T, m *mirror, c *spec.Components) { m.answer = 503 }, "503", "", 3, false},
		"an authority that nobody knows": {func(t *testing.T, m *mirror, c *spec.Components) { c.CAFile = "" },
			"signed by an authority that this machine does not trust", "components.caFile", 3, true},
		"gone": {func(t *testing.T, m *mirror, c *spec.Components) { m.Close() }, "refuses the connection", "Start it", 3, false},
		"silent": {func(t *testing.T, m *mirror, c *spec.Components) {
			m.silent = make(chan struct{})
			t.Cleanup(func() { close(m.silent) })
		}, "does not answer", "firewall", 3, false},
		"a name of nobody": {func(t *testing.T, m *mirror, c *spec.Components) {
			c.Releases, c.Registry = "https://mirror.invalid/files", "mirror.invalid/m"
		}, "does not resolve", "DNS", 3, false},
		"no TLS": {func(t *testing.T, m *mirror, c *spec.Components) {
			plain := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(plain.Close)
			c.Releases = "https://" + plain.Listener.Addr().String()
		}, "does not speak TLS", "HTTPS", 1, false},
		"an image is missing":       {func(t *testing.T, m *mirror, c *spec.Components) { c.Registry += "/elsewhere" }, "404 Not Found", "bundle sources", 2, false},
		"no file with the password": {func(t *testing.T, m *mirror, c *spec.Components) { c.PasswordFile = "/nonexistent" }, "password of reader", "components", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			c := m.spec()
			if tc.harm != nil {
				tc.harm(t, m, &c.Spec.Components)
			}
			found := check(t.Context(), c, runtime.GOARCH, 1500*time.Millisecond)
			if len(found) != tc.number {
				t.Fatalf("found %+v", found)
			}
			if tc.filesOnly {
				found = found[:1]
			}
			for _, f := range found {
				if !strings.Contains(f.Summary, tc.want) || !strings.Contains(f.Fix, tc.fix) || f.Fix == "" || strings.Contains(f.Summary+f.Fix, secret) {
					t.Errorf("found %+v", f)
				}
			}
		})
	}
}

// TestChoose: what answers is used, and what does not is given up quickly.
func TestChoose(t *testing.T) {
	for name, tc := range map[string]struct {
		harm         func(t *testing.T, m *mirror)
		source, want string
	}{
		"all answer": {nil, spec.SourceMirror, "answer"},
		"gone":       {func(_ *testing.T, m *mirror) { m.Close() }, spec.SourceModules, "refuses the connection"},
		"silent": {func(t *testing.T, m *mirror) {
			m.silent = make(chan struct{})
			t.Cleanup(func() { close(m.silent) })
		}, spec.SourceModules, "does not answer"},
		"one image is missing": {func(_ *testing.T, m *mirror) { m.answer = http.StatusNotFound }, spec.SourceModules, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			c := m.spec()
			if tc.harm != nil {
				tc.harm(t, m)
			}
			begin := time.Now()
			source, why := choose(t.Context(), c.Spec.Kubernetes.Version, c.Spec.Components, 500*time.Millisecond)
			if source != tc.source || !strings.Contains(why, tc.want) {
				t.Errorf("%s, because %s", source, why)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestBundleOf: what cannot be downloaded is compiled, and what is forged is not.
func TestBundleOf(t *testing.T) {
	published, compiled := spec.DefaultLabFrom("x", spec.SourceOfficial), spec.DefaultLab("x")
	broken, forged := errors.New("truncated"), fmt.Errorf("kubeadm: %w", &bundle.SignatureError{What: "kubeadm", Why: errors.New("nobody signed it")})
	for name, tc := range map[string]struct {
		err, want error
		otherwise *spec.Cluster
		chosen    *spec.Cluster
		stop      bool
	}{
		"downloaded":        {nil, nil, compiled, published, false},
		"broken":            {broken, nil, compiled, compiled, false},
		"nothing otherwise": {broken, broken, nil, published, false},
		"forged":            {forged, forged, compiled, published, false},
		"interrupted":       {broken, broken, compiled, published, true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			if tc.stop {
				stop()
			}
			get := func(_ context.Context, c *spec.Cluster, _ progress.Sink) (*bundle.Bundle, error) {
				if c == published {
					return nil, tc.err
				}
				return nil, nil
			}
			if _, chosen, err := either(ctx, published, tc.otherwise, get, progress.Discard); chosen != tc.chosen || !errors.Is(err, tc.want) {
				t.Errorf("source %s, %v", chosen.Spec.Components.Source, err)
			}
		})
	}
}

func TestWholeBundles(t *testing.T) {
	m := start(t)
	c := m.spec()
	const digest = "sha256:abababababababababababababababababababababababababababababababab"
	ask := c.Spec.Components
	ask.Source, ask.Releases, ask.Registry = spec.SourceBundle, "", ""
	ask.Reference = m.Listener.Addr().String() + "/team/quorate@" + digest
	c.Spec.Components = ask
	if found := Check(t.Context(), c, nil); len(found) != 1 || !strings.Contains(found[0].Summary, "404") || !strings.Contains(found[0].Summary, digest) {
		t.Errorf("found %+v", found)
	}
	if holds(ask, digest) != true || holds(ask, "sha256:00") {
		t.Error("a bundle that is here is not told from others")
	}
	c.Spec.Components = spec.Components{Source: spec.SourceBundle, File: "/nonexistent/bundle.tar"}
	if found := Check(t.Context(), c, nil); len(found) != 1 || !strings.Contains(found[0].Fix, "quorate bundle export") {
		t.Errorf("found %+v", found)
	}
	c.Spec.Components.File = file(t, nil)
	if found := Check(t.Context(), c, nil); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
	c.Spec.Components = spec.Components{Source: spec.SourceModules}
	if found := Check(t.Context(), c, nil); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
}
