package probe

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"quorate.dev/quorate/internal/drill/ledger"
)

// RegisterPace is the time between two requests of a Register client, on average.
const RegisterPace = 200 * time.Millisecond

// registerKey is the key of the value in the object of a register.
const registerKey = "value"

// registers are the Register clients of a set. What they did stays in memory: about 70 bytes for each operation, so ten clients with the
// usual pace need 13 MB an hour.
type registers struct {
	api     kubernetes.Interface
	options Options
	// began is when the clock of all histories was zero.
	began time.Time
	// name begins the names of the objects, which no other set uses.
	name string

	running context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	clients []*register
	objects map[int]string // by key

	mu       sync.Mutex
	readBack []ledger.Operation
}

func newRegisters(running context.Context, api kubernetes.Interface, options Options) *registers {
	now := time.Now()
	g := &registers{api: api, options: options, began: now, name: "register-" + strconv.FormatInt(now.UnixNano(), 36), objects: map[int]string{}}
	g.running, g.stop = context.WithCancel(running)
	return g
}

// start starts a client, and creates its object before, if it is the first one with this key.
func (g *registers) start(ctx context.Context, c *client, key int, pace time.Duration, r *record) error {
	if g.objects[key] == "" {
		name := fmt.Sprintf("%s-%d", g.name, key)
		if err := createConfigMaps(ctx, g.api, g.options.Namespace, name); err != nil {
			return err
		}
		g.objects[key] = name
	}
	one := &register{client: c, path: configMapPath(g.options.Namespace, g.objects[key]), number: len(g.clients), key: key, began: g.began, timeout: g.options.Timeout}
	g.clients = append(g.clients, one)
	g.wg.Go(func() { one.run(g.running, pace, r) })
	return nil
}

// end ends the clients, and waits for the answers to their requests.
func (g *registers) end() {
	g.stop()
	g.wg.Wait()
}

// ReadBack ends the Register clients and reads each of their objects once more, so that a history shows what is left of the last writes. A read
// that fails is repeated until ctx is done.
func (s *Set) ReadBack(ctx context.Context) error {
	g := s.registers
	g.end()
	for _, key := range slices.Sorted(maps.Keys(g.objects)) {
		if err := g.readLast(ctx, key); err != nil {
			return fmt.Errorf("reading back what was written to %s: %w", g.objects[key], err)
		}
	}
	return nil
}

func (g *registers) readLast(ctx context.Context, key int) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		called := time.Since(g.began)
		value, err := g.read(ctx, key)
		if err == nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.readBack = append(g.readBack, ledger.Operation{Client: len(g.clients), Key: key, Outcome: ledger.OK, Value: value, Called: called, Returned: time.Since(g.began)})
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// read reads a value with a quorum read. An object that is gone has none.
func (g *registers) read(ctx context.Context, key int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, g.options.Timeout)
	defer cancel()
	o, err := g.api.CoreV1().ConfigMaps(g.options.Namespace).Get(ctx, g.objects[key], metav1.GetOptions{})
	switch {
	case err == nil:
		return o.Data[registerKey], nil
	case apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse): // an API server says so
		return "", nil
	}
	return "", err
}

// History returns what all Register clients have done, and what ReadBack has read. It can be called at any time: writes that are under way are
// part of it, as writes of unknown outcome. Histories of several sets cannot be combined, because each has its own clock.
func (s *Set) History() (out []ledger.Operation) {
	for _, c := range s.registers.clients {
		c.mu.Lock()
		out = append(out, c.history...)
		c.mu.Unlock()
	}
	s.registers.mu.Lock()
	defer s.registers.mu.Unlock()
	return append(out, s.registers.readBack...)
}

// Clock converts a moment to the clock of the history. The moment must be one that this process has taken itself, or it is as precise
// as the clocks of both computers agree.
func (s *Set) Clock(moment time.Time) time.Duration { return moment.Sub(s.registers.began) }

// register is one client of one object, whose value it writes and reads in turn. It waits for each answer.
type register struct {
	client      *client
	path        string
	number, key int
	began       time.Time
	timeout     time.Duration

	mu      sync.Mutex
	written int
	history []ledger.Operation
}

// run runs the client until ctx is done. Its pace varies, so that the clients of one object meet in all ways.
func (g *register) run(ctx context.Context, pace time.Duration, r *record) {
	for write := g.number%2 == 0; ; write = !write {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pace/2 + rand.N(pace)):
		}
		r.do(func(bool) failure { return g.request(write) })
	}
}

// request writes or reads once. Like all clients, this one does again what the server asks to repeat, but each attempt is an operation of its
// own, and writes a value of its own: an API server also asks to repeat what etcd did not confirm in time, and may have written. If the same
// value were written again, another client's write could be between the two, and no register returns to a former value.
func (g *register) request(write bool) failure {
	// Not derived from that of run, so that requests finish when the clients are stopped.
	ctx, cancel := context.WithTimeout(context.Background(), g.timeout)
	defer cancel()
	return g.client.repeating(ctx, func() (failure, time.Duration) {
		if write {
			return g.write(ctx)
		}
		return g.read(ctx)
	})
}

// write writes a value that nobody else writes, without a condition. Only a request for which there was never a connection has certainly not been
// sent. Whatever else failed, even with a complete answer, may have happened or may still happen.
func (g *register) write(ctx context.Context) (failure, time.Duration) {
	n, value := g.call()
	resp, failed, wait, sent := g.client.once(ctx, http.MethodPatch, g.path, "application/merge-patch+json", fmt.Sprintf(`{"data":{%q:%q}}`, registerKey, value))
	if failed.text == "" {
		_, failed = object(resp)
	}
	returned, outcome := time.Since(g.began), ledger.Unknown
	switch {
	case failed.text == "":
		outcome = ledger.OK
	case !sent:
		outcome = ledger.Failed
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.history[n].Returned, g.history[n].Outcome = returned, outcome
	return failed, wait
}

// call notes a write that is about to be sent, and returns its place in the history and its value.
func (g *register) call() (n int, value string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.written++
	value = fmt.Sprintf("%d-%d", g.number, g.written)
	g.history = append(g.history, ledger.Operation{Client: g.number, Key: g.key, Write: true, Value: value, Called: time.Since(g.began)})
	return len(g.history) - 1, value
}

// read reads the value. A read that fails says nothing.
func (g *register) read(ctx context.Context) (failure, time.Duration) {
	called := time.Since(g.began)
	resp, failed, wait, _ := g.client.once(ctx, http.MethodGet, g.path, "", "")
	if failed.text != "" {
		return failed, wait
	}
	o, failed := object(resp)
	if failed.text != "" {
		return failed, 0
	}
	returned := time.Since(g.began)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.history = append(g.history, ledger.Operation{Client: g.number, Key: g.key, Outcome: ledger.OK, Value: o.Data[registerKey], Called: called, Returned: returned})
	return failure{}, 0
}
