package probe

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Latencies count requests by how long they took: the key n stands for at most 1.1ⁿ milliseconds and more than 1.1ⁿ⁻¹. So a log of seconds
// stays short, and a quantile is at most a tenth too high.
type Latencies map[int]int

const step = 1.1

func (l Latencies) add(took time.Duration) {
	l[max(0, int(math.Ceil(math.Log(float64(took)/float64(time.Millisecond))/math.Log(step))))]++
}

// Add adds those of other requests.
func (l Latencies) Add(other Latencies) {
	for n, count := range other {
		l[n] += count
	}
}

// Quantile is the time within which the given part of the requests was answered: 0.5 is the median.
func (l Latencies) Quantile(part float64) time.Duration {
	all := 0
	for _, count := range l {
		all += count
	}
	seen := 0
	for _, n := range slices.Sorted(maps.Keys(l)) {
		if seen += l[n]; float64(seen) >= part*float64(all) {
			return time.Duration(math.Pow(step, float64(n)) * float64(time.Millisecond))
		}
	}
	return 0
}
