package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// checkSeed refuses a seed that was taken over another base image: its files are the difference to that one.
func checkSeed(seed, base string) error {
	data, err := os.ReadFile(filepath.Join(seed, "base"))
	if err != nil {
		return fmt.Errorf("seed %s: %w: make it again", seed, err)
	}
	if got := strings.TrimSpace(string(data)); got != filepath.Base(base) {
		return fmt.Errorf("seed %s was made over %s, machines now are %s: make it again", seed, got, filepath.Base(base))
	}
	return nil
}

func (l *Lab) Snapshot(ctx context.Context, machine, dir string) error { return nil }
