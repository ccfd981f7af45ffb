package plan

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// issued observes an external etcd as it is: each of its hosts has a client certificate of its own, and the control planes have that
// of the first host.
func issued(t *testing.T, c *spec.Cluster) *facts.Observation {
	t.Helper()
	obs := finishedExternal(t, c)
	for _, h := range c.EtcdHosts() {
		obs.Hosts[h.Name].Facts.Kubernetes.EtcdClient = "client of " + h.Name
	}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].Facts.Kubernetes.EtcdClient = "client of " + c.EtcdHosts()[0].Name
	}
	return obs
}

// keyOn leaves the key of etcd's CA on one host alone, as kubeadm's documentation does.
func keyOn(c *spec.Cluster, obs *facts.Observation, name string) {
	for _, h := range c.EtcdHosts() {
		obs.Hosts[h.Name].Facts.Kubernetes.EtcdCAKey = h.Name == name
	}
}

// handedOver is what the cluster has when the control planes got the client certificate that the plan hands over.
func handedOver(c *spec.Cluster, obs *facts.Observation, p *Plan) {
	client := ""
	for _, s := range p.Steps {
		switch s.Kind {
		case MakeEtcdPKI:
			client = obs.Hosts[s.Host].Facts.Kubernetes.EtcdClient
		case ShareEtcdClient:
			obs.Hosts[s.Host].Facts.Kubernetes.EtcdClient = client
		}
	}
}

// TestTheFirstEtcdHostLeaves takes the host out of the spec that issued the API servers' client certificate. The control planes get
// one of a host that stays, in the same plan and before the host is reset: otherwise the cluster would never match its spec.
func TestTheFirstEtcdHostLeaves(t *testing.T) {
	for name, tc := range map[string]struct {
		fresh string // the host that replaces etcd-a
		dead  bool
	}{
		"alive, replaced":                           {fresh: "etcd-d"},
		"dead, replaced":                            {fresh: "etcd-d", dead: true},
		"replaced by a machine with its name":       {fresh: "etcd-a"},
		"another host is replaced, nothing to copy": {},
	} {
		t.Run(name, func(t *testing.T) {
			c := external()
			obs := issued(t, c)
			obs.Etcd[0].Leader = !tc.dead
			want := []string{"cp-a", "cp-b"}
			switch tc.fresh {
			case "":
				without(c, "etcd-b")
				added(c, obs, "etcd-d", spec.RoleEtcd)
				want = nil
			case "etcd-a":
				obs.Etcd[0] = facts.EtcdMember{Name: "etcd-a", Started: true, ID: "1"}
				obs.Hosts["etcd-a"] = facts.Host{Facts: &facts.Facts{Files: map[string]string{}, Units: map[string]string{}, Addresses: obs.Hosts["etcd-a"].Facts.Addresses}}
			default:
				without(c, "etcd-a")
				added(c, obs, "etcd-d", spec.RoleEtcd)
			}
			if tc.dead {
				dies(obs, "etcd-a")
			}
			p := build(t, c, obs)
			if got := kindsOf(p)[ShareEtcdClient]; !slices.Equal(got, want) {
				t.Fatalf("the client certificate is copied to %v, want %v", got, want)
			}
			for _, s := range p.Steps {
				if s.Kind == MakeEtcdPKI && (s.Host == "etcd-a" && tc.fresh != "" || s.Title != "read etcd's keys") {
					t.Errorf("the keys come from %s: %s", s.Host, s.Title)
				}
				if s.Kind == KeepEtcdPKI {
					t.Errorf("%s: a host that stays has the key", s.ID)
				}
			}
			if tc.fresh == "etcd-d" && !tc.dead {
				inOrder(t, p, "etcd-b/make-etcd-pki", "cp-a/share-etcd-client", "etcd-a/reset-host", "cluster/record-spec")
			}
			// Afterwards the control planes have a certificate that a host of the spec renews.
			handedOver(c, obs, p)
			var issuers []string
			for _, h := range c.EtcdHosts() {
				issuers = append(issuers, "client of "+h.Name)
			}
			for _, name := range []string{"cp-a", "cp-b"} {
				if client := obs.Hosts[name].Facts.Kubernetes.EtcdClient; !slices.Contains(issuers, client) || tc.fresh == "etcd-a" && client == "client of etcd-a" {
					t.Errorf("%s has the %s", name, client)
				}
			}
		})
	}
}

// TestTheOnlyKeyOfEtcdLeaves takes the host out of the spec that alone has the key of etcd's CA.
func TestTheOnlyKeyOfEtcdLeaves(t *testing.T) {
	for name, tc := range map[string]struct{ joins bool }{"it is replaced": {true}, "nothing joins": {false}} {
		t.Run(name, func(t *testing.T) {
			c := external()
			added(c, &facts.Observation{Hosts: map[string]facts.Host{}}, "etcd-e", spec.RoleEtcd)
			added(c, &facts.Observation{Hosts: map[string]facts.Host{}}, "etcd-f", spec.RoleEtcd)
			obs := issued(t, c)
			keyOn(c, obs, "etcd-a")
			without(c, "etcd-a", "etcd-f")
			if tc.joins {
				added(c, obs, "etcd-d", spec.RoleEtcd)
			}
			p := build(t, c, obs)
			inOrder(t, p, "etcd-a/make-etcd-pki", "etcd-b/keep-etcd-pki", "etcd-b/make-etcd-pki", "cp-a/share-etcd-client", "etcd-a/reset-host")
			if tc.joins {
				inOrder(t, p, "etcd-b/make-etcd-pki", "etcd-d/share-etcd-pki", "etcd-d/join-etcd", "etcd-a/reset-host")
			}
			// A run that was killed is finished: the key is where it was put.
			obs.Hosts["etcd-b"].Facts.Kubernetes.EtcdCAKey = true
			if got := kindsOf(build(t, c, obs)); len(got[KeepEtcdPKI]) > 0 || slices.Contains(got[MakeEtcdPKI], "etcd-a") {
				t.Errorf("once more: %v", got)
			}
		})
	}
	lost := func(t *testing.T) (*spec.Cluster, *facts.Observation) {
		c := external()
		obs := issued(t, c)
		keyOn(c, obs, "etcd-a")
		without(c, "etcd-a")
		dies(obs, "etcd-a")
		return c, obs
	}
	t.Run("it is dead and replaced", func(t *testing.T) {
		c, obs := lost(t)
		added(c, obs, "etcd-d", spec.RoleEtcd)
		r := refusalOf(t, c, obs)
		if r.Rule != RuleEtcdPKI || !strings.Contains(r.Why, "etcd-d") || !strings.Contains(r.Why, "/etc/kubernetes/pki/etcd/ca.key") || !strings.Contains(r.Fix, "etcd-a") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("it is dead, and nothing joins", func(t *testing.T) {
		c, obs := lost(t)
		p := build(t, c, obs)
		if !slices.ContainsFunc(p.Warnings, func(w string) bool {
			return strings.Contains(w, "/etc/kubernetes/pki/etcd/ca.key") && strings.Contains(w, "etcd-a")
		}) {
			t.Errorf("nobody is warned: %q", p.Warnings)
		}
	})
	t.Run("the key is kept elsewhere", func(t *testing.T) {
		c := external()
		obs := issued(t, c)
		keyOn(c, obs, "")
		without(c, "etcd-a")
		if got := kindsOf(build(t, c, obs)); len(got[MakeEtcdPKI])+len(got[KeepEtcdPKI]) > 0 {
			t.Errorf("%v", got)
		}
	})
}

// TestTheOnlySharedKeysLeave takes the control plane out of the spec that alone has the keys of the cluster's authorities.
func TestTheOnlySharedKeysLeave(t *testing.T) {
	only := func(t *testing.T, joins bool) (*spec.Cluster, *facts.Observation) {
		c := testCluster()
		added(c, &facts.Observation{Hosts: map[string]facts.Host{}}, "cp-e", spec.RoleControlPlane)
		obs := finished(t, c)
		for _, h := range c.HostsWith(spec.RoleControlPlane) {
			if h.Name != "cp-a" {
				k := &obs.Hosts[h.Name].Facts.Kubernetes
				k.SharedPKI, k.MissingPKI = false, []string{"ca.key"}
			}
		}
		without(c, "cp-a")
		if joins {
			added(c, obs, "cp-d", spec.RoleControlPlane)
		}
		return c, obs
	}
	for name, joins := range map[string]bool{"it is replaced": true, "nothing joins": false} {
		t.Run(name, func(t *testing.T) {
			c, obs := only(t, joins)
			p := build(t, c, obs)
			inOrder(t, p, "cp-a/make-pki", "cp-b/keep-pki", "cp-a/reset-host")
			if joins {
				inOrder(t, p, "cp-b/make-pki", "cp-d/share-pki", "cp-d/join-control-plane")
			}
			noneOn(t, p, "cp-c", KeepPKI, SharePKI)
			k := &obs.Hosts["cp-b"].Facts.Kubernetes
			k.SharedPKI, k.MissingPKI = true, nil
			if got := kindsOf(build(t, c, obs)); len(got[KeepPKI]) > 0 || slices.Contains(got[MakePKI], "cp-a") {
				t.Errorf("once more: %v", got)
			}
		})
	}
	t.Run("it is dead and replaced", func(t *testing.T) {
		c, obs := only(t, true)
		dies(obs, "cp-a")
		if r := refusalOf(t, c, obs); r.Rule != RulePKI || !strings.Contains(r.Fix, "cp-a") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("it is dead, and nothing joins", func(t *testing.T) {
		c, obs := only(t, false)
		dies(obs, "cp-a")
		p, err := Build(cluster.Evaluate(c, obs), testBundle)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(p.Warnings, func(w string) bool { return strings.Contains(w, "cp-a") && strings.Contains(w, "ca.key") }) {
			t.Errorf("nobody is warned: %q", p.Warnings)
		}
	})
}
