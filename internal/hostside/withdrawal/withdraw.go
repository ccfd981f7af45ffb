// Package withdrawal sets the manifests of static pods aside, so that the kubelet ends them, and puts them back.
package withdrawal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/staticpod"
)

// endPace is how often is asked whether a pod has ended.
const endPace = 200 * time.Millisecond

// Host is a host whose files are below Root: empty for the host itself, a directory in tests.
type Host struct{ Root string }

func (h Host) manifest(name string) string { return filepath.Join(h.Root, staticpod.Dir, name+".yaml") }
func (h Host) aside(name string) string {
	return filepath.Join(h.Root, facts.WithdrawnDir, name+".yaml")
}

// Withdrawn are the pods whose manifests are set aside.
func (h Host) Withdrawn() (out []string) {
	files, _ := filepath.Glob(h.aside("*"))
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		if !system.Exists(h.manifest(name)) { // otherwise a return was cut short
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Withdraw sets the manifest of a pod aside, so that the kubelet ends it gracefully, and waits until running says that it has
// ended. It may have been cut short before: at every moment there is at least one complete copy of the manifest.
func (h Host) Withdraw(ctx context.Context, name string, running func(context.Context, string) (int, error)) error {
	data, err := os.ReadFile(h.manifest(name))
	switch {
	case err == nil:
		if _, err := staticpod.Read(h.manifest(name)); err != nil {
			return fmt.Errorf("setting the static pod %s aside: %w", name, err)
		}
		if err := durable.MkdirAll(filepath.Dir(h.aside(name)), 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(h.aside(name), data, 0o600); err != nil {
			return err
		}
		if err := durable.Remove(h.manifest(name)); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case !system.Exists(h.aside(name)):
		return nil // this host does not have it
	}
	for {
		n, err := running(ctx, name)
		if err == nil && n == 0 {
			return nil
		}
		if err == nil {
			err = errors.New("it still runs")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ending the static pod %s: %w (%w)", name, err, context.Cause(ctx))
		case <-time.After(endPace):
		}
	}
}

// Return puts the manifest of a withdrawn pod back. One that is in its place already is newer, and stays.
func (h Host) Return(name string) error {
	data, err := os.ReadFile(h.aside(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := staticpod.Read(h.manifest(name)); err != nil {
		if err := durable.WriteFile(h.manifest(name), data, 0o600); err != nil {
			return err
		}
	}
	return durable.Remove(h.aside(name))
}
