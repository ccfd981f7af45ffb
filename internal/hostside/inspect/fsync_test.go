package inspect

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestMeasureFsync leaves nothing, and needs no directory of etcd's.
func TestMeasureFsync(t *testing.T) {
	root := t.TempDir()
	took, err := measureFsync(t.Context(), filepath.Join(root, "lib", "etcd"))
	if err != nil || took <= 0 {
		t.Errorf("%s, %v", took, err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestPercentile99(t *testing.T) {
	upTo := func(n int) (out []time.Duration) {
		for i := n; i > 0; i-- {
			out = append(out, time.Duration(i))
		}
		return out
	}
	for n, want := range map[int]time.Duration{0: 0, 1: 1, 50: 50, 99: 99, 100: 99, 101: 100, 200: 198} {
		if got := percentile99(upTo(n)); got != want {
			t.Errorf("of %d: %d instead of %d", n, got, want)
		}
	}
}
