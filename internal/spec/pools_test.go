package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// checked is the default lab with a change, as a file would give it.
func checked(t *testing.T, change func(*Cluster)) (*Cluster, Errors) {
	t.Helper()
	c := DefaultLab("test")
	change(c)
	c.Default()
	return c, Validate(c, Options{Lab: true})
}

func TestPoolsOfALabAreMadeAndBalanced(t *testing.T) {
	for size := 1; size <= 7; size++ {
		c, errs := checked(t, func(c *Cluster) {
			c.Spec.NodePools = []NodePool{{Name: "web", Size: size, Zones: []string{"a", "b", "c"}[:min(size, 3)]}}
		})
		if len(errs) > 0 {
			t.Fatalf("%d: %v", size, errs)
		}
		pool := c.Spec.NodePools[0]
		if len(pool.Hosts) != size || len(c.HostsWith(RoleWorker)) != 2+size {
			t.Errorf("%d: the pool has %v", size, pool.Hosts)
		}
		if w := Warnings(c); len(w) > 0 {
			t.Errorf("%d: %v", size, w)
		}
		again, before := len(c.Spec.Hosts), slices.Clone(pool.Hosts)
		if c.Default(); len(c.Spec.Hosts) != again || !slices.Equal(c.Spec.NodePools[0].Hosts, before) {
			t.Errorf("%d: a second time makes more", size)
		}
	}
	c, errs := checked(t, func(c *Cluster) { c.Spec.NodePools = []NodePool{{Name: "web", Size: 3}} })
	if len(errs) > 0 || fmt.Sprint(zonesOf(c.Spec.Hosts[len(c.Spec.Hosts)-3:])) != "map[a:1 b:1 c:1]" {
		t.Errorf("without zones: %v, %v", c.Spec.Hosts, errs)
	}
}

func TestRealPoolsNameTheirHosts(t *testing.T) {
	c := DefaultLab("test")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprintf("10.0.0.%d", 11+i)
	}
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	c.Spec.NodePools = []NodePool{{Name: "web", Size: 3}}
	c.Default()
	if errs := Validate(c, Options{}); len(errs) != 1 || !strings.Contains(errs[0].Message, "no hosts") {
		t.Errorf("%v", errs)
	}
}

func TestPoolsAndRegionsAreChecked(t *testing.T) {
	for want, change := range map[string]func(*Cluster){
		"size of the pool is 3, but it lists 2": func(c *Cluster) {
			c.Spec.NodePools = []NodePool{{Name: "web", Size: 3, Hosts: []string{"worker-a", "worker-b"}}}
		},
		"cannot have -1 hosts": func(c *Cluster) { c.Spec.NodePools = []NodePool{{Name: "web", Size: -1, Hosts: []string{"worker-a"}}} },
		"already the name": func(c *Cluster) {
			c.Spec.NodePools = []NodePool{{Name: "worker", Size: 1}}
			c.Spec.Hosts[3].Name = "worker-1"
		},
		"comes from the host's reg": func(c *Cluster) {
			c.Spec.NodePools = []NodePool{{Name: "web", Hosts: []string{"worker-a"}, Labels: map[string]string{"topology.kubernetes.io/region": "x"}}}
		},
		"cannot be a region":         func(c *Cluster) { c.Spec.Region = "not a label" },
		"`a b` cannot be a region":   func(c *Cluster) { c.Spec.Hosts[2].Region = "a b" },
		"zone `a` would be in two":   func(c *Cluster) { c.Spec.Hosts[3].Region = "north" },
		"in `south` and `worker-a` ": func(c *Cluster) { c.Spec.Region = "south"; c.Spec.Hosts[3].Region = "north" },
	} {
		_, errs := checked(t, change)
		if !strings.Contains(errs.Error(), want) {
			t.Errorf("want %q, got %v", want, errs)
		}
	}
	c, errs := checked(t, func(c *Cluster) { c.Spec.Region = "south" })
	if len(errs) > 0 || c.Spec.Hosts[0].Region != "south" {
		t.Errorf("the cluster's region does not reach its hosts: %+v, %v", c.Spec.Hosts[0], errs)
	}
}

func TestWarnings(t *testing.T) {
	if w := Warnings(DefaultLab("test")); len(w) > 0 {
		t.Errorf("the default cluster has %v", w)
	}
	zonal, errs := checked(t, func(c *Cluster) {
		c.Spec.ControlPlane.Placement = PlacementZonal
		for i := range c.Spec.Hosts[:3] {
			c.Spec.Hosts[i].Zone = "a"
		}
	})
	if w := Warnings(zonal); len(errs) > 0 || len(w) != 1 || !strings.Contains(w[0].Message, "all 3 control planes are in zone a") || w[0].Fix == "" {
		t.Errorf("zonal: %v, %v", w, errs)
	}
	for counts, uneven := range map[[3]int]bool{{1, 1, 1}: false, {2, 1, 1}: false, {2, 2, 1}: false, {3, 1, 1}: true, {2, 2, 0}: true, {1, 1, 0}: false} {
		c := DefaultLab("test")
		pool := NodePool{Name: "web", Zones: []string{"a", "b", "c"}}
		for z, n := range counts {
			for i := range n {
				h := Host{Name: fmt.Sprintf("w-%d-%d", z, i), Zone: pool.Zones[z], Roles: []string{RoleWorker}}
				c.Spec.Hosts, pool.Hosts = append(c.Spec.Hosts, h), append(pool.Hosts, h.Name)
			}
		}
		c.Spec.NodePools = []NodePool{pool}
		w := Warnings(c)
		if (len(w) == 1) != uneven {
			t.Errorf("%v: %v", counts, w)
		}
	}
}

func TestFailsWithIsChecked(t *testing.T) {
	for _, tc := range []struct {
		names []string
		want  string // the message; empty if there is none
	}{
		{[]string{"rack-1", "power.a"}, ""},
		{[]string{""}, "the name is empty"},
		{[]string{"rack 1"}, "`rack 1` cannot be the name of something that hosts share"},
		{[]string{"b"}, "`b` is also the name of a zone"},
		{[]string{"rack-1", "rack-1"}, "`rack-1` is given twice"},
	} {
		_, errs := checked(t, func(c *Cluster) { c.Spec.Hosts[0].FailsWith = tc.names })
		switch {
		case tc.want == "" && len(errs) > 0:
			t.Errorf("%q: %v", tc.names, errs)
		case tc.want != "" && (len(errs) != 1 || errs[0].Message != tc.want || !strings.HasPrefix(errs[0].Path, "spec.hosts[0].failsWith[")):
			t.Errorf("%q: got %v, want %s", tc.names, errs, tc.want)
		}
	}
	h, err := ParseHostFlag("name=cp-a,role=control-plane,zone=a,failsWith=rack-1,failsWith=power-a")
	if err != nil || !slices.Equal(h.FailsWith, []string{"rack-1", "power-a"}) {
		t.Errorf("%v, %v", h, err)
	}
	c, _ := checked(t, func(c *Cluster) { c.Spec.Hosts[0].FailsWith = []string{"rack-1", "power-a"} })
	data, err := Init(InitOptions{Hosts: c.Spec.Hosts})
	if err != nil {
		t.Fatal(err)
	}
	read, err := Check(data, "", Options{Lab: true})
	if err != nil || !slices.Equal(read.Spec.Hosts[0].FailsWith, c.Spec.Hosts[0].FailsWith) {
		t.Errorf("what init writes is read as %v, %v", read, err)
	}
}
