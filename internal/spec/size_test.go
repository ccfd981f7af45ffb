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
