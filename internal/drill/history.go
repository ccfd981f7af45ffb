package drill

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/page"
	"quorate.dev/quorate/internal/ui"
)

const (
	// historyMost is how many drills a cluster remembers, and historyBytes how large they may be together: a ConfigMap must stay below 1 MiB.
	historyMost  = 20
	historyBytes = 640 << 10
	// recordBytes is how large one record may be, and reasonBytes how long its reason for an early end.
	recordBytes = 16 << 10
	reasonBytes = 1 << 10
	// entryTime begins the name of an entry, so that an entry that cannot be read has its place among the others.
	entryTime = "20060102T150405.000000000Z"
	// notKnown stands for what a record does not say.
	notKnown = "unknown"
)

// Record is what a cluster remembers of one drill. What it does not say is nil or empty, and is not known: an older Quorate stored less, and
// nothing else than a facts.LastDrill.
type Record struct {
	Began *time.Time `json:"began"`
	Ended *time.Time `json:"ended"`
	// Quorate and Kubernetes are the versions.
	Quorate    string `json:"quorate,omitempty"`
	Kubernetes string `json:"kubernetes,omitempty"`
	// Pass says that the drill as a whole passed. Interrupted is why it ended early.
	Pass        *bool  `json:"pass"`
	Interrupted string `json:"interrupted,omitempty"`
	// Lost is how many of the acknowledged writes were lost. WatchGaps and Linearizable are as in Ledger.
	Acknowledged *int   `json:"acknowledged"`
	Lost         *int   `json:"lost"`
	WatchGaps    *int   `json:"watchGaps"`
	Linearizable string `json:"linearizable,omitempty"`
	// Faults are the verdicts by the name of the fault. If there were too many names, they are by its first two parts: kind/target.
	Faults map[string]facts.DrillVerdicts `json:"faults"`
	// OutagesMs is the longest time between two successes by kind of client, over all faults that could be judged.
	OutagesMs map[string]int64 `json:"outagesMs"`

	// Unreadable is why the record cannot be read, and Entry its name in the ConfigMap. Neither is stored.
	Unreadable string `json:"unreadable,omitempty"`
	Entry      string `json:"entry,omitempty"`
}

// Record is what the history has of the drill. The summaries must have been computed.
func (r *Report) Record() Record {
	note, began, l := r.Note(), r.Began.UTC(), r.Ledger
	out := Record{Began: &began, Ended: &note.Ended, Quorate: strings.TrimSpace(r.Quorate), Kubernetes: r.Kubernetes, Pass: &note.Pass, Interrupted: cut(note.Interrupted, reasonBytes),
		WatchGaps: &l.WatchGaps, Linearizable: cut(l.Linearizable, reasonBytes), Faults: note.Faults, OutagesMs: map[string]int64{}}
	if l.Acknowledged > 0 || l.Lost > 0 { // otherwise no write was read back, and nobody knows whether one was lost
		out.Acknowledged, out.Lost = &l.Acknowledged, &l.Lost
	}
	for _, s := range r.Summaries {
		for kind, gap := range s.Gaps {
			out.OutagesMs[kind] = max(out.OutagesMs[kind], gap.Max)
		}
	}
	return out
}

// cut shortens a text to so many bytes.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}

// Remember returns the entries of the history with one more drill, and without those for which there is no room any more. last is the entry
// facts.DrillKey, which the drill is about to replace: an older Quorate stored nothing else, so that what it says is moved to the history first.
func Remember(entries map[string]string, last string, r Record) (map[string]string, error) {
	if r.Ended == nil {
		return nil, errors.New("the record of a drill does not say when the drill ended")
	}
	out := maps.Clone(entries)
	if out == nil {
		out = map[string]string{}
	}
	if last != "" && !remembered(entries, last) {
		// What cannot be read has no time of its own. It was there before this drill.
		at, text := r.Ended.Add(-time.Nanosecond), cut(last, recordBytes)
		if old := parseRecord(last); old.Unreadable == "" {
			at = *old.Ended
			if len(last) > recordBytes {
				var err error
				if text, err = old.text(); err != nil {
					return nil, err
				}
			}
		}
		out[entryName(at, text)] = text
	}
	text, err := r.text()
	if err != nil {
		return nil, err
	}
	name := entryName(*r.Ended, text)
	out[name] = text
	size := 0
	for key, value := range out {
		size += len(key) + len(value)
	}
	for _, oldest := range slices.Backward(newestFirst(out)) {
		if len(out) <= historyMost && size <= historyBytes {
			break
		}
		if oldest != name {
			size -= len(oldest) + len(out[oldest])
			delete(out, oldest)
		}
	}
	return out, nil
}

// Recall reads the history, the newest drill first. last is the entry facts.DrillKey: the last drill may have been one of an older Quorate.
func Recall(entries map[string]string, last string) []Record {
	type dated struct {
		at time.Time
		Record
	}
	var all []dated
	for _, name := range newestFirst(entries) {
		r := parseRecord(entries[name])
		r.Entry = name
		at := entryAt(name)
		if r.Unreadable == "" {
			at = *r.Ended
		}
		all = append(all, dated{at, r})
	}
	out := []Record{}
	if last != "" && !remembered(entries, last) {
		r := parseRecord(last)
		r.Entry = facts.DrillKey
		if r.Unreadable != "" {
			out = append(out, r) // it is the last one, whenever that was
		} else {
			all = append(all, dated{*r.Ended, r})
		}
	}
	slices.SortStableFunc(all, func(a, b dated) int { return b.at.Compare(a.at) })
	for _, d := range all {
		out = append(out, d.Record)
	}
	return out
}

// remembered says whether the history has the last drill.
func remembered(entries map[string]string, last string) bool {
	want := parseRecord(last)
	for _, text := range entries {
		if want.Unreadable != "" {
			if text == cut(last, recordBytes) {
				return true
			}
		} else if r := parseRecord(text); r.Unreadable == "" && r.Ended.Equal(*want.Ended) {
			return true
		}
	}
	return false
}

// parseRecord reads a record, or says why it cannot be read. Nothing is taken from one that is damaged.
func parseRecord(text string) Record {
	var r Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return Record{Unreadable: err.Error()}
	}
	if r.Ended == nil || r.Ended.IsZero() {
		return Record{Unreadable: "it does not say when the drill ended"}
	}
	r.Unreadable, r.Entry = "", ""
	return r
}

// text is the record as it is stored. Of a record that is too large, the faults are grouped: drills on each host of a large cluster have
// thousands of names.
func (r Record) text() (string, error) {
	text, err := json.Marshal(r)
	if err == nil && len(text) > recordBytes {
		grouped := map[string]facts.DrillVerdicts{}
		for name, v := range r.Faults {
			if parts := strings.SplitN(name, "/", 3); len(parts) == 3 {
				name = parts[0] + "/" + parts[1]
			}
			sum := grouped[name]
			grouped[name] = facts.DrillVerdicts{Passed: sum.Passed + v.Passed, Missed: sum.Missed + v.Missed, Invalid: sum.Invalid + v.Invalid}
		}
		r.Faults = grouped
		text, err = json.Marshal(r)
	}
	return string(text), err
}

// entryName is the name of an entry. The same drill has the same name: storing it again after an answer that was lost does not repeat it.
func entryName(at time.Time, text string) string {
	sum := sha256.Sum256([]byte(text))
	return at.UTC().Format(entryTime) + "-" + hex.EncodeToString(sum[:4])
}

// entryAt is the time in the name of an entry; zero if it has none.
func entryAt(name string) time.Time {
	at, err := time.Parse(entryTime, name[:min(len(name), len(entryTime))])
	if err != nil {
		return time.Time{}
	}
	return at
}

// newestFirst are the names of entries. Those without a time come last.
func newestFirst(entries map[string]string) []string {
	return slices.SortedFunc(maps.Keys(entries), func(a, b string) int {
		if c := entryAt(b).Compare(entryAt(a)); c != 0 {
			return c
		}
		return strings.Compare(b, a)
	})
}

// WriteHistory writes a history for people: a line for each drill, and with details also its faults and outages.
func WriteHistory(w io.Writer, name string, history []Record, details bool) error {
	if len(history) == 0 {
		_, err := fmt.Fprintf(w, "%s remembers no drill.\n", name)
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ENDED\tTOOK\tQUORATE\tKUBERNETES\tFAULTS\tLOST\tWORST OUTAGE\tVERDICT")
	less := 0
	for _, r := range history {
		fmt.Fprintln(table, strings.Join(r.cells(), "\t"))
		if r.Unreadable == "" && (r.Began == nil || r.OutagesMs == nil) {
			less++
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	var b strings.Builder
	if details {
		for _, r := range history {
			r.details(&b)
		}
	}
	notes := []string{}
	if less > 0 {
		notes = append(notes, fmt.Sprintf("an older Quorate recorded %s, and less than this one would have.", ui.Plural(less, "drill")))
	}
	for _, r := range history {
		if r.Unreadable != "" {
			notes = append(notes, fmt.Sprintf("the entry %s cannot be read: %s. It is damaged, or a newer Quorate wrote it.", r.Entry, r.Unreadable))
		}
	}
	if len(notes) > 0 {
		b.WriteByte('\n')
	}
	for _, note := range notes {
		b.WriteString("Note: " + oneLine(note) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cells are the columns of a drill in the table.
func (r Record) cells() []string {
	if r.Unreadable != "" {
		return []string{notKnown, notKnown, notKnown, notKnown, notKnown, notKnown, notKnown, "cannot be read"}
	}
	out := []string{r.Ended.UTC().Format("2006-01-02 15:04 MST"), notKnown, notKnown, notKnown, notKnown, notKnown, notKnown, notKnown}
	if r.Began != nil {
		out[1] = ui.Duration(r.Ended.Sub(*r.Began))
	}
	if r.Quorate != "" {
		out[2] = oneLine(shortBuild(r.Quorate))
	}
	if r.Kubernetes != "" {
		out[3] = oneLine(r.Kubernetes)
	}
	if r.Faults != nil {
		var sum facts.DrillVerdicts
		for _, v := range r.Faults {
			sum = facts.DrillVerdicts{Passed: sum.Passed + v.Passed, Missed: sum.Missed + v.Missed, Invalid: sum.Invalid + v.Invalid}
		}
		out[4] = verdicts(sum)
	}
	if r.Lost != nil {
		out[5] = page.Count(*r.Lost)
	}
	if r.OutagesMs != nil {
		out[6] = textNothing
		worst := int64(-1)
		for _, kind := range slices.Sorted(maps.Keys(r.OutagesMs)) {
			if ms := r.OutagesMs[kind]; outside(splitKind(kind)) && ms > worst {
				worst = ms
				out[6] = page.Milliseconds(ms) + " " + oneLine(kind)
			}
		}
	}
	if r.Pass != nil {
		out[7] = "did not pass"
		if *r.Pass {
			out[7] = "passed"
		}
	}
	if r.Interrupted != "" {
		out[7] += ", interrupted"
	}
	return out
}

// shortBuild is the version of a build; of one that was not released, which all have the same version, also the begin of its revision.
func shortBuild(build string) string {
	release, revision, _ := strings.Cut(build, " ")
	if release != "devel" {
		return release
	}
	return strings.TrimSpace(release + " " + revision[:min(len(revision), 12)])
}

// verdicts are counts in words.
func verdicts(v facts.DrillVerdicts) string {
	var out []string
	for _, part := range []struct {
		n    int
		word string
	}{{v.Passed, "passed"}, {v.Missed, "missed"}, {v.Invalid, "invalid"}} {
		if part.n != 0 {
			out = append(out, page.Count(part.n)+" "+part.word)
		}
	}
	if out == nil {
		return "none"
	}
	return strings.Join(out, ", ")
}

// details are the faults and outages of a drill.
func (r Record) details(b *strings.Builder) {
	if r.Unreadable != "" {
		return
	}
	fmt.Fprintf(b, "\n%s:\n", r.cells()[0])
	line := func(head, text string) { fmt.Fprintf(b, "  %-36s %s\n", oneLine(head), oneLine(text)) }
	if r.Quorate != "" {
		line("Quorate", r.Quorate)
	}
	if r.Interrupted != "" {
		line("interrupted", r.Interrupted)
	}
	if r.Faults == nil {
		line("faults", notKnown)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		line(name, verdicts(r.Faults[name]))
	}
	if r.OutagesMs == nil {
		line("outages", notKnown)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.OutagesMs)) {
		line(kind, page.Milliseconds(r.OutagesMs[kind]))
	}
	ledger := []string{notKnown, notKnown, notKnown}
	for i, n := range []*int{r.Acknowledged, r.Lost, r.WatchGaps} {
		if n != nil {
			ledger[i] = page.Count(*n)
		}
	}
	line("writes", ledger[0]+" acknowledged, "+ledger[1]+" lost")
	line("gaps of watches", ledger[2])
	if r.Linearizable == "" {
		r.Linearizable = notKnown
	}
	line("linearizable", r.Linearizable)
}
