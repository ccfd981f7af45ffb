package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quorate.dev/quorate/internal/evict"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/manifest"
)

// nodeTimeout is for a change of a Node object: an election or an API server that restarts must not end a run.
const nodeTimeout = time.Minute

// yielding relaxes the budgets of the Prometheus that Quorate installed: they are its own, and keep a drain from taking both replicas. While one of them
// waits for a node, they would keep the other one where it is for as long as that node is away. Other budgets are the user's, and stay.
type yielding struct {
	client *kube.Client
	note   func(string)
}

// relaxed is maxUnavailable of a budget that lets all of its pods go.
const relaxed = "100%"

// yield relaxes one of them. What it was is noted on the budget itself, in the same change: a run that is killed leaves nothing relaxed that others do not
// recognize, and a request whose answer is lost can be repeated.
func (y *yielding) yield(ctx context.Context, b evict.Budget) error {
	namespace, name, _ := strings.Cut(b.Name, "/")
	if namespace != monitoring.Namespace {
		return nil
	}
	own, err := y.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, observe.ConfigMap, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if own.Data[manifest.Prometheus] == "" {
		return nil // it is somebody else's
	}
	have, err := y.client.PolicyV1().PodDisruptionBudgets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	was, noted := have.Annotations[facts.RelaxedAnnotation]
	switch now := have.Spec.MaxUnavailable; {
	case now == nil:
		return nil // somebody has made another budget of it
	case noted && now.String() == relaxed:
		return nil // an earlier request, or an earlier run, has relaxed it
	case !noted:
		was = now.String()
	}
	if err := setBudget(ctx, y.client, name, was, intstr.FromString(relaxed)); err != nil {
		return err
	}
	y.note("the disruption budget " + b.Name + " lets the last replica go: " + strings.Join(b.Unhealthy, ", ") + " can run only when a node comes back")
	return nil
}

// restoreBudgets makes those of them what they were that a drain has relaxed, in this run or in an earlier one that was interrupted. The caller has the leases,
// so no other drain by Quorate goes on.
func (e *Env) restoreBudgets(ctx context.Context, client *kube.Client) error {
	return e.onNode(ctx, "restoring the disruption budgets of Prometheus", func(ctx context.Context) error {
		list, err := client.PolicyV1().PodDisruptionBudgets(monitoring.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, b := range list.Items {
			was, noted := b.Annotations[facts.RelaxedAnnotation]
			if !noted {
				continue
			}
			if err := setBudget(ctx, client, b.Name, nil, intstr.Parse(was)); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
}

// restorePrometheusBudgets is the step of what an interrupted drain has left.
func restorePrometheusBudgets(ctx context.Context, e *Env, _ plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	return e.restoreBudgets(ctx, client)
}

// setBudget sets how many pods may be unavailable, and what that was before; was is nil for a budget that is what it was.
func setBudget(ctx context.Context, client *kube.Client, name string, was any, unavailable intstr.IntOrString) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{facts.RelaxedAnnotation: was}}, "spec": map[string]any{"maxUnavailable": unavailable}})
	if err == nil {
		_, err = client.PolicyV1().PodDisruptionBudgets(monitoring.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	}
	return err
}

func (e *Env) evictOptions(s plan.Step) evict.Options {
	return evict.Options{Force: s.Force, Note: func(text string) { e.note(s, text) }}
}

// checkDrain refuses what would never end, before anything is changed.
func checkDrain(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	return evict.Check(ctx, client, s.Host, e.evictOptions(s))
}

// drainNode cordons a node and evicts its pods. The conditions of the node say how far it is.
func drainNode(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.permittedAPI(ctx, s)
	if err != nil {
		return err
	}
	for _, node := range append([]string{s.Host}, s.Nodes...) {
		err := e.onNode(ctx, "cordoning node "+node, func(ctx context.Context) error {
			if err := evict.Cordon(ctx, client, node); node == s.Host || !apierrors.IsNotFound(err) {
				return err
			}
			return nil // it has left the cluster by now
		})
		if err != nil {
			return err
		}
	}
	if err := e.setConditions(ctx, client, s.Host, condition{corev1.NodeDrainInProgress, true, "Draining", "its pods are being evicted"}, condition{kind: corev1.NodeDrained, status: false, reason: "Draining", message: "pods are left"}); err != nil {
		return err
	}
	o := e.evictOptions(s)
	o.Yield = (&yielding{client: client, note: o.Note}).yield
	err = evict.Drain(ctx, client, s.Host, o)
	err = errors.Join(err, e.restoreBudgets(context.WithoutCancel(ctx), client))
	if err != nil {
		stopped := condition{corev1.NodeDrainInProgress, false, "Interrupted", err.Error()}
		_ = e.setConditions(context.WithoutCancel(ctx), client, s.Host, stopped) // the drain itself is what failed
		return err
	}
	return e.setConditions(ctx, client, s.Host, condition{corev1.NodeDrainInProgress, false, "Drained", "all pods but those of DaemonSets and static pods have left"},
		condition{corev1.NodeDrained, true, "Drained", "all pods but those of DaemonSets and static pods have left"})
}

// uncordonNode lets pods be placed on a node again.
func uncordonNode(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.permittedAPI(ctx, s)
	if err != nil {
		return err
	}
	if err := e.removeConditions(ctx, client, s.Host, corev1.NodeDrainInProgress, corev1.NodeDrained); err != nil {
		return err
	}
	if err := e.restoreBudgets(ctx, client); err != nil { // the drain may have been interrupted
		return err
	}
	return e.onNode(ctx, "uncordoning node "+s.Host, func(ctx context.Context) error { return evict.Uncordon(ctx, client, s.Host) })
}

func (e *Env) onNode(ctx context.Context, what string, f func(context.Context) error) error {
	ctx, cancel := withDeadline(ctx, nodeTimeout, what)
	defer cancel()
	return retry(ctx, 500*time.Millisecond, f)
}

// condition is a node condition. Those of drains and maintenance belong to whoever administers the node: no controller sets
// them.
type condition struct {
	kind            corev1.NodeConditionType
	status          bool
	reason, message string
}

// maxMessage keeps the message of a condition readable.
const maxMessage = 1024

func (e *Env) setConditions(ctx context.Context, client *kube.Client, node string, conditions ...condition) error {
	return e.patchConditions(ctx, client, node, func(now metav1.Time, have map[corev1.NodeConditionType]corev1.NodeCondition) (out []any) {
		for _, c := range conditions {
			status := corev1.ConditionFalse
			if c.status {
				status = corev1.ConditionTrue
			}
			next := corev1.NodeCondition{Type: c.kind, Status: status, Reason: c.reason, Message: c.message[:min(len(c.message), maxMessage)], LastHeartbeatTime: now, LastTransitionTime: now}
			if old, has := have[c.kind]; has && old.Status == status {
				next.LastTransitionTime = old.LastTransitionTime
			}
			out = append(out, next)
		}
		return out
	})
}

func (e *Env) removeConditions(ctx context.Context, client *kube.Client, node string, kinds ...corev1.NodeConditionType) error {
	return e.patchConditions(ctx, client, node, func(_ metav1.Time, have map[corev1.NodeConditionType]corev1.NodeCondition) (out []any) {
		for _, k := range kinds {
			if _, has := have[k]; has {
				out = append(out, map[string]any{"$patch": "delete", "type": k})
			}
		}
		return out
	})
}

// patchConditions changes some conditions of a node through its status, and leaves those of others alone.
func (e *Env) patchConditions(ctx context.Context, client *kube.Client, node string, change func(metav1.Time, map[corev1.NodeConditionType]corev1.NodeCondition) []any) error {
	return e.onNode(ctx, "setting the conditions of node "+node, func(ctx context.Context) error {
		n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		have := map[corev1.NodeConditionType]corev1.NodeCondition{}
		for _, c := range n.Status.Conditions {
			have[c.Type] = c
		}
		list := change(metav1.Now(), have)
		if len(list) == 0 {
			return nil
		}
		patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": list}})
		if err != nil {
			return err
		}
		if _, err = client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}, "status"); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		return nil
	})
}
