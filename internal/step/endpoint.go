package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/endpoint"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// probeEndpoint refuses to build behind a load balancer that some host does not reach, or that has something else behind it.
// Nothing is refused for one lost packet: what is wrong must be wrong twice.
func probeEndpoint(ctx context.Context, e *Env, s plan.Step) error {
	state := cluster.Evaluate(e.Cluster, e.Seen)
	var (
		findings []cluster.Finding
		refused  *cluster.Refusal
	)
	for range 2 {
		findings = endpoint.Judge(state, endpoint.Everywhere(ctx, state, e.Conns))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if refused = endpoint.Refusal(findings); refused == nil {
			break
		}
	}
	for _, f := range findings {
		if f.Severity.Rank() > cluster.Error.Rank() {
			e.report(s, f.Summary+". "+f.Fix)
		}
	}
	if refused != nil {
		return refused
	}
	return nil
}

// note says how a step is getting on.
func (e *Env) note(s plan.Step, detail string) {
	e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: s.Host, ID: s.ID, Title: s.Title, Detail: detail})
}

// report says what a reader has to know when the step has ended, too, such as where data were kept. A note of a step gives way to the next one,
// and logs show few of them, so this is one of its own.
func (e *Env) report(s plan.Step, detail string) {
	e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: s.Host, Detail: detail})
}

// meetingTimeout is how long a load balancer of the user's own may take to notice that its servers have come up.
const meetingTimeout = 2 * time.Minute

// meetAll proves that every control plane is behind a load balancer whose pool cannot be read.
func meetAll(ctx context.Context, e *Env, s plan.Step) error {
	if e.Cluster.Spec.LoadBalancer.Type != spec.BalancerExternal {
		return nil
	}
	ctx, cancel := withDeadline(ctx, meetingTimeout, "reaching every control plane through the endpoint")
	defer cancel()
	return retry(ctx, 2*time.Second, func(ctx context.Context) error {
		refused := endpoint.Refusal(endpoint.Meet(ctx, e.observe(ctx), e.Conns).Missing(e.Cluster))
		if refused == nil {
			return nil
		}
		e.note(s, refused.Why)
		return errors.New(refused.Why) // no refusal: the cluster was changed already
	})
}

// Limits of a takeover: what keepalived needs is far below a second.
const (
	takeoverTimeout = 20 * time.Second
	takeoverPace    = 50 * time.Millisecond
	answerTimeout   = 500 * time.Millisecond
)

// testTakeover moves the virtual IP to every load balancer in turn, and back to one that had it, and sees each time that the
// endpoint answers. Balancers that had it stand aside until the last one has it: priorities alone would never choose that.
func testTakeover(ctx context.Context, e *Env, s plan.Step) error {
	var balancers []string
	for _, h := range e.Cluster.BalancerHosts() {
		if e.Seen.Hosts[h.Name].Facts != nil {
			balancers = append(balancers, h.Name)
		}
	}
	t := takeover{e: e, addresses: []string{e.at().Spec.LoadBalancer.Address}, balancers: balancers}
	defer t.returnAll(ctx)
	first, err := t.holder(ctx, "")
	if err != nil {
		return err
	}
	holder := first
	for range len(balancers) - 1 {
		if holder, err = t.move(ctx, s, holder); err != nil {
			return err
		}
	}
	t.returnAll(ctx)
	if _, err = t.move(ctx, s, holder); err != nil {
		return err
	}
	e.note(s, strings.Join(t.said, ", "))
	return e.record(ctx, observe.TakeoverKey, s.Record)
}

type takeover struct {
	e         *Env
	balancers []string
	// addresses are the virtual IPs that move.
	addresses []string
	// permit is the last one: it also covers that everybody takes part again.
	permit cluster.Permit
	aside  []string
	said   []string
	// handOver has connections through the holder end between two requests before the address moves.
	handOver bool
}

// move lets the holder stand aside and waits until the endpoint answers through another balancer.
func (t *takeover) move(ctx context.Context, s plan.Step, from string) (string, error) {
	ca, err := t.e.ca()
	if err != nil {
		return "", err
	}
	ctx, cancel := withDeadline(ctx, takeoverTimeout, "the takeover")
	defer cancel()
	begin := time.Now()
	t.aside = append(t.aside, from)
	if t.permit, err = t.e.permit(ctx, s); err != nil {
		return "", err
	}
	if t.handOver {
		err = t.handTheAddressOver(ctx, s, from)
		begin = time.Now()
	} else {
		err = t.standAside(ctx, from, true)
	}
	if err != nil {
		return "", err
	}
	to, err := t.holder(ctx, from)
	if err != nil {
		return "", fmt.Errorf("no other load balancer takes over the virtual IP when %s gives it up: %w; allow VRRP (IP protocol 112) between the load balancers", from, err)
	}
	err = retry(ctx, takeoverPace, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		return t.answers(ctx, to, ca)
	})
	if err != nil {
		return "", fmt.Errorf("the endpoint does not answer through %s, which took the virtual IP over from %s: %w; the network must let an address move between machines (gratuitous ARP)", to, from, err)
	}
	t.said = append(t.said, fmt.Sprintf("%s took over from %s in %s", to, from, ui.Duration(time.Since(begin))))
	t.e.note(s, t.said[len(t.said)-1])
	return to, nil
}

// answers asks the endpoint from hosts that do not have the virtual IP: they must notice that it moved.
func (t *takeover) answers(ctx context.Context, holder, ca string) error {
	var from []string
	for _, name := range observe.Askers(t.e.Cluster, t.e.Seen) {
		if name != holder {
			from = append(from, name)
		}
	}
	asked := observe.Endpoint(ctx, t.e.at(), t.e.Conns, from, ca)
	answered, unknown := false, "no other host can query it"
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		switch a := asked[name]; {
		case !a.Known():
			unknown = name + " could not query it: " + a.Unknown
		case !a.OK:
			return fmt.Errorf("asked from %s: %s", name, a.Problem)
		default:
			answered = true
		}
	}
	if !answered {
		return errors.New(unknown)
	}
	return nil
}

// holder waits until one load balancer alone has the virtual IP, and another one than before.
func (t *takeover) holder(ctx context.Context, before string) (holder string, err error) {
	ctx, cancel := withDeadline(ctx, takeoverTimeout, "the takeover")
	defer cancel()
	err = retry(ctx, takeoverPace, func(ctx context.Context) error {
		for _, address := range t.addresses {
			active := t.active(ctx, address)
			if len(active) != 1 || active[0] == before {
				return fmt.Errorf("%d load balancers have the virtual IP %s (%s)", len(active), address, strings.Join(active, ", "))
			}
			holder = active[0]
		}
		return nil
	})
	return holder, err
}

func (t *takeover) active(ctx context.Context, address string) (out []string) {
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, name := range t.balancers {
		wg.Go(func() {
			b, err := t.read(ctx, name, address)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && b.Active {
				out = append(out, name)
			}
		})
	}
	wg.Wait()
	slices.Sort(out)
	return out
}

func (t *takeover) read(ctx context.Context, name, address string) (facts.Balancer, error) {
	conn, err := t.e.Conns.Get(name)
	if err != nil {
		return facts.Balancer{}, err
	}
	return balancer.Read.On(ctx, conn, address)
}

func (t *takeover) standAside(ctx context.Context, name string, aside bool) error {
	conn, err := t.e.Conns.Get(name)
	if err != nil {
		return err
	}
	_, err = balancer.StandAside.Make(ctx, conn, t.permit, aside)
	return err
}

func (t *takeover) handTheAddressOver(ctx context.Context, s plan.Step, name string) error {
	conn, err := t.e.Conns.Get(name)
	if err != nil {
		return err
	}
	closed, err := balancer.HandOver.Make(ctx, conn, t.permit, t.addresses)
	if err == nil {
		t.e.report(s, fmt.Sprintf("%d connections were closed between two requests", closed))
	}
	return err
}

// returnAll lets everybody take part again, also after an interrupt. Should even that fail, it ends by itself.
func (t *takeover) returnAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var errs []error
	for _, name := range t.aside {
		errs = append(errs, t.standAside(ctx, name, false))
	}
	if errors.Join(errs...) == nil {
		t.aside = nil
	}
}
