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
	// perSecond is how many requests are sent per second. One of them is the sample that counts for seconds of disruption. It may take longer
	// than timeout, if that is not 0.
	perSecond int
	timeout   time.Duration
	met       []meeting
	again     []time.Time // when requests were repeated
	forgotten time.Time   // what was before that is not known any more
}

// meeting is a TLS connection to a server.
type meeting struct {
	serial string
	at     time.Time
}

// meet records a connection.
func (r *record) meet(serial string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.met = append(r.met, meeting{serial, time.Now()})
}

// repeat records that a request is repeated.
func (r *record) repeat() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.again = append(r.again, time.Now())
}

// connected lists the connections of an interval, in milliseconds since 1970, by the server's certificate.
func (r *record) connected(from, to time.Time) map[string][]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string][]int64{}
	for _, m := range r.met {
		if !m.at.Before(from) && m.at.Before(to) {
			out[m.serial] = append(out[m.serial], m.at.UnixMilli())
		}
	}
	return out
}

// failed lists when each failure first ended among the requests that were sent in an interval, in milliseconds since 1970.
func (r *record) failed(from, to time.Time) map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int64{}
	for _, e := range r.ended { // in the order in which they ended
		if e.failure.text == "" || e.sent.Before(from) || !e.sent.Before(to) {
			continue
		}
		if _, known := out[e.failure.text]; !known {
			out[e.failure.text] = e.ended.UnixMilli()
		}
	}
	return out
}

// do sends a request and records its result. send is told whether it is the sample of its second.
func (r *record) do(send func(sample bool) failure) {
	r.mu.Lock()
	sent, id := time.Now(), r.next
	if r.pending == nil {
		r.pending = map[int]time.Time{}
	}
	r.pending[id] = sent
	r.next++
	r.mu.Unlock()

	sample := id%max(1, r.perSecond) == 0
	failed := send(sample)
	done := request{sent: sent, ended: time.Now(), failure: failed, disrupted: sample && failed.text != ""}
	if sample && failed.text == "" && r.timeout > 0 && done.ended.Sub(sent) > r.timeout {
		done.failure = failure{Header, TimedOut}
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, id)
	r.ended = append(r.ended, done)
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
	r.met = slices.DeleteFunc(r.met, func(m meeting) bool { return m.at.Before(before) })
	r.again = slices.DeleteFunc(r.again, func(t time.Time) bool { return t.Before(before) })
	r.forgotten = before
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

// remembered is between, without what was forgotten.
func (r *record) remembered(from, to time.Time) Outage {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from.Before(r.forgotten) {
		from = r.forgotten
	}
	return r.judge(from, to)
}

func (r *record) between(from, to time.Time) Outage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.judge(from, to)
}

func (r *record) judge(from, to time.Time) Outage {
	out := judge(r.since(from), from, to)
	for _, at := range r.again {
		if !at.Before(from) && at.Before(to) {
			out.Repeated++
		}
	}
	return out
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
