// Package clients is the load of a drill: clients that use a cluster in every way in which clients use one, while it is damaged or changed, and
// what they experience. Those of the endpoint and of NodePorts run in this process. Those of a node run in one pod of that node, with this same
// program, and log on its host, where they are read without the cluster's help.
package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/drill/ledger"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/drillpods"
	"quorate.dev/quorate/internal/spec"
)

// Options say which clients run, and where. Zero durations stand for those with which failover was measured.
type Options struct {
	Cluster *spec.Cluster
	// Conns are the sessions to the hosts.
	Conns *host.Set
	// Config is that of the API through the endpoint, and API its client.
	Config *rest.Config
	API    kubernetes.Interface
	// Image is one that every node has; only its name matters. If it is empty, one is found.
	Image string
	// Pace is the time between two requests of the clients that open a connection for each and read or write: 50 ms. StreamPace is that of
	// the other clients of the endpoint, 200 ms, and PodPace that of clients in pods and of NodePorts, 500 ms. With these, a cluster of three control
	// planes and two workers has to serve about 150 requests a second to its API, 60 of them on new connections, and 60 to a workload and DNS.
	Pace, StreamPace, PodPace time.Duration
	// Timeout is that of a request, 2 s, and SampleTimeout that of the one of each second that counts for seconds of disruption, 10 s: see
	// probe.Options.
	Timeout, SampleTimeout time.Duration
	// Namespace is created, and removed in the end: quorate-drill.
	Namespace string
	// Pods has clients run in a pod on every node, and a workload for them to use.
	Pods bool
	// Few leaves out clients of the endpoint and of pods that show much the same as others, for a computer that is busy with what they measure.
	Few bool
	// Every adds clients, so that each way to the API has every operation on every kind of connection. What a drill reports does not have them.
	Every bool
	// Ready adds clients that learn when API servers stop: see probe.Summary.Late.
	Ready bool
	// LagLimit is by how much the process of clients may run late until what they report is not valid: 250 ms, which is as precise as outages
	// are promised.
	LagLimit time.Duration
	// Dir is a local directory for a copy of all logs; none if it is empty.
	Dir string
}

func (o *Options) fill() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Pace, 50*time.Millisecond)
	def(&o.StreamPace, 200*time.Millisecond)
	def(&o.PodPace, 500*time.Millisecond)
	def(&o.Timeout, 2*time.Second)
	def(&o.SampleTimeout, 10*time.Second)
	def(&o.LagLimit, 250*time.Millisecond)
	if o.Namespace == "" {
		o.Namespace = "quorate-drill"
	}
}

// requests are the options of clients with a pace.
func (o Options) requests(pace time.Duration) probe.Options {
	return probe.Options{Pace: pace, StreamPace: o.StreamPace, Timeout: o.Timeout, SampleTimeout: o.SampleTimeout, Namespace: o.Namespace}
}

const (
	// background is the time between two reads of the logs of pods when nobody asks for them: what has been read need not be read when
	// somebody waits, and the clients know that somebody reads.
	background = 30 * time.Second
	// readTimeout is how long a host may take to return what its clients logged.
	readTimeout = 10 * time.Second
	// settling is how much longer than a request may take until it is logged.
	settling = 10 * time.Second
	// reachable is how long a NodePort may take until it is reached from here.
	reachable = 20 * time.Second
)

// Clients are running clients. Its methods can be called from several goroutines, except for Start, Equip, Join, Leave, and Stop.
type Clients struct {
	options   Options
	image     string
	tolerated []corev1.Toleration // by the workload
	service   *corev1.Service     // of the workload
	logs      *logs
	cancel    context.CancelFunc // ends the background
	wg        sync.WaitGroup

	mu        sync.Mutex
	registers *probe.Set  // the clients whose history is checked
	nodes     []spec.Host // with clients of their own
	pods      map[string]*podLog
	expected  []*expected
	processes map[string]*process
	arch      string // of the nodes that the workload runs on, if they have several; empty otherwise
	omitted   []string
	// cleared are the counts of writes that were checked and removed.
	cleared struct{ lost, acknowledged int }
}

// expected is a client and the interval in which it must run. It ends with its node. The interval of one that came with a new node
// begins with its first log line.
type expected struct {
	probe.Client
	pace     time.Duration
	from, to time.Time
}

// process is a set of clients in this process, with a log of its own.
type process struct {
	set    *probe.Set
	enough context.CancelFunc
	told   chan error
}

// Start creates everything that clients need, and waits until all of them run without a failure. It first removes what an earlier process has
// left. If it fails, it removes what it has created.
func Start(ctx context.Context, o Options) (_ *Clients, err error) {
	o.fill()
	if err := Remove(ctx, o); err != nil {
		return nil, err
	}
	c := &Clients{options: o, image: o.Image, logs: newLogs(), cancel: func() {}, pods: map[string]*podLog{}, processes: map[string]*process{}}
	if o.Pods {
		c.nodes = chosen(o.Cluster, mostNodes)
	}
	defer func() {
		if err != nil {
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
			defer cancel()
			err = errors.Join(err, c.Stop(cleanup))
		}
	}()
	if err := createNamespace(ctx, o.API, o.Namespace); err != nil {
		return nil, err
	}
	if o.Pods {
		if err := c.startPods(ctx); err != nil {
			return nil, err
		}
	}
	if _, err := c.run(ctx, endpoint, endpointClients(o)); err != nil {
		return nil, err
	}
	if !o.Few {
		if c.registers, err = c.run(ctx, "registers", registerClients()); err != nil {
			return nil, err
		}
	}
	for _, h := range c.nodes {
		address := c.nodePortClients(h)[0].Address
		if err := reach(ctx, address); err != nil {
			c.omitted = append(c.omitted, fmt.Sprintf("NodePorts are not used: %s cannot be reached from here: %v", address, err))
			break
		}
	}
	for _, h := range o.Cluster.Spec.Hosts {
		if err := c.runFor(ctx, h); err != nil {
			return nil, err
		}
	}
	life, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.wg.Go(func() { c.readOn(life) })
	if err := c.AllRun(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// startPods starts the workload, and the clients in pods.
func (c *Clients) startPods(ctx context.Context) error {
	list, err := c.options.API.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if c.image == "" {
		if c.image, err = imageOf(list.Items, c.nodes); err != nil {
			return err
		}
	}
	c.tolerated = forWorkload(list.Items, c.options.Cluster.Spec.Hosts)
	if c.service, err = c.deployWorkload(ctx, list.Items); err != nil {
		return fmt.Errorf("starting the workload: %w", err)
	}
	for _, h := range c.nodes {
		if err := c.Equip(ctx, h); err != nil {
			return err
		}
		c.follow(h)
	}
	if err := c.ready(ctx, webApp, replicas); err != nil {
		return err
	}
	if err := c.deployClients(ctx, list.Items); err != nil {
		return fmt.Errorf("starting the clients in pods: %w", err)
	}
	return c.ready(ctx, clientsApp, len(c.nodes))
}

// Equip tells the clients on a host what to do when their pod starts there. The host need not be a node yet.
func (c *Clients) Equip(ctx context.Context, h spec.Host) error {
	content, err := json.Marshal(orders{c.options.requests(c.options.PodPace), c.podClients(h)})
	if err != nil {
		return err
	}
	conn, err := c.options.Conns.Get(h.Name)
	if err == nil {
		_, err = drillpods.Put.On(ctx, conn, content)
	}
	if err != nil {
		return fmt.Errorf("bringing the clients to their host: %w", err)
	}
	return nil
}

func (c *Clients) podClients(h spec.Host) []probe.Client {
	peer := peerOf(c.nodes, h)
	if c.options.Few {
		peer = spec.Host{}
	}
	out := podClients(h, peer, c.service.Spec.ClusterIP)
	if c.options.Every {
		out = append(out, more(out, apiClientsIn(h))...)
	}
	return out
}

// follow expects the clients of a node, and reads what they log.
func (c *Clients) follow(h spec.Host) {
	c.expect(c.podClients(h), c.options.PodPace, time.Time{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods[h.Name] = &podLog{host: h.Name, dir: c.options.Dir, to: c.logs, from: map[string]int64{}}
}

// expect expects clients to run from a moment on, or, if that is not known, from their first request.
func (c *Clients) expect(clients []probe.Client, pace time.Duration, from time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range clients {
		c.expected = append(c.expected, &expected{Client: one, pace: pace, from: from})
	}
}

// expectEnd expects clients to end at a moment.
func (c *Clients) expectEnd(which func(probe.Client) bool, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.expected {
		if e.to.IsZero() && which(e.Client) {
			e.to = at
		}
	}
}

// leavingWith are the clients that end when a host leaves: those of its node, and of its NodePort.
func leavingWith(h spec.Host) func(probe.Client) bool {
	return func(c probe.Client) bool { return c.Host == h.Name && c.Operation != probe.Ready }
}

// outside is the source of what a process here has logged.
func outside(name string) string { return "outside-" + name }

// run starts clients in this process.
func (c *Clients) run(ctx context.Context, name string, clients []probe.Client) (*probe.Set, error) {
	set, err := probe.Run(ctx, c.options.Config, clients, c.options.requests(c.options.StreamPace))
	if err != nil {
		return nil, err
	}
	telling, enough := context.WithCancel(context.Background())
	p := &process{set: set, enough: enough, told: make(chan error, 1)}
	go func() { p.told <- c.tell(telling, outside(name), set) }()
	c.mu.Lock()
	c.processes[name] = p
	c.mu.Unlock()
	c.expect(clients, c.options.StreamPace, time.Now())
	return set, nil
}

// tell adds what clients of this process experience to the logs, until ctx is done.
func (c *Clients) tell(ctx context.Context, source string, set *probe.Set) error {
	keep := func(probe.Second) error { return nil }
	if c.options.Dir != "" {
		f, err := os.Create(filepath.Join(c.options.Dir, source+".jsonl"))
		if err != nil {
			return err
		}
		defer f.Close()
		out := json.NewEncoder(f)
		keep = func(line probe.Second) error { return out.Encode(line) }
	}
	return set.Follow(ctx, func(line probe.Second) error {
		c.logs.add(source, line)
		return keep(line)
	})
}

const (
	nodePortOf = "nodeport-"
	readyzOf   = "readyz-"
)

// runFor starts the clients in this process that use one host. The one that learns when an API server stops is not on its host: it goes
// on until that server has stopped, also if the host leaves.
func (c *Clients) runFor(ctx context.Context, h spec.Host) error {
	if len(c.omitted) == 0 && slices.ContainsFunc(c.nodes, func(n spec.Host) bool { return n.Name == h.Name }) {
		if _, err := c.run(ctx, nodePortOf+h.Name, c.nodePortClients(h)); err != nil {
			return err
		}
	}
	if !c.options.Ready || !h.Has(spec.RoleControlPlane) {
		return nil
	}
	_, err := c.run(ctx, readyzOf+h.Name, readyClients(h))
	return err
}

func (c *Clients) nodePortClients(h spec.Host) []probe.Client {
	return nodePortClients(c.options, h, c.service.Spec.Ports[0].NodePort)
}

// reach waits until an address answers.
func reach(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reachable, fmt.Errorf("no answer within %s", reachable))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{Proxy: host.Direct, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		if perr := pause(ctx, 500*time.Millisecond); perr != nil {
			return fmt.Errorf("%w; last: %w", perr, err)
		}
	}
}

// Omitted says which clients do not run, and why: a firewall may keep this computer from NodePorts, and that is no failure of the cluster.
func (c *Clients) Omitted() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.omitted)
}

// end ends clients of this process, by the names of their processes.
func (c *Clients) end(names ...string) (err error) {
	c.mu.Lock()
	var ending []*process
	for _, name := range names {
		if p := c.processes[name]; p != nil {
			ending = append(ending, p)
			delete(c.processes, name)
		}
	}
	c.mu.Unlock()
	for _, p := range ending {
		p.enough()
	}
	for _, p := range ending {
		err = errors.Join(err, <-p.told)
		p.set.Stop()
	}
	return err
}

// Join starts the clients of a node that has joined, whose host is equipped, and waits for its pod.
func (c *Clients) Join(ctx context.Context, h spec.Host) error {
	c.mu.Lock()
	c.nodes = append(c.nodes, h)
	c.mu.Unlock()
	c.follow(h)
	if err := c.runFor(ctx, h); err != nil {
		return err
	}
	return c.ready(ctx, clientsApp, len(c.nodes))
}

// Leave ends the clients of a node that leaves, when other pods have to leave it too, and reads what they have logged while its host still has
// it. The pod of a DaemonSet would stay, until the host is reset and kills it with all that it has not logged yet. The client that learns when the API
// server of the host stops goes on until Left. It is for clients with Few: without, the pods of other nodes go on to use that of the node.
func (c *Clients) Leave(ctx context.Context, h spec.Host) error {
	c.expectEnd(leavingWith(h), time.Now())
	label := []byte(`{"metadata":{"labels":{"` + leavingLabel + `":""}}}`)
	if err := eventually(ctx, "ending the clients on "+h.Name, func(ctx context.Context) error {
		_, err := c.options.API.CoreV1().Nodes().Patch(ctx, h.Name, types.MergePatchType, label, metav1.PatchOptions{})
		return err
	}); err != nil {
		return err
	}
	if err := c.end(nodePortOf + h.Name); err != nil {
		return err
	}
	err := eventually(ctx, "the clients on "+h.Name+" end", func(ctx context.Context) error {
		pods, err := c.options.API.CoreV1().Pods(c.options.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(clientsApp), FieldSelector: "spec.nodeName=" + h.Name})
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }); i >= 0 {
			return fmt.Errorf("%s runs", pods.Items[i].Name)
		}
		return nil
	})
	c.mu.Lock()
	last := c.pods[h.Name]
	c.mu.Unlock()
	return errors.Join(err, last.read(ctx, c.options.Conns))
}

// Left ends what remained of the clients of a node that has left.
func (c *Clients) Left(h spec.Host) error {
	c.expectEnd(func(c probe.Client) bool { return c.Host == h.Name }, time.Now())
	c.mu.Lock()
	delete(c.pods, h.Name)
	c.nodes = slices.DeleteFunc(slices.Clone(c.nodes), func(n spec.Host) bool { return n.Name == h.Name })
	c.mu.Unlock()
	return c.end(readyzOf + h.Name)
}

// readOn reads the logs of pods now and then. What cannot be read is read later.
func (c *Clients) readOn(ctx context.Context) {
	for pause(ctx, background) == nil {
		c.readPods(ctx, func(*podLog) bool { return true })
	}
}

// readPods reads the logs of pods in parallel, and returns why one could not be read, by host.
func (c *Clients) readPods(ctx context.Context, which func(*podLog) bool) map[string]error {
	c.mu.Lock()
	var all []*podLog
	for _, p := range c.pods {
		if which(p) {
			all = append(all, p)
		}
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, fmt.Errorf("no answer within %s", readTimeout))
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed := map[string]error{}
	for _, p := range all {
		wg.Go(func() {
			if err := p.read(ctx, c.options.Conns); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[p.host] = err
			}
		})
	}
	wg.Wait()
	return failed
}

// await reads what clients logged until everything up to a moment is there, or must be. It returns, by source, what is missing and why.
func (c *Clients) await(ctx context.Context, to time.Time) map[string]error {
	deadline := to.Add(c.options.SampleTimeout + settling)
	for {
		missing := map[string]error{}
		failed := c.readPods(ctx, func(p *podLog) bool { return !c.logs.has(p.host, to) })
		c.mu.Lock()
		for name := range c.pods {
			if !c.logs.has(name, to) {
				missing[name] = fmt.Errorf("what the clients on %s experienced is known only in part: their pod has logged nothing since", name)
				if failed[name] != nil {
					missing[name] = fmt.Errorf("what the clients on %s experienced is known only in part: %w", name, failed[name])
				}
			}
		}
		for name := range c.processes {
			if !c.logs.has(outside(name), to) {
				missing[outside(name)] = fmt.Errorf("what the clients of %s experienced is known only in part", name)
			}
		}
		c.mu.Unlock()
		if len(missing) == 0 || time.Now().After(deadline) || pause(ctx, 200*time.Millisecond) != nil {
			return missing
		}
	}
}

// Summary adds up what all clients experienced in the whole seconds of an interval. It waits until all of it is known, or should be; an error says
// what is not known, and the summary has the rest.
func (c *Clients) Summary(ctx context.Context, from, to time.Time) (*probe.Summary, error) {
	err := joined(c.await(ctx, to))
	return c.logs.summary(from, to), err
}

// joined are errors by their source as one.
func joined(all map[string]error) error {
	var errs []error
	for _, source := range slices.Sorted(maps.Keys(all)) {
		errs = append(errs, all[source])
	}
	return errors.Join(errs...)
}

// Between reports what each client experienced in the whole seconds of an interval, by Kind, apart from those whose own results say nothing: see
// isInstrument. Who wants to leave out clients of hosts that were away asks On. It waits as Summary does, and returns results also with an
// error.
func (c *Clients) Between(ctx context.Context, from, to time.Time) (map[string][]probe.Result, error) {
	s, err := c.Summary(ctx, from, to)
	out := map[string][]probe.Result{}
	for _, r := range s.Results() {
		if !isInstrument(r.Client) {
			out[Kind(r.Client)] = append(out[Kind(r.Client)], r)
		}
	}
	return out, err
}

// Since returns, without waiting, what the clients in this process have experienced from a moment until now, by kind. Requests that have no
// answer yet count neither as answered nor as failed, but the time without an answer counts.
func (c *Clients) Since(_ context.Context, from time.Time) map[string]probe.Outage {
	out := map[string]probe.Outage{}
	for _, r := range c.live(from, time.Now()) {
		if isInstrument(r.Client) {
			continue
		}
		kind := Kind(r.Client)
		out[kind] = probe.Worst([]probe.Outage{out[kind], r.Outage})
	}
	return out
}

// live is what each client of this process has experienced: what it has told, and what it has not told yet.
func (c *Clients) live(from, now time.Time) (out []probe.Result) {
	c.mu.Lock()
	var sets []*probe.Set
	for _, p := range c.processes {
		sets = append(sets, p.set)
	}
	c.mu.Unlock()
	at := map[probe.Client]int{}
	add := func(r probe.Result) {
		i, known := at[r.Client]
		if !known {
			at[r.Client] = len(out)
			out = append(out, r)
			return
		}
		out[i].Outage = probe.Worst([]probe.Outage{out[i].Outage, r.Outage})
	}
	for _, set := range sets {
		for _, r := range set.Live(from, now) {
			add(r)
		}
	}
	c.logs.within(from, now, func(source string, line probe.Second) {
		if _, running := at[line.Client]; running {
			add(line.Result)
		}
	})
	return out
}

// Calm waits until, from now on, no client has failed for the given time, and the workload is spread over its nodes again. The clients in pods
// are asked when those in this process are calm.
func (c *Clients) Calm(ctx context.Context, long time.Duration) error {
	if c.options.Pods {
		if err := eventually(ctx, "the workload is spread over its nodes", c.spread); err != nil {
			return err
		}
	}
	why := errors.New("there was no time yet")
	for from := time.Now(); ; {
		now := time.Now()
		if failing := failures(c.live(from, now), c.options.Timeout); failing != nil {
			from, why = now, failing
		}
		if now.Sub(from) >= long {
			if failing := c.podsCalm(ctx, from, now); failing != nil {
				from, why = time.Now(), failing
			} else if ctx.Err() == nil {
				return nil
			}
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%w; last: %w", err, why)
		}
	}
}

// podsCalm returns why the clients in pods are not calm in an interval.
func (c *Clients) podsCalm(ctx context.Context, from, to time.Time) error {
	if err := joined(c.await(ctx, to)); err != nil {
		return err
	}
	results := c.logs.summary(from, to).Results()
	if err := failures(results, c.options.Timeout); err != nil {
		return err
	}
	return c.silent(results)
}

// failures returns which client failed, or had no success for longer than its timeout.
func failures(results []probe.Result, timeout time.Duration) error {
	for _, r := range results {
		switch {
		case r.Failed > 0:
			return fmt.Errorf("%s: %d of %d requests failed: %v", r.Client, r.Failed, r.Requests, r.Errors)
		case r.Longest > timeout:
			return fmt.Errorf("%s: no success for %s", r.Client, r.Longest.Round(time.Millisecond))
		}
	}
	return nil
}

// silent returns which client that should run has sent nothing.
func (c *Clients) silent(results []probe.Result) error {
	sent := map[probe.Client]bool{}
	for _, r := range results {
		sent[r.Client] = r.Requests > 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.expected {
		if e.to.IsZero() && !sent[e.Client] {
			return fmt.Errorf("%s: no request", e.Client)
		}
	}
	return nil
}

// AllRun waits until every client has logged some seconds without a failure: those in pods create their ledgers first. From then
// on, all of them must run: see Starved.
func (c *Clients) AllRun(ctx context.Context) error {
	err := eventually(ctx, "all clients succeed", func(ctx context.Context) error {
		now := time.Now()
		s, err := c.Summary(ctx, now.Add(-5*time.Second), now)
		if err != nil {
			return err
		}
		results := s.Results()
		if err := failures(results, c.options.Timeout); err != nil {
			return err
		}
		return c.silent(results)
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.expected {
		if e.from.IsZero() {
			e.from = time.Now()
		}
	}
	return err
}

// Starved says why figures of an interval are not valid: clients that did not run or sent too little, processes that ran late, and logs that
// could not be read. Clients on hosts that were away (see On) are left out.
func (c *Clients) Starved(ctx context.Context, from, to time.Time, away []string) (out []string) {
	for source, err := range c.await(ctx, to) {
		if !slices.Contains(away, source) {
			out = append(out, err.Error())
		}
	}
	slices.Sort(out)
	s := c.logs.summary(from, to)
	c.mu.Lock()
	for _, e := range c.expected {
		if !On(e.Client, away) {
			out = append(out, s.Starved(e.Client, e.pace, e.from, e.to)...)
		}
	}
	c.mu.Unlock()
	return append(out, c.lags(from, to, away)...)
}

// lags says which processes ran late.
func (c *Clients) lags(from, to time.Time, away []string) (out []string) {
	c.mu.Lock()
	onHost := map[string]bool{}
	for name := range c.pods {
		onHost[name] = true
	}
	c.mu.Unlock()
	late := map[string]time.Duration{}
	c.logs.within(from, to, func(source string, line probe.Second) {
		switch {
		case slices.Contains(away, source):
		case onHost[source]:
			late["the pod of the clients on "+source] = max(late["the pod of the clients on "+source], line.Lag)
		default:
			late["this computer"] = max(late["this computer"], line.Lag)
		}
	})
	for who, lag := range late {
		if lag > c.options.LagLimit {
			out = append(out, fmt.Sprintf("%s ran up to %s late: it is too busy to measure outages", who, lag.Round(time.Millisecond)))
		}
	}
	slices.Sort(out)
	return out
}

// Samples are what the clients of each kind experienced in each whole second of an interval. They wait as Summary does.
func (c *Clients) Samples(ctx context.Context, from, to time.Time) ([]drill.Sample, error) {
	_, err := c.Summary(ctx, from, to)
	return c.logs.samples(from, to), err
}

// Lost reads back every write that was acknowledged, and counts those that are missing; unknown are writes that failed or timed out, and may have
// happened. The writes of the last seconds may not be known yet.
func (c *Clients) Lost(ctx context.Context) (lost, acknowledged, unknown int, err error) {
	c.readPods(ctx, func(*podLog) bool { return true })
	ledgers, unknown := c.logs.written()
	err = eventually(ctx, "reading the writes back", func(ctx context.Context) error {
		gone, n, err := ledgers.Lost(ctx, c.options.API, c.options.Namespace)
		lost, acknowledged = len(gone), n
		return err
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	return lost + c.cleared.lost, acknowledged + c.cleared.acknowledged, unknown, err
}

// Trim forgets what clients experienced before a moment, and checks and removes what they wrote until now, so that a drill can run for days. Nothing
// can be asked of earlier times afterwards. Call it between faults.
func (c *Clients) Trim(ctx context.Context, before time.Time) error {
	c.readPods(ctx, func(*podLog) bool { return true })
	ledgers, _ := c.logs.written()
	lost, acknowledged, err := ledgers.Lost(ctx, c.options.API, c.options.Namespace)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.cleared.lost += len(lost)
	c.cleared.acknowledged += acknowledged
	c.mu.Unlock()
	c.logs.checked(ledgers)
	c.logs.forget(before)
	return ledgers.Clear(ctx, c.options.API, c.options.Namespace)
}

// ReadBack ends the clients that read and write a few objects together, and reads each object once more: without, History does not show what became
// of their last writes.
func (c *Clients) ReadBack(ctx context.Context) error {
	if c.registers == nil {
		return nil
	}
	c.expectEnd(func(c probe.Client) bool { return c.Operation == probe.Register }, time.Now())
	return c.registers.ReadBack(ctx)
}

// History is what those clients did, for a check of its consistency.
func (c *Clients) History() []ledger.Operation {
	if c.registers == nil {
		return nil
	}
	return c.registers.History()
}

// Clock converts a moment to the clock of the history.
func (c *Clients) Clock(moment time.Time) time.Duration {
	if c.registers == nil {
		return 0
	}
	return c.registers.Clock(moment)
}

// Stop ends the clients, and removes everything from the cluster and from the hosts.
func (c *Clients) Stop(ctx context.Context) error {
	err := c.Quit()
	return errors.Join(err, Remove(ctx, c.options))
}

// Quit ends the clients in this process, and leaves the rest to whoever deletes the cluster.
func (c *Clients) Quit() error {
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	var names []string
	for name := range c.processes {
		names = append(names, name)
	}
	c.mu.Unlock()
	return c.end(names...)
}

// Remove removes everything that clients created in a cluster and on its hosts, also if the process that started them was killed. It uses only the
// cluster, the sessions, the API, and the namespace of the options.
func Remove(ctx context.Context, o Options) error {
	o.fill()
	if err := removeNamespace(ctx, o.API, o.Namespace); err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, h := range o.Cluster.Spec.Hosts {
		if !h.IsNode() {
			continue
		}
		wg.Go(func() {
			conn, err := o.Conns.Get(h.Name)
			if err == nil {
				_, err = drillpods.Remove.On(ctx, conn, struct{}{})
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("removing what the clients left on their host: %w", err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
