package step

import (
	"slices"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/backup"
)

// TestRestoresOfOneBackup: two of them make two etcds, whose members refuse each other. One that a version without nonces began stays what it was.
func TestRestoresOfOneBackup(t *testing.T) {
	ids := map[string]bool{}
	for _, nonce := range []string{"", "a1", "b2"} {
		e := &Env{Restoration: &Restoration{Manifest: backup.Manifest{Salvaged: "0123"}, Nonce: nonce}}
		ids[e.backupID()] = true
	}
	if len(ids) != 3 || !ids["0123"] {
		t.Errorf("%v", ids)
	}
	if id := (&Env{}).backupID(); id != "" {
		t.Errorf("without a backup: %q", id)
	}
}

// TestWebhooksFailOpenForAWhile: those that failed closed do so again when they can be answered, and no others.
func TestWebhooksFailOpenForAWhile(t *testing.T) {
	service := func(name string) admissionv1.WebhookClientConfig {
		return admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "policy", Name: name}}
	}
	m := metav1.ObjectMeta{Name: "policies"}
	hooks := []admissionv1.ValidatingWebhook{
		{Name: "default.example.com", ClientConfig: service("good")},
		{Name: "closed.example.com", FailurePolicy: new(admissionv1.Fail), ClientConfig: service("bad")},
		{Name: "open.example.com", FailurePolicy: new(admissionv1.Ignore), ClientConfig: service("good")},
	}
	policies := func() (out []admissionv1.FailurePolicyType) {
		for _, h := range hooks {
			if h.FailurePolicy == nil {
				t.Fatalf("%s has no policy", h.Name)
			}
			out = append(out, *h.FailurePolicy)
		}
		return out
	}
	if opened := open(&m, hooks, validatingWebhook); !slices.Equal(opened, []string{"default.example.com", "closed.example.com"}) {
		t.Errorf("%v", opened)
	}
	if got := policies(); !slices.Equal(got, []admissionv1.FailurePolicyType{"Ignore", "Ignore", "Ignore"}) {
		t.Errorf("%v", got)
	}
	// A second run finds nothing to do, and forgets nothing.
	if again := open(&m, hooks, validatingWebhook); len(again) > 0 || len(closedBefore(&m)) != 2 {
		t.Errorf("%v, %v", again, m.Annotations)
	}
	answered := func(c *admissionv1.WebhookClientConfig) string {
		if c.Service.Name == "bad" {
			return "no endpoint"
		}
		return ""
	}
	closed, left := closeAgain(&m, hooks, validatingWebhook, answered)
	if !slices.Equal(closed, []string{"default.example.com"}) || left["closed.example.com"] != "no endpoint" || len(left) != 1 {
		t.Errorf("%v, %v", closed, left)
	}
	if got := policies(); !slices.Equal(got, []admissionv1.FailurePolicyType{"Fail", "Ignore", "Ignore"}) {
		t.Errorf("%v", got)
	}
	closed, left = closeAgain(&m, hooks, validatingWebhook, func(*admissionv1.WebhookClientConfig) string { return "" })
	if !slices.Equal(closed, []string{"closed.example.com"}) || len(left) > 0 || len(m.Annotations) > 0 {
		t.Errorf("%v, %v, %v", closed, left, m.Annotations)
	}
}

func TestStaleLeases(t *testing.T) {
	taken := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	at := func(at time.Time) coordinationv1.Lease {
		return coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: at}}}
	}
	for _, tc := range []struct {
		lease coordinationv1.Lease
		stale bool
	}{{at(taken.Add(-time.Second)), true}, {at(taken.Add(time.Second)), true}, {at(taken.Add(2 * time.Minute)), false}, {coordinationv1.Lease{}, true}} {
		if got := staleLease(tc.lease, taken); got != tc.stale {
			t.Errorf("%v: %t", tc.lease.Spec.RenewTime, got)
		}
	}
}

func TestVolumesOfOneHost(t *testing.T) {
	v := corev1.PersistentVolume{}
	if got := onlyOn(v); len(got) > 0 {
		t.Errorf("%v", got)
	}
	v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"worker-a"}}}}}}}
	if got := onlyOn(v); !slices.Equal(got, []string{"worker-a"}) {
		t.Errorf("%v", got)
	}
}
