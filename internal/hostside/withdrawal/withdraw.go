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

	corev1 "k8s.io/api/core/v1"

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
		if _, err := staticpod.Read(h.manifest(name)); err != nil { // otherwise a return was cut short
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

// Return puts the manifest of a withdrawn pod back. One that is in its place already is newer, and stays. One that was cut off while it was
// written does not count as one.
func (h Host) Return(name string) error {
	data, err := os.ReadFile(h.aside(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := staticpod.Read(h.manifest(name)); err != nil {
		if _, err := staticpod.Parse(h.aside(name), data); err != nil {
			return fmt.Errorf("returning the static pod %s: %w", name, err)
		}
		if err := durable.WriteFile(h.manifest(name), data, 0o600); err != nil {
			return err
		}
	}
	return durable.Remove(h.aside(name))
}

// Edit changes the manifest of a withdrawn pod before it returns. It does nothing if the pod is not withdrawn.
func (h Host) Edit(name string, change func([]byte) ([]byte, error)) error {
	data, err := os.ReadFile(h.aside(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		data, err = change(data)
	}
	if err != nil {
		return fmt.Errorf("changing the withdrawn static pod %s: %w", name, err)
	}
	return durable.WriteFile(h.aside(name), data, 0o600)
}

// Manifest is the complete manifest of a pod: the one that was withdrawn, or else the one in its place. Without one, the error matches
// fs.ErrNotExist.
func (h Host) Manifest(name string) ([]byte, error) {
	for _, path := range []string{h.aside(name), h.manifest(name)} {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if _, err := staticpod.Parse(path, data); err == nil {
			return data, nil
		}
	}
	return nil, fmt.Errorf("reading a complete manifest of the static pod %s: %w", name, fs.ErrNotExist)
}

// incomplete ends the names of manifests that were cut off while they were written. Nothing takes such a file for a manifest.
const incomplete = ".incomplete"

// Clear moves an incomplete manifest out of the directory of the kubelet, which could start the part of a pod that it describes. It is kept
// next to the manifests that were withdrawn. A manifest that can be read is complete if check says so. Clear does nothing if there is no such file.
func (h Host) Clear(name string, check func(*corev1.Pod) error) error {
	data, err := os.ReadFile(h.manifest(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod, err := staticpod.Parse(h.manifest(name), data); err == nil && check(pod) == nil {
		return nil
	}
	if err := durable.WriteFile(h.aside(name)+incomplete, data, 0o600); err != nil {
		return err
	}
	return durable.Remove(h.manifest(name))
}
