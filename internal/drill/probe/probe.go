// Package probe queries an API endpoint continuously, as its clients do, and measures how long it was unavailable. It has
// clients that open a connection for each request, clients that hold HTTP/2 connections, and one that writes and remembers
// what was acknowledged.
package probe

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/host"
)

// Options say how often to query. Zero values stand for the settings with which failover was measured.
type Options struct {
	// Pace is the time between two requests of the clients that open a connection for each, and of the writer: 50 ms.
	Pace time.Duration
	// Connections is the number of HTTP/2 connections, 6, and StreamPace the time between two requests on each, 200 ms.
	Connections int
	StreamPace  time.Duration
	// Timeout is the timeout of one request: 2 s.
	Timeout time.Duration
	// Namespace is created for the objects that are read and written, and is deleted by Stop: quorate-probe.
	Namespace string
}

func (o *Options) fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Pace, 50*time.Millisecond)
	def(&o.StreamPace, 200*time.Millisecond)
	def(&o.Timeout, 2*time.Second)
	if o.Connections == 0 {
		o.Connections = 6
	}
	if o.Namespace == "" {
		o.Namespace = "quorate-probe"
	}
}

// Report is what the clients experienced in an interval.
type Report struct {
	// New opens a connection for each request and reads.
	New Outage `json:"newConnections"`
	// Writes opens a connection for each request and writes.
	Writes Outage `json:"writes"`
	// HTTP2 holds connections open and reads; the worst of them counts.
	HTTP2 Outage `json:"http2"`
}

// Longest is the longest outage of any kind.
func (r Report) Longest() time.Duration {
	return max(r.New.Longest, r.Writes.Longest, r.HTTP2.Longest)
}

// Prober is a set of running clients.
type Prober struct {
	options Options
	api     kubernetes.Interface
	writer  *writer
	stop    context.CancelFunc
	wg      sync.WaitGroup
	free    []func()

	newConns, writes record
	streams          []*record
}

// Start creates the objects that are read and written, and runs the clients until Stop. The address in the configuration is
// the one that is measured.
func Start(ctx context.Context, config *rest.Config, options Options) (*Prober, error) {
	options.fill()
	config = rest.CopyConfig(config)
	config.Proxy = host.Direct
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("starting the probe: %w", err)
	}
	p := &Prober{options: options, api: api, streams: make([]*record, options.Connections)}
	// One object more than there can be parallel writes.
	p.writer = &writer{namespace: options.Namespace, objects: int(options.Timeout/options.Pace) + 1, acked: map[int]bool{}}
	if err := p.makeObjects(ctx); err != nil {
		return nil, fmt.Errorf("starting the probe: %w", err)
	}
	if err := p.run(config); err != nil {
		p.stopClients()
		return nil, errors.Join(fmt.Errorf("starting the probe: %w", err), p.removeObjects(ctx))
	}
	return p, nil
}

// read is the object that reading clients request. A read of one object goes through etcd's quorum.
const read = "read"

func configMapPath(namespace, name string) string {
	return path.Join("/api/v1/namespaces", namespace, "configmaps", name)
}

func (p *Prober) makeObjects(ctx context.Context) error {
	ns := p.options.Namespace
	_, err := p.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	names := []string{read}
	for n := range p.writer.objects {
		names = append(names, objectName(n))
	}
	for _, name := range names {
		_, err := p.api.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func (p *Prober) run(config *rest.Config) error {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	start := func(r *record, pace time.Duration, c *client, send func(context.Context) string) {
		p.free = append(p.free, c.free)
		p.wg.Go(func() {
			every(ctx, pace, func() {
				// Not derived from ctx, so that running requests finish when the clients are stopped.
				request, cancel := context.WithTimeout(context.Background(), p.options.Timeout)
				defer cancel()
				r.do(func() string { return send(request) })
			})
		})
	}
	get := func(c *client) func(context.Context) string {
		return func(ctx context.Context) string {
			return c.send(ctx, "GET", configMapPath(p.options.Namespace, read), "", "")
		}
	}
	reader, err := newConnections(config)
	if err != nil {
		return err
	}
	if p.writer.client, err = newConnections(config); err != nil {
		return err
	}
	start(&p.newConns, p.options.Pace, reader, get(reader))
	start(&p.writes, p.options.Pace, p.writer.client, p.writer.write)
	for i := range p.streams {
		c, err := oneConnection(config)
		if err != nil {
			return err
		}
		p.streams[i] = &record{}
		start(p.streams[i], p.options.StreamPace, c, get(c))
	}
	return nil
}

// Between reports what the clients experienced in an interval. It waits for the answers to requests that were sent in it.
func (p *Prober) Between(ctx context.Context, from, to time.Time) (Report, error) {
	err := until(ctx, func() bool {
		settled := p.newConns.settled(to) && p.writes.settled(to)
		for _, r := range p.streams {
			settled = settled && r.settled(to)
		}
		return settled
	})
	return p.between(from, to), err
}

func (p *Prober) between(from, to time.Time) Report {
	out := Report{New: p.newConns.between(from, to), Writes: p.writes.between(from, to)}
	var streams []Outage
	for _, r := range p.streams {
		streams = append(streams, r.between(from, to))
	}
	out.HTTP2 = worst(streams)
	return out
}

// Calm waits until, from now on, every client has been answered for the given time without a failure.
func (p *Prober) Calm(ctx context.Context, long time.Duration) error {
	from := time.Now()
	return until(ctx, func() bool {
		now := time.Now()
		r := p.between(from, now)
		for _, o := range []Outage{r.New, r.Writes, r.HTTP2} {
			if o.Failed > 0 || o.Longest > p.options.Timeout {
				from = now
			}
		}
		return now.Sub(from) >= long
	})
}

// Lost reads back everything that was acknowledged, and lists what is missing. It also returns how many writes it checked.
func (p *Prober) Lost(ctx context.Context) (lost []int, acknowledged int, err error) {
	return p.writer.lost(ctx, p.api)
}

// Stop ends the clients and removes what they wrote.
func (p *Prober) Stop(ctx context.Context) error {
	p.stopClients()
	return p.removeObjects(ctx)
}

func (p *Prober) stopClients() {
	p.stop()
	p.wg.Wait()
	for _, free := range p.free {
		free()
	}
}

func (p *Prober) removeObjects(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		// A cluster that has just recovered from a fault may still fail a request.
		err := p.api.CoreV1().Namespaces().Delete(ctx, p.options.Namespace, metav1.DeleteOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("removing what the probe wrote: %w", err)
		case <-tick.C:
		}
	}
}
