package backup

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// scratchName begins the names of temporary directories.
const scratchName = "quorate-verify-"

// scratchYoung is how old a directory must be that is taken for one of a process that was killed: another process may be about to lock its own.
const scratchYoung = time.Minute

// Scratch creates a temporary directory that only this user can read, for what is in a backup, and removes those of processes that were killed.
// remove removes it.
func Scratch() (dir string, remove func(), _ error) {
	sweepScratch(time.Now())
	dir, err := os.MkdirTemp("", scratchName)
	if err != nil {
		return "", nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		os.Remove(dir) //nolint:errcheck // it is empty, and the first error counts
		return "", nil, err
	}
	return dir, func() {
		os.RemoveAll(dir) //nolint:errcheck // the next one tries again
		lock.Close()
	}, nil
}

// lockDir locks a directory until the file is closed, or its process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "flock", Path: dir, Err: err}
	}
	return f, nil
}

func sweepScratch(now time.Time) {
	all, _ := filepath.Glob(filepath.Join(os.TempDir(), scratchName+"*")) //nolint:errcheck // the pattern is valid
	for _, dir := range all {
		info, err := os.Lstat(dir)
		if err != nil || now.Sub(info.ModTime()) < scratchYoung {
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || int(st.Uid) != os.Geteuid() {
			continue
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue // it is in use
		}
		os.RemoveAll(dir) //nolint:errcheck // the next one tries again
		lock.Close()
	}
}
