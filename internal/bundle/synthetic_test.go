package bundle

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/progress"
)

// TestMain forgets the cache of whoever runs the tests: what they write and expect has nothing to do with it.
func TestMain(m *testing.M) {
	if err := os.Unsetenv("QUORATE_CACHE"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// synthetic assembles a small bundle as Build does, of layers that hold one short file each: two
// images and the host share the layer "tools".
func synthetic(t *testing.T) *Bundle {
	t.Helper()
	return syntheticFor(t, runtime.GOARCH)
}

// syntheticFor is synthetic for an architecture.
func syntheticFor(t *testing.T, arch string) *Bundle {
	t.Helper()
	if os.Getenv("QUORATE_CACHE") == "" {
		t.Setenv("QUORATE_CACHE", t.TempDir())
	}
	w := testWorkshop(components.Release{
		Kubernetes: "v1.0.0",
		Images: []components.Image{
			{Short: "server", Components: []string{"tools"}, Entrypoint: []string{"server"}},
			{Short: "proxy", Name: "example.test/net/proxy:v2", Components: []string{"tools", "rules"}, User: "7:7"},
		},
		Host: components.Image{Short: "host", Name: "example.test/host:v1.0.0", Components: []string{"tools", "runtime"}},
	})
	w.arch = arch
	layers := map[string]*made{}
	for _, name := range []string{"tools", "rules", "runtime"} {
		layers[name] = syntheticLayer(t, name)
	}
	layers["tools"].Images = []string{"example.test/server:v1.0.0"}
	layers["tools"].Contents = map[string]string{"helper": "v9"}
	b, err := w.assemble(t.Context(), layers, "sources-1", DirFor("v1.0.0", arch))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func syntheticLayer(t *testing.T, name string) *made {
	t.Helper()
	dir := t.TempDir()
	content := filepath.Join(dir, name)
	if err := os.WriteFile(content, []byte("the program "+name), 0o600); err != nil {
		t.Fatal(err)
	}
	m := &made{Version: "v1", file: filepath.Join(dir, layerFile)}
	var err error
	m.layer, err = writeLayer(m.file, []entry{{name: "bin/" + name, mode: 0o755, source: content}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func testWorkshop(r components.Release) *workshop {
	return &workshop{release: r, arch: runtime.GOARCH, sink: progress.Discard, noted: map[string]time.Time{}}
}

func image(t *testing.T, b *Bundle, short string) Image {
	t.Helper()
	i, ok := b.Image(short)
	if !ok {
		t.Fatalf("no image %s", short)
	}
	return i
}
