package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/fetch"
	"quorate.dev/quorate/internal/progress"
)

const (
	mirrorUser     = "reader"
	mirrorPassword = "correct horse"
)

// mirror is a file server and a registry on one TLS listener, with a login, and with faults to be switched on.
type mirror struct {
	*httptest.Server
	files  sync.Map // contents by name: a request that its client has given up may still be served while a test changes them
	access fetch.Access

	mu sync.Mutex
	// fault is asked before each request, and says whether it has answered.
	fault func(w http.ResponseWriter, r *http.Request) bool
	sent  atomic.Int64
}

func startMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		fault := m.fault
		m.mu.Unlock()
		if user, password, _ := r.BasicAuth(); user != mirrorUser || password != mirrorPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			http.Error(w, "log in", http.StatusUnauthorized)
			return
		}
		if fault != nil && fault(w, r) {
			return
		}
		counted := &counted{w, &m.sent}
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			images.ServeHTTP(counted, r)
			return
		}
		content := m.file(strings.TrimPrefix(r.URL.Path, "/files/"))
		if content == nil {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(counted, r, "", time.Time{}, bytes.NewReader(content))
	}))
	m.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(m.Close)
	m.access = fetch.Access{CAFile: filepath.Join(t.TempDir(), "ca.crt"), Username: mirrorUser, PasswordFile: password(t, mirrorPassword)}
	if err := os.WriteFile(m.access.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func password(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// file is the content of a file; nil if there is none.
func (m *mirror) file(name string) []byte {
	content, _ := m.files.Load(name)
	data, _ := content.([]byte)
	return data
}

func (m *mirror) host() string { return m.Listener.Addr().String() }

func (m *mirror) mirror() Mirror {
	return Mirror{Releases: m.URL + "/files/", Registry: m.host() + "/mirrored", Access: m.access}
}

func (m *mirror) breaks(fault func(w http.ResponseWriter, r *http.Request) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// programs are what the synthetic release publishes. kubeadm is one that knows only what it is asked.
var programs = map[string]string{
	"kubeadm": "#!/bin/sh\ncase \"$*\" in\n'version -o short') echo v1.0.0 ;;\n'config images list --kubernetes-version v1.0.0') echo example.test/group/server:v1.0.0 ;;\n*) exit 9 ;;\nesac\n",
	"runtime": "#!/bin/sh\necho runtime\n" + strings.Repeat("# padding\n", 1<<17),
	"helper":  "the helper",
}

var syntheticRelease = components.Release{
	Kubernetes: "v1.0.0",
	Images: []components.Image{
		{Short: "server"},
		{Short: "proxy", Name: "quorate.test/proxy:v2"},
	},
	Host: components.Image{Short: "host", Name: "quorate.test/host:v1.0.0"},
}

var syntheticPublished = components.Published{
	Files: []components.PublishedFile{
		{Component: "kubernetes", Version: "v1.0.0", URL: "https://one.test/v1/kubeadm", Checksum: "https://one.test/v1/kubeadm.sha512",
			Programs: map[string]string{"usr/local/bin/kubeadm": ""}, Kubeadm: "usr/local/bin/kubeadm"},
		{Component: "runtime", Version: "v3", URL: "https://two.test/get/runtime.tgz", Checksum: "https://two.test/get/SHA256SUMS",
			Programs: map[string]string{"usr/local/bin/runtime": "dist/runtime", "opt/helper": "helper"}},
	},
	Images: []components.PublishedImage{{Short: "proxy", From: "three.test/net/proxy:v2.0"}},
}

// publish puts the synthetic release where a mirror must have it.
func (m *mirror) publish(t *testing.T) {
	t.Helper()
	kubeadm := []byte(programs["kubeadm"])
	sum512 := sha512.Sum512(kubeadm)
	m.files.Store("one.test/v1/kubeadm", kubeadm)
	m.files.Store("one.test/v1/kubeadm.sha512", []byte(hex.EncodeToString(sum512[:])))
	archive := tgz(t, map[string]string{"./helper": programs["helper"], "dist/runtime": programs["runtime"], "README": "not wanted"})
	sum256 := sha256.Sum256(archive)
	m.files.Store("two.test/get/runtime.tgz", archive)
	m.files.Store("two.test/get/SHA256SUMS", fmt.Appendf(nil, "%064d  other.tgz\n%s  runtime.tgz\n", 0, hex.EncodeToString(sum256[:])))
	m.pushImage(t, "mirrored/group/server:v1.0.0", "linux", archOfHere, "server", "shared")
	m.pushImage(t, "mirrored/net/proxy:v2.0", "linux", archOfHere, "proxy", "shared")
}

func tgz(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// pushImage publishes an image as other projects do: for several platforms, with layers that say nothing of us.
func (m *mirror) pushImage(t *testing.T, at, os, arch string, layers ...string) {
	t.Helper()
	image := empty.Image
	var err error
	for _, l := range layers {
		content := []byte(strings.Repeat(l, 1<<15))
		if image, err = mutate.AppendLayers(image, static.NewLayer(content, types.DockerLayer)); err != nil {
			t.Fatal(err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = os, arch
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	stranger, err := mutate.ConfigFile(empty.Image, func() *configFile { c := config.DeepCopy(); c.Architecture = "s390x"; c.RootFS.DiffIDs = nil; return c }())
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: stranger, Descriptor: descriptor("linux", "s390x")},
		mutate.IndexAddendum{Add: image, Descriptor: descriptor(os, arch)})
	ref, err := name.ParseReference(m.host() + "/" + at)
	if err != nil {
		t.Fatal(err)
	}
	login := authn.FromConfig(authn.AuthConfig{Username: mirrorUser, Password: mirrorPassword})
	if err := remote.WriteIndex(ref, index, remote.WithTransport(m.Client().Transport), remote.WithAuth(login)); err != nil {
		t.Fatal(err)
	}
}

// get puts the synthetic release's bundle together.
func (m *mirror) get(ctx context.Context, from Mirror, digest string) (*Bundle, error) {
	w := testWorkshop(syntheticRelease)
	w.cache = filepath.Join(os.Getenv("QUORATE_CACHE"), "components")
	return w.get(ctx, syntheticPublished, GetOptions{Version: "v1.0.0", Mirror: from, Digest: digest, Progress: progress.Discard})
}

func TestMirrorGivesAWholeBundle(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	m := startMirror(t)
	m.publish(t)
	b, err := m.get(t.Context(), m.mirror(), "")
	if err != nil {
		t.Fatal(err)
	}
	if damages, err := b.Verify(t.Context()); err != nil || len(damages) > 0 {
		t.Errorf("damaged: %v %v", damages, err)
	}
	if s := image(t, b, "server"); s.Name != "example.test/group/server:v1.0.0" || len(s.Layers) != 2 {
		t.Errorf("server is %+v", s)
	}
	if p := image(t, b, "proxy"); p.Name != "quorate.test/proxy:v2" || p.Layers[1] != image(t, b, "server").Layers[1] {
		t.Errorf("proxy is %+v", p)
	}
	if b.Host().Name != "quorate.test/host:v1.0.0" || len(b.Host().Layers) != 2 || !b.IsPublished() {
		t.Errorf("host is %+v", b.Host())
	}
	var found []string
	for _, c := range b.Components() {
		found = append(found, c.Name+" "+c.Version)
	}
	if want := "image proxy v2.0,image server v1.0.0,kubernetes v1.0.0,runtime v3"; strings.Join(found, ",") != want {
		t.Errorf("components %q, want %q", found, want)
	}
	if got := filesOf(t, b, b.Host()); got["usr/local/bin/runtime"] != programs["runtime"] || got["opt/helper"] != programs["helper"] || got["usr/local/bin/kubeadm"] != programs["kubeadm"] {
		t.Errorf("the host image has %d files", len(got))
	}
	leftNothing(t, os.Getenv("QUORATE_CACHE"), "bundles", "components")
	leftNothing(t, filepath.Join(os.Getenv("QUORATE_CACHE"), "components"), ".lock")

	// Once here, it is not downloaded again.
	before := m.sent.Load()
	if again, err := m.get(t.Context(), m.mirror(), b.Digest()); err != nil || again.Digest() != b.Digest() || m.sent.Load() != before {
		t.Errorf("again: %v, %d bytes", err, m.sent.Load()-before)
	}
	// Elsewhere the same comes out, and it can be carried like any other.
	t.Setenv("QUORATE_CACHE", t.TempDir())
	if second, err := m.get(t.Context(), m.mirror(), b.Digest()); err != nil || second.Digest() != b.Digest() {
		t.Errorf("elsewhere: %v", err)
	}
	if back, err := Import(t.Context(), bytes.NewReader(export(t, b))); err != nil || back.Digest() != b.Digest() {
		t.Errorf("imported: %v", err)
	}
}

func TestMirrorRefuses(t *testing.T) {
	const zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for name, tc := range map[string]struct {
		harm   func(t *testing.T, m *mirror)
		from   func(t *testing.T, m *mirror, from *Mirror)
		digest string
		want   []string
	}{
		"a wrong checksum": {harm: func(_ *testing.T, m *mirror) {
			m.files.Store("one.test/v1/kubeadm.sha512", []byte(strings.Repeat("0", 128)))
		}, want: []string{"kubeadm", "/files/one.test/v1/kubeadm", "sha512:" + strings.Repeat("0", 128), "kubeadm.sha512 says", "do not use it"}},
		"another release under this name": {harm: func(_ *testing.T, m *mirror) {
			older := []byte(strings.Replace(programs["kubeadm"], "echo v1.0.0 ;;", "echo v0.9.9 ;;", 1))
			sum := sha512.Sum512(older)
			m.files.Store("one.test/v1/kubeadm", older)
			m.files.Store("one.test/v1/kubeadm.sha512", []byte(hex.EncodeToString(sum[:])))
		}, want: []string{"downloaded as v1.0.0", "says that it is v0.9.9", "do not use it"}},
		"a truncated file": {harm: func(_ *testing.T, m *mirror) {
			m.files.Store("two.test/get/runtime.tgz", m.file("two.test/get/runtime.tgz")[:100])
		}, want: []string{"runtime.tgz", "100 bytes", "truncated"}},
		"no checksum": {harm: func(_ *testing.T, m *mirror) {
			m.files.Store("two.test/get/SHA256SUMS", []byte("nothing\nof use\n"))
		}, want: []string{"SHA256SUMS", "no checksum of runtime.tgz"}},
		"a missing file": {harm: func(_ *testing.T, m *mirror) {
			m.files.Delete("one.test/v1/kubeadm")
		}, want: []string{"404", "quorate bundle sources"}},
		"an archive without the program": {harm: func(t *testing.T, m *mirror) {
			archive := tgz(t, map[string]string{"helper": "x"})
			sum := sha256.Sum256(archive)
			m.files.Store("two.test/get/runtime.tgz", archive)
			m.files.Store("two.test/get/SHA256SUMS", fmt.Appendf(nil, "%x  runtime.tgz\n", sum))
		}, want: []string{"runtime.tgz", "lacks dist/runtime"}},
		"a missing image": {harm: func(_ *testing.T, m *mirror) {
			m.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/manifests/v2.0") {
					http.NotFound(w, r)
					return true
				}
				return false
			})
		}, want: []string{"mirrored/net/proxy:v2.0", "404"}},
		"an image for other machines": {harm: func(t *testing.T, m *mirror) {
			m.pushImage(t, "mirrored/net/proxy:v2.0", "linux", "riscv64", "proxy")
		}, want: []string{"mirrored/net/proxy:v2.0", "none for linux/"}},
		"a layer of other content": {harm: func(_ *testing.T, m *mirror) {
			m.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/net/proxy/blobs/") {
					io.WriteString(w, "something else")
					return true
				}
				return false
			})
		}, want: []string{"net/proxy", "14 bytes", "its manifest says"}},
		"a wrong password": {from: func(t *testing.T, _ *mirror, from *Mirror) {
			from.Access.PasswordFile = password(t, "wrong")
		}, want: []string{"401", "passwordFile"}},
		"no login": {from: func(_ *testing.T, _ *mirror, from *Mirror) {
			from.Access.Username, from.Access.PasswordFile = "", ""
		}, want: []string{"401", "components.username"}},
		"an authority that nobody knows": {from: func(_ *testing.T, _ *mirror, from *Mirror) {
			from.Access.CAFile = ""
		}, want: []string{"components.caFile"}},
		"another bundle than the pinned one": {digest: zeros, want: []string{zeros, "components.digest"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("QUORATE_CACHE", t.TempDir())
			t.Setenv("DOCKER_CONFIG", t.TempDir())
			m := startMirror(t)
			m.publish(t)
			from := m.mirror()
			if tc.harm != nil {
				tc.harm(t, m)
			}
			if tc.from != nil {
				tc.from(t, m, &from)
			}
			_, err := m.get(t.Context(), from, tc.digest)
			for _, w := range tc.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("got %v, want %q", err, w)
				}
			}
			if _, err := os.Stat(DefaultDir("v1.0.0")); !os.IsNotExist(err) {
				t.Error("there is a bundle")
			}
		})
	}
}

// TestMirrorGoesAway breaks every connection in the middle of the large file and of a layer, stays away for a while, and
// is back: what was sent before is not sent again.
func TestMirrorGoesAway(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	m := startMirror(t)
	m.publish(t)
	var mu sync.Mutex
	away := map[string]int{}
	m.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		blob := strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet
		if !blob && !strings.HasSuffix(r.URL.Path, "runtime.tgz") {
			return false
		}
		mu.Lock()
		away[r.URL.Path]++
		n := away[r.URL.Path]
		mu.Unlock()
		switch {
		case n == 1 && !blob:
			whole := m.file("two.test/get/runtime.tgz")
			w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
			w.Write(whole[:len(whole)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case n <= 2:
			panic(http.ErrAbortHandler)
		case n == 3 && !blob && r.Header.Get("Range") != fmt.Sprintf("bytes=%d-", len(m.file("two.test/get/runtime.tgz"))/2):
			t.Errorf("after the pause it asks for %q", r.Header.Get("Range"))
		}
		return false
	})
	b, err := m.get(t.Context(), m.mirror(), "")
	if err != nil {
		t.Fatal(err)
	}
	if damages, err := b.Verify(t.Context()); err != nil || len(damages) > 0 {
		t.Errorf("damaged: %v %v", damages, err)
	}
}

func TestInterruptedPullGoesOn(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	m := startMirror(t)
	m.publish(t)
	ctx, cancel := context.WithCancel(t.Context())
	m.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/net/proxy/manifests/") {
			cancel() // by now the released files are all here
			<-r.Context().Done()
			panic(http.ErrAbortHandler) // to return would be an answer, which the client may still receive
		}
		return false
	})
	if _, err := m.get(ctx, m.mirror(), ""); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "what was downloaded is kept") {
		t.Fatalf("got %v", err)
	}
	m.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "runtime.tgz") {
			t.Error("what is here is downloaded again")
		}
		return false
	})
	if _, err := m.get(t.Context(), m.mirror(), ""); err != nil {
		t.Fatal(err)
	}
}

func TestPushAndPull(t *testing.T) {
	m := startMirror(t)
	b := synthetic(t)
	want := export(t, b)
	ref, err := b.Push(t.Context(), m.host()+"/team/quorate:v1", m.access, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if ref != m.host()+"/team/quorate@"+b.Digest() {
		t.Errorf("pushed as %s", ref)
	}
	for _, from := range []string{ref, m.host() + "/team/quorate:v1"} {
		t.Setenv("QUORATE_CACHE", t.TempDir())
		back, err := Pull(t.Context(), from, m.access, progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if back.Digest() != b.Digest() || !bytes.Equal(export(t, back), want) {
			t.Errorf("%s came back as %s", from, back.Digest())
		}
		leftNothing(t, os.Getenv("QUORATE_CACHE"), "bundles", "components")
		before := m.sent.Load()
		if _, err := Pull(t.Context(), from, m.access, progress.Discard); err != nil || m.sent.Load()-before > 10<<10 {
			t.Errorf("pulled again: %v, %d bytes", err, m.sent.Load()-before)
		}
	}
	for name, tc := range map[string]struct {
		ref    string
		access func(*fetch.Access)
		want   string
	}{
		"a wrong password":      {ref, func(a *fetch.Access) { a.PasswordFile = password(t, "wrong") }, "401"},
		"a reference by nobody": {m.host() + "/team/quorate:v9", nil, "404"},
		"no reference":          {"quorate", nil, "not a registry reference"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("QUORATE_CACHE", t.TempDir())
			access := m.access
			if tc.access != nil {
				tc.access(&access)
			}
			if _, err := Pull(t.Context(), tc.ref, access, progress.Discard); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("pull: %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("push with a wrong password", func(t *testing.T) {
		access := m.access
		access.PasswordFile = password(t, "wrong")
		if _, err := b.Push(t.Context(), m.host()+"/team/other:v1", access, progress.Discard); err == nil || !strings.Contains(err.Error(), "401") || !strings.Contains(err.Error(), "passwordFile") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("something else", func(t *testing.T) {
		m.pushImage(t, "team/app:v1", "linux", archOfHere, "app")
		if _, err := Pull(t.Context(), m.host()+"/team/app:v1", m.access, progress.Discard); err == nil || !strings.Contains(err.Error(), "not a bundle") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a damaged bundle", func(t *testing.T) {
		if err := os.Truncate(b.blobPath(b.Host().Layers[0].Digest), 3); err != nil {
			t.Fatal(err)
		}
		var damaged *DamageError
		if _, err := b.Push(t.Context(), m.host()+"/team/damaged:v1", m.access, progress.Discard); !errors.As(err, &damaged) {
			t.Errorf("got %v", err)
		}
	})
}

// TestDockersLogin takes the login from where every registry tool has it.
func TestDockersLogin(t *testing.T) {
	m := startMirror(t)
	b := synthetic(t)
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	config := fmt.Sprintf(`{"auths": {%q: {"username": %q, "password": %q}}}`, m.host(), mirrorUser, mirrorPassword)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	access := fetch.Access{CAFile: m.access.CAFile}
	ref, err := b.Push(t.Context(), m.host()+"/team/quorate:v1", access, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("QUORATE_CACHE", t.TempDir())
	if back, err := Pull(t.Context(), ref, access, progress.Discard); err != nil || back.Digest() != b.Digest() {
		t.Errorf("pull: %v", err)
	}
}

func TestMirrorAddresses(t *testing.T) {
	m := Mirror{Releases: "https://mirror.example.com/base/", Registry: "registry.example.com/team"}
	for got, want := range map[string]string{
		m.File("https://dl.k8s.io/release/v1/kubeadm"):        "https://mirror.example.com/base/dl.k8s.io/release/v1/kubeadm",
		m.Image("registry.k8s.io/coredns/coredns:v1"):         "registry.example.com/team/coredns/coredns:v1",
		Mirror{}.File("https://dl.k8s.io/release/v1/kubeadm"): "https://dl.k8s.io/release/v1/kubeadm",
		Mirror{}.Image("registry.k8s.io/pause:3"):             "registry.k8s.io/pause:3",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
