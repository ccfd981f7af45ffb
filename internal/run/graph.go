package run

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
)

// StepError says which step failed.
type StepError struct {
	Step plan.Step
	Err  error
	// Versions are what runs now, if the plan was to change that.
	Versions []cluster.Version
}

func (e *StepError) Error() string {
	where := ""
	if e.Step.Host != "" {
		where = " on " + e.Step.Host
	}
	text := fmt.Sprintf("could not %s%s: %v", e.Step.Title, where, e.Err)
	if len(e.Versions) == 0 {
		return text
	}
	text += "\nNothing was changed on the hosts that were to follow. These versions run now:"
	for _, v := range e.Versions {
		text += fmt.Sprintf("\n  %s %s on %s", v.Program, v.Version, cluster.List(v.Hosts))
	}
	return text + "\nRun `quorate apply` again to go on, or with the former version in the spec to go back."
}

func (e *StepError) Unwrap() error { return e.Err }

// check refuses a plan whose steps cannot all run, because an unknown or circular dependency would wait forever.
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
		return errors.New("the plan's steps depend on each other in a cycle")
	}
	return nil
}

var errNothingToWaitFor = errors.New("another step failed")

// graph runs every step as soon as its needs are done. When one fails, no other begins; those that run are finished, except
// those that only wait.
func graph(ctx context.Context, steps []plan.Step, run func(context.Context, plan.Step) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		done = map[string]chan struct{}{}
	)
	begin, stop := context.WithCancelCause(ctx)
	defer stop(nil)
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
			ctx := ctx
			if s.Kind.Waits() {
				ctx = begin
			}
			if err := run(ctx, s); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if !s.Kind.Waits() || begin.Err() == nil {
					errs = append(errs, err)
				}
				stop(errNothingToWaitFor)
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
