package observe

import (
	"context"
	"fmt"
	"sync"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/spec"
)

// virtualIP has every load balancer ask its network who has the virtual IP: a machine that the spec does not name is found in
// no other way. The function that it returns waits for the answers and puts them into the observation.
func virtualIP(ctx context.Context, c *spec.Cluster, conns *host.Set) func(*facts.Observation) {
	seen := map[string]facts.AddressHolders{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, h := range c.BalancerHosts() {
		conn, err := conns.Get(h.Name)
		if c.Spec.LoadBalancer.Type != spec.BalancerManaged || err != nil {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, hostTimeout, fmt.Errorf("no answer within %s", hostTimeout))
			defer cancel()
			a, err := balancer.WhoHas.On(ctx, conn, whoHas(c, h))
			if err != nil {
				a = facts.AddressHolders{Unknown: err.Error()}
			}
			mu.Lock()
			defer mu.Unlock()
			seen[h.Name] = a
		})
	}
	return func(obs *facts.Observation) {
		wg.Wait()
		for name, a := range seen {
			h := obs.Hosts[name]
			if h.Facts != nil {
				h.VirtualIP = &a
				obs.Hosts[name] = h
			}
		}
	}
}

// whoHas is the question of one load balancer. It also looks the others up, because those that cannot be asked answer all the
// same when they have the address.
func whoHas(c *spec.Cluster, h spec.Host) balancer.WhoHasRequest {
	r := balancer.WhoHasRequest{Address: c.Spec.LoadBalancer.Address, From: h.VIPAddresses(), Quick: true}
	for _, other := range c.BalancerHosts() {
		if other.Name != h.Name {
			r.Peers = append(r.Peers, other.VIPAddresses()...)
		}
	}
	return r
}
