package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
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

// TestOnlyPartsOfTheClusterAreMaintained: the cluster would remember the maintenance of a host that never joined, apply would leave that host alone, and
// nothing could end it.
func TestOnlyPartsOfTheClusterAreMaintained(t *testing.T) {
	for name, roles := range map[string][]string{"worker-z": {spec.RoleWorker}, "cp-z": {spec.RoleControlPlane}, "lb-z": {spec.RoleLoadBalancer}} {
		c := testCluster()
		obs := finished(t, c)
		added(c, obs, name, roles...)
		h, _ := c.Host(name)
		s := cluster.Evaluate(c, obs)
		for operation, run := range map[string]func() (*Plan, error){
			"maintain": func() (*Plan, error) { return Maintain(s, Target{Hosts: []spec.Host{h}}, MaintainOptions{}) },
			"zone":     func() (*Plan, error) { return Maintain(s, targetOf(t, c, "zone/z"), MaintainOptions{}) },
			"reboot":   func() (*Plan, error) { return Reboot(s, h, MaintainOptions{}) },
		} {
			p, err := run()
			if r, ok := errors.AsType[*cluster.Refusal](err); !ok || r.Rule != RuleJoined || !strings.Contains(r.Fix, "quorate apply") {
				t.Errorf("%s %s: %v, %v", operation, name, err, p)
			}
		}
		// An older version of Quorate may have begun one.
		obs.API.Maintenance = map[string]facts.Maintenance{name: {}}
		p, err := EndMaintenance(cluster.Evaluate(c, obs), Target{Hosts: []spec.Host{h}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(p.Steps) != 1 || p.Steps[0].Kind != LeaveMaintenance {
			t.Errorf("%s: %v", name, p.Steps)
		}
	}
}
