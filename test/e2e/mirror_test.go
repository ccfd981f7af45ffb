//go:build e2e

package e2e

import (
	"archive/tar"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"hash"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/klauspost/compress/zstd"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/signature"
	"quorate.dev/quorate/internal/signature/sigtest"
)

// mirror is a file server and an OCI registry behind one TLS listener that wants a login. It serves the programs and images of
// the cached bundle, in the places where a mirror of the projects' releases has them.
type mirror struct {
	*httptest.Server
	dir          string
	flags        []string
	interrupted  atomic.Bool // one large answer was cut off
	user, secret string
	published    components.Published
	images       []name.Digest
	signer       *ecdsa.PrivateKey
}

func startMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{dir: t.TempDir(), user: "reader", secret: "a long secret"}
	files := http.StripPrefix("/files/", http.FileServer(http.Dir(m.dir)))
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	m.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch user, secret, _ := r.BasicAuth(); {
		case user != m.user || secret != m.secret:
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			http.Error(w, "log in", http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			images.ServeHTTP(w, r)
		case strings.Contains(r.URL.Path, "/bin/linux/") && !strings.HasSuffix(r.URL.Path, ".sha512") && m.interrupted.CompareAndSwap(false, true):
			files.ServeHTTP(&cutOff{ResponseWriter: w, left: 1 << 20}, r)
		default:
			files.ServeHTTP(w, r)
		}
	}))
	m.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(m.Close)
	ca, password := filepath.Join(t.TempDir(), "ca.crt"), filepath.Join(t.TempDir(), "password")
	write(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate().Raw}))
	write(t, password, []byte(m.secret))
	m.flags = []string{"--ca-file", ca, "--username", m.user, "--password-file", password}
	return m
}

func write(t *testing.T, file string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// cutOff breaks the connection after the given number of bytes.
type cutOff struct {
	http.ResponseWriter
	left int
}

func (c *cutOff) Write(p []byte) (int, error) {
	if len(p) > c.left {
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func (m *mirror) registry() string { return m.Listener.Addr().String() }

// publish fills the mirror from a bundle.
func (m *mirror) publish(t *testing.T, b *bundle.Bundle) {
	t.Helper()
	release, _ := components.Lookup(b.Version())
	published, ok := release.Published(runtime.GOARCH)
	if !ok {
		t.Fatalf("nothing is known to be published of %s", b.Version())
	}
	m.published = published
	root := unpackHost(t, b)
	sums := map[string]string{}
	for _, f := range published.Files {
		file := m.place(t, f.URL)
		sum := sha256.New()
		if strings.HasSuffix(f.Checksum, ".sha512") {
			sum = sha512.New()
		}
		m.pack(t, f, root, file, sum)
		sums[f.Checksum] += hex.EncodeToString(sum.Sum(nil)) + "  " + f.Name() + "\n"
	}
	for at, text := range sums {
		write(t, m.place(t, at), []byte(text))
	}
	from := map[string]string{}
	for _, i := range published.Images {
		from[i.Short] = i.From
	}
	index, err := layout.ImageIndexFromPath(b.Dir())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range release.Images {
		image, ok := b.Image(i.Short)
		if !ok {
			t.Fatalf("the bundle has no image %s", i.Short)
		}
		at := image.Name
		if from[i.Short] != "" {
			at = from[i.Short]
		}
		m.push(t, index, image.Manifest.Digest, bundle.Mirror{Registry: m.registry() + "/mirrored"}.Image(at))
	}
}

func (m *mirror) push(t *testing.T, index v1.ImageIndex, digest, at string) {
	t.Helper()
	h, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(h)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(at)
	if err != nil {
		t.Fatal(err)
	}
	login := authn.FromConfig(authn.AuthConfig{Username: m.user, Password: m.secret})
	if err := remote.Write(ref, image, remote.WithTransport(m.Client().Transport), remote.WithAuth(login)); err != nil {
		t.Fatal(err)
	}
	m.images = append(m.images, ref.Context().Digest(digest))
}

// key generates a signing key, and returns the file with the public key.
func (m *mirror) key(t *testing.T) string {
	t.Helper()
	m.signer = sigtest.Key(t)
	file := filepath.Join(t.TempDir(), "cosign.pub")
	write(t, file, sigtest.PublicPEM(t, m.signer.Public()))
	return file
}

// seal signs every published file and image.
func (m *mirror) seal(t *testing.T) {
	t.Helper()
	sign := func(content []byte) []byte { return sigtest.Base64(sigtest.Sign(t, m.signer, content)) }
	for _, f := range m.published.Files {
		content, err := os.ReadFile(m.place(t, f.URL))
		if err != nil {
			t.Fatal(err)
		}
		write(t, m.place(t, f.URL+".sig"), sign(content))
	}
	login := remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: m.user, Password: m.secret}))
	for _, d := range m.images {
		payload := sigtest.Payload(d.DigestStr())
		image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: static.NewLayer(payload, signature.PayloadType),
			Annotations: map[string]string{"dev.cosignproject.cosign/signature": string(sign(payload))}})
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(d.Context().Tag(signature.Tag(d.DigestStr())), image, remote.WithTransport(m.Client().Transport), login); err != nil {
			t.Fatal(err)
		}
	}
}

// place is where the mirror has what is published at an address.
func (m *mirror) place(t *testing.T, published string) string {
	t.Helper()
	u, err := url.Parse(published)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(m.dir, u.Host, u.Path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// pack writes a released file of the bundle's own programs.
func (m *mirror) pack(t *testing.T, f components.PublishedFile, root, file string, sum hash.Hash) {
	t.Helper()
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var archive *tar.Writer
	w := io.MultiWriter(out, sum)
	for _, target := range slices.Sorted(maps.Keys(f.Programs)) {
		in, err := os.Open(filepath.Join(root, target))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		member := f.Programs[target]
		if member == "" {
			if _, err := io.Copy(w, in); err != nil {
				t.Fatal(err)
			}
			return
		}
		if archive == nil {
			z, err := gzip.NewWriterLevel(w, gzip.NoCompression)
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			archive = tar.NewWriter(z)
			defer archive.Close()
		}
		info, err := in.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + member, Mode: 0o755, Size: info.Size()}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(archive, in); err != nil {
			t.Fatal(err)
		}
	}
}

// unpackHost unpacks the bundle's programs as on a host.
func unpackHost(t *testing.T, b *bundle.Bundle) string {
	t.Helper()
	root := t.TempDir()
	for _, layer := range b.Host().Layers {
		if err := unpackLayer(b, layer.Digest, root); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func unpackLayer(b *bundle.Bundle, digest, root string) error {
	blob, err := b.OpenBlob(digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	z, err := zstd.NewReader(blob)
	if err != nil {
		return err
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		target := filepath.Join(root, h.Name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, target)
		case tar.TypeReg:
			var f *os.File
			if f, err = os.Create(target); err == nil {
				_, err = io.Copy(f, r)
				if cerr := f.Close(); err == nil {
					err = cerr
				}
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}
