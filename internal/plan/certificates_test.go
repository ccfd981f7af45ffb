package plan

import (
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

var certificateNames = []string{"pki/apiserver.crt", "pki/apiserver-etcd-client.crt", "pki/apiserver-kubelet-client.crt", "pki/front-proxy-client.crt", "pki/etcd/server.crt", "pki/etcd/peer.crt",
	"pki/etcd/healthcheck-client.crt", "admin.conf", "controller-manager.conf", "scheduler.conf"}

// certified gives every host of a cluster certificates of a year, of which some days are left, and authorities of ten years.
func certified(c *spec.Cluster, obs *facts.Observation, daysLeft int) {
	obs.Time = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	leaf := func(name string) facts.Certificate {
		end := obs.Time.AddDate(0, 0, daysLeft)
		return facts.Certificate{Name: name, Begins: end.AddDate(0, 0, -365), Expires: end, Written: obs.Time.AddDate(0, 0, -100)}
	}
	for _, h := range c.Spec.Hosts {
		f := obs.Hosts[h.Name].Facts
		if f == nil {
			continue
		}
		f.Time = obs.Time
		f.Kubernetes.Certificates = nil
		for _, ca := range []string{facts.ClusterCA, facts.FrontProxyCA, facts.EtcdCA} {
			f.Kubernetes.Certificates = append(f.Kubernetes.Certificates, facts.Certificate{Name: ca, CA: true, Begins: obs.Time.AddDate(-1, 0, 0), Expires: obs.Time.AddDate(9, 0, 0)})
		}
		if h.IsNode() {
			f.Kubernetes.Certificates = append(f.Kubernetes.Certificates, leaf(facts.KubeletClient), leaf(facts.KubeletServer))
		}
		var names []string
		switch {
		case h.Has(spec.RoleControlPlane):
			names = certificateNames
			if f.Kubernetes.EtcdCAKey = c.StackedEtcd(); !c.StackedEtcd() {
				names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return strings.HasPrefix(name, "pki/etcd/") })
			}
		case h.Has(spec.RoleEtcd):
			names = []string{"pki/etcd/server.crt", "pki/etcd/peer.crt", facts.EtcdClientCertificate}
			f.Kubernetes.EtcdCAKey, f.Kubernetes.EtcdData = true, true
		}
		for _, name := range names {
			f.Kubernetes.Certificates = append(f.Kubernetes.Certificates, leaf(name))
		}
	}
}

func TestCertificatesAreRenewedInTurn(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	if p := build(t, c, obs); !p.Empty() {
		t.Errorf("nothing is due, and the plan has %v", kindsOf(p))
	}
	certified(c, obs, 100)
	check := func(name string, p *Plan) {
		checkOrder(t, p)
		kinds := kindsOf(p)
		if want := []string{"cp-a", "cp-b", "cp-c"}; !slices.Equal(kinds[RenewCertificates], want) || !slices.Equal(kinds[RestartPrograms], want) || !slices.Equal(kinds[MoveLeadership], want) || len(kinds[RenewKubelet]) > 0 {
			t.Fatalf("%s: %v", name, kinds)
		}
		if len(kinds[LeavePools]) > 0 {
			t.Errorf("%s: an API server that goes on leaves the pools", name)
		}
		at := func(kind Kind, host string) int {
			return slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == kind && s.Host == host })
		}
		for i, host := range []string{"cp-a", "cp-b", "cp-c"} {
			renew, move, restart := at(RenewCertificates, host), at(MoveLeadership, host), at(RestartPrograms, host)
			if !slices.Equal(p.Steps[renew].Certificates, certificateNames) || renew > move || move > restart || i > 0 && !dependsOn(p, p.Steps[renew].ID, p.Steps[at(RestartPrograms, []string{"cp-a", "cp-b"}[i-1])].ID) {
				t.Errorf("%s: %s is not renewed in turn: %+v", name, host, p.Steps)
			}
			if p.Steps[renew].LifetimeSeconds != int64((365 * 24 * time.Hour).Seconds()) {
				t.Errorf("%s: lifetime %d", name, p.Steps[renew].LifetimeSeconds)
			}
		}
	}
	check("apply", build(t, c, obs))
	certified(c, obs, 200)
	p, err := Renew(cluster.Evaluate(c, obs))
	if err != nil {
		t.Fatal(err)
	}
	check("certs renew", p)

	// A run that was killed between the two steps of a host left the programs with the former certificates.
	obs.Hosts["cp-b"].Components[facts.Scheduler] = facts.Component{Answer: facts.Answer{OK: true}, Started: obs.Time.AddDate(0, 0, -101)}
	obs.Hosts["cp-a"].Components[facts.Scheduler] = facts.Component{Answer: facts.Answer{OK: true}, Started: obs.Time.AddDate(0, 0, -99)}
	p = build(t, c, obs)
	if kinds := kindsOf(p); !slices.Equal(kinds[RestartPrograms], []string{"cp-b"}) || len(kinds[RenewCertificates]) > 0 {
		t.Errorf("%v", kinds)
	}
}

// dependsOn says that a step comes after another one, directly or not.
func dependsOn(p *Plan, id, on string) bool {
	for _, s := range p.Steps {
		if s.ID == id {
			return slices.ContainsFunc(s.Needs, func(need string) bool { return need == on || dependsOn(p, need, on) })
		}
	}
	return false
}

func TestOneHostWithExpiredCertificates(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	k := &obs.Hosts["cp-b"].Facts.Kubernetes
	for i := range k.Certificates {
		if !k.Certificates[i].CA {
			k.Certificates[i].Expires = obs.Time.Add(-time.Hour)
		}
	}
	kinds := kindsOf(build(t, c, obs))
	if want := []string{"cp-b"}; !slices.Equal(kinds[RenewCertificates], want) || !slices.Equal(kinds[RenewKubelet], want) {
		t.Errorf("%v", kinds)
	}
}

// TestKubeletsDoNotMakeProgramsWait: kubelets renew their own certificates. Those of everything else have expired, and what ended because of
// that again and again must not wait until a kubelet tries it once more.
func TestKubeletsDoNotMakeProgramsWait(t *testing.T) {
	c := testCluster()
	expire := func(obs *facts.Observation, host string, which func(facts.Certificate) bool) {
		k := &obs.Hosts[host].Facts.Kubernetes
		for i := range k.Certificates {
			if !k.Certificates[i].CA && which(k.Certificates[i]) {
				k.Certificates[i].Expires = obs.Time.Add(-time.Hour)
			}
		}
	}
	restarts := func(p *Plan) (on []string) {
		checkOrder(t, p)
		for _, s := range p.Steps {
			if s.Kind == RestartPrograms && slices.Equal(s.Restart, []string{"kubelet.service"}) {
				on = append(on, s.Host)
			}
		}
		return on
	}
	obs := finished(t, c)
	certified(c, obs, 200)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		expire(obs, h.Name, func(c facts.Certificate) bool { return c.Name != facts.KubeletClient && c.Name != facts.KubeletServer })
	}
	obs.API, obs.APIError, obs.Etcd, obs.EtcdError = nil, "Unauthorized", nil, "its certificate is not accepted"
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].APIServer.OK, obs.Hosts[h.Name].APIServer.Problem = false, "certificate has expired"
	}
	p := build(t, c, obs)
	if got := restarts(p); !slices.Equal(slices.Sorted(slices.Values(got)), allControlPlanes) || len(kindsOf(p)[RenewKubelet]) > 0 {
		t.Errorf("kubelets restart on %v: %v", got, kindsOf(p))
	}
	// One host alone, with a certificate that a program reads again: if it runs.
	obs = finished(t, c)
	certified(c, obs, 200)
	expire(obs, "cp-b", func(c facts.Certificate) bool { return c.Name == "pki/apiserver-etcd-client.crt" })
	if p = build(t, c, obs); !slices.Equal(restarts(p), []string{"cp-b"}) || len(kindsOf(p)[MoveLeadership]) > 0 {
		t.Errorf("%v", kindsOf(p))
	}
	// A kubelet that has expired as well gets its certificate before it restarts. Those of the administrator end no program.
	expire(obs, "cp-b", func(c facts.Certificate) bool { return c.Name == facts.KubeletClient })
	expire(obs, "cp-a", func(c facts.Certificate) bool { return c.Name == "admin.conf" })
	p, err := Renew(cluster.Evaluate(c, obs))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(restarts(p), []string{"cp-b"}) || !dependsOn(p, stepID("cp-b", RestartPrograms), stepID("cp-b", RenewKubelet)) {
		t.Errorf("%v", kindsOf(p))
	}
	// What is only due ended nothing.
	certified(c, obs, 100)
	if p = build(t, c, obs); len(restarts(p)) > 0 || len(kindsOf(p)[RestartPrograms]) == 0 {
		t.Errorf("%v", kindsOf(p))
	}
}

func TestACertificateThatEndsWithItsAuthority(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 20)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		for i := range k.Certificates {
			k.Certificates[i].Expires = obs.Time.AddDate(0, 0, 20)
		}
	}
	if p := build(t, c, obs); !p.Empty() {
		t.Errorf("each apply would renew them: %v", kindsOf(p))
	}
}

func TestEverythingHasExpired(t *testing.T) {
	for name, c := range map[string]*spec.Cluster{"stacked": testCluster(), "external": external()} {
		t.Run(name, func(t *testing.T) {
			var obs *facts.Observation
			if c.StackedEtcd() {
				obs = finished(t, c)
			} else {
				obs = finishedExternal(t, c)
			}
			certified(c, obs, -1)
			obs.API, obs.APIError, obs.Etcd, obs.EtcdError = nil, "Unauthorized", nil, "its certificate is not accepted"
			for _, h := range c.HostsWith(spec.RoleControlPlane) {
				obs.Hosts[h.Name].APIServer.OK, obs.Hosts[h.Name].APIServer.Problem = false, "certificate has expired"
			}
			check := func(p *Plan) {
				kinds := kindsOf(p)
				var owners, nodes, cps []string
				for _, h := range c.Spec.Hosts {
					if h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd) {
						owners = append(owners, h.Name)
					}
					if h.IsNode() {
						nodes = append(nodes, h.Name)
					}
					if h.Has(spec.RoleControlPlane) {
						cps = append(cps, h.Name)
					}
				}
				sortedOf := func(kind Kind) []string { return slices.Sorted(slices.Values(kinds[kind])) }
				if !slices.Equal(sortedOf(RenewCertificates), owners) || !slices.Equal(sortedOf(RenewKubelet), sorted(nodes)) || !slices.Equal(sortedOf(RestartPrograms), cps) || p.Steps[len(p.Steps)-1].Kind != Verify {
					t.Errorf("%v", kinds)
				}
				if !c.StackedEtcd() && !slices.Equal(sortedOf(ShareEtcdClient), cps) {
					t.Errorf("control planes keep an expired client certificate: %v", kinds)
				}
			}
			check(build(t, c, obs))
			p, err := Renew(cluster.Evaluate(c, obs))
			if err != nil {
				t.Fatal(err)
			}
			check(p)

			// Nothing helps if the authority has expired, and without its key only its owner can help.
			damage := map[string]func(k *facts.Kubernetes){
				cluster.RuleAuthorityExpired: func(k *facts.Kubernetes) {
					for i := range k.Certificates {
						if k.Certificates[i].CA {
							k.Certificates[i].Expires = obs.Time.Add(-time.Hour)
						}
					}
				},
				cluster.RuleAuthorityKey: func(k *facts.Kubernetes) { k.MissingPKI = []string{"ca.key"} },
			}
			for _, rule := range []string{cluster.RuleAuthorityKey, cluster.RuleAuthorityExpired} {
				for _, h := range c.Spec.Hosts {
					damage[rule](&obs.Hosts[h.Name].Facts.Kubernetes)
				}
				if r := refusalOf(t, c, obs); r.Rule != rule {
					t.Errorf("%+v, want %s", r, rule)
				}
			}
		})
	}
}

// TestOnlyTheAdministratorsCertificateHasExpired: the API servers work, so nothing may take them away together.
func TestOnlyTheAdministratorsCertificateHasExpired(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	obs.API, obs.APIError = nil, "Unauthorized"
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		for i := range k.Certificates {
			if name := k.Certificates[i].Name; name == "admin.conf" || name == "scheduler.conf" {
				k.Certificates[i].Expires = obs.Time.Add(-time.Hour)
			}
		}
	}
	p := build(t, c, obs)
	checkOrder(t, p)
	kinds := kindsOf(p)
	if len(kinds[RenewCertificates]) != 3 || len(kinds[RestartPrograms]) != 3 || len(kinds[RenewKubelet]) > 0 {
		t.Fatalf("%v", kinds)
	}
	var last string
	for _, s := range p.Steps {
		if s.Kind != RestartPrograms {
			continue
		}
		if !slices.Equal(s.Pods, []string{facts.Scheduler}) || s.Change.Verb != cluster.Restart || last != "" && !dependsOn(p, s.ID, last) {
			t.Errorf("%+v", s)
		}
		last = s.ID
	}
}

func TestAnEtcdHostsClientCertificateReachesControlPlanes(t *testing.T) {
	c := external()
	obs := finishedExternal(t, c)
	certified(c, obs, 200)
	p, err := Renew(cluster.Evaluate(c, obs))
	if err != nil {
		t.Fatal(err)
	}
	checkOrder(t, p)
	kinds := kindsOf(p)
	if len(kinds[RenewCertificates]) != 3+len(c.HostsWith(spec.RoleControlPlane)) || len(kinds[ShareEtcdClient]) != len(c.HostsWith(spec.RoleControlPlane)) {
		t.Errorf("%v", kinds)
	}
	for _, s := range p.Steps {
		if s.Kind == RenewCertificates && slices.Contains(s.Certificates, facts.EtcdClientCertificate) != (s.Host[:4] == "etcd") {
			t.Errorf("%s renews %v", s.Host, s.Certificates)
		}
	}
	// The same in apply, where it is due.
	certified(c, obs, 100)
	if kinds := kindsOf(build(t, c, obs)); len(kinds[ShareEtcdClient]) != len(c.HostsWith(spec.RoleControlPlane)) {
		t.Errorf("%v", kinds)
	}
}

func TestAnOfflineAuthority(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 10)
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].Facts.Kubernetes.MissingPKI = []string{"ca.key"}
	}
	if _, err := Renew(cluster.Evaluate(c, obs)); err == nil || err.(*cluster.Refusal).Rule != cluster.RuleAuthorityKey {
		t.Errorf("%v", err)
	}
	p := build(t, c, obs)
	for _, s := range p.Steps {
		if s.Kind == RenewCertificates && (slices.Contains(s.Certificates, "pki/apiserver.crt") || !slices.Contains(s.Certificates, "pki/etcd/peer.crt")) {
			t.Errorf("apply renews %v", s.Certificates)
		}
	}
	if len(kindsOf(p)[RenewCertificates]) != 3 {
		t.Errorf("%v", kindsOf(p))
	}
}

// TestRenewalBesideOtherReplacements: an upgrade and other settings move leadership away from the same hosts, in the same plan.
func TestRenewalBesideOtherReplacements(t *testing.T) {
	for name, plan := range map[string]func(c *spec.Cluster) *Plan{
		"an upgrade": func(c *spec.Cluster) *Plan {
			obs := upgraded(t, c, older)
			certified(c, obs, 100)
			return mustPlan(t, c, obs, newer)
		},
		"other settings": func(c *spec.Cluster) *Plan {
			obs := running(t, c)
			certified(c, obs, 100)
			c.Spec.Settings = allSettings(t, c)
			return mustPlan(t, c, obs, newer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(testCluster())
			kinds := kindsOf(p)
			if len(kinds[RenewCertificates]) != 3 || len(kinds[UpgradeControlPlane]) != 3 || len(kinds[MoveLeadership]) != 6 {
				t.Errorf("%v", kinds)
			}
			for _, cp := range kinds[RenewCertificates] {
				if renew, replace := stepID(cp, RenewCertificates), stepID(cp, UpgradeControlPlane); !dependsOn(p, replace, renew) {
					t.Errorf("%s is replaced before its certificates are renewed", cp)
				}
			}
		})
	}
}

// TestAnInterruptedRenewalOfEtcdsClientCertificate: etcd's hosts have new ones, the run was killed before control planes got them, and theirs
// expired since. Nothing else has expired.
func TestAnInterruptedRenewalOfEtcdsClientCertificate(t *testing.T) {
	c := external()
	obs := finishedExternal(t, c)
	certified(c, obs, 200)
	obs.API, obs.APIError = nil, "no answer"
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].APIServer.OK, obs.Hosts[h.Name].APIServer.Problem = false, "etcd"
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		for i := range k.Certificates {
			if k.Certificates[i].Name == facts.EtcdClientCertificate {
				k.Certificates[i].Expires = obs.Time.Add(-time.Hour)
			}
		}
	}
	for name, p := range map[string]func() (*Plan, error){
		"apply":       func() (*Plan, error) { return Build(cluster.Evaluate(c, obs), testBundle) },
		"certs renew": func() (*Plan, error) { return Renew(cluster.Evaluate(c, obs)) },
	} {
		p, err := p()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkOrder(t, p)
		kinds := kindsOf(p)
		if cps := []string{"cp-a", "cp-b"}; !slices.Equal(kinds[ShareEtcdClient], cps) || !slices.Equal(kinds[RestartPrograms], cps) || len(kinds[RenewCertificates]) > 0 {
			t.Errorf("%s: %v", name, kinds)
		}
	}
}

// TestWhatNobodyCanRenewHere keeps nothing else from being renewed, and no step fails because of it.
func TestWhatNobodyCanRenewHere(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	expire := func(host string, names ...string) {
		k := &obs.Hosts[host].Facts.Kubernetes
		for i := range k.Certificates {
			if slices.Contains(names, k.Certificates[i].Name) {
				k.Certificates[i].Expires = obs.Time.Add(-time.Hour)
			}
		}
	}
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].Facts.Kubernetes.MissingPKI = []string{"ca.key"}
	}
	expire("worker-a", facts.KubeletClient)
	if kinds := kindsOf(build(t, c, obs)); len(kinds[RenewKubelet]) > 0 {
		t.Errorf("nobody can sign for a kubelet: %v", kinds)
	}
	// An API that does not answer, and a due certificate without a key next to one that has expired and can be renewed.
	obs.API, obs.APIError = nil, "no answer"
	k := &obs.Hosts["cp-a"].Facts.Kubernetes
	k.Certificates = append(k.Certificates, facts.Certificate{Name: facts.SuperAdminKubeconfig, Begins: obs.Time.AddDate(-2, 0, 0), Expires: obs.Time.AddDate(-1, 0, 0)})
	expire("cp-a", "pki/etcd/peer.crt")
	for i := range k.Certificates {
		if k.Certificates[i].Name == "pki/apiserver.crt" {
			k.Certificates[i].Expires = obs.Time.AddDate(0, 0, 20)
		}
	}
	p := build(t, c, obs)
	if i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RenewCertificates }); i < 0 || !slices.Equal(p.Steps[i].Certificates, []string{"pki/etcd/peer.crt"}) {
		t.Errorf("%+v", p.Steps)
	}
}

// TestRenewalSaysWhatItLeavesAlone: hosts in maintenance keep their certificates, and a cluster that is being restored is left alone.
func TestRenewalSaysWhatItLeavesAlone(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	obs.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Ready: true}}
	p, err := Renew(cluster.Evaluate(c, obs))
	if err != nil {
		t.Fatal(err)
	}
	if p.Unreachable["cp-b"] == "" || slices.Contains(kindsOf(p)[RenewCertificates], "cp-b") {
		t.Errorf("%v, %v", p.Unreachable, kindsOf(p))
	}
	obs.API.Maintenance = nil
	obs.Hosts["cp-b"].Facts.Kubernetes.Restore = &fromBackup
	if _, err := Renew(cluster.Evaluate(c, obs)); err == nil || err.(*cluster.Refusal).Rule != cluster.RuleUnfinishedRestore {
		t.Errorf("%v", err)
	}
}
