package spec

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestACopyReachesNothingOutside: nothing in the spec of a lab leads to the cluster that it is a copy of.
func TestACopyReachesNothingOutside(t *testing.T) {
	c := DefaultLab("prod")
	for i := range c.Spec.Hosts {
		c.Spec.Hosts[i].Address, c.Spec.Hosts[i].SSH = fmt.Sprintf("192.0.2.%d", 11+i), SSH{User: "admin", Port: 2222, Jump: "jump.example.com"}
	}
	c.Spec.LoadBalancer = LoadBalancer{Type: BalancerExternal, Address: "192.0.2.100"}
	c.Spec.ControlPlane.Endpoint = "192.0.2.100:6443"
	c.Spec.Backup = Backup{Recipients: []string{"age1"}, Directory: "/srv", Every: "6h"}
	c.Spec.Settings.Registries = []Registry{{Name: "*", Mirrors: []string{"https://192.0.2.5"}}}
	c.Spec.Components = Components{Source: SourceMirror}
	slices.SortStableFunc(c.Spec.Hosts, func(a, b Host) int { return len(b.Roles[0]) - len(a.Roles[0]) }) // the order of hosts means nothing: load balancers come before workers
	c.Spec.NodePools = []NodePool{{Name: "web", Hosts: []string{"worker-a"}}, {Name: "db", Hosts: []string{"worker-b"}}}
	for _, tc := range []struct {
		o         LabOptions
		hosts     int
		placement string
		pools     int
	}{
		{LabOptions{}, len(c.Spec.Hosts), PlacementRegional, 2},
		{LabOptions{Name: "look", ControlPlanes: 1, Workers: 1}, len(c.Spec.Hosts) - 3, PlacementSingle, 1},
	} {
		lab := c.ForLab(tc.o)
		if lab.Spec.Backup.Given() {
			t.Error("a copy writes backups into the store of the cluster")
		}
		text, err := Marshal(lab)
		if err != nil {
			t.Fatal(err)
		}
		for _, outside := range []string{"192.0.2", "jump.example.com", "2222", "mirrors", "backup"} {
			if strings.Contains(string(text), outside) {
				t.Errorf("%s is in\n%s", outside, text)
			}
		}
		if len(lab.Spec.Hosts) != tc.hosts || lab.Spec.ControlPlane.Placement != tc.placement || len(lab.Spec.NodePools) != tc.pools || !lab.NeedsLab() {
			t.Errorf("%+v:\n%s", tc.o, text)
		}
		if want := map[bool]string{true: "prod-copy", false: "look"}[tc.o.Name == ""]; lab.Metadata.Name != want {
			t.Errorf("it is called %s", lab.Metadata.Name)
		}
		if problems := Validate(lab, Options{Lab: true}); len(problems) > 0 {
			t.Errorf("%v", problems)
		}
	}
	if c.Spec.Hosts[0].Address == "" || len(c.Spec.NodePools[1].Hosts) != 1 {
		t.Error("the spec of the cluster was changed")
	}
}
