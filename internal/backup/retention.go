package backup

import (
	"fmt"
	"time"
)

// Retention says which backups are kept.
type Retention struct {
	// Last is how many of the newest are kept, Daily for how many days the last one of the day, and Weekly for how many weeks the
	// last one of the week. Days and weeks without a backup do not count.
	Last   int `json:"last"`
	Daily  int `json:"daily"`
	Weekly int `json:"weekly"`
}

// Expired returns those backups of a cluster that are no longer kept, after one was taken. That one is always kept. Backups that are
// dated later were dated by a wrong clock, now or then: they are kept, and keep no other from being kept. Days are those of UTC, and weeks
// begin on Monday.
func (r Retention) Expired(backups []Entry, taken Name) []Entry {
	var all []Entry
	for _, b := range backups {
		if b.Same(taken) && !b.Time.After(taken.Time) {
			all = append(all, b)
		}
	}
	Newest(all)
	days, weeks := map[string]bool{}, map[string]bool{}
	var out []Entry
	for i, b := range all {
		keep := i < max(r.Last, 1) || b.Name.String() == taken.String()
		if day := b.Time.UTC().Format(time.DateOnly); !days[day] && len(days) < r.Daily {
			days[day], keep = true, true
		}
		year, week := b.Time.UTC().ISOWeek()
		if w := fmt.Sprintf("%d-%d", year, week); !weeks[w] && len(weeks) < r.Weekly {
			weeks[w], keep = true, true
		}
		if !keep {
			out = append(out, b)
		}
	}
	return out
}
