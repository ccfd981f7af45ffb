package system

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// UnitRuns is the time since a unit last became active; 0 if it never did.
func UnitRuns(ctx context.Context, unit string) (time.Duration, error) {
	out, err := Output(ctx, "systemctl", "show", "--value", "--property=ActiveEnterTimestampMonotonic", unit)
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

// Unit is what systemd knows about a unit.
type Unit struct {
	Exists  bool   // systemd found a file for it
	Active  string // ActiveState: active, inactive, failed, activating, ...
	Sub     string // SubState: running, waiting, auto-restart, ...
	Enabled string // UnitFileState: enabled, disabled, static, masked, ...; empty when it does not exist
	Result  string // how its last run ended: success, exit-code, timeout, ...; empty for units that are no programs
	PID     int    // of its main process, 0 for none
	// Restarts is how often systemd has restarted it in a row because it failed.
	Restarts int
	// Skipped says that the unit was not started the last time because one of its conditions was not met.
	Skipped bool
	// Status is what its program says of itself (see Notify), without what a terminal would take for a command: not every program is trusted.
	Status string
}

// Units queries systemd for units, by name. Every requested unit has an entry if there is no error.
func Units(ctx context.Context, units ...string) (map[string]Unit, error) {
	out := map[string]Unit{}
	if len(units) == 0 {
		return out, nil
	}
	const properties = "--property=LoadState,ActiveState,SubState,UnitFileState,Result,MainPID,NRestarts,ConditionResult,ConditionTimestampMonotonic,StatusText"
	text, err := Output(ctx, "systemctl", append([]string{"show", properties}, units...)...)
	if err != nil {
		return nil, fmt.Errorf("asking systemd for units: %w", err)
	}
	// The answers are in the order of the names, separated by empty lines.
	blocks := strings.Split(strings.TrimSpace(string(text)), "\n\n")
	if len(blocks) != len(units) {
		return nil, fmt.Errorf("asking systemd for units: %d answers to %d questions", len(blocks), len(units))
	}
	for i, block := range blocks {
		out[units[i]] = parseUnit(block)
	}
	return out, nil
}

func parseUnit(properties string) Unit {
	var u Unit
	unmet, tried := false, false
	for line := range strings.Lines(properties) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadState":
			u.Exists = value != "not-found"
		case "ActiveState":
			u.Active = value
		case "SubState":
			u.Sub = value
		case "UnitFileState":
			u.Enabled = value
		case "Result":
			u.Result = value
		case "MainPID":
			u.PID, _ = strconv.Atoi(value)
		case "NRestarts":
			u.Restarts, _ = strconv.Atoi(value)
		case "StatusText":
			u.Status = printable(value)
		case "ConditionResult":
			unmet = value == "no"
		case "ConditionTimestampMonotonic":
			tried = value != "" && value != "0"
		}
	}
	u.Skipped = unmet && tried // a unit that was never started has no result, either
	return u
}

// longestStatus is how much of a status is read.
const longestStatus = 1000

func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if runes := []rune(text); len(runes) > longestStatus {
		text = string(runes[:longestStatus])
	}
	return text
}

// Systemctl runs systemctl to its end, also if ctx ends before: what it does is done by systemd.
func Systemctl(ctx context.Context, args ...string) error {
	return Command{Name: "systemctl", Args: args, Finish: true}.Run(ctx)
}
