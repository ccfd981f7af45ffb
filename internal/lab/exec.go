package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// Exec runs a command on a machine as root. It does not use the machine's network, so it also works on a
// machine that is cut. If the command exits with a non-zero status, the error wraps an *exec.ExitError.
func (l *Lab) Exec(ctx context.Context, machine string, argv []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if _, err := l.Machine(machine); err != nil {
		return err
	}
	if len(argv) == 0 {
		return errors.New("no command given")
	}
	state, err := l.state(machine)
	if err != nil {
		return err
	}
	if state != Running {
		return fmt.Errorf("run %s on %s: the machine is %s", argv[0], machine, state)
	}
	runc, err := tool("runc")
	if err != nil {
		return err
	}
	args := append([]string{"--root", l.runcRoot(), "exec", "--env", "HOME=/root", l.containerID(machine)}, argv...)
	cmd := exec.CommandContext(ctx, runc, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s on %s: %w", argv[0], machine, err)
	}
	return nil
}
