package scale

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// FailOptions are how simulated nodes fail.
type FailOptions struct {
	// Duration is for how long there are failures. Percent of the nodes, and at least one, fail together Every so often, and each time For so
	// long.
	Duration, Every, For time.Duration
	Percent              float64
	// Seed decides which nodes fail.
	Seed uint64
}

// FailuresReport is how the control plane noticed failures, and that they were over.
type FailuresReport struct {
	Failures int `json:"failures"` // of nodes
	// Noticed is how long it took until the nodes that fell silent together were all not ready, and Back until they were ready again.
	Noticed Quantiles `json:"noticed"`
	Back    Quantiles `json:"back"`
	// Replaced is how long the pods took that were created meanwhile, in place of those on failed nodes.
	Replaced Quantiles `json:"replaced"`
}

// noticeTimeout is how long a failure may take until it is noticed, and its end: longer than the failover profile standard needs.
const noticeTimeout = 3 * time.Minute

// restoreTimeout is how long it may take to end a failure when the run is interrupted.
const restoreTimeout = time.Minute

// Fail has simulated nodes fall silent and come back until the duration is over. However it ends, all of them run.
func (s *Scaler) Fail(ctx context.Context, o FailOptions) (FailuresReport, error) {
	var r FailuresReport
	have, err := s.simulated(ctx)
	if err != nil {
		return r, err
	}
	if len(have) == 0 {
		return r, errors.New("there are no simulated nodes that could fail")
	}
	names := slices.Sorted(maps.Keys(have))
	if err := s.await(ctx, names, true); err != nil { // or what is not ready already would count as noticed
		return r, fmt.Errorf("the simulated nodes are not all ready: %w", err)
	}
	begin, chance := time.Now(), rand.New(rand.NewPCG(o.Seed, o.Seed))
	watching, end := context.WithCancel(ctx)
	defer end()
	t := newTracker()
	if err := watch(watching, s.Client, t); err != nil {
		return r, err
	}
	var noticed, back []time.Duration
	for next := begin; time.Since(begin) < o.Duration; next = next.Add(o.Every) {
		if err := pause(ctx, time.Until(next)); err != nil {
			return r, err
		}
		chance.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		chosen := names[:failing(len(names), o.Percent)]
		n, b, err := s.failOnce(ctx, chosen, o.For)
		r.Failures += len(chosen)
		if err != nil {
			return r, err
		}
		noticed, back = append(noticed, n), append(back, b)
		s.note("scale/failures", "%d nodes were silent, which took %s to be noticed; they are back after %s", len(chosen), n.Round(100*time.Millisecond), b.Round(100*time.Millisecond))
	}
	r.Noticed, r.Back = quantiles(noticed), quantiles(back)
	_, r.Replaced, _ = t.measured(begin)
	return r, nil
}

// failing is how many of the nodes fail together.
func failing(nodes int, percent float64) int {
	return min(nodes, max(1, int(math.Round(float64(nodes)*percent/100))))
}

func pause(ctx context.Context, d time.Duration) error {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-wait.C:
		return nil
	}
}

// failOnce has nodes fall silent for a while.
func (s *Scaler) failOnce(ctx context.Context, names []string, lasts time.Duration) (noticed, back time.Duration, err error) {
	restore := func(ctx context.Context) error {
		return each(ctx, names, func(ctx context.Context, name string) error { return s.mark(ctx, name, running) })
	}
	over := false
	defer func() {
		if !over {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreTimeout)
			defer cancel()
			err = errors.Join(err, restore(ctx))
		}
	}()
	begin := time.Now()
	if err := each(ctx, names, func(ctx context.Context, name string) error { return s.mark(ctx, name, failed) }); err != nil {
		return 0, 0, fmt.Errorf("having nodes fail: %w", err)
	}
	if err := s.await(ctx, names, false); err != nil {
		return 0, 0, fmt.Errorf("%d nodes that are silent are not all noticed: %w", len(names), err)
	}
	noticed = time.Since(begin)
	if err := pause(ctx, lasts-noticed); err != nil {
		return noticed, 0, err
	}
	begin = time.Now()
	if err := restore(ctx); err != nil {
		return noticed, 0, fmt.Errorf("having nodes come back: %w", err)
	}
	over = true
	if err := s.await(ctx, names, true); err != nil {
		return noticed, 0, fmt.Errorf("%d nodes that are back are not all ready: %w", len(names), err)
	}
	return noticed, time.Since(begin), nil
}

// await waits until all of these nodes are ready, or none of them is.
func (s *Scaler) await(ctx context.Context, names []string, ready bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, noticeTimeout, fmt.Errorf("it takes longer than %s", noticeTimeout))
	defer cancel()
	return look(ctx, func(ctx context.Context) (bool, error) {
		have, err := s.simulated(ctx)
		if err != nil {
			return false, err
		}
		for _, name := range names {
			n := have[name]
			if n == nil {
				return true, fmt.Errorf("the simulated node %s is gone", name)
			}
			if nodeReady(n) != ready {
				return false, nil
			}
		}
		return true, nil
	})
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
