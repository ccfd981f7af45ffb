//go:build e2e

// Package e2e builds whole clusters with the real binary and checks what Quorate promises about them. It needs root,
// bin/quorate (or QUORATE_BIN) and a bundle; its clusters have a separate state directory.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/paths"
)

var (
	// binary is the quorate binary under test.
	binary string
	// artifacts is where a failure leaves what can explain it.
	artifacts string
	// interrupted is done when the tests are interrupted. They still remove what they have created.
	interrupted context.Context
)

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// minDisk is what the suite uses at the most, with what kubelets keep free: below 1 GiB they evict pods.
const minDisk = 10 << 30

func runTests(m *testing.M) (code int, err error) {
	flag.Parse() // or they are parsed by m.Run only
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("whole clusters in a lab need root")
	}
	if binary = os.Getenv("QUORATE_BIN"); binary == "" {
		binary = "../../bin/quorate"
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return 0, err
	}
	if _, err := os.Stat(binary); err != nil {
		return 0, fmt.Errorf("%w; make build makes it", err)
	}
	if artifacts, err = filepath.Abs("../../artifacts"); err != nil {
		return 0, err
	}
	state := paths.State() + "-e2e"
	if err := os.Setenv("QUORATE_STATE", state); err != nil {
		return 0, err
	}
	// Checked before any test runs: a cluster on a disk that fills up fails in ways that look like faults of Quorate.
	if err := lab.CheckDisk(state, minDisk, "the largest tests, with two bundles and eight machines, need"); err != nil {
		return 0, err
	}
	unlock, err := alone(state + ".lock")
	if err != nil {
		return 0, err
	}
	defer unlock()
	var stop context.CancelFunc
	interrupted, stop = signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return runInOrder(m), nil
}

// whole has the tests run every case. Without it, those that take long run a sample.
var whole = flag.Bool("whole", false, "run every case of the tests that otherwise run a sample")

// sample returns the cases with these indexes, in their order; with -whole, all of them.
func sample[T any](cases []T, indexes ...int) (out []T) {
	for i, c := range cases {
		if *whole || slices.Contains(indexes, i) {
			out = append(out, c)
		}
	}
	return out
}

// alone keeps two runs of these tests from working on the same clusters.
func alone(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another run of these tests holds %s: %w", file, err)
	}
	return func() {
		os.Remove(file)
		f.Close()
	}, nil
}

// cleaningUp is how long before the time limit tests give up, because go test itself would not clean up.
const cleaningUp = 3 * time.Minute

// testContext ends with the test, with an interrupt, and in time for cleaning up.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(interrupted)
	if deadline, ok := t.Deadline(); ok {
		ctx, cancel = context.WithDeadlineCause(interrupted, deadline.Add(-cleaningUp), fmt.Errorf("the tests' time is over"))
	}
	t.Cleanup(cancel)
	return ctx
}
