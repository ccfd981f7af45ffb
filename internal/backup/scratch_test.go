package backup

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestScratchOfKilledProcessesIsRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	mine, remove, err := Scratch()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(mine); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	killed, fresh, other := filepath.Join(os.TempDir(), scratchName+"1"), filepath.Join(os.TempDir(), scratchName+"2"), filepath.Join(os.TempDir(), "other")
	for _, dir := range []string{killed, fresh, other} {
		if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	for _, dir := range []string{mine, killed, other} {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	sweepScratch(time.Now())
	for dir, want := range map[string]bool{mine: true, killed: false, fresh: true, other: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	remove()
	if _, err := os.Stat(mine); !os.IsNotExist(err) {
		t.Errorf("%s: %v", mine, err)
	}
}
