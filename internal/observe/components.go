package observe

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/components"
	"quorate.dev/quorate/internal/hostside/inspect"
	"quorate.dev/quorate/internal/spec"
)

// patience is how long a host may take for its facts, for a ping, and for its facts if it answers the ping but is busy.
type patience struct{ first, alive, busy time.Duration }

var hostPatience = patience{hostTimeout, 2 * time.Second, 2 * hostTimeout}

func readFacts(ctx context.Context, conn *host.Conn, request facts.Request) (facts.Facts, error) {
	return patiently(ctx, hostPatience,
		func(ctx context.Context) (facts.Facts, error) { return inspect.ReadFacts.On(ctx, conn, request) },
		func(ctx context.Context) (time.Time, error) { return inspect.ReadClock.On(ctx, conn, struct{}{}) })
}

// patiently queries a host. If the host does not answer in time but answers a ping, it is queried once more with a longer
// timeout, because a busy host is not gone.
func patiently[T, S any](ctx context.Context, p patience, ask func(context.Context) (T, error), sign func(context.Context) (S, error)) (T, error) {
	out, err := within(ctx, p.first, ask)
	if !errors.Is(err, errNoAnswer) {
		return out, err
	}
	if _, dead := within(ctx, p.alive, sign); dead != nil {
		return out, err
	}
	out, err = within(ctx, p.busy, ask)
	if errors.Is(err, errNoAnswer) {
		err = fmt.Errorf("it is alive, but too busy to report its state: %w", err)
	}
	return out, err
}

// errNoAnswer says that there was no answer in time.
var errNoAnswer = errors.New("no answer")

// within queries a host with a timeout. The error is errNoAnswer if the timeout expires.
func within[T any](ctx context.Context, timeout time.Duration, ask func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, err := ask(bounded)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		err = fmt.Errorf("%w within %s", errNoAnswer, timeout)
	}
	return out, err
}

// expected are the programs that should run on a host, if the cluster is built.
func expected(c *spec.Cluster, h spec.Host) components.Request {
	req := components.Request{APIServer: h.Has(spec.RoleControlPlane)}
	if h.Has(spec.RoleControlPlane) {
		req.Expect = append(req.Expect, facts.ControllerManager, facts.Scheduler, facts.Approver)
		req.Starts = append(req.Starts, facts.APIServer)
	}
	if slices.ContainsFunc(c.EtcdHosts(), func(e spec.Host) bool { return e.Name == h.Name }) {
		req.Starts = append(req.Starts, facts.Etcd)
	}
	if h.IsNode() {
		req.Expect = append(req.Expect, facts.Kubelet, facts.Containerd, facts.KubeProxy)
		if c.Spec.Network.CNI == spec.CNIFlannel {
			req.Expect = append(req.Expect, facts.Flannel)
		}
	}
	if c.Balances(h) {
		req.Expect = append(req.Expect, facts.HAProxy, facts.Keepalived, facts.Watchdog)
	}
	return req
}

// programs are what the hosts report about their components, or why they do not, by host.
type programs map[string]struct {
	components.Report
	err error
}

// readComponents queries every host to which there is a session. The others have no entry.
func readComponents(ctx context.Context, c *spec.Cluster, conns *host.Set) programs {
	out := programs{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, h := range c.Spec.Hosts {
		req := expected(c, h)
		conn, err := conns.Get(h.Name)
		if err != nil || len(req.Expect)+len(req.Starts) == 0 {
			continue
		}
		wg.Go(func() {
			report, err := within(ctx, components.Patience, func(ctx context.Context) (components.Report, error) { return components.Read.On(ctx, conn, req) })
			mu.Lock()
			defer mu.Unlock()
			seen := out[h.Name]
			seen.Report, seen.err = report, err
			out[h.Name] = seen
		})
	}
	wg.Wait()
	return out
}

// addComponents adds the components of hosts to an observation that is otherwise complete. Routes to other nodes can be
// checked only now, because these nodes are known from the API.
func addComponents(ctx context.Context, c *spec.Cluster, conns *host.Set, obs *facts.Observation, seen programs) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, h := range c.Spec.Hosts {
		out := obs.Hosts[h.Name]
		if out.Facts == nil {
			continue
		}
		out.Components, out.APIServerVersion, out.Overlay = map[string]facts.Component{}, seen[h.Name].APIServerVersion, seen[h.Name].Overlay
		out.Started, out.EtcdDisk, out.EtcdRoundTrips = seen[h.Name].Started, seen[h.Name].EtcdDisk, seen[h.Name].EtcdRoundTrips
		for _, name := range expected(c, h).Expect {
			answer, known := seen[h.Name].Components[name]
			if !known {
				answer.Unknown = "it was not queried"
			}
			if err := seen[h.Name].err; err != nil {
				answer = facts.Component{Answer: facts.Answer{Unknown: err.Error()}}
			}
			if belongs(c, obs, out, name) {
				out.Components[name] = answer
			}
		}
		obs.Hosts[h.Name] = out
		conn, err := conns.Get(h.Name)
		if flannel, ok := out.Components[facts.Flannel]; !ok || !flannel.OK || err != nil || wrongRoutes(h, out, obs.API) == "" {
			continue
		}
		wg.Go(func() {
			// A node that has just joined may not have existed yet when the host was queried.
			again, err := within(ctx, components.Patience, func(ctx context.Context) (components.Report, error) {
				return components.Read.On(ctx, conn, components.Request{Expect: []string{facts.Flannel}})
			})
			mu.Lock()
			defer mu.Unlock()
			judgeRoutes(h, obs, again, err)
		})
	}
	wg.Wait()
}

// judgeRoutes evaluates a second reading of the pod network of a host.
func judgeRoutes(h spec.Host, obs *facts.Observation, again components.Report, err error) {
	out := obs.Hosts[h.Name]
	out.Components = maps.Clone(out.Components)
	flannel := again.Components[facts.Flannel]
	if err != nil {
		flannel.Answer = facts.Answer{Unknown: err.Error()}
	} else if out.Overlay = again.Overlay; flannel.OK {
		if wrong := wrongRoutes(h, out, obs.API); wrong != "" {
			flannel.Answer = facts.Answer{Problem: wrong}
		}
	}
	out.Components[facts.Flannel] = flannel
	obs.Hosts[h.Name] = out
}

// belongs reports whether a component of the host's roles is expected on this host as it was found, because someone else may
// have set up the host differently.
func belongs(c *spec.Cluster, obs *facts.Observation, seen facts.Host, name string) bool {
	k := seen.Facts.Kubernetes
	switch name {
	case facts.Approver:
		return k.Begun || k.Adopted || k.Established
	case facts.Watchdog:
		return seen.Balancer == nil || seen.Balancer.Others == nil
	case facts.KubeProxy:
		// Some pod networks do without it.
		return c.Spec.Network.CNI == spec.CNIFlannel || obs.API == nil || slices.ContainsFunc(obs.API.DaemonSets, func(d facts.DaemonSet) bool {
			return d.Namespace == "kube-system" && d.Name == facts.KubeProxy
		})
	}
	return true
}

// wrongRoutes describes the pods of other nodes that a host cannot reach because its kernel has no route to them; empty if it
// has all routes. Nodes that are not Ready do not count: flannel may not run there yet.
func wrongRoutes(h spec.Host, seen facts.Host, api *facts.API) string {
	if api == nil || seen.Overlay == nil || !slices.Contains([]string{"vxlan", "host-gw"}, seen.Overlay.Backend) {
		return ""
	}
	for _, n := range api.Nodes {
		if n.Name == h.Name || n.Name == seen.Facts.Kubernetes.NodeName || !n.Ready || n.PodCIDR == "" || n.OverlayAddress == "" {
			continue
		}
		i := slices.IndexFunc(seen.Overlay.Routes, func(r facts.PodRoute) bool { return r.Subnet == n.PodCIDR })
		switch {
		case i < 0:
			return fmt.Sprintf("the route to the pods of %s (%s) is missing", n.Name, n.PodCIDR)
		case seen.Overlay.Routes[i].Lacks != "":
			return fmt.Sprintf("the route to the pods of %s (%s) leads nowhere: %s is missing", n.Name, n.PodCIDR, seen.Overlay.Routes[i].Lacks)
		case seen.Overlay.Routes[i].Node != n.OverlayAddress:
			return fmt.Sprintf("the route to the pods of %s (%s) leads to %s instead of %s", n.Name, n.PodCIDR, seen.Overlay.Routes[i].Node, n.OverlayAddress)
		}
	}
	return ""
}
