package run

import (
	"testing"

	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/spec"
)

// TestHostsAreReachedAtTheirAddressForSSH from this machine, and at that of the node from the control planes: the former may be one that a gateway translates.
func TestHostsAreReachedAtTheirAddressForSSH(t *testing.T) {
	c := spec.DefaultLab("test")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address = "10.0.0.11"
	}
	c.Spec.Hosts[0].SSH = spec.SSH{Address: "cp-a.mgmt.example.com", User: "root", Port: 2201, HostPort: 2022}
	c.Spec.Hosts[1].SSH.Port = 2222
	targets := Targets(c)
	if targets[0].Address != "cp-a.mgmt.example.com" || targets[0].Port != 2201 || targets[1].Address != "10.0.0.11" || targets[1].Port != 2222 {
		t.Errorf("%+v, %+v", targets[0], targets[1])
	}
	text, err := spec.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := clusterOf(watch.Config{Spec: string(text)})
	if err != nil {
		t.Fatal(err)
	}
	for i, target := range Targets(inside) {
		port := 22
		if i < 2 {
			port = []int{2022, 2222}[i] // of sshd on the host, and not of the gateway
		}
		if target.Address != "10.0.0.11" || target.Port != port {
			t.Errorf("a control plane reaches %s at %s, port %d", target.Name, target.Address, target.Port)
		}
	}
}
