package system

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Memory is content for a program that reads a file, but that must not be on a disk or in a directory. It disappears when the
// program and this process end, however they end. As one of Command.Inputs it is at the path Input(n) of the program.
func Memory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("a file in memory: %w", err)
	}
	return f, nil
}

// Input is the path at which a program finds its n-th input, counted from 0: see Command.Inputs.
func Input(n int) string { return fmt.Sprintf("/proc/self/fd/%d", 3+n) }
