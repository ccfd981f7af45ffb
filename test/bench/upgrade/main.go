// Command upgrade compares what clients notice of a minor upgrade made with quorate apply, and with kubeadm's documented procedure
// (once as it is, and once with the documented SIGTERM workaround). Every contender gets its own cluster: the same lab machines, load
// balancers on the control planes, the same workload, and the same clients. Quorate also goes back to the former version, which kubeadm
// cannot do, takes every host out of service and back, and replaces every control plane. Etcd runs on the control planes or, with -topology
// external, on hosts of its own, which kubeadm does not upgrade.
//
// The clients are those of a drill: see package clients. Those of a node are one process in a pod of that node, which runs this program from
// the host. Those of the endpoint and of NodePorts run outside of the cluster, in this process.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cli"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/test/guide"
)

const (
	name = "bench-upgrade"
	from = "v1.36.3"
	to   = spec.DefaultVersion
	// quietTime is how long the clients run before the upgrade, and must not fail.
	quietTime = 30 * time.Second
)

func main() {
	cli.HostSide()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	only := flag.String("only", "", "run only one of "+strings.Join(names(), ", ")+"; there is no ratio then")
	pace := flag.Duration("pace", fitting(runtime.NumCPU()), "time between two requests of a client; the default depends on the number of processors")
	ways := flag.String("ways", "", "with these changes only, separated by commas: "+strings.Join(wayNames(), ", ")+"; kubeadm's procedure is an upgrade")
	topology := flag.String("topology", spec.TopologyStacked, "where etcd runs: stacked or external")
	matrix := flag.String("clients", most(runtime.NumCPU()), "few or all: what the clients do on each way; the default depends on the number of processors")
	flag.Parse()
	chosen, err := choose(*only, *ways, *topology)
	if err == nil && *matrix != few && *matrix != all {
		err = fmt.Errorf("-clients %s: it is %s or %s", *matrix, few, all)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "upgrade:", err)
		os.Exit(2)
	}
	exit(race(ctx, chosen, settings{topology: *topology, pace: *pace, every: *matrix == all}))
}

// What clients do: see clients.Options.
const (
	few = "few"
	all = "all"
)

// settings are those of a run.
type settings struct {
	topology string
	pace     time.Duration
	every    bool // clients
}

// enough processors serve all clients, at 20 requests per second each, next to the machines. The number is a guess.
const enough = 8

// most is how many clients this many processors can stand.
func most(processors int) string {
	if processors >= enough {
		return all
	}
	return few
}

// fitting is the pace that this many processors can stand: 50 ms with eight or more. With two, that pace left nothing
// to the cluster: requests failed before anything was changed, and with 200 ms, none did. How much more processors can stand is a guess.
func fitting(processors int) time.Duration {
	return 50 * time.Millisecond * time.Duration(max(1, enough/processors))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "upgrade:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// contender is one way to build and change a cluster.
type contender struct {
	name    string
	build   func(context.Context, *spec.Cluster) error
	prepare func(context.Context, *bench) error // before the clock starts
	// announces says that its API servers announce that they stop.
	announces bool
	ways      []way
}

// way is one change of a cluster.
type way struct {
	name    string
	prepare func(context.Context, *bench) error // before its clock starts
	do      func(context.Context, *bench) error
}

// withWorkaround is the contender that ends API servers before kubeadm upgrades their etcd.
const withWorkaround = "documented-sigterm"

func contenders() []contender {
	return []contender{
		{name: "quorate", build: func(ctx context.Context, c *spec.Cluster) error { return applied(ctx, c, progress.Discard) }, announces: true, ways: []way{
			{name: "upgrade", do: toVersion(to)},
			{name: "rollback", do: toVersion(from)},
			{name: "maintain", do: maintain},
			{name: "replace", prepare: makeSuccessors, do: replaceControlPlanes},
		}},
		{name: "documented", build: guide.Build, prepare: install, ways: []way{
			{name: "upgrade", do: func(ctx context.Context, b *bench) error { return documented(ctx, b, false) }},
		}},
		{name: withWorkaround, build: guide.Build, prepare: install, ways: []way{
			{name: "upgrade", do: func(ctx context.Context, b *bench) error { return documented(ctx, b, true) }},
		}},
	}
}

func names() (out []string) {
	for _, c := range contenders() {
		out = append(out, c.name)
	}
	return out
}

func wayNames() (out []string) {
	for _, w := range contenders()[0].ways {
		out = append(out, w.name)
	}
	return out
}

// choose returns the contenders to run, each with the ways to measure, in order.
func choose(only, ways, topology string) (out []contender, err error) {
	if topology != spec.TopologyStacked && topology != spec.TopologyExternal {
		return nil, fmt.Errorf("-topology %s: it is %s or %s", topology, spec.TopologyStacked, spec.TopologyExternal)
	}
	if only != "" && !slices.Contains(names(), only) {
		return nil, fmt.Errorf("-only %s: there are %s", only, strings.Join(names(), ", "))
	}
	if only == withWorkaround && topology == spec.TopologyExternal {
		return nil, fmt.Errorf("-only %s: the workaround is for an etcd that kubeadm upgrades, and it does not upgrade an external one", only)
	}
	wanted := wayNames()
	if ways != "" {
		wanted = strings.Split(ways, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(wayNames(), name) {
			return nil, fmt.Errorf("-ways %s: there are %s", ways, strings.Join(wayNames(), ", "))
		}
	}
	if slices.Contains(wanted, "rollback") && !slices.Contains(wanted, "upgrade") {
		return nil, fmt.Errorf("-ways %s: a rollback needs an upgrade before it", ways)
	}
	for _, c := range contenders() {
		c.ways = slices.DeleteFunc(c.ways, func(w way) bool { return !slices.Contains(wanted, w.name) })
		if c.name == withWorkaround && topology == spec.TopologyExternal {
			continue
		}
		if len(c.ways) > 0 && (only == "" || c.name == only) {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("-only %s -ways %s: %s does none of that", only, ways, only)
	}
	return out, nil
}

// race lets the contenders compete, one after the other. If one fails, what the others have shown is printed all the same.
func race(ctx context.Context, chosen []contender, s settings) error {
	var measured []outcome
	var errs []error
	for _, c := range chosen {
		outcomes, err := compete(ctx, c, s)
		measured = append(measured, outcomes...)
		if err != nil {
			err = fmt.Errorf("%s: %w", c.name, err)
			said("%v", err)
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	summary := lastLine(measured)
	summary["topology"], summary["paceMilliseconds"], summary["allClients"] = s.topology, s.pace.Milliseconds(), s.every
	line, err := json.Marshal(summary)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", line)
	return errors.Join(errs...)
}

// at is the cluster with another version.
func at(c *spec.Cluster, version string) *spec.Cluster {
	out := *c
	out.Spec.Kubernetes.Version = version
	return &out
}

// shape has three control planes in both topologies, so that as many elections are allowed in both.
func shape(topology string) (*spec.Cluster, error) {
	data, err := spec.Init(spec.InitOptions{Name: name, Version: from, Topology: topology, ControlPlanes: 3, Workers: 2, LoadBalancers: -1, Versions: bundle.Versions()})
	if err != nil {
		return nil, err
	}
	return spec.Check(data, "the benchmark's cluster", spec.Options{Versions: bundle.Versions(), Lab: true})
}

// compete builds a cluster, runs its clients, and changes it. Whatever happens, the machines are deleted in the end.
func compete(ctx context.Context, c contender, s settings) (out []outcome, err error) {
	cluster, err := shape(s.topology)
	if err != nil {
		return nil, err
	}
	// Both bundles, before anything is measured.
	for _, version := range []string{to, from} {
		if _, err := sources.Bundle(ctx, at(cluster, version), progress.Discard); err != nil {
			return nil, err
		}
	}
	if err := machines.Delete(ctx, name); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, machines.Delete(context.WithoutCancel(ctx), name)) }()
	said("%s: building a cluster with %s", c.name, from)
	resolved, err := machines.Create(ctx, cluster, machines.Options{Bundle: true}, progress.Discard)
	if err != nil {
		return nil, err
	}
	if err := c.build(ctx, resolved); err != nil {
		return nil, fmt.Errorf("building the cluster: %w", err)
	}
	b, err := newBench(ctx, c.name, c.announces, resolved, s)
	if err != nil {
		return nil, err
	}
	if c.prepare != nil {
		said("%s: bringing %s to the machines", c.name, to)
		if err := c.prepare(ctx, b); err != nil {
			return nil, err
		}
	}
	said("%s: starting the clients", c.name)
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	defer func() { err = errors.Join(err, b.stop(), b.keepLogs(context.WithoutCancel(ctx))) }()
	for _, w := range c.ways {
		o, err := b.compete(ctx, w)
		if err != nil {
			return out, fmt.Errorf("%s: %w", w.name, err)
		}
		o.print()
		out = append(out, o)
	}
	return out, nil
}

// compete measures one way, and before it a time in which nothing happens.
func (b *bench) compete(ctx context.Context, w way) (outcome, error) {
	if w.prepare != nil {
		said("%s: preparing %s", b.name, w.name)
		if err := w.prepare(ctx, b); err != nil {
			return outcome{}, err
		}
	}
	if err := b.clients.AllRun(ctx); err != nil {
		return outcome{}, err
	}
	quiet, err := b.measure(ctx, "before-"+w.name, nil, func(ctx context.Context) error { return sleep(ctx, quietTime) })
	if err != nil {
		return outcome{}, err
	}
	quiet.print()
	said("%s: %s", b.name, w.name)
	o, err := b.measure(ctx, w.name, b.cluster.HostsWith(spec.RoleControlPlane), func(ctx context.Context) error { return w.do(ctx, b) })
	if err != nil {
		return outcome{}, err
	}
	o.after(quiet)
	return o, b.save(o)
}

// applied makes the cluster match its spec.
func applied(ctx context.Context, c *spec.Cluster, sink progress.Sink) error {
	b, err := sources.Bundle(ctx, c, progress.Discard)
	if err != nil {
		return err
	}
	e := run.Open(ctx, c, sink)
	defer e.Close()
	_, err = e.Apply(ctx, b, run.Options{})
	return err
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
