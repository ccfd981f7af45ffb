package reset

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

	"quorate.dev/quorate/internal/flags"
	"quorate.dev/quorate/internal/hostside/system"
)

// killPatience is how long processes may take to end after they were killed: one that waits for a disk does not end before.
const killPatience = 15 * time.Second

// killContainers kills what is left of pods: shims of containerd in the namespace of Kubernetes, and processes in the control
// groups of pods. Processes of a container that runs pods of its own (a kind cluster, a lab) are none of this host's.
func killContainers(ctx context.Context) error {
	deadline := time.Now().Add(killPatience)
	for {
		left, err := leftContainers()
		if err != nil || len(left) == 0 {
			return err
		}
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL) //nolint:errcheck // it may have ended
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the processes %v do not end although they were killed: they wait for a disk or for the network", left)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func leftContainers() ([]int, error) { return containerProcesses("/proc") }

func containerProcesses(proc string) (out []int, err error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	own, err := os.Readlink(filepath.Join(proc, "self/ns/mnt"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		if state := system.ReadTrimmed(filepath.Join(dir, "stat")); strings.Contains(state, ") Z ") {
			continue
		}
		if inPod(system.ReadTrimmed(filepath.Join(dir, "cgroup"))) {
			out = append(out, pid)
			continue
		}
		args := strings.Split(string(system.ReadAll(filepath.Join(dir, "cmdline"))), "\x00")
		shim := strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && flags.Parse(args[1:])["namespace"] == "k8s.io"
		if ns, err := os.Readlink(filepath.Join(dir, "ns/mnt")); shim && err == nil && ns == own {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out, nil
}

// inPod says that a process is in the control group of a pod of this host: it is directly below the root, or below the group of
// containerd.
func inPod(cgroup string) bool {
	for line := range strings.Lines(cgroup) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		path := fields[2]
		if strings.HasPrefix(path, "/kubepods.slice/") || strings.HasPrefix(path, "/kubepods/") ||
			strings.HasPrefix(path, "/system.slice/containerd.service/") && strings.Contains(path, "kubepods") {
			return true
		}
	}
	return false
}

// mountPoints are those of this process, in the order in which they were mounted.
func mountPoints() (out []string, err error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			out = append(out, unescape(fields[4]))
		}
	}
	return out, nil
}

// unescape replaces the octal escapes of /proc/self/mountinfo.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

// unmount takes a mount away. One that is busy, or whose server does not answer, is detached: nobody finds it any more.
func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err == unix.EINVAL || err == unix.ENOENT { // it is gone already
		return nil
	}
	return err
}
