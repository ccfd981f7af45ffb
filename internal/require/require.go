// Package require installs the Debian packages that the caller's own machine needs.
package require

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/progress"
)

// Packages installs those of the Debian packages that are missing, or names the command that would.
func Packages(ctx context.Context, packages []string, sink progress.Sink) error {
	missing := missingPackages(ctx, packages)
	if len(missing) == 0 {
		return nil
	}
	command := "apt-get install --yes --no-install-recommends " + strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these Debian packages are missing and there is no apt-get here: %s; install what corresponds to them", strings.Join(missing, ", "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("these packages are missing: %s; as root, run: %s", strings.Join(missing, ", "), command)
	}
	return progress.Track(ctx, sink, "", "requirements", "install "+strings.Join(missing, ", "), func(ctx context.Context) error {
		// A machine that is new has no package lists, and one that is old has stale ones.
		for _, args := range [][]string{{"update", "--quiet"}, append([]string{"install", "--yes", "--no-install-recommends"}, missing...)} {
			cmd := exec.CommandContext(ctx, "apt-get", args...)
			cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
			if out, err := cmd.CombinedOutput(); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
				return fmt.Errorf("apt-get %s: %w: %s; put that right, or run yourself: %s", args[0], err, lines[len(lines)-1], command)
			}
		}
		return nil
	})
}

func missingPackages(ctx context.Context, packages []string) []string {
	out, err := exec.CommandContext(ctx, "dpkg-query", append([]string{"--show", "--showformat", "${Package} ${db:Status-Status}\n"}, packages...)...).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return packages // not Debian: whoever installs them decides
	}
	return slices.DeleteFunc(slices.Clone(packages), func(p string) bool {
		return slices.Contains(strings.Split(string(out), "\n"), p+" installed")
	})
}
