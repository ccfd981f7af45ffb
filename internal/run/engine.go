// Package run carries out plans. A run takes the lease of every host, observes the cluster, makes the plan from what it
// observed, and runs the steps: independent ones in parallel, disruptive ones one at a time. Right before a step changes
// something, its change is evaluated again on the cluster as it is then (see permit). Commands that only read use the same
// sessions and the same state.
package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/step"
)

// Engine is a cluster's spec with open sessions to its hosts.
type Engine struct {
	Cluster  *spec.Cluster
	Conns    *host.Set
	Progress progress.Sink

	// reads says that it does not wait for what may pass: see OpenToRead.
	reads bool

	mu sync.Mutex
	// leased says that the run holds the leases of the hosts that it can reach.
	leased bool
	// more is what the cluster remembers and the spec does not name: see cluster.State.Present and Removed.
	more observe.Hosts
	// record and removed are what was last read of them.
	record, removed string
	// abandoned are the members that the last observation set apart (see facts.Observation.EtcdAbandoned).
	abandoned []facts.EtcdMember
	// restoration is the backup that a run restores; nil if it restores none.
	restoration *step.Restoration
	// reached is the endpoint at which the cluster is reached, while another one is in the spec.
	reached spec.Endpoint
	// memory compares observations with earlier ones; nil if nobody keeps any.
	memory *memory
	// bundles are those for further architectures that were obtained, by architecture.
	bundles map[string]*bundle.Bundle
	// warned are the warnings of plans that were shown.
	warned map[string]bool
}

// Open connects to all hosts in parallel. Hosts that cannot be reached say so when they are observed.
func Open(ctx context.Context, c *spec.Cluster, sink progress.Sink) *Engine {
	return &Engine{Cluster: c, Conns: host.DialAll(ctx, noticed(Targets(c), sink)), Progress: sink}
}

// OpenToRead is Open for a command that changes nothing, or that looks again soon. It neither waits long for hosts that do not answer nor for what may pass:
// that a host could not be queried is an answer, and running the command again is free.
func OpenToRead(ctx context.Context, c *spec.Cluster, sink progress.Sink) *Engine {
	targets := noticed(Targets(c), sink)
	for i := range targets {
		targets[i].Patience = host.Brief
	}
	return &Engine{Cluster: c, Conns: host.DialAll(ctx, targets), Progress: sink, reads: true}
}

// noticed shows the keys of hosts that are seen for the first time.
func noticed(targets []host.Target, sink progress.Sink) []host.Target {
	for i := range targets {
		name := targets[i].Name
		targets[i].Notice = func(s string) {
			sink.Emit(progress.Event{Kind: progress.Note, Host: name, ID: name + "/ssh", Detail: s})
		}
	}
	return targets
}

// Targets says how the hosts of a spec are reached.
func Targets(c *spec.Cluster) []host.Target { return TargetsOf(c.Spec.Hosts) }

// TargetsOf says how hosts are reached.
func TargetsOf(hosts []spec.Host) []host.Target {
	var out []host.Target
	for _, h := range hosts {
		out = append(out, host.Target{
			Name: h.Name, Address: h.SSHAddress(), Port: h.SSH.Port, User: h.SSH.User, KeyFile: h.SSH.KeyFile,
			KnownHostsFile: h.SSH.KnownHostsFile, HostKey: h.SSH.HostKey, Jump: h.SSH.Jump, JumpKeyFiles: h.SSH.JumpKeyFiles(),
		})
	}
	return out
}

// Close ends all sessions, and with them the lease.
func (e *Engine) Close() { e.Conns.Close() }

// Observe reads the actual condition of the cluster. The first time that it learns of hosts that the cluster remembers and the
// spec does not name, it opens sessions to them and looks again. So it does when it learns that the endpoint is still another one.
func (e *Engine) Observe(ctx context.Context) *facts.Observation {
	for {
		obs := observe.Observe(ctx, e.at(), e.Conns, e.others())
		if !e.learn(ctx, obs) || ctx.Err() != nil {
			if e.memory != nil {
				e.memory.recall(obs.Etcd)
			}
			return obs
		}
	}
}

// removedTimeout is how long a host that was removed while it was down may take to accept a connection.
const removedTimeout = 2 * time.Second

// at is the spec with the endpoint at which the cluster is reached.
func (e *Engine) at() *spec.Cluster {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.reached == (spec.Endpoint{}) || e.reached == e.Cluster.Endpoint() {
		return e.Cluster
	}
	return e.Cluster.WithEndpoint(e.reached)
}

func (e *Engine) others() observe.Hosts {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.more
}

// learn remembers what the cluster recorded, for observations in which the API does not answer. It says whether there are hosts or
// load balancers that were not observed, or whether the observation used an endpoint that is not that of the cluster.
func (e *Engine) learn(ctx context.Context, obs *facts.Observation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	*obs = *cluster.WithoutPast(obs)
	e.abandoned = obs.EtcdAbandoned
	if obs.API != nil {
		e.record, e.removed = obs.API.Record, obs.API.Removed
	}
	obs.LastRecord, obs.LastRemoved = e.record, e.removed
	s := cluster.Evaluate(e.Cluster, obs)
	before := e.more.Present
	e.more = observe.Hosts{Present: s.Present(), Departing: s.Departing(), Removed: s.Removed()}
	reached, asked := s.Reached().Endpoint(), e.reached
	if asked == (spec.Endpoint{}) {
		asked = e.Cluster.Endpoint()
	}
	e.reached = reached
	again := reached != asked || slices.ContainsFunc(s.Retiring(), func(h spec.Host) bool { return before == nil || !before.Balances(h) })
	others := slices.DeleteFunc(slices.Concat(e.more.Departing, e.more.Removed), func(h spec.Host) bool { _, seen := obs.Hosts[h.Name]; return seen })
	if len(others) == 0 {
		return again
	}
	targets := TargetsOf(others)
	for i := range targets {
		if e.reads {
			targets[i].Patience = host.Brief
		}
		if slices.ContainsFunc(e.more.Removed, func(h spec.Host) bool { return h.Name == targets[i].Name }) {
			targets[i].Patience.Connect = removedTimeout // it was down when it was removed, and every command waits for it
		}
	}
	e.Conns.Add(ctx, noticed(targets, e.Progress))
	return true
}

// State observes the cluster and evaluates it.
func (e *Engine) State(ctx context.Context) *cluster.State {
	return cluster.Evaluate(e.Cluster, e.Observe(ctx))
}

// Kubeconfig reads an administrator's kubeconfig from the first control plane that has a valid one. If there is none, it is one that has expired.
func (e *Engine) Kubeconfig(ctx context.Context) ([]byte, error) {
	var errs []error
	var expired []byte
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		conn, err := e.Conns.Get(h.Name)
		if err == nil {
			var raw []byte
			if raw, err = kubeadm.Admin.On(ctx, conn, struct{}{}); err == nil {
				admin, err := kube.ReadAdmin(raw)
				if err != nil || !admin.Expired(time.Now()) {
					return raw, nil // the caller says what is wrong with it
				}
				if expired == nil {
					expired = raw
				}
				continue
			}
		}
		errs = append(errs, err)
	}
	if expired != nil {
		return expired, nil
	}
	return nil, fmt.Errorf("reading an administrator's kubeconfig from a control plane: %w", errors.Join(errs...))
}
