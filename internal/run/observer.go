package run

import (
	"context"
	"sync"
	"time"
)

// reopenEach is how long sessions are kept. Hosts that let nobody in are tried again only with new ones.
const reopenEach = 5 * time.Minute

// Observer keeps the sessions to the hosts of a cluster from one observation to the next. One goroutine observes; any may close it.
type Observer struct {
	// Open opens sessions.
	Open func(context.Context) *Engine

	mu     sync.Mutex
	memory memory
	engine *Engine // between two observations
	opened time.Time
}

// Engine returns the sessions. Hosts that could not be reached may have come back.
func (o *Observer) Engine(ctx context.Context) *Engine {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.opened) > reopenEach {
		o.close()
	}
	if o.engine == nil {
		o.engine, o.opened = o.Open(ctx), time.Now()
		o.engine.memory = &o.memory
	} else {
		o.engine.Conns.Retry(ctx)
	}
	return o.engine
}

// Close ends the sessions, and with them the leases. The next observation opens new ones, and remembers what earlier ones have seen.
func (o *Observer) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.close()
}

func (o *Observer) close() {
	if o.engine != nil {
		o.engine.Close()
		o.engine = nil
	}
}

// Forget forgets what earlier observations have seen: while others observe, it gets old.
func (o *Observer) Forget() { o.memory = memory{} }
