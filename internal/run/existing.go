package run

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// ReadOne reads a running cluster through one of its control planes, which is all that is known of it. It changes nothing there.
func ReadOne(ctx context.Context, login spec.Host, sink progress.Sink) (*facts.Facts, *facts.API, error) {
	login.Roles = []string{spec.RoleControlPlane}
	c := &spec.Cluster{Spec: spec.Spec{Hosts: []spec.Host{login}}}
	// Of load balancers and etcd, nothing is known yet.
	c.Spec.LoadBalancer.Type, c.Spec.ControlPlane.Topology = spec.BalancerExternal, spec.TopologyExternal
	c.Default()
	e := OpenToRead(ctx, c, sink)
	defer e.Close()
	if _, err := e.Conns.Get(login.Name); err != nil {
		return nil, nil, err
	}
	inside := *c
	inside.Spec.Hosts = slices.Clone(c.Spec.Hosts)
	inside.Spec.Hosts[0].Address = "127.0.0.1" // the address at which the caller reaches the host may be one that a gateway translates
	obs := observe.Existing(ctx, &inside, e.Conns)
	seen := obs.Hosts[login.Name]
	switch {
	case seen.Facts == nil:
		return nil, nil, fmt.Errorf("reading the cluster through %s: %s", login.Name, seen.Error)
	case !slices.Contains(seen.Facts.Kubernetes.Manifests, facts.APIServer) && seen.Facts.Kubernetes.KubeletConfig:
		return nil, nil, fmt.Errorf("reading the cluster through %s: it is a node, but no control plane: it has no static pod kube-apiserver. Name a control plane", login.Name)
	case !slices.Contains(seen.Facts.Kubernetes.Manifests, facts.APIServer):
		return nil, nil, fmt.Errorf("reading the cluster through %s: it is not part of a cluster that kubeadm built: it has no static pod kube-apiserver. Name a control plane", login.Name)
	case obs.API == nil:
		return nil, nil, fmt.Errorf("reading the cluster through %s: its API does not answer: %s. Start it, or name another control plane", login.Name, obs.APIError)
	case obs.API.Kubeadm == nil:
		return nil, nil, fmt.Errorf("reading the cluster through %s: the ConfigMap kubeadm-config contains no ClusterConfiguration: Quorate adopts clusters that kubeadm built", login.Name)
	}
	return seen.Facts, obs.API, nil
}

// FindPorts looks for sshd at other ports than those at which hosts could not be reached. It gives each host the first of its candidates at which it is
// reached, and returns the names of these hosts. The others stay as they are.
func FindPorts(ctx context.Context, hosts []spec.Host, candidates func(spec.Host) []int, sink progress.Sink) (found []string) {
	return findPorts(hosts, candidates, func(tried []spec.Host) (reached []string) {
		c := &spec.Cluster{Spec: spec.Spec{Hosts: tried}}
		c.Default()
		e := OpenToRead(ctx, c, sink)
		defer e.Close()
		for _, h := range tried {
			if _, err := e.Conns.Get(h.Name); err == nil {
				reached = append(reached, h.Name)
			}
		}
		return reached
	})
}

// findPorts tries one candidate of every host at a time.
func findPorts(hosts []spec.Host, candidates func(spec.Host) []int, reach func([]spec.Host) []string) (found []string) {
	left := make([][]int, len(hosts))
	for i, h := range hosts {
		for _, port := range candidates(h) {
			if port != cmp.Or(h.SSH.Port, spec.DefaultSSHPort) && !slices.Contains(left[i], port) {
				left[i] = append(left[i], port)
			}
		}
	}
	for {
		var tried []spec.Host
		for i, h := range hosts {
			if len(left[i]) > 0 {
				h.SSH.Port, left[i] = left[i][0], left[i][1:]
				tried = append(tried, h)
			}
		}
		if len(tried) == 0 {
			return found
		}
		for _, name := range reach(tried) {
			i := slices.IndexFunc(hosts, func(h spec.Host) bool { return h.Name == name })
			j := slices.IndexFunc(tried, func(h spec.Host) bool { return h.Name == name })
			hosts[i].SSH.Port, left[i] = tried[j].SSH.Port, nil
			found = append(found, name)
		}
	}
}

// ReadAll reads a running cluster on all of its hosts, of which ReadOne has read one and the API. It changes nothing there. Hosts that cannot be
// reached say so.
func ReadAll(ctx context.Context, c *spec.Cluster, first *facts.Facts, api *facts.API, sink progress.Sink) *facts.Observation {
	e := OpenToRead(ctx, c, sink)
	defer e.Close()
	obs := observe.Existing(ctx, c, e.Conns)
	if obs.API == nil || obs.API.Kubeadm == nil { // what was read before is as good
		obs.API, obs.APIError = api, ""
	}
	if h, known := obs.Hosts[first.Kubernetes.NodeName]; known && h.Facts == nil {
		h.Facts = first // it was reached at another address
		obs.Hosts[first.Kubernetes.NodeName] = h
	}
	return obs
}
