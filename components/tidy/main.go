// Command tidy brings the pinned modules in line with the releases' versions: run it from the repository's root as
// `go run ./components/tidy` after one was changed. It adds the files of versions that are new, and removes those that no
// release uses.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"quorate.dev/quorate/components"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tidy:", err)
		os.Exit(1)
	}
}

// root is the folder of the package components.
const root = "components"

func run(ctx context.Context) error {
	used := map[string]bool{}
	for _, c := range components.All() {
		pinned := c.ModuleFiles()
		if c.Go == nil || used[pinned["go.mod"]] {
			continue
		}
		for _, name := range pinned {
			used[name] = true
		}
		fmt.Println(c.Name, c.Version)
		if err := tidy(ctx, c); err != nil {
			return fmt.Errorf("%s %s: %w", c.Name, c.Version, err)
		}
	}
	return removeUnused(used)
}

func removeUnused(used map[string]bool) error {
	all, err := filepath.Glob(filepath.Join(root, "modules", "*", "*"))
	if err != nil {
		return err
	}
	for _, file := range all {
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		if !used[name] {
			fmt.Println("remove", file)
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// sources are a component's files. Modules that are pinned for another version of it only are where a new version starts.
func sources(c components.Component) (map[string][]byte, error) {
	files, err := c.FilesWithTests()
	if !errors.Is(err, fs.ErrNotExist) {
		return files, err
	}
	others, err := components.Pinned(c.Name)
	if err != nil {
		return nil, err
	}
	if len(others) == 0 {
		return nil, fmt.Errorf("no version has pinned modules: write components/modules/%s/%s.mod with its module and go lines, and an empty .sum", c.Name, c.Version)
	}
	c.Version = nearest(others, c.Version)
	return c.FilesWithTests()
}

// nearest is the last version before the wanted one, or the first of all.
func nearest(versions []string, wanted string) string {
	slices.SortFunc(versions, semver.Compare)
	i, _ := slices.BinarySearchFunc(versions, wanted, semver.Compare)
	return versions[max(i-1, 0)]
}

func tidy(ctx context.Context, c components.Component) error {
	files, err := sources(c)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "tidy-"+c.Name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := components.Write(work, files); err != nil {
		return err
	}

	mod, err := modfile.Parse("go.mod", files["go.mod"], nil)
	if err != nil {
		return err
	}
	edits := []string{"mod", "edit"}
	for _, m := range slices.Sorted(maps.Keys(c.Go.Require)) {
		edits = append(edits, "-require="+m+"@"+c.Go.Require[m])
	}
	if c.Go.Staging != "" {
		// The staging modules are those that the last release already replaced. A release that adds
		// one makes `go mod tidy` name it in its error: add the replace line by hand, once.
		for _, r := range mod.Replace {
			edits = append(edits, "-replace="+r.Old.Path+"="+r.New.Path+"@"+c.Go.Staging)
		}
	}
	for _, args := range [][]string{edits, {"mod", "tidy"}} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GOTOOLCHAIN=local")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %v: %w", args, err)
		}
	}
	for name, target := range c.ModuleFiles() {
		raw, err := os.ReadFile(filepath.Join(work, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, target), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}
