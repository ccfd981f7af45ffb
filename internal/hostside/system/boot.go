package system

import (
	"strings"
)

// BootID identifies the start of this host. The kernel's own ID is the same for all machines that share a kernel, so the time at
// which process 1 began is a part of it.
func BootID() string {
	id := ReadTrimmed("/proc/sys/kernel/random/boot_id")
	stat := ReadTrimmed("/proc/1/stat")
	// The name of the program is in parentheses, and may contain anything.
	const startTime = 22 - 3 // fields are numbered from 1, and the third follows the name
	if f := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]); len(f) > startTime {
		id += "-" + f[startTime]
	}
	return id
}
