package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
)

// record is the content of lab.json: how a lab is configured, not what of it is running.
type record struct {
	Name       string       `json:"name"`
	Subnet     netip.Prefix `json:"subnet"`
	Zones      []string     `json:"zones"`
	Machines   []Machine    `json:"machines"`
	VirtualIPs []netip.Addr `json:"virtualIPs,omitempty"`
	// Base is the directory of the image that all machines share.
	Base string `json:"base"`
	// Image and Packages are what is in it; labs of older versions have neither.
	Image    string   `json:"image,omitempty"`
	Packages []string `json:"packages,omitempty"`
	// Family is that of Config; empty in labs of older versions, which have IPv4.
	Family Family `json:"family,omitempty"`
	// OwnDisks is that of Config.
	OwnDisks bool `json:"ownDisks,omitempty"`
	// Cuts are the targets that are cut now, in the spelling of Target.String.
	Cuts []string `json:"cuts,omitempty"`
	// Ready is false until Create has succeeded once.
	Ready bool `json:"ready"`
}

func (r record) family() Family { return cmp.Or(r.Family, IPv4) }

func stateDir(name string) string { return paths.State("labs", name) }

func (l *Lab) machineDir(name string) string { return filepath.Join(l.dir, "machines", name) }

func (l *Lab) names() string {
	var names []string
	for _, m := range l.rec.Machines {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

func (l *Lab) load() error {
	name := filepath.Base(l.dir)
	file := filepath.Join(l.dir, "lab.json")
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(l.dir); err == nil {
			return fmt.Errorf("open lab %s: its directory %s has no lab.json; delete the lab with `quorate lab --lab %s delete`", name, l.dir, name)
		}
		return fmt.Errorf("open lab %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("open lab %s: %w", name, err)
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return fmt.Errorf("open lab %s: %s is damaged (%w); delete the lab with `quorate lab --lab %s delete`", name, file, err, name)
	}
	l.rec = rec
	return nil
}

func (l *Lab) save() error {
	data, err := json.MarshalIndent(l.rec, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(l.dir, "lab.json"), append(data, '\n'), 0o600)
}

// update changes the record under the lab's lock, starting from what is on disk: several processes
// may hold the same lab open.
func (l *Lab) update(ctx context.Context, change func(*record) error) error {
	unlock, err := lock(ctx, filepath.Join(l.dir, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.load(); err != nil {
		return err
	}
	before := l.rec
	l.rec.Zones, l.rec.Machines, l.rec.Cuts = slices.Clone(before.Zones), slices.Clone(before.Machines), slices.Clone(before.Cuts)
	if err = change(&l.rec); err == nil {
		err = l.save()
	}
	if err != nil {
		l.rec = before
	}
	return err
}

func (l *Lab) sameShape(cfg Config) bool {
	machines := slices.DeleteFunc(slices.Clone(l.rec.Machines), func(m Machine) bool { return m.Extra })
	zones := slices.DeleteFunc(slices.Clone(l.rec.Zones), func(zone string) bool { // those of extra machines, also of former ones
		return !slices.Contains(cfg.Zones, zone) && !slices.ContainsFunc(machines, func(m Machine) bool { return m.Zone == zone })
	})
	return slices.Equal(zones, cfg.Zones) && len(l.rec.VirtualIPs) >= cfg.VirtualIPs && l.Image() == cfg.image() && l.Family() == cfg.family() &&
		slices.EqualFunc(machines, cfg.Machines, func(have, want Machine) bool {
			return have.Name == want.Name && have.Zone == want.Zone && (!want.Address.IsValid() || have.Address == want.Address) &&
				slices.Equal(have.Profiles, want.Profiles)
		})
}

// each runs f for all machines in parallel and returns all errors, each with the machine's name.
func (l *Lab) each(machines []Machine, f func(Machine) error) error {
	errs := make([]error, len(machines))
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() {
			if err := f(m); err != nil {
				errs[i] = fmt.Errorf("machine %s: %w", m.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// lock takes an exclusive lock that the kernel releases when the process dies. The file's directory must exist, so that a lab
// that was deleted in the meantime does not come back as an empty directory.
func lock(ctx context.Context, file string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isAt(f, file) {
			return func() { f.Close() }, nil
		}
		f.Close()
		if err == unix.EWOULDBLOCK || err == unix.EINTR {
			err = pause(ctx, 5*time.Millisecond)
		}
		if err != nil {
			return nil, fmt.Errorf("wait for another quorate process that holds %s: %w", file, err)
		}
	}
}

// isAt reports whether a lock file still exists under its name: its previous holder may have deleted it.
func isAt(f *os.File, file string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(file)
	return err == nil && os.SameFile(mine, named)
}

func note(id, title string) progress.Event {
	return progress.Event{Time: time.Now(), Kind: progress.Note, ID: id, Title: title}
}
