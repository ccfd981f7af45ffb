// Package up takes an empty machine to a verified cluster: bundle, lab, apply.
package up

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/require"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// Part is one phase of Up and how long it took.
type Part struct {
	Name    string
	Elapsed time.Duration
}

// Result is a verified cluster.
type Result struct {
	Cluster    *spec.Cluster
	SpecFile   string
	Kubeconfig string
	State      *cluster.State
	Parts      []Part
	Lab        bool
	// Restored is what was restored, if the cluster was built from a backup.
	Restored *run.Restored
}

// Up creates the cluster. For hosts without an address, it creates lab machines first. Findings of the preflight checks in
// ignore do not prevent the build. If the bundle of the spec cannot be obtained, the other spec is built, unless it is nil; but not if
// what was downloaded lacks a signature.
func Up(ctx context.Context, c, otherwise *spec.Cluster, ignore []string, sink progress.Sink) (*Result, error) {
	return up(ctx, c, otherwise, ignore, nil, sink)
}

// FromBackup creates a copy of a cluster in a lab, with the content of a backup of it. The spec is one of spec.ForLab.
func FromBackup(ctx context.Context, c *spec.Cluster, from run.RestoreOptions, sink progress.Sink) (*Result, error) {
	from.Lab = true
	return up(ctx, c, nil, from.Ignore, &from, sink)
}

func up(ctx context.Context, c, otherwise *spec.Cluster, ignore []string, from *run.RestoreOptions, sink progress.Sink) (*Result, error) {
	r := &Result{Cluster: c, Lab: c.NeedsLab()}
	part := func(name string, f func() error) error {
		begin := time.Now()
		err := f()
		r.Parts = append(r.Parts, Part{name, time.Since(begin)})
		return err
	}
	if r.Lab {
		if err := part("requirements", func() error { return require.Packages(ctx, lab.Requirements(), sink) }); err != nil {
			return r, err
		}
		// If no lab can run here, fail before minutes are spent on compiling.
		if err := lab.Check(ctx); err != nil {
			return r, err
		}
	}
	var e *run.Engine
	if !r.Lab {
		e = run.Open(ctx, c, sink)
		defer e.Close()
		if err := e.AnyReached(ctx); err != nil { // as above
			return r, err
		}
	}
	var b *bundle.Bundle
	get := func() (err error) {
		b, c, err = sources.BundleOf(ctx, c, otherwise, sink)
		r.Cluster = c
		return err
	}
	if err := part("bundle", get); err != nil {
		return r, err
	}
	if r.Lab {
		if err := part("lab", func() (err error) { r.Cluster, err = machines.CreateWith(ctx, c, b, sink); return err }); err != nil {
			return r, err
		}
		e = run.Open(ctx, r.Cluster, sink)
		defer e.Close()
	} else {
		e.Cluster = r.Cluster // the bundle may be that of the other spec, which has the same hosts
	}
	if err := part("apply", func() error { return r.apply(ctx, e, b, ignore, from) }); err != nil {
		return r, err
	}
	return r, nil
}

const kubeconfigFile = "kubeconfig"

func (r *Result) apply(ctx context.Context, e *run.Engine, b *bundle.Bundle, ignore []string, from *run.RestoreOptions) error {
	if err := r.build(ctx, e, b, ignore, from); err != nil {
		return err
	}
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	config, err := run.ForCaller(r.Cluster, admin, r.Lab)
	if err != nil {
		return err
	}
	dir := machines.Dir(r.Cluster.Metadata.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	r.SpecFile, r.Kubeconfig = machines.SpecFile(r.Cluster.Metadata.Name), filepath.Join(dir, kubeconfigFile)
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.Kubeconfig, data, 0o600); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	r.State = e.State(ctx)
	return nil
}

// build builds the cluster, or restores it. A copy that was restored before is only verified.
func (r *Result) build(ctx context.Context, e *run.Engine, b *bundle.Bundle, ignore []string, from *run.RestoreOptions) (err error) {
	if from != nil && !e.Restored(ctx, from.Backup.Manifest) {
		r.Restored, err = e.Restore(ctx, b, *from)
		if refused, ok := errors.AsType[*cluster.Refusal](err); ok && run.Replaceable(err) {
			other := *refused
			other.Fix = "The lab has another cluster. Choose another --name for the copy, or remove that lab: `quorate down --name " + r.Cluster.Metadata.Name + "`."
			return &other
		}
		return err
	}
	_, err = e.Apply(ctx, b, run.Options{Ignore: ignore})
	return err
}
