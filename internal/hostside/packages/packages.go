// Package packages installs packages of the host's own distribution.
package packages

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/found"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Install installs packages of the host's own distribution and checks that their programs exist.
var Install = host.Define("node.install-packages", func(ctx context.Context, p facts.Packages) (struct{}, error) {
	commands := managers[p.Family]
	if commands.install == nil {
		return struct{}{}, fmt.Errorf("this system has no package manager that Quorate knows: install %v yourself", p.Names)
	}
	if err := found.Local.NotePrograms(p.Programs); err != nil {
		return struct{}{}, err
	}
	if err := install(ctx, commands, p.Names); err != nil {
		return struct{}{}, fmt.Errorf("%w; fix this, or install it there yourself: %s", err, p.Family.Command(p.Names))
	}
	for _, program := range p.Programs {
		if _, err := exec.LookPath(hostconfig.ProgramPath(program)); err != nil {
			return struct{}{}, fmt.Errorf("%v were installed, but %s is still missing", p.Names, program)
		}
	}
	return struct{}{}, nil
})

type manager struct {
	install, refresh []string
	// repair finishes what an interrupted run has left, when install says interrupted: it refuses to work until then.
	repair      []string
	interrupted string
}

// managers are non-interactive commands that wait for other running package managers, except for the lock of apt's lists (see run).
var managers = map[facts.Family]manager{
	facts.Debian: {
		install: []string{"apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "--yes", "--no-install-recommends"},
		refresh: []string{"apt-get", "-o", "DPkg::Lock::Timeout=120", "update"},
		// Files that somebody has edited stay.
		repair: []string{"dpkg", "--force-confdef", "--force-confold", "--configure", "--pending"}, interrupted: "dpkg was interrupted",
	},
	facts.RHEL: {
		install: []string{"dnf", "install", "--assumeyes", "--setopt=install_weak_deps=False"},
		refresh: []string{"dnf", "makecache", "--refresh"},
	},
}

// install first tries with the host's current package lists: the host may be unable to update them, and may not need to.
func install(ctx context.Context, m manager, names []string) error {
	install := m.command(append(slices.Clone(m.install), names...))
	first := run(ctx, install)
	if first != nil && m.interrupted != "" && strings.Contains(first.Error(), m.interrupted) { // the host lost its power in the middle of it
		if err := run(ctx, m.command(m.repair)); err != nil {
			return errors.Join(first, err)
		}
		first = run(ctx, install)
	}
	if first == nil || ctx.Err() != nil {
		return first
	}
	refresh := system.Command{Name: m.refresh[0], Args: m.refresh[1:], Proxies: true}
	if err := run(ctx, refresh); err != nil {
		return errors.Join(first, err)
	}
	return run(ctx, install)
}

// lockPatience is how long other package managers may hold a lock, and lockPause the time between two attempts. A new virtual machine
// refreshes its lists and installs updates after its first start.
var lockPatience, lockPause = 5 * time.Minute, 2 * time.Second

// run runs a package manager again while another one holds a lock for which it does not wait itself. apt-get waits for the locks of dpkg,
// but not for that of its lists.
func run(ctx context.Context, c system.Command) error {
	patience, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := c.Run(ctx)
		if err == nil || !locked(err) {
			return err
		}
		select {
		case <-time.After(lockPause):
		case <-patience.Done():
			return err
		}
	}
}

// locked reports whether a package manager failed because another one holds a lock.
func locked(err error) bool {
	return slices.ContainsFunc([]string{"Could not get lock", "Unable to lock", "Unable to acquire the dpkg"}, func(said string) bool { return strings.Contains(err.Error(), said) })
}

// command is one that must not be killed: a killed package manager leaves packages half configured, and refuses to work until that is
// repaired.
func (m manager) command(line []string) system.Command {
	return system.Command{Name: line[0], Args: line[1:], Env: []string{"DEBIAN_FRONTEND=noninteractive"}, Proxies: true, Finish: true}
}
