package system

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
)

// RoomForSnapshot creates a directory for a snapshot of etcd of some bytes, and fails if that would fill the disk, which etcd itself
// may be on.
func RoomForSnapshot(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < size+facts.SnapshotSpare {
		return fmt.Errorf("the snapshot of etcd needs %d MiB below %s, and only %d MiB are free: free some space; 512 MiB are left for etcd", size>>20, dir, free>>20)
	}
	return nil
}
