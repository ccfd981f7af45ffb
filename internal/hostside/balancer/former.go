package balancer

import (
	"context"
	"log"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/ui"
)

// A reload of HAProxy starts another worker. The former one keeps its connections, and hard-stop-after ends it with all of them after 30 s: a
// request that is under way at that moment fails. So the watchdog closes them before that, each between two requests.
const (
	// formerInterval is how often HAProxy is asked for former workers.
	formerInterval = time.Second
	// formerFor is how long connections of a former worker are waited for. It is less than hard-stop-after, by the time until the worker
	// is found.
	formerFor = 25 * time.Second
	// politeFor is how much of this is left to clients that always send something last: a frame after each answer, and the next
	// request in less than a second.
	politeFor = 20 * time.Second
)

// impatient are the manners then: most requests have an answer by now, and the others would be cut with the worker.
var impatient = manners{age: longLived, asked: 200 * time.Millisecond, last: true}

// careForFormer closes the connections of former workers, until ctx ends.
func careForFormer(ctx context.Context, logger *log.Logger) {
	known := map[string]bool{}
	tick := time.NewTicker(formerInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		text, err := ask(ctx, hostconfig.HAProxyMasterSocket, "show proc")
		if err != nil {
			continue // a HAProxy that was started without this socket; whether it works is judged elsewhere
		}
		pids := formerWorkers(text)
		for _, pid := range pids {
			if known[pid] {
				continue
			}
			known[pid] = true
			go closeFormer(ctx, logger, pid)
		}
		for pid := range known { // the number may be used again
			if !slices.Contains(pids, pid) {
				delete(known, pid)
			}
		}
	}
}

// closeFormer closes the connections of one former worker. A worker without any ends. For one that does not exist, the master process lists no
// connections, so an error is only that a busy HAProxy did not answer in time.
func closeFormer(ctx context.Context, logger *log.Logger, pid string) {
	watch, all, found := sessionWatch{}, 0, time.Now()
	for left := 1; left > 0 && time.Since(found) < formerFor && ctx.Err() == nil; {
		m, until := polite, found.Add(politeFor)
		if time.Now().After(until) {
			m, until = impatient, found.Add(formerFor)
		}
		closed, still, err := closeBetweenRequests(ctx, former(pid), watch, until, m)
		all += closed
		if left = still; err != nil {
			left = 1
			select {
			case <-ctx.Done():
			case <-time.After(formerInterval):
			}
		}
	}
	if all > 0 {
		logger.Printf("closed %s that were older than the reload, between two requests", ui.Plural(all, "connection"))
	}
}

// formerWorkers are the processes below "old workers" in the answer to `show proc`.
func formerWorkers(text string) (pids []string) {
	old := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "#"):
			old = strings.HasPrefix(line, "# old workers")
		case old && len(fields) > 1 && fields[1] == "worker":
			pids = append(pids, fields[0])
		}
	}
	return pids
}
