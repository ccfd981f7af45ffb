// Package balancer takes control planes out of the managed balancers' pools for their maintenance, and puts them back.
package balancer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// CanDrain says whether every balancer has another apiserver to send clients to.
func CanDrain(c *spec.Cluster, obs *facts.Observation, name string) error {
	asked := 0
	for _, h := range c.BalancerHosts() {
		b := obs.Hosts[h.Name].Balancer
		if b == nil || !b.Healthy {
			continue
		}
		asked++
		others := slices.ContainsFunc(b.Backends, func(s facts.Backend) bool { return s.Name != name && s.Healthy && !s.Drained })
		if !others {
			return &quorum.Refusal{Rule: quorum.RuleAPIServer, Have: 0, Need: 1,
				Message: "draining " + name + " leaves balancer " + h.Name + " without an API server to send clients to",
				Fix:     "bring another control plane back first, or end its drain"}
		}
	}
	if asked == 0 {
		return fmt.Errorf("draining %s: no balancer answers; `quorate status` says why", name)
	}
	return nil
}

// Drain takes a control plane out of every balancer's pool and waits until its connections have ended. Watches never end
// by themselves: after the patience what is left is closed, and its clients go on with another control plane at once.
// It returns how many connections that were.
func Drain(ctx context.Context, c *spec.Cluster, conns *host.Set, name string, patience time.Duration) (int, error) {
	return onEach(ctx, c, conns, balancer.PoolRequest{Server: name, Drain: true, Patience: patience})
}

// Undrain lets the balancers send clients to it again.
func Undrain(ctx context.Context, c *spec.Cluster, conns *host.Set, name string) error {
	_, err := onEach(ctx, c, conns, balancer.PoolRequest{Server: name})
	return err
}

func onEach(ctx context.Context, c *spec.Cluster, conns *host.Set, r balancer.PoolRequest) (closed int, err error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		done   []string
		failed []error
	)
	for _, h := range c.BalancerHosts() {
		wg.Go(func() {
			n := 0
			conn, err := conns.Get(h.Name)
			if err == nil {
				n, err = balancer.SetPool.On(ctx, conn, r)
			}
			mu.Lock()
			defer mu.Unlock()
			if closed += n; err != nil {
				failed = append(failed, err)
				return
			}
			done = append(done, h.Name)
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		slices.Sort(done)
		return closed, fmt.Errorf("told %d of %d balancers (%s): %w; run it again when all answer", len(done), len(c.BalancerHosts()), strings.Join(done, ", "), err)
	}
	return closed, nil
}
