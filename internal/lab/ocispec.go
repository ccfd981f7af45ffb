package lab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// containerSpec makes runc start systemd as on a dedicated machine: nothing masked, nothing read-only, no seccomp, no limits,
// every device, every capability that the caller has.
func containerSpec(m Machine, root, varDir, netns, cgroup string, capabilities []string, extra []specs.Mount) *specs.Spec {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "nodev", "mode=1777"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "rw", "rshared"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "rw"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=755", "rshared"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777", "rshared"}},
		{Destination: "/var", Type: "bind", Source: varDir, Options: []string{"rbind", "rw", "rshared"}},
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: m.Name,
		Root:     &specs.Root{Path: root},
		Process: &specs.Process{
			Args: []string{"/sbin/init"},
			Cwd:  "/",
			Env:  []string{"container=quorate", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
		},
		Mounts: append(mounts, extra...),
		Linux: &specs.Linux{
			CgroupsPath:       cgroup,
			RootfsPropagation: "shared",
			Resources:         &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: netns},
			},
		},
	}
}

// writeSpec writes the bundle that runc starts a machine from.
func (l *Lab) writeSpec(m Machine) error {
	dir := l.machineDir(m.Name)
	var extra []specs.Mount
	for path, options := range map[string][]string{
		"/dev/kmsg":    {"bind", "rw"},
		"/dev/fuse":    {"bind", "rw"},
		"/lib/modules": {"bind", "ro"},
	} {
		if _, err := os.Stat(path); err == nil {
			extra = append(extra, specs.Mount{Destination: path, Type: "bind", Source: path, Options: options})
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	spec := containerSpec(m, filepath.Join(dir, "root"), filepath.Join(l.disk(m), "var"), netnsPath(l.machineNS(m.Name)),
		"/"+filepath.Join("quorate", l.Name(), m.Name), capabilities(string(status)), extra)
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bundle", "config.json"), data, 0o600)
}

// capabilities returns the capabilities of a process, from its /proc/PID/status: runc fails if asked for one that the caller
// lacks.
func capabilities(status string) []string {
	var mask uint64
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			mask, _ = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	var names []string
	for bit, name := range capabilityNames {
		if mask&(1<<bit) != 0 {
			names = append(names, "CAP_"+name)
		}
	}
	return names
}

// capabilityNames are in the order of the kernel's numbers.
var capabilityNames = [unix.CAP_LAST_CAP + 1]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}
