// Command distribution measures what the caller sends when several hosts need the same bundle: lab machines that were created
// without it, the steps of quorate apply, and the counter of the caller's network device.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/distribute"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/step"
)

const name = "bench-distribution"

// measurement is the result of one distribution.
type measurement struct {
	Hosts int `json:"hosts"`
	// SentBytes is what left the caller's network device, SSH, TCP and Ethernet included.
	SentBytes int64 `json:"sentBytes"`
	distribute.Stats
	Seconds float64 `json:"seconds"`
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "host" {
		serveHost() // this binary is its own host side, like quorate
		return
	}
	counts := flag.String("hosts", "1,4,8", "numbers of hosts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, *counts); err != nil {
		fmt.Fprintln(os.Stderr, "distribution:", err)
		os.Exit(1)
	}
}

func serveHost() {
	if err := host.ServeStdio(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, counts string) error {
	c := cluster(1)
	b, err := sources.Bundle(ctx, c, progress.Discard)
	if err != nil {
		return err
	}
	fmt.Printf("The bundle has %s in %d blobs. Sent: by the caller, counted at its network device.\n\n", mib(b.Size()), len(b.Blobs()))
	fmt.Printf("%5s  %12s  %16s  %12s  %20s  %8s\n", "hosts", "sent", "times the bundle", "passed on", "one by one would be", "seconds")
	var runs []measurement
	for _, field := range strings.Split(counts, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a number of hosts", field)
		}
		r, err := once(ctx, n, b)
		if err != nil {
			return err
		}
		runs = append(runs, r)
		fmt.Printf("%5d  %12s  %16.2f  %12s  %20s  %8.1f\n", n, mib(r.SentBytes), float64(r.SentBytes)/float64(b.Size()), mib(r.PassedBytes), mib(int64(n)*b.Size()), r.Seconds)
	}
	last, err := json.Marshal(map[string]any{"bundleBytes": b.Size(), "runs": runs})
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n", last)
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// cluster has only what a distribution needs: hosts.
func cluster(n int) *spec.Cluster {
	c := spec.DefaultLab(name)
	c.Spec.Hosts = nil
	for i := range n {
		zone := string(rune('a' + i%3))
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprintf("host-%d", i+1), Zone: zone, Roles: []string{spec.RoleWorker}})
	}
	return c
}

// once installs the bundle on n machines at the same time.
func once(ctx context.Context, n int, b *bundle.Bundle) (r measurement, err error) {
	r.Hosts = n
	if err := machines.Delete(ctx, name); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, machines.Delete(context.WithoutCancel(ctx), name)) }()
	c, err := machines.Create(ctx, cluster(n), machines.Options{}, progress.Discard)
	if err != nil {
		return r, err
	}
	l, err := lab.Open(name)
	if err != nil {
		return r, err
	}
	e := run.Open(ctx, c, progress.Discard)
	defer e.Close()
	env := step.NewEnv(e.State(ctx), e.Conns, bundle.Set{b}, nil, progress.Discard, nil) // installing a bundle changes nothing that runs
	before, err := l.CallerSent()
	if err != nil {
		return r, err
	}
	begin := time.Now()
	work, workCtx := errgroup.WithContext(ctx)
	for _, h := range c.Spec.Hosts {
		work.Go(func() error {
			return step.Run(workCtx, env, plan.Step{ID: h.Name + "/install", Kind: plan.InstallBundle, Host: h.Name, Switch: true})
		})
	}
	if err := work.Wait(); err != nil {
		return r, err
	}
	r.Seconds, r.Stats = time.Since(begin).Seconds(), env.Distribution()
	after, err := l.CallerSent()
	r.SentBytes = after - before
	return r, err
}
