// Package require installs the Debian packages that the caller's machine needs.
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

// Packages installs the missing Debian packages. If it cannot, the error names the command that would.
func Packages(ctx context.Context, packages []string, sink progress.Sink) error {
	missing := missingPackages(ctx, packages)
	if len(missing) == 0 {
		return nil
	}
	command := "apt-get install --yes --no-install-recommends " + strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing Debian packages, and no apt-get on this machine: %s; install their equivalents", strings.Join(missing, ", "))
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("missing packages: %s; run as root: %s", strings.Join(missing, ", "), command)
	}
	return progress.Track(ctx, sink, "", "requirements", "install "+strings.Join(missing, ", "), func(ctx context.Context) error {
		// The package lists may be missing on a new machine and stale on an old one.
		for _, args := range [][]string{{"update", "--quiet"}, append([]string{"install", "--yes", "--no-install-recommends"}, missing...)} {
			cmd := exec.CommandContext(ctx, "apt-get", args...)
			cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
			if out, err := cmd.CombinedOutput(); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
				return fmt.Errorf("apt-get %s: %w: %s; fix the cause and try again, or run: %s", args[0], err, lines[len(lines)-1], command)
			}
		}
		return nil
	})
}

func missingPackages(ctx context.Context, packages []string) []string {
	out, err := exec.CommandContext(ctx, "dpkg-query", append([]string{"--show", "--showformat", "${Package} ${db:Status-Status}\n"}, packages...)...).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return packages // not Debian
	}
	return slices.DeleteFunc(slices.Clone(packages), func(p string) bool {
		return slices.Contains(strings.Split(string(out), "\n"), p+" installed")
	})
}
