package sources

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

var otherArch = map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]

// exported is a file as `quorate bundle export` writes it, with a bundle that has nothing but a host image without programs.
func exported(t *testing.T, arch string) string {
	t.Helper()
	config := []byte(`{"os":"linux","architecture":"` + arch + `"}`)
	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	describe := func(content []byte, mediaType string) specs.Descriptor {
		return specs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	}
	manifest := encode(specs.Manifest{MediaType: specs.MediaTypeImageManifest, Config: describe(config, specs.MediaTypeImageConfig)})
	host := describe(manifest, specs.MediaTypeImageManifest)
	host.Annotations = map[string]string{"io.containerd.image.name": "quorate.test/host:v1", "quorate.dev/role": "host"}
	index := encode(specs.Index{MediaType: specs.MediaTypeImageIndex, Manifests: []specs.Descriptor{host},
		Annotations: map[string]string{"quorate.dev/kubernetes": spec.DefaultVersion, "quorate.dev/arch": arch}})
	path := filepath.Join(t.TempDir(), "bundle.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, e := range []struct {
		name    string
		content []byte
	}{{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {"index.json", index},
		{"blobs/sha256/" + digest.FromBytes(manifest).Encoded(), manifest}, {"blobs/sha256/" + digest.FromBytes(config).Encoded(), config}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCheckAsksForEveryArchitecture: each server is named once, also if the bundles for both architectures need it.
func TestCheckAsksForEveryArchitecture(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	c := spec.DefaultLab("x")
	c.Spec.Components = spec.Components{Source: spec.SourceBundle}
	c.Spec.Components.ARM64.File = file(t, nil)
	for name, tc := range map[string]struct {
		archs []string
		want  int
	}{"known": {[]string{"arm64"}, 0}, "the other": {[]string{"amd64"}, 1}, "both": {[]string{"amd64", "arm64"}, 1}, "none of ours": {[]string{"riscv64"}, 0}} {
		found := Check(t.Context(), c, tc.archs)
		if len(found) != tc.want || tc.want > 0 && !strings.Contains(found[0].Fix, "spec.components.amd64.file") {
			t.Errorf("%s: %+v", name, found)
		}
	}
	m := start(t)
	m.answer = 404
	c = m.spec()
	one, both := Check(t.Context(), c, components.Architectures[:1]), Check(t.Context(), c, components.Architectures)
	if len(one) == 0 || len(both) < len(one) || len(both) >= 2*len(one) { // the images are the same
		t.Errorf("%d findings for one architecture, %d for two", len(one), len(both))
	}
}

// TestAnotherArchitectureThanThatOfTheHosts: the file that a spec names has to be for them.
func TestAnotherArchitectureThanThatOfTheHosts(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	here := exported(t, runtime.GOARCH)
	c := spec.DefaultLab("x")
	c.Spec.Components = spec.Components{Source: spec.SourceBundle, File: here}
	if b, err := Prepared(t.Context(), c, progress.Discard); err != nil || b.Arch() != runtime.GOARCH {
		t.Fatalf("got %v", err)
	}
	var wrong *ArchError
	if _, err := PreparedFor(t.Context(), c, otherArch, progress.Discard); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "spec.components."+otherArch) {
		t.Errorf("got %v", err)
	}
	there := spec.ArchBundle{File: exported(t, otherArch)}
	c.Spec.Components.AMD64, c.Spec.Components.ARM64 = there, there
	if otherArch == "arm64" {
		c.Spec.Components.AMD64 = spec.ArchBundle{}
	} else {
		c.Spec.Components.ARM64 = spec.ArchBundle{}
	}
	b, err := PreparedFor(t.Context(), c, otherArch, progress.Discard)
	if err != nil || b.Arch() != otherArch || b.Dir() != bundle.DirFor(spec.DefaultVersion, otherArch) {
		t.Fatalf("got %v", err)
	}
	// The digest of one is not asked of the other.
	c.Spec.Components.Digest = "sha256:" + strings.Repeat("0", 64)
	if again, err := PreparedFor(t.Context(), c, otherArch, progress.Discard); err != nil || again.Digest() != b.Digest() {
		t.Errorf("got %v", err)
	}
	var pin *bundle.PinError
	if _, err := Prepared(t.Context(), c, progress.Discard); !errors.As(err, &pin) {
		t.Errorf("got %v", err)
	}
}

// TestAClusterOfAnotherArchitecture: its spec names no bundle for the machine of the caller.
func TestAClusterOfAnotherArchitecture(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	there := spec.ArchBundle{File: exported(t, otherArch)}
	c := spec.DefaultLab("x")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprintf("10.0.0.%d", 11+i)
	}
	c.Spec.Components = spec.Components{Source: spec.SourceBundle}
	if otherArch == "arm64" {
		c.Spec.Components.ARM64 = there
	} else {
		c.Spec.Components.AMD64 = there
	}
	if b, err := Prepared(t.Context(), c, progress.Discard); err != nil || b.Arch() != otherArch {
		t.Fatalf("got %v", err)
	}
	if found := Check(t.Context(), c, nil); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
	if _, err := PreparedFor(t.Context(), c, runtime.GOARCH, progress.Discard); err == nil || !strings.Contains(err.Error(), "spec.components."+runtime.GOARCH+".file") {
		t.Errorf("got %v", err)
	}
}

// TestCompilingNothingForAnotherArchitecture says what would compile it.
func TestCompilingNothingForAnotherArchitecture(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	c := spec.DefaultLab("x")
	c.Spec.Components.Source = spec.SourceModules
	_, err := PreparedFor(t.Context(), c, otherArch, progress.Discard)
	if !errors.Is(err, bundle.ErrNotBuilt) || !strings.Contains(err.Error(), "quorate bundle build --arch "+otherArch) {
		t.Errorf("got %v", err)
	}
}
