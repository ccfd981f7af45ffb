package plan

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
)

// TestAHostInMaintenanceIsReset, or removed, while it runs: its maintenance ends with it.
func TestAHostInMaintenanceIsReset(t *testing.T) {
	for _, host := range []string{"cp-b", "worker-a", "lb-b"} {
		c := testCluster()
		obs := finished(t, c)
		obs.API.Maintenance = map[string]facts.Maintenance{host: {Ready: true}}
		if k := &obs.Hosts[host].Facts.Kubernetes; len(k.Manifests) > 0 {
			k.Manifests, k.Withdrawn, k.Maintenance = []string{"etcd"}, controlPlanePods, &facts.Maintenance{Ready: true}
			obs.Hosts[host] = func(h facts.Host) facts.Host { h.APIServer = &facts.Answer{Problem: "connection refused"}; return h }(obs.Hosts[host])
		}
		p, err := Reset(cluster.Evaluate(c, obs), []string{host})
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		checkOrder(t, p)
		inOrder(t, p, host+"/reset-host", host+"/leave-maintenance")

		if host != "worker-a" { // the spec of a cluster with fewer of the others would be refused, and its plan is not
			continue
		}
		without(c, host)
		p = build(t, c, obs)
		inOrder(t, p, host+"/reset-host", host+"/leave-maintenance", "cluster/record-spec")
		if slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "is left as it is") }) {
			t.Errorf("%q", p.Warnings)
		}
	}
}
