package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/host"
)

// Set is a set of running clients in one process.
type Set struct {
	options Options
	api     kubernetes.Interface
	stop    context.CancelFunc
	wg      sync.WaitGroup
	free    []func()
	members []*member
	lag     lag
	// registers are the clients that have a history.
	registers *registers
}

// member is one client of a set.
type member struct {
	Client
	record record
	writer *writer // of Write only
}

const (
	// read is the object that reading clients request.
	read = "read"
	// beat is the object that is counted up, and watched.
	beat = "beat"
)

// BeatPace is the time between two changes of the object that is watched.
const BeatPace = 500 * time.Millisecond

func configMapPath(namespace, name string) string {
	return path.Join("/api/v1/namespaces", namespace, "configmaps", name)
}

// Prepare creates the namespace and the objects that all clients share. It can be called again. If the namespace of earlier clients is being
// removed, Prepare waits until it is gone.
func Prepare(ctx context.Context, api kubernetes.Interface, namespace string) error {
	for {
		_, err := api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		existing, err := api.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if err == nil && existing.DeletionTimestamp == nil {
			break
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the namespace %s of earlier clients is still being removed: %w", namespace, context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
	return createConfigMaps(ctx, api, namespace, read, beat)
}

func createConfigMaps(ctx context.Context, api kubernetes.Interface, namespace string, names ...string) error {
	for _, name := range names {
		err := create(ctx, func() error {
			_, err := api.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// create creates an object that may exist. A busy cluster may fail one of hundreds of requests, and that is not what is measured here.
func create(ctx context.Context, do func() error) error {
	for tries := 0; ; tries++ {
		err := do()
		if err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		if refused := apierrors.APIStatus(nil); tries == 9 || errors.As(err, &refused) && refused.Status().Code/100 == 4 && !apierrors.IsTooManyRequests(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
}

// Remove deletes the namespace with everything that clients wrote.
func Remove(ctx context.Context, api kubernetes.Interface, namespace string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		// A cluster that has just recovered from a fault may still fail a request.
		err := api.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("removing what the probe wrote: %w", err)
		case <-tick.C:
		}
	}
}

// Run runs clients until Stop. Prepare has created what they share. The configuration is that of the API, for the clients that use
// it.
func Run(ctx context.Context, config *rest.Config, clients []Client, options Options) (*Set, error) {
	options.fill()
	config = rest.CopyConfig(config)
	config.Proxy = host.Direct
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("starting the probe: %w", err)
	}
	running, cancel := context.WithCancel(context.Background())
	s := &Set{options: options, api: api, stop: cancel, registers: newRegisters(running, api, options)}
	s.wg.Go(func() { s.lag.measure(running) })
	for i, c := range clients {
		if err := s.start(ctx, running, config, i, c); err != nil {
			s.Stop()
			return nil, fmt.Errorf("starting the probe: %s: %w", c, err)
		}
	}
	return s, nil
}

// start starts one client. ctx is that of the caller, and running that of the client.
func (s *Set) start(ctx, running context.Context, config *rest.Config, index int, c Client) error {
	m := &member{Client: c}
	pace := c.Pace
	if pace == 0 {
		pace = c.Operation.pace(s.options.Pace)
	}
	m.record.perSecond = max(1, int(time.Second/pace))
	timeout, sampleTimeout := s.options.Timeout, s.options.SampleTimeout
	switch c.Operation {
	case Lookup:
		timeout, sampleTimeout = min(timeout, lookupTimeout), min(sampleTimeout, lookupTimeout)
	case Echo:
		sampleTimeout = timeout // all its requests share one connection, and end with it
	}
	if sampleTimeout > timeout {
		m.record.timeout = timeout
	}

	var send func(context.Context) failure
	switch c.Operation {
	case Lookup:
		send = func(ctx context.Context) failure {
			return lookup(ctx, dialer((&net.Dialer{}).DialContext).query, c.Address)
		}
	case Echo:
		e := &echo{address: c.Address, record: &m.record}
		send = e.send
		s.free = append(s.free, e.close)
	default:
		target := rest.CopyConfig(config)
		if !c.Operation.onAPI() {
			target = &rest.Config{Dial: s.options.Dial} // a workload gets no credentials
		}
		if c.Address != "" {
			target.Host = c.Address
		}
		sender, err := newClient(target, c.Connection)
		if err != nil {
			return err
		}
		s.free = append(s.free, sender.free)
		if c.Operation.onAPI() {
			sender.met = m.record.meet
			if c.Operation != Ready { // what it asks for is this very answer
				sender.again = m.record.repeat
			}
		}
		get := func(path string) func(context.Context) failure {
			return func(ctx context.Context) failure { return sender.send(ctx, "GET", path, "", "") }
		}
		switch c.Operation {
		case Read:
			send = get(configMapPath(s.options.Namespace, read))
		case CachedRead:
			send = get(configMapPath(s.options.Namespace, read) + "?resourceVersion=0")
		case Ready:
			send = get("/readyz")
		case Get:
			send = get("/")
		case List:
			if err := createLeases(ctx, s.api, s.options.Namespace); err != nil {
				return err
			}
			send = func(ctx context.Context) failure { return sender.list(ctx, leasesPath(s.options.Namespace)) }
		case Beat:
			// Half of that of the watches, which would seem to be silent while a write hangs.
			n := &counter{client: sender, namespace: s.options.Namespace, timeout: s.options.Timeout / 2}
			s.members = append(s.members, m)
			s.wg.Go(func() { n.run(running, pace, &m.record) })
			return nil
		case Write:
			// Some objects more than there can be parallel writes: those within the timeout, and samples that take longer.
			m.writer = newWriter(sender, s.options.Namespace, index, int(timeout/pace)+int(sampleTimeout/time.Second)+2)
			if err := createConfigMaps(ctx, s.api, s.options.Namespace, m.writer.names()...); err != nil {
				return err
			}
			send = m.writer.write
		case Register:
			if err := s.registers.start(ctx, sender, c.Key, pace, &m.record); err != nil {
				return err
			}
			s.members = append(s.members, m)
			return nil
		case Watch:
			w := &watcher{client: sender, namespace: s.options.Namespace, timeout: s.options.Timeout, record: &m.record}
			s.members = append(s.members, m)
			s.wg.Go(func() { w.run(running) })
			return nil
		default:
			return fmt.Errorf("no client does %q", c.Operation)
		}
	}
	s.members = append(s.members, m)
	s.wg.Go(func() {
		every(running, pace, func() {
			m.record.do(func(sample bool) failure {
				limit := timeout
				if sample {
					limit = sampleTimeout
				}
				// Not derived from running, so that requests finish when the clients are stopped.
				request, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				return send(request)
			})
		})
	})
	return nil
}

// Stop ends the clients.
func (s *Set) Stop() {
	s.stop()
	s.wg.Wait()
	s.registers.end()
	for _, free := range s.free {
		free()
	}
}

func (s *Set) settled(to time.Time) bool {
	for _, m := range s.members {
		if !m.record.settled(to) {
			return false
		}
	}
	return true
}

// Between reports what each client experienced in an interval. It waits for the answers to requests that were sent in it.
func (s *Set) Between(ctx context.Context, from, to time.Time) ([]Result, error) {
	err := until(ctx, func() bool { return s.settled(to) })
	return s.between(from, to), err
}

// Live is Between without waiting: requests without an answer count neither as answered nor as failed yet. It costs little. What Follow has told
// is not part of it.
func (s *Set) Live(from, to time.Time) (out []Result) {
	for _, m := range s.members {
		out = append(out, s.result(m, m.record.remembered, from, to))
	}
	return out
}

func (s *Set) between(from, to time.Time) (out []Result) {
	for _, m := range s.members {
		out = append(out, s.result(m, m.record.between, from, to))
	}
	return out
}

func (s *Set) result(m *member, judge func(from, to time.Time) Outage, from, to time.Time) Result {
	out := Result{m.Client, judge(from, to)}
	out.Lag = s.lag.between(from, to)
	return out
}

// written are the writes that were acknowledged, as far as they were not forgotten.
func (s *Set) written() Ledgers {
	out := Ledgers{}
	for _, m := range s.members {
		if m.writer != nil {
			out[m.writer.ledger] = m.writer.acknowledged(time.Time{}, time.Now())
		}
	}
	return out
}

// Lost reads back everything that was acknowledged, and counts what is missing. It also returns how many writes it checked.
func (s *Set) Lost(ctx context.Context) (lost []int, acknowledged int, err error) {
	return s.written().Lost(ctx, s.api, s.options.Namespace)
}

// Trim is Lost, and then forgets and removes what it has checked, and forgets what clients have experienced until now: the objects of clients
// that write for hours would grow until etcd has no space for them. What was counted once is not counted again, also if an error says that it
// could not be removed.
func (s *Set) Trim(ctx context.Context) (lost []int, acknowledged int, err error) {
	now, checked := time.Now(), s.written()
	if lost, acknowledged, err = checked.Lost(ctx, s.api, s.options.Namespace); err != nil {
		return nil, 0, err
	}
	for _, m := range s.members {
		if m.writer != nil {
			m.writer.checked(checked[m.writer.ledger])
		}
		m.record.forget(now)
	}
	s.lag.forget(now)
	return lost, acknowledged, checked.Clear(ctx, s.api, s.options.Namespace)
}

// Second is what one client experienced in one second: a line of the log.
type Second struct {
	// At is when the second began, in seconds since 1970.
	At int64 `json:"at"`
	Result
	// Ledger and Acknowledged are the writes that were sent in this second and acknowledged.
	Ledger       string `json:"ledger,omitempty"`
	Acknowledged []int  `json:"acknowledged,omitempty"`
	// Connected says when API servers were connected to, by the serial numbers of their certificates, and FailedAt when each failure
	// happened first: in milliseconds since 1970.
	Connected map[string][]int64 `json:"connected,omitempty"`
	FailedAt  map[string]int64   `json:"failedAt,omitempty"`
}

// Log writes what Follow tells as lines of JSON.
func (s *Set) Log(ctx context.Context, w io.Writer) error {
	out := json.NewEncoder(w)
	return s.Follow(ctx, func(line Second) error {
		if err := out.Encode(line); err != nil {
			return fmt.Errorf("logging what clients experienced: %w", err)
		}
		return nil
	})
}

// Follow tells what each client experienced in each second, until ctx is done or tell fails. It tells when all requests of a second have ended. What
// was told is forgotten, so that clients can run for days: Between and Live know only the last few seconds. When ctx is done, the clients
// end, and what they have experienced until then is told as well.
func (s *Set) Follow(ctx context.Context, tell func(Second) error) error {
	for from := time.Now().Truncate(time.Second); ; from = from.Add(time.Second) {
		to := from.Add(time.Second)
		if err := until(ctx, func() bool { return !time.Now().Before(to) && s.settled(to) }); err != nil {
			return s.tellRest(tell, from)
		}
		if err := s.tell(tell, from, to); err != nil {
			return err
		}
	}
}

// tellRest ends the clients, and tells the seconds that were not told yet. Requests that are under way may still fail: they get the time
// that a request may take. Those that have no answer then are cut by the end of the clients, and have not failed.
func (s *Set) tellRest(tell func(Second) error, from time.Time) error {
	s.stop()
	end := time.Now().Add(100 * time.Millisecond) // a request that was begun just now is recorded a moment later
	ctx, cancel := context.WithTimeout(context.Background(), s.options.SampleTimeout+time.Second)
	defer cancel()
	_ = until(ctx, func() bool { return !time.Now().Before(end) && s.settled(end) }) // as the comment says
	for ; from.Before(end); from = from.Add(time.Second) {
		to := from.Add(time.Second)
		if to.After(end) {
			to = end // the time after that is no gap
		}
		if err := s.tell(tell, from, to); err != nil {
			return err
		}
	}
	return nil
}

// tell tells one second.
func (s *Set) tell(tell func(Second) error, from, to time.Time) error {
	for _, m := range s.members {
		line := Second{At: from.Unix(), Result: s.result(m, m.record.between, from, to), Connected: m.record.connected(from, to), FailedAt: m.record.failed(from, to)}
		if m.writer != nil {
			line.Ledger, line.Acknowledged = m.writer.ledger, m.writer.acknowledged(from, to)
			m.writer.forget(to)
		}
		m.record.forget(to)
		if err := tell(line); err != nil {
			return err
		}
	}
	s.lag.forget(to)
	return nil
}

// Summary adds up the lines of logs. Seconds outside the interval do not count, except for the writes, which must never get lost.
type Summary struct {
	from, to int64
	results  map[string]*Result
	order    []string
	sent     map[string]map[int64]int // by client and second
	stops    stops
	// Ledgers are all acknowledged writes.
	Ledgers Ledgers
}

// NewSummary makes a summary of the whole seconds of an interval.
func NewSummary(from, to time.Time) *Summary {
	return &Summary{from: from.Unix(), to: to.Unix(), results: map[string]*Result{}, sent: map[string]map[int64]int{}, stops: newStops(), Ledgers: Ledgers{}}
}

// Read adds a log. The last line may be incomplete, because its process was killed.
func (s *Summary) Read(r io.Reader) error {
	for in := json.NewDecoder(r); ; {
		var line Second
		if err := in.Decode(&line); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading what clients experienced: %w", err)
		}
		s.Add(line)
	}
}

// Add adds one line.
func (s *Summary) Add(line Second) {
	if line.Ledger != "" {
		s.Ledgers[line.Ledger] = append(s.Ledgers[line.Ledger], line.Acknowledged...)
	}
	s.stops.learn(line)
	if line.At < s.from || line.At >= s.to {
		return
	}
	s.stops.add(line)
	name := line.Client.String()
	if s.results[name] == nil {
		s.results[name] = &Result{Client: line.Client}
		s.order = append(s.order, name)
		s.sent[name] = map[int64]int{}
	}
	r := s.results[name]
	r.Outage = Worst([]Outage{r.Outage, line.Outage})
	s.sent[name][line.At] += line.Requests
}

// Results are the clients in the order in which they were read.
func (s *Summary) Results() (out []Result) {
	for _, name := range s.order {
		out = append(out, *s.results[name])
	}
	return out
}

// Late counts the connections that reached an API server which had said for at least some time that it is shutting down, made by
// clients that leave the choice of the server to the cluster. announced is how many shutdowns each Ready client has seen, by its path:
// those of servers that stop without saying so are not seen, and have no late connections, because they no longer listen.
// unknown are the paths whose servers announced one, and whose certificates nobody has seen: nothing is known of connections to them.
func (s *Summary) Late(grace time.Duration) (late int, announced map[string]int, unknown []string) {
	return s.stops.late(grace)
}

// Excused says of each client that uses one API server and no other, by its name, what the shutdowns of that server explain: from the
// moment in which a Ready client of the same path learned that it stops until it is ready again, and two minutes at most. A server
// that does not announce its shutdown stops when it accepts no connection.
func (s *Summary) Excused(announced bool) map[string]Excuse { return s.stops.excused(announced) }

// inARow is how many seconds in a row a client may not be without its requests.
const inARow = 3

// Starved says when a client did not run, or sent less than half of its requests, for three seconds in a row, for a tenth of its time, or sent
// less than four fifths of them in all: what it reports is not the whole truth. Requests that were sent and hang are not missing. The
// client ran from one moment to another; if from is zero, since the first second that it logged.
func (s *Summary) Starved(c Client, pace time.Duration, from, to time.Time) (out []string) {
	name := strings.TrimSpace(c.String())
	sent := s.sent[c.String()]
	begin, end := s.from, s.to
	switch {
	case !from.IsZero():
		begin = max(begin, from.Add(time.Second-1).Unix())
	case len(sent) > 0:
		begin = slices.Min(slices.Collect(maps.Keys(sent))) + 1 // it may have begun in the middle of it
	}
	if !to.IsZero() {
		end = min(end, to.Unix())
	}
	if begin >= end {
		if len(sent) == 0 && from.IsZero() {
			out = append(out, name+" logged nothing")
		}
		return out
	}
	if len(sent) == 0 {
		return []string{name + " logged nothing"}
	}
	if c.Pace != 0 {
		pace = c.Pace
	}
	perSecond := int(time.Second / pace)
	if c.Operation.waits() {
		perSecond = 0
	}
	missing, row, inRow, total := 0, 0, 0, 0
	report := func(at int64) {
		switch {
		case row < inARow:
		case perSecond == 0:
			out = append(out, fmt.Sprintf("%s did not run for %d seconds from %s", name, row, time.Unix(at-int64(row), 0).UTC().Format(time.TimeOnly)))
		default:
			out = append(out, fmt.Sprintf("%s sent %d requests instead of %d in %d seconds from %s", name, inRow, row*perSecond, row, time.Unix(at-int64(row), 0).UTC().Format(time.TimeOnly)))
		}
		row, inRow = 0, 0
	}
	for at := begin; at < end; at++ {
		n, logged := sent[at]
		total += n
		if logged && n*2 >= perSecond {
			report(at)
			continue
		}
		missing, row, inRow = missing+1, row+1, inRow+n
	}
	report(end)
	all := int(end - begin)
	switch {
	case missing*10 >= all:
		out = append(out, fmt.Sprintf("%s ran in %d of %d seconds", name, all-missing, all))
	case total*10 < all*perSecond*8:
		out = append(out, fmt.Sprintf("%s sent %d requests instead of %d", name, total, all*perSecond))
	}
	return out
}
