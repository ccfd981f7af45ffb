package system

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// UnitRuns is the time since a unit became active last, 0 if it never was.
func UnitRuns(ctx context.Context, unit string) (time.Duration, error) {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic", unit).Output()
	if err != nil {
		return 0, fmt.Errorf("asking systemd for %s: %w", unit, err)
	}
	since, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil || since == 0 {
		return 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()) - time.Duration(since)*time.Microsecond, nil
}

// UnitStates asks systemd for the ActiveState of units; it leaves out those that systemd did not answer for.
func UnitStates(ctx context.Context, units []string) map[string]string {
	states := map[string]string{}
	if len(units) == 0 {
		return states
	}
	// is-active exits non-zero when any unit is not active; its output is what counts.
	out, err := exec.CommandContext(ctx, "systemctl", append([]string{"is-active"}, units...)...).Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return states
	}
	for i, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		if i < len(units) {
			states[units[i]] = line
		}
	}
	return states
}
