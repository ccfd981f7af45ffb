package spec

import (
	"fmt"
	"testing"
)

// sized is a spec with so many workers beside its control planes.
func sized(workers int) *Cluster {
	c := DefaultLab("test")
	c.Spec.Hosts = c.HostsWith(RoleControlPlane)
	for i := range workers {
		c.Spec.Hosts = append(c.Spec.Hosts, Host{Name: fmt.Sprintf("w-%d", i), Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), Roles: []string{RoleWorker}, Zone: "a"})
	}
	c.Spec.LoadBalancer.MaxConnections = 0
	c.Default()
	return c
}

// TestPlanned: hosts count, the spec says more, and never less than there is.
func TestPlanned(t *testing.T) {
	for _, tc := range []struct {
		workers     int
		size        Size
		nodes, pods int
	}{
		{2, Size{}, 5, 150},
		{2, Size{Nodes: 200}, 200, 6000},
		{2, Size{Nodes: 200, Pods: 1000}, 200, 1000},
		{2, Size{Pods: 1000}, 5, 1000},
		{97, Size{Nodes: 50}, 100, 3000},
	} {
		c := sized(tc.workers)
		c.Spec.Size = tc.size
		if nodes, pods := c.Planned(); nodes != tc.nodes || pods != tc.pods {
			t.Errorf("%d workers, %+v: %d nodes and %d pods", tc.workers, tc.size, nodes, pods)
		}
	}
}

// TestDefaultsForTheSize: what the spec says comes first, and small clusters have what they always had.
func TestDefaultsForTheSize(t *testing.T) {
	for workers, want := range map[int]int{2: 8000, 397: 8000, 398: 16000, 1000: 32000} {
		c := sized(workers)
		if got := c.Spec.LoadBalancer.MaxConnections; got != want {
			t.Errorf("%d workers: %d connections, want %d", workers, got, want)
		}
		c.Spec.LoadBalancer.MaxConnections = 5000
		if c.Default(); c.Spec.LoadBalancer.MaxConnections != 5000 {
			t.Error("a default replaces what the spec says")
		}
	}
	c := sized(2)
	c.Spec.Size.Nodes, c.Spec.LoadBalancer.MaxConnections = 900, 0
	if c.Default(); c.Spec.LoadBalancer.MaxConnections != 32000 {
		t.Errorf("planned for 900 nodes: %d connections", c.Spec.LoadBalancer.MaxConnections)
	}
}

func TestDNSReplicas(t *testing.T) {
	for _, tc := range []struct {
		workers, planned, given, want int
	}{{2, 0, 0, 2}, {29, 0, 0, 2}, {30, 0, 0, 3}, {197, 0, 0, 13}, {2, 200, 0, 5}, {197, 0, 4, 4}, {2, 0, 3, 3}, {0, 200, 0, 3}} {
		c := sized(tc.workers)
		c.Spec.Size.Nodes, c.Spec.Settings.DNS.Replicas = tc.planned, tc.given
		if got := c.DNSReplicas(); got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

// TestDNSInZones: nodes that can run CoreDNS must be in three zones before its replicas must be.
func TestDNSInZones(t *testing.T) {
	host := func(name, zone, role string) Host { return Host{Name: name, Zone: zone, Roles: []string{role}} }
	cp, worker := func(zone string) Host { return host("cp-"+zone, zone, RoleControlPlane) }, func(zone string) Host { return host("w-"+zone, zone, RoleWorker) }
	tainted := func(effect string) []NodePool {
		return []NodePool{{Name: "gpu", Hosts: []string{"w-c"}, Taints: []Taint{{Key: "gpu", Effect: effect}}}}
	}
	for name, tc := range map[string]struct {
		hosts []Host
		pools []NodePool
		want  bool
	}{
		"three zones":                        {[]Host{cp("a"), cp("b"), cp("c")}, nil, true},
		"two zones":                          {[]Host{cp("a"), cp("b"), worker("a"), worker("b")}, nil, false},
		"one control plane, three workers":   {[]Host{cp("a"), worker("a"), worker("b"), worker("c")}, nil, true},
		"the third has a load balancer":      {[]Host{cp("a"), cp("b"), host("lb-c", "c", RoleLoadBalancer)}, nil, false},
		"the third has etcd":                 {[]Host{cp("a"), cp("b"), host("etcd-c", "c", RoleEtcd)}, nil, false},
		"the third takes only other pods":    {[]Host{cp("a"), cp("b"), worker("c")}, tainted("NoSchedule"), false},
		"the third evicts other pods":        {[]Host{cp("a"), cp("b"), worker("c")}, tainted("NoExecute"), false},
		"the third would rather have others": {[]Host{cp("a"), cp("b"), worker("c")}, tainted("PreferNoSchedule"), true},
		"no zones":                           {[]Host{cp(""), worker("")}, nil, false},
	} {
		c := &Cluster{}
		c.Spec.Hosts, c.Spec.NodePools = tc.hosts, tc.pools
		if got := c.DNSInZones(); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
