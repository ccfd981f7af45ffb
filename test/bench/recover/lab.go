package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

const (
	// name is that of the cluster. It has a state directory of its own.
	name = "bench-recover"
	// namespace has what clients write.
	namespace = "quorate-bench"
	// timeout is that of a request.
	timeout = 10 * time.Second
	// lagLimit is by how much this process may run late until figures are not valid.
	lagLimit = 1500 * time.Millisecond
	// quiet is how long no client may fail before something is measured, and after it.
	quiet = 5 * time.Second
	// aftermath is how long after a change its failures still count.
	aftermath = 10 * time.Second
	// patience is how long something may take that happens automatically.
	patience = 5 * time.Minute
)

// whole is a cluster that survives the loss of a control plane. Its load balancers run on the control planes.
var whole = spec.InitOptions{Workers: 1, LoadBalancers: -1}

// single is the smallest cluster.
var single = spec.InitOptions{Zones: []string{"a"}, ControlPlanes: 1, Workers: -1, LoadBalancers: 1}

// machinery is a cluster on machines of a lab.
type machinery struct {
	cluster *spec.Cluster
	lab     *lab.Lab
	bundle  *bundle.Bundle
}

func shaped(o spec.InitOptions) (*spec.Cluster, error) {
	o.Name, o.Version, o.Versions = name, spec.DefaultVersion, bundle.Versions()
	text, err := spec.Init(o)
	if err != nil {
		return nil, err
	}
	return spec.Check(text, "the benchmark's cluster", spec.Options{Versions: bundle.Versions(), Lab: true})
}

// inLab makes machines for a cluster, without a cluster on them. Whatever happens, it deletes them in the end, and before that, those that a run
// left which was killed.
func inLab(ctx context.Context, shape spec.InitOptions, do func(*machinery) error) (err error) {
	c, err := shaped(shape)
	if err != nil {
		return err
	}
	b, err := sources.Bundle(ctx, c, progress.Discard)
	if err != nil {
		return err
	}
	if err := machines.Delete(ctx, name); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, machines.Delete(context.WithoutCancel(ctx), name)) }()
	resolved, err := machines.Create(ctx, c, machines.Options{Bundle: true}, progress.Discard)
	if err != nil {
		return err
	}
	l, err := lab.Open(name)
	if err != nil {
		return err
	}
	return do(&machinery{resolved, l, b})
}

// apply makes the cluster match its spec.
func (m *machinery) apply(ctx context.Context) error {
	e := run.Open(ctx, m.cluster, progress.Discard)
	defer e.Close()
	_, err := e.Apply(ctx, m.bundle, run.Options{})
	return err
}

// sh runs a command on a machine, without its network.
func (m *machinery) sh(ctx context.Context, machine, command string) error {
	var out bytes.Buffer
	if err := m.lab.Exec(ctx, machine, []string{"sh", "-ec", command}, nil, &out, &out); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// etcdOf connects to the member on a control plane, through the engine's session.
func etcdOf(ctx context.Context, e *run.Engine, h spec.Host) (store, error) {
	conn, err := e.Conns.Get(h.Name)
	if err != nil {
		return store{}, err
	}
	client, err := etcd.Connect(ctx, etcd.Member{Host: h.Name, Conn: conn, Address: h.Address + ":2379"})
	return store{client}, err
}

// load is clients that use a cluster.
type load struct {
	engine  *run.Engine
	clients *clients.Clients
}

// use starts clients of the cluster: those of the endpoint, and with pods those on every node.
func (m *machinery) use(ctx context.Context, o options, pods bool) (_ *load, err error) {
	l := &load{engine: run.Open(ctx, m.cluster, progress.Discard)}
	defer func() {
		if err != nil {
			l.engine.Close()
		}
	}()
	config, err := m.config(ctx, l.engine)
	if err != nil {
		return nil, err
	}
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	pause, ok := m.bundle.Image("pause")
	if !ok {
		return nil, errors.New("the bundle has no image pause")
	}
	l.clients, err = clients.Start(ctx, clients.Options{Cluster: m.cluster, Conns: l.engine.Conns, Config: config, API: api, Image: pause.Name, Namespace: namespace,
		Pods: pods, Few: true, Ready: pods, Pace: o.pace, StreamPace: o.pace, PodPace: o.pace, Timeout: timeout, SampleTimeout: timeout, LagLimit: lagLimit})
	return l, err
}

// config is that of an administrator, through the endpoint.
func (m *machinery) config(ctx context.Context, e *run.Engine) (*rest.Config, error) {
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	config, err := run.ForCaller(m.cluster, admin, true)
	if err != nil {
		return nil, err
	}
	through, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	through.QPS = -1
	return through, nil
}

// stop ends the clients, and removes what they created, unless the cluster is deleted anyway.
func (l *load) stop(ctx context.Context, deleted bool) error {
	defer l.engine.Close()
	if deleted {
		return l.clients.Quit()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return l.clients.Stop(ctx)
}

// failures count the requests of all clients, those that failed, and why. Clients that use one API server and no other cannot connect to it while it is
// stopped, as it has announced: that is no failure of the cluster.
func failures(results []probe.Result, excused map[string]probe.Excuse) (requests, failed int, why map[string]int) {
	why = map[string]int{}
	for _, r := range results {
		if r.Client.Operation == probe.Ready { // it only tells when an API server stops
			continue
		}
		requests += r.Requests
		n := r.Failed - excused[r.Client.String()].Requests
		if n <= 0 {
			continue
		}
		failed += n
		for text, times := range r.Errors {
			why[r.Client.String()+": "+text] += times
		}
	}
	return requests, failed, why
}
