package machines

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/step"
)

// Seed creates the initial disk for lab machines of this spec, unless it already exists.
func Seed(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, sink progress.Sink) error {
	config, err := labConfig(c, Options{}, sink)
	if err != nil {
		return err
	}
	_, err = ensureSeed(ctx, c, config, b, sink)
	return err
}

// seedFormat is incremented when the host side changes how it stores the content of a seed on a host's disk.
const seedFormat = 3

// ensureSeed creates the initial disk of lab machines, from a machine on which the same steps as on a real host have installed
// the bundle. Machines share its files, so that none of them has to unpack the bundle. Their lab will have the configuration.
func ensureSeed(ctx context.Context, c *spec.Cluster, config lab.Config, b *bundle.Bundle, sink progress.Sink) (string, error) {
	base, err := lab.EnsureBase(ctx, config)
	if err != nil {
		return "", err
	}
	image, _ := b.Image("pause")
	// The content of the seed depends on these: another cgroup version or CNI plugin needs another seed.
	key, err := json.Marshal([]any{seedFormat, filepath.Base(base), b.Digest(), hostconfig.Runtime(&facts.Facts{}, image.Name)})
	if err != nil {
		return "", err
	}
	dir := paths.Cache("lab", "seed-"+facts.Sum(key)[:12])
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err == nil {
		return dir, nil
	}
	return dir, progress.Track(ctx, sink, "", "seed", "install the bundle on a machine whose disk the others share", func(ctx context.Context) error {
		if err := makeSeed(ctx, c, config, b, image.Name, dir); err != nil {
			return err
		}
		if err := removeUnused(filepath.Dir(dir), now.Add(-seedLife)); err != nil {
			return fmt.Errorf("removing unused seed disks: %w", err)
		}
		return nil
	})
}

// seedLife is how long an unused seed is kept. Each seed holds a whole unpacked bundle, and no other version of the bundle
// or of its configuration can use it.
const seedLife = 24 * time.Hour

// removeUnused removes the seeds that were last used before a time. Labs that were created from them have their own links.
func removeUnused(dir string, before time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var all error
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), "seed-") && info.ModTime().Before(before) {
			all = errors.Join(all, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return all
}

func makeSeed(ctx context.Context, c *spec.Cluster, of lab.Config, b *bundle.Bundle, pause, dir string) (err error) {
	one := &spec.Cluster{Metadata: spec.Metadata{Name: fmt.Sprintf("seed-%d", os.Getpid())}, Spec: c.Spec}
	one.Spec.Hosts = []spec.Host{{Name: "seed", Zone: "seed", Roles: []string{spec.RoleWorker}}}
	config, err := labConfig(one, Options{Image: cmp.Or(of.Image, lab.Images[0])}, progress.Discard)
	if err != nil {
		return err
	}
	config.Packages = of.AllPackages() // the seed is the difference to the same image
	l, err := lab.Create(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Delete(context.WithoutCancel(ctx))) }()
	e := run.Open(ctx, Resolve(one, l), progress.Discard)
	defer e.Close()
	seen := e.Observe(ctx)
	f := seen.Hosts["seed"].Facts
	if f == nil {
		return errors.New(seen.Hosts["seed"].Error)
	}
	runtime := hostconfig.Runtime(f, pause)
	state := cluster.Evaluate(e.Cluster, seen)
	env := step.NewEnv(state, e.Conns, bundle.Set{b}, nil, progress.Discard, func(_ context.Context, s plan.Step) (cluster.Permit, error) {
		permit, refused := state.Allow(*s.Change)
		if refused != nil {
			return cluster.Permit{}, refused
		}
		return permit, nil
	})
	for _, s := range []plan.Step{
		{ID: "seed/install", Kind: plan.InstallBundle, Host: "seed", Switch: true},
		{ID: "seed/configure", Kind: plan.Configure, Host: "seed", Desired: &runtime, Change: &cluster.Change{Verb: cluster.Create, Part: cluster.Node, Subject: "seed"}},
		{ID: "seed/import", Kind: plan.ImportImages, Host: "seed"},
	} {
		if err := step.Run(ctx, env, s); err != nil {
			return err
		}
	}
	// containerd's databases must be closed when the disk is copied.
	if err := l.Exec(ctx, "seed", []string{"systemctl", "stop", "containerd.service"}, nil, nil, nil); err != nil {
		return fmt.Errorf("stopping containerd: %w", err)
	}
	if err := l.PowerOff(ctx, "seed"); err != nil {
		return err
	}
	return l.Snapshot(ctx, "seed", dir)
}
