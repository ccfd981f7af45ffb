package run

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// maxEvent keeps an event readable; the API refuses more than 1024 bytes.
const maxEvent = 1000

// announce tells of a repair as an event in the cluster: of the host's node, or of Quorate's ConfigMap if there is none. The API may be
// what is broken, so an event that cannot be made is only noted.
func (e *Engine) announce(ctx context.Context, m Mended) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	client, err := e.client(ctx)
	if err == nil {
		event := eventOf(m, e.Cluster, time.Now())
		_, err = client.CoreV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
	}
	if err != nil {
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/event", Title: "tell of the repair in an event", Detail: err.Error()})
	}
}

func eventOf(m Mended, c *spec.Cluster, now time.Time) *corev1.Event {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: metav1.NamespaceSystem, Name: facts.ConfigMap}
	namespace := metav1.NamespaceSystem
	if h, known := c.Host(m.Host); known && h.IsNode() {
		// As the kubelet does: the node's name is its UID in events.
		about = corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: h.Name, UID: types.UID(h.Name)}
		namespace = metav1.NamespaceDefault
	}
	kind, reason := corev1.EventTypeWarning, map[Outcome]string{Repaired: "Repaired", RepairFailed: "RepairFailed", RepairRefused: "RepairRefused", RepairLimited: "RepairLimited"}[m.Outcome]
	if m.Outcome == Repaired {
		kind = corev1.EventTypeNormal
	}
	message := m.String()
	if len(message) > maxEvent {
		message = strings.ToValidUTF8(message[:maxEvent], "") + "..."
	}
	at := metav1.NewTime(now)
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("quorate.%x", now.UnixNano()), Namespace: namespace}, InvolvedObject: about, Reason: reason, Message: message, Type: kind,
		Source: corev1.EventSource{Component: "quorate", Host: m.Host}, FirstTimestamp: at, LastTimestamp: at, Count: 1, ReportingController: "quorate.dev/repair", ReportingInstance: owner()}
}
