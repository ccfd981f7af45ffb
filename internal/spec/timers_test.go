package spec

import (
	"slices"
	"testing"
	"time"
)

func TestElectionTimeouts(t *testing.T) {
	for value, want := range map[string][2]time.Duration{
		"":      {},
		"300ms": {300 * time.Millisecond, 30 * time.Millisecond},
		"0.5s":  {500 * time.Millisecond, 50 * time.Millisecond},
		"1s":    {time.Second, 100 * time.Millisecond},
		"5s":    {5 * time.Second, 500 * time.Millisecond},
	} {
		c := DefaultLab("lab")
		c.Spec.Failover.ElectionTimeout = value
		if errs := Validate(c, Options{Lab: true}); len(errs) > 0 {
			t.Errorf("%q: %v", value, errs)
		}
		if election, heartbeat := c.EtcdElectionTimeout(); election != want[0] || heartbeat != want[1] {
			t.Errorf("%q: %s and %s", value, election, heartbeat)
		}
	}
}

// TestWhatIsAcceptedStartsEtcd: etcd counts in whole milliseconds, and refuses an election timeout of fewer than five heartbeats.
func TestWhatIsAcceptedStartsEtcd(t *testing.T) {
	c := DefaultLab("lab")
	accepted := 0
	for d := time.Duration(0); d <= 6*time.Second; d += 5 * time.Millisecond {
		c.Spec.Failover.ElectionTimeout = d.String()
		if len(Validate(c, Options{Lab: true})) > 0 {
			continue
		}
		accepted++
		election, heartbeat := c.EtcdElectionTimeout()
		if heartbeat < 30*time.Millisecond || election%time.Millisecond+heartbeat%time.Millisecond != 0 || election < 5*heartbeat || election%heartbeat != 0 {
			t.Errorf("%s: a heartbeat every %s", election, heartbeat)
		}
	}
	if accepted != 471 { // 300 to 5000 in steps of 10
		t.Errorf("%d values are accepted", accepted)
	}
}

// TestOnlyOwnEtcdHasATimeout: one of the user is configured elsewhere.
func TestOnlyOwnEtcdHasATimeout(t *testing.T) {
	refused := func(c *Cluster) bool {
		return slices.ContainsFunc(Validate(c, Options{Lab: true}), func(p Problem) bool { return p.Path == ElectionTimeoutPath })
	}
	c := DefaultLab("lab")
	c.Spec.Failover.ElectionTimeout = "300ms"
	if refused(c) {
		t.Error("a stacked etcd")
	}
	c.Spec.ControlPlane.Topology = TopologyExternal
	if refused(c) {
		t.Error("an external etcd that Quorate manages")
	}
	c.Spec.Etcd = Etcd{Endpoints: []string{"https://10.0.0.41:2379"}, CAFile: "ca", CertFile: "cert", KeyFile: "key"}
	if !refused(c) {
		t.Error("an etcd of the user is accepted")
	}
}
