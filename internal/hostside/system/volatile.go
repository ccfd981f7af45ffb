package system

import "golang.org/x/sys/unix"

// Volatile is the kind of file system that a directory is on, if what is written there may be gone after the next boot: in memory, or a
// layer over an image, as in rescue and live systems. It is empty for other file systems, if that cannot be found out, and in a container,
// whose files last as long as the machine below it says.
func Volatile(dir string) string {
	var st unix.Statfs_t
	if Container() != "" || unix.Statfs(dir, &st) != nil {
		return ""
	}
	return volatile(int64(st.Type))
}

func volatile(kind int64) string {
	switch kind {
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.RAMFS_MAGIC:
		return "ramfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	}
	return ""
}
