package lease

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/hostside/system"
)

// leasePath is on the same kind of file system as /run, where the kernel's list of locks names files as stat does.
func leasePath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "quorate-lease-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "lease")
}

func TestLease(t *testing.T) {
	path := leasePath(t)
	var first, second holder
	if err := errors.Join(first.take(path, "alice@laptop, process 7"), first.take(path, "alice@laptop, process 7")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: whoever may open the file may block every run", info.Mode(), err)
	}
	err := second.take(path, "bob@desk")
	if !errors.Is(err, ErrLeased) || !strings.Contains(err.Error(), "alice@laptop, process 7") {
		t.Errorf("got %v", err)
	}
	first.held.Close()
	if err := second.take(path, "bob@desk"); err != nil {
		t.Errorf("the lease was given back, and still: %v", err)
	}
	second.held.Close()

	// Somebody who locks the file without a word is not the last owner.
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("1\nbob@desk\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err = os.Open(path); err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var third holder
	if err := third.take(path, "carol"); !errors.Is(err, ErrLeased) || strings.Contains(err.Error(), "bob") {
		t.Errorf("the previous owner is named: %v", err)
	}
}

// TestLeaseIsReadableByItsOwnerOnly also where an older version created the file.
func TestLeaseIsReadableByItsOwnerOnly(t *testing.T) {
	path := leasePath(t)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	var h holder
	if err := h.take(path, "alice"); err != nil {
		t.Fatal(err)
	}
	defer h.held.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestMain is also the process of a session: see TestLeaseLastsAsLongAsItsPrograms.
func TestMain(m *testing.M) {
	if path := os.Getenv("TEST_LEASE"); path != "" {
		err := this.take(path, "alice")
		if err == nil {
			c := system.Command{Name: "sh", Args: []string{"-c", "echo $$ >" + path + ".pid; sleep 1000; :"}, Finish: true}
			err = c.Run(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestLeaseLastsAsLongAsItsPrograms: a session that was killed may have left a program that still changes the host.
func TestLeaseLastsAsLongAsItsPrograms(t *testing.T) {
	path := leasePath(t)
	session := exec.Command(os.Args[0])
	session.Env = append(os.Environ(), "TEST_LEASE="+path)
	session.Stderr = os.Stderr
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	wait := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within ten seconds", what)
			}
		}
	}
	program := 0
	wait("the program", func() bool {
		program, _ = strconv.Atoi(system.ReadTrimmed(path + ".pid"))
		return program > 0
	})
	defer unix.Kill(-program, unix.SIGKILL) //nolint:errcheck // it may be gone
	if err := session.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	session.Wait() //nolint:errcheck // it was killed
	var second holder
	err := second.take(path, "bob")
	if !errors.Is(err, ErrLeased) || !strings.Contains(err.Error(), "alice") || !strings.Contains(err.Error(), "sh "+strconv.Itoa(program)) {
		t.Errorf("a program of the first run still runs, and the second got %v", err)
	}
	if err := unix.Kill(-program, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait("the lease, when nothing of the first run is left", func() bool { return second.take(path, "bob") == nil })
	second.held.Close()
}

// TestLeader: one candidate leads, and the other one learns who does. When the first one is gone, the other one may.
func TestLeader(t *testing.T) {
	path := leasePath(t)
	var first, second holder
	for range 2 {
		if l, err := first.lead(path, "cp-a"); err != nil || !l.Granted {
			t.Fatalf("%+v, %v", l, err)
		}
	}
	if l, err := second.lead(path, "cp-b"); err != nil || l.Granted || l.Held != "cp-a" {
		t.Errorf("%+v, %v", l, err)
	}
	first.held.Close()
	if l, err := second.lead(path, "cp-b"); err != nil || !l.Granted {
		t.Errorf("%+v, %v", l, err)
	}
	second.held.Close()
}
