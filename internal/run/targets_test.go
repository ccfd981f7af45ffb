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
	c.Spec.Hosts[0].SSH.Address = "cp-a.mgmt.example.com"
	targets := Targets(c)
	if targets[0].Address != "cp-a.mgmt.example.com" || targets[1].Address != "10.0.0.11" {
		t.Errorf("%s at %s, %s at %s", targets[0].Name, targets[0].Address, targets[1].Name, targets[1].Address)
	}
	text, err := spec.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := clusterOf(watch.Config{Spec: string(text)})
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range Targets(inside) {
		if target.Address != "10.0.0.11" {
			t.Errorf("a control plane reaches %s at %s", target.Name, target.Address)
		}
	}
}
