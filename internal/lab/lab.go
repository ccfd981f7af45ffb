// Package lab creates machines from Linux namespaces that are as close to real servers as one kernel allows:
// systemd as PID 1, sshd, and their own network stack, cgroup, and root filesystem. Each zone is its own
// switch, connected by an uplink to a core switch, all inside the lab's network namespace. Machines, zones,
// and links can be powered off, frozen, cut, and healed.
//
// A lab needs no process on the caller's side. Its state is in the kernel (namespaces, links, cgroups) and in
// one directory per lab, so any process can open, change, or delete it.
package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
)

// ErrNotFound is wrapped by the error that Open returns for a lab that does not exist.
var ErrNotFound = errors.New("no such lab")

// ErrExists is wrapped by the error that Create returns if a different lab already has the name.
var ErrExists = errors.New("the lab already exists")

// Machine is one server of a lab.
type Machine struct {
	Name string `json:"name"`
	Zone string `json:"zone"`
	// Address is assigned from the lab's subnet when it is zero. It is one of IPv6 only in a lab without IPv4.
	Address netip.Addr `json:"address"`
	// Roles are for display only.
	Roles []string `json:"roles,omitempty"`
	// Extra says that the machine is no part of what the lab was created for: Create finds a lab with and without it.
	Extra bool `json:"extra,omitempty"`
	// Profiles are the names of those that make the machine like certain real servers; see Profiles.
	Profiles []string `json:"profiles,omitempty"`
}

// File is copied to every machine before its first boot.
type File struct {
	// Path is absolute, as seen in the machine.
	Path string `json:"path"`
	// Source is a file on the caller's side. It is shared by hard link where that is safe.
	Source string      `json:"source"`
	Mode   os.FileMode `json:"mode"`
}

// Config describes the lab that Create creates.
type Config struct {
	// Name is a DNS label, unique on this machine.
	Name     string
	Zones    []string
	Machines []Machine
	// VirtualIPs is the number of addresses of the subnet that are reserved and not assigned to machines.
	VirtualIPs int
	// Family says which addresses the machines have. Empty: IPv4.
	Family Family
	// Image is the system of the machines, one of Images. Empty: the first of them.
	Image string
	// Packages are Debian packages that the image has besides the usual ones and those that the machines' profiles need. Their units do not
	// start by themselves.
	Packages []string
	// OwnDisks gives every machine a file system of its own, in an image file. A power-off then loses what had not reached
	// the disk; without it, all that was written stays.
	OwnDisks bool
	// Seed is a directory created by Snapshot, with the initial content of the machines' disks. Optional.
	Seed     string
	Files    []File
	Progress progress.Sink
}

func (cfg Config) family() Family { return cmp.Or(cfg.Family, IPv4) }

// Lab is a set of machines on this computer, running or not.
type Lab struct {
	dir string
	rec record
}

// Name is the lab's name.
func (l *Lab) Name() string { return l.rec.Name }

// Dir is the lab's state directory.
func (l *Lab) Dir() string { return l.dir }

// Subnet is the one IPv4 subnet that all machines share. Their IPv6 addresses stand for those of it.
func (l *Lab) Subnet() netip.Prefix { return l.rec.Subnet }

// Zones are the lab's zones in the order in which they were created.
func (l *Lab) Zones() []string { return slices.Clone(l.rec.Zones) }

// Machines are the lab's machines with their addresses.
func (l *Lab) Machines() []Machine { return slices.Clone(l.rec.Machines) }

// VirtualIPs are addresses of the subnet that no machine owns.
func (l *Lab) VirtualIPs() []netip.Addr { return slices.Clone(l.rec.VirtualIPs) }

// SSHKey is the path of the private key that the User of every machine accepts.
func (l *Lab) SSHKey() string { return filepath.Join(l.dir, "ssh", "id_ed25519") }

// KnownHosts is the path of a known_hosts file that names the host key of every machine.
func (l *Lab) KnownHosts() string { return filepath.Join(l.dir, "ssh", "known_hosts") }

// Image is the name of the system of the lab's machines.
func (l *Lab) Image() string { return cmp.Or(l.rec.Image, Images[0]) }

// Packages are the packages that the lab's image has besides the usual ones.
func (l *Lab) Packages() []string { return slices.Clone(l.rec.Packages) }

// OwnDisks says that each machine has a disk of its own, which Config.OwnDisks asks for.
func (l *Lab) OwnDisks() bool { return l.rec.OwnDisks }

// NetNS is the path of the lab's core network namespace: a client that runs in it is one switch
// away from every zone.
func (l *Lab) NetNS() string { return netnsPath(l.coreNS()) }

// Machine finds a machine by name.
func (l *Lab) Machine(name string) (Machine, error) {
	for _, m := range l.rec.Machines {
		if m.Name == name {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("lab %s has no machine %q (it has %s)", l.Name(), name, l.names())
}

// Open finds a lab by name.
func Open(name string) (*Lab, error) {
	if err := checkLabel("lab", name); err != nil {
		return nil, err
	}
	l := &Lab{dir: stateDir(name)}
	if err := l.load(); err != nil {
		return nil, err
	}
	return l, nil
}

// List returns every lab of this state directory. Damaged ones are left out and reported in the error, so that the intact ones
// can still be shown.
func List() ([]*Lab, error) {
	entries, err := os.ReadDir(paths.State("labs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var labs []*Lab
	var broken []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		l, err := Open(e.Name())
		if err != nil {
			broken = append(broken, err)
			continue
		}
		labs = append(labs, l)
	}
	return labs, errors.Join(broken...)
}

// Create creates a lab and returns when every machine answers on its SSH port. If it fails or is canceled, it removes what it
// has created. If the lab already exists with the same zones, machines, profiles, and image, Create starts what is not running.
// It recreates an incomplete lab that a killed process left behind.
func Create(ctx context.Context, cfg Config) (_ *Lab, err error) {
	if cfg.Progress == nil {
		cfg.Progress = progress.Discard
	}
	if err := validate(cfg); err != nil {
		return nil, err
	}
	if err := Check(ctx); err != nil {
		return nil, err
	}
	if err := checkFamily(cfg.family()); err != nil {
		return nil, err
	}
	unlock, err := lockCreate(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if l, err := adopt(ctx, cfg); l != nil || err != nil {
		return l, err
	}
	base, err := EnsureBase(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: stateDir(cfg.Name), rec: record{
		Name: cfg.Name, Zones: slices.Clone(cfg.Zones), Base: base, OwnDisks: cfg.OwnDisks, Image: cfg.image(), Packages: cfg.AllPackages(), Family: cfg.Family,
	}}
	defer func() {
		if err != nil {
			if cleanup := l.Delete(context.WithoutCancel(ctx)); cleanup != nil {
				err = errors.Join(err, cleanup)
			}
		}
	}()
	if err := l.claim(ctx, cfg); err != nil {
		return nil, err
	}
	err = progress.Track(ctx, cfg.Progress, "", "lab/network", "create switches and keys", func(ctx context.Context) error {
		if err := l.makeKey(); err != nil {
			return err
		}
		if err := l.makeLayers(cfg); err != nil {
			return err
		}
		return l.makeCore()
	})
	if err != nil {
		return nil, err
	}
	if err := l.addMachines(ctx, l.rec.Machines, cfg.Progress); err != nil {
		return nil, err
	}
	if err := l.update(ctx, func(r *record) error { r.Ready = true; return nil }); err != nil {
		return nil, err
	}
	return l, nil
}

// adopt handles a lab that already has the name. It returns nil, nil if the name is free now.
func adopt(ctx context.Context, cfg Config) (*Lab, error) {
	l, err := Open(cfg.Name)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, refuseForeign(cfg.Name)
	case err != nil || !l.rec.Ready:
		cfg.Progress.Emit(note("lab/leftover", fmt.Sprintf("lab %s is incomplete and is recreated", cfg.Name)))
		return nil, DeleteByName(ctx, cfg.Name)
	case !l.sameShape(cfg):
		return nil, fmt.Errorf("create lab %s: %w with other zones, machines, or profiles, or another image or IP family (it has %s, on %s, with %s); delete it first with `quorate lab --lab %s delete`, or choose another name",
			cfg.Name, ErrExists, l.names(), l.Image(), l.Family(), cfg.Name)
	}
	return l, l.Start(ctx, cfg.Progress)
}

// AddMachines adds machines and returns when they answer. It creates zones that do not exist yet.
func (l *Lab) AddMachines(ctx context.Context, machines []Machine, sink progress.Sink) error {
	if sink == nil {
		sink = progress.Discard
	}
	var added []Machine
	err := l.update(ctx, func(r *record) (err error) {
		zones := slices.Clone(r.Zones)
		for _, m := range machines {
			if !slices.Contains(zones, m.Zone) {
				zones = append(zones, m.Zone)
			}
		}
		all := append(slices.Clone(r.Machines), machines...)
		if err := validate(Config{Name: r.Name, Zones: zones, Machines: all, Family: r.Family}); err != nil {
			return err
		}
		for _, name := range profilePackages(machines) {
			if !slices.Contains(r.Packages, name) {
				return fmt.Errorf("a profile needs the package %s, which the lab's image does not have: give the profile to a machine when the lab is created", name)
			}
		}
		if all, err = r.family().assign(r.Subnet, all, r.VirtualIPs); err != nil {
			return err
		}
		added = all[len(r.Machines):]
		r.Machines, r.Zones = all, zones
		return nil
	})
	if err != nil {
		return fmt.Errorf("add machines to lab %s: %w", l.Name(), err)
	}
	if err := l.makeCore(); err != nil {
		return err
	}
	if err := l.addMachines(ctx, added, sink); err != nil {
		for _, m := range added {
			err = errors.Join(err, l.RemoveMachine(context.WithoutCancel(ctx), m.Name))
		}
		return err
	}
	return nil
}

// RemoveMachine removes a machine with its disk. It is not an error if the machine does not exist.
func (l *Lab) RemoveMachine(ctx context.Context, name string) error {
	if err := l.load(); err != nil {
		return err
	}
	m, err := l.Machine(name)
	if err != nil {
		return nil //nolint:nilerr // already removed
	}
	if err := l.PowerOff(ctx, name); err != nil {
		return err
	}
	if err := os.RemoveAll(l.machineDir(m.Name)); err != nil {
		return fmt.Errorf("remove the disk of machine %s: %w", name, err)
	}
	err = l.update(ctx, func(r *record) error {
		r.Machines = slices.DeleteFunc(r.Machines, func(o Machine) bool { return o.Name == name })
		r.Cuts = slices.DeleteFunc(r.Cuts, func(c string) bool { return mentions(c, name) })
		return l.applyCuts(r)
	})
	if err != nil {
		return err
	}
	return l.writeKnownHosts()
}

// Start powers on the whole lab, for example after a reboot of this computer. It recreates missing switches
// and cables. Running machines are not touched, and cuts stay in effect.
func (l *Lab) Start(ctx context.Context, sink progress.Sink) error {
	if sink == nil {
		sink = progress.Discard
	}
	if err := Check(ctx); err != nil {
		return err
	}
	if err := l.load(); err != nil {
		return err
	}
	if err := l.reclaim(ctx); err != nil {
		return err
	}
	if err := l.makeCore(); err != nil {
		return err
	}
	return l.powerOn(ctx, l.rec.Machines, sink)
}
