package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
)

// pendingFile records the units that must load files which Configure is replacing. It exists from before the first file
// is replaced until the last unit has loaded its own: if Configure is killed in between, the next one finishes the work,
// although the files no longer differ.
var pendingFile = "/var/lib/quorate/pending-units"

// pending says what each unit must do, as a verb of systemctl.
type pending map[string]string

const (
	restart = "restart"
	reload  = "reload-or-restart" // a unit that does not run is started
)

// need adds the units of a file. To restart a unit is also to reload it.
func (p pending) need(f facts.File) {
	for _, unit := range f.Reload {
		if p[unit] == "" {
			p[unit] = reload
		}
	}
	for _, unit := range f.Restart {
		p[unit] = restart
	}
}

// units returns the units that need the verb.
func (p pending) units(verb string) []string {
	var out []string
	for _, unit := range slices.Sorted(maps.Keys(p)) {
		if p[unit] == verb {
			out = append(out, unit)
		}
	}
	return out
}

// without saves what remains after some units have loaded their files.
func (p pending) without(done pending) error {
	if len(done) == 0 {
		return nil
	}
	for unit := range done {
		delete(p, unit)
	}
	return p.save()
}

func readPending() (pending, error) {
	p := pending{}
	data, err := os.ReadFile(pendingFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return nil, fmt.Errorf("reading which units must be restarted: %w; remove %s and restart the units of this host", err, pendingFile)
	}
	return p, nil
}

func (p pending) save() error {
	if len(p) == 0 {
		if err := os.Remove(pendingFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return durable.WriteFile(pendingFile, data, 0o600)
}

// Pending are the units that may run with an older configuration than their files contain, because a Configure ended
// early.
func Pending() ([]string, error) {
	p, err := readPending()
	return slices.Sorted(maps.Keys(p)), err
}
