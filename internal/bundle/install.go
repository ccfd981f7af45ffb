package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
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
	// Without this a machine that loses power could keep the new name with empty files behind it.
	if err := syncTree(fresh.dir); err != nil {
		return nil, fmt.Errorf("install bundle %s: %w", dir, err)
	}
	switch err := os.Rename(fresh.dir, dir); {
	case err == nil:
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, fs.ErrExist):
		if err := unix.Renameat2(unix.AT_FDCWD, fresh.dir, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
			return nil, fmt.Errorf("install bundle %s: exchange it with the old one: %w", dir, err)
		}
		if err := os.RemoveAll(fresh.dir); err != nil {
			return nil, fmt.Errorf("install bundle %s: remove the old one: %w", dir, err)
		}
	default:
		return nil, fmt.Errorf("install bundle: %w", err)
	}
	// MkdirTemp's mode is for its owner only; a bundle is no secret.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("install bundle: %w", err)
	}
	return Open(dir)
}

func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	})
}
