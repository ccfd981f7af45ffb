// Package durabletest gives tests a disk that can lose its power.
package durabletest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/loopdisk"
)

// Disk is a mounted file system. Like that of any machine it is shared: another program on it writes and synchronizes a file
// of its own again and again, so that names reach the disk at any moment, whether or not the content behind them has.
type Disk struct {
	// Dir is where the file system is mounted.
	Dir string

	t     testing.TB
	image string
	stop  chan struct{}
	other sync.WaitGroup
}

// New makes a disk of the size for the time of the test. It skips the test where file systems cannot be mounted.
func New(t testing.TB, size int64) *Disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	d := &Disk{t: t, image: filepath.Join(t.TempDir(), "disk"), Dir: t.TempDir()}
	if err := loopdisk.Create(d.image, size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.rest()
		unix.Unmount(d.Dir, unix.MNT_DETACH) //nolint:errcheck // it is not mounted when Restore failed
	})
	d.mount()
	return d
}

func (d *Disk) mount() {
	d.t.Helper()
	if err := loopdisk.Mount(d.image, d.Dir); err != nil {
		d.t.Fatal(err)
	}
	d.stop = make(chan struct{})
	d.other.Go(func() { d.work(d.stop) })
}

// work is the other program.
func (d *Disk) work(stop <-chan struct{}) {
	f, err := os.Create(filepath.Join(d.Dir, "other-program"))
	if err != nil {
		return // the power is gone already
	}
	defer f.Close()
	for {
		select {
		case <-stop:
			return
		default:
		}
		if _, err := f.WriteAt([]byte("x"), 0); err != nil {
			return
		}
		if f.Sync() != nil {
			return
		}
		// Only metadata that has changed is written: the file must change to have the journal committed.
		if f.Truncate(0) != nil {
			return
		}
	}
}

func (d *Disk) rest() {
	select {
	case <-d.stop:
	default:
		close(d.stop)
	}
	d.other.Wait()
}

// Cut takes the power away. What uses the disk gets errors from now on.
func (d *Disk) Cut() {
	d.t.Helper()
	if err := loopdisk.Cut(d.Dir); err != nil {
		d.t.Fatal(err)
	}
}

// Restore starts the disk again, with what had reached it. Nothing may use it at that moment.
func (d *Disk) Restore() {
	d.t.Helper()
	d.rest()
	if err := unix.Unmount(d.Dir, 0); err != nil {
		d.t.Fatal(err)
	}
	d.mount()
}
