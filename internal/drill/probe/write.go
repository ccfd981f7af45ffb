package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// writer writes increasing numbers, each under its own key and only once, and remembers which of them were acknowledged.
// No two parallel writes go to the same object: a conflict would look like an outage.
type writer struct {
	client    *client
	namespace string
	ledger    string
	objects   int

	mu    sync.Mutex
	next  int
	idle  []int             // objects that are not being written, the one that was written longest ago first
	acked map[int]time.Time // when they were sent
}

func newWriter(c *client, namespace string, index, objects int) *writer {
	w := &writer{client: c, namespace: namespace, ledger: newLedger(index), objects: objects, acked: map[int]time.Time{}}
	for n := range objects {
		w.idle = append(w.idle, n)
	}
	return w
}

// newLedger names a ledger that no other process and no other client of this one writes to.
func newLedger(index int) string {
	return fmt.Sprintf("writes-%s-%d", strconv.FormatInt(time.Now().UnixNano(), 36), index)
}

func (w *writer) name(n int) string { return fmt.Sprintf("%s.%d", w.ledger, n) }

func (w *writer) names() (out []string) {
	for n := range w.objects {
		out = append(out, w.name(n))
	}
	return out
}

func (w *writer) write(ctx context.Context) failure {
	w.mu.Lock()
	n, sent := w.next, time.Now()
	w.next++
	object := n % w.objects // if more is under way than there should be
	if len(w.idle) > 0 {
		object, w.idle = w.idle[0], w.idle[1:]
	}
	w.mu.Unlock()
	// The entry has no value: hundreds of thousands of them fit into the objects.
	failed := w.client.send(ctx, http.MethodPatch, configMapPath(w.namespace, w.name(object)), "application/merge-patch+json", fmt.Sprintf(`{"data":{"%d":""}}`, n))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = append(w.idle, object)
	if failed.text == "" {
		w.acked[n] = sent
	}
	return failed
}

// acknowledged lists the writes that were sent in an interval.
func (w *writer) acknowledged(from, to time.Time) (out []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, sent := range w.acked {
		if !sent.Before(from) && sent.Before(to) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (w *writer) forget(before time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, sent := range w.acked {
		if sent.Before(before) {
			delete(w.acked, n)
		}
	}
}

// checked forgets writes that were read back.
func (w *writer) checked(writes []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range writes {
		delete(w.acked, n)
	}
}

// Ledgers are acknowledged writes, by ledger.
type Ledgers map[string][]int

// Lost compares what was acknowledged with what a consistent read finds.
func (l Ledgers) Lost(ctx context.Context, api kubernetes.Interface, namespace string) (lost []int, acknowledged int, err error) {
	list, err := api.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, 0, fmt.Errorf("reading the writes back: %w", err)
	}
	for ledger, want := range l {
		acknowledged += len(want)
		lost = append(lost, missing(want, func(yield func(string) bool) {
			for _, o := range list.Items {
				if name, _, _ := strings.Cut(o.Name, "."); name != ledger {
					continue
				}
				for key := range o.Data {
					if !yield(key) {
						return
					}
				}
			}
		})...)
	}
	return lost, acknowledged, nil
}

// Clear removes the entries from the objects, so that those of a long run do not grow without limit. It is for entries that were found not to
// be lost.
func (l Ledgers) Clear(ctx context.Context, api kubernetes.Interface, namespace string) error {
	list, err := api.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("reading the writes back: %w", err)
	}
	for _, o := range list.Items {
		ledger, _, _ := strings.Cut(o.Name, ".")
		gone := map[string]any{}
		for _, n := range l[ledger] {
			if _, there := o.Data[strconv.Itoa(n)]; there {
				gone[strconv.Itoa(n)] = nil
			}
		}
		if len(gone) == 0 {
			continue
		}
		patch, err := json.Marshal(map[string]any{"data": gone})
		if err == nil {
			_, err = api.CoreV1().ConfigMaps(namespace).Patch(ctx, o.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil {
			return fmt.Errorf("removing old writes from %s: %w", o.Name, err)
		}
	}
	return nil
}

// missing lists the numbers that have no key.
func missing(want []int, keys func(func(string) bool)) []int {
	have := map[string]bool{}
	for key := range keys {
		have[key] = true
	}
	return slices.DeleteFunc(slices.Clone(want), func(n int) bool { return have[strconv.Itoa(n)] })
}
