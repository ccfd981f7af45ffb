package ledger

import (
	"cmp"
	"context"
	"fmt"
	"html"
	"io"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Mark is something that happened to the cluster, such as an injected fault, by the clock of the history.
type Mark struct {
	Name     string
	From, To time.Duration
}

const (
	// shownAtMost is how many operations a page shows, apart from the writes of what they read.
	shownAtMost = 200
	// drawingTime is how long the search may take that finds out what to draw.
	drawingTime = 10 * time.Second
)

// Visualize writes porcupine's page about the history of one key: a self-contained interactive picture of its operations and of the orders
// that a register would allow, with the marks that fall into its time. If the history is illegal, the page shows the operations that prove
// it and those around them, otherwise the last ones. It returns an error if the key has no history, or one that cannot be judged.
func Visualize(w io.Writer, history []Operation, key int, faults []Mark) error {
	r, flaw := newRegister(key, split(history)[key])
	if flaw == nil {
		flaw = r.contradiction()
	}
	var about []*Operation
	switch {
	case flaw != nil && flaw.verdict != No:
		return fmt.Errorf("drawing a history: %s", flaw.why)
	case len(r.operations) == 0:
		return fmt.Errorf("drawing a history: key %d has none", key)
	case flaw != nil:
		about = flaw.shown
	default:
		about = r.operations[len(r.operations)-1:]
	}
	shown := r.around(about)

	m := model(context.Background(), state{known: true})
	m.DescribeOperation = func(input, _ any) string {
		o := input.(*Operation)
		if o.Write {
			return "write " + quote(o.Value)
		}
		return "read " + quote(o.Value)
	}
	// Unlike operations, states and metadata become part of the page as they are.
	m.DescribeState = func(s any) string { return html.EscapeString(quote(s.(state).value)) }
	m.DescribeOperationMetadata = func(metadata any) string { return html.EscapeString(metadata.(string)) }
	operations := inputs(shown)
	rows := 0
	for i, o := range shown {
		operations[i].Metadata = describe(o)
		rows = max(rows, o.Client+1)
	}
	// A client goes on while a write of unknown outcome may still happen, so such a write gets a row of its own.
	for i, o := range shown {
		if o.Outcome == Unknown {
			operations[i].ClientId = rows
			rows++
		}
	}
	_, info := porcupine.CheckOperationsVerbose(m, operations, drawingTime)
	from, to := interval(shown)
	var marks []porcupine.Annotation
	for _, f := range faults {
		if f.From <= to && f.To >= from {
			marks = append(marks, porcupine.Annotation{Tag: f.Name, Start: int64(f.From), End: int64(f.To), Description: f.Name,
				Details: fmt.Sprintf("%s (%.3f s to %.3f s)", f.Name, f.From.Seconds(), f.To.Seconds())})
		}
	}
	info.AddAnnotations(marks)
	if err := porcupine.Visualize(m, info, w); err != nil {
		return fmt.Errorf("drawing a history: %w", err)
	}
	return nil
}

// around selects the operations that are nearest to some of them in time, and the writes of all values that are read among them.
// Without a value and all its reads, a legal history stays legal, so what is left out makes nothing illegal.
func (r *register) around(about []*Operation) []*Operation {
	out := slices.Clone(r.operations)
	if len(out) > shownAtMost {
		distance := func(o *Operation) time.Duration {
			nearest := time.Duration(0)
			for i, a := range about {
				// Negative if they overlap, the more the longer.
				if d := max(a.Called-o.Returned, o.Called-a.Returned); i == 0 || d < nearest {
					nearest = d
				}
			}
			return max(nearest, 0)
		}
		slices.SortStableFunc(out, func(a, b *Operation) int { return cmp.Compare(distance(a), distance(b)) })
		selected := out[:shownAtMost]
		for _, o := range slices.Concat(about, selected) {
			if !slices.Contains(selected, o) {
				selected = append(selected, o)
			}
			if w := r.writes[o.Value]; w != nil && !slices.Contains(selected, w) {
				selected = append(selected, w)
			}
		}
		out = selected
	}
	slices.SortStableFunc(out, func(a, b *Operation) int { return cmp.Compare(a.Called, b.Called) })
	return out
}

// interval is the time that operations cover.
func interval(operations []*Operation) (from, to time.Duration) {
	from, to = operations[0].Called, operations[0].Returned
	for _, o := range operations {
		from, to = min(from, o.Called), max(to, o.Returned)
	}
	return from, to
}
