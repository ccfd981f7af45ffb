// Package components asks the programs of a cluster on one host whether they work, and which versions of them run. It
// changes nothing.
package components

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/containerd"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Request says which programs are expected on a host.
type Request struct {
	// Expect are names as in facts.Host.Components.
	Expect []string `json:"expect"`
	// APIServer asks for the version of the kube-apiserver that runs.
	APIServer bool `json:"apiServer,omitempty"`
	// Starts asks since when programs run that are asked elsewhere whether they work: names as in facts.Host.Started. With facts.Etcd, it also asks how
	// fast the disk of the member is, and its network to the others.
	Starts []string `json:"starts,omitempty"`
}

// Report is what a host says of its components.
type Report struct {
	Components       map[string]facts.Component `json:"components"`
	APIServerVersion string                     `json:"apiServerVersion,omitempty"`
	Started          map[string]time.Time       `json:"started,omitempty"`
	EtcdDisk         *facts.Durations           `json:"etcdDisk,omitempty"`
	EtcdRoundTrips   map[string]facts.Durations `json:"etcdRoundTrips,omitempty"`
	Overlay          *facts.Overlay             `json:"overlay,omitempty"`
}

// Read asks all expected programs in parallel. A program that does not answer as it should is queried once more before that
// counts. Read returns within Patience, whatever hangs.
var Read = host.Define("components.read", func(ctx context.Context, req Request) (Report, error) {
	return newReader("/", "/proc").read(ctx, req)
}, host.Reads)

// Timeouts of the first and the second question to a program, and the pause between them.
const (
	firstTimeout  = time.Second
	secondTimeout = 2 * time.Second
	pause         = 250 * time.Millisecond

	// Patience is how long Read takes at most, with a reserve for a busy host.
	Patience = firstTimeout + pause + secondTimeout + time.Second
)

// unitsOf are the systemd units of components.
var unitsOf = map[string][]string{
	facts.Kubelet: {"kubelet.service"}, facts.Containerd: {"containerd.service"}, facts.Approver: {hostconfig.ApproverTimer, approverService},
	facts.Watchdog: {hostconfig.WatchdogUnit}, facts.HAProxy: {"haproxy.service"}, facts.Keepalived: {"keepalived.service"},
}

const (
	approverService = hostconfig.ApproverService
	apiServer       = facts.APIServer
	flanneld        = "flanneld"

	manifests     = "/etc/kubernetes/manifests"
	kubeletConfig = "/var/lib/kubelet/config.yaml"
)

// reader reads one host. Its fields are how it does that.
type reader struct {
	root, proc           string
	first, second, pause time.Duration
	units                func(ctx context.Context, names ...string) (map[string]system.Unit, error)
	containers           func(ctx context.Context, ids ...string) (map[string]containerd.Container, error)
	version              func(ctx context.Context) (string, error) // containerd's
	kernel               kernel
}

func newReader(root, proc string) *reader {
	return &reader{root: root, proc: proc, first: firstTimeout, second: secondTimeout, pause: pause, units: system.Units, containers: containerd.Containers, version: containerd.Version, kernel: netfilter{}}
}

func (r *reader) path(name string) string { return filepath.Join(r.root, name) }

func (r *reader) read(ctx context.Context, req Request) (Report, error) {
	out := Report{Components: map[string]facts.Component{}, Started: map[string]time.Time{}}
	first, second := r.attempt(req, r.first), r.attempt(req, r.second)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, name := range req.Expect {
		if !r.setUp(name) {
			mu.Lock()
			out.Components[name] = facts.Component{Answer: facts.Answer{Problem: "it is not set up on this host"}}
			mu.Unlock()
			continue
		}
		wg.Go(func() {
			a := ask(ctx, first, name)
			if !a.component.OK {
				a = askAgain(ctx, second, name, a)
			}
			mu.Lock()
			defer mu.Unlock()
			out.Components[name] = a.component
			if a.overlay != nil {
				out.Overlay = a.overlay
			}
		})
	}
	if req.APIServer {
		wg.Go(func() {
			ctx, cancel := first.bound(ctx)
			defer cancel()
			out.APIServerVersion = first.programVersion(ctx, apiServer)
		})
	}
	if slices.Contains(req.Starts, facts.Etcd) {
		wg.Go(func() {
			ctx, cancel := first.bound(ctx)
			defer cancel()
			out.EtcdDisk, out.EtcdRoundTrips = etcdSpeed(ctx, hostconfig.EtcdMetrics)
		})
	}
	for _, name := range req.Starts {
		wg.Go(func() {
			at := startOf(ctx, first, name)
			if at.IsZero() { // whoever has to know would restart it
				at = startOf(ctx, second, name)
			}
			if !at.IsZero() {
				mu.Lock()
				defer mu.Unlock()
				out.Started[name] = at
			}
		})
	}
	wg.Wait()
	return out, ctx.Err()
}

// tracesOf are files that show that a component was set up on a host, by whatever tool: every such host has at least one of
// them.
var tracesOf = map[string][]string{
	facts.ControllerManager: nodeTraces, facts.Scheduler: nodeTraces, facts.Kubelet: nodeTraces, facts.KubeProxy: nodeTraces, facts.Flannel: nodeTraces,
	facts.Containerd: append([]string{"/run/containerd/containerd.sock", "/etc/containerd/config.toml"}, nodeTraces...),
	facts.HAProxy:    {"/etc/haproxy/haproxy.cfg"}, facts.Keepalived: {"/etc/keepalived/keepalived.conf"},
	facts.Watchdog: {"/etc/systemd/system/" + hostconfig.WatchdogUnit}, facts.Approver: {"/etc/systemd/system/" + hostconfig.ApproverTimer},
}

var nodeTraces = []string{kubeletConfig, "/etc/kubernetes/kubelet.conf", manifests + "/kube-apiserver.yaml"}

// setUp reports whether it makes sense to query a component. Before a cluster is built, it does not.
func (r *reader) setUp(name string) bool {
	traces, ok := tracesOf[name]
	return !ok || slices.ContainsFunc(traces, func(path string) bool { return system.Exists(r.path(path)) })
}

// attempt is one reading of everything, so that what several components need is read only once.
type attempt struct {
	*reader
	timeout   time.Duration
	states    func(context.Context) (map[string]system.Unit, error)
	processes func() processes
}

func (r *reader) attempt(req Request, timeout time.Duration) *attempt {
	a := &attempt{reader: r, timeout: timeout, processes: sync.OnceValue(func() processes { return findProcesses(r.proc) })}
	var units []string
	for _, name := range req.Expect {
		units = append(units, unitsOf[name]...)
	}
	if slices.Contains(req.Starts, facts.Etcd) {
		units = append(units, hostconfig.EtcdUnit)
	}
	var once sync.Once
	var states map[string]system.Unit
	var err error
	a.states = func(ctx context.Context) (map[string]system.Unit, error) {
		once.Do(func() { states, err = r.units(ctx, units...) })
		return states, err
	}
	return a
}

func (a *attempt) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("no answer within %s", a.timeout))
}

// answer is what one component says.
type answer struct {
	component facts.Component
	overlay   *facts.Overlay
}

func ask(ctx context.Context, a *attempt, name string) (out answer) {
	if err := ctx.Err(); err != nil {
		out.component.Unknown = context.Cause(ctx).Error()
		return out
	}
	bounded, cancel := a.bound(ctx)
	defer cancel()
	switch name {
	case facts.ControllerManager, facts.Scheduler:
		out.component.Answer = a.staticPod(bounded, name)
		a.inContainer(bounded, &out.component, name)
	case facts.KubeProxy:
		out.component.Answer = a.kubeProxy(bounded)
		a.inContainer(bounded, &out.component, name)
	case facts.Flannel:
		out.component.Answer, out.overlay = a.flannel(bounded)
		a.inContainer(bounded, &out.component, flanneld)
	case facts.Kubelet:
		out.component = a.kubelet(bounded)
	case facts.Containerd:
		out.component = a.containerd(bounded)
	case facts.Approver:
		out.component.Answer = a.approver(bounded)
	case facts.Watchdog, facts.HAProxy, facts.Keepalived:
		out.component = a.daemon(bounded, unitsOf[name][0])
	default:
		out.component.Unknown = "this version of quorate does not know how to query it"
	}
	if ctx.Err() != nil && !out.component.OK {
		// The caller's time is up, or the caller has disconnected. That says nothing about the component.
		out.component.Answer = facts.Answer{Unknown: context.Cause(ctx).Error()}
	}
	return out
}

// askAgain queries a component again that did not answer as it should. Nothing follows from a single failure.
func askAgain(ctx context.Context, a *attempt, name string, before answer) answer {
	timer := time.NewTimer(a.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ask(ctx, a, name)
	case <-ctx.Done():
		if p := before.component.Problem; p != "" {
			before.component.Answer = facts.Answer{Unknown: "there was no time to query it again after the first answer: " + p}
		}
		return before
	}
}

// unit finds a unit that should be active.
func (a *attempt) unit(ctx context.Context, name string) (system.Unit, facts.Answer) {
	states, err := a.states(ctx)
	if err != nil {
		return system.Unit{}, facts.Answer{Unknown: err.Error()}
	}
	switch u := states[name]; {
	case !u.Exists:
		return u, facts.Answer{Problem: name + " does not exist"}
	case u.Active != "active":
		return u, facts.Answer{Problem: name + " is " + describe(u)}
	default:
		return u, facts.Answer{OK: true}
	}
}

// describe describes the state of a unit that is not running.
func describe(u system.Unit) string {
	switch {
	case u.Sub == "auto-restart":
		return "failing: systemd starts it again and again"
	case u.Active == "failed" && u.Result != "" && u.Result != "success":
		return "failed (" + u.Result + ")"
	case u.Skipped:
		return u.Active + ": a condition of its unit is not met"
	}
	return u.Active
}

// daemon is a systemd service that has no health check.
func (a *attempt) daemon(ctx context.Context, unit string) facts.Component {
	u, answer := a.unit(ctx, unit)
	c := facts.Component{Answer: answer}
	a.running(ctx, &c, u.PID)
	return c
}

// approver runs for a moment every few minutes: its timer must be active. A single failure is repeated by systemd.
func (a *attempt) approver(ctx context.Context) facts.Answer {
	timer, answer := a.unit(ctx, hostconfig.ApproverTimer)
	if !answer.OK {
		return answer
	}
	states, err := a.states(ctx)
	if err != nil {
		return facts.Answer{Unknown: err.Error()}
	}
	const often = 3
	switch service := states[approverService]; {
	case timer.Sub == "elapsed":
		return facts.Answer{Problem: hostconfig.ApproverTimer + " will not elapse again"}
	case !service.Exists:
		return facts.Answer{Problem: approverService + " does not exist"}
	case service.Skipped:
		return facts.Answer{Problem: approverService + " is skipped: a condition of its unit is not met"}
	case service.Restarts >= often:
		return facts.Answer{Problem: fmt.Sprintf("%s failed %d times in a row", approverService, service.Restarts)}
	}
	return answer
}

func (a *attempt) kubelet(ctx context.Context) facts.Component {
	u, answer := a.unit(ctx, "kubelet.service")
	c := facts.Component{Answer: answer}
	a.running(ctx, &c, u.PID)
	if c.Problem != "" {
		return c
	}
	var config struct {
		Port    *int   `json:"healthzPort"`
		Address string `json:"healthzBindAddress"`
	}
	if text, err := readFile(a.path(kubeletConfig)); err == nil {
		_ = yaml.Unmarshal(text, &config) // the kubelet does not start with a damaged one
	}
	port := 10248
	if config.Port != nil {
		port = *config.Port
	}
	if port == 0 {
		return c // it does not report its health, so all that can be known is that it runs
	}
	c.Answer = get(ctx, "http://"+net.JoinHostPort(loopback(config.Address), strconv.Itoa(port))+"/healthz")
	return c
}

func (a *attempt) containerd(ctx context.Context) facts.Component {
	version, err := a.version(ctx)
	u, unit := a.unit(ctx, "containerd.service")
	c := facts.Component{Answer: facts.Answer{OK: err == nil}, Version: version}
	a.running(ctx, &c, u.PID)
	switch {
	case err == nil:
	case unit.Problem != "":
		c.Problem = unit.Problem
	case errors.Is(err, fs.ErrNotExist):
		c.Problem = "its socket is missing"
	case ctx.Err() != nil:
		c.Problem = "its socket gives " + context.Cause(ctx).Error()
	default:
		c.Problem = err.Error()
	}
	return c
}

// loopback returns an address of this host at which a program listens if it is configured to listen on the given address.
func loopback(address string) string {
	switch ip := net.ParseIP(address); {
	case ip == nil || ip.IsUnspecified() && ip.To4() != nil:
		return "127.0.0.1"
	case ip.IsUnspecified():
		return "::1"
	}
	return cmp.Or(address, "127.0.0.1")
}
