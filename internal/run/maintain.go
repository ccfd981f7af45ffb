package run

import (
	"context"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/spec"
)

// bootPatience is how long a host that was powered on may take until it can be reached.
const bootPatience = 5 * time.Minute

// OpenAwaiting is Open, and waits for hosts that cannot be reached yet, as after they were powered on. It gives up waiting after
// some minutes: then they are observed as unreachable.
func OpenAwaiting(ctx context.Context, c *spec.Cluster, sink progress.Sink, hosts []string) *Engine {
	begin := time.Now()
	for {
		e := Open(ctx, c, sink)
		missing, why := e.missing(hosts)
		if len(missing) == 0 || time.Since(begin) > bootPatience {
			return e
		}
		sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "cluster/wait", Title: "wait for the hosts", Detail: strings.Join(missing, ", ") + " cannot be reached yet: " + why})
		if pause(ctx, lookEach) != nil {
			return e
		}
		e.Close()
	}
}

// missing are the hosts without a session, with the reason for the first of them: whoever waits may see that waiting does not help.
func (e *Engine) missing(hosts []string) (names []string, why string) {
	for _, name := range hosts {
		if _, err := e.Conns.Get(name); err != nil {
			names = append(names, name)
			if why == "" {
				why = err.Error()
			}
		}
	}
	return names, why
}

// Maintain takes hosts out of service.
func (e *Engine) Maintain(ctx context.Context, t plan.Target, o plan.MaintainOptions) (*Work, error) {
	return e.Operate(ctx, func(s *cluster.State) (*plan.Plan, error) { return plan.Maintain(s, t, o) })
}

// EndMaintenance brings hosts back into service.
func (e *Engine) EndMaintenance(ctx context.Context, t plan.Target) (*Work, error) {
	return e.Operate(ctx, func(s *cluster.State) (*plan.Plan, error) { return plan.EndMaintenance(s, t) })
}

// Reboot reboots hosts one after the other. Each of them is back, and the margins are what they were, before the next one goes.
// Hosts that an earlier run was rebooting come first. It returns what there is to say of those that were rebooted.
func (e *Engine) Reboot(ctx context.Context, hosts []spec.Host, o plan.MaintainOptions) (notes []string, err error) {
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return nil, err
	}
	first := e.State(ctx)
	slices.SortStableFunc(hosts, func(a, b spec.Host) int { return begun(first, b) - begun(first, a) })
	var done []string
	for _, h := range hosts {
		w, err := e.operate(ctx, func(s *cluster.State) (*plan.Plan, error) { return plan.Reboot(s, h, o) })
		if err != nil {
			if len(done) > 0 && ctx.Err() == nil {
				return notes, &RebootError{done, h.Name, err}
			}
			return notes, err
		}
		done, notes = append(done, h.Name), append(notes, w.Plan.Notes...)
	}
	return notes, nil
}

func begun(s *cluster.State, h spec.Host) int {
	if _, in := s.Maintenance(h.Name); in {
		return 1
	}
	return 0
}

// RebootError says at which host a rolling reboot ended.
type RebootError struct {
	Done []string
	Host string
	Err  error
}

func (e *RebootError) Error() string {
	return e.Err.Error() + "\nRebooted before that: " + strings.Join(e.Done, ", ") + "."
}

func (e *RebootError) Unwrap() error { return e.Err }
