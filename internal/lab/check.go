package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/paths"
)

// Problem is a reason why this machine cannot run a lab, and what to do about it.
type Problem struct {
	What, Why, Fix string
	// Err is the cause, if there is one.
	Err error
}

func (p *Problem) Error() string {
	s := p.What
	if p.Err != nil {
		s += ": " + p.Err.Error()
	}
	return s + " (" + p.Why + "): " + p.Fix
}

func (p *Problem) Unwrap() error { return p.Err }

// Requirements are the Debian packages that a lab needs on this machine.
func Requirements() []string {
	return []string{"debian-archive-keyring", "mmdebstrap", "nftables", "runc"}
}

// tools are the programs that a lab calls, each with its Debian package.
var tools = map[string]string{"mmdebstrap": "mmdebstrap", "nft": "nftables", "runc": "runc"}

// tool finds a program. It also searches the sbin directories, which may not be in the PATH of an unprivileged user.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &Problem{What: "the program " + name + " is missing", Why: "labs require it", Fix: "run `apt-get install " + tools[name] + "`"}
}

const (
	minMemory = 2 << 30
	minDisk   = 2 << 30
)

// modules are those that the kernel does not load automatically when a machine needs them, or loads too late: br_netfilter
// would filter switches that were created before it.
var modules = []string{"overlay", "bridge", "veth", "br_netfilter", "nf_tables"}

// loadModules ignores errors: a kernel that has the modules built in has nothing to load.
func loadModules(ctx context.Context) {
	exec.CommandContext(ctx, "/sbin/modprobe", append([]string{"-q", "-a"}, modules...)...).Run()
}

// Check reports whether this machine can run a lab, and raises the kernel limits that several
// machines on one kernel would exceed. The error joins one *Problem for each obstacle.
func Check(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return &Problem{What: "not running as root", Why: "only root can create namespaces, links, and mounts", Fix: "run the command with sudo"}
	}
	loadModules(ctx)
	var errs []error
	for name := range tools {
		_, err := tool(name)
		errs = append(errs, err)
	}
	errs = append(errs, checkCgroups(), checkMemory(), CheckDisk(paths.State(), minDisk, "a lab needs"), checkLimits(ctx))
	return errors.Join(errs...)
}

func checkCgroups() error {
	h, err := findHierarchies()
	if err != nil {
		return err
	}
	for _, root := range h.roots {
		dir := filepath.Join(root, "quorate")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return &Problem{What: "cannot create cgroups in " + root, Err: err, Why: "each lab machine runs in its own cgroup",
				Fix: "run on a real or virtual machine, or in a container with a writable /sys/fs/cgroup (docker run --privileged --cgroupns=host)"}
		}
	}
	removeEmptyTop(h)
	return nil
}

func checkMemory() error {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kib, err := strconv.ParseUint(f[1], 10, 64)
		if err == nil && kib<<10 < minMemory {
			return &Problem{What: fmt.Sprintf("only %d MiB of memory are available", kib>>10), Why: fmt.Sprintf("a lab needs at least %d MiB", minMemory>>20),
				Fix: "stop other programs, or use a larger machine"}
		}
	}
	return nil
}

// CheckDisk checks the file system of a directory for the disks of machines, which need not exist yet. It wants that many bytes free;
// what needs them ends with a verb, such as "a lab needs". The error is a *Problem.
func CheckDisk(dir string, need uint64, what string) error {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if free := st.Bavail * uint64(st.Bsize); free < need {
		return &Problem{What: fmt.Sprintf("only %d MiB of disk space are free in %s", free>>20, dir), Why: fmt.Sprintf("%s at least %d MiB", what, need>>20),
			Fix: "free some disk space, or set QUORATE_STATE to a directory on a larger disk"}
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return &Problem{What: dir + " is on an overlay filesystem", Why: "the disks of lab machines are overlays, which cannot be stacked on another overlay",
			Fix: "set QUORATE_STATE to a directory on a disk (ext4, xfs, or btrfs)"}
	}
	return nil
}

func checkLimits(ctx context.Context) error {
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return raiseLimits()
}
