// Command elections counts the elections of etcd in a cluster that has every CPU loaded: it creates the default cluster in a lab with an election
// timeout, keeps all CPUs of this machine busy, and reads etcd's metrics. Nothing fails meanwhile, so that every election is one too many. The last
// line is JSON; the exit status is 1 if there was an election, or if nobody can tell.
package main

import (
	"bytes"
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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/spec"
)

const name = "bench-elections"

// options are what is measured.
type options struct {
	quorate, timeout, profile string
	load, pace                time.Duration
	busy                      int
}

func main() {
	var o options
	flag.StringVar(&o.quorate, "quorate", "bin/quorate", "the program")
	flag.StringVar(&o.timeout, "timeout", "300ms", "etcd's election timeout (spec.failover.electionTimeout); empty for etcd's default")
	flag.StringVar(&o.profile, "profile", spec.ProfileFast, "the failover profile of the cluster")
	flag.DurationVar(&o.load, "for", 30*time.Minute, "how long the CPUs are loaded")
	flag.DurationVar(&o.pace, "pace", 10*time.Second, "the time between two looks at the members")
	flag.IntVar(&o.busy, "busy", runtime.NumCPU(), "how many threads load the CPUs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := measure(ctx, o)
	if line, e := json.Marshal(r); e == nil && r != nil {
		fmt.Println(string(line))
	}
	if err == nil {
		err = r.verdict()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "elections:", err)
		os.Exit(1)
	}
}

// Result is what was seen.
type Result struct {
	Timeout    string  `json:"electionTimeout"`
	Profile    string  `json:"failoverProfile"`
	Processors int     `json:"processors"`
	Busy       int     `json:"busyThreads"`
	Seconds    float64 `json:"seconds"`
	// Elections is how often a member saw another leader, for the member that saw it most often.
	Elections int `json:"elections"`
	// Leaderless are looks at which a member knew of no leader, and Looks all of them that were answered. Missed were not.
	Leaderless int `json:"leaderlessLooks"`
	Looks      int `json:"looks"`
	Missed     int `json:"missedLooks"`
	// Restarted are members whose process was another one at the end: what they had counted is lost.
	Restarted []string `json:"restarted"`
	// Members is how often each member saw another leader.
	Members map[string]int `json:"members"`
}

// member is one member at one moment.
type member struct {
	started, changes float64
	leader           bool
}

// measure builds a cluster, loads the machine, and removes the cluster.
func measure(ctx context.Context, o options) (r *Result, err error) {
	c := spec.DefaultLab(name)
	c.Spec.Failover.Profile, c.Spec.Failover.ElectionTimeout = o.profile, o.timeout
	text, err := spec.Marshal(c)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "spec.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	if err := o.command(ctx, "down", "--name", name); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.command(context.WithoutCancel(ctx), "down", "--name", name)) }()
	if err := o.command(ctx, "up", "-f", file, "--name", name); err != nil {
		return nil, err
	}
	machines, err := lab.Open(name)
	if err != nil {
		return nil, err
	}
	var members []string
	for _, h := range c.EtcdHosts() {
		members = append(members, h.Name)
	}
	r = &Result{Timeout: o.timeout, Profile: o.profile, Processors: runtime.NumCPU(), Busy: o.busy}
	look := func() map[string]member {
		out := map[string]member{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, host := range members {
			wg.Go(func() {
				m, err := ask(ctx, machines, host)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s: %v\n", host, err)
					return
				}
				out[host] = m
			})
		}
		wg.Wait()
		return out
	}
	before := look()
	began := time.Now()
	rest := burn(o.busy)
	defer rest()
	last := map[string]member{}
	for tick := time.NewTicker(o.pace); time.Since(began) < o.load && ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-tick.C:
			now := look()
			r.add(len(members), now)
			for host, m := range now {
				last[host] = m
			}
		}
	}
	r.Seconds = time.Since(began).Seconds()
	rest()
	final := look() // an answer of a machine that is not busy, if the last one was missed
	for host, m := range final {
		last[host] = m
	}
	r.count(members, before, last)
	return r, ctx.Err()
}

// add counts one look at the members.
func (r *Result) add(members int, seen map[string]member) {
	r.Looks += len(seen)
	r.Missed += members - len(seen)
	for _, m := range seen {
		if !m.leader {
			r.Leaderless++
		}
	}
}

// count compares the members at the beginning and at the end. One that was not seen both times counts as restarted: nobody can tell.
func (r *Result) count(members []string, before, after map[string]member) {
	r.Members, r.Restarted = map[string]int{}, []string{}
	for _, host := range members {
		a, had := before[host]
		b, has := after[host]
		if !had || !has || a.started != b.started {
			r.Restarted = append(r.Restarted, host)
			continue
		}
		r.Members[host] = int(b.changes - a.changes)
		r.Elections = max(r.Elections, r.Members[host])
	}
	slices.Sort(r.Restarted)
}

// verdict is an error unless it is certain that there was no election.
func (r *Result) verdict() error {
	switch {
	case len(r.Restarted) > 0:
		return fmt.Errorf("nobody can tell: %s restarted, or could not be asked", strings.Join(r.Restarted, ", "))
	case r.Elections > 0:
		return fmt.Errorf("%d elections in %.0f s, and nothing had failed", r.Elections, r.Seconds)
	}
	return nil
}

// burn keeps CPUs busy until it is told to stop, which it can be told more than once.
func burn(threads int) (rest func()) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			for x := uint64(1); !stop.Load(); {
				for range 1 << 16 {
					x = x*6364136223846793005 + 1442695040888963407
				}
				sink.Store(x)
			}
		})
	}
	return func() {
		stop.Store(true)
		wg.Wait()
	}
}

// sink keeps the compiler from leaving the work out.
var sink atomic.Uint64

// ask reads the metrics of one member, on its machine.
func ask(ctx context.Context, l *lab.Lab, host string) (member, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	if err := l.Exec(ctx, host, []string{"sh", "-c", `printf 'GET /metrics HTTP/1.0\r\n\r\n' | socat -t 10 - TCP:127.0.0.1:2381`}, nil, &out, &errOut); err != nil {
		return member{}, fmt.Errorf("%w: %s", err, strings.TrimSpace(errOut.String()))
	}
	_, body, found := strings.Cut(out.String(), "\r\n\r\n")
	if !found {
		return member{}, errors.New("no answer")
	}
	return read(body)
}

// read finds in metrics what is counted.
func read(metrics string) (member, error) {
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(metrics))
	if err != nil {
		return member{}, err
	}
	value := func(name string) float64 {
		list := families[name].GetMetric()
		if len(list) != 1 {
			err = errors.Join(err, errors.New("the member does not tell "+name))
			return 0
		}
		return list[0].GetGauge().GetValue() + list[0].GetCounter().GetValue() + list[0].GetUntyped().GetValue()
	}
	m := member{started: value("process_start_time_seconds"), changes: value("etcd_server_leader_changes_seen_total"), leader: value("etcd_server_has_leader") == 1}
	return m, err
}

// command runs quorate. What it prints is no part of the result.
func (o options) command(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, o.quorate, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("quorate %s: %w", args[0], err)
	}
	return nil
}
