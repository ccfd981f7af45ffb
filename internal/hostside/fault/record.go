package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
)

// Where faults are noted. Those that a reboot would not end are noted on the disk.
const (
	RunDir = "/run/quorate/faults"
	VarDir = "/var/lib/quorate/faults"
)

const (
	// lockPatience is how long another process may work on the same fault.
	lockPatience = 15 * time.Second
	lockPace     = 20 * time.Millisecond
)

// record is what a host notes of a fault before it is injected.
type record struct {
	Request
	Injected
	// At is when it was injected.
	At time.Time `json:"at"`
	// Done says that the injection has ended.
	Done bool `json:"done"`
	// Processes are those that were killed or hung.
	Processes []process `json:"processes,omitempty"`
	// Unit is what was stopped, or whose writes are slow; Pod the static pod that was stopped.
	Unit string `json:"unit,omitempty"`
	Pod  string `json:"pod,omitempty"`
	// Limit is the file of a control group in which writes to Device are limited.
	Limit  string `json:"limit,omitempty"`
	Device string `json:"device,omitempty"`
}

// survives says that the fault survives a reboot.
func (r record) survives() bool { return r.Pod != "" }

func (h *machine) at(path string) string { return filepath.Join(h.root, path) }

func (h *machine) path(r record) string {
	if r.survives() {
		return h.at(filepath.Join(VarDir, r.ID+".json"))
	}
	return h.at(filepath.Join(RunDir, r.ID+".json"))
}

func (h *machine) write(r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return durable.WriteFile(h.path(r), data, 0o600)
}

// read is what was noted of a fault; nil for nothing.
func (h *machine) read(id string) (*record, error) {
	for _, dir := range []string{RunDir, VarDir} {
		path := h.at(filepath.Join(dir, id+".json"))
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var r record
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err == nil && r.ID != id {
			err = fmt.Errorf("it is about the fault %q", r.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("reading what was noted of a fault, %s: %w", path, err)
		}
		return &r, nil
	}
	return nil, nil
}

// ids are all faults that are noted.
func (h *machine) ids() (out []string) {
	for _, dir := range []string{RunDir, VarDir} {
		files, _ := filepath.Glob(h.at(filepath.Join(dir, "*.json")))
		for _, f := range files {
			if id := strings.TrimSuffix(filepath.Base(f), ".json"); validID.MatchString(id) {
				out = append(out, id)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// forget removes what was noted of a fault that is healed.
func (h *machine) forget(r record) error {
	if err := durable.Remove(h.path(r)); err != nil {
		return err
	}
	if left, _ := filepath.Glob(h.at(filepath.Join(VarDir, "*.json"))); r.survives() && len(left) == 0 {
		return h.removeBootUnit()
	}
	return nil
}

// lock makes sure that only one process works on a fault at a time.
func (h *machine) lock(ctx context.Context, id string) (release func(), err error) {
	path := h.at(filepath.Join(RunDir, id+".lock"))
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockPatience, fmt.Errorf("another process has been injecting or healing it for %s", lockPatience))
	defer cancel()
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isAt(f, path) {
			// It is removed while it is locked, so that no lock is ever held on a file that has another one in its place.
			return func() { os.Remove(path); f.Close() }, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking the fault %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the fault %s: %w", id, context.Cause(ctx))
		case <-time.After(lockPace):
		}
	}
}

func isAt(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(have, there)
}
