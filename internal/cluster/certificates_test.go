package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

// TestWhenACertificateIsReported: one that is renewed every few days is not reported all the time, as one of a year would be.
func TestWhenACertificateIsReported(t *testing.T) {
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		life, left time.Duration
		want       cluster.Severity
	}{
		"a year, and 31 days left":     {365 * day, 31 * day, ""},
		"a year, and 29 days left":     {365 * day, 29 * day, cluster.Warning},
		"a year, and 6 days left":      {365 * day, 6 * day, cluster.Critical},
		"a week, and 3 days left":      {7 * day, 3 * day, ""},
		"a week, and 1.5 days left":    {7 * day, 36 * time.Hour, cluster.Warning},
		"a week, and hours left":       {7 * day, 12 * time.Hour, cluster.Critical},
		"expired":                      {365 * day, -time.Hour, cluster.Critical},
		"unknown, and 29 days left":    {0, 29 * day, cluster.Warning},
		"unknown, and 100 days left":   {0, 100 * day, ""},
		"minutes, and seconds expired": {2 * time.Minute, -time.Second, cluster.Critical},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			c := facts.Certificate{Name: "pki/apiserver.crt", Expires: clustertest.Now.Add(tc.left)}
			if tc.life > 0 {
				c.Begins = c.Expires.Add(-tc.life)
			}
			f.Kubernetes("cp-a").Certificates = []facts.Certificate{c}
			var got cluster.Severity
			for _, x := range cluster.Evaluate(f.Spec, f.Seen).Findings() {
				if x.Rule == cluster.RuleCertificate {
					got = x.Severity
				}
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhatIsOutdated(t *testing.T) {
	for name, tc := range map[string]struct {
		started, written time.Duration // from now
		want             []string
	}{
		"started before the file was written": {-2 * time.Hour, -time.Hour, []string{facts.ControllerManager}},
		"started after that":                  {-time.Hour, -2 * time.Hour, nil},
		"a file from the future":              {-time.Hour, time.Hour, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			f.Change("cp-a", func(h *facts.Host) { h.Facts.Time = clustertest.Now })
			f.Kubernetes("cp-a").Certificates = []facts.Certificate{{Name: "controller-manager.conf", Expires: clustertest.Now.AddDate(1, 0, 0), Written: clustertest.Now.Add(tc.written)}}
			f.Seen.Hosts["cp-a"].Components[facts.ControllerManager] = facts.Component{Answer: clustertest.OK(), Started: clustertest.Now.Add(tc.started)}
			if got := cluster.Evaluate(f.Spec, f.Seen).Outdated("cp-a"); !slices.Equal(got, tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}

// authority is a certificate of an authority, in PEM.
func authority(t *testing.T, key *ecdsa.PrivateKey, expires time.Time) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(expires.Unix()), Subject: pkix.Name{CommonName: "kubernetes"}, NotAfter: expires, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestHostsWithARenewedAuthority are one cluster with those that have not got it yet, and the certificate that counts is the renewed one.
func TestHostsWithARenewedAuthority(t *testing.T) {
	f := clustertest.Whole()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	expired, renewed := authority(t, key, clustertest.Now.Add(-time.Hour)), authority(t, key, clustertest.Now.AddDate(10, 0, 0))
	for _, h := range f.Spec.Spec.Hosts {
		k := f.Kubernetes(h.Name)
		if k.CA == "" {
			continue
		}
		k.CA = expired
		k.Certificates = []facts.Certificate{{Name: facts.ClusterCA, CA: true, Expires: clustertest.Now.Add(-time.Hour)}}
	}
	k := f.Kubernetes("cp-b")
	k.CA, k.Certificates[0].Expires = renewed, clustertest.Now.AddDate(10, 0, 0)
	s := cluster.Evaluate(f.Spec, f.Seen)
	if c := s.Conflicts(); len(c) > 0 {
		t.Errorf("%+v", c[0])
	}
	if s.CA() != renewed {
		t.Error("the certificate of the cluster is the one that has expired")
	}
	f.Kubernetes("cp-b").CA = authority(t, other, clustertest.Now.AddDate(10, 0, 0))
	if c := cluster.Evaluate(f.Spec, f.Seen).Conflicts(); len(c) != 1 || c[0].Rule != cluster.RuleOneCluster {
		t.Errorf("another key is another cluster: %+v", c)
	}
}

func TestWhenAnAuthorityIsReported(t *testing.T) {
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		left time.Duration
		key  bool
		want cluster.Severity
		fix  string
	}{
		"a year is left":           {365 * day, true, "", ""},
		"170 days are left":        {170 * day, true, cluster.Warning, "quorate certs rotate ca"},
		"20 days are left":         {20 * day, true, cluster.Critical, "quorate certs rotate ca"},
		"expired":                  {-time.Hour, true, cluster.Critical, "quorate apply"},
		"expired, without the key": {-time.Hour, false, cluster.Critical, "An authority that has expired"},
	} {
		t.Run(name, func(t *testing.T) {
			f := clustertest.Whole()
			for _, h := range f.Spec.Spec.Hosts {
				k := f.Kubernetes(h.Name)
				if !k.KubeletConfig {
					continue
				}
				end := clustertest.Now.Add(tc.left)
				k.Certificates = []facts.Certificate{{Name: facts.ClusterCA, CA: true, Begins: end.AddDate(-10, 0, 0), Expires: end}}
				trust := facts.Trust{Trusted: []string{"key"}, Until: end}
				if tc.key {
					trust.Key = "key"
				}
				k.Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: trust}
			}
			var got cluster.Severity
			for _, x := range cluster.Evaluate(f.Spec, f.Seen).Findings() {
				if x.Rule == cluster.RuleCertificate {
					got = x.Severity
					if !strings.Contains(x.Fix, tc.fix) {
						t.Errorf("%+v", x)
					}
				}
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// TestAnAuthorityThatExpiredOnAHostInMaintenance: apply leaves that host alone, and its key is not missing.
func TestAnAuthorityThatExpiredOnAHostInMaintenance(t *testing.T) {
	f := clustertest.Whole()
	for _, h := range f.Spec.Spec.Hosts {
		k, end := f.Kubernetes(h.Name), clustertest.Now.AddDate(9, 0, 0)
		if !k.KubeletConfig {
			continue
		}
		if h.Name == "cp-b" {
			end = clustertest.Now.Add(-time.Hour)
		}
		k.Certificates = []facts.Certificate{{Name: facts.ClusterCA, CA: true, Begins: end.AddDate(-10, 0, 0), Expires: end}, {Name: "pki/apiserver.crt", Begins: end.AddDate(-1, 0, 0), Expires: end}}
		k.Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: {Trusted: []string{"key"}, Key: "key", Until: end}}
	}
	f.Seen.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Ready: true}}
	s := cluster.Evaluate(f.Spec, f.Seen)
	if len(s.AuthorityRenewals()) > 0 || !s.RenewsAuthority(facts.ClusterCA) || s.TrustsExpired("cp-b") {
		t.Errorf("%+v", s.AuthorityRenewals())
	}
	found := false
	for _, x := range s.Findings() {
		if x.Rule == cluster.RuleCertificate {
			found = true
			if x.Severity != cluster.Critical || !strings.Contains(x.Fix, "quorate maintain --undo cp-b") || !slices.Equal(x.Subjects, []string{"cp-b"}) {
				t.Errorf("%+v", x)
			}
		}
	}
	if !found {
		t.Error("nothing is reported")
	}
	if s := s.Returned("cp-b"); len(s.AuthorityRenewals()) != 1 || len(s.InMaintenance()) > 0 || !s.TrustsExpired("cp-b") {
		t.Errorf("%+v", s.AuthorityRenewals())
	}
}

// TestWhyAnAuthorityIsNotRenewed says what is missing.
func TestWhyAnAuthorityIsNotRenewed(t *testing.T) {
	for want, keys := range map[string][]string{"its key is on no host": {"", "", ""}, "hosts sign with different keys": {"key", "other", "other"}} {
		f := clustertest.Whole()
		for i, name := range []string{"cp-a", "cp-b", "cp-c"} {
			k, trusted := f.Kubernetes(name), []string{"key"}
			k.Certificates = []facts.Certificate{{Name: facts.ClusterCA, CA: true, Expires: clustertest.Now.Add(-time.Hour)}}
			if keys[i] != "" {
				trusted[0] = keys[i]
			}
			k.Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: {Trusted: trusted, Key: keys[i], Until: clustertest.Now.Add(-time.Hour)}}
		}
		s := cluster.Evaluate(f.Spec, f.Seen)
		r := s.AuthorityExpired("cp-a", f.Kubernetes("cp-a").Certificates[0])
		if s.RenewsAuthority(facts.ClusterCA) || !strings.Contains(r.Why, want) || !strings.Contains(r.Fix, "An authority that has expired") {
			t.Errorf("%q: %+v", want, r)
		}
	}
}
