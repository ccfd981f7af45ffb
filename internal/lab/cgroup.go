package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchies are where this computer's cgroups are mounted: one with cgroup v2, one for each
// controller with v1. The lab's groups sit at their top, in quorate/<lab>/<machine>.
type hierarchies struct {
	v2    bool
	roots []string
}

func findHierarchies() (hierarchies, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return hierarchies{}, err
	}
	h := parseHierarchies(string(data))
	if len(h.roots) == 0 {
		return h, &Problem{What: "no cgroups are mounted under /sys/fs/cgroup", Why: "each lab machine runs in its own cgroup",
			Fix: "boot with systemd, or mount cgroup2 on /sys/fs/cgroup"}
	}
	return h, nil
}

// parseHierarchies reads a mount table. In a hybrid set-up the controllers are in v1; v2 is one more
// hierarchy, in its own directory.
func parseHierarchies(mounts string) hierarchies {
	var v1 []string
	v2 := false
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		switch {
		case f[2] == "cgroup2" && f[1] == "/sys/fs/cgroup":
			v2 = true
		case strings.HasPrefix(f[2], "cgroup") && strings.HasPrefix(f[1], "/sys/fs/cgroup/"):
			v1 = append(v1, f[1])
		}
	}
	if v2 {
		return hierarchies{v2: true, roots: []string{"/sys/fs/cgroup"}}
	}
	return hierarchies{roots: v1}
}

// group is one cgroup in every hierarchy.
type group struct {
	hierarchies
	path string
}

func labGroup(name string) (group, error) {
	h, err := findHierarchies()
	return group{h, filepath.Join("quorate", name)}, err
}

func (l *Lab) group(machine string) (group, error) {
	g, err := labGroup(l.Name())
	g.path = filepath.Join(g.path, machine)
	return g, err
}

func (g group) folders() []string {
	var out []string
	for _, root := range g.roots {
		out = append(out, filepath.Join(root, g.path))
	}
	return out
}

// tree lists a group's directory and those below it, parents first.
func tree(folder string) []string {
	var out []string
	filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			out = append(out, path)
		}
		return nil // a group that disappears in the meantime is not an error
	})
	return out
}

// processes lists everything that runs in the group or below it.
func (g group) processes() []int {
	var pids []int
	for _, folder := range g.folders() {
		for _, dir := range tree(folder) {
			data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for _, f := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// running is a cheap form of len(processes()) > 0: the first process of a machine stays in its top
// group (v1) or in its init.scope (v2).
func (g group) running() bool {
	for _, folder := range g.folders() {
		for _, dir := range []string{folder, filepath.Join(folder, "init.scope")} {
			if data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(data) > 0 {
				return true
			}
		}
	}
	return false
}

// kill kills everything in the group and waits until it is gone. Frozen processes are thawed after the signal, never before
// it.
func (g group) kill(ctx context.Context) error {
	for first := true; ; first = false {
		pids := g.processes()
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if first {
			g.thawAll()
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%d processes are still running after SIGKILL (first: %d): %w", len(pids), pids[0], err)
		}
	}
}

// thawAll lets everything in the group run, so that it can die. Version 2 needs no such help.
func (g group) thawAll() {
	file, _, thawed := g.freezer()
	if g.v2 || file == "" {
		return
	}
	for _, dir := range tree(filepath.Dir(file)) {
		os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(thawed), 0) // a group may disappear in the meantime
	}
}

// freezer is the file that freezes the whole group, and the values to write to it.
func (g group) freezer() (file, frozen, thawed string) {
	if g.v2 {
		return filepath.Join(g.roots[0], g.path, "cgroup.freeze"), "1", "0"
	}
	for _, root := range g.roots {
		if slices.Contains(strings.Split(filepath.Base(root), ","), "freezer") {
			return filepath.Join(root, g.path, "freezer.state"), "FROZEN", "THAWED"
		}
	}
	return "", "", ""
}

func (g group) frozen() bool {
	file, frozen, _ := g.freezer()
	data, _ := os.ReadFile(file)
	word := strings.TrimSpace(string(data))
	return word == frozen || word == "FREEZING"
}

// freeze suspends or resumes everything in the group, and waits until that has taken effect.
func (g group) freeze(ctx context.Context, freeze bool) error {
	file, frozen, thawed := g.freezer()
	if file == "" {
		return &Problem{What: "this kernel has no cgroup freezer", Why: "it is required to freeze a machine", Fix: "boot a kernel with CONFIG_CGROUP_FREEZER"}
	}
	word := thawed
	if freeze {
		word = frozen
	}
	for {
		if err := os.WriteFile(file, []byte(word), 0); err != nil {
			return fmt.Errorf("set %s to %s: %w", file, word, err)
		}
		if g.settled(file, word) {
			return nil
		}
		// Version 1 may stay at FREEZING while a process forks, so the value is written again.
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("wait for %s to become %s: %w", file, word, err)
		}
	}
}

func (g group) settled(file, word string) bool {
	if g.v2 {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cgroup.events"))
		return err != nil || strings.Contains(string(data), "frozen "+word)
	}
	data, err := os.ReadFile(file)
	return err != nil || strings.TrimSpace(string(data)) == word
}

// remove deletes the group and all below it; the kernel may need a moment after the last process.
func (g group) remove(ctx context.Context) error {
	for _, folder := range g.folders() {
		for {
			dirs := tree(folder)
			var busy error
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
					busy = fmt.Errorf("remove cgroup %s: %w", dir, err)
				}
			}
			if busy == nil {
				break
			}
			if pause(ctx, 5*time.Millisecond) != nil {
				return busy
			}
		}
	}
	return nil
}

// removeEmptyTop deletes the directory that all labs share after the last lab is gone.
func removeEmptyTop(h hierarchies) {
	for _, root := range h.roots {
		unix.Rmdir(filepath.Join(root, "quorate"))
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
