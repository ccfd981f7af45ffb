package bundle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"quorate.dev/quorate/internal/durable"
)

// install puts a finished layout in its place by one rename, so that a reader sees the old bundle or
// the new one and never a mixture.
func install(ctx context.Context, fresh *Bundle, dir string) (*Bundle, error) {
	unlock, err := lock(ctx, filepath.Join(filepath.Dir(dir), ".lock-"+filepath.Base(dir)), nil)
	if err != nil {
		return nil, fmt.Errorf("install bundle %s: %w", dir, err)
	}
	defer unlock()
	if old, err := Open(dir); err == nil && old.Digest() == fresh.Digest() {
		if damages, err := old.Verify(ctx); err == nil && len(damages) == 0 {
			return old, nil
		}
	}
	// MkdirTemp's mode is for its owner only; a bundle is no secret.
	if err := os.Chmod(fresh.dir, 0o755); err != nil {
		return nil, fmt.Errorf("install bundle: %w", err)
	}
	if err := durable.Rename(fresh.dir, dir); err != nil {
		return nil, fmt.Errorf("install bundle %s: %w", dir, err)
	}
	return Open(dir)
}
