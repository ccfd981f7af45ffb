package bundle

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
)

// Extra makes a component that no bundle contains from its pinned modules, or takes it from the cache, and writes one of its programs to
// a new file of this machine, which this user can execute. wanted is the program's path in the component.
func Extra(ctx context.Context, c components.Component, wanted, file string, sink progress.Sink) error {
	if sink == nil {
		sink = progress.Discard
	}
	w := &workshop{release: components.Release{Components: []components.Component{c}}, arch: runtime.GOARCH, sink: sink, cache: paths.Cache("components"), noted: map[string]time.Time{}}
	unlock, err := w.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := w.equip(ctx); err != nil {
		return err
	}
	if err := w.sweep(); err != nil {
		return err
	}
	m, err := w.make(ctx, c)
	if err != nil {
		return fmt.Errorf("build %s %s: %w", c.Name, c.Version, err)
	}
	layer, err := os.Open(m.file) // make has compared it with its digest
	if err != nil {
		return err
	}
	defer layer.Close()
	switch found, _, err := extractFile(ctx, layer, m.Descriptor.MediaType, wanted, file); {
	case err != nil:
		return fmt.Errorf("extract %s from %s: %w", wanted, m.file, err)
	case !found:
		return fmt.Errorf("%s %s has no program %s", c.Name, c.Version, wanted)
	}
	return nil
}
