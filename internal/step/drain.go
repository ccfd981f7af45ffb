package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"quorate.dev/quorate/internal/evict"
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
	e       *Env
	client  *kube.Client
	note    func(string)
	mu      sync.Mutex
	relaxed map[string]*relaxedBudget // by name
	noted   string                    // of the manifest, before anything was changed; empty as long as nothing was
}

// relaxedBudget is what a budget was before the API was first asked to relax it. Whether it did is only known when it has answered.
type relaxedBudget struct {
	was  *intstr.IntOrString
	done bool
}

// yield relaxes one of them. It first notes that the objects must be applied again, so that a run that is killed leaves nothing relaxed for good.
func (y *yielding) yield(ctx context.Context, b evict.Budget) error {
	namespace, name, _ := strings.Cut(b.Name, "/")
	if namespace != monitoring.Namespace {
		return nil
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	budget, known := y.relaxed[name]
	if known && budget.done {
		return nil
	}
	noted := y.noted
	if noted == "" {
		own, err := y.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, observe.ConfigMap, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if noted = own.Data[manifest.Prometheus]; noted == "" {
			return nil // it is somebody else's
		}
	}
	if !known {
		have, err := y.client.PolicyV1().PodDisruptionBudgets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		budget = &relaxedBudget{was: have.Spec.MaxUnavailable}
	}
	// From here on there is something to restore, also if an answer is lost.
	y.noted = noted
	if err := Note(ctx, y.client, manifest.Prometheus, plan.BeingApplied); err != nil {
		return err
	}
	y.relaxed[name] = budget
	if err := y.set(ctx, name, new(intstr.FromString("100%"))); err != nil {
		return err
	}
	budget.done = true
	y.note("the disruption budget " + b.Name + " lets the last replica go: " + strings.Join(b.Unhealthy, ", ") + " can run only when a node comes back")
	return nil
}

// restore makes them what they were.
func (y *yielding) restore(ctx context.Context) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.noted == "" {
		return nil
	}
	return y.e.onNode(ctx, "restoring the disruption budgets of Prometheus", func(ctx context.Context) error {
		for name, budget := range y.relaxed {
			if err := y.set(ctx, name, budget.was); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return Note(ctx, y.client, manifest.Prometheus, y.noted)
	})
}

func (y *yielding) set(ctx context.Context, name string, unavailable *intstr.IntOrString) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"maxUnavailable": unavailable}})
	if err == nil {
		_, err = y.client.PolicyV1().PodDisruptionBudgets(monitoring.Namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
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
	own := &yielding{e: e, client: client, note: o.Note, relaxed: map[string]*relaxedBudget{}}
	o.Yield = own.yield
	err = evict.Drain(ctx, client, s.Host, o)
	err = errors.Join(err, own.restore(context.WithoutCancel(ctx)))
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
