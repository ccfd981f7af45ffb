package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/recovery"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
)

// quorumFigures are those of one way to lose the quorum.
type quorumFigures struct {
	Case string `json:"case"`
	// WriteSeconds is the time from the decision, when the plan was confirmed, until the API had accepted a write, ClientSeconds until a client was
	// told that one of its writes was, and ThreeVotersSeconds until etcd had three voters.
	WriteSeconds       float64 `json:"writeSeconds"`
	ClientSeconds      float64 `json:"clientSeconds"`
	ThreeVotersSeconds float64 `json:"threeVotersSeconds"`
	// AckedWrites were acknowledged to clients before the loss and until after the recovery, and LostWrites of them are missing.
	AckedWrites int `json:"ackedWrites"`
	LostWrites  int `json:"lostWrites"`
	// Missing is what the recovery says is lost, or may be.
	Missing []string `json:"missing"`
}

// losses are the ways to lose the quorum.
var losses = []struct {
	name, what string
	lose       func(context.Context, *machinery, []spec.Host) error
	// declared says that the hosts have to be declared lost, because their disks may only not be mounted.
	declared bool
}{
	{"disks", "two of three hosts lose the disk with etcd's data, at the same moment", loseData, true},
	{"machines", "two of three machines lose power at the same moment, and are installed again", loseMachines, false},
}

// quorums loses the quorum of a cluster and recovers it, in each way, while clients write. The copy that is left is that of a follower: the leader is the
// first to acknowledge a write, so the others may have acknowledged some that the follower never got.
func quorums(ctx context.Context, o options) (any, error) {
	all := []quorumFigures{}
	err := inLab(ctx, whole, func(m *machinery) (err error) {
		said("quorum: building a cluster")
		if err := m.apply(ctx); err != nil {
			return err
		}
		l, err := m.use(ctx, o, false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.stop(ctx, true)) }()
		fmt.Printf("%-10s %14s %14s %14s %10s %10s\n", "lost", "accepts writes", "client writes", "three voters", "acked", "lost")
		for i, loss := range losses {
			if i > 0 {
				if err := m.apply(ctx); err != nil { // what the recovery leaves to it
					return err
				}
			}
			f := quorumFigures{Case: loss.name, Missing: []string{}}
			said("quorum: %s", loss.what)
			if err := f.measure(ctx, m, l, loss.lose, loss.declared); err != nil {
				return fmt.Errorf("%s: %w", loss.name, err)
			}
			fmt.Printf("%-10s %12.1f s %12.1f s %12.1f s %10d %10d\n", f.Case, f.WriteSeconds, f.ClientSeconds, f.ThreeVotersSeconds, f.AckedWrites, f.LostWrites)
			for _, what := range f.Missing {
				fmt.Printf("           missing: %s\n", what)
			}
			all = append(all, f)
		}
		return nil
	})
	return all, err
}

func (f *quorumFigures) measure(ctx context.Context, m *machinery, l *load, lose func(context.Context, *machinery, []spec.Host) error, declared bool) error {
	calm, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.clients.Calm(calm, quiet); err != nil {
		return err
	}
	lostBefore, ackedBefore, _, err := l.clients.Lost(ctx)
	if err != nil {
		return err
	}
	left, others, err := m.follower(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := lose(ctx, m, others); err != nil {
		return err
	}
	decision := facts.EtcdDecision{Host: left.Name}
	if declared {
		decision.Lost = hostNames(others)
	}
	decided, out, err := m.recover(ctx, decision)
	if err != nil {
		return err
	}
	f.WriteSeconds, f.ThreeVotersSeconds, f.Missing = round(out.ToWrite), round(out.ToThree), append(f.Missing, out.Missing...)
	if out.ToThree == 0 {
		return fmt.Errorf("etcd has %d voters after the recovery, left are %v", out.Voters, out.Left)
	}
	calm, cancel = context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.clients.Calm(calm, quiet); err != nil {
		return err
	}
	s, err := l.clients.Summary(ctx, begin, time.Now())
	if err != nil {
		return err
	}
	written := firstWrite(s.Results(), decided)
	if written.IsZero() {
		return errors.New("no client knows when one of its writes was accepted again")
	}
	f.ClientSeconds = round(written.Sub(decided))
	lost, acked, _, err := l.clients.Lost(ctx)
	f.LostWrites, f.AckedWrites = lost-lostBefore, acked-ackedBefore
	return err
}

// firstWrite is when a write of one of the clients was acknowledged for the first time after the outage in which a moment is; zero if none has
// an outage then.
func firstWrite(results []probe.Result, during time.Time) (at time.Time) {
	for _, r := range results {
		if r.Client.Operation != probe.Write || r.Since.After(during) {
			continue
		}
		if end := r.Since.Add(r.Longest); end.After(during) && (at.IsZero() || end.Before(at)) {
			at = end
		}
	}
	return at
}

// follower is a host with a member that follows, and the other hosts with members.
func (m *machinery) follower(ctx context.Context) (left spec.Host, others []spec.Host, _ error) {
	e := run.Open(ctx, m.cluster, progress.Discard)
	defer e.Close()
	s := e.State(ctx)
	for _, h := range m.cluster.EtcdHosts() {
		member, known := s.Member(h.Name)
		if !known || !member.Healthy {
			return left, nil, fmt.Errorf("the member on %s is not healthy: %s%s", h.Name, member.Problem, member.Unknown)
		}
		if left.Name == "" && !member.Leader {
			left = h
		} else {
			others = append(others, h)
		}
	}
	return left, others, nil
}

func hostNames(hosts []spec.Host) (out []string) {
	for _, h := range hosts {
		out = append(out, h.Name)
	}
	return out
}

// loseData removes the data of members together with their processes. The guard of each keeps it from starting empty.
func loseData(ctx context.Context, m *machinery, hosts []spec.Host) error {
	work, ctx := errgroup.WithContext(ctx)
	for _, h := range hosts {
		work.Go(func() error { return m.sh(ctx, h.Name, "kill -KILL $(pidof etcd); rm -rf /var/lib/etcd/member") })
	}
	return work.Wait()
}

// loseMachines takes the power of machines, and replaces them with empty ones with the same names and addresses.
func loseMachines(ctx context.Context, m *machinery, hosts []spec.Host) error {
	var off errgroup.Group
	for _, h := range hosts {
		off.Go(func() error { return m.lab.PowerOff(ctx, h.Name) })
	}
	if err := off.Wait(); err != nil {
		return err
	}
	for _, h := range hosts {
		old, err := m.lab.Machine(h.Name)
		if err != nil {
			return err
		}
		if err := m.lab.RemoveMachine(ctx, h.Name); err != nil {
			return err
		}
		if err := m.lab.AddMachines(ctx, []lab.Machine{{Name: h.Name, Zone: h.Zone, Address: old.Address, Roles: h.Roles}}, nil); err != nil {
			return err
		}
	}
	return nil
}

// recover waits until the loss is seen, and recovers from the data on a host. It returns when that was decided.
func (m *machinery) recover(ctx context.Context, d facts.EtcdDecision) (decided time.Time, _ *run.Recovered, _ error) {
	o := run.RecoverOptions{Decision: &d, Bundle: func(context.Context) (*bundle.Bundle, error) { return m.bundle, nil },
		Confirm: func(*run.Work, *recovery.Judgment) error { decided = time.Now(); return nil }}
	e, err := m.examined(ctx, o)
	if err != nil {
		return decided, nil, err
	}
	defer e.Close()
	out, err := e.Recover(ctx, o)
	return decided, out, err
}

// examined examines what is left until nothing stands in the way of the decision, and returns the engine that did.
func (m *machinery) examined(ctx context.Context, o run.RecoverOptions) (*run.Engine, error) {
	limited, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the quorum cannot be recovered within %s", patience))
	defer cancel()
	for {
		e := run.Open(ctx, m.cluster, progress.Discard) // it outlives the limit
		obstacles := e.Examine(limited, o).Judgment().Obstacles
		if limited.Err() == nil && len(obstacles) == 0 {
			return e, nil
		}
		e.Close()
		if err := sleep(limited, time.Second); err != nil {
			var why []string
			for _, obstacle := range obstacles {
				why = append(why, obstacle.Why)
			}
			return nil, fmt.Errorf("%w; last: %s", err, strings.Join(why, "; "))
		}
	}
}
