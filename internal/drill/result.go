package drill

import (
	"time"

	"quorate.dev/quorate/internal/drill/probe"
)

// ResultOf combines what the clients of one kind experienced: the longest gap and the most disrupted second count of any of them, and requests of all
// of them. before and after are the same clients in the intervals before and after a fault.
func ResultOf(before, during, after []probe.Result) ClientResult {
	out := ClientResult{Phases: map[probe.Phase]int{}, Errors: map[string]int{}, Before: latency(before), During: latency(during), After: latency(after)}
	for _, r := range during {
		out.Requests += r.Requests
		out.Failed += r.Failed
		out.GapMs = max(out.GapMs, r.Longest.Milliseconds())
		out.DisruptionSeconds = max(out.DisruptionSeconds, r.Disruption)
		for phase, n := range r.Phases {
			out.Phases[phase] += n
		}
		for text, n := range r.Errors {
			out.Errors[text] += n
		}
	}
	return out
}

// latency combines the latencies of several clients.
func latency(results []probe.Result) Latency {
	all, slowest := probe.Latencies{}, time.Duration(0)
	for _, r := range results {
		all.Add(r.Latencies)
		slowest = max(slowest, r.Slowest)
	}
	ms := func(d time.Duration) float64 {
		return float64(min(d, slowest).Round(100*time.Microsecond)) / float64(time.Millisecond)
	}
	return Latency{P50: ms(all.Quantile(0.5)), P99: ms(all.Quantile(0.99)), Max: ms(slowest)}
}
