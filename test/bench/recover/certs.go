package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
)

// certificateFigures are those of one change of certificates or keys.
type certificateFigures struct {
	Change  string  `json:"change"`
	Seconds float64 `json:"seconds"`
	// Requests were sent by all clients meanwhile, and Failed of them failed: 0 is expected.
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Why counts failures by client and reason.
	Why map[string]int `json:"why,omitempty"`
	// LostWrites were acknowledged and are missing.
	LostWrites int `json:"lostWrites"`
	// Invalid is why the figures do not tell the whole truth; empty if they do.
	Invalid []string `json:"invalid,omitempty"`
}

// certificates renews the certificates of a cluster and rotates its authorities, while clients use it.
func certificates(ctx context.Context, o options) (any, error) {
	all := []certificateFigures{}
	err := inLab(ctx, whole, func(m *machinery) error {
		said("certs: building a cluster")
		if err := m.apply(ctx); err != nil {
			return err
		}
		fmt.Printf("%-32s %10s %10s %10s %10s\n", "change", "took", "requests", "failed", "lost")
		measure := func(change string, do func(context.Context, *run.Engine) error) error {
			said("certs: %s", change)
			f, err := m.measure(ctx, o, do)
			if err != nil {
				return fmt.Errorf("%s: %w", change, err)
			}
			f.Change = change
			f.print()
			all = append(all, f)
			return nil
		}
		if err := measure("renew", func(ctx context.Context, e *run.Engine) error {
			_, err := e.Renew(ctx)
			return err
		}); err != nil {
			return err
		}
		for _, a := range o.authorities {
			if err := measure("rotate "+string(a)+": trust, sign", rotation(a, run.RotateOptions{}, false)); err != nil {
				return err
			}
			// Clients that have only what the old key signed are refused from now on. Those of the next measurement begin with what the new key signed.
			if err := measure("rotate "+string(a)+": drop", rotation(a, run.RotateOptions{Drop: true, SkipWorkloads: true}, true)); err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

// rotation runs a rotation up to where it waits for the user, or to its end.
func rotation(a facts.Authority, o run.RotateOptions, complete bool) func(context.Context, *run.Engine) error {
	return func(ctx context.Context, e *run.Engine) error {
		r, err := e.RotateAuthority(ctx, a, o)
		if err == nil && r.Complete != complete {
			err = fmt.Errorf("it ends after the stages %v, complete: %t; it waits for: %s", r.Stages, r.Complete, r.Waits)
		}
		return err
	}
}

// measure counts what clients experience of a change. They start before it, and end after it.
func (m *machinery) measure(ctx context.Context, o options, do func(context.Context, *run.Engine) error) (f certificateFigures, err error) {
	l, err := m.use(ctx, o, true)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, l.stop(ctx, err != nil)) }() // after an error, nothing else is measured
	if omitted := l.clients.Omitted(); len(omitted) > 0 {
		return f, fmt.Errorf("clients do not run: %q", omitted)
	}
	calm, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.clients.Calm(calm, quiet); err != nil {
		return f, err
	}
	e := run.Open(ctx, m.cluster, progress.Discard)
	defer e.Close()
	begin := time.Now()
	if err := do(ctx, e); err != nil {
		return f, err
	}
	f.Seconds = round(time.Since(begin))
	if err := sleep(ctx, aftermath); err != nil {
		return f, err
	}
	end := time.Now()
	s, err := l.clients.Summary(ctx, begin, end)
	if err != nil {
		f.Invalid = append(f.Invalid, err.Error())
	}
	f.Requests, f.Failed, f.Why = failures(s.Results(), s.Excused(true))
	f.Invalid = append(f.Invalid, l.clients.Starved(ctx, begin, end, nil)...)
	f.LostWrites, _, _, err = l.clients.Lost(ctx)
	return f, err
}

func (f certificateFigures) print() {
	fmt.Printf("%-32s %8.1f s %10d %10d %10d\n", f.Change, f.Seconds, f.Requests, f.Failed, f.LostWrites)
	for _, why := range slices.Sorted(maps.Keys(f.Why)) {
		fmt.Printf("  failed: %d× %s\n", f.Why[why], why)
	}
	for _, why := range f.Invalid {
		fmt.Printf("  not valid: %s\n", why)
	}
}
