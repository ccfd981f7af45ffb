package plan

import (
	"testing"

	"quorate.dev/quorate/internal/spec"
)

// TestDNSInZones: CoreDNS's replicas must be in different zones where there are three, and not any more when there are fewer.
func TestDNSInZones(t *testing.T) {
	spread := func(p *Plan) (out []Step) {
		for _, s := range p.Steps {
			if s.Kind == SpreadDNS {
				out = append(out, s)
			}
		}
		return out
	}
	c := testCluster()
	if got := spread(mustPlan(t, c, empty(c), testBundle)); len(got) != 1 || !got[0].Zones {
		t.Errorf("a new cluster in three zones: %+v", got)
	}
	obs := finished(t, c)
	if got := spread(mustPlan(t, c, obs, testBundle)); len(got) != 0 {
		t.Errorf("nothing is left to do: %+v", got)
	}
	obs.API.DNSInZones = false // as a former Quorate left it
	if got := spread(mustPlan(t, c, obs, testBundle)); len(got) != 1 || !got[0].Zones || got[0].Change != nil {
		t.Errorf("a cluster that exists: %+v", got)
	}
	one := testCluster()
	for i := range one.Spec.Hosts {
		one.Spec.Hosts[i].Zone = "a"
	}
	if got := spread(mustPlan(t, one, empty(one), testBundle)); len(got) != 1 || got[0].Zones {
		t.Errorf("a new cluster in one zone: %+v", got)
	}
	obs = finished(t, one)
	obs.API.DNSInZones = true // when it had three
	if got := spread(mustPlan(t, one, obs, testBundle)); len(got) != 1 || got[0].Zones {
		t.Errorf("the second replica would wait for another zone for ever: %+v", got)
	}
}

// TestDNSIsSpreadWhenZonesAreThere: in the middle of a plan that adds zones, a replica would wait for them.
func TestDNSIsSpreadWhenZonesAreThere(t *testing.T) {
	c := testCluster()
	one := testCluster()
	one.Spec.Hosts = nil
	for _, h := range c.Spec.Hosts {
		if h.Zone == "a" || !h.Has(spec.RoleWorker) {
			one.Spec.Hosts = append(one.Spec.Hosts, h)
		}
	}
	obs := finished(t, one)
	for name, h := range empty(c).Hosts {
		if _, has := obs.Hosts[name]; !has {
			obs.Hosts[name] = h
		}
	}
	obs.API.DNSInZones = false
	p := mustPlan(t, c, obs, testBundle)
	steps := map[Kind]Step{}
	for _, s := range p.Steps {
		steps[s.Kind] = s
	}
	join, joins := steps[JoinWorker]
	dns, spreads := steps[SpreadDNS]
	if !joins || !spreads {
		t.Fatalf("nobody joins, or CoreDNS is not spread: %v", kindsOf(p))
	}
	needs := map[string][]string{}
	for _, s := range p.Steps {
		needs[s.ID] = s.Needs
	}
	var after func(id string) bool
	after = func(id string) bool {
		if id == join.ID {
			return true
		}
		for _, n := range needs[id] {
			if after(n) {
				return true
			}
		}
		return false
	}
	if !after(dns.ID) {
		t.Errorf("%s does not wait for %s: %v", dns.ID, join.ID, dns.Needs)
	}
}
