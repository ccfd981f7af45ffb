package cluster

import (
	"cmp"
	"slices"
	"time"
)

// Clock is one host's clock, as it was read.
type Clock struct {
	Host string
	// Ahead is how far the clock is ahead of a reference that is the same for all clocks.
	Ahead time.Duration
	// Uncertainty is how wrong Ahead can be, because the host took time to answer.
	Uncertainty time.Duration
}

// Beyond says that the clock is off by more than the limit, whatever the uncertainty.
func (c Clock) Beyond(limit time.Duration) bool { return c.Ahead.Abs()-c.Uncertainty > limit }

// Direction says in words on which side of the others the clock is.
func (c Clock) Direction() string {
	if c.Ahead < 0 {
		return "behind"
	}
	return "ahead of"
}

// Skews returns the clocks with Ahead counted from their median, and the median. The median is right unless most of the
// clocks are wrong.
func Skews(clocks []Clock) (skews []Clock, median time.Duration) {
	if len(clocks) == 0 {
		return nil, 0
	}
	sorted := slices.SortedFunc(slices.Values(clocks), func(a, b Clock) int { return cmp.Compare(a.Ahead, b.Ahead) })
	median = sorted[(len(sorted)-1)/2].Ahead
	skews = slices.Clone(clocks)
	for i := range skews {
		skews[i].Ahead -= median
	}
	return skews, median
}

// answerTime is longer than a host may take to answer an observation. Clocks that differ by less may only have been read
// later.
const answerTime = 6 * time.Second

// clocks are the hosts' clocks as the observation found them.
func (s *State) clocks() (out []Clock) {
	for _, h := range s.Spec.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil && !f.Time.IsZero() {
			out = append(out, Clock{Host: h.Name, Ahead: f.Time.Sub(s.Seen.Time), Uncertainty: answerTime})
		}
	}
	return out
}
