// Package machines creates lab machines for the hosts of a spec and remembers the clusters that run on them.
package machines

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/require"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// Options are how machines are created.
type Options struct {
	// Bundle puts the bundle on their disks, as `up` needs it. Without it, they are as empty as a new server.
	Bundle bool
	// OwnDisks is that of lab.Config.
	OwnDisks bool
	// Otherwise is the spec to use if the bundle of the other one cannot be obtained; nil if there is none (see sources.BundleOf).
	Otherwise *spec.Cluster
}

// Create creates the machines for the hosts of a spec, but no cluster.
func Create(ctx context.Context, c *spec.Cluster, o Options, sink progress.Sink) (*spec.Cluster, error) {
	if err := require.Packages(ctx, lab.Requirements(), sink); err != nil {
		return nil, err
	}
	if err := lab.Check(ctx); err != nil {
		return nil, err
	}
	if !o.Bundle {
		return create(ctx, c, nil, o.OwnDisks, sink)
	}
	b, c, err := sources.BundleOf(ctx, c, o.Otherwise, sink)
	if err != nil {
		return nil, err
	}
	return create(ctx, c, b, o.OwnDisks, sink)
}

// CreateWith creates the lab with the bundle on its disks, and returns the spec with the addresses. The spec is written to the
// state directory before anything is built on the machines, so that later commands find even a partially built cluster.
func CreateWith(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, sink progress.Sink) (*spec.Cluster, error) {
	return create(ctx, c, b, false, sink)
}

func create(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, ownDisks bool, sink progress.Sink) (*spec.Cluster, error) {
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
	config.OwnDisks = ownDisks
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
		// A real host gets the binary in its first session; a lab machine has it from the start.
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

// NoLabError says that the lab of a spec without addresses does not exist.
type NoLabError struct{ Cluster string }

func (e *NoLabError) Error() string {
	return fmt.Sprintf("the hosts of %s have no addresses, and its lab does not exist yet; run `quorate up -f` with this spec", e.Cluster)
}

// Open fills in the addresses of a spec from the lab that up created for it. The error is a *NoLabError if there is none.
func Open(c *spec.Cluster) (*spec.Cluster, error) {
	l, err := lab.Open(c.Metadata.Name)
	if errors.Is(err, lab.ErrNotFound) {
		return nil, &NoLabError{c.Metadata.Name}
	}
	if err != nil {
		return nil, err
	}
	return Resolve(c, l), nil
}
