package hostconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// fronted is the cluster of the other tests whose load balancers have a second interface.
func fronted() (*spec.Cluster, map[string]*facts.Facts) {
	c, seen := cluster(), map[string]*facts.Facts{}
	for i := range c.Spec.Hosts {
		h := &c.Spec.Hosts[i]
		f := &facts.Facts{Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "ens3"}}}
		if h.Has(spec.RoleLoadBalancer) {
			h.FrontAddress = fmt.Sprintf("192.0.2.%d", 11+i)
			f.Addresses = append(f.Addresses, facts.Address{IP: h.FrontAddress, Prefix: 26, Interface: "bond0.20"})
		}
		seen[h.Name] = f
	}
	return c, seen
}

// TestTheVirtualIPIsInItsOwnNetwork: the address, the advertisements, and the peers are all in the network that has the virtual IP, and while it
// moves from one network to another, each of the two is in its own.
func TestTheVirtualIPIsInItsOwnNetwork(t *testing.T) {
	c, seen := fronted()
	lb, other := c.HostsWith(spec.RoleLoadBalancer)[0], c.HostsWith(spec.RoleLoadBalancer)[1]
	const tracked = "track_interface {\n        ens3\n    }\n" // without it, no API server is reached
	node := fmt.Sprintf("interface ens3\n|10.0.0.100/24 dev ens3\n|unicast_src_ip %s\n|  %s min_ttl 255\n", lb.Address, other.Address)
	front := fmt.Sprintf("interface bond0.20\n|"+tracked+"|192.0.2.50/26 dev bond0.20\n|unicast_src_ip %s\n|  %s min_ttl 255\n", lb.FrontAddress, other.FrontAddress)
	for _, tc := range []struct {
		name, vip  string
		also       []spec.Endpoint
		have, lack string
	}{
		{"in the front network", "192.0.2.50", nil, front, node},
		{"in the network of the nodes", "10.0.0.100", nil, node, front},
		{"in both", "10.0.0.100", []spec.Endpoint{{Name: "api.test.internal", Port: "6443", Address: "192.0.2.50"}}, node + "|" + front, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.Spec.LoadBalancer.Address = tc.vip
			config := file(t, Balancer(c.AlsoServing(tc.also...), lb, seen[lb.Name], "CA"), KeepalivedFile)
			for want := range strings.SplitSeq(tc.have, "|") {
				if strings.Count(config, want) != 1 {
					t.Errorf("%d times %q in\n%s", strings.Count(config, want), want, config)
				}
			}
			for unwanted := range strings.SplitSeq(tc.lack, "|") {
				if tc.lack != "" && strings.Contains(config, unwanted) {
					t.Errorf("%q in\n%s", unwanted, config)
				}
			}
			for instance := range strings.SplitSeq(strings.ReplaceAll(config, tracked, ""), "vrrp_instance api-") {
				if strings.Contains(instance, "ens3") && (strings.Contains(instance, "bond0.20") || strings.Contains(instance, "192.0.2.")) {
					t.Errorf("an instance is in two networks: %s", instance)
				}
			}
		})
	}
	c.Spec.LoadBalancer.Address = "192.0.2.50"
	haproxy := file(t, Balancer(c, lb, seen[lb.Name], "CA"), HAProxyFile)
	if !strings.Contains(haproxy, " 192.0.2.0/24\n") && !strings.Contains(haproxy, " 192.0.2.0/24 ") {
		t.Errorf("clients in the front network are not the cluster's:\n%s", haproxy)
	}
	for _, cp := range c.HostsWith(spec.RoleControlPlane) {
		if !strings.Contains(haproxy, "server "+cp.Name+" "+cp.Address+":6443") {
			t.Errorf("API servers are not reached in the network of the nodes:\n%s", haproxy)
		}
	}
	if plain := file(t, PlainBalancer(c, lb), KeepalivedFile); !strings.Contains(plain, "unicast_src_ip "+lb.FrontAddress+"\n") || !strings.Contains(plain, other.FrontAddress+" min_ttl 255") {
		t.Errorf("by hand:\n%s", plain)
	}
}

// TestAFrontAddressThatIsNotUsedChangesNothing on a load balancer, so that it can be added before the virtual IP moves.
func TestAFrontAddressThatIsNotUsedChangesNothing(t *testing.T) {
	c, seen := fronted()
	without := cluster()
	for _, lb := range c.HostsWith(spec.RoleLoadBalancer) {
		former, _ := without.Host(lb.Name)
		got, want := Balancer(c, lb, seen[lb.Name], "CA").Files, Balancer(without, former, seen[lb.Name], "CA").Files
		i := slices.IndexFunc(got, func(f facts.File) bool { return f.Path == KeepalivedFile })
		if got[i].Content != want[i].Content {
			t.Errorf("%s\nwas\n%s", got[i].Content, want[i].Content)
		}
	}
}

// TestAnInterfaceThatLostItsAddressIsMissed: the virtual IP does not go to another interface because the right one is down, and keepalived keeps its configuration.
func TestAnInterfaceThatLostItsAddressIsMissed(t *testing.T) {
	c, seen := fronted()
	c.Spec.LoadBalancer.Address = "192.0.2.50"
	lb := c.HostsWith(spec.RoleLoadBalancer)[0]
	has := func() bool {
		return slices.ContainsFunc(Balancer(c, lb, seen[lb.Name], "CA").Files, func(f facts.File) bool { return f.Path == KeepalivedFile })
	}
	if !has() {
		t.Error("keepalived has no configuration")
	}
	seen[lb.Name].Addresses = seen[lb.Name].Addresses[:1]
	if has() {
		t.Error("keepalived gets a configuration without the interface")
	}
	// The other way round: the virtual IP is in the network of the nodes, and SSH reaches the host in another one.
	_, seen = fronted()
	seen[lb.Name].Addresses = seen[lb.Name].Addresses[1:]
	c.Spec.LoadBalancer.Address = "10.0.0.100"
	if has() {
		t.Error("keepalived gets a configuration with the interface of the front network")
	}
}

// TestAFrontAddressOfALoadBalancerThatWasRemoved can belong to another one by now. keepalived gets it once as a peer, and nobody is a peer of itself.
func TestAFrontAddressOfALoadBalancerThatWasRemoved(t *testing.T) {
	c, seen := fronted()
	c.Spec.LoadBalancer.Address = "192.0.2.50"
	lb, other := c.HostsWith(spec.RoleLoadBalancer)[0], c.HostsWith(spec.RoleLoadBalancer)[1]
	removed := spec.Host{Name: "lb-z", Address: "10.0.0.99", FrontAddress: lb.FrontAddress, Roles: []string{spec.RoleLoadBalancer}}
	for _, h := range []spec.Host{lb, other} {
		config := file(t, Balancer(c, h, seen[h.Name], "CA", removed), KeepalivedFile)
		want := 1
		if h.Name == lb.Name {
			want = 0
		}
		if n := strings.Count(config, lb.FrontAddress+" min_ttl 255"); n != want {
			t.Errorf("%s has the peer %s %d times:\n%s", h.Name, lb.FrontAddress, n, config)
		}
	}
}
