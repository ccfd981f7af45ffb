package bundle

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"quorate.dev/quorate/components"
)

func (w *workshop) compileC(ctx context.Context, c components.Component, dir workDir) ([]entry, error) {
	out := filepath.Join(dir.out(), filepath.FromSlash(c.C.Path))
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return nil, err
	}
	args := []string{"-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-o", out}
	for _, name := range slices.Sorted(maps.Keys(c.C.Define)) {
		args = append(args, "-D"+name+"="+c.C.Define[name])
	}
	run := command{what: "compile " + c.Name + " " + c.Version, dir: dir.src()}
	if _, err := run.output(ctx, compilerFor(w.arch), append(args, c.C.Source)...); err != nil {
		return nil, err
	}
	return []entry{{name: c.C.Path, mode: 0o755, source: out}}, nil
}
