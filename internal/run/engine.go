// Package run carries out plans. A run takes the lease of every host, observes the cluster, makes the plan from what it
// observed, and runs the steps: independent ones in parallel, disruptive ones one at a time. Right before a step changes
// something, its change is evaluated again on the cluster as it is then (see permit). Commands that only read use the same
// sessions and the same state.
package run

import (
	"context"
	"fmt"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// Engine is a cluster's spec with open sessions to its hosts.
type Engine struct {
	Cluster  *spec.Cluster
	Conns    *host.Set
	Progress progress.Sink
}

// Open connects to all hosts in parallel. Hosts that cannot be reached say so when they are observed.
func Open(ctx context.Context, c *spec.Cluster, sink progress.Sink) *Engine {
	targets := Targets(c)
	for i := range targets {
		name := targets[i].Name
		targets[i].Notice = func(s string) {
			sink.Emit(progress.Event{Kind: progress.Note, Host: name, ID: name + "/ssh", Detail: s})
		}
	}
	return &Engine{Cluster: c, Conns: host.DialAll(ctx, targets), Progress: sink}
}

// Targets says how the hosts of a spec are reached.
func Targets(c *spec.Cluster) []host.Target {
	var out []host.Target
	for _, h := range c.Spec.Hosts {
		out = append(out, host.Target{
			Name: h.Name, Address: h.Address, Port: h.SSH.Port, User: h.SSH.User, KeyFile: h.SSH.KeyFile,
			KnownHostsFile: h.SSH.KnownHostsFile, HostKey: h.SSH.HostKey, Jump: h.SSH.Jump,
		})
	}
	return out
}

// Close ends all sessions, and with them the lease.
func (e *Engine) Close() { e.Conns.Close() }

// Observe reads the actual condition of the cluster.
func (e *Engine) Observe(ctx context.Context) *facts.Observation {
	return observe.Observe(ctx, e.Cluster, e.Conns)
}

// State observes the cluster and evaluates it.
func (e *Engine) State(ctx context.Context) *cluster.State {
	return cluster.Evaluate(e.Cluster, e.Observe(ctx))
}

// Kubeconfig reads an administrator's kubeconfig from the first control plane that has one.
func (e *Engine) Kubeconfig(ctx context.Context) ([]byte, error) {
	var last error
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		conn, err := e.Conns.Get(h.Name)
		if err == nil {
			var raw []byte
			if raw, err = kubeadm.Admin.On(ctx, conn, struct{}{}); err == nil {
				return raw, nil
			}
		}
		last = err
	}
	return nil, fmt.Errorf("no control plane has an administrator's kubeconfig: %w", last)
}
