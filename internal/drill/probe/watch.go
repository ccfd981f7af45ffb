package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// beatKey is the key of the number in the object that is counted up.
const beatKey = "n"

// counter writes the numbers 1, 2, 3 … to one object, each until it is acknowledged. So the object has every number, and who
// watches it can tell whether an event is missing.
type counter struct {
	client    *client
	namespace string
	next      int
}

// beatTimeout is shorter than that of other requests: a number that is written late must not look like a watch that is silent.
const beatTimeout = 2 * time.Second

// run counts until ctx is done. One write follows the other, so that a former one that arrives late does not overtake, and none
// spends its time waiting for another.
func (c *counter) run(ctx context.Context, pace time.Duration, r *record) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.do(c.count)
		}
	}
}

func (c *counter) count() failure {
	ctx, cancel := context.WithTimeout(context.Background(), beatTimeout)
	defer cancel()
	failed := c.client.send(ctx, http.MethodPatch, configMapPath(c.namespace, beat), "application/merge-patch+json", fmt.Sprintf(`{"data":{%q:"%d"}}`, beatKey, c.next+1))
	if failed.text == "" {
		c.next++
	}
	return failed
}

// watcher watches the object that is counted up, like an informer: it resumes from the last version that it has seen.
type watcher struct {
	client    *client
	namespace string
	timeout   time.Duration
	record    *record

	version string // of the last event; empty before the first read
	number  int
	last    time.Time // of the last event or failure
}

// retry is the pause before a watch is resumed. Informers begin with 0.8 s; this is shorter, so that what is measured is the cluster.
const retry = 100 * time.Millisecond

func (w *watcher) run(ctx context.Context) {
	w.last = time.Now()
	for ctx.Err() == nil {
		failed := w.once(ctx)
		if ctx.Err() != nil {
			return
		}
		// Losing the connection is no failure; not getting events again in time is.
		w.late(ctx, failed)
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

// late records a failure if nothing was received within the timeout although there was something, and starts the time again. Whether
// there was something, a read says.
func (w *watcher) late(ctx context.Context, why failure) {
	now := time.Now()
	if now.Sub(w.last) < w.timeout {
		return
	}
	latest, failed := w.read(ctx)
	switch {
	case ctx.Err() != nil:
		return
	case failed.text != "":
		why = failed
	case number(latest) == w.number:
		w.last = now // the object was not changed
		return
	case why.text == "":
		why = failure{Body, "no event"}
	}
	w.record.add(now, now, why) // in the present second: the one in which it fell silent was reported long ago
	w.last = now
}

// read reads the object.
func (w *watcher) read(ctx context.Context) (o corev1.ConfigMap, failed failure) {
	request, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	resp, failed := w.client.open(request, "GET", configMapPath(w.namespace, beat), "", "")
	if failed.text != "" {
		return o, failed
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&o); err != nil {
		return o, failure{Body, describe(err)}
	}
	return o, failure{}
}

// once reads or watches until the stream ends.
func (w *watcher) once(ctx context.Context) failure {
	if w.version == "" {
		now, failed := w.read(ctx)
		if failed.text == "" {
			w.version, w.number = now.ResourceVersion, number(now)
		}
		return failed
	}
	query := url.Values{"watch": {"1"}, "fieldSelector": {"metadata.name=" + beat}, "resourceVersion": {w.version}, "allowWatchBookmarks": {"true"}}
	// The stream itself has no time limit. Silence ends it.
	stream, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(w.timeout, func() { cancel(errSilent) })
	defer silence.Stop()
	resp, failed := w.client.open(stream, "GET", configMapPath(w.namespace, "")+"?"+query.Encode(), "", "")
	if failed.text != "" {
		return unlessSilent(stream, failed)
	}
	defer resp.Body.Close()
	for in := json.NewDecoder(resp.Body); ; {
		var event struct {
			Type   string
			Object corev1.ConfigMap
		}
		if err := in.Decode(&event); errors.Is(err, io.EOF) {
			return failure{Body, "connection closed"}
		} else if err != nil {
			return unlessSilent(stream, failure{Body, describe(err)})
		}
		silence.Reset(w.timeout)
		switch event.Type {
		case "BOOKMARK":
			w.version = event.Object.ResourceVersion
		case "ERROR":
			// Such as 410 Gone: the watch cannot be resumed, and events are lost.
			now := time.Now()
			w.record.add(now, now, failure{Status, "the watch cannot be resumed"})
			w.version, w.last = "", now
			return failure{}
		default:
			w.event(event.Object)
		}
	}
}

// errSilent ends a stream on which nothing arrives.
var errSilent = errors.New("no event within the timeout")

// unlessSilent is how a stream failed, or that it was ended because it was silent.
func unlessSilent(stream context.Context, failed failure) failure {
	if errors.Is(context.Cause(stream), errSilent) {
		failed.text = errSilent.Error()
	}
	return failed
}

func (w *watcher) event(o corev1.ConfigMap) {
	now, n := time.Now(), number(o)
	missed := failure{}
	// A counter that begins again is another process's.
	if n > w.number+1 {
		missed = failure{Body, "an event is missing"}
	}
	w.record.add(now, now, missed)
	w.version, w.number, w.last = o.ResourceVersion, n, now
}

func number(o corev1.ConfigMap) int {
	n, _ := strconv.Atoi(o.Data[beatKey]) // before the first beat there is none
	return n
}
