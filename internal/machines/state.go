package machines

import (
	"context"
	"os"
	"path/filepath"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/spec"
)

const (
	specFile    = "cluster.yaml"
	currentLink = "current"
)

// Dir is the caller's state directory for a cluster that `up` created.
func Dir(name string) string { return paths.State("clusters", name) }

func save(c *spec.Cluster) error {
	dir := Dir(c.Metadata.Name)
	if err := durable.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data, err := spec.Marshal(c)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, specFile), data, 0o600); err != nil {
		return err
	}
	return durable.Symlink(c.Metadata.Name, paths.State("clusters", currentLink))
}

// Current is the spec of the cluster that `up` created last.
func Current() (path string, ok bool) {
	path = paths.State("clusters", currentLink, specFile)
	_, err := os.Stat(path)
	return path, err == nil
}

// SpecFile is the spec of such a cluster, with the addresses of its machines.
func SpecFile(name string) string { return filepath.Join(Dir(name), specFile) }

// Delete removes the lab and the caller's state of the cluster. It also removes incomplete labs.
func Delete(ctx context.Context, name string) error {
	if err := lab.DeleteByName(ctx, name); err != nil {
		return err
	}
	link := paths.State("clusters", currentLink)
	if target, err := os.Readlink(link); err == nil && target == name {
		if err := os.Remove(link); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(Dir(name)); err != nil {
		return err
	}
	// The state directory belongs to Quorate alone; remove its empty directories with the last cluster.
	for _, dir := range []string{paths.State("clusters"), paths.State("labs"), paths.State()} {
		_ = os.Remove(dir)
	}
	return nil
}
