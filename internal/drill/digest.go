package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Digest is a report in a few figures, for a list of several.
type Digest struct {
	Began, Ended time.Time
	// Word is the verdict, and Class is good, warn, or bad.
	Word, Class string
	// Kept is how many of the faults kept their objective.
	Kept   int
	Faults []DigestFault
	// Lost is how many of the acknowledged writes were lost.
	Acknowledged, Lost int
	Linearizable       string
	// Interrupted is why the drill ended early; empty if it did not.
	Interrupted string
}

// DigestFault is one fault in a digest. Its outage is the longest time for which clients of the endpoint got no answer; Client is the kind of
// client whose time that is, and empty if there was none.
type DigestFault struct {
	Name, Target string
	Client       string
	Outage       time.Duration
	Verdict      string
	Class        string
}

// Digest summarizes a report.
func (r *Report) Digest() Digest {
	verdict := r.htmlVerdict()
	d := Digest{Began: r.Began, Ended: r.Ended, Word: verdict.Word, Class: verdict.Class, Acknowledged: r.Ledger.Acknowledged, Lost: r.Ledger.Lost,
		Linearizable: r.Ledger.Linearizable, Interrupted: r.Interrupted}
	d.Kept, _, _ = r.htmlCounts()
	for _, o := range r.Faults {
		f := DigestFault{Name: o.Name, Target: o.Target}
		f.Verdict, f.Class = htmlJudgement(o)
		if kind, c, found := worstClient(o, outside); found {
			f.Client, f.Outage = kind, time.Duration(c.GapMs)*time.Millisecond
		}
		d.Faults = append(d.Faults, f)
	}
	return d
}

// Longest is the fault with the longest outage, of those that could be judged; false if there is none.
func (d Digest) Longest() (longest DigestFault, found bool) {
	for _, f := range d.Faults {
		if f.Class != "warn" && f.Client != "" && (!found || f.Outage > longest.Outage) {
			longest, found = f, true
		}
	}
	return longest, found
}

// ParseReport reads a report that `quorate drill --json` has written.
func ParseReport(data []byte) (*Report, error) {
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("it is no report of a drill: %w", err)
	}
	if r.Cluster == "" || r.Began.IsZero() {
		return nil, errors.New("it is no report of a drill: it does not say of which cluster, and when it began")
	}
	return &r, nil
}
