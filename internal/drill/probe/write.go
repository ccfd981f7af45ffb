package probe

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// writer writes increasing numbers, each under its own key and only once, and remembers which of them were acknowledged.
// Consecutive writes go to different objects, so that no two parallel writes go to the same one: a conflict would look like an
// outage.
type writer struct {
	client    *client
	namespace string
	objects   int

	mu    sync.Mutex
	next  int
	acked map[int]bool
}

func objectName(n int) string { return fmt.Sprintf("writes-%02d", n) }

func (w *writer) write(ctx context.Context) (failure string) {
	w.mu.Lock()
	n := w.next
	w.next++
	w.mu.Unlock()
	failure = w.client.send(ctx, http.MethodPatch, configMapPath(w.namespace, objectName(n%w.objects)), "application/merge-patch+json",
		fmt.Sprintf(`{"data":{"%d":"%s"}}`, n, time.Now().Format(time.RFC3339Nano)))
	if failure == "" {
		w.mu.Lock()
		w.acked[n] = true
		w.mu.Unlock()
	}
	return failure
}

// lost compares what was acknowledged with what a consistent read finds.
func (w *writer) lost(ctx context.Context, api kubernetes.Interface) (lost []int, acked int, err error) {
	w.mu.Lock()
	want := slices.Sorted(maps.Keys(w.acked)) // before the read, which need not include later writes
	w.mu.Unlock()
	list, err := api.CoreV1().ConfigMaps(w.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, 0, fmt.Errorf("reading the writes back: %w", err)
	}
	return missing(want, func(yield func(string) bool) {
		for _, o := range list.Items {
			for key := range o.Data {
				if !yield(key) {
					return
				}
			}
		}
	}), len(want), nil
}

// missing lists the numbers that have no key.
func missing(want []int, keys func(func(string) bool)) []int {
	have := map[string]bool{}
	for key := range keys {
		have[key] = true
	}
	return slices.DeleteFunc(slices.Clone(want), func(n int) bool { return have[strconv.Itoa(n)] })
}
