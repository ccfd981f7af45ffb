package drill

import (
	"slices"

	"quorate.dev/quorate/internal/facts"
)

// linearizable says in Ledger.Linearizable that some order of all reads and writes explains what clients have seen. Every other value
// means that there is none, or that it is not known.
const linearizable = "yes"

// Summarize computes the summaries over the repeats of each fault, in the order in which the faults were first injected, and whether
// the drill as a whole has passed.
func (r *Report) Summarize() {
	r.Summaries = nil
	gaps := map[string]map[string][]int64{} // by fault and client
	for _, o := range r.Faults {
		i := slices.IndexFunc(r.Summaries, func(s Summary) bool { return s.Name == o.Name })
		if i < 0 {
			i = len(r.Summaries)
			r.Summaries = append(r.Summaries, Summary{Name: o.Name})
			gaps[o.Name] = map[string][]int64{}
		}
		s := &r.Summaries[i]
		s.Repeats++
		if o.Pass {
			s.Passed++
		}
		if len(o.Invalid) > 0 {
			continue
		}
		s.Valid++
		for kind, c := range o.Clients {
			gaps[o.Name][kind] = append(gaps[o.Name][kind], c.GapMs)
		}
	}
	for i := range r.Summaries {
		s := &r.Summaries[i]
		s.Gaps = map[string]Spread{}
		for kind, all := range gaps[s.Name] {
			s.Gaps[kind] = spread(all)
		}
	}
	r.Pass = r.passed()
}

// passed says that something was proven, that nothing speaks against it, and that nothing is missing.
func (r *Report) passed() bool {
	for _, o := range r.Faults {
		if !o.Pass {
			return false
		}
	}
	l := r.Ledger
	return len(r.Faults) > 0 && r.Interrupted == "" && l.Lost == 0 && l.WatchGaps == 0 && l.Linearizable == linearizable
}

// spread computes nearest ranks: each of them is a figure that was measured.
func spread(all []int64) Spread {
	all = slices.Sorted(slices.Values(all))
	rank := func(percent int) int64 { return all[(len(all)*percent+99)/100-1] }
	return Spread{P50: rank(50), P95: rank(95), Max: rank(100)}
}

// Note is what the cluster remembers of the drill. The summaries must have been computed.
func (r *Report) Note() facts.LastDrill {
	out := facts.LastDrill{Ended: r.Ended.UTC(), Pass: r.Pass, Interrupted: r.Interrupted, Lost: r.Ledger.Lost, Faults: map[string]facts.DrillVerdicts{}}
	for _, s := range r.Summaries {
		out.Faults[s.Name] = facts.DrillVerdicts{Passed: s.Passed, Missed: s.Valid - s.Passed, Invalid: s.Repeats - s.Valid}
	}
	return out
}
