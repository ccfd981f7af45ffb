package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

const (
	namespace = "quorate-bench"
	// timeout is that of OpenShift's disruption monitor, so that the seconds of disruption can be compared.
	timeout = 10 * time.Second
	// late is four fifths of the shutdown delay of Quorate's API servers: load balancers and Services have had that long.
	late = 4 * time.Second
	// aftermath is how long after a change its failures still count.
	aftermath = 10 * time.Second
	// patience is how long a kubectl command is repeated, and upgradeTries how often kubeadm upgrade is tried.
	patience     = 5 * time.Minute
	upgradeTries = 3
)

// bench is one cluster with its clients.
type bench struct {
	name    string
	cluster *spec.Cluster
	lab     *lab.Lab
	// engine has the sessions through which the clients on hosts are told what to do, and what they log is read.
	engine  *run.Engine
	api     kubernetes.Interface // through the endpoint
	options clients.Options
	clients *clients.Clients
	// announces says that its API servers announce at /readyz that they stop.
	announces bool

	steps *os.File // what Quorate does, and when
	// unseen says what of the present change is not known.
	unseen []string
	// retried is how many commands of the documented procedure had to be repeated.
	retried int
}

func newBench(ctx context.Context, name string, announces bool, c *spec.Cluster, s settings) (_ *bench, err error) {
	l, err := lab.Open(c.Metadata.Name)
	if err != nil {
		return nil, err
	}
	e := run.Open(ctx, c, progress.Discard)
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	config, err := run.ForCaller(c, admin, true)
	if err != nil {
		return nil, err
	}
	through, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	through.QPS = -1
	api, err := kubernetes.NewForConfig(through)
	if err != nil {
		return nil, err
	}
	// An image that every node has with both versions.
	have, err := bundle.Open(bundle.DefaultDir(from))
	if err != nil {
		return nil, err
	}
	pause, ok := have.Image("pause")
	if !ok {
		return nil, fmt.Errorf("the bundle of %s has no image pause", from)
	}
	dir := filepath.Join("artifacts", "bench-upgrade", name)
	if s.topology == spec.TopologyExternal {
		dir += "-external"
	}
	b := &bench{name: name, announces: announces, cluster: c, lab: l, engine: e, api: api, options: clients.Options{
		Cluster: c, Conns: e.Conns, Config: through, API: api, Image: pause.Name, Namespace: namespace, Dir: dir, Pods: true, Few: true, Every: s.every, Ready: true,
		Pace: s.pace, StreamPace: s.pace, PodPace: s.pace, Timeout: timeout, SampleTimeout: timeout, LagLimit: objective}}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	b.steps, err = os.Create(filepath.Join(dir, "steps.json"))
	return b, err
}

// progress writes what Quorate does to a file next to what clients log: one JSON object per line.
func (b *bench) progress() progress.Sink {
	out := json.NewEncoder(b.steps)
	return progress.Func(func(e progress.Event) { _ = out.Encode(e) }) // for people; nothing is judged by it
}

func (b *bench) nodes() (out []spec.Host) {
	for _, h := range b.cluster.Spec.Hosts {
		if h.IsNode() {
			out = append(out, h)
		}
	}
	return out
}

// start starts the workload and all clients.
func (b *bench) start(ctx context.Context) (err error) {
	if b.clients, err = clients.Start(ctx, b.options); err != nil {
		return err
	}
	if omitted := b.clients.Omitted(); len(omitted) > 0 {
		return fmt.Errorf("clients do not run: %s", strings.Join(omitted, "; "))
	}
	return nil
}

// stop ends the clients of this process. Those in pods end with their machines.
func (b *bench) stop() (err error) {
	if b.clients != nil {
		err = b.clients.Quit()
	}
	b.engine.Close()
	return errors.Join(err, b.steps.Close())
}

// keepLogs keeps what the load balancers said: why one closed a connection is known to nobody else. A machine without any says nothing.
func (b *bench) keepLogs(ctx context.Context) error {
	for _, m := range b.lab.Machines() {
		text, err := b.on(ctx, m.Name, nil, "journalctl -q -o short-iso-precise -u haproxy -u keepalived -u "+hostconfig.WatchdogUnit+" || true")
		if err == nil {
			err = os.WriteFile(filepath.Join(b.options.Dir, m.Name+"-balancer.log"), []byte(text), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// measure does something and reports what clients experienced meanwhile. stops are the control planes whose API servers stop.
func (b *bench) measure(ctx context.Context, way string, stops []spec.Host, do func(context.Context) error) (outcome, error) {
	before, err := b.term(ctx)
	if err != nil {
		return outcome{}, err
	}
	begin := time.Now()
	err = do(ctx)
	took := time.Since(begin)
	if err != nil {
		return outcome{}, err
	}
	end := time.Now()
	if stops != nil {
		end = end.Add(aftermath)
	}
	if err := sleep(ctx, time.Until(end)); err != nil {
		return outcome{}, err
	}
	after, err := b.term(ctx)
	if err != nil {
		return outcome{}, err
	}
	s, err := b.clients.Summary(ctx, begin, end)
	if ctx.Err() != nil {
		return outcome{}, errors.Join(err, context.Cause(ctx))
	}
	o := outcome{Contender: b.name, Way: way, Seconds: took.Seconds(), Elections: after - before, AllowedElections: len(stops)}
	o.Invalid, o.Retried = b.unseen, b.retried
	b.unseen, b.retried = nil, 0
	o.judge(s, b.clients.Starved(ctx, begin, end, nil), stops, b.announces)
	o.LostWrites, o.Writes, _, err = b.clients.Lost(ctx)
	if err != nil {
		return outcome{}, err
	}
	return o, b.save(o)
}

// judge takes from the logs what clients experienced, and finds out whether they tell the whole truth.
func (o *outcome) judge(s *probe.Summary, starved []string, stops []spec.Host, announces bool) {
	o.Results, o.Excused = s.Results(), s.Excused(announces)
	o.Invalid = append(o.Invalid, starved...)
	connections, announced, unknown := s.Late(late)
	o.LateConnections = connections
	for _, n := range announced {
		o.Shutdowns += n
	}
	for _, h := range stops {
		if announces && announced[clients.OwnServer+h.Name] == 0 {
			o.Invalid = append(o.Invalid, clients.OwnServer+h.Name+" did not announce that it stops, so late connections to it are not known")
		}
	}
	for _, path := range unknown {
		o.Invalid = append(o.Invalid, path+" announced that it stops, and its certificate is not known, so late connections to it are not known")
	}
}

func (b *bench) save(o outcome) error {
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.options.Dir, o.Way+".json"), text, 0o644)
}

// term is the number of etcd's elections so far: every election has a term of its own.
func (b *bench) term(ctx context.Context) (int, error) {
	// Etcd hosts have the API servers' client certificate, too.
	text, err := b.on(ctx, b.cluster.EtcdHosts()[0].Name, nil, "etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt "+
		"--cert /etc/kubernetes/pki/apiserver-etcd-client.crt --key /etc/kubernetes/pki/apiserver-etcd-client.key endpoint status -w json")
	if err != nil {
		return 0, err
	}
	var members []struct {
		Status struct {
			RaftTerm int `json:"raftTerm"`
		}
	}
	if err := json.Unmarshal([]byte(text), &members); err != nil || len(members) == 0 {
		return 0, fmt.Errorf("etcdctl endpoint status printed %q: %w", text, err)
	}
	return members[0].Status.RaftTerm, nil
}
