package inspect

import (
	"errors"
	"path/filepath"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
)

// written are the directories that Quorate writes to, and whether the host runs programs there.
var written = []struct {
	dir  string
	runs bool
}{{"/etc", false}, {"/var/lib", false}, {"/usr/local/bin", true}, {facts.ProgramsDir, true}, {"/opt/cni/bin", true}}

// unfit are those of the directories that Quorate cannot use as they are mounted. Symbolic links are followed: on some systems /opt
// and /usr/local lead into /var.
func unfit(mountFlags func(dir string) (int64, error)) (out []facts.Unfit) {
	for _, w := range written {
		flags, err := mountFlags(w.dir)
		for dir := w.dir; errors.Is(err, unix.ENOENT) && dir != "/"; { // it will be created
			dir = filepath.Dir(dir)
			flags, err = mountFlags(dir)
		}
		switch {
		case err != nil: // nothing is known
		case flags&unix.ST_RDONLY != 0:
			out = append(out, facts.Unfit{Dir: w.dir, Option: "ro"})
		case w.runs && flags&unix.ST_NOEXEC != 0:
			out = append(out, facts.Unfit{Dir: w.dir, Option: "noexec"})
		}
	}
	return out
}

// mountFlags are those of the mount that a directory is on.
func mountFlags(dir string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return int64(st.Flags), err //nolint:unconvert // the type differs between architectures
}
