package run

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/drill/clients"
	"quorate.dev/quorate/internal/drill/ledger"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/hostside/fault"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

const (
	// calmBefore is how long no client may have failed before a fault is injected, and calmAfter how long they must be served again until a
	// fault counts as survived.
	calmBefore = 5 * time.Second
	calmAfter  = 3 * time.Second
	// quietFor is how long clients are measured before the first fault.
	quietFor = 10 * time.Second
	// settlePatience is how long clients may take until none of them fails before a fault, and soundPatience how long the margins may take to be
	// what they were.
	settlePatience = 2 * time.Minute
	soundPatience  = 10 * time.Minute
	// lookEachSecond is the time between two observations while a fault lasts. Each costs the hosts some time of their processors, which is
	// why it is not shorter.
	lookEachSecond = time.Second
	// drillLooks is how often a drill looks before it says that a host cannot be queried.
	drillLooks = 3
	// healTimeout is how long a fault may take to be healed; after that, the host heals it on its own.
	healTimeout = time.Minute
	// switchAfter is how much longer than a fault its host waits until it heals it on its own: the caller is first, unless it is gone.
	switchAfter = 30 * time.Second
	// checkFor is how long the check of a history may take.
	checkFor = 2 * time.Minute
	// trimEach is how often the clients forget what was read: what they have experienced takes more than 100 MB an hour.
	trimEach = 15 * time.Minute
	// drillNamespace is for everything that a drill creates in the cluster, and faultPrefix begins the names of its faults on hosts.
	drillNamespace = "quorate-drill"
	faultPrefix    = "drill-"
)

// Plug does to machines what only their owner can: take their power, freeze them, cut their cables. Hosts that are no machines of a lab
// have none.
type Plug interface {
	// Does says whether this fault is one of those.
	Does(drill.Injection) bool
	Inject(context.Context, drill.Injection) error
	// Heal ends a fault that Inject began. Healing one that is over is no error.
	Heal(context.Context, drill.Injection) error
}

// DrillOptions are how a drill runs.
type DrillOptions struct {
	// Choose chooses the faults for the cluster as it was found: those to inject, and those that cannot be, with the reasons.
	Choose func(*cluster.State) ([]drill.Fault, []drill.Skipped, error)
	// Repeat is how often each fault is injected, in an order that Seed decides. If Duration is not zero, faults are injected by chance
	// until it is over, instead.
	Repeat   int
	Seed     uint64
	Duration time.Duration
	// Lasts is how long a fault lasts that does not end on its own.
	Lasts time.Duration
	// AbortAfter ends a fault early, and the drill with it, if a client has not been served for so long.
	AbortAfter time.Duration
	// BeyondMargins has faults injected that the margins do not allow. It needs a Plug.
	BeyondMargins bool
	Objectives    []drill.Objective
	// Clients are the options of the clients; the rest is filled in.
	Clients clients.Options
	// Plug is that of the lab; nil for hosts of the user's own.
	Plug Plug
	// Version is that of this program.
	Version string
	// Tell is called with each outcome, and Announce before a fault is injected; nil if nobody wants to know.
	Tell     func(drill.Outcome)
	Announce func(drill.Injection)
}

// ErrNothingDrilled says that no fault could be injected.
var ErrNothingDrilled = errors.New("no fault was injected")

// LeftoverError says that faults of an earlier drill are still injected.
type LeftoverError struct{ Hosts []string }

func (e *LeftoverError) Error() string {
	return "faults of an earlier drill are still injected on " + cluster.List(e.Hosts) + "; heal them: quorate drill --heal"
}

// Drill injects faults one at a time while clients use the cluster, measures what they notice, and heals each fault before the next one. It injects only
// what the margins allow at that moment, unless it is told otherwise, which it refuses outside of a lab. If its context ends, it heals what it has injected
// and returns what it has measured until then.
func (e *Engine) Drill(ctx context.Context, o DrillOptions) (*drill.Report, error) {
	if o.BeyondMargins && o.Plug == nil {
		return nil, cluster.OnlyInLab()
	}
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return nil, err
	}
	left, err := e.leftovers(ctx)
	switch {
	case err != nil:
		return nil, err
	case len(left) > 0:
		return nil, &LeftoverError{left}
	}
	d := &drilling{Engine: e, options: o}
	state, err := d.drillable(ctx)
	if err != nil {
		return nil, err
	}
	faults, skipped, err := o.Choose(state)
	if err != nil {
		return nil, err
	}
	d.base, d.known = state.Margins(), problems(state)
	d.report = &drill.Report{Cluster: e.Cluster.Metadata.Name, Quorate: o.Version, Kubernetes: e.Cluster.Spec.Kubernetes.Version, Began: time.Now(), Seed: o.Seed,
		Environment: environment(e.Cluster, state, o), Topology: topology(e.Cluster), Objectives: o.Objectives, Faults: []drill.Outcome{}, Skipped: skipped}
	if len(faults) == 0 {
		return d.report, ErrNothingDrilled
	}
	config, api, err := e.throughEndpoint(ctx)
	if err != nil {
		return nil, err
	}
	o.Clients.Cluster, o.Clients.Conns, o.Clients.Config, o.Clients.API, o.Clients.Namespace = e.Cluster, e.Conns, config, api, drillNamespace
	err = progress.Track(ctx, e.Progress, "", "drill/clients", "start the clients", func(ctx context.Context) error {
		d.clients, err = clients.Start(ctx, o.Clients)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("starting the clients of the drill: %w", err)
	}
	d.config, d.api, d.trimmed = config, api, time.Now()
	for _, text := range d.clients.Omitted() {
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "drill/omitted", Title: "clients", Detail: text})
	}
	err = d.run(ctx, faults)
	err = errors.Join(err, d.conclude(context.WithoutCancel(ctx)))
	if ctx.Err() != nil {
		d.report.Interrupted = context.Cause(ctx).Error()
	} else if err != nil {
		d.report.Interrupted = err.Error()
	}
	d.report.Ended = time.Now()
	d.report.Summarize()
	d.report.Advise(state)
	e.noteDrill(ctx, d.report)
	if err == nil && len(d.report.Faults) == 0 {
		err = ErrNothingDrilled
	}
	return d.report, err
}

// HealFaults heals every fault that is injected on any host that can be reached, removes what the clients of a drill left in the cluster, and returns the
// hosts where there were faults.
func (e *Engine) HealFaults(ctx context.Context) (healed []string, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, h := range e.Cluster.Spec.Hosts {
		wg.Go(func() {
			conn, err := e.Conns.Get(h.Name)
			var ids []string
			if err == nil {
				ids, err = fault.Heal.On(ctx, conn, nil)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("healing faults on %s: %w", h.Name, err))
			} else if len(ids) > 0 {
				healed = append(healed, h.Name)
			}
		})
	}
	wg.Wait()
	slices.Sort(healed)
	config, api, err := e.throughEndpoint(ctx)
	if err == nil {
		err = clients.Remove(ctx, clients.Options{Cluster: e.Cluster, Conns: e.Conns, Config: config, API: api, Namespace: drillNamespace})
	}
	return healed, errors.Join(errors.Join(errs...), err)
}

// leftovers are the hosts on which faults are injected. The others are made ready for some: that takes a moment, and is no part of what is
// measured.
func (e *Engine) leftovers(ctx context.Context) (out []string, err error) {
	hosts := e.Cluster.Spec.Hosts
	left, errs := make([]bool, len(hosts)), make([]error, len(hosts))
	var wg sync.WaitGroup
	for n, h := range hosts {
		conn, err := e.Conns.Get(h.Name)
		if err != nil {
			continue // drillable says so
		}
		wg.Go(func() {
			active, err := fault.Active.On(ctx, conn, struct{}{})
			if left[n] = len(active) > 0; err == nil && !left[n] {
				_, err = fault.Prepare.On(ctx, conn, struct{}{})
			}
			errs[n] = err
		})
	}
	wg.Wait()
	for n, h := range hosts {
		if left[n] {
			out = append(out, h.Name)
		}
	}
	return out, errors.Join(errs...)
}

// throughEndpoint is an administrator's way through the endpoint, from where this program runs: what is measured is what clients there
// experience.
func (e *Engine) throughEndpoint(ctx context.Context) (*rest.Config, kubernetes.Interface, error) {
	admin, err := e.Kubeconfig(ctx)
	if err != nil {
		return nil, nil, err
	}
	config, err := ForCaller(e.Cluster, admin, true)
	if err != nil {
		return nil, nil, err
	}
	through, err := clientcmd.NewDefaultClientConfig(*config, nil).ClientConfig()
	if err != nil {
		return nil, nil, err
	}
	through.QPS = -1
	api, err := kubernetes.NewForConfig(through)
	return through, api, err
}

// drilling is one run of a drill.
type drilling struct {
	*Engine
	options DrillOptions
	report  *drill.Report
	clients *clients.Clients
	config  *rest.Config // through the endpoint
	api     kubernetes.Interface
	load    *overload // while an API server is overloaded
	// injected counts faults, and id is the name of the last one on its hosts.
	injected int
	id       string
	// addresses are those of the hosts when they were last queried.
	addresses map[string][]string

	// base are the margins, and known the problems, with which the drill began.
	base  quorum.Margins
	known map[string]bool
	// lost is how many acknowledged writes were missing after the last fault, and read until when the timeline was read.
	lost int
	read time.Time
	// trimmed is when the clients were last told to forget what was read.
	trimmed time.Time
}

// drillable observes the cluster, and says why it cannot be given faults.
func (d *drilling) drillable(ctx context.Context) (*cluster.State, error) {
	s := reached(ctx, lookAgain, func() *cluster.State {
		d.Conns.Retry(ctx)
		return d.State(ctx)
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	d.addresses = addressesIn(s)
	if r := mayDrill(s); r != nil {
		return nil, r
	}
	return s, nil
}

// mayDrill refuses a drill of a cluster that could not be observed completely, or whose hosts are other machines than those that the spec names: what a
// fault takes away was computed for another one.
func mayDrill(s *cluster.State) *cluster.Refusal {
	if !s.Exists() {
		return s.Incomplete(cluster.RuleNoCluster, "Build it, or finish its build: `quorate apply`.")
	}
	if away := s.Unreachable(); len(away) > 0 {
		var names []string
		for name := range away {
			names = append(names, name)
		}
		slices.Sort(names)
		return &cluster.Refusal{Rule: cluster.RuleUnknown, Subjects: names, Why: "a drill needs to reach every host, and " + cluster.List(names) + " could not be queried: " + away[names[0]],
			Fix: "Bring them back first; `quorate status` shows what is wrong."}
	}
	return s.OtherMachines()
}

// reached looks until every host could be queried, but drillLooks times at the most: on a busy host, a single answer may be late.
func reached(ctx context.Context, each time.Duration, look func() *cluster.State) *cluster.State {
	for n := 1; ; n++ {
		s := look()
		if n == drillLooks || len(s.Unreachable()) == 0 || pause(ctx, each) != nil {
			return s
		}
	}
}

// problems are what is wrong, apart from what is only worth knowing.
func problems(s *cluster.State) map[string]bool {
	out := map[string]bool{}
	for _, f := range s.Findings() {
		if f.Severity != cluster.Info {
			out[problem(f)] = true
		}
	}
	return out
}

// worse says whether a state has a problem that the drill did not begin with, or smaller margins.
func (d *drilling) worse(s *cluster.State) bool {
	if less(s.Margins(), d.base) {
		return true
	}
	for p := range problems(s) {
		if !d.known[p] {
			return true
		}
	}
	return false
}

// what says, in a few words, what is worse.
func (d *drilling) what(s *cluster.State) string {
	for _, f := range s.Findings() {
		if f.Severity != cluster.Info && !d.known[problem(f)] {
			return f.Summary
		}
	}
	return "it survives less than before"
}

// problem identifies a finding.
func problem(f cluster.Finding) string { return f.Rule + " " + strings.Join(f.Subjects, " ") }

func less(a, b quorum.Margins) bool {
	if a.ControlPlanes < b.ControlPlanes || a.Etcd < b.Etcd || a.Zones < b.Zones {
		return true
	}
	return b.LoadBalancers != nil && (a.LoadBalancers == nil || *a.LoadBalancers < *b.LoadBalancers)
}

// run injects faults until there are no more, or the time is over.
func (d *drilling) run(ctx context.Context, faults []drill.Fault) error {
	if err := d.settle(ctx); err != nil {
		return err
	}
	if err := d.quiet(ctx); err != nil {
		return err
	}
	next := drill.Schedule(faults, max(d.options.Repeat, 1), d.options.Seed)
	more := func() (drill.Fault, bool) {
		if len(next) == 0 {
			return drill.Fault{}, false
		}
		f := next[0]
		next = next[1:]
		return f, true
	}
	if d.options.Duration > 0 {
		end, chance := time.Now().Add(d.options.Duration), drill.Random(faults, d.options.Seed)
		more = func() (drill.Fault, bool) { return chance(), time.Now().Before(end) }
	}
	for f, ok := more(); ok; f, ok = more() {
		if err := d.fault(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until no client fails.
func (d *drilling) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settlePatience, fmt.Errorf("clients keep failing although no fault is injected, for %s; %s", settlePatience, tooMuch))
	defer cancel()
	return d.clients.Calm(ctx, calmBefore)
}

// quiet measures clients without a fault: what they experience then is not the effect of one.
func (d *drilling) quiet(ctx context.Context) error {
	return progress.Track(ctx, d.Progress, "", "drill/quiet", "measure the clients without a fault", func(ctx context.Context) error {
		from := time.Now()
		d.read = from
		if err := pause(ctx, quietFor); err != nil {
			return err
		}
		results, err := d.clients.Between(ctx, from, time.Now())
		if err != nil {
			return err
		}
		q := drill.Quiet{Seconds: quietFor.Seconds(), Clients: map[string]drill.ClientResult{}}
		for kind, all := range results {
			q.Clients[kind] = drill.ResultOf(nil, all, nil)
		}
		d.report.Quiet = &q
		return nil
	})
}

// tooMuch is what to do if the clients alone are more than the cluster can serve.
const tooMuch = "if the hosts are too slow for the clients, raise --pace, or pass --no-pods"

// sound waits until the cluster is what it was when the drill began, on two observations in a row, and returns the last one.
func (d *drilling) sound(ctx context.Context, patience time.Duration) (*cluster.State, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the cluster is not what it was before the drill, after %s; `quorate status` shows what is wrong, and %s", patience, tooMuch))
	defer cancel()
	for good := 0; ; {
		d.Conns.Retry(ctx)
		s := d.State(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if good++; d.worse(s) {
			good = 0
		}
		if good == 2 {
			return s, nil
		}
		if good == 0 {
			d.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "drill/wait", Title: "wait until the cluster is what it was", Detail: d.what(s)})
		}
		if err := pause(ctx, lookEachSecond); err != nil {
			return nil, err
		}
	}
}

// fault injects one fault, measures it, and heals it. An error ends the drill; that a fault cannot be injected is no error.
func (d *drilling) fault(ctx context.Context, f drill.Fault) error {
	id := fmt.Sprintf("drill/%d", len(d.report.Faults)+len(d.report.Skipped))
	return progress.Track(ctx, d.Progress, "", id, f.Name(), func(ctx context.Context) error {
		s, err := d.sound(ctx, settlePatience) // nothing is injected now
		if err != nil {
			return err
		}
		i, err := drill.Place(s, f, d.options.Lasts, knownFor(ctx, d.api))
		if err != nil {
			d.skip(f.Name(), "", err.Error())
			return nil
		}
		permit, refused := drill.Permit(s, i)
		if d.options.BeyondMargins {
			permit, refused = drill.PermitBeyond(s, i, d.options.Plug != nil)
		}
		if refused != nil {
			d.skip(f.Name(), i.Where(), refused.Why)
			return nil
		}
		if err := d.settle(ctx); err != nil {
			return err
		}
		if d.options.Announce != nil {
			d.options.Announce(i)
		}
		o := drill.Outcome{Name: f.Name(), Target: i.Where(), Roles: rolesOf(s, i), Margins: s.Margins(), Clients: map[string]drill.ClientResult{}}
		possible, err := d.suffer(ctx, s, permit, i, &o)
		if !possible {
			return err
		}
		drill.Judge(&o, d.report.Objectives)
		d.report.Faults = append(d.report.Faults, o)
		if d.options.Tell != nil {
			d.options.Tell(o)
		}
		if err == nil && time.Since(d.trimmed) > trimEach {
			err, d.trimmed = d.clients.Trim(ctx, d.read), time.Now()
		}
		return err
	})
}

func (d *drilling) skip(name, target, why string) {
	d.report.Skipped = append(d.report.Skipped, drill.Skipped{Name: name, Target: target, Why: why})
	d.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "drill/skipped", Title: name, Detail: "not injected: " + why})
}

// suffer injects a fault and measures it until the margins are back. It returns false if it could not be injected.
func (d *drilling) suffer(ctx context.Context, before *cluster.State, permit cluster.Permit, i drill.Injection, o *drill.Outcome) (possible bool, err error) {
	began := time.Now()
	o.Injected = began
	healed := false
	heal := func() error {
		if healed {
			return nil
		}
		healed = true
		// Also when the drill was interrupted: nothing is left broken.
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), healTimeout, fmt.Errorf("not within %s; the host heals it on its own", healTimeout))
		defer cancel()
		return d.heal(ctx, i)
	}
	defer func() {
		if e := heal(); e != nil {
			err = errors.Join(err, fmt.Errorf("healing %s on %s: %w", i.Name(), i.Where(), e))
		}
	}()
	if err := d.inject(ctx, permit, i); err != nil {
		if fault.IsImpossible(err) {
			d.skip(i.Name(), i.Where(), err.Error())
			return false, nil
		}
		return false, fmt.Errorf("injecting %s on %s: %w", i.Name(), i.Where(), err)
	}
	aborted := d.endure(ctx, began, i, o)
	if ctx.Err() == nil {
		if err := heal(); err != nil {
			return true, fmt.Errorf("healing %s on %s: %w", i.Name(), i.Where(), err)
		}
	}
	o.Healed = time.Now()
	if i.Once() {
		o.Healed = began
	}
	if ctx.Err() != nil {
		o.Invalid = append(o.Invalid, "interrupted: "+context.Cause(ctx).Error())
		return true, context.Cause(ctx)
	}
	returned := time.Now()
	after, err := d.sound(ctx, soundPatience)
	if err != nil {
		o.Missed = append(o.Missed, err.Error())
		return true, errors.Join(err, d.measure(context.WithoutCancel(ctx), began, o.Healed, time.Now(), i, o))
	}
	back := time.Since(returned)
	if i.Once() {
		back = time.Since(began)
	}
	o.MarginsBackMs = new(back.Milliseconds())
	o.LeaderChanges = -1
	if was, is := term(before), term(after); was > 0 && is >= was {
		o.LeaderChanges = int(is - was)
	}
	if err := d.settle(ctx); err != nil {
		o.Missed = append(o.Missed, err.Error())
		aborted = err
	}
	return true, errors.Join(d.measure(ctx, began, o.Healed, time.Now(), i, o), aborted)
}

// over is when a fault is over that began at one moment and is injected since another: a program that is stopped in order takes time to
// end, and its absence is counted from then.
func (d *drilling) over(i drill.Injection, began, injected time.Time) time.Time {
	if i.Once() {
		return began.Add(d.options.AbortAfter)
	}
	return injected.Add(i.Lasts)
}

// endure waits while a fault lasts, and observes whether Quorate finds it. It returns an error if the drill should end.
func (d *drilling) endure(ctx context.Context, began time.Time, i drill.Injection, o *drill.Outcome) error {
	end := d.over(i, began, time.Now())
	for time.Now().Before(end) {
		if o.DetectMs == nil {
			// One observation is enough to say that something was seen: nothing is decided on it.
			if s := d.State(ctx); ctx.Err() == nil && d.worse(s) {
				o.DetectMs = new(time.Since(began).Milliseconds())
			}
		}
		for kind, w := range d.clients.Since(ctx, began) {
			if w.Longest > d.options.AbortAfter && !strings.HasPrefix(kind, "local-api-server/") {
				return fmt.Errorf("%s on %s: %s was not served for %s, so the fault was healed and the drill ended", i.Name(), i.Where(), kind, w.Longest.Round(time.Second))
			}
		}
		if i.Once() && time.Since(began) > calmAfter && d.served(ctx) {
			return nil
		}
		if pause(ctx, min(lookEachSecond, time.Until(end))) != nil {
			return nil
		}
	}
	return nil
}

// served says that no client outside of the cluster has failed for a moment.
func (d *drilling) served(ctx context.Context) bool {
	for _, o := range d.clients.Since(ctx, time.Now().Add(-calmAfter)) {
		if o.Failed > 0 || o.Longest > calmAfter-time.Second {
			return false
		}
	}
	return true
}

// measure reads what the clients have experienced.
func (d *drilling) measure(ctx context.Context, began, healed, ended time.Time, i drill.Injection, o *drill.Outcome) error {
	results, err := d.clients.Between(ctx, began, ended)
	if err != nil {
		o.Invalid = append(o.Invalid, "reading what clients experienced: "+err.Error())
	}
	length := max(ended.Sub(began), calmBefore)
	before, errBefore := d.clients.Between(ctx, began.Add(-min(length, calmBefore)), began)
	after, errAfter := d.clients.Between(ctx, ended.Add(-calmAfter), ended)
	if err := errors.Join(errBefore, errAfter); err != nil && len(o.Invalid) == 0 {
		o.Invalid = append(o.Invalid, "reading what clients experienced: "+err.Error())
	}
	hosts := d.hosts(i)
	concerned := func(kind string, r []probe.Result) []probe.Result {
		return slices.DeleteFunc(slices.Clone(r), func(r probe.Result) bool { return clients.On(r.Client, hosts) && excused(kind, i) })
	}
	for kind, all := range results {
		if all = concerned(kind, all); len(all) > 0 {
			o.Clients[kind] = drill.ResultOf(concerned(kind, before[kind]), all, concerned(kind, after[kind]))
		}
	}
	for kind, r := range o.Clients {
		if strings.HasPrefix(kind, "endpoint/write/") {
			o.WriteOutageMs = max(o.WriteOutageMs, r.GapMs)
		}
	}
	o.Invalid = append(o.Invalid, d.clients.Starved(ctx, began, ended, gone(i, hosts))...)
	if samples, err := d.clients.Samples(ctx, d.read, ended); err == nil {
		d.report.Timeline = append(d.report.Timeline, samples...)
		d.read = ended
	}
	if lost, _, _, err := d.clients.Lost(ctx); err != nil {
		o.Invalid = append(o.Invalid, "whether writes were lost could not be read: "+err.Error())
	} else {
		o.LostWrites, d.lost = max(0, lost-d.lost), lost
	}
	if n, took, err := d.movedPods(ctx, began); err == nil && n > 0 {
		o.PodsMoved, o.PodsMovedMs = n, took
	}
	return nil
}

// hosts are those of a fault.
func (d *drilling) hosts(i drill.Injection) (out []string) {
	switch {
	case i.Target == drill.Zone:
		for _, h := range d.Cluster.Spec.Hosts {
			if h.Zone == i.Zone {
				out = append(out, h.Name)
			}
		}
	case i.Host != "":
		out = append(out, i.Host)
	}
	return out
}

// gone are those of the hosts on which everything is gone or disturbed, the clients of the drill too.
func gone(i drill.Injection, hosts []string) []string {
	switch i.Kind {
	case drill.Kill, drill.Hang, drill.Stop, drill.Overload:
		return nil
	}
	return hosts
}

// excused says that what clients of a kind experience on the host of a fault, or with its API server alone, says nothing about the rest of the cluster:
// they are gone with it, or have no other server.
func excused(kind string, i drill.Injection) bool {
	if len(gone(i, []string{i.Host})) > 0 {
		return true
	}
	return strings.HasPrefix(kind, "local-api-server/")
}

// conclude reads what is left, judges the history, and ends the clients.
func (d *drilling) conclude(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, checkFor+healTimeout)
	defer cancel()
	return progress.Track(ctx, d.Progress, "", "drill/check", "check the ledger and the history", func(ctx context.Context) error {
		l := &d.report.Ledger
		lost, acknowledged, unknown, err := d.clients.Lost(ctx)
		if err == nil {
			l.Lost, l.Acknowledged, l.Unknown = lost, acknowledged, unknown
		}
		err = errors.Join(err, d.clients.ReadBack(ctx)) // a key that nobody read since its last write says nothing
		history := d.clients.History()
		checking, cancel := context.WithTimeoutCause(ctx, checkFor, fmt.Errorf("not decided within %s", checkFor))
		defer cancel()
		r := ledger.Check(checking, history)
		l.Operations, l.Keys, l.Linearizable = r.Operations, r.Keys, string(r.Verdict)
		if r.Why != "" {
			l.Linearizable += ": " + r.Why
		}
		if r.Verdict == ledger.No {
			var page strings.Builder
			if e := ledger.Visualize(&page, history, r.IllegalKey, d.marks()); e == nil {
				l.History = page.String()
			}
		}
		for _, o := range d.report.Faults {
			for kind, c := range o.Clients {
				if strings.Contains(kind, "/watch/") {
					l.WatchGaps += probe.WatchGaps(c.Errors)
				}
			}
		}
		return errors.Join(err, d.clients.Stop(ctx))
	})
}

// marks are the faults, on the clock of the history.
func (d *drilling) marks() (out []ledger.Mark) {
	for _, o := range d.report.Faults {
		out = append(out, ledger.Mark{Name: o.Name + " on " + o.Target, From: d.clients.Clock(o.Injected), To: d.clients.Clock(o.Healed)})
	}
	return out
}

// term is etcd's; 0 if it is not known.
func term(s *cluster.State) (out uint64) {
	for _, m := range s.Seen.Etcd {
		out = max(out, m.RaftTerm)
	}
	return out
}

// rolesOf says what a target is for the cluster now.
func rolesOf(s *cluster.State, i drill.Injection) (out []string) {
	on := func(host string) bool {
		h, _ := s.Spec.Host(host)
		return host != "" && (host == i.Host || i.Target == drill.Zone && h.Zone == i.Zone)
	}
	for _, m := range s.Seen.Etcd {
		if m.Leader && on(s.MemberHost(m)) {
			out = append(out, "etcd leader")
		}
	}
	if holders, _ := s.Holders(); slices.ContainsFunc(holders, on) {
		out = append(out, "virtual IP")
	}
	return out
}

func environment(c *spec.Cluster, s *cluster.State, o DrillOptions) drill.Environment {
	out := drill.Environment{Lab: o.Plug != nil, Processors: runtime.NumCPU(), Profile: c.Spec.Failover.Profile, Topology: c.Spec.ControlPlane.Topology, PaceMs: o.Clients.Pace.Milliseconds()}
	for _, h := range c.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil {
			out.Kernel = f.Kernel
			if !out.Lab {
				out.Processors = f.CPUs
			}
			break
		}
	}
	return out
}

func topology(c *spec.Cluster) (out []drill.HostInfo) {
	for _, h := range c.Spec.Hosts {
		out = append(out, drill.HostInfo{Name: h.Name, Zone: h.Zone, Roles: h.Roles})
	}
	return out
}
