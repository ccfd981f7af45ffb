package components

import (
	"fmt"

	"quorate.dev/quorate/internal/hostside/system"
)

// Process is one start of a program.
type Process struct {
	PID   int
	start uint64 // in clock ticks since the machine started; tells processes with the same ID apart
}

// Only is the process of a program of the cluster on this host. There is none if several have its name: somebody runs another one.
func Only(program string) (Process, bool) {
	found := findProcesses("/proc")[program]
	if len(found) != 1 {
		return Process{}, false
	}
	start, ok := system.StartTicks(fmt.Sprintf("/proc/%d/stat", found[0].pid))
	return Process{PID: found[0].pid, start: start}, ok
}

// Runs says that the process has not ended. One that is stopped by a signal has not.
func (p Process) Runs() bool {
	dir := fmt.Sprintf("/proc/%d", p.PID)
	start, ok := system.StartTicks(dir + "/stat")
	return ok && start == p.start && arguments(dir) != nil // what has ended and was not collected yet has no arguments
}
