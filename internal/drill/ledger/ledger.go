// Package ledger judges histories of reads and writes: whether each key behaved as a single register that is read and written in one
// moment (linearizability), whatever failed meanwhile, and whether every acknowledged write is still there. It is pure.
//
// The check relies on two properties of a history: no value is written twice, and all times are of one monotonic clock. Both are
// the client's to guarantee. Writes of unknown outcome may have happened at any time since they were called, or never.
package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Outcome is what a client knows about its operation.
type Outcome uint8

const (
	// Unknown is the outcome of an operation without an answer, or with an error as its answer: it may have happened, at any time since
	// it was called, even later than its client gave up, or never.
	Unknown Outcome = iota
	// OK is the outcome of an operation that was acknowledged.
	OK
	// Failed is the outcome of an operation that certainly never happens: it was never sent.
	Failed
)

// Operation is one finished or unfinished operation of one client on one key.
type Operation struct {
	Client, Key int
	Write       bool
	Outcome     Outcome
	// Value was written or read. A read of "" found the key without a value, as it is before the first write.
	Value string
	// Called and Returned are when the operation began and ended, by one monotonic clock. Returned means nothing for a write whose
	// outcome is unknown.
	Called, Returned time.Duration
}

// Verdict is whether a history is linearizable.
type Verdict string

const (
	// Yes: each key behaved as a register.
	Yes Verdict = "yes"
	// No: at least one did not.
	No Verdict = "no"
	// Undecided: the check did not finish, or the history does not allow one.
	Undecided Verdict = "unknown"
)

// Result is what a check found.
type Result struct {
	Verdict Verdict
	// Why explains every verdict but Yes.
	Why string
	// Operations is how many operations the check covered, on Keys keys: those that are known to have happened.
	Operations, Keys int
	// Acknowledged and Unknown are how many writes were acknowledged, and how many may have happened.
	Acknowledged, Unknown int
	// Missing are acknowledged writes whose values are not there at the end, although no other acknowledged write replaced them. A
	// write that was lost and then replaced, before anybody read, cannot be told from one that was replaced.
	Missing []Operation
	// IllegalKey is a key that did not behave as a register, or -1.
	IllegalKey int
}

// Check checks the history of each key, which must end with a read that was called after all acknowledged writes of the key had
// returned: otherwise nobody knows whether the last of them is there. If ctx ends first, the verdict is Undecided, and never Yes.
//
// What a history contradicts outright is found in n·log n, and first, so a No does not depend on the time that is left. What it does
// not contradict, porcupine confirms by finding an order of the operations that a register would allow.
func Check(ctx context.Context, history []Operation) Result {
	out := Result{Verdict: Undecided, IllegalKey: -1}
	var registers []*register
	byKey := split(history)
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		r, flaw := newRegister(key, byKey[key])
		out.Keys++
		out.Operations += len(r.operations)
		out.Acknowledged += r.acknowledged
		out.Unknown += r.unknown
		if flaw == nil {
			flaw = r.contradiction()
		}
		if flaw == nil && !r.readBack() {
			flaw = &flawed{verdict: Undecided, why: fmt.Sprintf("key %d was not read after its last acknowledged write", key)}
		}
		switch {
		case flaw == nil:
			registers = append(registers, r)
		case flaw.verdict == No && out.Verdict != No, out.Why == "":
			out.Verdict, out.Why = flaw.verdict, flaw.why
			if flaw.verdict == No {
				out.IllegalKey = key
			}
		}
		for _, o := range r.missing() {
			out.Missing = append(out.Missing, *o)
		}
	}
	switch {
	case out.Why != "":
		return out
	case out.Acknowledged == 0:
		out.Why = "no write was acknowledged"
		return out
	}
	for _, r := range registers {
		legal := r.search(ctx, partSize)
		if ctx.Err() != nil {
			out.Why = fmt.Sprintf("checking key %d did not end in time: %v", r.key, context.Cause(ctx))
			return out
		}
		if !legal {
			out.Verdict, out.IllegalKey = No, r.key
			out.Why = fmt.Sprintf("no order of the operations on key %d explains what was read", r.key)
			return out
		}
	}
	out.Verdict = Yes
	return out
}

// split returns the operations of each key, in the order of the history.
func split(history []Operation) map[int][]*Operation {
	out := map[int][]*Operation{}
	for i := range history {
		out[history[i].Key] = append(out[history[i].Key], &history[i])
	}
	return out
}
