// Package guide runs what `quorate plan --by-hand` prints, for the tests and the benchmark.
package guide

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// shown is how much of a script's output is printed when it fails.
const shown = 8000

// Run runs the script with bash. Its error contains the end of the script's output.
func Run(ctx context.Context, script []byte) error {
	f, err := os.CreateTemp("", "by-hand-*.sh")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(script)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "bash", f.Name())
	// Its own process group, so that an interrupt also ends background processes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if err := cmd.Run(); err != nil {
		said := printed.Bytes()
		return fmt.Errorf("what plan --by-hand prints: %w\n%s", err, said[max(0, len(said)-shown):])
	}
	return nil
}
