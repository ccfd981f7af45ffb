package observe

import (
	"context"
	"sync"
	"time"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// Existing reads a running cluster as far as it takes to describe it. The spec says no more than what is known of it so far: its hosts, and
// which of them have etcd or a load balancer. What could not be read is unknown, with the reason.
func Existing(ctx context.Context, c *spec.Cluster, conns *host.Set) *facts.Observation {
	obs := &facts.Observation{Time: time.Now(), Hosts: map[string]facts.Host{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	request := facts.Request{Units: []string{"haproxy.service", "keepalived.service", hostconfig.EtcdUnit}}
	for _, h := range c.Spec.Hosts {
		wg.Go(func() {
			seen := observeHost(ctx, c, h, c.Balances(h), conns, request)
			mu.Lock()
			defer mu.Unlock()
			obs.Hosts[h.Name] = seen
		})
	}
	wg.Wait()
	if servers := controlPlanes(c, conns, obs); len(servers) > 0 {
		wg.Go(func() {
			var err error
			if obs.API, err = observeAPI(ctx, servers); err != nil {
				obs.APIError = err.Error()
			}
		})
	} else {
		obs.APIError = "no control plane that can be reached runs an API server"
	}
	if members := etcdMembers(c, conns, obs); len(members) > 0 {
		wg.Go(func() {
			var err error
			if obs.Etcd, obs.EtcdAbandoned, err = etcd.Observe(ctx, members); err != nil {
				obs.EtcdError = err.Error()
			}
		})
	}
	wg.Wait()
	return obs
}
