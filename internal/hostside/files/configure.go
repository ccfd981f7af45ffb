// Package files brings a host's files, kernel settings, and systemd units to the desired state.
package files

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/found"
	"quorate.dev/quorate/internal/hostside/system"
)

// Configure brings a host to what is desired and reports which files it changed. It neither restarts nor starts anything: it
// fails, before it writes, if a file that differs would restart a unit that runs.
var Configure = host.Define("node.configure", func(ctx context.Context, d facts.Desired) ([]string, error) {
	if err := restartsNothing(ctx, d); err != nil {
		return nil, err
	}
	return configure(ctx, d, false)
})

// Reconfigure is Configure that also starts and restarts units.
var Reconfigure = host.DefineChange("node.reconfigure", func(ctx context.Context, d facts.Desired) ([]string, error) {
	return configure(ctx, d, true)
})

// noteFound remembers how the host was; a variable for tests.
var noteFound = found.Local.NoteDesired

// restartsNothing fails if a file that differs would restart a unit that runs.
func restartsNothing(ctx context.Context, d facts.Desired) error {
	for _, f := range d.Files {
		if len(f.Restart)+len(f.Reload) == 0 || same(f) {
			continue
		}
		units, err := system.Units(ctx, slices.Concat(f.Restart, f.Reload)...)
		if err != nil {
			return err
		}
		for unit, u := range units {
			if u.Active == "active" || u.Active == "activating" {
				return fmt.Errorf("%s has changed since the plan was made, and %s would restart: run it again", f.Path, unit)
			}
		}
	}
	return nil
}

func configure(ctx context.Context, d facts.Desired, permitted bool) ([]string, error) {
	var changed []string
	owed, err := readPending()
	if err != nil {
		return nil, err
	}
	if err := noteFound(ctx, d); err != nil {
		return nil, err
	}
	if err := restoreSysctls(d); err != nil {
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
		if did != nothing {
			changed = append(changed, f.Key())
		}
		return err
	})
	if err != nil {
		return changed, err
	}
	for _, path := range d.Absent {
		if err := removeFile(path); err != nil {
			return changed, err
		}
		changed = append(changed, path)
	}
	if d.EtcdGuard {
		if err := etcd.Local.Guard(); err != nil {
			return changed, fmt.Errorf("guarding etcd's data: %w", err)
		}
	}
	if d.Self != "" {
		if err := CopySelf(d.Self); err != nil {
			return changed, err
		}
	}
	for _, m := range d.Modules {
		// A module that is built in has no file to load: what counts is whether the sysctls below exist.
		_ = system.Run(ctx, "modprobe", m)
	}
	for _, key := range facts.InOrder(d.Sysctls) {
		if err := setSysctl(key, d.Sysctls[key]); err != nil {
			return changed, err
		}
	}
	return changed, load(ctx, d, owed, permitted, slices.ContainsFunc(changed, func(p string) bool { return strings.HasPrefix(p, "/etc/systemd/") }))
}

// load starts the units of d, and has those that run load their present files. Without a permit it does neither: then none of
// the units whose files changed runs.
func load(ctx context.Context, d facts.Desired, owed pending, permitted, unitsChanged bool) error {
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
		if permitted {
			if err := systemctl(ctx, append([]string{"start"}, start...)...); err != nil {
				return err
			}
		}
	}
	if !permitted {
		return owed.without(due)
	}
	for _, verb := range []string{restart, reload} {
		if err := systemctl(ctx, append([]string{verb}, due.units(verb)...)...); err != nil {
			return err
		}
	}
	if len(due) == 0 {
		return nil
	}
	return owed.without(due)
}

func setSysctl(key, value string) error {
	path := facts.SysctlFile(key)
	have, err := os.ReadFile(path)
	if os.IsNotExist(err) && strings.HasPrefix(key, "net.bridge.") {
		// Without the br_netfilter module bridged packets bypass netfilter altogether, and there is nothing to set.
		return nil
	}
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	if slices.Equal(strings.Fields(string(have)), strings.Fields(value)) {
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
	// It is not interrupted, because for several units it is several systemd jobs.
	return system.Systemctl(ctx, args...)
}

// WrittenBy is the first line of every load balancer file that Quorate wrote.
const WrittenBy = "# Written by quorate for the cluster "

// What write did to a file. A new mode or owner is no reason to restart a program that has read the file.
const (
	nothing = iota
	access
	content
)

func write(f facts.File) (did int, err error) {
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
	}
	have, err := os.ReadFile(f.Path)
	if err != nil && !os.IsNotExist(err) {
		return nothing, err
	}
	info, statErr := os.Stat(f.Path)
	want := []byte(f.Content)
	if f.Block != "" {
		want = replaceBlock(have, f.Block, want)
		if statErr == nil { // the file belongs to others
			mode = info.Mode().Perm()
		}
	}
	if statErr == nil && bytes.Equal(have, want) {
		return correctAccess(f, info, mode)
	}
	if err := keep(f, have); err != nil {
		return nothing, err
	}
	if f.Block != "" {
		return content, durable.Update(f.Path, want, mode)
	}
	return content, durable.WriteFile(f.Path, want, mode)
}

// correctAccess gives a file the mode and the owner that it would get if it were written now.
func correctAccess(f facts.File, info fs.FileInfo, mode fs.FileMode) (did int, err error) {
	if f.Block != "" {
		return nothing, nil
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := os.Chown(f.Path, os.Geteuid(), os.Getegid()); err != nil {
			return nothing, err
		}
		did = access
	}
	if info.Mode().Perm() != mode {
		if err := os.Chmod(f.Path, mode); err != nil {
			return did, err
		}
		did = access
	}
	return did, nil
}

// keep saves a file that Quorate did not write next to its replacement.
func keep(f facts.File, have []byte) error {
	if !f.Keep || len(have) == 0 || bytes.Contains(have, []byte(WrittenBy)) || system.Exists(f.Path+facts.KeptSuffix) {
		return nil
	}
	return durable.WriteFile(f.Path+facts.KeptSuffix, have, 0o600)
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

// SetBlock replaces a block in a file that exists; no content removes it. The rest of the file, its mode, and its owner stay.
func SetBlock(path, block, content string) error {
	have, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	want := replaceBlock(have, block, []byte(content))
	if content == "" {
		before, _, after, _ := findBlock(have, block)
		want = slices.Concat(before, after)
	}
	if bytes.Equal(have, want) {
		return nil
	}
	return durable.Update(path, want, info.Mode().Perm())
}

// Sum is the digest of a file, or of a block in one, by the key of facts.File. The error is fs.ErrNotExist if there is no
// such file or block.
func Sum(key string) (string, error) {
	path, block, isBlock := strings.Cut(key, "#")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if isBlock {
		_, content, _, ok := findBlock(data, block)
		if !ok {
			return "", fmt.Errorf("the block %q of %s: %w", block, path, fs.ErrNotExist)
		}
		data = content
	}
	return facts.Sum(data), nil
}
