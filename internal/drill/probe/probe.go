// Package probe uses a cluster continuously, as its clients do, and measures how long it was unavailable. A client is a path (the
// endpoint, one API server, a Service, a NodePort, DNS), a way to use connections (new ones, kept ones, HTTP/2), and an operation (reads, writes
// to a ledger that is checked afterwards, watches that resume, requests to workloads, long-lived TCP connections, lookups). A Set
// runs any clients; a Prober runs those with which failover is measured.
package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

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
	// Timeout is the timeout of one request: 2 s. A request that takes longer has failed.
	Timeout time.Duration
	// SampleTimeout is that of the one request of each second that counts for Outage.Disruption; 0 for Timeout. If it is longer, seconds of
	// disruption can be compared with those of others, and everything else is measured with Timeout all the same: a sample that is answered
	// after Timeout counts as failed, but is no disruption.
	SampleTimeout time.Duration
	// Namespace is created for the objects that are read and written, and is deleted by Stop: quorate-probe.
	Namespace string
	// Dial connects clients that do not use the API, unless they are Echo; nil for the network's own way.
	Dial func(ctx context.Context, network, address string) (net.Conn, error) `json:"-"`
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
	o.SampleTimeout = max(o.SampleTimeout, o.Timeout)
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

// Prober runs the clients with which failover is measured.
type Prober struct {
	set *Set
}

// Start creates the objects that are read and written, and runs the clients until Stop. The address in the configuration is
// the one that is measured.
func Start(ctx context.Context, config *rest.Config, options Options) (*Prober, error) {
	options.fill()
	direct := rest.CopyConfig(config)
	direct.Proxy = host.Direct
	api, err := kubernetes.NewForConfig(direct)
	if err != nil {
		return nil, fmt.Errorf("starting the probe: %w", err)
	}
	if err := Prepare(ctx, api, options.Namespace); err != nil {
		return nil, fmt.Errorf("starting the probe: %w", err)
	}
	clients := []Client{{Path: "endpoint", Connection: New, Operation: Read}, {Path: "endpoint", Connection: New, Operation: Write}}
	for range options.Connections {
		clients = append(clients, Client{Path: "endpoint", Connection: HTTP2, Operation: Read, Pace: options.StreamPace})
	}
	set, err := Run(ctx, config, clients, options)
	if err != nil {
		return nil, errors.Join(err, Remove(ctx, api, options.Namespace))
	}
	return &Prober{set}, nil
}

// Between reports what the clients experienced in an interval. It waits for the answers to requests that were sent in it.
func (p *Prober) Between(ctx context.Context, from, to time.Time) (Report, error) {
	results, err := p.set.Between(ctx, from, to)
	return report(results), err
}

func (p *Prober) between(from, to time.Time) Report { return report(p.set.between(from, to)) }

func report(results []Result) (out Report) {
	var streams []Outage
	for _, r := range results {
		switch {
		case r.Client.Connection == HTTP2:
			streams = append(streams, r.Outage)
		case r.Client.Operation == Write:
			out.Writes = r.Outage
		default:
			out.New = r.Outage
		}
	}
	out.HTTP2 = Worst(streams)
	return out
}

// Calm waits until, from now on, every client has been answered for the given time without a failure.
func (p *Prober) Calm(ctx context.Context, long time.Duration) error {
	from := time.Now()
	return until(ctx, func() bool {
		now := time.Now()
		r := p.between(from, now)
		for _, o := range []Outage{r.New, r.Writes, r.HTTP2} {
			if o.Failed > 0 || o.Longest > p.set.options.Timeout {
				from = now
			}
		}
		return now.Sub(from) >= long
	})
}

// Lost reads back everything that was acknowledged, and lists what is missing. It also returns how many writes it checked.
func (p *Prober) Lost(ctx context.Context) (lost []int, acknowledged int, err error) {
	return p.set.Lost(ctx)
}

// Trim is Lost, and then forgets and removes what it has checked, so that the clients can run for hours: see Set.Trim. Between knows nothing of
// earlier times afterwards.
func (p *Prober) Trim(ctx context.Context) (lost []int, acknowledged int, err error) {
	return p.set.Trim(ctx)
}

// Stop ends the clients and removes what they wrote.
func (p *Prober) Stop(ctx context.Context) error {
	p.set.Stop()
	return Remove(ctx, p.set.api, p.set.options.Namespace)
}
