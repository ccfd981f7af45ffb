package lab

import (
	"context"
	"fmt"
	"os"
	"time"

	"quorate.dev/quorate/internal/paths"
)

// Delete removes everything that belongs to the lab: processes, namespaces, links, cgroups, routes, and files.
// It also removes incomplete labs, and succeeds if the lab does not exist.
func (l *Lab) Delete(ctx context.Context) error { return DeleteByName(ctx, l.Name()) }

// DeleteByName is Delete for a lab that cannot be opened: everything is found by the name alone.
func DeleteByName(ctx context.Context, name string) error {
	if err := checkLabel("lab", name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := refuseForeign(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	err := vanish(ctx, name)
	if err == nil {
		err = os.RemoveAll(stateDir(name))
	}
	if err == nil {
		err = os.RemoveAll(runDir(name)) // last: it remembers the subnet
	}
	if err != nil {
		return fmt.Errorf("delete lab %s: %w; run `quorate lab --lab %s delete` again", name, err, name)
	}
	for _, dir := range []string{paths.State("labs"), paths.State()} {
		os.Remove(dir) // fails unless it is empty
	}
	return forgetHost(ctx)
}

// vanish removes everything of a lab that exists in the kernel. Files are kept, as after a power failure.
func vanish(ctx context.Context, name string) error {
	_, subnet := owner(name)
	l := &Lab{dir: stateDir(name)}
	if err := l.load(); err == nil {
		subnet = l.Subnet()
		for _, m := range l.rec.Machines { // links first: a machine that is dying must not send anything
			if err := l.linkDown(m); err != nil {
				return err
			}
		}
	}
	g, err := labGroup(name)
	if err != nil {
		return err
	}
	// Running processes need their network, so everything else is removed after all processes have ended.
	if err := g.kill(ctx); err != nil {
		return err
	}
	if err := g.remove(ctx); err != nil {
		return err
	}
	removeEmptyTop(g.hierarchies)
	return removeNetwork(name, subnet)
}
