// Package dashboard shows a cluster in a browser, on one page that is kept up to date. Of makes the model of the page from what was observed, and is
// pure. Page.Snapshot renders it as a page that needs nothing else, and Page.parts its parts, with the same template. Feed observes again and again, and
// Server serves what it last found.
package dashboard

import (
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/plan"
)

// Input is everything that a page shows.
type Input struct {
	// State is the last one that says anything; nil if there was none yet.
	State *cluster.State
	// Stale is set if later observations failed.
	Stale *Stale
	// Plan is what apply would do, Repairs what was repaired, and Changes the findings that came and went since Since: a snapshot has none.
	Plan    Planned
	Repairs Repairs
	Changes []Change
	Since   time.Time
	// Drills are reports that the user gave, in any order.
	Drills []Drill
}

// Stale says that nothing is known of the cluster since a moment, and why.
type Stale struct {
	Since time.Time
	Why   string
}

// Planned is a plan, a refusal, or why neither is known.
type Planned struct {
	Plan    *plan.Plan
	Refused *cluster.Refusal
	Unknown string
}

// Repairs are what is known of repairs, the newest first.
type Repairs struct {
	All []Repair
	// Unknown are the hosts that could not be asked, with the reason; the API has an empty name.
	Unknown map[string]string
}

// Repair is one repair that was tried, or that was due and not made (Held).
type Repair struct {
	// Name is that of the repair, and Problem what was wrong. Of one that was not made, Problem is all that is known, in words.
	Name, Problem string
	Hosts         []string
	By            string
	Began, Ended  time.Time // not ended: it is being made, or was cut short
	Error         string
	Held          bool
}

// Change is a finding that came, or that is gone. Unknown says of one that is gone that it may only be hidden: it is about a host that cannot be queried.
type Change struct {
	At            time.Time
	Finding       cluster.Finding
	Gone, Unknown bool
}

// Drill is the report of a drill, with the name of its file.
type Drill struct {
	File   string
	Report *drill.Report
}

// Changes are the findings that differ between two observations. A finding is the same one as long as its rule and its subjects are, whatever figures
// its summary has. Those that are for information only are left out.
func Changes(before, after []cluster.Finding, at time.Time) (out []Change) {
	index := func(all []cluster.Finding) map[string]bool {
		known := map[string]bool{}
		for _, f := range all {
			known[identity(f)] = true
		}
		return known
	}
	was, is := index(before), index(after)
	add := func(all []cluster.Finding, but map[string]bool, gone bool) {
		for _, f := range all {
			if f.Severity != cluster.Info && !but[identity(f)] {
				out = append(out, Change{At: at, Finding: f, Gone: gone})
			}
		}
	}
	add(after, was, false)
	add(before, is, true)
	return out
}
