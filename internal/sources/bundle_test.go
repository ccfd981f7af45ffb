package sources

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// TestPreparedCompilesNothing, and leaves nothing on the machine.
func TestPreparedCompilesNothing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("QUORATE_CACHE", cache)
	c := spec.DefaultLab("test")
	c.Spec.Components.Source = spec.SourceModules
	if _, err := Prepared(t.Context(), c, progress.Discard); !errors.Is(err, bundle.ErrNotBuilt) {
		t.Errorf("got %v", err)
	}
	c.Spec.Monitoring.Prometheus.Install = true
	if _, err := Prepared(t.Context(), c, progress.Discard); !errors.Is(err, bundle.ErrNotBuilt) || !strings.Contains(err.Error(), "run `quorate bundle build --monitoring` first") {
		t.Errorf("with Prometheus: %v", err)
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// emptyBundle is a bundle in an empty cache that has a host image and no others. It returns its digest.
func emptyBundle(t *testing.T, version string) string {
	t.Helper()
	t.Setenv("QUORATE_CACHE", t.TempDir())
	dir := bundle.DefaultDir(version)
	config := digest.FromString("{}")
	manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":2},"layers":[]}`, config)
	sum := digest.FromString(manifest)
	index := fmt.Sprintf(`{"schemaVersion":2,"annotations":{"quorate.dev/kubernetes":"%s","quorate.dev/arch":"%s"},"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%d,`+
		`"annotations":{"io.containerd.image.name":"quorate.dev/host:%s","quorate.dev/role":"host"}}]}`, version, runtime.GOARCH, sum, len(manifest), version)
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := errors.Join(os.MkdirAll(blobs, 0o755), os.WriteFile(filepath.Join(blobs, sum.Encoded()), []byte(manifest), 0o600), os.WriteFile(filepath.Join(dir, "index.json"), []byte(index), 0o600)); err != nil {
		t.Fatal(err)
	}
	return digest.FromString(index).String()
}

// TestABundleWithoutPrometheus is found before anything is changed, if the spec installs it.
func TestABundleWithoutPrometheus(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.Components = spec.Components{Source: spec.SourceBundle, File: "/nonexistent/bundle.tar", Digest: emptyBundle(t, c.Spec.Kubernetes.Version)}
	if found := Check(t.Context(), c, []string{runtime.GOARCH}); len(found) != 0 {
		t.Errorf("the spec installs nothing: %+v", found)
	}
	c.Spec.Monitoring.Prometheus.Install = true
	if found := Check(t.Context(), c, []string{runtime.GOARCH}); len(found) != 1 || !strings.Contains(found[0].Summary, "needs the image prometheus") || !strings.HasPrefix(found[0].Fix, "Make a bundle with `quorate bundle build --monitoring --arch ") {
		t.Errorf("%+v", found)
	}
}
