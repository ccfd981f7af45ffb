// Command tidy brings the embedded modules in line with the releases' tables: run it from the
// repository's root as `go run ./components/tidy` after a version was changed there.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"

	"golang.org/x/mod/modfile"

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

func run(ctx context.Context) error {
	for _, release := range components.Releases() {
		for _, c := range release.Components {
			if c.Go == nil {
				continue
			}
			fmt.Println(release.Kubernetes, c.Name)
			if err := tidy(ctx, release, c); err != nil {
				return fmt.Errorf("%s of Kubernetes %s: %w", c.Name, release.Kubernetes, err)
			}
		}
	}
	return nil
}

func tidy(ctx context.Context, release components.Release, c components.Component) error {
	files, err := release.FilesWithTests(c.Name)
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
	for _, name := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(work, name))
		if err != nil {
			return err
		}
		target := filepath.Join("components", release.SourceDir(c.Name), components.EmbedName(name))
		if err := os.WriteFile(target, raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}
