// Command recover measures how long it takes to bring a cluster back, and what for: backups of etcds of several sizes. Each runs a real etcd
// of the bundle, with TLS, in a mount namespace whose /etc and /var/lib are this command's, so that the real operation of a control plane
// takes the backup. Nothing is left on the machine. The last line is JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// part is one kind of figure.
type part struct {
	name string
	// run measures, prints what it measures, and returns what the last line says about it.
	run func(context.Context, options) (any, error)
}

var parts = []part{
	{"backup", backups},
}

// options are what the flags say.
type options struct {
	sizes []size
	// dir is where the data is: on the disk that is measured.
	dir string
}

// size is how much data etcd has.
type size struct {
	name  string
	bytes int64
}

var sizes = []size{{"2.5MB", 2_500_000}, {"500MB", 500_000_000}, {"4GB", 4_000_000_000}}

// inside is set in the process that is in the namespace.
const inside = "BENCH_RECOVER_INSIDE"

func main() {
	which := flag.String("sizes", names(sizes, func(s size) string { return s.name }), "how much data etcd has, separated by commas")
	only := flag.String("only", names(parts, func(p part) string { return p.name }), "what to measure, separated by commas")
	dir := flag.String("dir", "/var/tmp", "where the data is; it needs four times the largest size")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	chosen, err := choose(*which, sizes, func(s size) string { return s.name })
	if err == nil {
		var what []part
		if what, err = choose(*only, parts, func(p part) string { return p.name }); err == nil {
			err = start(ctx, what, options{chosen, *dir})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "recover:", err)
		os.Exit(1)
	}
}

func names[T any](all []T, name func(T) string) string {
	var out []string
	for _, x := range all {
		out = append(out, name(x))
	}
	return strings.Join(out, ",")
}

func choose[T any](list string, all []T, name func(T) string) (out []T, _ error) {
	for want := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(x T) bool { return name(x) == want })
		if i < 0 {
			return nil, fmt.Errorf("there is no %q, only %s", want, names(all, name))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// start runs this command again in a mount namespace of its own, and removes what that leaves.
func start(ctx context.Context, what []part, o options) error {
	if os.Getenv(inside) != "" {
		return measure(ctx, what, o)
	}
	if os.Geteuid() != 0 {
		return errors.New("it must run as root: it mounts its own /etc and /var/lib")
	}
	work, err := os.MkdirTemp(o.dir, "bench-recover-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// The kernel ends the process when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+work)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd.Run()
}

func measure(ctx context.Context, what []part, o options) error {
	o.dir = os.Getenv(inside)
	if err := isolate(o.dir); err != nil {
		return err
	}
	report := map[string]any{}
	for _, p := range what {
		figures, err := p.run(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		report[p.name] = figures
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

// isolate puts writable layers over the directories that the operations of a host use.
func isolate(work string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating the mounts: %w", err)
	}
	for _, dir := range []string{"/etc", "/var/lib"} {
		upper, scratch := filepath.Join(work, "upper", dir), filepath.Join(work, "scratch", dir)
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(scratch, 0o755)); err != nil {
			return err
		}
		if err := unix.Mount("overlay", dir, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, scratch)); err != nil {
			return fmt.Errorf("mounting a layer over %s: %w", dir, err)
		}
	}
	return nil
}
