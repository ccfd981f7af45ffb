package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// external is a cluster with three etcd hosts, two control planes, a worker and two balancers.
func external() *spec.Cluster {
	c := testCluster()
	c.Spec.ControlPlane.Topology = spec.TopologyExternal
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Name == "cp-c" })
	for i, zone := range []string{"a", "b", "c"} {
		c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "etcd-" + zone, Address: fmt.Sprintf("10.0.0.%d", 41+i), Zone: zone, Roles: []string{spec.RoleEtcd}})
	}
	return c
}

// existing is a cluster on an etcd that exists already.
func existing() *spec.Cluster {
	c := external()
	c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleEtcd) })
	c.Spec.Etcd = spec.Etcd{Endpoints: []string{"https://e1:2379", "https://e2:2379", "https://e3:2379"}, CAFile: "ca", CertFile: "crt", KeyFile: "key"}
	return c
}

// finishedExternal observes either of them as it is when every step took.
func finishedExternal(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	obs := finished(t, c)
	obs.Etcd = nil
	obs.ExistingEtcd = nil
	obs.API.Kubeadm.EtcdEndpoints = hostconfig.EtcdEndpoints(c)
	for _, h := range c.Spec.Hosts {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		switch {
		case h.Has(spec.RoleControlPlane):
			k.EtcdData, k.EtcdCA, k.EtcdClient = false, "ETCD-CA", "client"
			k.Manifests = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}
		case h.Has(spec.RoleEtcd):
			f := obs.Hosts[h.Name].Facts
			f.Binaries = testBundle.Digest
			*k = facts.Kubernetes{EtcdData: true, EtcdCA: "ETCD-CA", EtcdCAKey: true, EtcdClient: "client", Established: true}
			d := merge(hostconfig.Hosts(c), hostconfig.Etcd(h, f, hostconfig.EtcdTimers(c)))
			for _, file := range d.Files {
				f.Files[file.Key()] = file.Sum()
			}
			f.Units[hostconfig.EtcdUnit] = "active"
			obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: h.Name, Healthy: true, Started: true})
		}
	}
	if c.ExistingEtcd() {
		obs.ExistingEtcd = &facts.ExistingEtcd{CA: "ETCD-CA", Client: "client"}
		for _, name := range []string{"one", "two", "three"} {
			obs.Etcd = append(obs.Etcd, facts.EtcdMember{Name: name, Healthy: true, Started: true})
		}
	}
	return obs
}

// sound is an existing etcd that can be built on, seen from every control plane.
func sound(c *spec.Cluster) *facts.Observation {
	obs := empty(c)
	obs.ExistingEtcd = &facts.ExistingEtcd{CA: "ETCD-CA", Client: "client"}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		probe := facts.EtcdProbe{Write: 3 * time.Millisecond}
		for i, url := range c.Spec.Etcd.Endpoints {
			probe.Endpoints = append(probe.Endpoints, facts.EtcdEndpoint{URL: url, Version: "3.6.1", ClusterID: 7, DBSizeBytes: 20 << 10, QuotaBytes: 2 << 30})
			probe.Members = append(probe.Members, facts.EtcdMember{Name: fmt.Sprint("m", i), Healthy: true, Started: true})
		}
		seen := obs.Hosts[h.Name]
		seen.EtcdProbe = &probe
		obs.Hosts[h.Name] = seen
	}
	return obs
}

func TestExternalNothingToDo(t *testing.T) {
	for _, c := range []*spec.Cluster{external(), existing()} {
		if p := build(t, c, finishedExternal(t, c)); !p.Empty() {
			t.Errorf("a finished cluster has steps: %+v", kindsOf(p))
		}
	}
}

func TestNewExternalEtcd(t *testing.T) {
	c := external()
	p := build(t, c, empty(c))
	kinds := kindsOf(p)
	etcds, cps := []string{"etcd-a", "etcd-b", "etcd-c"}, []string{"cp-a", "cp-b"}
	for kind, hosts := range map[Kind][]string{
		InstallBundle:     {"cp-a", "cp-b", "worker-a", "worker-b", "etcd-a", "etcd-b", "etcd-c"},
		ImportImages:      {"cp-a", "cp-b", "worker-a", "worker-b"},
		MakeEtcdPKI:       {"etcd-a"},
		ShareEtcdPKI:      {"etcd-b", "etcd-c"},
		StartEtcd:         etcds,
		ShareEtcdClient:   cps,
		ClaimEtcd:         nil,
		StartKubelet:      {"cp-a", "cp-b", "worker-a", "worker-b"},
		StartControlPlane: cps,
	} {
		if !slices.Equal(kinds[kind], hosts) {
			t.Errorf("%s on %v, want %v", kind, kinds[kind], hosts)
		}
	}
	var marked []string
	for _, s := range p.Steps {
		switch s.Kind {
		case StartEtcd:
			// Members wait for a majority: one that waits for another's start would wait forever.
			for _, n := range s.Needs {
				if strings.HasSuffix(n, string(StartEtcd)) || strings.HasPrefix(n, "cp-") {
					t.Errorf("%s waits for %s", s.ID, n)
				}
			}
		case StartKubelet:
			if strings.HasPrefix(s.Host, "worker") {
				continue
			}
			if len(s.Members) != 0 {
				t.Errorf("%s starts etcd", s.ID)
			}
			for _, host := range etcds {
				if !slices.Contains(s.Needs, stepID(host, StartEtcd)) {
					t.Errorf("%s does not wait for etcd on %s", s.ID, host)
				}
			}
			if !slices.Contains(s.Needs, stepID(s.Host, ShareEtcdClient)) {
				t.Errorf("%s has no client certificate", s.ID)
			}
		case ShareEtcdClient:
			// What clears up kubeadm's leftovers on the host must be over.
			want := stepID("cp-a", MakePKI)
			if s.Host != "cp-a" {
				want = stepID(s.Host, SharePKI)
			}
			if !slices.Contains(s.Needs, want) {
				t.Errorf("%s does not wait for %s", s.ID, want)
			}
		case Mark:
			marked = append(marked, s.Host)
			for _, host := range etcds {
				if !slices.Contains(s.Needs, stepID(host, StartEtcd)) {
					t.Errorf("%s does not wait for etcd on %s", s.ID, host)
				}
			}
		case Configure:
			if s.Host == "etcd-a" && len(s.Desired.Enable) > 0 {
				t.Errorf("etcd is started before it knows its members: %v", s.Desired.Enable)
			}
		}
	}
	if !slices.Equal(marked, append(slices.Clone(cps), etcds...)) {
		t.Errorf("marked as established: %v", marked)
	}
}

// TestExternalInterrupted plans from where a killed run may have come to: what was done is kept, and the rest follows.
func TestExternalInterrupted(t *testing.T) {
	c := external()
	hosts := c.EtcdHosts()
	for mask := range 1 << len(hosts) {
		obs := empty(c)
		var want []string
		for i, h := range hosts {
			f := obs.Hosts[h.Name].Facts
			f.Kubernetes.EtcdCA, f.Kubernetes.EtcdCAKey, f.Kubernetes.Begun = "ETCD-CA", true, true
			if mask&(1<<i) == 0 {
				want = append(want, h.Name)
				continue
			}
			f.Binaries, f.Kubernetes.EtcdData, f.Kubernetes.EtcdClient, f.Units[hostconfig.EtcdUnit] = testBundle.Digest, true, "client", "active"
		}
		kinds := kindsOf(build(t, c, obs))
		if !slices.Equal(kinds[StartEtcd], want) {
			t.Errorf("started %03b: starts %v, want %v", mask, kinds[StartEtcd], want)
		}
		if len(kinds[ShareEtcdPKI]) != 0 || len(kinds[MakeEtcdPKI]) != 1 {
			t.Errorf("started %03b: etcd's authority: %v", mask, kinds)
		}
	}
	t.Run("between the marks", func(t *testing.T) {
		obs := finishedExternal(t, c)
		obs.Hosts["etcd-b"].Facts.Kubernetes.Established = false
		obs.Hosts["cp-b"].Facts.Kubernetes.Established = false
		p := build(t, c, obs)
		if len(p.Steps) != 3 || p.Steps[0].ID != "cp-b/mark/established" || p.Steps[1].ID != "etcd-b/mark/established" {
			t.Errorf("%+v", p.Steps)
		}
	})
}

func TestDeadEtcdHostIsLeftAlone(t *testing.T) {
	c := external()
	obs := finishedExternal(t, c)
	obs.Hosts["etcd-a"] = facts.Host{Error: "etcd-a: no SSH connection"}
	obs.Etcd[0].Healthy = false
	// What the living hosts have now is not what the dead one issued: that is no reason to replace it.
	obs.Hosts["etcd-b"].Facts.Kubernetes.EtcdClient, obs.Hosts["etcd-c"].Facts.Kubernetes.EtcdClient = "b", "c"
	if p := build(t, c, obs); !p.Empty() || p.Unreachable["etcd-a"] == "" {
		t.Errorf("%+v, unreachable %v", p.Steps, p.Unreachable)
	}
}

func TestRenewedEtcdClientIsHandedOver(t *testing.T) {
	managed, other := external(), existing()
	for name, tc := range map[string]struct {
		c     *spec.Cluster
		renew func(*facts.Observation)
		steps int // with the one that reads it and those that verify
	}{
		"managed": {managed, func(o *facts.Observation) {
			for _, h := range managed.EtcdHosts() {
				o.Hosts[h.Name].Facts.Kubernetes.EtcdClient = "new of " + h.Name
			}
		}, 4},
		"existing":          {other, func(o *facts.Observation) { o.ExistingEtcd.Client = "new" }, 3},
		"existing, its CA":  {other, func(o *facts.Observation) { o.ExistingEtcd.CA = "NEW" }, 3},
		"existing, no file": {other, func(o *facts.Observation) { *o.ExistingEtcd = facts.ExistingEtcd{Error: "no such file"} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			obs := finishedExternal(t, tc.c)
			tc.renew(obs)
			p := build(t, tc.c, obs)
			kinds := kindsOf(p)
			if len(p.Steps) != tc.steps || tc.steps > 0 && !slices.Equal(kinds[ShareEtcdClient], []string{"cp-a", "cp-b"}) {
				t.Errorf("%+v", kinds)
			}
		})
	}
}

func TestControlPlaneJoinsExternalEtcd(t *testing.T) {
	c := external()
	obs := finishedExternal(t, c)
	c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: "cp-d", Address: "10.0.0.51", Zone: "c", Roles: []string{spec.RoleControlPlane}})
	obs.Hosts["cp-d"] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}}}
	p := build(t, c, obs)
	for _, s := range p.Steps {
		if s.Kind == JoinControlPlane {
			if !slices.Contains(s.Needs, "cp-d/share-etcd-client") {
				t.Errorf("it joins without etcd's client certificate: needs %v", s.Needs)
			}
			return
		}
	}
	t.Errorf("nobody joins: %+v", kindsOf(p))
}

func TestNewClusterOnExistingEtcd(t *testing.T) {
	c := existing()
	p := build(t, c, sound(c))
	kinds := kindsOf(p)
	if !slices.Equal(kinds[ShareEtcdClient], []string{"cp-a", "cp-b"}) || !slices.Equal(kinds[ClaimEtcd], []string{"cp-a"}) || len(kinds[StartEtcd])+len(kinds[MakeEtcdPKI]) != 0 {
		t.Errorf("%+v", kinds)
	}
	for _, s := range p.Steps {
		if s.Kind == StartKubelet && strings.HasPrefix(s.Host, "cp-") && !slices.Contains(s.Needs, "cp-a/claim-etcd") {
			t.Errorf("%s does not wait for the claim", s.ID)
		}
	}
	t.Run("interrupted", func(t *testing.T) {
		obs := sound(c)
		obs.Hosts["cp-a"].Facts.Kubernetes.CA = "CA"
		for _, name := range []string{"cp-a", "cp-b"} {
			obs.Hosts[name].EtcdProbe.Owner, obs.Hosts[name].EtcdProbe.Keys = facts.EtcdOwner("test", "CA"), 300
		}
		if kinds := kindsOf(build(t, c, obs)); len(kinds[ClaimEtcd]) != 0 || len(kinds[StartControlPlane]) != 2 {
			t.Errorf("%+v", kinds)
		}
	})
}

func TestEtcdRefusals(t *testing.T) {
	probes := func(o *facts.Observation, change func(*facts.EtcdProbe)) {
		for _, h := range o.Hosts {
			if h.EtcdProbe != nil {
				change(h.EtcdProbe)
			}
		}
	}
	type refusal struct {
		c      *spec.Cluster
		fresh  bool
		change func(*facts.Observation)
		rule   string
		want   string
	}
	for name, tc := range map[string]refusal{
		"another topology": {external(), false, func(o *facts.Observation) {
			o.Hosts["cp-a"].Facts.Kubernetes.Manifests = podsWithEtcd
		}, cluster.RuleFixed, "is stacked, as cp-a shows"},
		"two etcd CAs": {external(), false, func(o *facts.Observation) {
			o.Hosts["etcd-b"].Facts.Kubernetes.EtcdCA = "OTHER"
		}, cluster.RuleOneEtcd, "etcd-b"},
		"a member too many": {external(), false, func(o *facts.Observation) {
			o.Etcd = append(o.Etcd, facts.EtcdMember{Name: "etcd-x", Healthy: true})
		}, cluster.RuleFixed, "etcd-x"},
		"an empty member": {external(), false, func(o *facts.Observation) {
			o.Hosts["etcd-b"].Facts.Kubernetes.EtcdData = false
		}, RuleOldMember, "etcd-b is empty"},
		"unreadable files": {existing(), true, func(o *facts.Observation) {
			*o.ExistingEtcd = facts.ExistingEtcd{Error: "no such file"}
		}, RuleSoundEtcd, "no such file"},
		"wrong certificate": {existing(), true, func(o *facts.Observation) {
			e := &o.Hosts["cp-b"].EtcdProbe.Endpoints[1]
			*e = facts.EtcdEndpoint{URL: e.URL, Error: "tls: unknown authority"}
		}, RuleSoundEtcd, "cp-b does not reach https://e2:2379: tls: unknown authority"},
		"nobody answers": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { *p = facts.EtcdProbe{Error: "no endpoint answers"} })
		}, RuleSoundEtcd, "cp-a cannot use it: no endpoint answers; cp-b"},
		"too old": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { p.Endpoints[2].Version = "3.5.9" })
		}, RuleSoundEtcd, "https://e3:2379 runs v3.5.9"},
		"two etcds": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { p.Endpoints[1].ClusterID = 8 })
		}, RuleSoundEtcd, "different etcd clusters"},
		"no room": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { p.Endpoints[0].DBSizeBytes = 1900 << 20 })
		}, RuleSoundEtcd, "has used 92 % of its quota of 2048 MiB"},
		"no room, untold": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { p.Endpoints[0].DBSizeBytes, p.Endpoints[0].QuotaBytes = 1900<<20, 0 })
		}, RuleSoundEtcd, "has used 92 %"},
		"a learner": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) {
				p.Members = append(p.Members, facts.EtcdMember{Name: "m9", Healthy: true, Learner: true, Started: true})
			})
		}, RuleSoundEtcd, "m9 is a learner"},
		"a dead member": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { p.Members[1].Healthy = false })
		}, RuleSoundEtcd, "m1 is not healthy"},
		"a single member": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { p.Members = p.Members[:1] })
		}, RuleSoundEtcd, "1 voting members"},
		"a slow disk": {existing(), true, func(o *facts.Observation) {
			o.Hosts["cp-b"].EtcdProbe.Write = 250 * time.Millisecond
		}, RuleSoundEtcd, "a write from cp-b takes 250ms"},
		"another cluster's objects": {existing(), true, func(o *facts.Observation) {
			probes(o, func(p *facts.EtcdProbe) { p.Keys = 812 })
		}, cluster.RuleOneCluster, "812 objects"},
		"another cluster's claim": {existing(), true, func(o *facts.Observation) {
			o.Hosts["cp-a"].Facts.Kubernetes.CA = "CA"
			probes(o, func(p *facts.EtcdProbe) { p.Owner = facts.EtcdOwner("test", "OLD CA") })
		}, cluster.RuleOneCluster, "belongs to the cluster test"},
	} {
		t.Run(name, func(t *testing.T) {
			obs := finishedExternal(t, tc.c)
			if tc.fresh {
				obs = sound(tc.c)
			}
			tc.change(obs)
			p, err := Build(cluster.Evaluate(tc.c, obs), testBundle)
			var r *cluster.Refusal
			if !errors.As(err, &r) || r.Rule != tc.rule || !strings.Contains(r.Why, tc.want) || r.Fix == "" {
				t.Fatalf("plan %+v, error %v, want the rule %q and %q", p, err, tc.rule, tc.want)
			}
			if name == "another topology" && (!strings.Contains(r.Fix, "`topology: stacked` back") || !strings.Contains(r.Fix, "changing-hosts.md")) {
				t.Errorf("the refusal does not say how the topology is changed: %s", r.Fix)
			}
		})
	}
	t.Run("stacked spec for an external cluster", func(t *testing.T) {
		c := external()
		obs := finishedExternal(t, c)
		c.Spec.ControlPlane.Topology = spec.TopologyStacked
		_, err := Build(cluster.Evaluate(c, obs), testBundle)
		var r *cluster.Refusal
		if !errors.As(err, &r) || r.Rule != cluster.RuleFixed || !strings.Contains(r.Fix, "changing-hosts.md") {
			t.Errorf("%v", err)
		}
	})
}
