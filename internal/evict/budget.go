package evict

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"quorate.dev/quorate/internal/facts"
)

// RuleBudget refuses a drain that a disruption budget would block for good.
const RuleBudget = "disruption-budget"

// Budget is a disruption budget that holds pods on a node.
type Budget struct {
	Name string // namespace/name
	// Healthy of Expected pods are healthy, and Desired must be; Allowed is how many evictions it allows now.
	Healthy, Expected, Desired, Allowed int
	// Pods are those on the node that it holds, and Unhealthy those that it counts as not healthy, wherever they are.
	Pods, Unhealthy []string
	// Stuck says that none of Unhealthy can become healthy before a node comes back: they find no node, or theirs is not ready.
	Stuck bool
	// Others are further budgets of the same pods: the eviction API refuses every eviction of a pod with several.
	Others []string
}

func (b Budget) String() string {
	held := strings.Join(b.Pods, ", ")
	if len(b.Others) > 0 {
		return fmt.Sprintf("%s has several disruption budgets (%s), and the eviction API does not support that", held, strings.Join(append([]string{b.Name}, b.Others...), ", "))
	}
	return fmt.Sprintf("the disruption budget %s allows no eviction of %s: %d of %d pods are healthy, and %d must be", b.Name, held, b.Healthy, b.Expected, b.Desired)
}

// never says that waiting does not help: even when all of its pods are healthy, it allows no eviction.
func (b Budget) never() bool {
	return len(b.Others) > 0 || facts.BlocksForGood(b.Expected, b.Desired, b.Allowed)
}

// fix is what to do about it.
func (b Budget) fix() string {
	switch {
	case len(b.Others) > 0:
		return "Leave one budget for these pods: delete the others with `kubectl delete pdb`."
	case b.never():
		namespace, name, _ := strings.Cut(b.Name, "/")
		return fmt.Sprintf("Run more replicas, or relax the budget: `kubectl -n %s edit pdb %s`.", namespace, name)
	case len(b.Unhealthy) > 0:
		return "Bring these pods back first: " + strings.Join(b.Unhealthy, ", ") + "."
	}
	return "Wait until its pods are healthy."
}

// BlockedError says that a drain ended with pods left. The node is cordoned and some pods may have been evicted; the drain can be
// run again.
type BlockedError struct {
	Node string
	// Left are the pods that are still there, and Waits is what they wait for.
	Left, Waits []string
	Budgets     []Budget
	Cause       error
}

func (e *BlockedError) Error() string {
	text := fmt.Sprintf("draining node %s: %v; %d pods are left (%s)", e.Node, e.Cause, len(e.Left), strings.Join(e.Left, ", "))
	var fixes []string
	for _, b := range e.Budgets {
		text += "; " + b.String()
		fixes = append(fixes, b.fix())
	}
	if len(e.Budgets) == 0 && len(e.Waits) > 0 {
		text += ": " + strings.Join(e.Waits, "; ")
	}
	slices.Sort(fixes)
	return text + ".\n" + strings.Join(append(slices.Compact(fixes), "Then run it again; the pods that left stay away."), " ")
}

func (e *BlockedError) Unwrap() error { return e.Cause }

// heldBy says whether a budget keeps the pod from being evicted, and notes which.
func (d *drainer) heldBy(ctx context.Context, p corev1.Pod, err error) bool {
	if !apierrors.IsTooManyRequests(err) && !strings.Contains(err.Error(), "more than one PodDisruptionBudget") {
		return false
	}
	budgets := d.budgetsOf(ctx, []corev1.Pod{p})
	if len(budgets) == 0 {
		// The API server itself can be too busy.
		d.waitFor(name(&p), fmt.Sprintf("the eviction of %s is refused: %v", name(&p), err))
		return true
	}
	d.waitFor(name(&p), budgets[0].String())
	d.yield(ctx, budgets[0])
	return true
}

// yield asks for a budget to be relaxed that has been stuck for a while: a pod that was created a moment ago has not found its node yet.
func (d *drainer) yield(ctx context.Context, b Budget) {
	d.mu.Lock()
	since, known := d.stuck[b.Name]
	switch {
	case !b.Stuck || len(b.Others) > 0:
		delete(d.stuck, b.Name)
	case !known:
		d.stuck[b.Name] = time.Now()
	}
	d.mu.Unlock()
	if d.o.Yield == nil || !b.Stuck || len(b.Others) > 0 || !known || time.Since(since) < replacementPatience {
		return
	}
	if err := d.o.Yield(ctx, b); err != nil {
		d.note(fmt.Sprintf("relaxing the disruption budget %s: %v", b.Name, err))
	}
}

// budgetsOf are the budgets that allow no eviction of the pods now.
func (d *drainer) budgetsOf(ctx context.Context, pods []corev1.Pod) (out []Budget) {
	at := map[string]int{}
	lists := map[string]*policyv1.PodDisruptionBudgetList{}
	for _, p := range pods {
		list, asked := lists[p.Namespace]
		if !asked {
			var err error
			if list, err = d.client.PolicyV1().PodDisruptionBudgets(p.Namespace).List(ctx, metav1.ListOptions{}); err != nil {
				list = &policyv1.PodDisruptionBudgetList{}
			}
			lists[p.Namespace] = list
		}
		var mine []policyv1.PodDisruptionBudget
		for _, b := range list.Items {
			if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(labels.Set(p.Labels)) && counts(&p) {
				mine = append(mine, b)
			}
		}
		if len(mine) == 0 || len(mine) == 1 && (mine[0].Status.DisruptionsAllowed > 0 || exempt(&p, &mine[0])) {
			continue
		}
		b := mine[0]
		key := b.Namespace + "/" + b.Name
		i, known := at[key]
		if !known {
			i = len(out)
			at[key] = i
			st := b.Status
			held := Budget{Name: key, Healthy: int(st.CurrentHealthy), Expected: int(st.ExpectedPods), Desired: int(st.DesiredHealthy), Allowed: int(st.DisruptionsAllowed)}
			held.Unhealthy, held.Stuck = d.unhealthy(ctx, &b)
			out = append(out, held)
			for _, o := range mine[1:] {
				out[i].Others = append(out[i].Others, o.Namespace+"/"+o.Name)
			}
		}
		out[i].Pods = append(out[i].Pods, name(&p))
	}
	for i := range out {
		slices.Sort(out[i].Pods)
	}
	slices.SortFunc(out, func(a, b Budget) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// counts says that budgets apply to the pod: the eviction API lets one that has ended, or never began, go.
func counts(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodPending && p.DeletionTimestamp == nil
}

// exempt says that the budget lets the pod go because it is not healthy anyway.
func exempt(p *corev1.Pod, b *policyv1.PodDisruptionBudget) bool {
	if isReady(p) {
		return false
	}
	always := b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow
	return always || b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// unhealthy are the pods of a budget that are not ready, and whether all of them are stuck.
func (d *drainer) unhealthy(ctx context.Context, b *policyv1.PodDisruptionBudget) (out []string, stuck bool) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil, false
	}
	list, err := d.client.CoreV1().Pods(b.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, false
	}
	stuck = true
	for _, p := range list.Items {
		if !isReady(&p) && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			out, stuck = append(out, name(&p)), stuck && d.lacksNode(ctx, &p)
		}
	}
	slices.Sort(out)
	return out, stuck && len(out) > 0
}

// lacksNode says that a pod finds no node, or that its node is not ready.
func (d *drainer) lacksNode(ctx context.Context, p *corev1.Pod) bool {
	if p.Spec.NodeName == "" {
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable
		})
	}
	n, err := d.client.CoreV1().Nodes().Get(ctx, p.Spec.NodeName, metav1.GetOptions{})
	return err == nil && !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// blocked explains why pods are left.
func (d *drainer) blocked(ctx context.Context, cause error) error {
	e := &BlockedError{Node: d.node, Cause: cause}
	ctx, cancel := context.WithTimeout(ctx, 5*pace)
	defer cancel()
	if pods, _, err := d.list(ctx); err == nil {
		for _, p := range pods {
			e.Left = append(e.Left, name(&p))
		}
		e.Budgets = d.budgetsOf(ctx, pods)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range d.waits {
		if !slices.Contains(e.Waits, w) {
			e.Waits = append(e.Waits, w)
		}
	}
	slices.Sort(e.Waits)
	return e
}
