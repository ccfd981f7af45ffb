// Command scale measures a cluster with simulated nodes: it builds a cluster in a lab, has `quorate lab scale` add nodes and pods at the rate of
// Kubernetes' scalability tests, and measures how the control plane bears them: while they come, afterwards, while nodes fail, while `quorate drill`
// injects single faults, and within a minute after that. It prints latencies against Kubernetes' objectives, and what each program takes. The last line is JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"

	"quorate.dev/quorate/internal/cli"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/scale"
	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
)

const name = "bench-scale"

// defaultFaults are single faults of each part of the control plane, on the way of a client's request.
const defaultFaults = "kill/kube-apiserver/follower,hang/kube-apiserver/follower,kill/etcd/leader,hang/etcd/leader,kill/haproxy/holder,hang/haproxy/holder,kill/keepalived/holder," +
	"power-off/host/leader,power-off/host/follower,power-off/host/holder,power-off/zone"

// recovery is within how long after the last fault latencies must be what they are to be again, and window how long they are measured then.
const (
	recovery = time.Minute
	window   = 2 * time.Minute
)

type options struct {
	quorate, faults, report, profile string
	nodes, pods                      int
	rate                             float64
	steady, failFor                  time.Duration
	keep                             bool
}

// Result is everything that was measured. Its JSON keys are stable.
type Result struct {
	Nodes      int    `json:"nodes"`
	Pods       int    `json:"pods"`
	Kubernetes string `json:"kubernetes"`
	Profile    string `json:"failoverProfile"`
	// Scaled is what `quorate lab scale` reported while nodes and pods came, and Failed while nodes failed.
	Scaled *Scaled `json:"scaled,omitempty"`
	Failed *Scaled `json:"failed,omitempty"`
	Phases []Phase `json:"phases"`
	Faults []Fault `json:"faults,omitempty"`
	// Ledger is what became of the writes of the drill.
	Ledger *drill.Ledger `json:"ledger,omitempty"`
	// Misses say which objective was missed, and where.
	Misses []string `json:"misses"`
	Pass   bool     `json:"pass"`
	// Stopped says why the benchmark ended early.
	Stopped string `json:"stopped,omitempty"`
}

// Scaled is the report of `quorate lab scale`.
type Scaled struct {
	Nodes    *scale.NodesReport    `json:"nodes,omitempty"`
	Pods     *scale.PodsReport     `json:"pods,omitempty"`
	Failures *scale.FailuresReport `json:"failures,omitempty"`
}

// Fault is what a drill says of one fault.
type Fault struct {
	Name          string   `json:"name"`
	Target        string   `json:"target"`
	WriteOutageMs int64    `json:"writeOutageMs"`
	Pass          bool     `json:"pass"`
	Missed        []string `json:"missed,omitempty"`
}

func main() {
	cli.HostSide()
	var o options
	flag.StringVar(&o.quorate, "quorate", "bin/quorate", "the program")
	flag.IntVar(&o.nodes, "nodes", 200, "how many simulated nodes")
	flag.IntVar(&o.pods, "pods", 0, "how many pods on them (default: 30 for each)")
	flag.Float64Var(&o.rate, "rate", 10, "how many pods are created per second")
	flag.DurationVar(&o.steady, "steady", 3*time.Minute, "for how long the cluster is measured when everything is ready")
	flag.DurationVar(&o.failFor, "fail-for", 10*time.Minute, "for how long simulated nodes fail, 1 % every five minutes (0: they do not)")
	flag.StringVar(&o.faults, "faults", defaultFaults, "the faults, as for `quorate drill --only` (empty: none)")
	flag.StringVar(&o.report, "report", "artifacts/scale.json", "where the result is kept; the report of the drill is next to it")
	flag.StringVar(&o.profile, "profile", spec.ProfileFast, "the failover profile of the cluster")
	flag.BoolVar(&o.keep, "keep", false, "leave the lab in the end")
	flag.Parse()
	if o.pods == 0 {
		o.pods = o.nodes * size.PodsPerNode
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := bench(ctx, o)
	if err != nil {
		r.Stopped = err.Error()
	}
	r.judge()
	if e := write(o.report, r); e != nil {
		err = errors.Join(err, e)
	}
	r.print(os.Stdout)
	line, e := json.Marshal(r)
	if err = errors.Join(err, e); e == nil {
		fmt.Println(string(line))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
	}
	if err != nil || !r.Pass {
		os.Exit(1)
	}
}

// shape is the cluster: planned for its size, with a range of pods that has room for all nodes.
func shape(o options) *spec.Cluster {
	c := spec.DefaultLab(name)
	c.Spec.Failover.Profile = o.profile
	own := 0
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			own++
		}
	}
	c.Spec.Size = spec.Size{Nodes: own + o.nodes, Pods: max(o.pods, 1)}
	if bits := size.PodCIDRBits(own + o.nodes); bits < 16 {
		c.Spec.Network.PodCIDR = fmt.Sprintf("10.128.0.0/%d", max(bits, 9)) // all of the upper half of 10.0.0.0/8 at most
	}
	c.Spec.LoadBalancer.MaxConnections = 0 // that of the size
	c.Default()
	return c
}

func bench(ctx context.Context, o options) (r *Result, err error) {
	c := shape(o)
	r = &Result{Nodes: o.nodes, Pods: o.pods, Kubernetes: c.Spec.Kubernetes.Version, Profile: o.profile, Misses: []string{}}
	text, err := spec.Marshal(c)
	if err != nil {
		return r, err
	}
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "spec.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return r, err
	}
	if err := os.MkdirAll(filepath.Dir(o.report), 0o755); err != nil {
		return r, err
	}
	if err := o.command(ctx, nil, "down", "--name", name); err != nil {
		return r, err
	}
	if !o.keep {
		defer func() { err = errors.Join(err, o.command(context.WithoutCancel(ctx), nil, "down", "--name", name)) }()
	}
	if err := o.command(ctx, nil, "up", "-f", file, "--name", name); err != nil {
		return r, err
	}
	m, err := open(ctx, c)
	if err != nil {
		return r, err
	}
	return r, r.phases(ctx, o, m)
}

// phases are the parts of the benchmark, each between two snapshots.
func (r *Result) phases(ctx context.Context, o options, m *measured) error {
	at := machines.SpecFile(name)
	last := m.look(ctx)
	measure := func(name string, do func() error) error {
		err := do()
		now := m.look(ctx)
		r.Phases, last = append(r.Phases, phase(name, last, now)), now
		return err
	}
	scaled := func(into **Scaled, args ...string) func() error {
		return func() error {
			*into = &Scaled{}
			return o.command(ctx, *into, append([]string{"lab", "scale", "-f", at, "-o", "json"}, args...)...)
		}
	}
	nodes, pods := strconv.Itoa(o.nodes), strconv.Itoa(o.pods)
	if err := measure("grow", scaled(&r.Scaled, "--nodes", nodes, "--pods", pods, "--rate", strconv.FormatFloat(o.rate, 'f', -1, 64))); err != nil {
		return err
	}
	if err := measure("steady", func() error { return pause(ctx, o.steady) }); err != nil {
		return err
	}
	if o.failFor > 0 {
		if err := measure("nodes fail", scaled(&r.Failed, "--fail-for", o.failFor.String())); err != nil {
			return err
		}
	}
	if o.faults == "" {
		return nil
	}
	report := o.report[:len(o.report)-len(filepath.Ext(o.report))] + "-drill.json"
	if err := measure("faults", func() error { return r.drill(ctx, o, at, report) }); err != nil {
		return err
	}
	if err := pause(ctx, recovery); err != nil {
		return err
	}
	last = m.look(ctx)
	return measure("a minute after the faults", func() error { return pause(ctx, window) })
}

// drill has faults injected. Objectives that were missed are figures, too.
func (r *Result) drill(ctx context.Context, o options, at, report string) error {
	err := o.command(ctx, nil, "drill", "-f", at, "--only", o.faults, "--pace", "200ms", "--json", report, "--yes")
	const missed = 4
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == missed {
		err = nil
	}
	data, e := os.ReadFile(report)
	if err != nil || e != nil {
		return errors.Join(err, e)
	}
	var d drill.Report
	if err := json.Unmarshal(data, &d); err != nil {
		return fmt.Errorf("reading the report of the drill in %s: %w", report, err)
	}
	for _, f := range d.Faults {
		r.Faults = append(r.Faults, Fault{Name: f.Name, Target: f.Target, WriteOutageMs: f.WriteOutageMs, Pass: f.Pass, Missed: f.Missed})
	}
	r.Ledger = &d.Ledger
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-wait.C:
		return nil
	}
}

// command runs quorate. What it prints is a result if there is a place for one, and otherwise no part of it.
func (o options) command(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, o.quorate, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it heals what it has injected
	cmd.WaitDelay = 5 * time.Minute
	var err error
	if into == nil {
		err = cmd.Run()
	} else {
		cmd.Stdout = nil
		var out []byte
		if out, err = cmd.Output(); len(out) > 0 {
			err = errors.Join(err, json.Unmarshal(out, into))
		}
	}
	if err != nil {
		return fmt.Errorf("quorate %s: %w", args[0], err)
	}
	return nil
}

func write(file string, r *Result) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(file, append(text, '\n'), 0o644)
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// one puts all observations of a metric together.
func one(*dto.Metric) string { return "all" }
