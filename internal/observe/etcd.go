package observe

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// etcdMembers are the routes to the members that can be expected: on the hosts that have one, or from every control plane to
// every endpoint of an etcd elsewhere, because a single route may be broken although the member is not. Hosts that cannot be
// queried are included, with the reason.
func etcdMembers(c *spec.Cluster, conns *host.Set, obs *facts.Observation) (members []etcd.Member) {
	if !c.ExistingEtcd() {
		for _, h := range c.EtcdHosts() {
			conn, err := session(conns, obs, h.Name)
			m := etcd.On(h.Name, h.Address, conn, err, obs)
			if f := obs.Hosts[h.Name].Facts; m.Conn != nil && !f.Kubernetes.EtcdData && !slices.Contains(f.Kubernetes.Manifests, "etcd") {
				continue
			}
			members = append(members, m)
		}
		return members
	}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		m := etcd.Member{Host: h.Name}
		m.Conn, m.Err = session(conns, obs, h.Name)
		if m.Conn != nil && obs.Hosts[h.Name].Facts.Kubernetes.EtcdClient == "" {
			continue
		}
		for _, endpoint := range c.Spec.Etcd.Endpoints {
			if u, err := url.Parse(endpoint); err == nil {
				m.Address = u.Host
				members = append(members, m)
			}
		}
	}
	return members
}

// emptyHosts tells what is known of members whose host has nothing of etcd: a machine that was replaced, or a disk. Nobody could be
// asked there, and still it is certain that the member does not work.
func emptyHosts(c *spec.Cluster, obs *facts.Observation) {
	for i := range obs.Etcd {
		m := &obs.Etcd[i]
		h, known := c.Host(m.Name)
		f := obs.Hosts[m.Name].Facts
		if !known || m.Unknown == "" || f == nil || m.PeerURL != spec.PeerURL(h.Address) {
			continue
		}
		if k := f.Kubernetes; !k.EtcdData && !slices.Contains(k.Manifests, "etcd") && f.Units[hostconfig.EtcdUnit] != "active" {
			m.Unknown, m.Problem = "", "its host has nothing of etcd"
		}
	}
}

// session returns the session to a host that has answered, or why there is none.
func session(conns *host.Set, obs *facts.Observation, name string) (*host.Conn, error) {
	conn, err := conns.Get(name)
	if err != nil {
		return nil, err
	}
	if seen := obs.Hosts[name]; seen.Facts == nil {
		return nil, errors.New(seen.Error)
	}
	return conn, nil
}

// existingEtcd reads the caller's files and, as long as no cluster is complete on it, tests the etcd from every control plane.
func existingEtcd(ctx context.Context, c *spec.Cluster, conns *host.Set, obs *facts.Observation) {
	obs.ExistingEtcd = etcd.Describe(c.Spec.Etcd)
	for _, h := range obs.Hosts {
		if h.Facts != nil && h.Facts.Kubernetes.Established {
			return
		}
	}
	files, err := etcd.Files(c.Spec.Etcd)
	if err != nil {
		return
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		conn, err := conns.Get(h.Name)
		if err != nil {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, 2*hostTimeout, fmt.Errorf("no answer within %s", 2*hostTimeout))
			defer cancel()
			probe, err := etcd.Probe.On(ctx, conn, etcd.ProbeRequest{Endpoints: c.Spec.Etcd.Endpoints, Client: files})
			if err != nil {
				probe.Error = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			seen := obs.Hosts[h.Name]
			seen.EtcdProbe = &probe
			obs.Hosts[h.Name] = seen
		})
	}
	wg.Wait()
}
