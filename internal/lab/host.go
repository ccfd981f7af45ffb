package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// runRoot holds state that does not survive a reboot, for the labs of all state directories.
const runRoot = "/run/quorate"

// sysctlsBefore stores this computer's own settings until the last lab is deleted.
var sysctlsBefore = filepath.Join(runRoot, ".sysctls")

// runDir holds runc's state, and the owner of a lab's names in the kernel.
func runDir(name string) string { return filepath.Join(runRoot, name) }

// lockHost guards what all labs on this computer share: subnets and sysctls.
func lockHost(ctx context.Context) (unlock func(), err error) {
	return lockRun(ctx, ".lock")
}

// lockCreate keeps two processes from creating the same lab: the second one waits, and then finds it created.
func lockCreate(ctx context.Context, name string) (unlock func(), err error) {
	return lockRun(ctx, ".create-"+name)
}

// lockRun takes a lock in runRoot. Unlocking removes its file, and the directory if it is then empty.
func lockRun(ctx context.Context, name string) (unlock func(), err error) {
	file := filepath.Join(runRoot, name)
	var release func()
	for release == nil {
		if err := os.MkdirAll(runRoot, 0o755); err != nil {
			return nil, err
		}
		release, err = lock(ctx, file)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // another process may remove the directory in the meantime
			return nil, err
		}
	}
	return func() {
		os.Remove(file)
		os.Remove(runRoot)
		release()
	}, nil
}

// forgetHost restores the settings of this machine after the last lab is deleted.
func forgetHost(ctx context.Context) error {
	unlock, err := lockHost(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(runRoot)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			return nil
		}
	}
	restoreSysctls()
	return os.RemoveAll(sysctlsBefore)
}
