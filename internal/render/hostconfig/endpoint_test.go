package hostconfig

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestBothEndpointsAreServed has a load balancer on a host of its own, and one on a control plane, serve two endpoints.
func TestBothEndpointsAreServed(t *testing.T) {
	c := spec.DefaultLab("test")
	former := spec.Endpoint{Name: "api.test.internal", Port: "6443", Address: "10.0.0.100"}
	next := spec.Endpoint{Name: "kube.test.internal", Port: "443", Address: "10.0.0.101"}
	both := c.WithEndpoint(former).AlsoServing(next, former, next)
	f := &facts.Facts{Addresses: []facts.Address{{IP: "10.0.0.1", Prefix: 24, Interface: "eth0"}}}
	content := func(h spec.Host, c *spec.Cluster, path string) string {
		for _, file := range Balancer(c, h, f, "CA").Files {
			if file.Path == path {
				return file.Content
			}
		}
		return ""
	}
	own, control := spec.Host{Name: "lb", Address: "10.0.0.1", Roles: []string{spec.RoleLoadBalancer}}, spec.Host{Name: "cp", Address: "10.0.0.1", Roles: []string{spec.RoleControlPlane}}
	haproxy := content(own, both, HAProxyFile)
	for _, line := range []string{"bind :6443 ", "bind :443 ", "verifyhost api.test.internal "} {
		if !strings.Contains(haproxy, line) {
			t.Errorf("no %s in\n%s", line, haproxy)
		}
	}
	var read []spec.Endpoint
	for _, text := range Served(haproxy) {
		e, err := ParseServed(text)
		if err != nil {
			t.Error(err)
		}
		read = append(read, e)
	}
	if !slices.Equal(read, []spec.Endpoint{former, next}) {
		t.Errorf("%v", read)
	}
	if on := content(control, both, HAProxyFile); !strings.Contains(on, "bind 10.0.0.100:6443 ") || !strings.Contains(on, "bind 10.0.0.101:443 ") {
		t.Error(on)
	}
	// The instance of an address is the same whether or not there is another one: a load balancer that has it keeps it.
	instance := func(text, address string) string {
		_, rest, found := strings.Cut(text, "vrrp_instance api-"+address+" {")
		if !found {
			return ""
		}
		body, _, _ := strings.Cut(rest, "\n}\n")
		return body
	}
	keepalived := content(own, both, KeepalivedFile)
	for _, e := range []spec.Endpoint{former, next} {
		if alone := content(own, c.WithEndpoint(e), KeepalivedFile); instance(alone, e.Address) == "" || instance(alone, e.Address) != instance(keepalived, e.Address) {
			t.Errorf("%s differs:\n%s\n%s", e.Address, alone, keepalived)
		}
	}
	if hosts := Hosts(c.WithEndpoint(next).AlsoServing(former)).Files[0].Content; !strings.HasPrefix(hosts, "10.0.0.101 kube.test.internal\n10.0.0.100 api.test.internal\n") {
		t.Error(hosts)
	}
	moved := spec.Endpoint{Name: former.Name, Port: former.Port, Address: "10.0.0.101"}
	if hosts := Hosts(c.WithEndpoint(moved).AlsoServing(former)).Files[0].Content; !strings.HasPrefix(hosts, "10.0.0.101 api.test.internal\n") || strings.Contains(hosts, "10.0.0.100") {
		t.Errorf("a name has two addresses:\n%s", hosts)
	}
}
