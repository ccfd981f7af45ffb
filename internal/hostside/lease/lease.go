// Package lease keeps two runs from changing one host at the same time, and two units that repair from leading at the same time.
package lease

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
)

const leaseFile = "/run/quorate/lease"

// ErrLeased is in Take's error if another run holds the lease.
var ErrLeased = host.NewCause("leased", "another run is changing this host")

// Take acquires the lease of a host for the duration of the session, and again whenever the session is reopened. The lease
// ends when the session and all programs that it has started have ended. A killed caller thus releases the host as soon as
// they have ended, and one that disappeared from the network within another half a minute.
func Take(ctx context.Context, c *host.Conn, owner string) error {
	if _, err := Acquire.On(ctx, c, owner); err != nil {
		return err
	}
	c.OnNewSession(func(ctx context.Context) error {
		_, err := Acquire.On(ctx, c, owner)
		return err
	})
	return nil
}

// Acquire is the operation with which Take acquires the lease.
var Acquire = host.Define("node.lease", func(_ context.Context, owner string) (struct{}, error) {
	return struct{}{}, this.take(leaseFile, owner)
})

// the lease belongs to this process, which is one session.
var this = holder{inherited: true}

type holder struct {
	mu   sync.Mutex
	held *os.File
	// inherited says that the programs that the session starts hold it as well.
	inherited bool
}

func (h *holder) take(path, owner string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// Anyone who can open the file can lock it.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err = f.Chmod(0o600); err == nil { // an older version left it world-readable
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: %s; wait until it is done, or end it", ErrLeased, holding(f, "/proc"))
	}
	if err == nil {
		err = write(f, owner)
	}
	if err != nil {
		f.Close()
		return err
	}
	if h.inherited {
		system.Inherit(f)
	}
	h.held = f
	return nil
}

// Leader says which of the units that repair leads, as far as one control plane knows.
type Leader struct {
	// Granted says that the caller leads as far as this control plane is concerned; otherwise Held says who does.
	Granted bool   `json:"granted"`
	Held    string `json:"held,omitempty"`
}

// Lead acquires this control plane's consent that the caller leads, for the duration of the session. Who has the consent of a majority of
// the control planes leads. It works while there is no API, and ends like a lease when the caller dies or disappears.
var Lead = host.Define("node.lead", func(_ context.Context, name string) (Leader, error) {
	return leading.lead(facts.WatchLeaderFile, name)
})

var leading holder

func (h *holder) lead(path, name string) (Leader, error) {
	err := h.take(path, name)
	if errors.Is(err, ErrLeased) {
		return Leader{Held: ownerOf(path)}, nil
	}
	return Leader{Granted: err == nil}, err
}

// ownerOf is who took the lock, as the file says.
func ownerOf(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_, owner, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(owner)
}

// write names the owner, and the process that took the lock.
func write(f *os.File, owner string) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"+owner+"\n"), 0)
	return err
}

// holding describes who holds the lock: the owner in the file, unless it is that of an earlier lock, and the programs that
// still have the file open.
func holding(f *os.File, proc string) string {
	data := make([]byte, 4096)
	n, _ := f.ReadAt(data, 0)
	process, owner, _ := strings.Cut(string(data[:n]), "\n")
	said := strings.TrimSpace(owner)
	if pid := lockedBy(f, proc); said == "" || pid != 0 && process != strconv.Itoa(pid) {
		said = "an unknown owner"
	}
	if programs := having(f, proc); len(programs) > 0 {
		said += " (on the host: " + strings.Join(programs, ", ") + ")"
	}
	return said
}

// lockedBy is the process that took the lock, which others may hold after it has ended; 0 if the kernel does not say.
func lockedBy(f *os.File, proc string) int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	locks, err := os.ReadFile(filepath.Join(proc, "locks"))
	if err != nil {
		return 0
	}
	// 1: FLOCK  ADVISORY  WRITE 707 00:13:467 0 EOF
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		fields := strings.Fields(line)
		if len(fields) >= 6 && fields[1] == "FLOCK" && fields[5] == inode {
			pid, _ := strconv.Atoi(fields[4])
			return pid
		}
	}
	return 0
}

// having lists the programs, other than this one, that have the file open.
func having(f *os.File, proc string) (programs []string) {
	var own unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &own); err != nil {
		return nil
	}
	fds, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	if err != nil {
		return nil
	}
	for _, fd := range fds {
		var st unix.Stat_t
		if err := unix.Stat(fd, &st); err != nil || st.Dev != own.Dev || st.Ino != own.Ino {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid := filepath.Base(dir)
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if program := strings.TrimSpace(string(name)) + " " + pid; !slices.Contains(programs, program) {
			programs = append(programs, program)
		}
	}
	return programs
}
