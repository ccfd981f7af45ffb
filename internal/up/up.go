// Package up goes all the way from an empty machine to a verified cluster: bundle, lab, apply.
package up

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/engine"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// Part is one stretch of the way and how long it took.
type Part struct {
	Name    string
	Elapsed time.Duration
}

// Result is a cluster that was verified.
type Result struct {
	Cluster    *spec.Cluster
	SpecFile   string
	Kubeconfig string
	Seen       *facts.Observation
	Parts      []Part
	Lab        bool
}

// Up makes the cluster. For hosts without an address it first makes lab machines. Findings of the checks to ignore do not
// keep it from building.
func Up(ctx context.Context, c *spec.Cluster, ignore []string, sink progress.Sink) (*Result, error) {
	r := &Result{Cluster: c, Lab: c.NeedsLab()}
	part := func(name string, f func() error) error {
		begin := time.Now()
		err := f()
		r.Parts = append(r.Parts, Part{name, time.Since(begin)})
		return err
	}
	if r.Lab {
		if err := part("requirements", func() error { return Require(ctx, lab.Requirements(), sink) }); err != nil {
			return r, err
		}
		// A machine on which no lab can be made should say so before minutes are spent on compiling.
		if err := lab.Check(ctx); err != nil {
			return r, err
		}
	}
	var b *bundle.Bundle
	if err := part("bundle", func() (err error) { b, err = Bundle(ctx, c, sink); return err }); err != nil {
		return r, err
	}
	if r.Lab {
		if err := part("lab", func() (err error) { r.Cluster, err = machines(ctx, c, b, sink); return err }); err != nil {
			return r, err
		}
	}
	if err := part("apply", func() error { return r.apply(ctx, b, ignore, sink) }); err != nil {
		return r, err
	}
	return r, nil
}

func (r *Result) apply(ctx context.Context, b *bundle.Bundle, ignore []string, sink progress.Sink) error {
	e := engine.Open(ctx, r.Cluster, sink)
	defer e.Close()
	w, err := e.Plan(ctx, b)
	if err != nil {
		return err
	}
	if w.Plan.Empty() {
		// Machines that were just switched on again need no step, and time.
		if err := e.Verify(ctx, w); err != nil {
			return err
		}
	}
	if err := e.Check(ctx, w, ignore); err != nil {
		return err
	}
	if err := e.Apply(ctx, w); err != nil {
		return err
	}
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return err
	}
	config, err := engine.ForCaller(r.Cluster, admin, r.Lab)
	if err != nil {
		return err
	}
	dir := Dir(r.Cluster.Metadata.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	r.SpecFile, r.Kubeconfig = filepath.Join(dir, specFile), filepath.Join(dir, kubeconfigFile)
	if err := clientcmd.WriteToFile(*config, r.Kubeconfig); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	r.Seen = e.Observe(ctx)
	return nil
}

// Lab makes the machines that a spec's hosts become, and no cluster. With the bundle on their disks they are what `up`
// builds on; without it they are as empty as a new server.
func Lab(ctx context.Context, c *spec.Cluster, withBundle bool, sink progress.Sink) (*spec.Cluster, error) {
	if err := Require(ctx, lab.Requirements(), sink); err != nil {
		return nil, err
	}
	if err := lab.Check(ctx); err != nil {
		return nil, err
	}
	if !withBundle {
		return machines(ctx, c, nil, sink)
	}
	b, err := Bundle(ctx, c, sink)
	if err != nil {
		return nil, err
	}
	return machines(ctx, c, b, sink)
}

// machines makes the lab and returns the spec with its addresses. The spec is written to the state folder before
// anything is built on the machines, so that every later command finds a cluster that is only half there.
func machines(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, sink progress.Sink) (*spec.Cluster, error) {
	seed := ""
	if b != nil {
		var err error
		if seed, err = ensureSeed(ctx, c, b, sink); err != nil {
			return nil, err
		}
	}
	config, err := labConfig(c, seed, sink)
	if err != nil {
		return nil, err
	}
	l, err := lab.Create(ctx, config)
	if err != nil {
		return nil, err
	}
	resolved := Resolve(c, l)
	return resolved, save(resolved)
}

func labConfig(c *spec.Cluster, seed string, sink progress.Sink) (lab.Config, error) {
	local, remote, err := host.RemotePath()
	if err != nil {
		return lab.Config{}, err
	}
	config := lab.Config{Name: c.Metadata.Name, VirtualIPs: 1, Seed: seed, Progress: sink,
		// A real host gets the binary by its first session; a lab machine is born with it.
		Files: []lab.File{{Path: remote, Source: local, Mode: 0o755}}}
	for _, h := range c.Spec.Hosts {
		if !slices.Contains(config.Zones, h.Zone) {
			config.Zones = append(config.Zones, h.Zone)
		}
		config.Machines = append(config.Machines, lab.Machine{Name: h.Name, Zone: h.Zone, Roles: h.Roles})
	}
	return config, nil
}

// Resolve fills a spec's hosts with the addresses and keys of the lab's machines.
func Resolve(c *spec.Cluster, l *lab.Lab) *spec.Cluster {
	out := *c
	out.Spec.Hosts = slices.Clone(c.Spec.Hosts)
	addresses := map[string]netip.Addr{}
	for _, m := range l.Machines() {
		addresses[m.Name] = m.Address
	}
	for i := range out.Spec.Hosts {
		h := &out.Spec.Hosts[i]
		h.Address = addresses[h.Name].String()
		h.SSH = spec.SSH{User: "root", Port: 22, KeyFile: l.SSHKey(), KnownHostsFile: l.KnownHosts()}
	}
	if out.Spec.LoadBalancer.Type == spec.BalancerManaged && out.Spec.LoadBalancer.Address == "" && len(l.VirtualIPs()) > 0 {
		out.Spec.LoadBalancer.Address = l.VirtualIPs()[0].String()
	}
	return &out
}

const (
	specFile       = "cluster.yaml"
	kubeconfigFile = "kubeconfig"
	currentLink    = "current"
)

// Dir is where the caller's side keeps what it knows of a cluster that `up` made.
func Dir(name string) string { return paths.State("clusters", name) }

func save(c *spec.Cluster) error {
	dir := Dir(c.Metadata.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data, err := spec.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, specFile), data, 0o600); err != nil {
		return err
	}
	link := paths.State("clusters", currentLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(c.Metadata.Name, link)
}

// Current is the spec of the cluster that `up` made last.
func Current() (path string, ok bool) {
	path = paths.State("clusters", currentLink, specFile)
	_, err := os.Stat(path)
	return path, err == nil
}

// Down removes the lab and everything that `up` noted. It works on what is only half there.
func Down(ctx context.Context, name string) error {
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
	// The state folder belongs to Quorate alone; what is empty leaves with the last cluster.
	for _, dir := range []string{paths.State("clusters"), paths.State("labs"), paths.State()} {
		_ = os.Remove(dir)
	}
	return nil
}

// OpenLab finds the lab that up made of a spec without addresses.
func OpenLab(c *spec.Cluster) (*spec.Cluster, error) {
	l, err := lab.Open(c.Metadata.Name)
	if errors.Is(err, lab.ErrNotFound) {
		return nil, fmt.Errorf("the hosts of %s have no addresses and no lab was made of them yet: run `quorate up -f` with this spec", c.Metadata.Name)
	}
	if err != nil {
		return nil, err
	}
	return Resolve(c, l), nil
}
