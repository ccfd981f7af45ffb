package probe

import (
	"slices"
	"time"
)

// TimedOut describes in Outage.Errors a request that was not answered within the timeout.
const TimedOut = "timeout"

// ShuttingDown describes in Outage.Errors what an API server says at /readyz after it was told to stop and while it still serves.
const ShuttingDown = "shutting down"

// ComeAgain describes in Outage.Errors a request that was repeated as often as client-go repeats it, or until its time was over, and was
// still answered with 429 or 5xx and Retry-After: an API server that stops asks so for requests on connections that are still open.
const ComeAgain = "asked to repeat it"

// Outage is what one kind of client experienced in an interval.
type Outage struct {
	// Requests were sent in that interval, and Failed of them failed.
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Repeated were repeated because the API server asked for it, as client-go does without telling its user.
	Repeated int `json:"repeated,omitempty"`
	// Longest is the longest time between two successes, which is the length of an outage and never less than the pace of the
	// requests. It began at Since.
	Longest time.Duration `json:"longestNanoseconds"`
	Since   time.Time     `json:"since"`
	// Errors counts the failures by their description, and Phases by the part of the request in which they happened.
	Errors map[string]int `json:"errors,omitempty"`
	Phases map[Phase]int  `json:"phases,omitempty"`
	// FirstFailed and LastFailed are when the first and the last of the requests that failed ended. The longest gap may be at another time.
	FirstFailed time.Time `json:"firstFailed,omitzero"`
	LastFailed  time.Time `json:"lastFailed,omitzero"`
	// Disruption is the number of seconds in which a request failed that was sent once a second. With a timeout of 10 s (see
	// Options.SampleTimeout), it can be compared with what OpenShift publishes of its upgrades.
	Disruption int `json:"disruptionSeconds"`
	// Latencies are how long successful requests took, from the first attempt to the end of the answer. Slowest is the longest.
	Latencies Latencies     `json:"latencies,omitempty"`
	Slowest   time.Duration `json:"slowestNanoseconds,omitempty"`
	// Lag is by how much the process of the clients itself ran late at most. What they experienced is known no more precisely than that.
	Lag time.Duration `json:"lagNanoseconds,omitempty"`
}

// request is a finished request.
type request struct {
	sent, ended time.Time
	failure     failure
	disrupted   bool // it is the sample of its second, and failed
}

// judge evaluates the requests of an interval. A success proves that the service works at the moment of its answer. The first
// gap starts at the last success before the interval; a gap that is still open when the interval ends counts up to that
// moment.
func judge(requests []request, from, to time.Time) Outage {
	out := Outage{Errors: map[string]int{}, Phases: map[Phase]int{}, Latencies: Latencies{}}
	var answers []time.Time
	last := from
	for _, r := range requests {
		if !r.sent.Before(from) && r.sent.Before(to) {
			out.Requests++
			if r.failure.text != "" {
				out.Failed++
				out.Errors[r.failure.text]++
				out.Phases[r.failure.phase]++
				out.failedAt(r.ended, r.ended)
				if r.disrupted {
					out.Disruption++
				}
			} else if took := r.ended.Sub(r.sent); took > 0 { // an event of a watch has no request of its own
				out.Latencies.add(took)
				out.Slowest = max(out.Slowest, took)
			}
		}
		switch {
		case r.failure.text != "" || r.ended.After(to):
		case r.ended.After(from):
			answers = append(answers, r.ended)
		case last == from || r.ended.After(last):
			last = r.ended
		}
	}
	// Requests overlap, so answers arrive in a different order.
	slices.SortFunc(answers, time.Time.Compare)
	for _, answer := range append(answers, to) {
		if gap := answer.Sub(last); gap > out.Longest {
			out.Longest, out.Since = gap, last
		}
		last = answer
	}
	return out
}

// failedAt notes requests that failed, the first and the last of them at these moments.
func (o *Outage) failedAt(first, last time.Time) {
	if o.FirstFailed.IsZero() || first.Before(o.FirstFailed) {
		o.FirstFailed = first
	}
	if last.After(o.LastFailed) {
		o.LastFailed = last
	}
}

// Worst combines several connections of one kind: the sum of their requests, and the longest gap of any of them.
func Worst(outages []Outage) Outage {
	all := Outage{Errors: map[string]int{}, Phases: map[Phase]int{}, Latencies: Latencies{}}
	for _, o := range outages {
		all.Requests += o.Requests
		all.Failed += o.Failed
		all.Disruption += o.Disruption
		all.Repeated += o.Repeated
		if o.Failed > 0 {
			all.failedAt(o.FirstFailed, o.LastFailed)
		}
		all.Slowest = max(all.Slowest, o.Slowest)
		all.Lag = max(all.Lag, o.Lag)
		all.Latencies.Add(o.Latencies)
		for text, n := range o.Errors {
			all.Errors[text] += n
		}
		for phase, n := range o.Phases {
			all.Phases[phase] += n
		}
		if o.Longest > all.Longest {
			all.Longest, all.Since = o.Longest, o.Since
		}
	}
	return all
}
