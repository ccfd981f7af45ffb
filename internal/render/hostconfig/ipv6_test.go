package hostconfig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// cluster6 is the cluster of the other tests with IPv6 addresses.
func cluster6() *spec.Cluster {
	c := cluster()
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = fmt.Sprintf("fd00:1::%x", 11+i)
	}
	c.Spec.LoadBalancer.Address = "fd00:1::100"
	return c
}

func TestIPv6Addresses(t *testing.T) {
	c := cluster6()
	lb, cp := c.HostsWith(spec.RoleLoadBalancer)[0], c.HostsWith(spec.RoleControlPlane)[0]
	f := &facts.Facts{Addresses: []facts.Address{{IP: lb.Address, Prefix: 64, Interface: "ens3"}, {IP: cp.Address, Prefix: 64, Interface: "ens3"}}}
	member := EtcdMember(cp.Name, cp.Address)
	for _, tc := range []struct{ what, text, want string }{
		{"HAProxy's servers", file(t, Balancer(c, lb, f, "CA"), HAProxyFile), "server " + cp.Name + " [" + cp.Address + "]:6443\n"},
		{"HAProxy's listener", file(t, Balancer(c, lb, f, "CA"), HAProxyFile), "bind [::]:6443 v6only tcp-ut 5s\n"},
		{"HAProxy's table of sources", file(t, Balancer(c, lb, f, "CA"), HAProxyFile), "stick-table type ipv6 size"},
		{"HAProxy's networks", file(t, Balancer(c, lb, f, "CA"), HAProxyFile), "acl cluster src 10.244.0.0/16 fd00:1::/64\n"},
		{"the served endpoint", strings.Join(Served(file(t, Balancer(c, lb, f, "CA"), HAProxyFile)), " "), "api.test.internal:6443@fd00:1::100"},
		{"keepalived's address", file(t, Balancer(c, lb, f, "CA"), KeepalivedFile), "fd00:1::100/128 dev ens3\n"},
		{"keepalived's source", file(t, Balancer(c, lb, f, "CA"), KeepalivedFile), "unicast_src_ip " + lb.Address + "\n"},
		{"keepalived's hop limit", file(t, Balancer(c, lb, f, "CA"), KeepalivedFile), "unicast_ttl 255\n    unicast_src_ip"},
		{"the hosts file", file(t, Hosts(c), "/etc/hosts"), "fd00:1::100 api.test.internal\n"},
		{"an etcd member", member, cp.Name + "=https://[" + cp.Address + "]:2380"},
		{"etcd's clients", EtcdClientURL(cp), "https://[" + cp.Address + "]:2379"},
		{"etcd's listeners", file(t, Etcd(cp, f, facts.EtcdTimers{}), EtcdEnvFile), "ETCD_LISTEN_CLIENT_URLS=https://127.0.0.1:2379,https://[" + cp.Address + "]:2379\n"},
		{"etcd's peer URL", file(t, Etcd(cp, f, facts.EtcdTimers{}), EtcdEnvFile), "ETCD_INITIAL_ADVERTISE_PEER_URLS=https://[" + cp.Address + "]:2380\n"},
	} {
		if !strings.Contains(tc.text, tc.want) {
			t.Errorf("%s: no %q in\n%s", tc.what, tc.want, tc.text)
		}
	}
}

// dual gives the hosts of the cluster of the other tests a second family.
func dual() *spec.Cluster {
	c := cluster()
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].SecondaryAddress = fmt.Sprintf("fd00:1::%x", 11+i)
	}
	c.Spec.Network.PodCIDR, c.Spec.Network.ServiceCIDR = "10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/12,fd00:10:96::/112"
	return c
}

func TestDualStack(t *testing.T) {
	c := dual()
	lb, cp := c.HostsWith(spec.RoleLoadBalancer)[0], c.HostsWith(spec.RoleControlPlane)[0]
	for _, tc := range []struct{ what, text, want string }{
		{"the hosts file", file(t, Hosts(c), "/etc/hosts"), cp.Address + " " + cp.Name + "\n" + cp.SecondaryAddress + " " + cp.Name + "\n"},
		{"the approver's list", file(t, ControlPlane(c), NodesFile), cp.Name + " " + cp.Address + " " + cp.SecondaryAddress + "\n"},
		{"HAProxy's networks", file(t, Balancer(c, lb, &facts.Facts{}, "CA"), HAProxyFile), "acl cluster src 10.0.0.0/24 10.244.0.0/16 fd00:10:244::/56 fd00:1::/64\n"},
		{"HAProxy's listener", file(t, Balancer(c, lb, &facts.Facts{}, "CA"), HAProxyFile), "bind :6443 tcp-ut 5s\n"},
	} {
		if !strings.Contains(tc.text, tc.want) {
			t.Errorf("%s: no %q in\n%s", tc.what, tc.want, tc.text)
		}
	}
}

// TestRouterAdvertisements: a node forwards packets of IPv6, and keeps a default route that comes from router advertisements. Where the
// kernel does not listen to them, or for interfaces of others, nothing changes.
func TestRouterAdvertisements(t *testing.T) {
	c := dual()
	c.Spec.Network.PodTrafficCIDR = "10.1.0.0/24,fd00:1::/64" // whose addresses nobody writes into the spec
	own := c.Spec.Hosts[0].SecondaryAddress
	for _, tc := range []struct {
		link, address, value string
		name                 string // of the setting that changes
	}{
		{"ens3", own, "1", "net.ipv6.conf.ens3.accept_ra"},
		{"ens3", own, "2", "net.ipv6.conf.ens3.accept_ra"},
		{"ens3.100", own, "1", "net.ipv6.conf.ens3/100.accept_ra"},
		{"ens4", "fd00:1::99", "1", "net.ipv6.conf.ens4.accept_ra"},
		{"ens3", own, "0", ""},
		{"ens3", "fd00:2::1", "1", ""},
		{"ens3", c.Spec.Hosts[0].Address, "1", ""},
	} {
		f := &facts.Facts{Addresses: []facts.Address{{IP: tc.address, Interface: tc.link}},
			Sysctls: map[string]string{"net.ipv6.conf." + strings.ReplaceAll(tc.link, ".", "/") + ".accept_ra": tc.value}}
		d := Settings(c, f)
		text := file(t, d, IPv6SysctlFile)
		want := map[string]string{"net.ipv6.conf.all.forwarding": "1", "net.bridge.bridge-nf-call-ip6tables": "1"}
		if tc.name != "" {
			want[tc.name] = "2"
		}
		for name, value := range want {
			if d.Sysctls[name] != value || !strings.Contains(text, "-"+name+" = "+value+"\n") {
				t.Errorf("%+v: %s is %q, and in the file\n%s", tc, name, d.Sysctls[name], text)
			}
		}
		if len(d.Sysctls) != len(want) {
			t.Errorf("%+v: %v", tc, d.Sysctls)
		}
		if !strings.HasSuffix(text, "-net.ipv6.conf.all.forwarding = 1\n") {
			t.Errorf("%+v: the default route is lost before it is kept:\n%s", tc, text)
		}
	}
	if !slices.Contains(Request(c).Sysctls, acceptRA) || slices.Contains(Request(cluster()).Sysctls, acceptRA) {
		t.Error("the setting of the interfaces is read in the wrong clusters")
	}
	if d := Settings(cluster(), &facts.Facts{}); len(d.Files)+len(d.Sysctls) > 0 {
		t.Errorf("a cluster without IPv6 gets %+v", d)
	}
}

// TestIPv6BalancersOnControlPlanes listen on the virtual IP only, also while another host has it.
func TestIPv6BalancersOnControlPlanes(t *testing.T) {
	c := cluster6()
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
	d := Balancer(c, c.BalancerHosts()[0], &facts.Facts{}, "CA")
	if haproxy := file(t, d, HAProxyFile); !strings.Contains(haproxy, "bind [fd00:1::100]:6443 tcp-ut 5s\n") {
		t.Errorf("HAProxy does not listen on the virtual IP:\n%s", haproxy)
	}
	const nonlocal = "net.ipv6.ip_nonlocal_bind"
	if text := file(t, d, balancerSysctls); text != nonlocal+" = 1\n" || d.Sysctls[nonlocal] != "1" || len(d.Sysctls) != 1 {
		t.Errorf("the kernel's settings are %v and %q", d.Sysctls, text)
	}
}
