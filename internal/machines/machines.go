// Package machines creates lab machines for the hosts of a spec and remembers the clusters that run on them.
package machines

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

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
	// Image is that of lab.Config. If neither it nor Profiles are given, a lab that exists keeps what it has.
	Image string
	// Profiles are choices as lab.WithProfiles takes them.
	Profiles []string
	// Otherwise is the spec to use if the bundle of the other one cannot be obtained; nil if there is none (see sources.BundleOf).
	Otherwise *spec.Cluster
}

// Check returns an error if there is no such image or profile, or no machine for it, or if machines cannot have such profiles together.
func (o Options) Check(c *spec.Cluster) error {
	if o.Image != "" && !slices.Contains(lab.Images, o.Image) {
		return fmt.Errorf("there is no image %q: must be one of %s", o.Image, strings.Join(lab.Images, ", "))
	}
	_, err := lab.WithProfiles(machinesOf(c), o.Profiles)
	return err
}

// Create creates the machines for the hosts of a spec, but no cluster.
func Create(ctx context.Context, c *spec.Cluster, o Options, sink progress.Sink) (*spec.Cluster, error) {
	if err := require.Packages(ctx, lab.Requirements(), sink); err != nil {
		return nil, err
	}
	if err := lab.Check(ctx); err != nil {
		return nil, err
	}
	if err := o.Check(c); err != nil {
		return nil, err
	}
	if !o.Bundle {
		return create(ctx, c, nil, o, sink)
	}
	b, c, err := sources.BundleOf(ctx, c, o.Otherwise, sink)
	if err != nil {
		return nil, err
	}
	return create(ctx, c, b, o, sink)
}

// CreateWith creates the lab with the bundle on its disks, and returns the spec with the addresses. The spec is written to the
// state directory before anything is built on the machines, so that later commands find even a partially built cluster.
func CreateWith(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, sink progress.Sink) (*spec.Cluster, error) {
	return create(ctx, c, b, Options{}, sink)
}

func create(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, o Options, sink progress.Sink) (*spec.Cluster, error) {
	config, err := labConfig(c, o, sink)
	if err != nil {
		return nil, err
	}
	if b != nil {
		if config.Seed, err = ensureSeed(ctx, c, config, b, sink); err != nil {
			return nil, err
		}
	}
	l, err := lab.Create(ctx, config)
	if err != nil {
		return nil, err
	}
	resolved := Resolve(c, l)
	return resolved, save(resolved)
}

func labConfig(c *spec.Cluster, o Options, sink progress.Sink) (lab.Config, error) {
	local, remote, err := host.RemotePath()
	if err != nil {
		return lab.Config{}, err
	}
	config := lab.Config{Name: c.Metadata.Name, VirtualIPs: 1, OwnDisks: o.OwnDisks, Image: o.Image, Family: familyOf(c), Progress: sink,
		// A real host gets the binary in its first session; a lab machine has it from the start.
		Files: []lab.File{{Path: remote, Source: local, Mode: 0o755}}}
	for _, h := range c.Spec.Hosts {
		if !slices.Contains(config.Zones, h.Zone) {
			config.Zones = append(config.Zones, h.Zone)
		}
	}
	if config.Machines, err = lab.WithProfiles(machinesOf(c), o.Profiles); err != nil {
		return lab.Config{}, err
	}
	if o.Image == "" && len(o.Profiles) == 0 {
		keep(&config)
	}
	return config, nil
}

// familyOf is the family of the machines for a spec: that of its pods.
func familyOf(c *spec.Cluster) lab.Family {
	switch n := c.Spec.Network; {
	case n.Uses(spec.IPv4) && n.Uses(spec.IPv6):
		return lab.Dual
	case n.Uses(spec.IPv6):
		return lab.IPv6
	}
	return lab.IPv4
}

// addressesOf are an address of a lab and the one of the other family that belongs to it, in the order of the spec.
func addressesOf(c *spec.Cluster, l *lab.Lab, a netip.Addr) (first, second string) {
	six, ok := l.Second(a)
	switch {
	case !ok:
		return a.String(), ""
	case familyOf(c) != lab.Dual:
		return a.String(), ""
	case c.Spec.Network.First() == spec.IPv6:
		return six.String(), a.String()
	}
	return a.String(), six.String()
}

func machinesOf(c *spec.Cluster) (out []lab.Machine) {
	for _, h := range c.Spec.Hosts {
		out = append(out, lab.Machine{Name: h.Name, Zone: h.Zone, Roles: h.Roles})
	}
	return out
}

// keep takes the image and the profiles of a lab that exists, so that `up` finds the machines that `lab create` has made.
func keep(config *lab.Config) {
	l, err := lab.Open(config.Name)
	if err != nil {
		return // lab.Create says what is wrong with it
	}
	config.Image, config.Packages = l.Image(), l.Packages()
	for i, m := range config.Machines {
		if have, err := l.Machine(m.Name); err == nil {
			config.Machines[i].Profiles = have.Profiles
		}
	}
}

// Resolve fills a spec's hosts with the addresses and keys of the lab's machines.
func Resolve(c *spec.Cluster, l *lab.Lab) *spec.Cluster {
	out := *c
	out.Spec.Hosts = slices.Clone(c.Spec.Hosts)
	machines := map[string]lab.Machine{}
	for _, m := range l.Machines() {
		machines[m.Name] = m
	}
	for i := range out.Spec.Hosts {
		h := &out.Spec.Hosts[i]
		m := machines[h.Name]
		h.Address, h.SecondaryAddress = addressesOf(c, l, m.Address)
		h.SSH = spec.SSH{User: m.User(), Port: 22, KeyFile: l.SSHKey(), KnownHostsFile: l.KnownHosts(), Jump: l.Jump(m)}
	}
	if out.Spec.LoadBalancer.Type == spec.BalancerManaged && out.Spec.LoadBalancer.Address == "" && len(l.VirtualIPs()) > 0 {
		out.Spec.LoadBalancer.Address, _ = addressesOf(c, l, l.VirtualIPs()[0])
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
