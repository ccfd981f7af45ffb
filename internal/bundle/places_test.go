package bundle

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/progress"
)

// syntheticMonitored assembles a small bundle into dir, with an image called prometheus or without.
func syntheticMonitored(t *testing.T, version, sources, dir string, monitoring bool) *Bundle {
	t.Helper()
	r := components.Release{Kubernetes: version, Images: []components.Image{{Short: "server", Name: "example.test/server:v1", Components: []string{"tools"}}},
		Host: components.Image{Short: "host", Name: "example.test/host:v1", Components: []string{"tools"}}}
	if monitoring {
		r.Images = append(r.Images, components.Image{Short: "prometheus", Name: "example.test/prometheus:v3", Components: []string{"watcher"}})
	}
	b, err := testWorkshop(r).assemble(t.Context(), map[string]*made{"tools": syntheticLayer(t, "tools"), "watcher": syntheticLayer(t, "watcher")}, sources, dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestClustersDoNotReplaceEachOthersBundle: of two clusters, one with Prometheus, each finds its own bundle, however often they take turns.
func TestClustersDoNotReplaceEachOthersBundle(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	version := Versions()[0]
	digests := map[bool]string{}
	for _, monitoring := range []bool{false, true} {
		release, _ := releaseOf(version, monitoring)
		sources, err := sourcesKey(release)
		if err != nil {
			t.Fatal(err)
		}
		digests[monitoring] = syntheticMonitored(t, version, sources, placeOf(version, runtime.GOARCH, monitoring), monitoring).Digest()
	}
	if filepath.Base(DefaultDir(version)) != version+"-"+runtime.GOARCH {
		t.Errorf("the place of the bundle without Prometheus has moved to %s", DefaultDir(version))
	}
	for range 2 {
		for _, monitoring := range []bool{false, true} {
			b, err := Find(version, runtime.GOARCH, monitoring)
			if err != nil || b.Digest() != digests[monitoring] || b.Monitors() != monitoring || !b.Current(monitoring) {
				t.Errorf("with Prometheus %t: %v, %v", monitoring, b, err)
			}
			// Nothing is compiled: the compiler could not be found.
			t.Setenv("PATH", "")
			if b, err := Build(t.Context(), BuildOptions{Version: version, Monitoring: monitoring}); err != nil || b.Digest() != digests[monitoring] {
				t.Errorf("with Prometheus %t: %v", monitoring, err)
			}
		}
	}
	if all, err := List(); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
}

// TestABundleGoesToItsPlace: one that comes as a file or from a registry, too.
func TestABundleGoesToItsPlace(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	monitored := syntheticMonitored(t, "v1.0.0", "s", DefaultDir("v1.0.0"), true) // where earlier versions had it
	if b, err := Find("v1.0.0", runtime.GOARCH, true); err != nil || b.Digest() != monitored.Digest() {
		t.Errorf("what an earlier version made: %v", err)
	}
	file := export(t, monitored)
	plain := syntheticMonitored(t, "v1.0.0", "s", DefaultDir("v1.0.0"), false)
	if _, err := Find("v1.0.0", runtime.GOARCH, true); !errors.Is(err, ErrNotBuilt) || !strings.Contains(err.Error(), "--monitoring") {
		t.Errorf("it was replaced: %v", err)
	}
	want := placeOf("v1.0.0", runtime.GOARCH, true)
	if b, err := Import(t.Context(), bytes.NewReader(file)); err != nil || b.Dir() != want || b.Digest() != monitored.Digest() {
		t.Errorf("imported: %v, %v", b, err)
	}
	m := startMirror(t)
	ref, err := monitored.inDir(want).Push(t.Context(), m.host()+"/team/quorate:v1", m.access, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(want); err != nil {
		t.Fatal(err)
	}
	if b, err := Pull(t.Context(), ref, m.access, progress.Discard); err != nil || b.Dir() != want || b.Digest() != monitored.Digest() {
		t.Errorf("pulled: %v, %v", b, err)
	}
	if b, err := Open(DefaultDir("v1.0.0")); err != nil || b.Digest() != plain.Digest() {
		t.Errorf("the other one: %v", err)
	}
}

// inDir is the same bundle in another directory.
func (b *Bundle) inDir(dir string) *Bundle {
	out := *b
	out.dir = dir
	return &out
}
