package probe

import (
	"slices"
	"testing"
	"time"
)

var zero = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(ms int) time.Time { return zero.Add(time.Duration(ms) * time.Millisecond) }

func ok(sent, ended int) request { return request{sent: at(sent), ended: at(ended)} }

func failed(sent, ended int) request {
	return request{sent: at(sent), ended: at(ended), failure: failure{Header, TimedOut}}
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		requests         []request
		from, to         int
		sent, failed     int
		longest, beginAt int
	}{
		"nothing was sent": {
			from: 0, to: 1000, longest: 1000, beginAt: 0,
		},
		"a healthy endpoint: the gap is the pace": {
			requests: []request{ok(0, 5), ok(50, 55), ok(100, 105), ok(150, 155)},
			from:     60, to: 160, sent: 2, longest: 50, beginAt: 55,
		},
		"an outage in the middle": {
			requests: []request{ok(0, 5), ok(50, 55), failed(100, 2100), failed(150, 160), ok(200, 900), ok(900, 905)},
			from:     60, to: 950, sent: 4, failed: 2, longest: 845, beginAt: 55,
		},
		"it began before the stretch": {
			requests: []request{ok(0, 10), failed(50, 51), failed(100, 101), ok(400, 410), ok(450, 460)},
			from:     80, to: 480, sent: 3, failed: 1, longest: 400, beginAt: 10,
		},
		"it is not over yet": {
			requests: []request{ok(0, 5), ok(50, 55), failed(100, 101)},
			from:     20, to: 2000, sent: 2, failed: 1, longest: 1945, beginAt: 55,
		},
		"it was over before": {
			requests: []request{ok(0, 5), ok(800, 805), ok(850, 855), ok(900, 905)},
			from:     810, to: 910, sent: 2, longest: 50, beginAt: 805,
		},
		"an answer after the stretch does not shorten it": {
			requests: []request{ok(0, 5), ok(50, 1500)},
			from:     10, to: 1000, sent: 1, longest: 995, beginAt: 5,
		},
		"answers overtake each other": {
			requests: []request{ok(0, 900), ok(50, 60), ok(100, 700), ok(650, 655)},
			from:     0, to: 900, sent: 4, longest: 595, beginAt: 60,
		},
		"failures that are quick are failures all the same": {
			requests: []request{ok(0, 1), failed(50, 51), failed(100, 101), failed(150, 151), ok(200, 201)},
			from:     0, to: 210, sent: 5, failed: 3, longest: 200, beginAt: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			slices.SortFunc(c.requests, func(a, b request) int { return a.ended.Compare(b.ended) })
			r := record{ended: c.requests}
			got := r.between(at(c.from), at(c.to))
			if got.Requests != c.sent || got.Failed != c.failed || got.Errors["timeout"] != c.failed {
				t.Errorf("%d sent, %d failed (%v), want %d, %d", got.Requests, got.Failed, got.Errors, c.sent, c.failed)
			}
			if want := at(c.longest).Sub(zero); got.Longest != want || !got.Since.Equal(at(c.beginAt)) {
				t.Errorf("longest gap %s since %s, want %s since %s", got.Longest, got.Since.Sub(zero), want, at(c.beginAt).Sub(zero))
			}
			var ends []time.Time // of the requests that failed
			for _, r := range c.requests {
				if r.failure.text != "" && !r.sent.Before(at(c.from)) && r.sent.Before(at(c.to)) {
					ends = append(ends, r.ended)
				}
			}
			if len(ends) == 0 {
				ends = []time.Time{{}}
			}
			if first, last := ends[0], ends[len(ends)-1]; !got.FirstFailed.Equal(first) || !got.LastFailed.Equal(last) {
				t.Errorf("requests failed from %s to %s, want %s to %s", got.FirstFailed, got.LastFailed, first, last)
			}
			if whole := judge(c.requests, at(c.from), at(c.to)); whole.Longest != got.Longest || whole.Requests != got.Requests {
				t.Errorf("with all that was ever sent: %+v, with what matters: %+v", whole, got)
			}
		})
	}
}

func TestWorst(t *testing.T) {
	got := Worst([]Outage{
		{Requests: 10, Failed: 1, Longest: time.Second, Since: at(1), FirstFailed: at(5), LastFailed: at(5), Errors: map[string]int{"timeout": 1}},
		{Requests: 11, Failed: 3, Longest: 3 * time.Second, Since: at(2), FirstFailed: at(2), LastFailed: at(4), Errors: map[string]int{"timeout": 2, "connection closed": 1}},
		{Requests: 12, Longest: 2 * time.Second, Since: at(3)},
	})
	if got.Requests != 33 || got.Failed != 4 || got.Longest != 3*time.Second || !got.Since.Equal(at(2)) || got.Errors["timeout"] != 3 {
		t.Errorf("got %+v", got)
	}
	if !got.FirstFailed.Equal(at(2)) || !got.LastFailed.Equal(at(5)) {
		t.Errorf("requests failed from %s to %s", got.FirstFailed, got.LastFailed)
	}
}

func TestMissing(t *testing.T) {
	got := missing([]int{0, 1, 2, 10}, slices.Values([]string{"1", "7", "10"}))
	if !slices.Equal(got, []int{0, 2}) {
		t.Errorf("got %v", got)
	}
}
