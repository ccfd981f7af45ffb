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
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// beatKey is the key of the number in the object that is counted up.
const beatKey = "n"

// counter counts up in one object. So the object has every number once, in order, and who watches it can tell whether an event is missing. Each
// write is conditional on the version of the object that it replaces: a write that was given up, and that a hung API server carries out much
// later, cannot set the counter back.
type counter struct {
	client    *client
	namespace string
	timeout   time.Duration // of a write, if it is less than beatTimeout
	version   string        // of the object with the present number; empty if it is not known
	number    int
}

// beatTimeout is shorter than that of other requests: a number that is written late must not look like a watch that is silent.
const beatTimeout = 2 * time.Second

// run counts until ctx is done. One write follows the other, because each depends on the former.
func (c *counter) run(ctx context.Context, pace time.Duration, r *record) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.do(func(bool) failure { return c.count() })
		}
	}
}

func (c *counter) count() failure {
	limit := beatTimeout
	if c.timeout > 0 {
		limit = min(limit, c.timeout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	path := configMapPath(c.namespace, beat)
	for tries := 0; ; tries++ {
		if c.version == "" {
			now, failed := c.client.object(ctx, http.MethodGet, path, "", "")
			if failed.text != "" {
				return failed
			}
			c.version, c.number = now.ResourceVersion, number(now)
		}
		now, failed := c.client.object(ctx, http.MethodPatch, path, "application/merge-patch+json",
			fmt.Sprintf(`{"metadata":{"resourceVersion":%q},"data":{%q:"%d"}}`, c.version, beatKey, c.number+1))
		if failed.text == "" {
			c.version, c.number = now.ResourceVersion, c.number+1
			return failure{}
		}
		// It may have happened. Read what is there before the next one.
		c.version = ""
		if failed != rejected(http.StatusConflict) || tries == repeats { // a conflict: an earlier write has happened meanwhile
			return failed
		}
	}
}

// What Watch clients find wrong with events, as descriptions in Outage.Errors. Each breaks a guarantee of watches.
const (
	// EventMissing: a later event was received, and this one never. Events are reliable, and watches can be resumed.
	EventMissing = "an event is missing"
	// EventTwice: it was received before. Events are unique.
	EventTwice = "an event was received twice"
	// EventLate: an event precedes one that was received before, or a bookmark that says that all events up to it were. Events are ordered.
	EventLate = "an event precedes a former one"
	// EventForeign: the watch is for another object.
	EventForeign = "an event of another object"
	// EventsLost: the watch could not be resumed, and the object has changed meanwhile.
	EventsLost = "events are lost, because the watch could not be resumed"
	// SetBack: the object is older than it was.
	SetBack = "the object is older than before"
)

// WatchGaps counts the broken guarantees of watches among the failures of a Watch client, as they are in Outage.Errors. Its other failures are
// times in which it was not served.
func WatchGaps(failures map[string]int) (n int) {
	for _, text := range []string{EventMissing, EventTwice, EventLate, EventForeign, EventsLost, SetBack} {
		n += failures[text]
	}
	return n
}

// watcher watches the object that is counted up, like an informer: it resumes from the last version that it has seen, and reads the object
// again if it cannot.
type watcher struct {
	client    *client
	namespace string
	timeout   time.Duration
	record    *record

	version string    // up to which everything was received; empty if the object is to be read
	object  string    // the version of the object as it was received last; empty before the first read
	number  int       // of the same
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
func (w *watcher) read(ctx context.Context) (corev1.ConfigMap, failure) {
	request, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	return w.client.object(request, http.MethodGet, configMapPath(w.namespace, beat), "", "")
}

// once reads or watches until the stream ends.
func (w *watcher) once(ctx context.Context) failure {
	if w.version == "" {
		now, failed := w.read(ctx)
		if failed.text == "" {
			w.begin(now)
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
	if failed == rejected(http.StatusGone) {
		w.version = ""
	}
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
			w.bookmark(event.Object)
		case "ERROR":
			// Such as 410 Gone: the watch cannot be resumed from this version.
			w.version = ""
			return failure{Status, "the watch cannot be resumed"}
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

// begin begins with what was read. After a watch that could not be resumed, that shows whether anything is lost: informers do not notice more
// than that either.
func (w *watcher) begin(o corev1.ConfigMap) {
	if w.object != "" {
		switch n := number(o); {
		case older(o.ResourceVersion, w.object), n < w.number:
			w.broken(SetBack)
		case n > w.number:
			w.broken(EventsLost)
		}
	}
	w.version, w.object, w.number = o.ResourceVersion, o.ResourceVersion, number(o)
}

// bookmark resumes from a version later on. All events up to it have been received.
func (w *watcher) bookmark(o corev1.ConfigMap) {
	if older(o.ResourceVersion, w.version) {
		w.broken(EventLate)
		return
	}
	w.version = o.ResourceVersion
}

// event checks an event and records it.
func (w *watcher) event(o corev1.ConfigMap) {
	n := number(o)
	switch {
	case o.Name != beat:
		w.broken(EventForeign)
	case o.ResourceVersion == w.object:
		w.broken(EventTwice)
	case !older(w.version, o.ResourceVersion):
		w.broken(EventLate)
	default:
		now := time.Now()
		switch {
		case n < w.number:
			w.broken(SetBack)
		case n > w.number+1:
			w.broken(EventMissing)
		default:
			w.record.add(now, now, failure{})
		}
		w.version, w.object, w.number, w.last = o.ResourceVersion, o.ResourceVersion, n, now
	}
}

// broken records a broken guarantee.
func (w *watcher) broken(what string) {
	now := time.Now()
	w.record.add(now, now, failure{Body, what})
	w.last = now
}

// older reports whether a version of an object is older than another one.
func older(version, than string) bool {
	order, err := resourceversion.CompareResourceVersion(version, than)
	return err == nil && order < 0
}

func number(o corev1.ConfigMap) int {
	n, _ := strconv.Atoi(o.Data[beatKey]) // before the first beat there is none
	return n
}
