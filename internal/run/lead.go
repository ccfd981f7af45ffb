package run

import (
	"context"
	"fmt"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/lease"
	"quorate.dev/quorate/internal/quorum"
)

// election decides which of the units that repair leads: the one that has the consent of a majority of the control planes. Consent is a
// lock on the control plane that lasts as long as the session (see lease.Lead), so it needs neither an API nor etcd nor a clock. The
// leader of a minority of the machines could repair nothing anyway.
//
// The election keeps the units from getting in each other's way. That two runs never change one host at the same time is ensured by the
// leases of the hosts, which a repair takes like every other run.
type election struct {
	name    string // of the candidate
	targets []host.Target
	// ask asks one control plane for its consent. It is replaced in tests.
	ask func(ctx context.Context, s *host.Set, host string) (lease.Leader, error)

	set *host.Set // the sessions that have the consent; nil while it is not a candidate
}

func newElection(name string, targets []host.Target) *election {
	return &election{name: name, targets: targets, ask: func(ctx context.Context, s *host.Set, on string) (lease.Leader, error) {
		c, err := s.Get(on)
		if err != nil {
			return lease.Leader{}, err
		}
		return lease.Lead.On(ctx, c, name)
	}}
}

// hold takes the lead, or keeps it. It returns whether the candidate leads, and otherwise who does, or why nobody is known to.
//
// The control planes are asked in the order of the spec, and a candidate that meets another one stops there and gives back what it has.
// So of two candidates, one gets what the other one lacks.
func (e *election) hold(ctx context.Context) (leads bool, leader, why string) {
	if e.set == nil {
		e.set = host.DialAll(ctx, nil)
	} else {
		e.set.Retry(ctx)
	}
	granted := 0
	var last error
	for _, t := range e.targets {
		e.set.Add(ctx, []host.Target{t})
		answer, err := e.ask(ctx, e.set, t.Name)
		switch {
		case err != nil:
			last = err
		case !answer.Granted:
			e.resign()
			return false, answer.Held, ""
		default:
			granted++
		}
	}
	if granted >= quorum.Majority(len(e.targets)) {
		return true, e.name, ""
	}
	e.resign()
	return false, "", fmt.Sprintf("a majority of the control planes has to agree on who repairs, and %d of %d could be asked: %v", granted, len(e.targets), last)
}

// resign gives back the consent.
func (e *election) resign() {
	if e.set != nil {
		e.set.Close()
		e.set = nil
	}
}
