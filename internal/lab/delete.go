package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"quorate.dev/quorate/internal/paths"
)

// Delete removes every trace of the lab: processes, namespaces, links, cgroups, routes and files.
// It works on labs that are half made or half deleted, and on none at all.
func (l *Lab) Delete(ctx context.Context) error { return DeleteByName(ctx, l.Name()) }

// DeleteByName is Delete for a lab that cannot be opened: everything is found by the name alone.
func DeleteByName(ctx context.Context, name string) error {
	if err := checkLabel("lab", name); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := refuseForeign(name); err != nil {
		return fmt.Errorf("delete lab %s: it belongs to another state folder: %w", name, err)
	}
	_, subnet := owner(name)
	l := &Lab{dir: stateDir(name)}
	if err := l.load(); err == nil {
		// Links first: a machine that dies in the middle of this must not talk any more.
		for _, m := range l.rec.Machines {
			l.linkDown(m)
		}
		subnet = l.Subnet()
	}
	g, err := labGroup(name)
	if err == nil {
		if err = g.kill(ctx); err == nil {
			err = g.remove(ctx)
		}
		removeEmptyTop(g.hierarchies)
	}
	if err != nil {
		// What still runs needs its network namespaces and its files: stop here, to be run again.
		return fmt.Errorf("delete lab %s: %w: run `quorate lab delete %s` again", name, err, name)
	}
	err = errors.Join(
		removeNetwork(ctx, name, subnet),
		os.RemoveAll(stateDir(name)),
	)
	if err == nil {
		err = os.RemoveAll(runDir(name)) // last: it remembers the subnet
	}
	if err != nil {
		return fmt.Errorf("delete lab %s: %w: run `quorate lab delete %s` again", name, err, name)
	}
	for _, dir := range []string{paths.State("labs"), paths.State(), filepath.Dir(runDir(name))} {
		os.Remove(dir) // goes when it is empty
	}
	return nil
}
