// Package balancer takes control planes out of the managed load balancers' pools for their maintenance, and puts them back.
package balancer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/spec"
)

// Drain takes a control plane out of every load balancer's pool and waits until its connections have ended. Watches never end
// by themselves: after the patience what is left is closed, and its clients go on with another control plane at once. It
// returns how many connections that were.
func Drain(ctx context.Context, s *cluster.State, conns *host.Set, name string, patience time.Duration) (int, error) {
	permit, refused := s.Allow(cluster.Change{Verb: cluster.Stop, Part: cluster.PoolServer, Subject: name})
	if refused != nil {
		return 0, refused
	}
	return onEach(ctx, s.Spec, conns, permit, balancer.PoolRequest{Server: name, Drain: true, Patience: patience})
}

// Undrain lets the load balancers send clients to it again.
func Undrain(ctx context.Context, s *cluster.State, conns *host.Set, name string) error {
	permit, refused := s.Allow(cluster.Change{Verb: cluster.Start, Part: cluster.PoolServer, Subject: name})
	if refused != nil {
		return refused
	}
	_, err := onEach(ctx, s.Spec, conns, permit, balancer.PoolRequest{Server: name})
	return err
}

func onEach(ctx context.Context, c *spec.Cluster, conns *host.Set, permit cluster.Permit, r balancer.PoolRequest) (closed int, err error) {
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
				n, err = balancer.SetPool.Make(ctx, conn, permit, r)
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
		return closed, fmt.Errorf("told %d of %d load balancers (%s): %w; run it again when all answer", len(done), len(c.BalancerHosts()), strings.Join(done, ", "), err)
	}
	return closed, nil
}
