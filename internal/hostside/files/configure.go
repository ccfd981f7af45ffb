// Package files brings a host's files, kernel settings, and systemd units to what is wanted.
package files

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
)

// Configure brings a host to what is desired and reports which files it changed.
var Configure = host.Define("node.configure", configure)

func configure(ctx context.Context, d facts.Desired) ([]string, error) {
	var changed []string
	owed, err := readPending()
	if err != nil {
		return nil, err
	}
	err = checked(ctx, d.Files, func(f facts.File) error {
		if len(f.Restart)+len(f.Reload) > 0 && !same(f) {
			owed.need(f)
			if err := owed.save(); err != nil {
				return err
			}
		}
		did, err := write(f)
		if did {
			changed = append(changed, f.Key())
		}
		return err
	})
	if err != nil {
		return changed, err
	}
	if d.Self != "" {
		if err := copySelf(d.Self); err != nil {
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
	return changed, load(ctx, d, owed, slices.ContainsFunc(changed, func(p string) bool { return strings.HasPrefix(p, "/etc/systemd/") }))
}

// load lets the units of d run, and with their present files.
func load(ctx context.Context, d facts.Desired, owed pending, unitsChanged bool) error {
	due := pending{}
	for _, f := range d.Files {
		for _, unit := range slices.Concat(f.Restart, f.Reload) {
			if verb := owed[unit]; verb != "" {
				due[unit] = verb
			}
		}
	}
	if unitsChanged || len(due) > 0 {
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	if len(d.Enable) > 0 {
		if err := systemctl(ctx, append([]string{"enable"}, d.Enable...)...); err != nil {
			return err
		}
		start := slices.DeleteFunc(slices.Clone(d.Enable), func(u string) bool { return due[u] != "" })
		if err := systemctl(ctx, append([]string{"start"}, start...)...); err != nil {
			return err
		}
	}
	for _, verb := range []string{restart, reload} {
		if err := systemctl(ctx, append([]string{verb}, due.units(verb)...)...); err != nil {
			return err
		}
	}
	if len(due) == 0 {
		return nil
	}
	for unit := range due {
		delete(owed, unit)
	}
	return owed.save()
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
	return system.Run(ctx, "systemctl", args...)
}

// WrittenBy begins every file for balancers that is Quorate's own.
const WrittenBy = "# Written by quorate for the cluster "

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
	return true, system.WriteFile(f.Path, want, mode)
}

// keep saves a file of somebody else's beside the one that takes its place.
func keep(f facts.File, have []byte) error {
	if !f.Keep || len(have) == 0 || bytes.Contains(have, []byte(WrittenBy)) || system.Exists(f.Path+facts.Kept) {
		return nil
	}
	return system.WriteFile(f.Path+facts.Kept, have, 0o600)
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

// Sum is the digest of a file, or of a block in one, by the key of facts.File; false if it is not there.
func Sum(key string) (string, bool) {
	path, block, isBlock := strings.Cut(key, "#")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	if isBlock {
		_, content, _, ok := findBlock(data, block)
		if !ok {
			return "", false
		}
		data = content
	}
	return facts.Sum(data), true
}
