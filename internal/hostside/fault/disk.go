package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/hostside/etcd"
	"quorate.dev/quorate/internal/hostside/system"
)

// fileSystem is what is known about the file system of a directory.
type fileSystem struct {
	kind   int64  // the magic number of its type
	device uint64 // of the directory, as stat returns it
	free   int64  // bytes, for root
}

func fileSystemOf(path string) (fileSystem, error) {
	var st unix.Stat_t
	var sf unix.Statfs_t
	if err := errors.Join(unix.Stat(path, &st), unix.Statfs(path, &sf)); err != nil {
		return fileSystem{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileSystem{kind: int64(sf.Type), device: uint64(st.Dev), free: int64(sf.Bfree) * int64(sf.Bsize)}, nil
}

// dataDir is where a disk matters: the directory of the host's etcd member, or of everything else that the cluster writes.
func (h *machine) dataDir() string {
	if m := (etcd.Member{Root: h.root}); m.HasData() {
		return m.DataDir()
	}
	return h.at("/var/lib")
}

// filling fills a disk, for root as well: the programs of a cluster run as root, and a full disk that etcd can write to would be none.
//
// What fills it is a file without a name that a process holds. It is gone when the process ends, for whatever reason, and after a power
// cut the file system frees it when it is mounted.
type filling struct{ *machine }

// own are the types of file systems that belong to one host, and whose space can be taken without writing to it.
var own = map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs"}

// loopDevices is the major number of devices that are files of another file system.
const loopDevices = 7

func (f filling) look(_ context.Context, r *record) error {
	if r.Target != targetDisk {
		return fmt.Errorf("the fault %s: %q cannot be filled", r.ID, r.Target)
	}
	dir := f.dataDir()
	have, err := f.files(dir)
	if err != nil {
		return err
	}
	switch name, known := own[have.kind]; {
	case !known:
		return impossible("the file system of %s is neither ext4, xfs, nor btrfs (its type is %#x), so others may use it, too", dir, have.kind)
	case f.container() != "" && unix.Major(have.device) != loopDevices:
		// A container's directories are usually a part of a file system that other containers use.
		return impossible("this host is a container (%s), and the file system of %s is not its own: filling it would fill that of the computer below it", f.container(), dir)
	default:
		r.What = fmt.Sprintf("all %.1f GiB that are free on the file system of %s (%s) are taken", float64(have.free)/(1<<30), dir, name)
	}
	return nil
}

func (f filling) inject(ctx context.Context, r *record) error {
	return f.load(ctx, r, nil, commandFill, f.dataDir())
}

func (f filling) heal(ctx context.Context, r record) error { return f.unload(ctx, r) }

const (
	// largest and smallest are the pieces in which space is taken.
	largest  = 64 << 30
	smallest = 64 << 10
	// refillPace is how often space is taken that somebody has freed.
	refillPace = time.Second
)

// fillDisk takes all space of the file system of a directory until ctx ends.
func fillDisk(ctx context.Context, dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &fs.PathError{Op: "create a file without a name in", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var size int64
	tick := time.NewTicker(refillPace)
	defer tick.Stop()
	for first := true; ; first = false {
		for piece := int64(largest); piece >= smallest && ctx.Err() == nil; {
			switch err := unix.Fallocate(fd, 0, size, piece); {
			case err == nil:
				size += piece
			case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EFBIG), errors.Is(err, unix.EDQUOT):
				piece /= 2
			case !errors.Is(err, unix.EINTR):
				return fmt.Errorf("taking the space of %s: %w", dir, err)
			}
		}
		if first {
			system.Notify("READY=1")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// slowing limits how fast etcd can write: the kernel delays what it writes to its disk.
type slowing struct{ *machine }

func (s slowing) look(ctx context.Context, r *record) error {
	switch {
	case r.Target != targetDisk:
		return fmt.Errorf("the fault %s: %q cannot be slow", r.ID, r.Target)
	case r.BytesPerSecond < 4096:
		return fmt.Errorf("the fault %s: %d bytes a second: it must be 4096 or more", r.ID, r.BytesPerSecond)
	}
	all, err := s.processesOf(ctx, etcdTarget)
	if IsImpossible(err) {
		return impossible("only the disk of an etcd member can be made slow, and no member runs on this host")
	}
	if err != nil {
		return err
	}
	dir := s.dataDir()
	if r.Device, err = s.device(dir); err != nil {
		return err
	}
	group, err := s.group(all[0])
	if err != nil {
		return err
	}
	units, err := s.units(ctx, programs[etcdTarget].unit)
	if err != nil {
		return err
	}
	r.What = fmt.Sprintf("etcd writes at most %d KiB a second to %s (device %s)", r.BytesPerSecond>>10, dir, r.Device)
	if units[programs[etcdTarget].unit].PID == all[0].PID {
		r.Unit = programs[etcdTarget].unit
		return nil
	}
	r.Limit = filepath.Join(group, s.limitFile())
	text, err := os.ReadFile(r.Limit)
	if err != nil {
		return impossible("the writes of etcd cannot be limited here: %v", err)
	}
	if line := limitOf(string(text), r.Device); line != "" {
		return impossible("the writes of etcd are limited already (%s)", line)
	}
	return nil
}

func (s slowing) inject(ctx context.Context, r *record) error {
	if r.Unit == "" {
		return os.WriteFile(r.Limit, []byte(r.Device+" "+s.value(strconv.FormatInt(r.BytesPerSecond, 10))), 0)
	}
	// systemd makes the control group of the unit one of those in which writes can be limited, and says nothing if it cannot.
	if err := s.systemctl(ctx, "set-property", "--runtime", r.Unit, fmt.Sprintf("IOWriteBandwidthMax=%s %d", s.dataDir(), r.BytesPerSecond)); err != nil {
		return err
	}
	all, err := s.processesOf(ctx, etcdTarget)
	if err != nil {
		return err
	}
	group, err := s.group(all[0])
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(group, s.limitFile()))
	if err != nil || limitOf(string(text), r.Device) == "" {
		return impossible("systemd did not limit the writes of %s", r.Unit)
	}
	return nil
}

func (s slowing) heal(ctx context.Context, r record) error {
	if r.Unit != "" {
		return s.systemctl(ctx, "set-property", "--runtime", r.Unit, "IOWriteBandwidthMax=")
	}
	none := "0"
	if s.unified() {
		none = "max"
	}
	err := os.WriteFile(r.Limit, []byte(r.Device+" "+s.value(none)), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil // the container is gone, and the limit with it
	}
	return err
}

// unified says that the host has control groups of version 2 alone.
func (s slowing) unified() bool { return system.Exists(s.at("/sys/fs/cgroup/cgroup.controllers")) }

func (s slowing) limitFile() string {
	if s.unified() {
		return "io.max"
	}
	return "blkio.throttle.write_bps_device"
}

func (s slowing) value(bytesPerSecond string) string {
	if s.unified() {
		return "wbps=" + bytesPerSecond
	}
	return bytesPerSecond
}

// limitOf is the line of a file of limits that limits the writes to a device; empty if none does.
func limitOf(text, device string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		rest, is := strings.CutPrefix(line, device+" ")
		if is && rest != "0" && !strings.Contains(rest, "wbps=max") {
			return line
		}
	}
	return ""
}

// group is the directory of the control group in which the writes of a process are counted.
func (s slowing) group(p process) (string, error) {
	path, root := "", "/sys/fs/cgroup"
	for line := range strings.Lines(system.ReadTrimmed(s.at(fmt.Sprintf("/proc/%d/cgroup", p.PID)))) {
		// 7:blkio:/kubepods/… with version 1, and 0::/kubepods.slice/… with version 2
		number, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, at, _ := strings.Cut(rest, ":")
		switch {
		case s.unified() && number == "0" && controllers == "":
			path = at
		case !s.unified() && slices.Contains(strings.Split(controllers, ","), "blkio"):
			path, root = at, "/sys/fs/cgroup/blkio"
		}
	}
	if path == "" {
		return "", impossible("the kernel of this host does not count what programs write")
	}
	// In version 2, the limit of a pod holds for containers that the kubelet starts meanwhile, too; in version 1 it would hold for none.
	if parent := filepath.Dir(path); s.unified() && strings.Contains(filepath.Base(parent), "pod") && filepath.Base(parent) != "kubepods.slice" {
		path = parent
	}
	return s.at(filepath.Join(root, path)), nil
}

// device is the number of the disk that a directory is on, as major:minor. Limits are those of whole disks.
func (s slowing) device(dir string) (string, error) {
	have, err := s.files(dir)
	if err != nil {
		return "", err
	}
	number := have.device
	if unix.Major(number) == 0 { // btrfs has numbers of its own
		source := s.sourceOf(dir)
		var st unix.Stat_t
		if source == "" || unix.Stat(source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return "", impossible("the file system of %s is not on a disk of this host", dir)
		}
		number = uint64(st.Rdev)
	}
	name := fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number))
	at, err := filepath.EvalSymlinks(s.at("/sys/dev/block/" + name))
	if err != nil {
		return "", impossible("the disk of %s is unknown: %v", dir, err)
	}
	if system.Exists(filepath.Join(at, "partition")) {
		name = system.ReadTrimmed(filepath.Join(filepath.Dir(at), "dev"))
	}
	return name, nil
}

// sourceOf is what is mounted where a directory is.
func (s slowing) sourceOf(dir string) (source string) {
	best := -1
	for line := range strings.Lines(system.ReadTrimmed(s.at("/proc/self/mountinfo"))) {
		before, after, _ := strings.Cut(line, " - ")
		f, rest := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(rest) < 2 {
			continue
		}
		at := s.at(f[4])
		if within := at == "/" || dir == at || strings.HasPrefix(dir, at+"/"); within && len(at) >= best {
			best, source = len(at), rest[1]
		}
	}
	return source
}
