package step

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/plan"
)

// TestPublishingARenewedCertificate waits for the certificate, and not only for one of the same key.
func TestPublishingARenewedCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(expires time.Time) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(expires.Unix()), NotAfter: expires, IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	former, renewed := issue(time.Now().Add(-time.Hour)), issue(time.Now().AddDate(10, 0, 0))
	for name, tc := range map[string]struct {
		pods, servers []byte
		want          bool
	}{
		"not yet":            {former, former, false},
		"to servers alone":   {former, slices.Concat(former, renewed), false},
		"to pods alone":      {renewed, former, false},
		"to all":             {renewed, renewed, true},
		"next to the former": {renewed, slices.Concat(former, renewed), true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			client := &kube.Client{Interface: fake.NewClientset(
				&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
				&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: facts.RootCA}, Data: map[string]string{facts.RootCAKey: string(tc.pods)}},
				&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: facts.AuthenticationConfigMap}, Data: map[string]string{facts.ClientAuthorityKey: string(tc.servers)}})}
			servers := publishAuthentication(ctx, client, facts.KubernetesAuthority, renewed, true)
			pods := publishedToPods(ctx, client, renewed, true)
			if (servers == nil && pods == nil) != tc.want {
				t.Fatalf("%v, %v", servers, pods)
			}
			if !tc.want {
				return
			}
			m, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, facts.AuthenticationConfigMap, metav1.GetOptions{})
			if err != nil || !pkifile.SameCertificates([]byte(m.Data[facts.ClientAuthorityKey]), renewed) {
				t.Errorf("%v, %v", m.Data, err)
			}
		})
	}
}

// TestPublishingARenewedCertificateDuringARotation: what hosts publish depends on the stage that they are in, so the renewed certificate is enough.
func TestPublishingARenewedCertificateDuringARotation(t *testing.T) {
	issue := func(key *ecdsa.PrivateKey, expires time.Time) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(expires.Unix()), NotAfter: expires, IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	former, renewed, next := issue(keys[0], time.Now().Add(-time.Hour)), issue(keys[0], time.Now().AddDate(10, 0, 0)), issue(keys[1], time.Now().AddDate(9, 0, 0))
	in := kubeadm.TrustRequest{Authority: facts.KubernetesAuthority, Trusted: slices.Concat(renewed, next)}
	s := plan.Step{Kind: plan.PublishTrust, Detail: string(in.Authority), Authority: in.Authority, Trusted: []string{"old", "new"}}
	if trusted, only := awaited(s, in); only || !slices.Equal(trusted, renewed) {
		t.Errorf("only %t: %s", only, trusted)
	}
	stage := s
	stage.Detail = ""
	if trusted, only := awaited(stage, in); !only || !slices.Equal(trusted, in.Trusted) {
		t.Errorf("a stage of the rotation itself: only %t: %s", only, trusted)
	}
	for name, tc := range map[string]struct {
		pods []byte
		want bool
	}{
		"not yet":                     {slices.Concat(former, next), false},
		"by a host that trusts both":  {slices.Concat(renewed, next), true},
		"by one that has not gone on": {renewed, true},
	} {
		client := &kube.Client{Interface: fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: facts.RootCA}, Data: map[string]string{facts.RootCAKey: string(tc.pods)}})}
		trusted, only := awaited(s, in)
		if err := publishedToPods(t.Context(), client, trusted, only); (err == nil) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAuthoritiesThatShareAKey: each has a certificate of its own, and gets that one.
func TestAuthoritiesThatShareAKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, expires time.Time) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(expires.Unix()), Subject: pkix.Name{CommonName: name}, NotAfter: expires, IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	authorities := []facts.Authority{facts.KubernetesAuthority, facts.FrontProxyAuthority, facts.EtcdAuthority}
	trust := map[facts.Authority]facts.Trust{}
	e := &Env{Seen: &facts.Observation{Hosts: map[string]facts.Host{"cp-a": {Facts: &facts.Facts{Kubernetes: facts.Kubernetes{Trust: trust}}}}}, renewed: map[facts.Authority][]byte{}}
	for i, a := range authorities {
		former := issue(string(a), time.Now().Add(-time.Hour))
		trust[a] = facts.Trust{Trusted: pkifile.KeyIDs(former), PEM: string(former)}
		if a != facts.EtcdAuthority { // it is not renewed in this run
			e.renewed[a] = issue(string(a), time.Now().AddDate(10, 0, i))
		}
	}
	for _, a := range authorities {
		text, err := e.certificateOf(a, trust[a].Trusted[0])
		if err != nil {
			t.Fatal(err)
		}
		c := pkifile.Certificates(text)[0]
		if c.Subject.CommonName != string(a) || c.NotAfter.After(time.Now()) != (a != facts.EtcdAuthority) {
			t.Errorf("%s gets that of %s, which ends on %s", a, c.Subject.CommonName, c.NotAfter)
		}
	}
	// A run that was interrupted has copied the key that is to follow to every host, and no host trusts it yet.
	next := issue("next", time.Now().AddDate(10, 0, 0))
	e = &Env{Seen: &facts.Observation{Hosts: map[string]facts.Host{"cp-a": {Facts: &facts.Facts{Kubernetes: facts.Kubernetes{Trust: map[facts.Authority]facts.Trust{
		facts.KubernetesAuthority: {Trusted: []string{"former"}, Next: pkifile.KeyIDs(next)[0], NextPEM: string(next)}}}}}}}}
	if text, err := e.certificateOf(facts.KubernetesAuthority, pkifile.KeyIDs(next)[0]); err != nil || !bytes.Equal(text, next) {
		t.Errorf("the key that is to follow: %v, %s", err, text)
	}
}
