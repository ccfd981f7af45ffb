package system

import "os"

// Replaced says that the program that runs was started from this path, and that another one is there now.
func Replaced(path string) bool {
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	target, err := os.Readlink("/proc/self/exe")
	if err != nil || target != path+" (deleted)" {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && !os.SameFile(running, now)
}
