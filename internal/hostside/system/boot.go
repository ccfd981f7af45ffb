package system

import (
	"bytes"
	"strconv"
	"strings"
)

// BootID identifies the start of this host. The kernel's own ID is the same for all machines that share a kernel, so the time at
// which process 1 began is a part of it.
func BootID() string {
	id := ReadTrimmed("/proc/sys/kernel/random/boot_id")
	if ticks, ok := StartTicks("/proc/1/stat"); ok {
		id += "-" + strconv.FormatUint(ticks, 10)
	}
	return id
}

// StartTicks is when a process began, in clock ticks since the kernel did, from its file stat in /proc.
func StartTicks(path string) (uint64, bool) {
	_, ticks, ok := ParseStat(ReadTrimmed(path))
	return ticks, ok
}

// ParseStat is the state of a process, as one letter, and when it began (see StartTicks), from the content of its file stat.
func ParseStat(stat string) (state string, ticks uint64, ok bool) {
	// The name of the program is in parentheses, and may contain anything.
	const startTime = 22 - 3 // fields are numbered from 1, and the third follows the name
	f := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(f) <= startTime {
		return "", 0, false
	}
	ticks, err := strconv.ParseUint(f[startTime], 10, 64)
	return f[0], ticks, err == nil
}

// Container is the kind of container that this host is, as its own systemd found it; empty if it is none.
func Container() string {
	if kind := ReadTrimmed("/run/systemd/container"); kind != "" {
		return kind
	}
	for _, variable := range bytes.Split(ReadAll("/proc/1/environ"), []byte{0}) {
		if kind, ok := bytes.CutPrefix(variable, []byte("container=")); ok {
			return string(kind)
		}
	}
	return ""
}
