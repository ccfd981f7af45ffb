package observe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/kube"
)

// TestUntilWhenClientsTrustWhichKey: an authority that has expired is told from the one that is to follow, and a renewed certificate counts.
func TestUntilWhenClientsTrustWhichKey(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
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
	former, renewed, next := issue(keys[0], now.Add(-time.Hour)), issue(keys[0], now.AddDate(10, 0, 0)), issue(keys[1], now.AddDate(9, 0, 0))
	old, following := pkifile.KeyIDs(former)[0], pkifile.KeyIDs(next)[0]
	earlier, later := metav1.NewTime(now.Add(-time.Hour)), metav1.NewTime(now)
	client := &kube.Client{Interface: fake.NewClientset(
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: facts.RootCA, ManagedFields: []metav1.ManagedFieldsEntry{{Time: &earlier}, {Time: &later}, {}}}, Data: map[string]string{facts.RootCAKey: string(slices.Concat(former, next))}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: facts.AuthenticationConfigMap}, Data: map[string]string{facts.ClientAuthorityKey: string(slices.Concat(former, next, renewed))}})}
	var api facts.API
	if err := clientServers(t.Context(), client, "", &api); err != nil {
		t.Fatal(err)
	}
	for name, until := range map[string]time.Time{facts.RootCA: now.Add(-time.Hour), facts.ClientAuthorityKey: now.AddDate(10, 0, 0)} {
		if !slices.Equal(api.Trusted[name], []string{old, following}) || !api.TrustedUntil[name][old].Equal(until) || !api.TrustedUntil[name][following].Equal(now.AddDate(9, 0, 0)) {
			t.Errorf("%s: %v, %v", name, api.Trusted[name], api.TrustedUntil[name])
		}
	}
	if !api.RootCAWritten.Equal(now) || !WrittenAt(&corev1.ConfigMap{}).IsZero() {
		t.Errorf("written at %s; %s without a sign of it", api.RootCAWritten, WrittenAt(&corev1.ConfigMap{}))
	}
}

// TestWhenAPodWasStarted: the first of its containers counts, and no pod runs before it was created.
func TestWhenAPodWasStarted(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	pod := func(created time.Duration, running ...time.Duration) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(created))}}
		for _, at := range running {
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(at))}}})
		}
		return p
	}
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		want time.Time
	}{
		"nothing runs":                 {pod(-time.Hour), time.Time{}},
		"restarted":                    {pod(-time.Hour, -time.Minute), now.Add(-time.Minute)},
		"two containers":               {pod(-time.Hour, -time.Minute, -30*time.Minute), now.Add(-30 * time.Minute)},
		"a node whose clock is behind": {pod(-time.Hour, -2*time.Hour), now.Add(-time.Hour)},
	} {
		if got := started(tc.pod); !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
