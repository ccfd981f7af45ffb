package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
)

// Snapshot saves a machine's disk as a seed for other labs. The machine must be off. The machine's identity
// (its names, keys, and logs) is left out.
func (l *Lab) Snapshot(ctx context.Context, machine, dir string) error {
	m, err := l.Machine(machine)
	if err != nil {
		return err
	}
	unlock, err := l.lockPower(ctx, m)
	if err != nil {
		return err
	}
	defer unlock()
	state, err := l.state(machine)
	if err != nil {
		return err
	}
	if state != Off {
		return fmt.Errorf("snapshot %s: the machine is %s; power it off first", machine, state)
	}
	if err := l.snapshot(ctx, m, filepath.Clean(dir)); err != nil {
		return fmt.Errorf("snapshot %s to %s: %w", machine, dir, err)
	}
	return nil
}

func (l *Lab) snapshot(ctx context.Context, m Machine, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".seed-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	// The content of an earlier seed is below the machine's own changes.
	if _, err := os.Stat(l.seedLayer()); err == nil {
		return errors.New("the machine was created from a seed; take a snapshot of a machine that was created from the base image")
	}
	err = l.withDisk(m, func() error {
		if err := clone(filepath.Join(l.disk(m), "upper"), filepath.Join(tmp, "upper"), anonymous(identityInRoot, copyAll)); err != nil {
			return err
		}
		return clone(filepath.Join(l.disk(m), "var"), filepath.Join(tmp, "var"), anonymous(identityInVar, linkShared))
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "base"), []byte(filepath.Base(l.rec.Base)+"\n"), 0o644); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return durable.Rename(tmp, dir)
}

// identityInRoot and identityInVar are files that must differ between machines, and files about a machine's past.
var (
	identityInRoot = []string{
		"etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf", "etc/ssh/ssh_host_*", "root/.ssh", "root/.bash_history",
	}
	identityInVar = []string{
		"lib/dbus/machine-id", "lib/systemd/random-seed", "log/*", "tmp/*",
	}
)

// anonymous excludes the given patterns from a rule.
func anonymous(patterns []string, of rule) rule {
	return func(path string) treatment {
		if slices.ContainsFunc(patterns, func(p string) bool { ok, _ := filepath.Match(p, path); return ok }) {
			return leaveOut
		}
		return of(path)
	}
}

// copyAll is the rule for trees that their machine will write to again.
func copyAll(string) treatment { return duplicate }

// checkSeed refuses a seed that was created over another base image, because its files are the difference to that image.
func checkSeed(seed, base string) error {
	data, err := os.ReadFile(filepath.Join(seed, "base"))
	if err != nil {
		return fmt.Errorf("seed %s: %w; recreate the seed", seed, err)
	}
	if got := strings.TrimSpace(string(data)); got != filepath.Base(base) {
		return fmt.Errorf("seed %s was created from base image %s, but the current one is %s; recreate the seed", seed, got, filepath.Base(base))
	}
	return nil
}
