package fault

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// Commands of `quorate host` that the units of faults run.
const (
	commandHeal   = "heal-fault"
	commandCPU    = "press-cpu"
	commandMemory = "press-memory"
	commandFill   = "fill-disk"
)

// Commands are the commands of `quorate host` that Command runs, each with what it does.
var Commands = map[string]string{
	commandHeal:   "Heal a fault that was injected into this host, or all",
	commandCPU:    "Keep all processors busy",
	commandMemory: "Take a percentage of the memory that is available",
	commandFill:   "Take all space of the file system of a directory",
}

// Command runs one of Commands. Loads last until ctx ends.
func Command(ctx context.Context, name string, args []string) error {
	wanted := map[string]int{commandMemory: 1, commandFill: 1}
	if n := len(args); name != commandHeal && n != wanted[name] {
		return fmt.Errorf("%s takes %d arguments, and not %d", name, wanted[name], n)
	}
	switch name {
	case commandHeal:
		if slices.Contains(args, "") {
			return fmt.Errorf("%s: an ID is empty", name)
		}
		return Expire(ctx, args...)
	case commandCPU:
		return pressCPU(ctx)
	case commandMemory:
		percent, err := strconv.Atoi(args[0])
		if err != nil || percent < 1 || percent > 100 {
			return fmt.Errorf("%s: %q is no percentage", name, args[0])
		}
		return pressMemory(ctx, percent)
	case commandFill:
		return fillDisk(ctx, args[0])
	}
	return fmt.Errorf("%q is no command of faults", name)
}
