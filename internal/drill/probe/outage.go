package probe

import (
	"slices"
	"time"
)

// Outage is what one kind of client met in a stretch of time.
type Outage struct {
	// Requests were sent in that time, and Failed of them failed.
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	// Longest is the longest time between two successes: what an outage cost, and never less than the pace of the
	// requests. It began at Since.
	Longest time.Duration `json:"longestNanoseconds"`
	Since   time.Time     `json:"since"`
	// Errors counts the failures by what they were.
	Errors map[string]int `json:"errors,omitempty"`
}

// request is one that has ended. Its failure is empty when it succeeded.
type request struct {
	sent, ended time.Time
	failure     string
}

// judge says what the requests tell of the time from one moment to another. A success proves the service at the moment
// of its answer. The last one before the stretch is where the first gap begins; a gap that is still open when the
// stretch ends counts as far as it has come.
func judge(requests []request, from, to time.Time) Outage {
	out := Outage{Errors: map[string]int{}}
	var answers []time.Time
	last := from
	for _, r := range requests {
		if !r.sent.Before(from) && !r.sent.After(to) {
			out.Requests++
			if r.failure != "" {
				out.Failed++
				out.Errors[r.failure]++
			}
		}
		switch {
		case r.failure != "" || r.ended.After(to):
		case r.ended.After(from):
			answers = append(answers, r.ended)
		case last == from || r.ended.After(last):
			last = r.ended
		}
	}
	// Requests overlap, so answers come in another order than they were asked for.
	slices.SortFunc(answers, time.Time.Compare)
	for _, answer := range append(answers, to) {
		if gap := answer.Sub(last); gap > out.Longest {
			out.Longest, out.Since = gap, last
		}
		last = answer
	}
	return out
}

// worst joins what several connections of one kind met: their requests together, and the gap of the one that was worst off.
func worst(outages []Outage) Outage {
	all := Outage{Errors: map[string]int{}}
	for _, o := range outages {
		all.Requests += o.Requests
		all.Failed += o.Failed
		for failure, n := range o.Errors {
			all.Errors[failure] += n
		}
		if o.Longest > all.Longest {
			all.Longest, all.Since = o.Longest, o.Since
		}
	}
	return all
}
