package step

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/facts"
)

// bundleOf is a bundle for an architecture, with a host image and nothing else.
func bundleOf(t *testing.T, arch string) *bundle.Bundle {
	t.Helper()
	dir := t.TempDir()
	blob := func(content string) string {
		d := digest.FromString(content)
		file := filepath.Join(dir, "blobs", "sha256", d.Encoded())
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`"digest":"%s","size":%d`, d, len(content))
	}
	config := blob(`{"architecture":"` + arch + `"}`)
	manifest := blob(`{"schemaVersion":2,"config":{` + config + `},"layers":[]}`)
	b, err := bundle.OpenIndex(dir, []byte(`{"annotations":{"quorate.dev/kubernetes":"v1","quorate.dev/arch":"`+arch+`"},"manifests":[{`+manifest+
		`,"annotations":{"quorate.dev/role":"host","io.containerd.image.name":"quorate.test/host:v1"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEachHostGetsTheBundleOfItsArchitecture, and a host whose architecture is unknown gets none.
func TestEachHostGetsTheBundleOfItsArchitecture(t *testing.T) {
	amd, arm := bundleOf(t, "amd64"), bundleOf(t, "arm64")
	e := &Env{bundles: bundle.Set{amd, arm}, Seen: &facts.Observation{Hosts: map[string]facts.Host{
		"one": {Facts: &facts.Facts{Arch: "amd64"}}, "two": {Facts: &facts.Facts{Arch: "arm64"}},
		"other": {Facts: &facts.Facts{Arch: "riscv64"}}, "unknown": {Facts: &facts.Facts{}}, "dead": {Error: "no route"},
	}}}
	for host, want := range map[string]*bundle.Bundle{"one": amd, "two": arm, "other": nil, "unknown": nil, "dead": nil, "nobody": nil} {
		got, err := e.bundleFor(host)
		if got != want || (err == nil) != (want != nil) || err != nil && !strings.Contains(err.Error(), host) {
			t.Errorf("%s: %v, %v", host, got, err)
		}
	}
}
