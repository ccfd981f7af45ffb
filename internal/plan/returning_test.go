package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// TestAMaintenanceDuringWhichAuthoritiesExpired: apply renewed them on all hosts but that one, and leaves it alone. The end of the maintenance
// gives it what the others got, before anything there is started or waited for.
func TestAMaintenanceDuringWhichAuthoritiesExpired(t *testing.T) {
	for _, tc := range []struct {
		shape string
		c     *spec.Cluster
		host  string
		want  []Kind
	}{
		{"stacked", testCluster(), "cp-b", []Kind{SetTrust, RenewCertificates, RenewKubelet, RestartPrograms}},
		{"stacked", testCluster(), "worker-a", []Kind{SetTrust, RenewKubelet}},
		{"stacked", testCluster(), "lb-a", []Kind{Configure}},
		{"external", external(), "cp-a", []Kind{SetTrust, RenewCertificates, ShareEtcdClient, RenewKubelet, RestartPrograms}},
		{"external", external(), "etcd-a", []Kind{SetTrust, RenewCertificates, RestartPrograms}}, // its unit runs again since the host has booted
	} {
		t.Run(tc.shape+"/"+tc.host, func(t *testing.T) {
			c := tc.c
			obs := finished(t, c)
			if !c.StackedEtcd() {
				obs = finishedExternal(t, c)
			}
			certified(c, obs, 200)
			trusting(c, obs)
			target := targetOf(t, c, tc.host)
			p := must(t)(Maintain(cluster.Evaluate(c, obs), target, MaintainOptions{}))
			perform(t, c, obs, p, len(p.Steps))
			for _, a := range certificateAuthorities {
				expire(obs, tc.host, a)
			}
			f := obs.Hosts[tc.host].Facts
			if of := hostconfig.BalancerAuthority("").Files[0].Key(); f.Files[of] != "" {
				f.Files[of] = "the one that has expired"
			}
			for i := range obs.Etcd {
				if obs.Etcd[i].Name == tc.host {
					obs.Etcd[i].Healthy, obs.Etcd[i].Problem = false, "certificate has expired"
				}
			}
			if p := build(t, c, obs); slices.ContainsFunc(p.Steps, func(s Step) bool { return slices.Contains(s.hosts(), tc.host) }) {
				t.Errorf("apply changes a host in maintenance: %v", kindsOf(p))
			}
			p = must(t)(EndMaintenance(cluster.Evaluate(c, obs), target))
			await := stepID(tc.host, AwaitHost)
			for _, s := range p.Steps {
				if s.Host != tc.host {
					t.Errorf("%s is not for the host that comes back", s.ID)
				}
				renews := slices.Contains([]Kind{SetTrust, RenewCertificates, ShareEtcdClient, RenewKubelet, RestartPrograms, Configure}, s.Kind)
				if renews && (!dependsOn(p, await, s.ID) || !slices.Contains(tc.want, s.Kind)) {
					t.Errorf("%s: %v", s.ID, kindsOf(p))
				}
				member := slices.Contains(cluster.Names(c.EtcdHosts()), tc.host)
				if s.Kind == RestartPrograms && (slices.Contains(s.Pods, facts.Etcd) != member || s.Change.Verb != cluster.Start) {
					t.Errorf("%v restart: %s", s.Pods, s.Change)
				}
			}
			for _, kind := range tc.want {
				if len(kindsOf(p)[kind]) == 0 {
					t.Errorf("%s is missing: %v", kind, kindsOf(p))
				}
			}
			for a := range f.Kubernetes.Trust {
				if !dependsOn(p, await, detailed(tc.host, SetTrust, a)) {
					t.Errorf("it does not get the certificate of %s: %v", a, kindsOf(p))
				}
			}
		})
	}
}

// TestARestartOfWhatMayWork is evaluated as one that takes something away: a member of which nothing is known may be one that works.
func TestARestartOfWhatMayWork(t *testing.T) {
	for name, tc := range map[string]struct {
		member facts.EtcdMember
		want   cluster.Verb
	}{
		"it works":         {facts.EtcdMember{Healthy: true}, cluster.Restart},
		"nothing is known": {facts.EtcdMember{Unknown: "no answer within a second"}, cluster.Restart},
		"it is down":       {facts.EtcdMember{Problem: "certificate has expired"}, cluster.Start},
	} {
		c := testCluster()
		obs := finished(t, c)
		certified(c, obs, 200)
		trusting(c, obs)
		target := targetOf(t, c, "cp-b")
		p := must(t)(Maintain(cluster.Evaluate(c, obs), target, MaintainOptions{}))
		perform(t, c, obs, p, len(p.Steps))
		expire(obs, "cp-b", facts.EtcdAuthority)
		for i := range obs.Etcd {
			if obs.Etcd[i].Name == "cp-b" {
				tc.member.Name, tc.member.Started = "cp-b", true
				obs.Etcd[i] = tc.member
			}
		}
		p = must(t)(EndMaintenance(cluster.Evaluate(c, obs), target))
		i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RestartPrograms })
		if i < 0 || p.Steps[i].Change.Verb != tc.want || p.Steps[i].Change.Part != cluster.EtcdMember {
			t.Errorf("%s: %+v", name, p.Steps)
		}
	}
}

// TestAMaintenanceEndsWhileAnotherAuthorityHasExpired: a worker does not trust that of the front proxy, and nothing is signed for others.
func TestAMaintenanceEndsWhileAnotherAuthorityHasExpired(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	trusting(c, obs)
	obs.API.Maintenance = map[string]facts.Maintenance{"worker-a": {Ready: true}}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		expire(obs, h.Name, facts.FrontProxyAuthority)
	}
	p := must(t)(EndMaintenance(cluster.Evaluate(c, obs), targetOf(t, c, "worker-a")))
	if i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Host != "worker-a" }); i >= 0 || len(p.Steps) == 0 {
		t.Errorf("%v", kindsOf(p))
	}
}

// TestAMaintenanceThatCannotEnd says what has to be done first.
func TestAMaintenanceThatCannotEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		host   string
		change func(*spec.Cluster, *facts.Observation)
		rule   string
		fix    string
	}{
		"etcd's authority has expired everywhere": {"cp-b", func(c *spec.Cluster, obs *facts.Observation) {
			for _, h := range c.Spec.Hosts {
				expire(obs, h.Name, facts.EtcdAuthority)
			}
		}, cluster.RuleAuthorityExpired, "Run `quorate apply`: it renews the authority's certificate"},
		"etcd's authority has expired everywhere, and only this host has its key": {"cp-b", func(c *spec.Cluster, obs *facts.Observation) {
			for _, h := range c.Spec.Hosts {
				expire(obs, h.Name, facts.EtcdAuthority)
				if tr, trusts := obs.Hosts[h.Name].Facts.Kubernetes.Trust[facts.EtcdAuthority]; trusts && h.Name != "cp-b" {
					tr.Key = ""
					obs.Hosts[h.Name].Facts.Kubernetes.Trust[facts.EtcdAuthority] = tr
				}
			}
		}, cluster.RuleAuthorityExpired, "Copy /etc/kubernetes/pki/etcd/ca.key from cp-b"},
		"the key that signs for the kubelet is kept offline": {"worker-a", func(c *spec.Cluster, obs *facts.Observation) {
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				obs.Hosts[h.Name].Facts.Kubernetes.MissingPKI = []string{"ca.key"}
			}
			for i, cert := range obs.Hosts["worker-a"].Facts.Kubernetes.Certificates {
				if cert.Name == facts.KubeletClient {
					obs.Hosts["worker-a"].Facts.Kubernetes.Certificates[i].Expires = obs.Time.AddDate(0, 0, -1)
				}
			}
		}, cluster.RuleAuthorityKey, "end the maintenance, and remove the key again"},
		"the API answers nobody": {"cp-b", func(c *spec.Cluster, obs *facts.Observation) {
			for _, h := range c.Spec.Hosts {
				expire(obs, h.Name, facts.KubernetesAuthority)
			}
			unanswering(c, obs)
		}, RuleAnswer, "Certificates have expired: `quorate apply`"},
	} {
		c := testCluster()
		obs := finished(t, c)
		certified(c, obs, 200)
		trusting(c, obs)
		obs.API.Maintenance = map[string]facts.Maintenance{tc.host: {Ready: true}}
		tc.change(c, obs)
		p, err := EndMaintenance(cluster.Evaluate(c, obs), targetOf(t, c, tc.host))
		r, refused := errors.AsType[*cluster.Refusal](err)
		if !refused || r.Rule != tc.rule || !strings.Contains(r.Fix, tc.fix) || r.Transient {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}
