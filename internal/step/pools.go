package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/plan"
)

// leavePools takes a control plane out of the pools of the managed load balancers. Its clients stay until its API server stops.
func leavePools(ctx context.Context, e *Env, s plan.Step) error {
	return e.setPools(ctx, s, balancer.PoolRequest{Server: s.Host, Drain: true})
}

// joinPools lets the load balancers send clients to it again.
func joinPools(ctx context.Context, e *Env, s plan.Step) error {
	return e.setPools(ctx, s, balancer.PoolRequest{Server: s.Host})
}

// setPools tells every load balancer that can be reached and runs. One that cannot be reached is left out: it forgets the pools that
// it had when its host starts.
func (e *Env) setPools(ctx context.Context, s plan.Step, r balancer.PoolRequest) error {
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		told   []string
		failed []error
		absent []error
	)
	for _, h := range e.Present.BalancerHosts() {
		wg.Go(func() {
			conn, err := e.Conns.Get(h.Name)
			if err == nil {
				err = conn.Err()
			}
			if err == nil && e.hasRetired(h.Name) {
				err = fmt.Errorf("%s: its load balancer was stopped for good", h.Name)
			}
			if err == nil && !e.hasStarted(h.Name) {
				err = fmt.Errorf("%s: its load balancer does not run yet", h.Name)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				absent = append(absent, err)
				return
			}
			_, err = balancer.SetPool.Make(ctx, conn, permit, r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			told = append(told, h.Name)
		})
	}
	wg.Wait()
	slices.Sort(told)
	if len(told) == 0 {
		failed = append(failed, absent...)
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("told %d of %d load balancers (%s): %w", len(told), len(e.Present.BalancerHosts()), strings.Join(told, ", "), err)
	}
	if len(absent) > 0 {
		e.report(s, "load balancers were left out: "+errors.Join(absent...).Error())
	}
	return nil
}

// hasRetired says that a load balancer that the spec does not have any more has stopped, in this run or in an earlier one.
func (e *Env) hasRetired(host string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := e.Seen.Hosts[host].Balancer
	h, stays := e.Cluster.Host(host)
	return slices.Contains(e.retired, host) || !(stays && e.Cluster.Balances(h)) && (seen == nil || !seen.Healthy)
}

// hasStarted says that a load balancer was set up before this run, or by it. Others wait for API servers that let them share a port.
func (e *Env) hasStarted(host string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := e.Seen.Hosts[host].Balancer
	return slices.Contains(e.started, host) || seen == nil || seen.Healthy || seen.Balances()
}
