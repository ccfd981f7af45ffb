package observe

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/facts"
)

// TestWhoseTokenAFormerKeySigned: a token that nobody found counts as an old one, unless the pod has none or does not run.
func TestWhoseTokenAFormerKeySigned(t *testing.T) {
	now := metav1.Now()
	pod := func(name string, phase corev1.PodPhase, change func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("u-" + name)}, Status: corev1.PodStatus{Phase: phase}}
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}}}
		if change != nil {
			change(&p)
		}
		return p
	}
	pods := []corev1.Pod{
		pod("renewed", corev1.PodRunning, nil), pod("old", corev1.PodRunning, nil), pod("two", corev1.PodRunning, nil), pod("nobody-found-it", corev1.PodRunning, nil),
		pod("begins", corev1.PodPending, nil), pod("initializes", corev1.PodPending, nil), pod("ended", corev1.PodSucceeded, nil), pod("failed", corev1.PodFailed, nil),
		pod("goes", corev1.PodRunning, func(p *corev1.Pod) { p.DeletionTimestamp = &now }), pod("has-none", corev1.PodRunning, func(p *corev1.Pod) { p.Spec.Volumes = nil }),
	}
	have := []facts.PodToken{
		{Pod: "u-renewed", SignedBy: "new", Age: time.Minute}, {Pod: "u-old", SignedBy: "former", Age: time.Hour}, {Pod: "u-two", SignedBy: "new", Age: 20 * time.Second}, {Pod: "u-two", SignedBy: "former", Age: time.Second},
		{Pod: "u-initializes", SignedBy: "former", Age: time.Second}, {Pod: "u-ended", SignedBy: "former"}, {Pod: "u-failed", SignedBy: "new"}, {Pod: "u-of-before", SignedBy: "former"},
	}
	got := judgeTokens(pods, have, "former")
	if want := []string{"shop/initializes", "shop/nobody-found-it", "shop/old", "shop/two"}; !slices.Equal(got.Old, want) {
		t.Errorf("%v, want %v", got.Old, want)
	}
	if got.Youngest == nil || *got.Youngest != 20*time.Second {
		t.Errorf("%v", got.Youngest)
	}
	if got := judgeTokens(nil, have, "former"); got.Old != nil || got.Youngest != nil {
		t.Errorf("%+v", got)
	}
}
