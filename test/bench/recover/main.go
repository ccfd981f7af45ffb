// Command recover measures how a cluster is brought back, in four parts:
//
//   - backup: the time and size of backups of etcds of several sizes, and how long it takes to verify them. Each runs a real etcd of the
//     bundle, with TLS, in a mount namespace whose /etc and /var/lib are this command's, so that the real operation of a control plane takes
//     the backup.
//   - restore: the time and size of restores of clusters with etcds of these sizes, onto empty machines of a lab.
//   - quorum: the time from the decision to recover a lost quorum to accepted writes, and to three voters, and what was lost.
//   - certs: the requests that fail while certificates are renewed and authorities are rotated.
//
// Nothing is left on the machine, also if a part fails or is interrupted. The last line is JSON.
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
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/cli"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/paths"
)

// part is one kind of figure.
type part struct {
	name string
	// apart says that it runs in a mount namespace of its own.
	apart bool
	// run measures, prints what it measures, and returns what the last line says about it, also with an error.
	run func(context.Context, options) (any, error)
}

var parts = []part{
	{"backup", true, backups},
	{"restore", false, restores},
	{"quorum", false, quorums},
	{"certs", false, certificates},
}

// options are what the flags say.
type options struct {
	sizes []size
	// dir is where the data is: on the disk that is measured.
	dir string
	// controlPlanes of restored clusters; 0 for three, or one where the disk does not have the space for three.
	controlPlanes int
	authorities   []facts.Authority
	pace          time.Duration
}

// size is how much data etcd has.
type size struct {
	name  string
	bytes int64
}

var sizes = []size{{"2.5MB", 2_500_000}, {"500MB", 500_000_000}, {"4GB", 4_000_000_000}}

// inside is set in the process that is in the namespace.
const inside = "BENCH_RECOVER_INSIDE"

// figuresFile is where that process writes what the last line says, in its directory.
const figuresFile = "figures.json"

func sizeName(s size) string                 { return s.name }
func partName(p part) string                 { return p.name }
func authorityName(a facts.Authority) string { return string(a) }

func main() {
	cli.HostSide()
	which := flag.String("sizes", names(sizes, sizeName), "how much data etcd has, separated by commas")
	only := flag.String("only", names(parts, partName), "what to measure, separated by commas")
	rotate := flag.String("rotate", names(facts.Authorities, authorityName), "which authorities the part certs rotates, separated by commas; empty for none")
	dir := flag.String("dir", "/var/tmp", "where the data of the part backup and all backups are; it needs four times the largest size. Lab machines are below QUORATE_STATE")
	controlPlanes := flag.Int("control-planes", 0, "how many control planes restored clusters have, 1 or 3 (default: 3, or 1 where the disk does not have the space)")
	pace := flag.Duration("pace", fitting(runtime.NumCPU()), "time between two requests of a client; the default depends on the number of processors")
	flag.Parse()
	o := options{dir: *dir, controlPlanes: *controlPlanes, pace: *pace}
	what, err := o.read(*only, *which, *rotate, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "recover:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(inside) != "" {
		err = measureApart(ctx, what[0], o)
	} else {
		err = measure(ctx, what, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "recover:", err)
		os.Exit(1)
	}
}

// read reads the flags that are lists, and checks the others.
func (o *options) read(only, which, rotate string, more []string) (what []part, err error) {
	switch {
	case len(more) > 0:
		return nil, fmt.Errorf("%q: there are only flags", more)
	case o.controlPlanes != 0 && o.controlPlanes != 1 && o.controlPlanes != 3:
		return nil, fmt.Errorf("-control-planes %d: 1 or 3", o.controlPlanes)
	case o.pace <= 0:
		return nil, fmt.Errorf("-pace %s: it must be more than nothing", o.pace)
	}
	if what, err = choose(only, parts, partName); err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	if o.sizes, err = choose(which, sizes, sizeName); err != nil {
		return nil, fmt.Errorf("-sizes: %w", err)
	}
	if rotate == "" {
		return what, nil
	}
	if o.authorities, err = choose(rotate, facts.Authorities, authorityName); err != nil {
		return nil, fmt.Errorf("-rotate: %w", err)
	}
	return what, nil
}

// fitting is the pace of clients that this many processors can stand: that of the benchmark of upgrades.
func fitting(processors int) time.Duration {
	return 50 * time.Millisecond * time.Duration(max(1, 8/processors))
}

func names[T any](all []T, name func(T) string) string {
	var out []string
	for _, x := range all {
		out = append(out, name(x))
	}
	return strings.Join(out, ",")
}

// choose returns those that a list names, in the order in which they are known.
func choose[T any](list string, all []T, name func(T) string) (out []T, _ error) {
	wanted := strings.Split(list, ",")
	for _, want := range wanted {
		if !slices.ContainsFunc(all, func(x T) bool { return name(x) == want }) {
			return nil, fmt.Errorf("there is no %q, only %s", want, names(all, name))
		}
	}
	for _, x := range all {
		if slices.Contains(wanted, name(x)) {
			out = append(out, x)
		}
	}
	return out, nil
}

// measure runs the parts, and prints the last line. A part that fails does not keep the others from being measured.
func measure(ctx context.Context, what []part, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("it must run as root: it makes machines of namespaces, and mounts its own /etc and /var/lib")
	}
	// The user's own clusters stay out of this.
	if err := os.Setenv("QUORATE_STATE", paths.State()+"-bench-recover"); err != nil {
		return err
	}
	report := map[string]any{}
	var failed []error
	for _, p := range what {
		if ctx.Err() != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, context.Cause(ctx)))
			continue
		}
		run := p.run
		if p.apart {
			run = func(ctx context.Context, o options) (any, error) { return startApart(ctx, p, o) }
		}
		said("%s", p.name)
		figures, err := run(ctx, o)
		if err != nil {
			err = fmt.Errorf("%s: %w", p.name, err)
			said("%v", err)
			failed = append(failed, err)
		}
		report[p.name] = figures
	}
	if len(failed) > 0 {
		var texts []string
		for _, err := range failed {
			texts = append(texts, err.Error())
		}
		report["failed"] = texts
	}
	return errors.Join(append(failed, json.NewEncoder(os.Stdout).Encode(report))...)
}

// startApart runs a part with this command in a mount namespace of its own, and removes what that leaves.
func startApart(ctx context.Context, p part, o options) (any, error) {
	work, err := os.MkdirTemp(o.dir, "bench-recover-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	// The kernel ends the process when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-only", p.name, "-sizes", names(o.sizes, sizeName), "-dir", o.dir)
	cmd.Env = append(os.Environ(), inside+"="+work)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Run()
	figures, rerr := os.ReadFile(filepath.Join(work, figuresFile))
	if errors.Is(rerr, os.ErrNotExist) && err != nil {
		return nil, err
	}
	return json.RawMessage(figures), errors.Join(err, rerr)
}

// measureApart runs a part in the namespace.
func measureApart(ctx context.Context, p part, o options) error {
	o.dir = os.Getenv(inside)
	if err := isolate(o.dir); err != nil {
		return err
	}
	figures, err := p.run(ctx, o)
	text, merr := json.Marshal(figures)
	if merr == nil {
		merr = os.WriteFile(filepath.Join(o.dir, figuresFile), text, 0o600)
	}
	return errors.Join(err, merr)
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

func said(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, a...))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func round(d time.Duration) float64 {
	return float64(d.Round(10*time.Millisecond)) / float64(time.Second)
}
