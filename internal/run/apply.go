package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/lease"
	"quorate.dev/quorate/internal/hostside/programs"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/step"
)

// Options are what the caller allows a run to do.
type Options struct {
	// Ignore are the IDs of preflight checks whose findings do not stop the run.
	Ignore []string
	// Adopt allows the run to adopt a cluster that Quorate did not build.
	Adopt bool
	// Force has hosts that leave the cluster drained although that deletes pods that no controller creates again.
	Force bool
}

// AnyReached returns why no host of the spec can be reached, and nil if one can be. Whoever is about to compile a bundle, which takes long, asks first.
func (e *Engine) AnyReached(ctx context.Context) error {
	var why []string
	for _, h := range e.Cluster.Spec.Hosts {
		_, err := e.Conns.Get(h.Name)
		if err == nil {
			return nil
		}
		why = append(why, err.Error())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // the hosts are not why
	}
	return &cluster.Refusal{Rule: plan.RuleReachable, Subjects: cluster.Names(e.Cluster.Spec.Hosts), Why: "no host can be reached: " + strings.Join(why, "; "),
		Fix: "Bring the hosts up, or make them reachable, and run the command again."}
}

// Apply makes the cluster match its spec. It takes the lease before it makes the plan, so that no other run can change what
// the plan was made from. It returns only after it has verified that the cluster matches the spec, even if there was nothing
// to do.
func (e *Engine) Apply(ctx context.Context, b *bundle.Bundle, o Options) (*Work, error) {
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return nil, err
	}
	return e.apply(ctx, b, o, nil)
}

// apply is Apply for a run that has the lease of the spec's hosts. Before is the plan that it has carried out already; nil if there is none.
func (e *Engine) apply(ctx context.Context, b *bundle.Bundle, o Options, before *plan.Plan) (*Work, error) {
	w, err := e.Plan(ctx, b)
	if more := e.others(); err == nil && len(more.Departing)+len(more.Removed) > 0 {
		// Only the cluster could tell that these hosts are part of it. What the plan was made from may have changed before they
		// were held.
		if err := e.takeLeases(ctx, slices.Concat(more.Departing, more.Removed)); err != nil {
			return nil, err
		}
		w, err = e.Plan(ctx, b)
	}
	if err != nil {
		return nil, err
	}
	if o.Force {
		w.Plan.ForceDrains()
	}
	if before != nil && sameSteps(before, w.Plan) {
		return w, errors.New("the steps of the plan succeeded, and the hosts do not show it: `quorate plan` shows what is left")
	}
	if err := w.Plan.Allowed(o.Adopt); err != nil {
		return w, err
	}
	if err := e.Check(ctx, w, o.Ignore); err != nil {
		return w, err
	}
	if err := w.sound(ctx); err != nil {
		return w, err
	}
	if err := e.execute(ctx, w.toRun(), w); err != nil {
		return w, err
	}
	if goesOn(w.Plan) {
		return e.apply(ctx, b, o, w.Plan)
	}
	e.tidy(ctx)
	if len(w.Plan.Unreachable) > 0 {
		return w, &UnreachableError{w.Plan.Unreachable, "quorate apply"}
	}
	return w, nil
}

// goesOn says that another plan follows on one that is done. What it has postponed is carried out then, or refused with the reason; but not while hosts
// cannot be reached: whoever brings them back runs the command again.
func goesOn(p *plan.Plan) bool { return p.Continues || p.Postpones && len(p.Unreachable) == 0 }

// sameSteps says that two plans have the same steps, and that there are any.
func sameSteps(a, b *plan.Plan) bool {
	return !a.Empty() && slices.EqualFunc(a.Steps, b.Steps, func(x, y plan.Step) bool { return x.ID == y.ID })
}

// toRun is the plan as it is run: where there is nothing to do, the cluster is verified all the same.
func (w *Work) toRun() *plan.Plan {
	if w.Plan.Empty() {
		return plan.Verification(w.Plan)
	}
	return w.Plan
}

// tidy removes the binaries that other versions of Quorate uploaded: each command uploads one, and only this holds the lease.
// The cluster matches its spec without it, so a failure is only noted.
func (e *Engine) tidy(ctx context.Context) {
	var wg sync.WaitGroup
	for _, h := range e.Cluster.Spec.Hosts {
		c, err := e.Conns.Get(h.Name)
		if err != nil {
			continue
		}
		wg.Go(func() {
			if _, err := programs.Tidy.On(ctx, c, struct{}{}); err != nil {
				e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: h.Name, ID: h.Name + "/tidy", Title: "remove unused versions of quorate", Detail: err.Error()})
			}
		})
	}
	wg.Wait()
}

// UnreachableError says which hosts an otherwise finished run had to leave alone.
type UnreachableError struct {
	Hosts map[string]string
	// Command is what to run when they are back.
	Command string
}

func (e *UnreachableError) Error() string {
	msg := "these hosts could not be reached and were left as they are; run " + e.Command + " again when they are back:"
	for _, h := range slices.Sorted(maps.Keys(e.Hosts)) {
		msg += "\n  " + h + ": " + e.Hosts[h]
	}
	return msg
}

// leasePatience is how long a run waits for leases: programs of a run that was ended a moment ago may still be ending on a host.
const leasePatience = 15 * time.Second

// takeLeases takes the lease of each of the hosts that can be reached. It ends with the session.
func (e *Engine) takeLeases(ctx context.Context, hosts []spec.Host) error {
	e.mu.Lock()
	e.leased = true
	e.mu.Unlock()
	owner, deadline := owner(), time.Now().Add(leasePatience)
	for _, h := range hosts {
		c, err := e.Conns.Get(h.Name)
		if err != nil {
			continue // it is observed as unreachable, and left alone
		}
		// In the spec's order everywhere, so that of two runs one gets the first host and the other stops there.
		if err := e.takeLease(ctx, c, owner, deadline); err != nil {
			return fmt.Errorf("acquiring the lease: %w", err)
		}
	}
	return nil
}

func (e *Engine) takeLease(ctx context.Context, c *host.Conn, owner string, deadline time.Time) error {
	for noted := false; ; noted = true {
		err := lease.Take(ctx, c, owner)
		if !errors.Is(err, lease.ErrLeased) || time.Now().After(deadline) {
			return err
		}
		if !noted {
			e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: c.Name(), ID: c.Name() + "/lease", Title: "wait for the lease", Detail: err.Error()})
		}
		if err := pause(ctx, time.Second/2); err != nil {
			return err
		}
	}
}

func owner() string {
	who := "somebody"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		who += "@" + h
	}
	return fmt.Sprintf("%s, process %d, since %s", who, os.Getpid(), time.Now().UTC().Format(time.RFC3339))
}

// permitPatience is how long a step waits while its change is refused for a transient reason.
const permitPatience = 5 * time.Minute

// lookAgain is the time between two observations that a change must be allowed on.
const lookAgain = time.Second

// runner runs the steps of one plan.
type runner struct {
	*Engine
	work *Work
	// look observes the cluster and evaluates it.
	look func(context.Context) *cluster.State
	// turn is held by the disruptive step that is being made. The plan orders such steps already; this holds whatever a plan
	// says. Workers whose kubelets restart share it: the plan says how many do so at the same time.
	turn sync.RWMutex
}

// warn shows what the spec allows and what a plan costs, once in the life of the engine: a run makes many plans, and whoever did not read the
// plan before must learn of it as well.
func (e *Engine) warn(warnings []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range warnings {
		if e.warned[w] {
			continue
		}
		if e.warned == nil {
			e.warned = map[string]bool{}
		}
		e.warned[w] = true
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/warning", Title: "warning", Detail: w})
	}
}

// execute runs the plan. After the first failure no new step begins; those that run are waited for, so that the error names
// the cause and nothing is left half done without need. The plan can be made and run again.
func (e *Engine) execute(ctx context.Context, p *plan.Plan, w *Work) (err error) {
	if err := check(p); err != nil {
		return err
	}
	e.warn(p.Warnings)
	r := &runner{Engine: e, work: w, look: e.State}
	if w.look != nil {
		r.look = w.look
	}
	env := step.NewEnv(w.State, e.Conns, w.bundles, w.manifests, e.Progress, r.permit)
	env.Restoration = e.restoration
	if slices.ContainsFunc(p.Steps, func(s plan.Step) bool { return s.Change != nil && s.Change.Kubernetes != "" }) {
		defer func() {
			if failed, ok := errors.AsType[*StepError](err); ok && ctx.Err() == nil {
				failed.Versions = e.versions(ctx)
			}
		}()
	}
	return graph(ctx, p.Steps, func(ctx context.Context, s plan.Step) error {
		if s.Change != nil && s.Change.Disruptive() {
			turn := sync.Locker(&r.turn)
			if h, known := e.Cluster.Host(s.Host); known && (s.Kind == plan.UpgradeNode || s.Kind == plan.RestartKubelet || s.Kind == plan.RenewKubelet || s.Kind == plan.RefreshTokens || s.Kind == plan.MoveClients || s.Kind == plan.SetTrust) && !h.Has(spec.RoleControlPlane) {
				turn = r.turn.RLocker()
			}
			turn.Lock()
			defer turn.Unlock()
		}
		err := progress.Track(ctx, e.Progress, s.Host, s.ID, s.Title, func(ctx context.Context) error { return step.Run(ctx, env, s) })
		if err != nil {
			return &StepError{Step: s, Err: err}
		}
		return nil
	})
}

// versions are what the programs of Kubernetes and etcd run now.
func (e *Engine) versions(ctx context.Context) []cluster.Version {
	return slices.DeleteFunc(e.State(ctx).Versions(), func(v cluster.Version) bool {
		return v.Program != "etcd" && v.Program != facts.Kubelet && !strings.HasPrefix(v.Program, "kube-")
	})
}

// permit evaluates the change of a step on a fresh observation, and on a second one where the change relies on what works
// elsewhere (see cluster.Change.Looks). While the change is refused for something that may pass, such as a member that is still
// starting, it observes again.
//
// What creates a new cluster, or removes one as a whole, is evaluated on the observation that was made under the lease: no other
// run can change its hosts, and each host checks again that it begins with nothing.
func (r *runner) permit(ctx context.Context, s plan.Step) (cluster.Permit, error) {
	c := *s.Change
	// Nobody relies on a cluster that is not complete, or that is removed as a whole.
	if c.Verb == cluster.Create || c.Part == cluster.WholeCluster {
		permit, refused := r.work.State.Allow(c)
		if refused != nil {
			return cluster.Permit{}, refused
		}
		return permit, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, permitPatience, fmt.Errorf("the safety rules did not allow it within %s", permitPatience))
	defer cancel()
	for allowed := 0; ; {
		permit, refused := r.look(ctx).Allow(c)
		switch {
		case refused == nil:
			if allowed++; allowed >= c.Looks() {
				return permit, nil
			}
			if err := pause(ctx, lookAgain); err != nil {
				return cluster.Permit{}, err
			}
			continue
		case !refused.Transient || ctx.Err() != nil:
			return cluster.Permit{}, refused
		}
		allowed = 0
		r.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: s.Host, ID: s.ID, Title: s.Title, Detail: refused.Why})
		if pause(ctx, time.Second) != nil {
			return cluster.Permit{}, refused
		}
	}
}
