package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CPUTime is the CPU time that the lab's machines have used since they were created.
func (l *Lab) CPUTime() (time.Duration, error) {
	g, err := labGroup(l.Name())
	if err != nil {
		return 0, err
	}
	if g.v2 {
		data, err := os.ReadFile(filepath.Join(g.roots[0], g.path, "cpu.stat"))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(data)) {
			if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
				usec, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				return time.Duration(usec) * time.Microsecond, err
			}
		}
		return 0, fmt.Errorf("cpu.stat of lab %s has no usage_usec", l.Name())
	}
	for _, root := range g.roots {
		if slices.Contains(strings.Split(filepath.Base(root), ","), "cpuacct") {
			data, err := os.ReadFile(filepath.Join(root, g.path, "cpuacct.usage"))
			if err != nil {
				return 0, err
			}
			nsec, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
			return time.Duration(nsec), err
		}
	}
	return 0, fmt.Errorf("no cgroup controller on this machine accounts for CPU time")
}

// CallerSent is how many bytes this computer has sent into the lab since the lab was created, including everything that goes
// over its cable.
func (l *Lab) CallerSent() (int64, error) {
	raw, err := os.ReadFile(filepath.Join("/sys/class/net", callerLink(l.Subnet()), "statistics", "tx_bytes"))
	if err != nil {
		return 0, fmt.Errorf("lab %s: %w", l.Name(), err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}
