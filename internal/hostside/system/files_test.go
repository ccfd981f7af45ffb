package system

import (
	"os"
	"path/filepath"
	"testing"
)

// TestMissing: an error is no answer.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{file: false, dir: false, filepath.Join(dir, "none"): true, filepath.Join(dir, "none", "below"): true} {
		if got, err := Missing(path); err != nil || got != want {
			t.Errorf("%s: %t, %v", path, got, err)
		}
	}
	if got, err := Missing(filepath.Join(file, "below")); err == nil || got { // as on a disk that does not answer
		t.Errorf("nobody can tell: %t, %v", got, err)
	}
}
