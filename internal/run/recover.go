package run

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/lostquorum"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/recovery"
	"quorate.dev/quorate/internal/spec"
)

// examineTimeout is how long a host may take to read its data: all pages of each database are checked.
const examineTimeout = 5 * time.Minute

// RecoverOptions say how a lost quorum is recovered.
type RecoverOptions struct {
	// Data are directories that the user named, by host.
	Data map[string][]string
	// Decision is nil to only look.
	Decision *facts.EtcdDecision
	// Confirm is called with the plan, on what was observed under the lease, before anything is changed. An error ends the run.
	Confirm func(*Work, *recovery.Judgment) error
	// Bundle loads what hosts that were installed again need to join. It is called when the API serves again.
	Bundle func(context.Context) (*bundle.Bundle, error)
}

// Recovered is what a recovery did.
type Recovered struct {
	Cluster string `json:"cluster"`
	// Judgment is what it was decided on.
	Judgment *recovery.Judgment `json:"judgment"`
	From     string             `json:"from,omitempty"`
	// ToWrite is the time from the decision until the API had accepted a write.
	ToWrite time.Duration `json:"toWriteNanoseconds"`
	// ToThree is the time from the decision until etcd had three voters; 0 if it has not.
	ToThree time.Duration `json:"toThreeVotersNanoseconds,omitempty"`
	Voters  int           `json:"voters"`
	// Missing says what was lost, as far as it can be known.
	Missing []string `json:"missing,omitempty"`
	// Left are the hosts that did not join again, with the reason.
	Left map[string]string `json:"left,omitempty"`
	// Lost are those of them that the user declared lost: nobody expects them back.
	Lost []string `json:"lost,omitempty"`
	// Complete says that every other host has joined again.
	Complete bool `json:"complete"`
}

// Unfinished says that hosts are left that were not declared lost: somebody has to bring them back, or to take them out of the spec.
func (r *Recovered) Unfinished() bool { return !r.Complete }

// conclude tells which of the hosts that are left were declared lost, by their own name or by that of their member. A recovery that goes on keeps
// what was declared when it was decided.
func (r *Recovered) conclude(d *facts.EtcdDecision) {
	declared := slices.Clone(d.Lost)
	if j := r.Judgment; j != nil {
		for _, v := range j.Voters {
			if v.Standing == recovery.Lost && v.Host != "" {
				declared = append(declared, v.Host)
			}
		}
		if j.UnderWay != nil {
			declared = append(declared, j.UnderWay.Lost...)
		}
	}
	r.Lost, r.Complete = nil, true
	for _, h := range slices.Sorted(maps.Keys(r.Left)) {
		if slices.Contains(declared, h) {
			r.Lost = append(r.Lost, h)
		} else {
			r.Complete = false
		}
	}
}

// Examine observes the cluster, and reads what is left of etcd on every host that can be reached. It changes nothing.
func (e *Engine) Examine(ctx context.Context, o RecoverOptions) *cluster.State {
	lost := &facts.LostQuorum{Remains: map[string]facts.EtcdRemains{}, Decision: o.Decision}
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, h := range e.Cluster.Spec.Hosts {
		if !h.Has(spec.RoleControlPlane) && !h.Has(spec.RoleEtcd) && len(o.Data[h.Name]) == 0 {
			continue
		}
		c, err := e.Conns.Get(h.Name)
		if err != nil {
			if len(o.Data[h.Name]) > 0 { // whoever named data on it has to know that they were not looked at
				mu.Lock()
				lost.Remains[h.Name] = facts.EtcdRemains{Error: strings.TrimPrefix(err.Error(), h.Name+": ")}
				mu.Unlock()
			}
			continue
		}
		wg.Go(func() {
			limited, cancel := context.WithTimeoutCause(ctx, examineTimeout, fmt.Errorf("no answer within %s", examineTimeout))
			defer cancel()
			remains, err := lostquorum.Examine.On(limited, c, facts.RemainsRequest{Data: o.Data[h.Name]})
			if err != nil {
				remains.Error = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			lost.Remains[h.Name] = remains
		})
	}
	seen := e.Observe(ctx)
	wg.Wait()
	seen.LostQuorum = lost
	return cluster.Evaluate(e.Cluster, seen)
}

// JoinError says that the API of a recovered cluster serves, and that not all of its members have joined.
type JoinError struct {
	Recovered *Recovered
	Err       error
}

func (e *JoinError) Error() string {
	return fmt.Sprintf("the API accepts writes since %s after the decision, but not all members of etcd could be added (voters: %d): %v\nNothing has to be recovered any more: `quorate apply` adds the others, and `quorate repair` those that came back as they were.",
		e.Recovered.ToWrite.Round(100*time.Millisecond), e.Recovered.Voters, e.Err)
}

func (e *JoinError) Unwrap() error { return e.Err }

// Recover brings a cluster back that has lost its quorum for good: one member, then the others. Edits of the spec are not carried out, and
// hosts that cannot join are left. It holds the lease while the plan is
// confirmed, and the plan is made of what was found under it. A run that was interrupted is finished by running it again.
func (e *Engine) Recover(ctx context.Context, o RecoverOptions) (*Recovered, error) {
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return nil, err
	}
	look := func(ctx context.Context) *cluster.State { return e.Examine(ctx, o) }
	w := &Work{State: look(ctx), look: look}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var err error
	if w.Plan, err = plan.Recover(w.State, time.Now()); err != nil {
		return nil, err
	}
	j := w.State.Judgment()
	if err := o.Confirm(w, j); err != nil {
		return nil, err
	}
	decided := time.Now()
	out := &Recovered{Cluster: e.Cluster.Metadata.Name, Judgment: j, From: o.Decision.Host, Missing: j.Missing}
	if j.Chosen != nil {
		out.From = j.Chosen.String()
	}
	if err := e.execute(ctx, w.Plan, w); err != nil {
		return nil, err
	}
	out.ToWrite, out.Voters = time.Since(decided), 1
	e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/recovered", Title: "recover etcd", Detail: fmt.Sprintf("the API accepts writes, %s after the decision", out.ToWrite.Round(100*time.Millisecond))})
	// Only the joins are counted: each gives etcd another voter.
	var mu sync.Mutex
	sink := e.Progress
	e.Progress = progress.Tee(sink, progress.Func(func(ev progress.Event) {
		if ev.Kind != progress.Done || !joins(ev.ID, e.Cluster.StackedEtcd()) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if out.Voters++; out.Voters == 3 {
			out.ToThree = time.Since(decided)
		}
	}))
	err = e.rejoin(ctx, o, w.State.Seen.LostQuorum.Remains, out)
	e.Progress = sink
	out.conclude(o.Decision)
	if err != nil {
		out.Complete = false
		return out, &JoinError{out, err}
	}
	return out, nil
}

// rejoin gives the other hosts their members back: first those that have their installation, because they need nothing, then machines that
// were installed again. What else the spec says is left to apply.
func (e *Engine) rejoin(ctx context.Context, o RecoverOptions, remains map[string]facts.EtcdRemains, out *Recovered) error {
	decide := func(described plan.Bundle) func(*cluster.State) (*plan.Plan, error) {
		return func(s *cluster.State) (*plan.Plan, error) {
			out.Left = plan.LeftAlone(s, remains)
			return plan.Rejoin(s, described, out.Left)
		}
	}
	if _, err := e.operate(ctx, decide(plan.Bundle{})); err != nil {
		return err
	}
	if len(plan.Reinstalled(e.State(ctx), out.Left)) == 0 {
		return nil
	}
	b, err := o.Bundle(ctx)
	if err != nil {
		return err
	}
	w, err := e.decideWith(ctx, b, func(s *cluster.State, described plan.Bundle) (*plan.Plan, error) { return decide(described)(s) })
	if err != nil {
		return err
	}
	if err := e.Check(ctx, w, nil); err != nil {
		return err
	}
	if err := w.sound(ctx); err != nil {
		return err
	}
	return e.execute(ctx, w.Plan, w)
}

// joins says that a step adds a voter.
func joins(id string, stacked bool) bool {
	is := func(k plan.Kind) bool { return strings.HasSuffix(id, "/"+string(k)) }
	return is(plan.RejoinEtcd) || is(plan.JoinEtcd) || stacked && is(plan.JoinControlPlane)
}
