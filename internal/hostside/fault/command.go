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

// HostCommand describes a command of `quorate host`.
type HostCommand struct {
	Does string
	// Args is how many arguments it takes, and Any that it takes as many as there are.
	Args int
	Any  bool
}

// Fits is the error of a call with other arguments.
func (c HostCommand) Fits(name string, args []string) error {
	if !c.Any && len(args) != c.Args {
		return fmt.Errorf("%s takes %d arguments, and not %d", name, c.Args, len(args))
	}
	return nil
}

// Commands are the commands of `quorate host` that Command runs.
var Commands = map[string]HostCommand{
	commandHeal:   {Does: "Heal a fault that was injected into this host, or all", Any: true},
	commandCPU:    {Does: "Keep all processors busy"},
	commandMemory: {Does: "Take a percentage of the memory that is available", Args: 1},
	commandFill:   {Does: "Take all space of the file system of a directory", Args: 1},
}

// Command runs one of Commands. Loads last until ctx ends.
func Command(ctx context.Context, name string, args []string) error {
	if err := Commands[name].Fits(name, args); err != nil {
		return err
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
