package sources

import (
	"errors"
	"os"
	"testing"

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
	if entries, err := os.ReadDir(cache); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
