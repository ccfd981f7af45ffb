package facts

import "time"

// Durations are how long something took that happened many times: a histogram of Prometheus'.
type Durations struct {
	// Count is how often it happened, and Seconds how long it took altogether.
	Count   uint64  `json:"count"`
	Seconds float64 `json:"seconds"`
	// Within are how often it took no longer than a time, for several times in ascending order.
	Within []Within `json:"within,omitempty"`
}

// Within counts what took no longer than a time.
type Within struct {
	Seconds float64 `json:"seconds"`
	Count   uint64  `json:"count"`
}

// Quantile is within how long a part of them was done, from 0 to 1. It is estimated between two times of Within as Prometheus does; the last of these stands for
// everything beyond it. It is 0 if nothing was counted.
func (d Durations) Quantile(part float64) time.Duration {
	rank := part * float64(d.Count)
	var from, below float64
	for _, w := range d.Within {
		if n := float64(w.Count); n >= rank && n > below {
			return time.Duration((from + (w.Seconds-from)*(rank-below)/(n-below)) * float64(time.Second))
		}
		from, below = w.Seconds, float64(w.Count)
	}
	return time.Duration(from * float64(time.Second))
}
