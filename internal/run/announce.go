package run

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// maxEvent keeps an event readable; the API refuses more than 1024 bytes.
const maxEvent = 1000

// announce tells of a repair as an event in the cluster: of the host's node, or of Quorate's ConfigMap if there is none. One that is not made is
// told of once, and not by everybody who finds it due again. The API may be what is broken, so an event that cannot be made is only noted.
func (e *Engine) announce(ctx context.Context, m Mended) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	client, err := e.client(ctx)
	if err == nil {
		event := eventOf(m, e.Cluster, time.Now())
		_, err = client.CoreV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/event", Title: "tell of the repair in an event", Detail: err.Error()})
	}
}

// once identifies what is announced once: that a repair is not made, until its limit ends or its reason changes, and in an hour at most, which is
// how long the API keeps events. It is empty for a repair that was made: each of them is announced.
func (m Mended) once(now time.Time) string {
	hour := now.UTC().Truncate(time.Hour).Format(time.RFC3339)
	switch {
	case m.Outcome == RepairLimited && !m.limit.IsZero():
		return m.limit.UTC().Format(time.RFC3339Nano)
	case m.Outcome == RepairLimited:
		return hour
	case m.Outcome == RepairRefused:
		return hour + " " + m.Detail
	}
	return ""
}

// reasons are those of events about repairs.
var reasons = map[Outcome]string{Repaired: "Repaired", RepairFailed: "RepairFailed", RepairRefused: "RepairRefused", RepairLimited: "RepairLimited"}

func eventOf(m Mended, c *spec.Cluster, now time.Time) *corev1.Event {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: metav1.NamespaceSystem, Name: facts.ConfigMap}
	namespace := metav1.NamespaceSystem
	if h, known := c.Host(m.Host); known && h.IsNode() {
		// As the kubelet does: the node's name is its UID in events.
		about = corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: h.Name, UID: types.UID(h.Name)}
		namespace = metav1.NamespaceDefault
	}
	kind, reason := corev1.EventTypeWarning, reasons[m.Outcome]
	if m.Outcome == Repaired {
		kind = corev1.EventTypeNormal
	}
	message := m.String()
	if len(message) > maxEvent {
		message = strings.ToValidUTF8(message[:maxEvent], "") + "..."
	}
	at, name := metav1.NewTime(now), fmt.Sprintf("quorate.%x", now.UnixNano())
	if once := m.once(now); once != "" {
		const unique = 32 // digits
		name = "quorate." + facts.Sum([]byte(string(m.Outcome) + " " + m.Key() + " " + once))[:unique]
	}
	return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, InvolvedObject: about, Reason: reason, Message: message, Type: kind,
		Source: corev1.EventSource{Component: "quorate", Host: m.Host}, FirstTimestamp: at, LastTimestamp: at, Count: 1, ReportingController: "quorate.dev/repair", ReportingInstance: owner()}
}
