package step

import (
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestWhoIsToldOfPools: a load balancer that this run has stopped is not asked, although it worked when the run began.
func TestWhoIsToldOfPools(t *testing.T) {
	works := facts.Host{Balancer: &facts.Balancer{Healthy: true}}
	e := &Env{Cluster: &spec.Cluster{}, Departing: []spec.Host{{Name: "lb-a"}, {Name: "lb-b"}, {Name: "lb-c"}},
		Seen: &facts.Observation{Hosts: map[string]facts.Host{"lb-a": works, "lb-b": works, "lb-d": works}}}
	e.retired = []string{"lb-a"}
	for host, want := range map[string]bool{"lb-a": true, "lb-b": false, "lb-c": true, "lb-d": false} {
		if e.hasRetired(host) != want {
			t.Errorf("%s: %t", host, !want)
		}
	}
	// A control plane that becomes a load balancer waits for an API server that shares its port.
	for _, name := range []string{"cp-a", "cp-b"} {
		e.Seen.Hosts[name] = facts.Host{Balancer: &facts.Balancer{Others: &facts.OthersBalancing{}}}
	}
	e.started = []string{"cp-b"}
	for host, want := range map[string]bool{"lb-b": true, "cp-a": false, "cp-b": true} {
		if e.hasStarted(host) != want {
			t.Errorf("%s has started: %t", host, !want)
		}
	}
}
