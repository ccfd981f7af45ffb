package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/components"
)

// withPrograms assembles a bundle whose image has one program, which others are links to, and one that a later layer replaces.
func withPrograms(t *testing.T) *Bundle {
	t.Helper()
	t.Setenv("QUORATE_CACHE", t.TempDir())
	layers := map[string]*made{}
	file := func(name, content string) entry {
		source := filepath.Join(t.TempDir(), "content")
		if err := os.WriteFile(source, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return entry{name: "usr/local/bin/" + name, mode: 0o755, source: source}
	}
	for name, entries := range map[string][]entry{
		"first":  {file("kubernetes", "old"), file("below", "the lower one")},
		"second": {file("kubernetes", "all of Kubernetes"), {name: "usr/local/bin/kube-apiserver", link: "kubernetes"}, {name: "usr/local/bin/absolute", link: "/usr/local/bin/kube-apiserver"}, {name: "usr/local/bin/circle", link: "circle"}},
	} {
		m := &made{Version: "v1", file: filepath.Join(t.TempDir(), layerFile)}
		var err error
		if m.layer, err = writeLayer(m.file, entries); err != nil {
			t.Fatal(err)
		}
		layers[name] = m
	}
	b, err := testWorkshop(components.Release{
		Kubernetes: "v1.0.0",
		Images:     []components.Image{{Short: "server", Name: "example.test/server:v1.0.0", Components: []string{"first", "second"}}},
		Host:       components.Image{Short: "host", Name: "example.test/host:v1.0.0", Components: []string{"first"}},
	}).assemble(t.Context(), layers, "sources", DefaultDir("v1.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestProgram(t *testing.T) {
	b := withPrograms(t)
	for name, want := range map[string]string{"kubernetes": "all of Kubernetes", "kube-apiserver": "all of Kubernetes", "absolute": "all of Kubernetes", "below": "the lower one"} {
		file := filepath.Join(t.TempDir(), name)
		if err := b.Program(t.Context(), "server", name, file); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		have, err := os.ReadFile(file)
		info, serr := os.Stat(file)
		if err != nil || serr != nil || string(have) != want || info.Mode().Perm()&0o100 == 0 {
			t.Errorf("%s: %q %v %v", name, have, err, info)
		}
	}
	for name, want := range map[string]string{"kubelet": "has no usr/local/bin/kubelet", "circle": "too many links"} {
		file := filepath.Join(t.TempDir(), name)
		if err := b.Program(t.Context(), "server", name, file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.Program(t.Context(), "proxy", "kubernetes", filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a program of no image")
	}
}

// What is damaged is not left where it could be run.
func TestADamagedProgramIsNotWritten(t *testing.T) {
	b := withPrograms(t)
	layer := image(t, b, "server").Layers[1]
	content, err := os.ReadFile(b.blobPath(layer.Digest))
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1 // the sum of the compressed frame
	if err := os.WriteFile(b.blobPath(layer.Digest), content, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubernetes")
	if err := b.Program(t.Context(), "server", "kubernetes", file); err == nil {
		t.Error("a damaged program was extracted")
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged program is there: %v", err)
	}
}
