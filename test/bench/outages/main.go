// Command outages makes the table of outages in docs/failover.md: it creates the default cluster in a lab, has `quorate drill` inject the
// single faults that clients notice, each of them many times, and prints the table from the drill's JSON. With -from, it prints the table of a
// report that exists.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/spec"
)

const name = "bench-outages"

// defaultFaults are the single faults of programs and hosts on the way of a client's request, and of a zone and a worker.
const defaultFaults = "kill/kube-apiserver/follower,hang/kube-apiserver/follower,kill/etcd/leader,hang/etcd/leader,kill/haproxy/holder,hang/haproxy/holder,kill/keepalived/holder," +
	"power-off/host/leader,freeze/host/leader,cut/host/leader,power-off/host/follower,power-off/host/holder,freeze/host/holder,cut/host/holder,power-off/host/worker,power-off/zone"

// options are what is drilled.
type options struct {
	quorate, only, report, profile string
	repeat                         int
	seed                           uint64
	pace                           time.Duration
}

func main() {
	var o options
	from := flag.String("from", "", "print the table of this report (a file that `quorate drill --json` has written), and run nothing")
	flag.StringVar(&o.quorate, "quorate", "bin/quorate", "the program")
	flag.StringVar(&o.only, "only", defaultFaults, "the faults, as for `quorate drill --only`")
	flag.StringVar(&o.report, "report", "artifacts/outages.json", "where the report is kept; the page is next to it")
	flag.StringVar(&o.profile, "profile", spec.ProfileFast, "the failover profile of the cluster")
	flag.IntVar(&o.repeat, "repeat", 20, "how often each fault is injected")
	flag.Uint64Var(&o.seed, "seed", 1, "what decides the order of the faults")
	flag.DurationVar(&o.pace, "pace", 50*time.Millisecond, "the time between two requests of a client")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, *from, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "outages:", err)
		os.Exit(1)
	}
}

// run prints the table of a report, and makes the report before if it is not given.
func run(ctx context.Context, o options, from string, out io.Writer) error {
	if from == "" {
		if err := measure(ctx, o); err != nil {
			return err
		}
		from = o.report
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var r drill.Report
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("reading the report in %s: %w", from, err)
	}
	if len(r.Summaries) == 0 {
		return fmt.Errorf("the report in %s has no fault", from)
	}
	return r.WriteOutages(out)
}

// measure builds a cluster, drills it, and removes it.
func measure(ctx context.Context, o options) (err error) {
	c := spec.DefaultLab(name)
	c.Spec.Failover.Profile = o.profile
	text, err := spec.Marshal(c)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "spec.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.report), 0o755); err != nil {
		return err
	}
	if _, err := o.command(ctx, "down", "--name", name); err != nil {
		return err
	}
	defer func() {
		_, e := o.command(context.WithoutCancel(ctx), "down", "--name", name)
		err = errors.Join(err, e)
	}()
	if _, err := o.command(ctx, "up", "-f", file, "--name", name); err != nil {
		return err
	}
	page := o.report[:len(o.report)-len(filepath.Ext(o.report))] + ".html"
	code, err := o.command(ctx, "drill", "-f", paths.State("clusters", name, "cluster.yaml"), "--only", o.only, "--repeat", strconv.Itoa(o.repeat), "--seed", strconv.FormatUint(o.seed, 10),
		"--pace", o.pace.String(), "--json", o.report, "--html", page, "--yes")
	const missed = 4 // objectives that were missed are figures, too
	if code == missed {
		return nil
	}
	return err
}

// command runs quorate, and returns its exit status. What it prints is no part of the table.
func (o options) command(ctx context.Context, args ...string) (code int, err error) {
	cmd := exec.CommandContext(ctx, o.quorate, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it heals what it has injected
	cmd.WaitDelay = 5 * time.Minute
	if err := cmd.Run(); err != nil {
		return cmd.ProcessState.ExitCode(), fmt.Errorf("quorate %s: %w", args[0], err)
	}
	return 0, nil
}
