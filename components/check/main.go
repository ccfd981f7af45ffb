// Command check runs go vet and staticcheck on our own programs in components/programs, each in the module that a bundle
// compiles it in. Run it from the repository's root as `go run ./components/check [COMPONENT...]`.
//
// A component with several versions is checked with the modules of the newest one. Without arguments it leaves out the component with Kubernetes: checking it needs all of Kubernetes compiled, which takes
// minutes unless a bundle was built on this machine before.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/components/internal/inplace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, names []string) error {
	temp, err := os.MkdirTemp("", "check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	staticcheck, err := exec.CommandContext(ctx, "go", "tool", "-n", "staticcheck").Output()
	if err != nil {
		return fmt.Errorf("find staticcheck: %w", err)
	}
	checked := map[string]bool{}
	var failures []error
	releases := components.Releases()
	slices.Reverse(releases)
	for _, release := range releases {
		for _, c := range release.Components {
			wanted := slices.Contains(names, c.Name) || len(names) == 0 && c.Kubeadm == nil
			id := c.Name + " " + c.Version
			// The sources are the same for every version, and each bundle that is built compiles them with its own modules.
			if !c.Own() || !wanted || checked[c.Name] {
				continue
			}
			checked[c.Name] = true
			m, err := inplace.Open("components", temp, c)
			if err != nil {
				return err
			}
			for _, args := range [][]string{{"go", "vet", m.Tags, "./..."}, {strings.TrimSpace(string(staticcheck)), m.Tags, "./..."}} {
				cmd := exec.CommandContext(ctx, args[0], args[1:]...)
				cmd.Dir, cmd.Env = m.Dir, m.Env
				cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
				if err := cmd.Run(); err != nil {
					failures = append(failures, fmt.Errorf("%s: %s: %w", id, strings.Join(args, " "), err))
				}
			}
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(components.Releases(), func(r components.Release) bool { c, _ := r.Component(name); return c.Own() }) {
			failures = append(failures, fmt.Errorf("no component %s has programs of our own", name))
		}
	}
	return errors.Join(failures...)
}
