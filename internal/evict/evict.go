// Package evict empties a node of its workloads before the node is stopped: it cordons the node, and evicts its pods through
// the eviction API, which respects disruption budgets. Nothing here deletes a pod past its budget.
package evict

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
)

// RuleUnmanaged refuses to evict pods that nothing creates again.
const RuleUnmanaged = "unmanaged-pods"

// Options say how a node is drained.
type Options struct {
	// Force evicts pods without a controller as well. Nothing creates them again.
	Force bool
	// Patience is how long a drain waits without any progress; Patience 0 is DefaultPatience.
	Patience time.Duration
	// Note is told what the drain does and what it waits for, by one call at a time. It may be nil.
	Note func(string)
	// Yield is asked to relax a disruption budget all of whose unhealthy pods wait for a node, so that waiting for them would end with nothing. It may be
	// nil, and may leave the budget as it is: most are the user's.
	Yield func(context.Context, Budget) error
}

// DefaultPatience is how long a drain waits without progress: a pod may need its grace period, and its replacement an image.
const DefaultPatience = 5 * time.Minute

// The pace of a drain; variables for tests.
var (
	pace = time.Second
	// replacementPatience is how long a drain waits for the replacement of a pod before it evicts the next one of the same
	// controller.
	replacementPatience = time.Minute
)

// Cordon keeps the scheduler from placing new pods on a node, and marks the node (see facts.CordonedAnnotation), so that a later run knows
// that it may uncordon it. A node that somebody else has cordoned gets no mark.
func Cordon(ctx context.Context, client kubernetes.Interface, node string) error {
	return setCordon(ctx, client, node, true)
}

// Uncordon lets the scheduler place pods on a node again, and removes the mark of Cordon.
func Uncordon(ctx context.Context, client kubernetes.Interface, node string) error {
	return setCordon(ctx, client, node, false)
}

func setCordon(ctx context.Context, client kubernetes.Interface, node string, cordoned bool) error {
	n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading node %s: %w", node, err)
	}
	var mark any // nil removes it
	if cordoned {
		mark = "true"
	}
	if _, marked := n.Annotations[facts.CordonedAnnotation]; n.Spec.Unschedulable == cordoned && (cordoned || !marked) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": n.ResourceVersion, "annotations": map[string]any{facts.CordonedAnnotation: mark}},
		"spec": map[string]any{"unschedulable": cordoned}})
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("setting spec.unschedulable of node %s: %w", node, err)
	}
	return nil
}

// Check finds out what keeps a node from being drained, and changes nothing. It refuses pods that no controller would create
// again, and disruption budgets that never allow an eviction, however long anybody waits.
func Check(ctx context.Context, client kubernetes.Interface, node string, o Options) error {
	d := newDrainer(client, node, o)
	pods, err := d.pods(ctx)
	bare, unmanaged := errors.AsType[*cluster.Refusal](err)
	if unmanaged { // whoever deletes these pods must not find a budget behind them
		d.o.Force = true
		pods, err = d.pods(ctx)
	}
	if err != nil {
		return err
	}
	var why, fixes []string
	for _, b := range d.budgetsOf(ctx, pods) {
		if b.never() {
			why, fixes = append(why, b.String()), append(fixes, b.fix())
		}
	}
	slices.Sort(fixes)
	never, fix := "would never end: "+strings.Join(why, "; "), strings.Join(slices.Compact(fixes), " ")
	switch {
	case len(why) == 0 && unmanaged:
		return bare
	case len(why) == 0:
		return nil
	case unmanaged:
		return &cluster.Refusal{Rule: RuleUnmanaged, Subjects: []string{node}, Why: bare.Why + ". It " + never, Fix: bare.Fix + " " + fix}
	}
	return &cluster.Refusal{Rule: RuleBudget, Subjects: []string{node}, Why: "draining " + node + " " + never, Fix: fix}
}

// Drain evicts the pods of a node and waits until they are gone. Pods of DaemonSets and mirror pods stay. The data of emptyDir
// volumes is lost, which is noted. Of several pods of one controller, each is evicted when the replacement of the former is
// ready. Drain does not cordon the node: without Cordon, new pods arrive.
//
// It can be interrupted and run again. If pods are left, the error is a *BlockedError, except that pods without a controller
// are refused before anything is evicted.
func Drain(ctx context.Context, client kubernetes.Interface, node string, o Options) error {
	d := newDrainer(client, node, o)
	pods, err := d.pods(ctx)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return nil
	}
	d.note(lost(pods))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	watch.Go(func() { d.watch(ctx, cancel) })
	seen := map[types.UID]bool{}
	for _, p := range pods {
		seen[p.UID] = true
	}
	// Pods that arrived in the meantime are evicted in the next round, but not those that are allowed on a cordoned node: their replacement
	// could be placed there again, and again.
	for err == nil && len(pods) > 0 {
		d.round(ctx, pods)
		if ctx.Err() != nil {
			err = d.blocked(context.WithoutCancel(ctx), context.Cause(ctx))
			break
		}
		pods, err = d.pods(ctx)
		pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool {
			stays := !seen[p.UID] && toleratesCordon(&p)
			if stays {
				d.note(name(&p) + " stays: it tolerates that the node is cordoned, and the scheduler placed it there again")
			}
			return stays
		})
	}
	cancel(nil)
	watch.Wait()
	return err
}

// drainer is one drain.
type drainer struct {
	client kubernetes.Interface
	node   string
	o      Options

	noting sync.Mutex // held while Note is called

	mu       sync.Mutex
	progress time.Time            // the last one, or the end of a grace period that a pod has
	waits    map[string]string    // by namespace/name of the pod: what it waits for
	stuck    map[string]time.Time // by name of the budget: since when it was seen to be stuck
}

func newDrainer(client kubernetes.Interface, node string, o Options) *drainer {
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	return &drainer{client: client, node: node, o: o, progress: time.Now(), waits: map[string]string{}, stuck: map[string]time.Time{}}
}

func (d *drainer) note(text string) {
	d.noting.Lock()
	defer d.noting.Unlock()
	if d.o.Note != nil && text != "" {
		d.o.Note(text)
	}
}

// pods are those that have to leave the node. An API server that went away just now is no reason to give up.
func (d *drainer) pods(ctx context.Context) ([]corev1.Pod, error) {
	for begin := time.Now(); ; sleep(ctx, pace) {
		pods, unmanaged, err := d.list(ctx)
		switch {
		case err != nil && ctx.Err() == nil && time.Since(begin) < d.o.Patience:
			continue
		case err != nil:
			return nil, fmt.Errorf("listing the pods of node %s: %w", d.node, err)
		case len(unmanaged) > 0 && !d.o.Force:
			return nil, &cluster.Refusal{Rule: RuleUnmanaged, Subjects: []string{d.node},
				Why: fmt.Sprintf("draining %s would delete pods that no controller creates again: %s", d.node, strings.Join(unmanaged, ", ")),
				Fix: "Delete these pods yourself, or have them deleted: `quorate apply`, `quorate reset` and `quorate maintain` have the flag --force."}
		}
		return pods, nil
	}
}

// list reads the pods that have to leave, and names those among them that no controller creates again: they have none, or it is a
// DaemonSet that is gone. Mirror pods of static pods, and the pods of DaemonSets, which ignore that a node is cordoned, stay.
func (d *drainer) list(ctx context.Context) (pods []corev1.Pod, unmanaged []string, err error) {
	list, err := d.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + d.node})
	if err != nil {
		return nil, nil, err
	}
	for _, p := range list.Items {
		if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
			continue
		}
		owner := metav1.GetControllerOf(&p)
		orphan := owner == nil
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if owner != nil && owner.Kind == "DaemonSet" && !ended {
			_, err := d.client.AppsV1().DaemonSets(p.Namespace).Get(ctx, owner.Name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return nil, nil, err
			}
			if err == nil {
				continue
			}
			orphan = true
		}
		if orphan && !ended {
			unmanaged = append(unmanaged, name(&p))
		}
		pods = append(pods, p)
	}
	slices.Sort(unmanaged)
	return pods, unmanaged, nil
}

// lost says which pods lose data.
func lost(pods []corev1.Pod) string {
	var names []string
	for _, p := range pods {
		if slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.EmptyDir != nil }) {
			names = append(names, name(&p))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "the data in the emptyDir volumes of these pods is deleted: " + strings.Join(names, ", ")
}

// toleratesCordon says that the scheduler may place a pod on a cordoned node.
func toleratesCordon(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
		return (t.Key == "" || t.Key == corev1.TaintNodeUnschedulable) && (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule) &&
			(t.Operator == corev1.TolerationOpExists || t.Key != "" && t.Value == "")
	})
}

func name(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

// round evicts pods: those of different controllers in parallel, those of one controller one after the other.
func (d *drainer) round(ctx context.Context, pods []corev1.Pod) {
	groups := map[string][]corev1.Pod{}
	for _, p := range pods {
		key := string(p.UID)
		if owner := metav1.GetControllerOf(&p); owner != nil {
			key = string(owner.UID)
		}
		groups[key] = append(groups[key], p)
	}
	var wg sync.WaitGroup
	for _, group := range groups {
		wg.Go(func() {
			for i, p := range group {
				before := d.ready(ctx, &p)
				d.evict(ctx, p)
				if i < len(group)-1 {
					d.awaitReplacement(ctx, &p, before)
				}
			}
		})
	}
	wg.Wait()
}

// evict evicts one pod and waits until it is gone.
func (d *drainer) evict(ctx context.Context, p corev1.Pod) {
	defer d.waitFor(name(&p), "")
	d.note("evict " + name(&p))
	for evicted, granted := false, false; ctx.Err() == nil; sleep(ctx, pace) {
		if !evicted && p.DeletionTimestamp == nil {
			// The pod's own grace period, and this very pod: another one of its name is not meant.
			err := d.client.PolicyV1().Evictions(p.Namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
				DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))}})
			switch {
			case err == nil:
				evicted = true
				d.progressed()
			case apierrors.IsNotFound(err), apierrors.IsConflict(err):
			case d.heldBy(ctx, p, err):
				continue
			default:
				d.waitFor(name(&p), fmt.Sprintf("the eviction of %s fails: %v", name(&p), err))
				continue
			}
		}
		d.waitFor(name(&p), name(&p)+" is terminating")
		now, err := d.client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && now.UID != p.UID {
			d.progressed()
			return
		}
		if err == nil && now.DeletionTimestamp != nil && now.DeletionGracePeriodSeconds != nil && !granted {
			granted = true
			d.grant(time.Duration(*now.DeletionGracePeriodSeconds) * time.Second)
		}
	}
}

// awaitReplacement waits until as many pods of a controller are ready as before one of them was evicted, but not forever:
// there may be no room for the replacement.
func (d *drainer) awaitReplacement(ctx context.Context, p *corev1.Pod, before int) {
	defer d.waitFor(name(p), "")
	d.waitFor(name(p), "the replacement of "+name(p)+" is not ready yet")
	for end := time.Now().Add(replacementPatience); ctx.Err() == nil && time.Now().Before(end); sleep(ctx, pace) {
		if d.ready(ctx, p) >= before {
			d.progressed()
			return
		}
	}
}

// ready counts the ready pods of a pod's controller.
func (d *drainer) ready(ctx context.Context, p *corev1.Pod) (n int) {
	owner := metav1.GetControllerOf(p)
	if owner == nil {
		return 0
	}
	list, err := d.client.CoreV1().Pods(p.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0
	}
	for _, other := range list.Items {
		if o := metav1.GetControllerOf(&other); o != nil && o.UID == owner.UID && other.DeletionTimestamp == nil && isReady(&other) {
			n++
		}
	}
	return n
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (d *drainer) waitFor(pod, what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if what == "" {
		delete(d.waits, pod)
		return
	}
	d.waits[pod] = what
}

func (d *drainer) progressed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.After(d.progress) {
		d.progress = now
	}
}

// grant lets a pod that terminates use its grace period: nothing is stuck before that is over.
func (d *drainer) grant(grace time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end := time.Now().Add(grace); end.After(d.progress) {
		d.progress = end
	}
}

// watch notes what the drain waits for, and ends it when it makes no progress.
func (d *drainer) watch(ctx context.Context, stop context.CancelCauseFunc) {
	noted := ""
	for ctx.Err() == nil {
		sleep(ctx, pace)
		d.mu.Lock()
		var waits []string
		for _, w := range d.waits {
			if !slices.Contains(waits, w) {
				waits = append(waits, w)
			}
		}
		stuck := time.Since(d.progress) > d.o.Patience
		d.mu.Unlock()
		slices.Sort(waits)
		if text := strings.Join(waits, "; "); text != noted && ctx.Err() == nil {
			noted = text
			d.note(text)
		}
		if stuck {
			stop(fmt.Errorf("no pod left within %s", d.o.Patience))
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
