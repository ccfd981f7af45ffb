package ledger

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// absent is what a read returns before the first write.
const absent = ""

// beginning is before every operation.
const beginning = time.Duration(math.MinInt64)

// register is the history of one key, without what does not matter, and with an end for each operation.
type register struct {
	key                   int
	operations            []*Operation          // in the order in which they were called
	writes                map[string]*Operation // those of operations, by value
	acknowledged, unknown int                   // writes of the whole history
}

// flawed says why a history is illegal, or cannot be judged.
type flawed struct {
	verdict Verdict
	why     string
	// shown are the operations of which the explanation speaks.
	shown []*Operation
}

// newRegister prepares the history of one key. It drops and changes only what changes no verdict:
//
//   - Reads without an answer are dropped. They changed nothing, and nobody knows what they returned.
//   - Writes that were never sent are dropped.
//   - A write of unknown outcome whose value nobody read is dropped. If there is a legal order with it, the same order without it is
//     legal, too: the reads up to the next write would have had to return its value, so there are none. If there is a legal
//     order without it, it has never happened.
//   - A write of unknown outcome whose value was read has happened, because values are unique, and at the latest when the first of
//     these reads returned: it precedes each of them in every legal order. So that is when it returned.
//
// What remains is certain and ends, so failures make the search hardly longer.
//
// The register is not nil even if there is a flaw.
func newRegister(key int, history []*Operation) (*register, *flawed) {
	r := &register{key: key, writes: map[string]*Operation{}}
	flaw := func(verdict Verdict, shown []*Operation, format string, args ...any) *flawed {
		return &flawed{verdict, fmt.Sprintf("key %d: ", key) + fmt.Sprintf(format, args...), shown}
	}
	written := map[string]*Operation{}
	seen := map[string]time.Duration{} // when the first read of a value returned
	for _, o := range history {
		switch {
		case o.Outcome == OK && o.Returned < o.Called:
			return r, flaw(Undecided, nil, "%s ended before it began: its times are not of a monotonic clock", describe(o))
		case !o.Write && o.Outcome == OK:
			r.operations = append(r.operations, o)
			if at, known := seen[o.Value]; !known || o.Returned < at {
				seen[o.Value] = o.Returned
			}
		case !o.Write:
		case o.Value == absent:
			return r, flaw(Undecided, nil, "client %d wrote no value, which cannot be told from the beginning", o.Client)
		case written[o.Value] != nil:
			return r, flaw(Undecided, nil, "client %d and client %d both wrote %q: only a history in which no value is written twice can be checked",
				written[o.Value].Client, o.Client, o.Value)
		default:
			written[o.Value] = o
			switch o.Outcome {
			case OK:
				r.acknowledged++
			case Unknown:
				r.unknown++
			}
		}
	}
	for value, o := range written {
		at, read := seen[value]
		switch {
		case o.Outcome == OK:
		case o.Outcome == Unknown && read:
			happened := *o
			happened.Returned = max(at, o.Called)
			o = &happened
		default:
			continue
		}
		r.writes[value] = o
		r.operations = append(r.operations, o)
	}
	// Writes come out of a map. The order of those that were called in the same moment must not depend on that.
	slices.SortStableFunc(r.operations, func(a, b *Operation) int {
		return cmp.Or(cmp.Compare(a.Called, b.Called), cmp.Compare(a.Client, b.Client), strings.Compare(a.Value, b.Value))
	})
	for _, o := range r.operations {
		if o.Write || o.Value == absent {
			continue
		}
		w := r.writes[o.Value]
		switch {
		case w == nil && written[o.Value] != nil:
			return r, flaw(No, []*Operation{o}, "%s, although client %d never sent this value", describe(o), written[o.Value].Client)
		case w == nil:
			return r, flaw(No, []*Operation{o}, "%s, which nobody wrote", describe(o))
		case o.Returned < w.Called:
			return r, flaw(No, []*Operation{o, w}, "%s before it was written: %s", describe(o), describe(w))
		}
	}
	return r, nil
}

// span is when the register had one value, as far as its operations prove it.
type span struct {
	value string
	// write is nil for the value before the first write.
	write *Operation
	// ended returned first of all operations on the value, and is nil for the value before the first write. begun was called last.
	ended, begun *Operation
}

// from is the first moment in which an operation on the value had ended.
func (s span) from() time.Duration {
	if s.ended == nil {
		return beginning
	}
	return s.ended.Returned
}

// to is the last moment in which an operation on the value had not begun.
func (s span) to() time.Duration { return s.begun.Called }

// spans returns those of all values, by from.
func (r *register) spans() []span {
	by := map[string]*span{}
	for _, o := range r.operations {
		s := by[o.Value]
		if s == nil {
			s = &span{value: o.Value, write: r.writes[o.Value], begun: o}
			by[o.Value] = s
		}
		if o.Called > s.begun.Called {
			s.begun = o
		}
		// A write without an acknowledgement ends with the first read of its value, which is then the proof.
		if o.Value != absent && (s.ended == nil || o.Returned < s.ended.Returned || o.Returned == s.ended.Returned && !o.Write) {
			s.ended = o
		}
	}
	out := make([]span, 0, len(by))
	for _, s := range by {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.from(), b.from()), strings.Compare(a.value, b.value))
	})
	return out
}

// contradiction finds two values of which each was there before the other one. It expects a history without another flaw. There are
// two such values if and only if no order of the operations is legal:
//
// In a legal order, the operations on one value follow each other without others between them, because no value is written twice.
// So values are ordered, too. If an operation on a returned before one on b was called (a.from < b.to), then a precedes b. If b
// precedes a as well, there is no legal order.
//
// If there are no two such values, "precedes" has no cycle at all. Assume that it has one, and let m be the value of the cycle with the
// smallest from, p the one that precedes it there, and q the one that precedes p. Then m.from ≤ q.from < p.to, so m precedes p, and p
// precedes m. Without a cycle, the values can be sorted. The write of each value, and then its reads in the order in which they were
// called, are a legal order of all operations: no read of a value returned before its write was called, and if an operation on
// one value returned before one on another was called, then the one value precedes the other.
//
// One pass by from suffices. Let a be the value with the largest to of those that come before b, and c another one of them that
// contradicts b: c.from ≤ b.from < c.to ≤ a.to. If a.from < b.to, then a contradicts b, too. If not, a and c contradict each other, because
// a.from ≤ b.from < c.to and c.from ≤ b.from < a.to, and the pass has already found that, or another contradiction, at the second of them.
func (r *register) contradiction() *flawed {
	var longest span
	for i, b := range r.spans() {
		if i > 0 && longest.to() > b.from() && longest.from() < b.to() {
			return r.explain(longest, b)
		}
		if i == 0 || b.to() > longest.to() {
			longest = b
		}
	}
	return nil
}

// explain explains a contradiction: the former value was there, then the other one, and then the former again. An operation on the former one
// ended first of all.
func (r *register) explain(former, other span) *flawed {
	// It is a read. All operations on a value end after its write was called, so if it were the write, former.to ≤ former.from ≤ other.from, and
	// there would be no contradiction.
	again := former.begun
	then := other.begun
	if other.ended.Called > former.from() {
		then = other.ended // one operation proves both: after the former value, and before it is there again
	}
	proof := []*Operation{former.write, former.ended, other.write, then, other.ended, again}
	stale := fmt.Sprintf("client %d's read of %s is stale", again.Client, quote(former.value))
	later := slices.IndexFunc(r.operations, func(o *Operation) bool { return !o.Write && o.Value == other.value && o.Returned > again.Called })
	switch {
	case later >= 0:
		proof = append(proof, r.operations[later])
	case other.write.Outcome == OK:
		stale = fmt.Sprintf("either %s, or the acknowledged write of %s was lost", stale, quote(other.value))
	default:
		stale = fmt.Sprintf("either %s, or the write of %s was lost although it had been read", stale, quote(other.value))
	}
	var shown []*Operation
	var steps []string
	for _, o := range r.operations {
		if slices.Contains(proof, o) {
			shown, steps = append(shown, o), append(steps, describe(o))
		}
	}
	return &flawed{No, fmt.Sprintf("key %d had %s, then %s, and then %s again: %s: %s",
		r.key, quote(former.value), quote(other.value), quote(former.value), strings.Join(steps, "; "), stale), shown}
}

// last is the read that was called last, or nil.
func (r *register) last() *Operation {
	for _, o := range slices.Backward(r.operations) {
		if !o.Write {
			return o
		}
	}
	return nil
}

// readBack reports whether the key was read after all acknowledged writes had returned.
func (r *register) readBack() bool {
	last := r.last()
	return !slices.ContainsFunc(r.operations, func(o *Operation) bool {
		return o.Write && o.Outcome == OK && (last == nil || o.Returned >= last.Called)
	})
}

// missing lists the acknowledged writes that are not there at the end, and that no acknowledged one replaced: those that were
// called after the write had returned whose value is there. This is a plain scan, which does not depend on the rest of the check.
func (r *register) missing() (out []*Operation) {
	last := r.last()
	if last == nil {
		return nil
	}
	since := beginning
	if last.Value != absent {
		w := r.writes[last.Value]
		if w == nil {
			return nil // nobody wrote what is there, so nobody knows what it replaced
		}
		since = w.Returned
	}
	latest := beginning
	for _, o := range r.operations {
		if o.Write && o.Outcome == OK && o.Called > since && o.Returned < last.Called {
			out, latest = append(out, o), max(latest, o.Called)
		}
	}
	return slices.DeleteFunc(out, func(o *Operation) bool { return o.Returned < latest })
}

func quote(value string) string {
	if value == absent {
		return "no value"
	}
	return fmt.Sprintf("%q", value)
}

// describe says what an operation did, and when.
func describe(o *Operation) string {
	what := "read"
	if o.Write {
		what = "wrote"
	}
	when := fmt.Sprintf("%.3f s to %.3f s", o.Called.Seconds(), o.Returned.Seconds())
	if o.Outcome != OK {
		when = fmt.Sprintf("at %.3f s, not acknowledged", o.Called.Seconds())
	}
	return fmt.Sprintf("client %d %s %s (%s)", o.Client, what, quote(o.Value), when)
}
