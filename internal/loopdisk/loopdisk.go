// Package loopdisk creates file systems in image files. Such a file system can lose its power: data that had not reached the
// disk is lost, as on a machine that loses its power.
package loopdisk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Create makes an image file with an empty file system. The file takes only the space that is used.
func Create(image string, size int64) error {
	mkfs, err := mkfs()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	// Tables are initialized when they are needed, and no space is reserved for root, because root owns everything here.
	out, err := exec.Command(mkfs, "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", image).CombinedOutput()
	if err != nil {
		return fmt.Errorf("creating a file system in %s: %w: %s", image, err, bytes.TrimSpace(out))
	}
	return nil
}

// mkfs finds the program even if it is not in the PATH of an unprivileged user.
func mkfs() (string, error) {
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, "mkfs.ext4")); err == nil {
			return path, nil
		}
	}
	return "", errors.New("the program mkfs.ext4 is missing: install e2fsprogs")
}

// Mount mounts the file system of an image on a directory of the calling thread's mount namespace. The loop device is
// released when the file system is unmounted, also by the end of its last mount namespace.
//
// The file system is mounted so that it does only what its interface guarantees: by default, ext4 writes the content of a file
// to the disk when the file is renamed over another one, and other file systems do not.
func Mount(image, dir string) error {
	loop, device, err := attach(image)
	if err != nil {
		return fmt.Errorf("attaching %s: %w", image, err)
	}
	defer loop.Close()
	if err := unix.Mount(device, dir, "ext4", unix.MS_NOATIME, "noauto_da_alloc"); err != nil {
		return fmt.Errorf("mounting %s: %w", image, err)
	}
	return nil
}

func attach(image string) (loop *os.File, device string, err error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, "", err
	}
	defer control.Close()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, "", err
		}
		device = "/dev/loop" + strconv.Itoa(n)
		loop, err = os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			return nil, "", err
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO}}
		copy(config.Info.File_name[:], image)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if errors.Is(err, unix.EINVAL) { // the file system below has no direct I/O
			config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
			err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		}
		if err == nil {
			return loop, device, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // another process took it in the meantime
			return nil, "", err
		}
	}
}

// Attached reports whether any loop device uses the image.
func Attached(image string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: image, Err: err}
	}
	devices, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return false, err
	}
	for _, d := range devices {
		f, err := os.Open(filepath.Join("/dev", filepath.Base(filepath.Dir(d))))
		if err != nil {
			return false, err
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		f.Close()
		if errors.Is(err, unix.ENXIO) {
			continue // released meanwhile
		}
		if err != nil {
			return false, fmt.Errorf("asking for the file behind %s: %w", f.Name(), err)
		}
		if info.Device == st.Dev && info.Inode == st.Ino {
			return true, nil
		}
	}
	return false, nil
}

// Cut cuts the power of the file system that is mounted on a directory. From then on, every use of it fails, and the next
// Mount finds what had reached the disk.
func Cut(dir string) error {
	const (
		shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
		noFlush  = uint32(2)  // EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal
	)
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := noFlush
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return fmt.Errorf("cutting the power of %s: %w", dir, errno)
	}
	return nil
}
