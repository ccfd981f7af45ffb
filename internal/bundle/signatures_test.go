package bundle

import (
	"crypto/sha512"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/signature"
	"quorate.dev/quorate/internal/signature/sigtest"
)

const (
	signedBy = "release@example.test"
	issuedBy = "https://accounts.example.test"
)

// seal signs everything that the mirror has; signing says how.
func (m *mirror) seal(t *testing.T, file func(content []byte) (sig, cert []byte), image func(payload []byte) map[string]string) {
	t.Helper()
	for _, at := range []string{"one.test/v1/kubeadm", "two.test/get/runtime.tgz"} {
		sig, cert := file(m.file(at))
		m.files.Store(at+".sig", sig)
		if cert != nil {
			m.files.Store(at+".cert", cert)
		}
	}
	for _, at := range []string{"mirrored/group/server:v1.0.0", "mirrored/net/proxy:v2.0"} {
		m.sealImage(t, at, image)
	}
}

// digestOf is what a tag of the mirror's registry refers to: the index of all platforms.
func (m *mirror) digestOf(t *testing.T, at string) (name.Reference, string) {
	t.Helper()
	ref, err := name.ParseReference(m.host() + "/" + at)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(ref, m.options()...)
	if err != nil {
		t.Fatal(err)
	}
	return ref, d.Digest.String()
}

func (m *mirror) options() []remote.Option {
	return []remote.Option{remote.WithTransport(m.Client().Transport), remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: mirrorUser, Password: mirrorPassword}))}
}

func (m *mirror) sealImage(t *testing.T, at string, sign func(payload []byte) map[string]string) {
	t.Helper()
	ref, digest := m.digestOf(t, at)
	payload := sigtest.Payload(digest)
	layer := static.NewLayer(payload, signature.PayloadType)
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: layer, Annotations: sign(payload)})
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Tag(signature.Tag(digest)), image, m.options()...); err != nil {
		t.Fatal(err)
	}
}

func (m *mirror) getSigned(t *testing.T, s Signatures, digest string) (*Bundle, error) {
	t.Helper()
	w := testWorkshop(syntheticRelease)
	w.cache = filepath.Join(os.Getenv("QUORATE_CACHE"), "components")
	return w.get(t.Context(), syntheticPublished, GetOptions{Version: "v1.0.0", Mirror: m.mirror(), Signatures: s, Digest: digest, Progress: progress.Discard})
}

func temp(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSignedMirror(t *testing.T) {
	store := sigtest.New(t)
	key := sigtest.Key(t)
	for name, tc := range map[string]struct {
		ask   Signatures
		file  func([]byte) ([]byte, []byte)
		image func([]byte) map[string]string
	}{
		"by identity": {Signatures{All: true, Identity: signedBy, Issuer: issuedBy, TrustedRootFile: temp(t, store.RootJSON())},
			func(c []byte) ([]byte, []byte) { return store.File(signedBy, issuedBy, c) },
			func(p []byte) map[string]string { return store.Image(signedBy, issuedBy, p) }},
		"by key": {Signatures{All: true, PublicKeyFile: temp(t, sigtest.PublicPEM(t, key.Public()))},
			func(c []byte) ([]byte, []byte) { return sigtest.Base64(sigtest.Sign(t, key, c)), nil },
			func(p []byte) map[string]string {
				return map[string]string{"dev.cosignproject.cosign/signature": string(sigtest.Base64(sigtest.Sign(t, key, p)))}
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("QUORATE_CACHE", t.TempDir())
			m := startMirror(t)
			m.publish(t)
			// A bundle that is here is not believed before its signatures were seen, unless its digest was noted.
			unsigned, err := m.getSigned(t, Signatures{}, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.getSigned(t, tc.ask, ""); err == nil || !strings.Contains(err.Error(), "refused (signature)") || !strings.Contains(err.Error(), "the signature is missing") {
				t.Errorf("unsigned: %v", err)
			}
			if _, err := m.getSigned(t, tc.ask, unsigned.Digest()); err != nil {
				t.Errorf("noted: %v", err)
			}
			m.seal(t, tc.file, tc.image)
			signed, err := m.getSigned(t, tc.ask, "")
			if err != nil {
				t.Fatal(err)
			}
			if signed.Digest() != unsigned.Digest() {
				t.Error("signatures make another bundle")
			}
			before := m.sent.Load()
			if _, err := m.getSigned(t, tc.ask, ""); err != nil || m.sent.Load() != before {
				t.Errorf("again: %v, %d bytes", err, m.sent.Load()-before)
			}
		})
	}
}

func TestSignaturesRefuse(t *testing.T) {
	store := sigtest.New(t)
	ask := Signatures{All: true, Identity: signedBy, Issuer: issuedBy, TrustedRootFile: temp(t, store.RootJSON())}
	seal := func(t *testing.T, m *mirror) {
		m.seal(t, func(c []byte) ([]byte, []byte) { return store.File(signedBy, issuedBy, c) },
			func(p []byte) map[string]string { return store.Image(signedBy, issuedBy, p) })
	}
	for name, tc := range map[string]struct {
		harm func(t *testing.T, m *mirror)
		want []string
	}{
		"a file without": {func(_ *testing.T, m *mirror) { m.files.Delete("two.test/get/runtime.tgz.sig") },
			[]string{"runtime.tgz v3", "/files/two.test/get/runtime.tgz", "the signature is missing: there is no runtime.tgz.sig"}},
		"a file without its certificate": {func(_ *testing.T, m *mirror) { m.files.Delete("one.test/v1/kubeadm.cert") }, []string{"there is no kubeadm.cert"}},
		"a file and its checksum changed": {func(_ *testing.T, m *mirror) {
			other := append(slices.Clone(m.file("one.test/v1/kubeadm")), "# and more\n"...)
			m.files.Store("one.test/v1/kubeadm", other)
			m.files.Store("one.test/v1/kubeadm.sha512", fmt.Appendf(nil, "%x", sha512.Sum512(other)))
		}, []string{"kubeadm v1.0.0", "does not match this content"}},
		"a file by somebody else": {func(_ *testing.T, m *mirror) {
			sig, cert := store.File("me@example.test", issuedBy, m.file("one.test/v1/kubeadm"))
			m.files.Store("one.test/v1/kubeadm.sig", sig)
			m.files.Store("one.test/v1/kubeadm.cert", cert)
		}, []string{"signed by [me@example.test], not by " + signedBy}},
		"an image without": {func(t *testing.T, m *mirror) {
			m.pushImage(t, "mirrored/net/proxy:v2.0", "linux", archOfHere, "another")
		}, []string{"image three.test/net/proxy:v2.0", "the signature is missing: there is no sha256-"}},
		"an image by somebody else": {func(t *testing.T, m *mirror) {
			m.sealImage(t, "mirrored/net/proxy:v2.0", func(p []byte) map[string]string { return store.Image("me@example.test", issuedBy, p) })
		}, []string{"image three.test/net/proxy:v2.0", "not by " + signedBy}},
		"an image with another's signature": {func(t *testing.T, m *mirror) {
			m.sealImage(t, "mirrored/net/proxy:v2.0", func([]byte) map[string]string {
				return store.Image(signedBy, issuedBy, sigtest.Payload("sha256:0"))
			})
		}, []string{"about another signature"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("QUORATE_CACHE", t.TempDir())
			m := startMirror(t)
			m.publish(t)
			seal(t, m)
			tc.harm(t, m)
			_, err := m.getSigned(t, ask, "")
			for _, w := range append(tc.want, "refused (signature)") {
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

// modest says of a layer that it is small.
type modest struct{ v1.Layer }

func (modest) Size() (int64, error) { return 10, nil }

// What a registry says of a signature's size is not what it sends.
func TestSignatureIsNotReadWithoutEnd(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	store := sigtest.New(t)
	m := startMirror(t)
	m.publish(t)
	m.seal(t, func(c []byte) ([]byte, []byte) { return store.File(signedBy, issuedBy, c) },
		func(p []byte) map[string]string { return store.Image(signedBy, issuedBy, p) })
	ref, digest := m.digestOf(t, "mirrored/net/proxy:v2.0")
	layer := static.NewLayer(make([]byte, 2*maxSignature), signature.PayloadType)
	if err := remote.WriteLayer(ref.Context(), layer, m.options()...); err != nil {
		t.Fatal(err)
	}
	image, err := mutate.Append(empty.Image, mutate.Addendum{Layer: modest{layer}})
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref.Context().Tag(signature.Tag(digest)), image, m.options()...); err != nil {
		t.Fatal(err)
	}
	ask := Signatures{All: true, Identity: signedBy, Issuer: issuedBy, TrustedRootFile: temp(t, store.RootJSON())}
	if _, err := m.getSigned(t, ask, ""); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("it has more than %d bytes", maxSignature)) {
		t.Errorf("got %v", err)
	}
}

func TestSignersFilesAreBelowHome(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for name, content := range map[string][]byte{"cosign.pub": sigtest.PublicPEM(t, sigtest.Key(t).Public()), "root.json": sigtest.New(t).RootJSON()} {
		if err := os.WriteFile(filepath.Join(home, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, ask := range []Signatures{{All: true, PublicKeyFile: "~/cosign.pub"}, {Published: true, TrustedRootFile: "~/root.json"}} {
		if _, err := ask.signers(); err != nil {
			t.Error(err)
		}
	}
}

// What the projects sign is known by where they publish it; the rest is left alone.
func TestWhoSignsWhatIsPublished(t *testing.T) {
	s, err := Signatures{Published: true}.signers()
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"https://dl.k8s.io/release/v1.37.2/bin/linux/amd64/kubelet": "krel-staging@k8s-releng-prod.iam.gserviceaccount.com",
		"registry.k8s.io/kube-apiserver:v1.37.2":                    "krel-trust@k8s-releng-prod.iam.gserviceaccount.com",
		"ghcr.io/flannel-io/flannel:v0.28.10":                       "",
		"https://github.com/etcd-io/etcd/x":                         "",
	} {
		if got, asked := s.of(address); got.Identity != want || asked != (want != "") {
			t.Errorf("%s: %q, %v", address, got.Identity, asked)
		}
	}
	release, _ := components.Lookup("v1.37.2")
	published, _ := release.Published(archOfHere)
	n := 0
	for _, f := range published.Files {
		if _, asked := s.of(f.URL); asked {
			n++
		}
	}
	if n != 3 {
		t.Errorf("%d files are signed by their project, want kubeadm, kubelet and kubectl", n)
	}
	if none, err := (Signatures{}).signers(); err != nil || !none.none() {
		t.Errorf("got %+v, %v", none, err)
	}
	for name, ask := range map[string]Signatures{
		"no key":  {All: true, PublicKeyFile: temp(t, []byte("x"))},
		"no file": {All: true, PublicKeyFile: "/nonexistent"},
		"no root": {Published: true, TrustedRootFile: temp(t, []byte("{}"))},
	} {
		if _, err := ask.signers(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
