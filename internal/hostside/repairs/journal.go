// Package repairs is the host's part of repairs: the journal of what was tried here and how it ended, and what is done only by repairs.
package repairs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

// JournalFile remembers what was tried on a host. It is where the host's other state is, so that it survives a restart, and so that
// whoever repairs next (another machine, another control plane) finds it.
const JournalFile = "/var/lib/quorate/repairs.json"

const (
	// kept is for how long attempts are remembered, and keptMost how many of them.
	kept     = 7 * 24 * time.Hour
	keptMost = 200
	// window is the time in which attempts are limited.
	window = time.Hour
	// firstPause is the pause after the first attempt within the window. Each further attempt doubles it.
	firstPause = 30 * time.Second
)

// Attempt is one repair that was tried.
type Attempt struct {
	Repair  string    `json:"repair"`
	Problem string    `json:"problem"`
	How     string    `json:"how,omitempty"` // what was done, where one problem has several remedies
	By      string    `json:"by"`            // who did it
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended,omitzero"`
	// Error is why it failed. It is empty if it succeeded, or did not end.
	Error string `json:"error,omitempty"`
	// Made says that all of its steps were made, whether they helped or not.
	Made bool `json:"made,omitempty"`
	// Dropped says to EndAttempt that nothing was done, because another host limits the repair: the attempt does not count.
	Dropped bool `json:"dropped,omitempty"`
}

// Begin asks for an attempt.
type Begin struct {
	Attempt
	// AnHour is how many attempts are allowed in an hour.
	AnHour int `json:"anHour"`
	// Ask only asks, and notes nothing.
	Ask bool `json:"ask,omitempty"`
}

// Decision says whether an attempt may be made.
type Decision struct {
	// Wait is for how long it may not, and Until is when that ends, by the clock of the host: it stays the same however often somebody asks.
	// Tried is how often it was tried within an hour, and Last why the last attempt failed.
	Wait  time.Duration `json:"waitNanoseconds"`
	Until time.Time     `json:"until,omitzero"`
	Tried int           `json:"tried"`
	Last  string        `json:"last,omitempty"`
}

// BeginAttempt notes an attempt before it is made, unless there were too many, or one a moment ago.
var BeginAttempt = host.Define("repairs.begin", func(_ context.Context, in Begin) (Decision, error) {
	return journal{JournalFile}.begin(in, time.Now())
})

// EndAttempt notes how the last attempt of a repair ended.
var EndAttempt = host.Define("repairs.end", func(_ context.Context, in Attempt) (struct{}, error) {
	return struct{}{}, journal{JournalFile}.end(in, time.Now())
})

// ReadJournal returns what was tried on this host in the last days, the oldest first.
var ReadJournal = host.Define("repairs.journal", func(context.Context, struct{}) ([]Attempt, error) {
	return journal{JournalFile}.read()
})

type journal struct{ path string }

func (j journal) read() (out []Attempt, _ error) {
	text, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return []Attempt{}, nil
	}
	if err != nil {
		return nil, err
	}
	// A journal that cannot be read limits nothing any more, and must not keep a cluster from being repaired.
	if json.Unmarshal(text, &out) != nil {
		return []Attempt{}, nil
	}
	return out, nil
}

func (j journal) write(all []Attempt, now time.Time) error {
	for len(all) > 0 && (len(all) > keptMost || now.Sub(all[0].Began) > kept) {
		all = all[1:]
	}
	text, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(j.path), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(j.path, text, 0o600)
}

func (j journal) begin(in Begin, now time.Time) (Decision, error) {
	all, err := j.read()
	if err != nil {
		return Decision{}, err
	}
	d := decide(all, in.Repair, in.AnHour, now)
	if d.Wait > 0 || in.Ask {
		return d, nil
	}
	in.Began, in.Ended, in.Error, in.Made = now.UTC(), time.Time{}, "", false
	return d, j.write(append(all, in.Attempt), now)
}

// decide says how long an attempt has to wait. Attempts that the clock puts into the future do not count.
func decide(all []Attempt, repair string, anHour int, now time.Time) (d Decision) {
	var recent []Attempt
	for _, a := range all {
		if ago := now.Sub(a.Began); a.Repair == repair && ago >= 0 && ago < window {
			recent = append(recent, a)
		}
	}
	d.Tried = len(recent)
	if d.Tried == 0 {
		return d
	}
	last := recent[len(recent)-1]
	d.Last = last.Error
	d.Until = last.Began.Add(firstPause << (d.Tried - 1))
	if d.Tried >= anHour {
		if free := recent[d.Tried-anHour].Began.Add(window); free.After(d.Until) {
			d.Until = free
		}
	}
	if d.Wait = d.Until.Sub(now); d.Wait <= 0 {
		d.Wait, d.Until = 0, time.Time{}
	}
	return d
}

func (j journal) end(in Attempt, now time.Time) error {
	all, err := j.read()
	if err != nil {
		return err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Repair == in.Repair && all[i].Ended.IsZero() {
			if in.Dropped {
				return j.write(slices.Delete(all, i, i+1), now)
			}
			all[i].Ended, all[i].Error, all[i].Made = now.UTC(), in.Error, in.Made
			return j.write(all, now)
		}
	}
	return fmt.Errorf("noting how the repair %s ended: it did not begin here", in.Repair)
}

// Tried are the repairs that were made on this host, of those that have several remedies: each remedy once, with how long ago it last ended. root
// is empty for the host itself, or a directory in tests.
func Tried(root string, now time.Time) (out []facts.Tried) {
	all, err := journal{filepath.Join(root, JournalFile)}.read()
	if err != nil {
		return nil // nothing is known
	}
	for _, a := range slices.Backward(all) {
		ago := now.Sub(a.Ended)
		known := slices.ContainsFunc(out, func(t facts.Tried) bool { return t.Repair == a.Repair && t.How == a.How })
		if a.How == "" || !a.Made || ago < 0 || known {
			continue
		}
		out = append(out, facts.Tried{Repair: a.Repair, How: a.How, AgoSeconds: int64(ago.Seconds())})
	}
	return out
}
