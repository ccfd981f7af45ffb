package components

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"quorate.dev/quorate/internal/hostside/system"
)

// Process is one start of a program.
type Process struct {
	PID   int
	start uint64 // in clock ticks since the machine started; tells processes with the same ID apart
}

// Only is the process of a static pod of the cluster on this host. There is none if several have its name: somebody runs another one. Without
// a manifest, it does not look: a build and a maintenance are long, and reading the process table again and again costs CPU time.
func Only(program string) (Process, bool) {
	if !system.Exists(filepath.Join(manifests, program+".yaml")) {
		return Process{}, false
	}
	found := findProcesses("/proc")[program]
	if len(found) != 1 {
		return Process{}, false
	}
	start, ok := system.StartTicks(statFile(found[0].pid))
	return Process{PID: found[0].pid, start: start}, ok
}

// Ended says that the process is known to have ended. One that is stopped by a signal has not, and what could not be read says nothing.
func (p Process) Ended() bool {
	stat, err := os.ReadFile(statFile(p.PID))
	return p.ended(string(stat), err)
}

func (p Process) ended(stat string, err error) bool {
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
	}
	state, start, ok := system.ParseStat(stat)
	return ok && (start != p.start || slices.Contains([]string{"Z", "X", "x"}, state)) // it ended, and its parent has not noticed yet
}

func statFile(pid int) string { return fmt.Sprintf("/proc/%d/stat", pid) }
