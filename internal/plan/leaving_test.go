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

// editedHost is a host of a spec that can be changed.
func editedHost(c *spec.Cluster, name string) *spec.Host {
	return &c.Spec.Hosts[slices.IndexFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == name })]
}

// TestNothingIsDoneToOtherMachines: a spec whose addresses were swapped, or in which a host was renamed, was not applied yet. Whoever resets or maintains
// a host of it would drain one machine and stop another one.
func TestNothingIsDoneToOtherMachines(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*spec.Cluster, *facts.Observation)
		of   string
	}{
		"swapped addresses": {func(c *spec.Cluster, o *facts.Observation) {
			a, b := editedHost(c, "worker-a"), editedHost(c, "cp-b")
			a.Address, b.Address = b.Address, a.Address
			o.Hosts["worker-a"], o.Hosts["cp-b"] = o.Hosts["cp-b"], o.Hosts["worker-a"]
		}, "worker-a"},
		"swapped addresses, and no record": {func(c *spec.Cluster, o *facts.Observation) {
			o.Hosts["worker-a"], o.Hosts["cp-b"] = o.Hosts["cp-b"], o.Hosts["worker-a"]
			o.API.Record = ""
		}, "worker-a"},
		"a renamed load balancer": {func(c *spec.Cluster, o *facts.Observation) {
			editedHost(c, "lb-b").Name = "lb-x"
			o.Hosts["lb-x"] = o.Hosts["lb-b"]
		}, "lb-x"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			for _, h := range c.Spec.Hosts {
				if h.IsNode() {
					obs.Hosts[h.Name].Facts.Kubernetes.NodeName = h.Name
				}
			}
			tc.edit(c, obs)
			s := cluster.Evaluate(c, obs)
			h, _ := c.Host(tc.of)
			for operation, run := range map[string]func() (*Plan, error){
				"maintain": func() (*Plan, error) { return Maintain(s, Target{Hosts: []spec.Host{h}}, MaintainOptions{}) },
				"undo":     func() (*Plan, error) { return EndMaintenance(s, Target{Hosts: []spec.Host{h}}) },
				"reboot":   func() (*Plan, error) { return Reboot(s, h, MaintainOptions{}) },
				"reset":    func() (*Plan, error) { return Reset(s, []string{tc.of}) },
				"renew":    func() (*Plan, error) { return Renew(s) },
				"encrypt":  func() (*Plan, error) { return RotateEncryption(s) },
				"repair": func() (*Plan, error) {
					_, _, err := Repairs(s, testBundle)
					return nil, err
				},
				"apply": func() (*Plan, error) { return Build(s, testBundle) },
			} {
				p, err := run()
				if r, ok := errors.AsType[*cluster.Refusal](err); !ok || r.Rule != cluster.RuleFixed || r.Fix == "" {
					t.Errorf("%s: %v, %v", operation, err, p)
				}
			}
		})
	}
}

// TestAHostThatWasResetJoinsAsAnother: with three control planes and two load balancers, no host can be taken out of the spec for a while, so a reset is what
// a host leaves with to get another address, another name, or another role.
func TestAHostThatWasResetJoinsAsAnother(t *testing.T) {
	for name, tc := range map[string]struct {
		host  string
		edit  func(*spec.Host)
		joins string // the step with which it does
	}{
		"a control plane moves":       {"cp-b", func(h *spec.Host) { h.Address = "10.0.0.77" }, "cp-b/join-control-plane"},
		"a control plane is renamed":  {"cp-b", func(h *spec.Host) { h.Name = "cp-x" }, "cp-x/join-control-plane"},
		"a load balancer is renamed":  {"lb-b", func(h *spec.Host) { h.Name = "lb-x" }, "lb-x/configure/load-balancer"},
		"a load balancer moves":       {"lb-b", func(h *spec.Host) { h.Address = "10.0.0.77" }, "lb-b/configure/load-balancer"},
		"a worker becomes a balancer": {"worker-b", func(h *spec.Host) { h.Roles = []string{spec.RoleLoadBalancer} }, "worker-b/configure/load-balancer"},
		"nothing changes":             {"cp-b", func(*spec.Host) {}, "cp-b/join-control-plane"},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			added(c, obs, "worker-c", spec.RoleWorker) // the pool of the default cluster has worker-b in it
			p, err := Reset(cluster.Evaluate(c, obs), []string{tc.host})
			if err != nil {
				t.Fatal(err)
			}
			checkOrder(t, p)
			i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RecordSpec })
			if i < 0 || i != len(p.Steps)-1 {
				t.Fatalf("the cluster does not record at the end that %s left: %v", tc.host, p.Steps)
			}
			without(c, "worker-c")
			delete(obs.Hosts, "worker-c")

			// What the reset leaves.
			before, _ := c.Host(tc.host)
			obs.API.Record = p.Steps[i].Record
			obs.API.Nodes = slices.DeleteFunc(obs.API.Nodes, func(n facts.Node) bool { return n.Name == tc.host })
			obs.Etcd = slices.DeleteFunc(obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == tc.host })
			for _, lb := range obs.Hosts {
				if lb.Balancer != nil {
					lb.Balancer.Backends = slices.DeleteFunc(lb.Balancer.Backends, func(b facts.Backend) bool { return b.Name == tc.host })
				}
			}
			delete(obs.Hosts, tc.host)
			h := editedHost(c, tc.host)
			tc.edit(h)
			obs.Hosts[h.Name] = empty(c).Hosts[h.Name]
			if h.Has(spec.RoleLoadBalancer) {
				seen := obs.Hosts[h.Name]
				seen.Balancer = &facts.Balancer{}
				obs.Hosts[h.Name] = seen
			}
			c.Spec.NodePools = nil
			p = build(t, c, obs)
			if !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.ID == tc.joins }) {
				t.Errorf("%s (%s) does not join with %s: %v", h.Name, before.Address, tc.joins, p.Steps)
			}
			for _, s := range p.Steps {
				if s.Kind == ResetHost || s.Kind == DrainNode || s.Kind == RemoveMember {
					t.Errorf("%s is planned although the host has left", s.ID)
				}
			}
		})
	}
}

// TestAResetRecordsNothingElse: edits that were not applied are not recorded with it.
func TestAResetRecordsNothingElse(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	c.Spec.Failover.Profile = "standard"
	p, err := Reset(cluster.Evaluate(c, obs), []string{"cp-b"})
	if err != nil {
		t.Fatal(err)
	}
	record, err := spec.ParseRecord([]byte(p.Steps[len(p.Steps)-1].Record))
	if err != nil {
		t.Fatal(err)
	}
	if got := record.Cluster().Spec.Failover.Profile; got == "standard" {
		t.Errorf("the failover profile %s is recorded, and no host has it", got)
	}
	if _, has := record.Cluster().Host("cp-b"); has || len(record.Cluster().Spec.Hosts) != len(c.Spec.Hosts)-1 {
		t.Errorf("recorded hosts: %v", cluster.Names(record.Cluster().Spec.Hosts))
	}
}

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
		inOrder(t, p, host+"/reset-host", host+"/leave-maintenance", "cluster/record-spec")

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

// TestAMemberThatNobodyAskedForIsNotAbsent: a host without its data may be a member of an etcd that does not answer. Nobody is told to power it off, and its
// maintenance does not end as if nothing on it had been stopped.
func TestAMemberThatNobodyAskedForIsNotAbsent(t *testing.T) {
	for _, known := range []bool{true, false} {
		c := testCluster()
		obs := finished(t, c)
		h, _ := c.Host("cp-b")
		lost := empty(c).Hosts[h.Name]
		obs.Hosts[h.Name] = lost
		obs.API.Nodes = slices.DeleteFunc(obs.API.Nodes, func(n facts.Node) bool { return n.Name == h.Name })
		obs.Etcd = slices.DeleteFunc(obs.Etcd, func(m facts.EtcdMember) bool { return m.Name == h.Name })
		if !known {
			obs.Etcd, obs.EtcdError = nil, "no member answers"
		}
		_, err := Maintain(cluster.Evaluate(c, obs), Target{Hosts: []spec.Host{h}}, MaintainOptions{})
		r, ok := errors.AsType[*cluster.Refusal](err)
		if !ok || (r.Rule == RuleJoined) != known {
			t.Errorf("etcd answers %t: %v", known, err)
		}
		obs.API.Maintenance = map[string]facts.Maintenance{h.Name: {}}
		if p, err := EndMaintenance(cluster.Evaluate(c, obs), Target{Hosts: []spec.Host{h}}); (err == nil) != known {
			t.Errorf("the end, etcd answers %t: %v, %v", known, p, err)
		}
	}
}
