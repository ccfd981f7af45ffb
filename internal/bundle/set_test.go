package bundle

import (
	"os"
	"runtime"
	"testing"

	"quorate.dev/quorate/components"
)

// TestBundlesOfBothArchitectures are next to each other in the cache, and each is found by its architecture.
func TestBundlesOfBothArchitectures(t *testing.T) {
	here := synthetic(t)
	there := syntheticFor(t, otherArch)
	if there.Arch() != otherArch || there.Dir() != DirFor("v1.0.0", otherArch) || here.Dir() != DefaultDir("v1.0.0") {
		t.Fatalf("%s in %s, %s in %s", here.Arch(), here.Dir(), there.Arch(), there.Dir())
	}
	s := Set{here, there}
	if s.For(otherArch) != there || s.For(runtime.GOARCH) != here || s.For("") != nil || s.Main() != here || Set(nil).Main() != nil {
		t.Error("a set does not find its bundles")
	}
	all, err := List()
	if err != nil || len(all) != 2 {
		t.Errorf("listed %d, %v", len(all), err)
	}
	if here.Digest() == there.Digest() || here.Host().Layers[0] != there.Host().Layers[0] {
		t.Error("bundles with the same files differ in more, or less, than what they are for")
	}
	if damages, err := there.Verify(t.Context()); err != nil || len(damages) > 0 {
		t.Errorf("%v %v", damages, err)
	}
}

func TestUnknownArchitecture(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	for _, arch := range []string{"riscv64", "x86_64"} {
		if _, err := Build(t.Context(), BuildOptions{Version: Versions()[0], Arch: arch}); err == nil {
			t.Errorf("%s is built", arch)
		}
		if _, err := Get(t.Context(), GetOptions{Version: Versions()[0], Arch: arch}); err == nil {
			t.Errorf("%s is downloaded", arch)
		}
		if _, _, ok := components.PublishedFor(Versions()[0], arch); ok {
			t.Errorf("%s is published", arch)
		}
	}
	if left, err := os.ReadDir(os.Getenv("QUORATE_CACHE")); err != nil || len(left) > 0 {
		t.Errorf("left %v %v", left, err)
	}
}
