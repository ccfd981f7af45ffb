package files

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
)

// same reports whether the host has the content already.
func same(f facts.File) bool {
	sum, err := Sum(f.Key())
	return err == nil && sum == f.Sum()
}

// checked orders files for writing: first those that do not exist yet, because a file with a Check may refer to them, then
// the others. An error of a Check comes between the two: nothing that exists has been replaced.
func checked(ctx context.Context, all []facts.File, write func(facts.File) error) error {
	isNew := func(f facts.File) bool { return len(f.Check) == 0 && f.Block == "" && !system.Exists(f.Path) }
	var later []facts.File
	for _, f := range all {
		if !isNew(f) {
			later = append(later, f)
		} else if err := write(f); err != nil {
			return err
		}
	}
	for _, f := range later {
		if len(f.Check) == 0 || same(f) {
			continue
		}
		if err := check(ctx, f); err != nil {
			return err
		}
	}
	for _, f := range later {
		if err := write(f); err != nil {
			return err
		}
	}
	return nil
}

// check runs a file's Check on its new content.
func check(ctx context.Context, f facts.File) error {
	dir, name := filepath.Split(f.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".quorate-check-*-"+name)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // nobody reads it
	_, err = tmp.WriteString(f.Content)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("checking the new %s: %w", f.Path, err)
	}
	if err := system.Run(ctx, f.Check[0], append(slices.Clone(f.Check[1:]), tmp.Name())...); err != nil {
		return fmt.Errorf("the new %s is not valid, so the old one stays: %w", f.Path, err)
	}
	return nil
}
