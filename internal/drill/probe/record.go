package probe

import (
	"context"
	"slices"
	"sync"
	"time"
)

// record holds the results of one client's requests.
type record struct {
	mu      sync.Mutex
	ended   []request
	pending map[int]time.Time // send times of the requests that have no answer yet
	next    int
	// perSecond is how many requests are sent per second. One of them is the sample that counts for seconds of disruption.
	perSecond int
}

// do sends a request and records its result.
func (r *record) do(send func() failure) {
	r.mu.Lock()
	sent, id := time.Now(), r.next
	if r.pending == nil {
		r.pending = map[int]time.Time{}
	}
	r.pending[id] = sent
	r.next++
	r.mu.Unlock()

	failed := send()

	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, id)
	r.ended = append(r.ended, request{sent: sent, ended: time.Now(), failure: failed, sample: id%max(1, r.perSecond) == 0})
}

// add records a result that has no request of its own.
func (r *record) add(sent, ended time.Time, failed failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, request{sent: sent, ended: ended, failure: failed})
}

// forget drops what no longer matters for intervals that begin later.
func (r *record) forget(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = slices.Clone(r.since(before))
}

// settled reports whether all requests that were sent up to a moment have ended.
func (r *record) settled(to time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sent := range r.pending {
		if !sent.After(to) {
			return false
		}
	}
	return true
}

func (r *record) between(from, to time.Time) Outage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return judge(r.since(from), from, to)
}

// since omits requests that no longer matter: those before the last success that ended before from. Requests are in the order
// in which they ended.
func (r *record) since(from time.Time) []request {
	first, _ := slices.BinarySearchFunc(r.ended, from, func(r request, t time.Time) int { return r.ended.Compare(t) })
	for first--; first > 0 && r.ended[first].failure.text != ""; {
		first--
	}
	return r.ended[max(first, 0):]
}

// every calls f at a fixed pace, however long the calls take: a client that waited for an answer before the next request would
// see one failure where users see twenty. It returns when ctx is done and all calls have returned.
func every(ctx context.Context, pace time.Duration, f func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			wg.Go(f)
		}
	}
}

// until polls a condition.
func until(ctx context.Context, f func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}
