package cluster_test

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestEveryVirtualIPCounts: while the virtual IP changes, one load balancer may have the old address and another one the new. Both are
// taken away only when another load balancer is ready.
func TestEveryVirtualIPCounts(t *testing.T) {
	f := clustertest.Whole()
	text, err := spec.NewRecord(f.Spec).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	f.Seen.API.Record = string(text)
	f.Spec.Spec.LoadBalancer.Address = "10.0.0.200"
	lb := f.Seen.Hosts["lb-b"].Facts
	lb.Addresses = append(lb.Addresses, facts.Address{IP: "10.0.0.200", Prefix: 32, Interface: "eth0"})
	s := cluster.Evaluate(f.Spec, f.Seen)
	if got := s.HeldBy("lb-b"); !slices.Equal(got, []string{"10.0.0.200"}) || !s.Holds("lb-b") || !slices.Equal(s.HeldBy("lb-a"), []string{"10.0.0.100"}) {
		t.Errorf("lb-a has %v, lb-b has %v", s.HeldBy("lb-a"), got)
	}
	seen := f.Seen.Hosts["lb-a"]
	seen.Balancer.Healthy = false
	f.Seen.Hosts["lb-a"] = seen
	s = cluster.Evaluate(f.Spec, f.Seen)
	for _, c := range []cluster.Change{{Verb: cluster.Move, Part: cluster.VirtualIP, Subject: "lb-b"}, {Verb: cluster.Restart, Part: cluster.LoadBalancer, Subject: "lb-b"}} {
		if _, r := s.Allow(c); r == nil {
			t.Errorf("%s is allowed", c)
		}
	}
}

// TestARemovedLoadBalancerWithAFormerAddressIsFound: the virtual IP changed while it was down, so none of the others keeps it from
// taking the old one.
func TestARemovedLoadBalancerWithAFormerAddressIsFound(t *testing.T) {
	f := clustertest.Whole()
	gone := spec.Host{Name: "lb-z", Address: "10.0.0.99", Zone: "z", Roles: []string{spec.RoleLoadBalancer}}
	text, err := spec.MarshalHosts([]spec.Host{gone})
	if err != nil {
		t.Fatal(err)
	}
	f.Seen.API.Removed = text
	f.Seen.Hosts["lb-z"] = facts.Host{Facts: &facts.Facts{Addresses: []facts.Address{{IP: "10.0.0.99", Interface: "eth0"}, {IP: "10.0.0.50", Interface: "eth0"}}},
		Balancer: &facts.Balancer{Healthy: true, WrittenFor: "lab", Endpoints: []string{"api.lab.internal:6443@10.0.0.50"}}}
	for _, x := range cluster.Evaluate(f.Spec, f.Seen).Findings() {
		if x.Rule == cluster.RuleRemoved && x.Severity == cluster.Critical {
			return
		}
	}
	t.Error("nothing is found")
}

// TestALostFrontAddressIsFound: the load balancer cannot have the virtual IP without the interface, and does not count.
func TestALostFrontAddressIsFound(t *testing.T) {
	for _, lost := range []bool{false, true} {
		f := clustertest.Whole()
		f.Spec.Spec.LoadBalancer.Address = "192.0.2.100"
		for i, h := range f.Spec.Spec.Hosts {
			if f.Spec.Balances(h) {
				f.Spec.Spec.Hosts[i].FrontAddress = "192.0.2.1" + h.Address[len("10.0.0."):]
				seen := f.Seen.Hosts[h.Name].Facts
				if !lost || h.Name != "lb-b" {
					seen.Addresses = append(seen.Addresses, facts.Address{IP: f.Spec.Spec.Hosts[i].FrontAddress, Prefix: 24, Interface: "eth1"})
				}
			}
		}
		s := cluster.Evaluate(f.Spec, f.Seen)
		found := slices.ContainsFunc(s.Findings(), func(x cluster.Finding) bool {
			return x.Rule == cluster.RuleLoadBalancer && slices.Contains(x.Subjects, "lb-b") && strings.Contains(x.Summary, "frontAddress 192.0.2.117")
		})
		if found != lost || s.Serves("lb-b").OK == lost || !s.Serves("lb-a").OK {
			t.Errorf("lost: %t, found: %t, lb-b serves: %+v", lost, found, s.Serves("lb-b"))
		}
	}
}

// TestALostNodeAddressIsFound where the virtual IP is in the network of the nodes, and SSH reaches the load balancer in another one.
func TestALostNodeAddressIsFound(t *testing.T) {
	f := clustertest.Whole()
	for i, h := range f.Spec.Spec.Hosts {
		if f.Spec.Balances(h) {
			f.Spec.Spec.Hosts[i].FrontAddress = "192.0.2.1" + h.Address[len("10.0.0."):]
			seen := f.Seen.Hosts[h.Name].Facts
			seen.Addresses = append(seen.Addresses, facts.Address{IP: f.Spec.Spec.Hosts[i].FrontAddress, Prefix: 24, Interface: "eth1"})
			if h.Name == "lb-b" {
				seen.Addresses = slices.DeleteFunc(seen.Addresses, func(a facts.Address) bool { return a.IP == h.Address })
			}
		}
	}
	s := cluster.Evaluate(f.Spec, f.Seen)
	if b := s.Serves("lb-b"); b.OK || !strings.Contains(b.Problem, "no interface has its address 10.0.0.17") || !s.Serves("lb-a").OK {
		t.Errorf("lb-a serves: %+v, lb-b: %+v", s.Serves("lb-a"), b)
	}
}
