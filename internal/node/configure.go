// Package node holds what Quorate does on every host alike: it reads facts, brings files, kernel settings
// and systemd units to what is wanted, and installs bundles.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

// Configure brings a host to what is desired and reports which files it changed.
var Configure = host.Define("node.configure", configure)

func configure(ctx context.Context, d facts.Desired) ([]string, error) {
	var changed, restart []string
	for _, f := range d.Files {
		did, err := write(f)
		if err != nil {
			return changed, err
		}
		if did {
			changed = append(changed, f.Key())
			restart = append(restart, f.Restart...)
		}
	}
	if d.Self != "" {
		if err := linkSelf(d.Self); err != nil {
			return changed, err
		}
	}
	for _, m := range d.Modules {
		// A module that is built in has no file to load: what counts is whether the sysctls below exist.
		_ = exec.CommandContext(ctx, "modprobe", m).Run()
	}
	for key, value := range d.Sysctls {
		if err := setSysctl(key, value); err != nil {
			return changed, err
		}
	}
	if slices.ContainsFunc(changed, func(p string) bool { return strings.HasPrefix(p, "/etc/systemd/") }) {
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return changed, err
		}
	}
	slices.Sort(restart)
	restart = slices.Compact(restart)
	if len(d.Enable) > 0 {
		if err := systemctl(ctx, append([]string{"enable"}, d.Enable...)...); err != nil {
			return changed, err
		}
		start := slices.DeleteFunc(slices.Clone(d.Enable), func(u string) bool { return slices.Contains(restart, u) })
		if err := systemctl(ctx, append([]string{"start"}, start...)...); err != nil {
			return changed, err
		}
	}
	if len(restart) > 0 {
		if err := systemctl(ctx, append([]string{"restart"}, restart...)...); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func linkSelf(path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(self, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func setSysctl(key, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	have, err := os.ReadFile(path)
	if os.IsNotExist(err) && strings.HasPrefix(key, "net.bridge.") {
		// Without the br_netfilter module bridged packets bypass netfilter altogether, and there is nothing to set.
		return nil
	}
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	if strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return nil
}

func systemctl(ctx context.Context, args ...string) error {
	if len(args) == 1 && args[0] != "daemon-reload" {
		return nil
	}
	return Run(ctx, "systemctl", args...)
}

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

// Run runs a program and, when it fails, says what it printed last.
func Run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLines(out, 12))
}

func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func write(f facts.File) (changed bool, err error) {
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
	}
	have, err := os.ReadFile(f.Path)
	if err != nil && !os.IsNotExist(err) {
		return false, err
	}
	want := []byte(f.Content)
	if f.Block != "" {
		want = replaceBlock(have, f.Block, want)
	}
	if info, serr := os.Stat(f.Path); serr == nil && bytes.Equal(have, want) && info.Mode().Perm() == mode {
		return false, nil
	}
	if err := keep(f, have); err != nil {
		return false, err
	}
	return true, WriteFile(f.Path, want, mode)
}

// keep saves a file of somebody else's beside the one that takes its place.
func keep(f facts.File, have []byte) error {
	if !f.Keep || len(have) == 0 || bytes.Contains(have, []byte(writtenBy)) || exists(f.Path+facts.Kept) {
		return nil
	}
	return WriteFile(f.Path+facts.Kept, have, 0o600)
}

// WriteFile writes a whole file or nothing: a reader, or a power cut, never meets half of it.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".quorate-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // gone after the rename
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	err = os.Rename(tmp.Name(), path)
	if errors.Is(err, syscall.EBUSY) {
		// A file that is a mount point (a container's /etc/hosts) cannot be replaced, only rewritten.
		return os.WriteFile(path, data, mode)
	}
	return err
}

func blockMarks(name string) (begin, end []byte) {
	return []byte("# BEGIN quorate " + name + "\n"), []byte("# END quorate " + name + "\n")
}

func findBlock(file []byte, name string) (before, content, after []byte, ok bool) {
	begin, end := blockMarks(name)
	before, rest, ok := bytes.Cut(file, begin)
	if !ok {
		return file, nil, nil, false
	}
	content, after, ok = bytes.Cut(rest, end)
	return before, content, after, ok
}

func replaceBlock(file []byte, name string, content []byte) []byte {
	begin, end := blockMarks(name)
	before, _, after, _ := findBlock(file, name)
	if n := len(before); n > 0 && before[n-1] != '\n' {
		before = append(before, '\n')
	}
	return slices.Concat(before, begin, content, end, after)
}
