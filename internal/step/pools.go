package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/plan"
)

// drainPatience is how long connections to a control plane may take to end. Watches do not end on their own: what is left is
// closed, and its clients continue with another control plane.
const drainPatience = 5 * time.Second

// leavePools takes a control plane out of the pools of the managed load balancers, and waits until nobody is connected to it.
func leavePools(ctx context.Context, e *Env, s plan.Step) error {
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	closed, err := e.setPools(ctx, s, permit, balancer.PoolRequest{Server: s.Host, Drain: true, Patience: drainPatience})
	if err == nil && closed > 0 {
		e.note(s, fmt.Sprintf("%d connections were closed", closed))
	}
	return err
}

// joinPools lets the load balancers send clients to it again.
func joinPools(ctx context.Context, e *Env, s plan.Step) error {
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	_, err = e.setPools(ctx, s, permit, balancer.PoolRequest{Server: s.Host})
	return err
}

// setPools tells every load balancer that can be reached. One that cannot be reached is left out: it forgets the pools that it
// had when its host starts.
func (e *Env) setPools(ctx context.Context, s plan.Step, permit cluster.Permit, r balancer.PoolRequest) (closed int, err error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		told   []string
		failed []error
		absent []error
	)
	for _, h := range e.present().BalancerHosts() {
		wg.Go(func() {
			conn, err := e.Conns.Get(h.Name)
			if err == nil {
				err = conn.Err()
			}
			if err == nil && e.hasRetired(h.Name) {
				err = fmt.Errorf("%s: its load balancer was stopped, because it leaves", h.Name)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				absent = append(absent, err)
				return
			}
			n, err := balancer.SetPool.Make(ctx, conn, permit, r)
			mu.Lock()
			defer mu.Unlock()
			if closed += n; err != nil {
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
		return closed, fmt.Errorf("told %d of %d load balancers (%s): %w", len(told), len(e.present().BalancerHosts()), strings.Join(told, ", "), err)
	}
	if len(absent) > 0 {
		e.note(s, "load balancers that cannot be reached were left out: "+errors.Join(absent...).Error())
	}
	return closed, nil
}

// hasRetired says that a load balancer that leaves the cluster has stopped, in this run or in an earlier one.
func (e *Env) hasRetired(host string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := e.Seen.Hosts[host].Balancer
	return slices.Contains(e.retired, host) || e.departs(host) && (seen == nil || !seen.Healthy)
}
