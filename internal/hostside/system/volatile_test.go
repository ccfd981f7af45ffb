package system

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestVolatile(t *testing.T) {
	for kind, want := range map[int64]string{unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.EXT4_SUPER_MAGIC: "", unix.XFS_SUPER_MAGIC: "", unix.BTRFS_SUPER_MAGIC: ""} {
		if got := volatile(kind); got != want {
			t.Errorf("%#x is %q, want %q", kind, got, want)
		}
	}
	if got := Volatile("/proc"); got != "" {
		t.Errorf("/proc is %q", got)
	}
	if got := Volatile("/nothing/here"); got != "" {
		t.Errorf("a directory that does not exist is %q", got)
	}
}
