package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"sync"
	"time"

	"quorate.dev/quorate/internal/hostside/lease"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/step"
)

// execute runs the plan. After the first failure no new step begins; those that run are waited for, so that the
// error names the cause and nothing is left half done without need. The plan can be made and run again.
func execute(ctx context.Context, p *plan.Plan, e *step.Env) error {
	if err := check(p); err != nil {
		return err
	}
	if err := takeLeases(ctx, p, e); err != nil {
		return err
	}
	return graph(ctx, p.Steps, func(ctx context.Context, s plan.Step) error {
		err := progress.Track(ctx, e.Progress, s.Host, s.ID, s.Title, func(ctx context.Context) error { return step.Run(ctx, e, s) })
		if err != nil {
			return &StepError{Step: s, Err: err}
		}
		return nil
	})
}

// StepError says which step failed.
type StepError struct {
	Step plan.Step
	Err  error
}

func (e *StepError) Error() string {
	where := ""
	if e.Step.Host != "" {
		where = " on " + e.Step.Host
	}
	return fmt.Sprintf("could not %s%s: %v", e.Step.Title, where, e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }

// check refuses a plan whose steps cannot all run: an unknown or circular need would wait for ever.
func check(p *plan.Plan) error {
	seen := map[string]bool{}
	for _, s := range p.Steps {
		if seen[s.ID] {
			return fmt.Errorf("the plan has two steps with the ID %s", s.ID)
		}
		seen[s.ID] = true
	}
	done := map[string]bool{}
	for progressed := true; progressed; {
		progressed = false
		for _, s := range p.Steps {
			if done[s.ID] {
				continue
			}
			ok := true
			for _, n := range s.Needs {
				if !seen[n] {
					return fmt.Errorf("the step %s needs %s, which is not in the plan", s.ID, n)
				}
				ok = ok && done[n]
			}
			if ok {
				done[s.ID], progressed = true, true
			}
		}
	}
	if len(done) != len(p.Steps) {
		return errors.New("the plan's steps need each other in a circle")
	}
	return nil
}

// graph runs every step as soon as its needs are done.
func graph(ctx context.Context, steps []plan.Step, run func(context.Context, plan.Step) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		done = map[string]chan struct{}{}
	)
	begin, stop := context.WithCancel(ctx)
	defer stop()
	for _, s := range steps {
		done[s.ID] = make(chan struct{})
	}
	for _, s := range steps {
		wg.Go(func() {
			for _, n := range s.Needs {
				select {
				case <-done[n]:
				case <-begin.Done():
					return
				}
			}
			if begin.Err() != nil {
				return
			}
			if err := run(ctx, s); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
				stop()
				return
			}
			close(done[s.ID])
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w; run it again to finish", context.Cause(ctx))
	}
	return errors.Join(errs...)
}

// takeLeases takes every host that the plan changes for this run.
func takeLeases(ctx context.Context, p *plan.Plan, e *step.Env) error {
	owner := owner()
	for _, h := range e.Cluster.Spec.Hosts {
		if _, dead := p.Unreachable[h.Name]; dead {
			continue
		}
		c, err := e.Conns.Get(h.Name)
		if err != nil {
			return err
		}
		// In the spec's order everywhere, so that of two runs one gets the first host and the other stops there.
		if _, err := lease.Take.On(ctx, c, owner); err != nil {
			return fmt.Errorf("taking the lease: %w", err)
		}
	}
	return nil
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
