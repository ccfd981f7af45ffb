package plan

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

var certificateAuthorities = []facts.Authority{facts.KubernetesAuthority, facts.FrontProxyAuthority, facts.EtcdAuthority}

// trusting gives hosts with certificates the authorities that they trust, and their keys where these sign.
func trusting(c *spec.Cluster, obs *facts.Observation) {
	for _, h := range c.Spec.Hosts {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		k.Trust = map[facts.Authority]facts.Trust{}
		for _, a := range certificateAuthorities {
			member := slices.ContainsFunc(c.EtcdHosts(), func(o spec.Host) bool { return o.Name == h.Name })
			trusts, signs := h.Has(spec.RoleControlPlane), h.Has(spec.RoleControlPlane)
			switch a {
			case facts.KubernetesAuthority:
				trusts = h.IsNode()
			case facts.EtcdAuthority:
				trusts, signs = trusts || member, member
			}
			t := facts.Trust{Trusted: []string{string(a)}, PEM: "CA", Until: obs.Time.AddDate(9, 0, 0)}
			if signs {
				t.Key = string(a)
			}
			if trusts {
				k.Trust[a] = t
			}
		}
	}
}

// expire has an authority expire on a host, with what it signed there.
func expire(obs *facts.Observation, host string, a facts.Authority) {
	k := &obs.Hosts[host].Facts.Kubernetes
	at := obs.Time.Add(-time.Hour)
	for i, c := range k.Certificates {
		if c.Name == a.Certificate() || c.SignedByAuthority() == a {
			k.Certificates[i].Expires = at
		}
	}
	if t, trusts := k.Trust[a]; trusts {
		t.Until = at
		k.Trust[a] = t
	}
}

// unanswering is a cluster whose API accepts nobody.
func unanswering(c *spec.Cluster, obs *facts.Observation) {
	obs.API, obs.APIError, obs.Etcd, obs.EtcdError = nil, "certificate has expired", nil, "certificate has expired"
	for _, h := range c.HostsWith(spec.RoleControlPlane) {
		obs.Hosts[h.Name].APIServer.OK, obs.Hosts[h.Name].APIServer.Problem = false, "certificate has expired"
	}
}

func detailed(host string, kind Kind, a facts.Authority) string {
	return id(Step{Host: host, Kind: kind, Detail: string(a)})
}

func TestAuthoritiesThatHaveExpired(t *testing.T) {
	for name, tc := range map[string]struct {
		c       *spec.Cluster
		expired []facts.Authority
	}{
		"all, stacked":               {testCluster(), certificateAuthorities},
		"all, external":              {external(), certificateAuthorities},
		"the Kubernetes CA":          {testCluster(), []facts.Authority{facts.KubernetesAuthority}},
		"etcd's":                     {testCluster(), []facts.Authority{facts.EtcdAuthority}},
		"etcd's, on hosts of etcd":   {external(), []facts.Authority{facts.EtcdAuthority}},
		"the front proxy's, no API":  {testCluster(), []facts.Authority{facts.FrontProxyAuthority}},
		"the Kubernetes CA and etcd": {testCluster(), []facts.Authority{facts.KubernetesAuthority, facts.EtcdAuthority}},
	} {
		t.Run(name, func(t *testing.T) {
			c := tc.c
			obs := finished(t, c)
			if !c.StackedEtcd() {
				obs = finishedExternal(t, c)
			}
			certified(c, obs, 200)
			trusting(c, obs)
			for _, h := range c.Spec.Hosts {
				for _, a := range tc.expired {
					expire(obs, h.Name, a)
				}
			}
			unanswering(c, obs)
			renewed, err := Renew(cluster.Evaluate(c, obs))
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []*Plan{build(t, c, obs), renewed} {
				checkOrder(t, p)
				kinds := kindsOf(p)
				if len(kinds[RenewAuthority]) != len(tc.expired) || p.Steps[len(p.Steps)-1].Kind != Verify {
					t.Fatalf("%v", kinds)
				}
				for _, h := range c.Spec.Hosts {
					k := obs.Hosts[h.Name].Facts.Kubernetes
					i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RestartPrograms && s.Host == h.Name })
					for _, a := range tc.expired {
						if _, trusts := k.Trust[a]; !trusts {
							continue
						}
						trust := detailed(h.Name, SetTrust, a)
						if !slices.ContainsFunc(p.Steps, func(s Step) bool { return s.ID == trust && slices.Equal(s.Trusted, []string{string(a)}) }) {
							t.Errorf("%s does not get the certificate of %s: %v", h.Name, a, kinds)
							continue
						}
						if made := p.Steps[slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RenewAuthority && s.Authority == a })]; !dependsOn(p, trust, made.ID) {
							t.Errorf("%s gets the certificate of %s before it is signed", h.Name, a)
						}
						for _, later := range []string{stepID(h.Name, RenewCertificates), stepID(h.Name, RenewKubelet), stepID(h.Name, RestartPrograms)} {
							if slices.ContainsFunc(p.Steps, func(s Step) bool { return s.ID == later }) && !dependsOn(p, later, trust) {
								t.Errorf("%s does not come after %s", later, trust)
							}
						}
						if reads := a == facts.EtcdAuthority && k.EtcdData; reads && (i < 0 || !slices.Contains(p.Steps[i].Pods, facts.Etcd)) {
							t.Errorf("the member on %s does not read its authority again: %v", h.Name, kinds)
						}
					}
					if h.Has(spec.RoleControlPlane) && (i < 0 || !slices.Contains(p.Steps[i].Pods, facts.APIServer)) {
						t.Errorf("the API server on %s does not start again: %v", h.Name, kinds)
					}
				}
				shared := slices.Contains(tc.expired, facts.KubernetesAuthority)
				if (len(kinds[RestartClients]) > 0) != shared || (len(kinds[PublishTrust]) > 0) != (shared || slices.Contains(tc.expired, facts.FrontProxyAuthority)) {
					t.Errorf("%v", kinds)
				}
				balancers := 0
				for _, s := range p.Steps {
					if s.Kind == Configure && s.Detail == "authority" {
						balancers++
					}
				}
				if want := len(c.BalancerHosts()); shared && balancers != want || !shared && balancers > 0 {
					t.Errorf("%d load balancers trust the renewed certificate: %v", balancers, kinds)
				}
			}
			if !build(t, c, obs).Continues {
				t.Error("what needs the API would be left")
			}
			_, err = RotateAuthority(cluster.Evaluate(c, obs), tc.expired[0], RotateOptions{})
			if r, ok := errors.AsType[*cluster.Refusal](err); !ok || r.Rule != cluster.RuleAuthorityExpired || !strings.Contains(r.Fix, "quorate apply") {
				t.Errorf("a rotation: %v", err)
			}
		})
	}
}

// TestAnInterruptedRenewalOfAnAuthority goes on with the certificate that the first hosts have.
func TestAnInterruptedRenewalOfAnAuthority(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	trusting(c, obs)
	for _, h := range c.Spec.Hosts {
		if h.Name != "cp-b" {
			expire(obs, h.Name, facts.KubernetesAuthority)
		}
	}
	unanswering(c, obs)
	// cp-a has the file, and its kubeconfigs do not.
	k := &obs.Hosts["cp-a"].Facts.Kubernetes
	for i, c := range k.Certificates {
		if c.Name == facts.ClusterCA {
			k.Certificates[i].Expires = obs.Time.AddDate(10, 0, 0)
		}
	}
	p := build(t, c, obs)
	kinds := kindsOf(p)
	if len(kinds[RenewAuthority]) > 0 || !slices.Contains(kinds[SetTrust], "cp-a") || slices.Contains(kinds[SetTrust], "cp-b") || !slices.Contains(kinds[SetTrust], "worker-a") {
		t.Errorf("%v", kinds)
	}
	if !p.Continues || len(kinds[RestartClients]) != 1 || len(kinds[PublishTrust]) != 1 {
		t.Errorf("what needs the API is left: %v", kinds)
	}
	// No step signs the certificate, so load balancers get the one that hosts have.
	for _, h := range c.BalancerHosts() {
		obs.Hosts[h.Name].Facts.Files[hostconfig.BalancerAuthority("").Files[0].Key()] = "the former one"
	}
	for name, p := range map[string]*Plan{"apply": build(t, c, obs), "renew": must(t)(Renew(cluster.Evaluate(c, obs)))} {
		for _, h := range c.BalancerHosts() {
			if !slices.ContainsFunc(p.Steps, func(s Step) bool {
				return s.Kind == Configure && s.Host == h.Name && s.Desired != nil && slices.ContainsFunc(s.Desired.Files, func(f facts.File) bool {
					return f.Key() == hostconfig.BalancerAuthority("").Files[0].Key() && f.Content == "CA"
				})
			}) {
				t.Errorf("%s: HAProxy on %s goes on with the former certificate: %v", name, h.Name, kindsOf(p))
			}
		}
	}
	// When the API answers, what it publishes is left.
	obs = finished(t, c)
	certified(c, obs, 200)
	trusting(c, obs)
	obs.API.DaemonSets = []facts.DaemonSet{{Namespace: "kube-system", Name: facts.KubeProxy}}
	obs.API.TrustedUntil = map[string]map[string]time.Time{"cluster-info": {string(facts.KubernetesAuthority): obs.Time.Add(-time.Hour)}, facts.RootCA: {string(facts.KubernetesAuthority): obs.Time.AddDate(9, 0, 0)}}
	p = build(t, c, obs)
	restart, publish := detailed("", RestartClients, facts.KubernetesAuthority), detailed("", PublishTrust, facts.KubernetesAuthority)
	if kinds := kindsOf(p); len(kinds[RestartClients]) != 1 || len(kinds[PublishTrust]) != 1 || len(kinds[SetTrust]) > 0 || !dependsOn(p, publish, restart) {
		t.Errorf("%v", kinds)
	}
	obs.API.TrustedUntil["cluster-info"][string(facts.KubernetesAuthority)] = obs.Time.AddDate(9, 0, 0)
	if kinds := kindsOf(build(t, c, obs)); len(kinds[PublishTrust]) > 0 {
		t.Errorf("%v", kinds)
	}
}

// TestAHostThatComesBackWithExpiredAuthorities gets the certificates of the others, in a cluster that works.
func TestAHostThatComesBackWithExpiredAuthorities(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	trusting(c, obs)
	for _, a := range certificateAuthorities {
		expire(obs, "cp-b", a)
		expire(obs, "worker-a", a)
	}
	obs.Hosts["cp-b"].APIServer.OK, obs.Hosts["cp-b"].APIServer.Problem = false, "certificate has expired"
	p := build(t, c, obs)
	checkOrder(t, p)
	kinds := kindsOf(p)
	if len(kinds[RenewAuthority]) > 0 || slices.Contains(kinds[SetTrust], "cp-a") || !slices.Equal(slices.Sorted(slices.Values(kinds[RenewKubelet])), []string{"cp-b", "worker-a"}) || p.Continues {
		t.Errorf("%v", kinds)
	}
	for _, a := range certificateAuthorities {
		for _, later := range []string{stepID("cp-b", RenewCertificates), stepID("cp-b", RenewKubelet), stepID("cp-b", RestartPrograms)} {
			if !dependsOn(p, later, detailed("cp-b", SetTrust, a)) {
				t.Errorf("%s does not come after cp-b trusts the certificate of %s", later, a)
			}
		}
	}
	if !dependsOn(p, stepID("worker-a", RenewKubelet), detailed("worker-a", SetTrust, facts.KubernetesAuthority)) {
		t.Error("the kubelet of worker-a restarts before it trusts the renewed certificate")
	}
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RestartPrograms && s.Host == "cp-b" })
	for _, program := range podsWithEtcd {
		if !slices.Contains(p.Steps[i].Pods, program) {
			t.Errorf("%s does not restart: %+v", program, p.Steps[i])
		}
	}
	if p.Steps[i].Change.Part != cluster.ControlPlane {
		t.Errorf("%+v", p.Steps[i].Change)
	}
}

// TestTheFrontProxysAuthorityHasExpired: API servers work, and go on.
func TestTheFrontProxysAuthorityHasExpired(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	trusting(c, obs)
	for _, h := range c.Spec.Hosts {
		expire(obs, h.Name, facts.FrontProxyAuthority)
	}
	obs.API.TrustedUntil = map[string]map[string]time.Time{facts.ProxyAuthorityKey: {string(facts.FrontProxyAuthority): obs.Time.Add(-time.Hour)}}
	p := build(t, c, obs)
	checkOrder(t, p)
	kinds := kindsOf(p)
	if len(kinds[RenewAuthority]) != 1 || !slices.Equal(kinds[SetTrust], allControlPlanes) || !slices.Equal(kinds[RenewCertificates], allControlPlanes) || len(kinds[PublishTrust]) != 1 || len(kinds[RestartClients]) > 0 || len(kinds[RenewKubelet]) > 0 {
		t.Errorf("%v", kinds)
	}
}

// TestAnExpiredAuthorityWithoutItsKey is renewed elsewhere, and put on one host: the others get it from there.
func TestAnExpiredAuthorityWithoutItsKey(t *testing.T) {
	c := testCluster()
	obs := finished(t, c)
	certified(c, obs, 200)
	trusting(c, obs)
	for _, h := range c.Spec.Hosts {
		k := &obs.Hosts[h.Name].Facts.Kubernetes
		k.MissingPKI = []string{"ca.key"}
		tr := k.Trust[facts.KubernetesAuthority]
		tr.Key = ""
		k.Trust[facts.KubernetesAuthority] = tr
		for i, cert := range k.Certificates { // nothing else has
			if cert.Name == facts.ClusterCA {
				k.Certificates[i].Expires = obs.Time.Add(-time.Hour)
			}
		}
	}
	unanswering(c, obs)
	expire(obs, "cp-a", facts.KubernetesAuthority)
	r := refusalOf(t, c, obs)
	if r.Rule != cluster.RuleAuthorityExpired || !strings.Contains(r.Why, "its key is on no host") || !strings.Contains(r.Fix, "An authority that has expired") {
		t.Errorf("%+v", r)
	}
	k := &obs.Hosts["cp-a"].Facts.Kubernetes
	for i, cert := range k.Certificates {
		if cert.Name == facts.ClusterCA || cert.SignedByAuthority() == facts.KubernetesAuthority {
			k.Certificates[i].Expires = obs.Time.AddDate(1, 0, 0)
		}
	}
	if kinds := kindsOf(build(t, c, obs)); len(kinds[RenewAuthority]) > 0 || !slices.Contains(kinds[SetTrust], "cp-c") || !slices.Contains(kinds[SetTrust], "worker-a") {
		t.Errorf("%v", kinds)
	}
}

// TestEtcdsAuthorityExpiresWhileTheClusterRuns: API servers answer over connections from before. Members restart together, because one that does so
// alone would be cut off. A run that was killed between the files and the restarts is finished.
func TestEtcdsAuthorityExpiresWhileTheClusterRuns(t *testing.T) {
	for name, c := range map[string]*spec.Cluster{"stacked": testCluster(), "external": external()} {
		t.Run(name, func(t *testing.T) {
			fixture := func() *facts.Observation {
				obs := finished(t, c)
				if !c.StackedEtcd() {
					obs = finishedExternal(t, c)
				}
				certified(c, obs, 200)
				trusting(c, obs)
				for i := range obs.Etcd {
					obs.Etcd[i].Healthy, obs.Etcd[i].Problem = false, "certificate has expired"
				}
				return obs
			}
			check := func(p *Plan, made int) {
				t.Helper()
				checkOrder(t, p)
				if kinds := kindsOf(p); len(kinds[RenewAuthority]) != made || !p.Continues || len(kinds[LeavePools])+len(kinds[MoveLeadership]) > 0 {
					t.Errorf("%v", kinds)
				}
				for _, h := range c.EtcdHosts() {
					i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RestartPrograms && s.Host == h.Name })
					if i < 0 || !slices.Contains(p.Steps[i].Pods, facts.Etcd) || p.Steps[i].Change.Verb != cluster.Start {
						t.Errorf("the member on %s does not restart with the others: %v", h.Name, kindsOf(p))
					}
				}
			}
			obs := fixture()
			for _, h := range c.Spec.Hosts {
				expire(obs, h.Name, facts.EtcdAuthority)
			}
			check(build(t, c, obs), 1)

			obs = fixture()
			for _, h := range c.Spec.Hosts {
				k := &obs.Hosts[h.Name].Facts.Kubernetes
				for i := range k.Certificates {
					if k.Certificates[i].Name == facts.EtcdCA {
						k.Certificates[i].Begins = obs.Time.Add(-time.Minute - facts.Backdated)
					}
				}
				if tr, trusts := k.Trust[facts.EtcdAuthority]; trusts {
					tr.Written = obs.Time.Add(-time.Minute)
					k.Trust[facts.EtcdAuthority] = tr
				}
				seen := obs.Hosts[h.Name]
				seen.Started = map[string]time.Time{facts.Etcd: obs.Time.Add(-2 * time.Minute), facts.APIServer: obs.Time.Add(-2 * time.Minute)}
				obs.Hosts[h.Name] = seen
			}
			check(build(t, c, obs), 0)
			for i := range obs.Etcd {
				obs.Etcd[i].Healthy, obs.Etcd[i].Problem = true, ""
			}
			if kinds := kindsOf(build(t, c, obs)); len(kinds[RestartPrograms]) > 0 {
				t.Errorf("members that work restart: %v", kinds)
			}
		})
	}
}

// TestClientsThatAnEarlierRunDidNotRestart: the certificate is published, so nothing but their age tells that they may trust only the one that has
// expired. On a node that is not Ready, nothing can be restarted.
func TestClientsThatAnEarlierRunDidNotRestart(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*facts.Observation)
		want   string
	}{
		"none": {func(*facts.Observation) {}, ""},
		"one":  {func(obs *facts.Observation) { runs(obs, "worker-a", facts.Flannel, -2*time.Hour) }, "flannel on worker-a"},
		"DNS":  {func(obs *facts.Observation) { obs.API.DNSStarted = obs.Time.Add(-2 * time.Hour) }, "CoreDNS"},
		"nobody knows since when": {func(obs *facts.Observation) {
			obs.Hosts["worker-a"].Components[facts.KubeProxy] = facts.Component{Answer: facts.Answer{OK: true}}
		}, ""},
		"the file was written for another reason": {func(obs *facts.Observation) {
			for _, h := range obs.Hosts {
				for i, c := range h.Facts.Kubernetes.Certificates {
					if c.Name == facts.ClusterCA {
						h.Facts.Kubernetes.Certificates[i].Begins = obs.Time.AddDate(-1, 0, 0)
					}
				}
			}
			runs(obs, "worker-a", facts.KubeProxy, -2*time.Hour)
		}, ""},
		"on a node that is not Ready": {func(obs *facts.Observation) {
			runs(obs, "worker-a", facts.KubeProxy, -2*time.Hour)
			for i := range obs.API.Nodes {
				obs.API.Nodes[i].Ready = obs.API.Nodes[i].Name != "worker-a"
			}
		}, ""},
		"pods are not told to trust it yet, as after somebody renewed it in time": {func(obs *facts.Observation) {
			runs(obs, "worker-a", facts.KubeProxy, -2*time.Hour)
			obs.API.DNSStarted = obs.Time.Add(-2 * time.Hour)
			obs.API.TrustedUntil[facts.RootCA] = map[string]time.Time{string(facts.KubernetesAuthority): obs.Time.AddDate(0, 1, 0)}
		}, ""},
		"the certificate was not backdated, and its file was written again": {func(obs *facts.Observation) {
			for _, h := range obs.Hosts {
				for i, c := range h.Facts.Kubernetes.Certificates {
					if c.Name == facts.ClusterCA {
						h.Facts.Kubernetes.Certificates[i].Begins = obs.Time.Add(-31 * time.Minute)
					}
				}
				if tr, trusts := h.Facts.Kubernetes.Trust[facts.KubernetesAuthority]; trusts {
					tr.Written = obs.Time.Add(-10 * time.Minute)
					h.Facts.Kubernetes.Trust[facts.KubernetesAuthority] = tr
				}
			}
			obs.API.RootCAWritten = obs.Time.Add(-30*time.Minute - time.Second)
		}, ""},
		"nobody knows what pods are told": {func(obs *facts.Observation) {
			runs(obs, "worker-a", facts.KubeProxy, -2*time.Hour)
			obs.API.TrustedUntil = nil
		}, ""},
		"on a host in maintenance": {func(obs *facts.Observation) {
			runs(obs, "worker-a", facts.KubeProxy, -2*time.Hour)
			obs.API.Maintenance = map[string]facts.Maintenance{"worker-a": {Ready: true}}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			obs := finished(t, c)
			certified(c, obs, 200)
			trusting(c, obs)
			obs.API.DaemonSets = []facts.DaemonSet{{Namespace: "kube-system", Name: facts.KubeProxy}, {Namespace: "kube-flannel", Name: "kube-flannel-ds"}}
			obs.API.DNSStarted = obs.Time.Add(-30 * time.Minute)
			obs.API.TrustedUntil = map[string]map[string]time.Time{facts.RootCA: {string(facts.KubernetesAuthority): obs.Time.AddDate(9, 0, 0)}}
			for _, h := range c.Spec.Hosts {
				k := &obs.Hosts[h.Name].Facts.Kubernetes
				for i, cert := range k.Certificates {
					if cert.Name == facts.ClusterCA {
						k.Certificates[i].Begins = obs.Time.Add(-time.Hour - facts.Backdated)
					}
				}
				if tr, trusts := k.Trust[facts.KubernetesAuthority]; trusts {
					tr.Written = obs.Time.Add(-time.Hour)
					k.Trust[facts.KubernetesAuthority] = tr
					runs(obs, h.Name, facts.KubeProxy, -30*time.Minute)
					runs(obs, h.Name, facts.Flannel, -30*time.Minute)
				}
			}
			tc.change(obs)
			p := build(t, c, obs)
			i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Kind == RestartClients })
			if (i >= 0) != (tc.want != "") || len(kindsOf(p)[PublishTrust])+len(kindsOf(p)[SetTrust]) > 0 {
				t.Fatalf("%v", kindsOf(p))
			}
			if i >= 0 && (!strings.Contains(p.Steps[i].Reason, tc.want) || len(p.Steps[i].Pods) != 2 || !slices.Equal(p.Steps[i].Trusted, []string{string(facts.KubernetesAuthority)})) {
				t.Errorf("%+v", p.Steps[i])
			}
		})
	}
}

// runs has a program of a host run since some time before the observation.
func runs(obs *facts.Observation, host, program string, since time.Duration) {
	obs.Hosts[host].Components[program] = facts.Component{Answer: facts.Answer{OK: true}, Started: obs.Time.Add(since)}
}

// TestARenewalDuringARotation: an authority expires while everybody begins to trust the one that is to follow. The certificate of the key that
// signs is renewed, and published next to the other one, and the rotation stays where it is.
func TestARenewalDuringARotation(t *testing.T) {
	for name, tc := range map[string]struct {
		a     facts.Authority
		after []string // hosts that have not reached the first stage
	}{
		"every host trusts both": {facts.KubernetesAuthority, nil},
		"some hosts do":          {facts.KubernetesAuthority, []string{"cp-c", "worker-a"}},
		"the front proxy's":      {facts.FrontProxyAuthority, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCluster()
			key := string(tc.a)
			fixture := func() *facts.Observation {
				obs := finished(t, c)
				certified(c, obs, 200)
				trusting(c, obs)
				for _, h := range c.Spec.Hosts {
					k := &obs.Hosts[h.Name].Facts.Kubernetes
					tr, trusts := k.Trust[tc.a]
					if !trusts || slices.Contains(tc.after, h.Name) {
						continue
					}
					tr.Trusted = []string{key, "new"}
					if tr.Key != "" {
						tr.Next = "new"
					}
					k.Trust[tc.a] = tr
				}
				return obs
			}
			check := func(p *Plan) {
				t.Helper()
				checkOrder(t, p)
				for _, s := range p.Steps {
					want := []string{key, "new"}
					if s.Kind == SetTrust && slices.Contains(tc.after, s.Host) {
						want = want[:1]
					}
					if slices.Contains([]Kind{SetTrust, PublishTrust, RestartClients}, s.Kind) && !slices.Equal(s.Trusted, want) {
						t.Errorf("%s: %v, want %v", s.ID, s.Trusted, want)
					}
				}
				if kinds := kindsOf(p); len(kinds[PublishTrust]) != 1 || (len(kinds[RestartClients]) > 0) != tc.a.Shared() {
					t.Errorf("%v", kinds)
				}
			}
			obs := fixture()
			for _, h := range c.Spec.Hosts {
				expire(obs, h.Name, tc.a)
			}
			unanswering(c, obs)
			s := cluster.Evaluate(c, obs)
			if r := s.Rotation(tc.a); !r.Begun || r.Unclear != "" || r.Stage() != cluster.TrustStage {
				t.Fatalf("%+v", r)
			}
			p := build(t, c, obs)
			check(p)
			if kinds := kindsOf(p); len(kinds[RenewAuthority]) != 1 || len(kinds[SetTrust]) != len(s.TrustingHosts(tc.a)) {
				t.Errorf("%v", kinds)
			}
			// A run that was killed then has given the certificate to hosts, and the API still tells clients to trust the former one.
			obs = fixture()
			published := map[string]time.Time{key: obs.Time.Add(-time.Hour), "new": obs.Time.AddDate(10, 0, 0)}
			obs.API.TrustedUntil = map[string]map[string]time.Time{}
			for _, name := range tc.a.Published() {
				obs.API.TrustedUntil[name] = published
			}
			check(build(t, c, obs))
			published[key] = obs.Time.AddDate(10, 0, 0)
			if kinds := kindsOf(build(t, c, obs)); len(kinds[PublishTrust])+len(kinds[RestartClients])+len(kinds[SetTrust]) > 0 {
				t.Errorf("%v", kinds)
			}
		})
	}
}
