// Command bootstrap compares the documented kubeadm sequence, as `quorate plan --by-hand` prints it, with quorate apply: on
// the same lab machines, with the same bundle whose images are already unpacked, names that resolve, and load balancers of the
// same kind. The clock runs from before the machines boot until every node is Ready, as seen through the endpoint, and is read
// once more when every API server serves, too.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cli"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/test/guide"
)

const name = "bench"

// outcome is one run.
type outcome struct {
	Seconds    float64 // until every node was Ready
	Whole      float64 // seconds until every API server served, too
	CPUSeconds float64 // of all machines, and of this process
	Steps      []progress.Event
}

func main() {
	cli.HostSide()
	pairs := flag.Int("pairs", 3, "how many pairs of runs for each size")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := race(ctx, *pairs); err != nil {
		fmt.Fprintln(os.Stderr, "bootstrap:", err)
		os.Exit(1)
	}
}

func race(ctx context.Context, pairs int) error {
	last := map[string]any{"pairs": pairs}
	for _, controlPlanes := range []int{3, 5} {
		c, err := shape(controlPlanes)
		if err != nil {
			return err
		}
		var quorate, documented []outcome
		for i := range pairs {
			runs := []func() error{
				func() (err error) { documented, err = appendRun(ctx, c, documented, runDocumented); return err },
				func() (err error) { quorate, err = appendRun(ctx, c, quorate, runQuorate); return err },
			}
			if i%2 == 1 {
				slices.Reverse(runs) // so that neither side always runs on the warmer machine
			}
			for _, run := range runs {
				if err := run(); err != nil {
					return err
				}
			}
			d, q := documented[i], quorate[i]
			fmt.Printf("%d control planes, pair %d: documented %.1f s (%.0f CPU-seconds), quorate %.1f s (%.0f CPU-seconds), ratio %.2f; with every API server serving %.1f s and %.1f s, ratio %.2f\n",
				controlPlanes, i+1, d.Seconds, d.CPUSeconds, q.Seconds, q.CPUSeconds, q.Seconds/d.Seconds, d.Whole, q.Whole, q.Whole/d.Whole)
		}
		var ratios, whole []float64
		for i := range pairs {
			ratios = append(ratios, quorate[i].Seconds/documented[i].Seconds)
			whole = append(whole, quorate[i].Whole/documented[i].Whole)
		}
		fmt.Printf("\nWhere the time of quorate apply goes, %d control planes, last run:\n", controlPlanes)
		printSteps(quorate[pairs-1].Steps)
		last[fmt.Sprintf("ratio%d", controlPlanes)] = round(median(ratios))
		last[fmt.Sprintf("wholeRatio%d", controlPlanes)] = round(median(whole))
		if controlPlanes == 3 {
			last["seconds3"] = round(median(seconds(quorate)))
			last["documentedSeconds3"] = round(median(seconds(documented)))
			last["cpuSeconds3"] = round(quorate[pairs-1].CPUSeconds)
		}
	}
	data, err := json.Marshal(last)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", data)
	return nil
}

func round(f float64) float64 { return float64(int(f*100+0.5)) / 100 }

func seconds(all []outcome) (out []float64) {
	for _, o := range all {
		out = append(out, o.Seconds)
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func shape(controlPlanes int) (*spec.Cluster, error) {
	data, err := spec.Init(spec.InitOptions{Name: name, ControlPlanes: controlPlanes, Versions: bundle.Versions()})
	if err != nil {
		return nil, err
	}
	return spec.Check(data, "the benchmark's cluster", spec.Options{Versions: bundle.Versions(), Lab: true})
}

type runner func(context.Context, *spec.Cluster, *bundle.Bundle, progress.Sink) error

func appendRun(ctx context.Context, c *spec.Cluster, all []outcome, run runner) ([]outcome, error) {
	o, err := once(ctx, c, run)
	return append(all, o), err
}

// once creates machines, lets one of the two build its cluster, and measures the time until the cluster exists.
func once(ctx context.Context, c *spec.Cluster, run runner) (o outcome, err error) {
	b, err := sources.Bundle(ctx, c, progress.Discard)
	if err != nil {
		return o, err
	}
	// Created before the clock starts, so that both use the same disks.
	if err := machines.Seed(ctx, c, b, progress.Discard); err != nil {
		return o, err
	}
	if err := machines.Delete(ctx, name); err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, machines.Delete(context.WithoutCancel(ctx), name)) }()
	own := ownCPU()
	begin := time.Now()
	resolved, err := machines.Create(ctx, c, machines.Options{Bundle: true}, progress.Discard)
	if err != nil {
		return o, err
	}
	var mu sync.Mutex
	sink := progress.Func(func(e progress.Event) {
		if e.Kind == progress.Done {
			mu.Lock()
			defer mu.Unlock()
			o.Steps = append(o.Steps, e)
		}
	})
	watched := make(chan error, 1)
	watch, stop := context.WithTimeout(ctx, 15*time.Minute)
	defer stop()
	go func() { watched <- whole(watch, resolved, begin, &o) }()
	if err := run(ctx, resolved, b, sink); err != nil {
		return o, err
	}
	if err := <-watched; err != nil {
		return o, err
	}
	l, err := lab.Open(name)
	if err != nil {
		return o, err
	}
	used, err := l.CPUTime()
	if err != nil {
		return o, err
	}
	o.CPUSeconds = (used + ownCPU() - own).Seconds()
	return o, nil
}

// whole waits until every node is Ready, as seen through the endpoint, and then until every control plane's API server serves
// while they still are. It records both times.
func whole(ctx context.Context, c *spec.Cluster, begin time.Time, o *outcome) error {
	e := run.Open(ctx, c, progress.Discard)
	defer e.Close()
	nodes, servers := 0, len(c.HostsWith(spec.RoleControlPlane))
	for _, h := range c.Spec.Hosts {
		if h.IsNode() {
			nodes++
		}
	}
	for tick := time.NewTicker(500 * time.Millisecond); ; {
		if client, err := throughEndpoint(ctx, e); err == nil {
			now := time.Since(begin).Seconds()
			api, err := observe.API(ctx, client)
			if err == nil && ready(api) == nodes {
				if o.Seconds == 0 {
					o.Seconds = now
				}
				if n, err := apiServers(ctx, client); err == nil && n == servers {
					o.Whole = now
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster did not become healthy: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func ready(api *facts.API) (n int) {
	for _, node := range api.Nodes {
		if node.Ready {
			n++
		}
	}
	return n
}

// apiServers counts the endpoints of the API's own Service: each API server registers itself there when it serves.
func apiServers(ctx context.Context, client *kube.Client) (serving int, err error) {
	list, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	if err != nil {
		return 0, err
	}
	for _, slice := range list.Items {
		serving += len(slice.Endpoints)
	}
	return serving, nil
}

// throughEndpoint makes a client that uses the endpoint, like every client.
func throughEndpoint(ctx context.Context, e *run.Engine) (*kube.Client, error) {
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	config, err := run.ForCaller(e.Cluster, admin, true)
	if err != nil {
		return nil, err
	}
	rest, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	return kube.FromConfig(rest)
}

func runQuorate(ctx context.Context, c *spec.Cluster, b *bundle.Bundle, sink progress.Sink) error {
	e := run.Open(ctx, c, sink)
	defer e.Close()
	_, err := e.Apply(ctx, b, run.Options{}) // apply runs preflight first, as kubeadm does on the other side
	return err
}

func runDocumented(ctx context.Context, c *spec.Cluster, _ *bundle.Bundle, _ progress.Sink) error {
	return guide.Build(ctx, c)
}

func printSteps(steps []progress.Event) {
	slices.SortFunc(steps, func(a, b progress.Event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	for _, s := range steps[:min(len(steps), 20)] {
		fmt.Printf("  %6.1f s  %-10s %s\n", s.Elapsed.Seconds(), s.Host, s.Title)
	}
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
