package scale

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Quantiles of durations, in milliseconds.
type Quantiles struct {
	Count int   `json:"count"`
	P50   int64 `json:"p50Milliseconds"`
	P90   int64 `json:"p90Milliseconds"`
	P99   int64 `json:"p99Milliseconds"`
	Max   int64 `json:"maxMilliseconds"`
}

func quantiles(all []time.Duration) Quantiles {
	q := Quantiles{Count: len(all)}
	if len(all) == 0 {
		return q
	}
	slices.Sort(all)
	at := func(part float64) int64 {
		return all[min(len(all)-1, int(part*float64(len(all))))].Milliseconds()
	}
	q.P50, q.P90, q.P99, q.Max = at(0.5), at(0.9), at(0.99), all[len(all)-1].Milliseconds()
	return q
}

// tracker follows the pods of the load through a watch: the API knows whole seconds only, and a watcher sees milliseconds.
type tracker struct {
	mu   sync.Mutex
	now  func() time.Time
	pods map[types.UID]*life
	// ended are those of pods that are gone, which were measured as well.
	ended []life
}

// life is when a watcher saw what became of a pod; zero for what it has not seen. A pod that was there before has no beginning.
type life struct {
	name                      types.NamespacedName
	created, scheduled, ready time.Time
	// placed is since when the pod is known to be on a node.
	placed time.Time
	// on and up say that the pod is on a node, and that it is ready, whenever that was.
	on, up bool
}

func newTracker() *tracker { return &tracker{now: time.Now, pods: map[types.UID]*life{}} }

// see notes what has become of a pod. initial says that it was there when the watch began.
func (t *tracker) see(p *corev1.Pod, initial bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	l := t.pods[p.UID]
	if l == nil {
		l = &life{name: types.NamespacedName{Namespace: p.Namespace, Name: p.Name}}
		if !initial {
			l.created = now
		}
		t.pods[p.UID] = l
	}
	if p.Spec.NodeName != "" && !l.on {
		l.on, l.placed = true, now
		if !l.created.IsZero() {
			l.scheduled = now
		}
	}
	up := isReady(p)
	if up && !l.up && !l.created.IsZero() && l.ready.IsZero() {
		l.ready = now
	}
	l.up = up
}

func isReady(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

func (t *tracker) gone(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.pods[uid]; l != nil {
		t.ended = append(t.ended, *l)
		delete(t.pods, uid)
	}
}

// counts are the pods that exist, and those of them that are ready.
func (t *tracker) counts() (all, ready int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.pods {
		if l.up {
			ready++
		}
	}
	return len(t.pods), ready
}

// forgotten are pods that have been on a node for so long, and never became ready. Each is returned once in that time.
func (t *tracker) forgotten(d time.Duration) (out []types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.pods {
		if l.on && !l.up && l.ready.IsZero() && t.now().Sub(l.placed) >= d {
			out = append(out, l.name)
			l.placed = t.now()
		}
	}
	return out
}

// measured is what was seen of all pods since a moment: how long they took to be scheduled and to be ready, and how many were scheduled per
// second from the first to the last.
func (t *tracker) measured(since time.Time) (scheduling, startup Quantiles, perSecond float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var schedule, start []time.Duration
	var first, last time.Time
	note := func(l life) {
		if l.created.IsZero() || l.created.Before(since) {
			return
		}
		if !l.scheduled.IsZero() {
			schedule = append(schedule, l.scheduled.Sub(l.created))
			if first.IsZero() || l.scheduled.Before(first) {
				first = l.scheduled
			}
			if l.scheduled.After(last) {
				last = l.scheduled
			}
		}
		if !l.ready.IsZero() {
			start = append(start, l.ready.Sub(l.created))
		}
	}
	for _, l := range t.pods {
		note(*l)
	}
	for _, l := range t.ended {
		note(l)
	}
	if took := last.Sub(first).Seconds(); took > 0 {
		perSecond = float64(len(schedule)) / took
	}
	return quantiles(schedule), quantiles(start), perSecond
}

// strip keeps of a pod only what the tracker looks at: there are tens of thousands.
func strip(in any) (any, error) {
	p, ok := in.(*corev1.Pod)
	if !ok {
		return in, nil
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion, DeletionTimestamp: p.DeletionTimestamp},
		Spec: corev1.PodSpec{NodeName: p.Spec.NodeName}, Status: corev1.PodStatus{Conditions: p.Status.Conditions}}, nil
}

// handler feeds a tracker from a watch.
type handler struct{ *tracker }

func (h handler) OnAdd(obj any, initial bool) {
	if p, ok := obj.(*corev1.Pod); ok {
		h.see(p, initial)
	}
}

func (h handler) OnUpdate(_, obj any) {
	if p, ok := obj.(*corev1.Pod); ok {
		h.see(p, false)
	}
}

func (h handler) OnDelete(obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	if p, ok := obj.(*corev1.Pod); ok {
		h.gone(p.UID)
	}
}

// watch follows the pods of the load until the context ends, and returns when it knows those that exist.
func watch(ctx context.Context, client kubernetes.Interface, t *tracker) error {
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, func(o *metav1.ListOptions) { o.LabelSelector = loadLabel }),
		ObjectType:    &corev1.Pod{}, Handler: handler{t}, Transform: strip,
	})
	go controller.RunWithContext(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, watchTimeout, fmt.Errorf("they were not listed within %s", watchTimeout))
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
		return fmt.Errorf("watching the pods of the load: %w", context.Cause(ctx))
	}
	return nil
}
