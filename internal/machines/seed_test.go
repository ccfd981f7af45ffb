package machines

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestRemoveUnused(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	for name, used := range map[string]time.Time{"seed-old": now.Add(-2 * time.Hour), "seed-new": now, "base-old": now.Add(-2 * time.Hour)} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Join(path, "upper"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeUnused(dir, now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{filepath.Join(dir, "base-old"), filepath.Join(dir, "seed-new")}; !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}
