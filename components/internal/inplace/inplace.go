// Package inplace runs the go command on the programs in components/programs: each in its own module, in the folder where
// its sources are, so that messages name the files to edit.
package inplace

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"quorate.dev/quorate/components"
)

// Module is where and how to run a command in the module of one component.
type Module struct {
	Dir string
	Env []string
	// Tags is the argument that selects the component's build tags.
	Tags string
}

// Open prepares the module of a component that has programs of our own. root is the folder of the package components.
// The go command gets the pinned go.mod and go.sum through an overlay, which Open writes to the folder temp: the module
// cannot have them in its own folder. The settings are those of a bundle's build, so that both share what Go caches.
func Open(root, temp string, c components.Component) (Module, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return Module{}, err
	}
	dir := filepath.Join(root, c.ProgramDir())
	replace := map[string]string{}
	for name, pinned := range c.ModuleFiles() {
		replace[filepath.Join(dir, name)] = filepath.Join(root, pinned)
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return Module{}, err
	}
	overlay := filepath.Join(temp, c.Name+"-"+c.Version+".json")
	if err := os.WriteFile(overlay, raw, 0o600); err != nil {
		return Module{}, fmt.Errorf("write the overlay of %s: %w", c.Name, err)
	}
	cgo := "0"
	if c.Go.Cgo {
		cgo = "1"
	}
	return Module{
		Dir: dir,
		Env: append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local", "CGO_ENABLED="+cgo,
			"GOFLAGS=-mod=readonly -buildvcs=false -trimpath '-overlay="+overlay+"'"),
		Tags: "-tags=" + strings.Join(c.Go.Tags, ","),
	}, nil
}
