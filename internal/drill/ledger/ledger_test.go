package ledger

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

func write(client int, value string, called, returned time.Duration) Operation {
	return Operation{Client: client, Write: true, Outcome: OK, Value: value, Called: called * ms, Returned: returned * ms}
}

func read(client int, value string, called, returned time.Duration) Operation {
	return Operation{Client: client, Outcome: OK, Value: value, Called: called * ms, Returned: returned * ms}
}

func unknown(client int, value string, called time.Duration) Operation {
	return Operation{Client: client, Write: true, Value: value, Called: called * ms}
}

func on(key int, o Operation) Operation {
	o.Key = key
	return o
}

func TestCheck(t *testing.T) {
	unsent := unknown(2, "b", 30)
	unsent.Outcome = Failed
	backwards := read(1, "a", 30, 20)
	for name, c := range map[string]struct {
		history []Operation
		want    Verdict
		why     string
		missing string // the value
	}{
		"one after the other": {
			history: []Operation{read(1, "", 0, 5), write(1, "a", 10, 20), read(2, "a", 21, 25), write(2, "b", 30, 40), read(1, "b", 50, 55)},
			want:    Yes,
		},
		"reads during a write return either value": {
			history: []Operation{write(1, "a", 0, 10), write(1, "b", 20, 60), read(2, "a", 25, 30), read(2, "b", 35, 40), read(3, "b", 70, 75)},
			want:    Yes,
		},
		"reads during a write return to the former value": {
			history: []Operation{write(1, "a", 0, 10), write(1, "b", 20, 60), read(2, "b", 25, 30), read(2, "a", 35, 40), read(3, "b", 70, 75)},
			want:    No,
			why: `key 0 had "a", then "b", and then "a" again: client 1 wrote "a" (0.000 s to 0.010 s); client 1 wrote "b" (0.020 s to 0.060 s); ` +
				`client 2 read "b" (0.025 s to 0.030 s); client 2 read "a" (0.035 s to 0.040 s); client 3 read "b" (0.070 s to 0.075 s): client 2's read of "a" is stale`,
		},
		"a stale read": {
			history: []Operation{write(1, "a", 0, 10), write(2, "b", 20, 30), read(3, "a", 40, 50), read(1, "b", 60, 70)},
			want:    No,
			why: `key 0 had "a", then "b", and then "a" again: client 1 wrote "a" (0.000 s to 0.010 s); client 2 wrote "b" (0.020 s to 0.030 s); ` +
				`client 3 read "a" (0.040 s to 0.050 s); client 1 read "b" (0.060 s to 0.070 s): client 3's read of "a" is stale`,
		},
		"a read from before the first write": {
			history: []Operation{write(1, "a", 0, 10), read(2, "", 20, 30), read(1, "a", 40, 50)},
			want:    No,
			why: `key 0 had no value, then "a", and then no value again: client 1 wrote "a" (0.000 s to 0.010 s); client 2 read no value (0.020 s to 0.030 s); ` +
				`client 1 read "a" (0.040 s to 0.050 s): client 2's read of no value is stale`,
		},
		"a lost write": {
			history: []Operation{write(1, "a", 0, 10), write(2, "b", 20, 30), read(3, "a", 40, 50)},
			want:    No,
			why: `key 0 had "a", then "b", and then "a" again: client 1 wrote "a" (0.000 s to 0.010 s); client 2 wrote "b" (0.020 s to 0.030 s); ` +
				`client 3 read "a" (0.040 s to 0.050 s): either client 3's read of "a" is stale, or the acknowledged write of "b" was lost`,
			missing: "b",
		},
		"a key that is gone": {
			history: []Operation{write(1, "a", 0, 10), write(2, "b", 20, 30), read(3, "b", 35, 36), read(3, "", 40, 50)},
			want:    No,
			why: `key 0 had no value, then "a", and then no value again: client 1 wrote "a" (0.000 s to 0.010 s); client 3 read no value (0.040 s to 0.050 s): ` +
				`either client 3's read of no value is stale, or the acknowledged write of "a" was lost`,
			missing: "b",
		},
		"a value that nobody wrote": {
			history: []Operation{write(1, "a", 0, 10), read(2, "x", 20, 30), read(1, "a", 40, 50)},
			want:    No,
			why:     `key 0: client 2 read "x" (0.020 s to 0.030 s), which nobody wrote`,
		},
		"time travel": {
			history: []Operation{read(2, "a", 0, 5), write(1, "a", 10, 20), read(1, "a", 40, 50)},
			want:    No,
			why:     `key 0: client 2 read "a" (0.000 s to 0.005 s) before it was written: client 1 wrote "a" (0.010 s to 0.020 s)`,
		},
		"a value that was never sent": {
			history: []Operation{write(1, "a", 0, 10), unsent, read(1, "b", 40, 50)},
			want:    No,
			why:     `key 0: client 1 read "b" (0.040 s to 0.050 s), although client 2 never sent this value`,
		},
		"a write without an answer that never happened": {
			history: []Operation{write(1, "a", 0, 10), unknown(2, "b", 20), read(1, "a", 40, 50)},
			want:    Yes,
		},
		"a write without an answer that happened late": {
			history: []Operation{write(1, "a", 0, 10), unknown(2, "b", 20), write(1, "c", 30, 40), read(1, "c", 50, 60), read(1, "b", 70, 80)},
			want:    Yes,
		},
		"a write without an answer that happened twice": {
			history: []Operation{write(1, "a", 0, 10), unknown(2, "b", 20), read(3, "b", 22, 24), write(1, "c", 30, 40), read(1, "c", 50, 60), read(1, "b", 70, 80)},
			want:    No,
			why: `key 0 had "b", then "c", and then "b" again: client 2 wrote "b" (at 0.020 s, not acknowledged); client 3 read "b" (0.022 s to 0.024 s); ` +
				`client 1 wrote "c" (0.030 s to 0.040 s); client 1 read "b" (0.070 s to 0.080 s): ` +
				`either client 1's read of "b" is stale, or the acknowledged write of "c" was lost`,
			missing: "c",
		},
		"a write without an answer is read and lost": {
			history: []Operation{write(1, "a", 0, 10), unknown(2, "b", 20), read(3, "b", 22, 24), read(1, "a", 70, 80)},
			want:    No,
			why: `key 0 had "a", then "b", and then "a" again: client 1 wrote "a" (0.000 s to 0.010 s); client 2 wrote "b" (at 0.020 s, not acknowledged); ` +
				`client 3 read "b" (0.022 s to 0.024 s); client 1 read "a" (0.070 s to 0.080 s): ` +
				`either client 1's read of "a" is stale, or the write of "b" was lost although it had been read`,
		},
		"one of two keys": {
			history: []Operation{write(1, "a", 0, 10), read(1, "a", 20, 30), on(7, write(2, "c", 0, 10)), on(7, read(2, "a", 20, 30))},
			want:    No,
			why:     `key 7: client 2 read "a" (0.020 s to 0.030 s), which nobody wrote`,
		},
		"a value that was written twice": {
			history: []Operation{write(1, "a", 0, 10), write(2, "a", 20, 30), read(1, "a", 40, 50)},
			want:    Undecided,
			why:     `key 0: client 1 and client 2 both wrote "a": only a history in which no value is written twice can be checked`,
		},
		"no value was written": {
			history: []Operation{write(1, "", 0, 10), read(1, "", 40, 50)},
			want:    Undecided,
			why:     `key 0: client 1 wrote no value, which cannot be told from the beginning`,
		},
		"a clock that goes backwards": {
			history: []Operation{write(1, "a", 0, 10), backwards},
			want:    Undecided,
			why:     `key 0: client 1 read "a" (0.030 s to 0.020 s) ended before it began: its times are not of a monotonic clock`,
		},
		"it was not read back": {
			history: []Operation{write(1, "a", 0, 10), read(1, "a", 20, 30), write(2, "b", 25, 40)},
			want:    Undecided,
			why:     `key 0 was not read after its last acknowledged write`,
		},
		"nothing was acknowledged": {
			history: []Operation{unknown(1, "a", 0), read(1, "", 20, 30)},
			want:    Undecided,
			why:     `no write was acknowledged`,
		},
		"nothing happened": {want: Undecided, why: `no write was acknowledged`},
		"a flaw of a key does not hide that of another one": {
			history: []Operation{write(1, "a", 0, 10), on(7, write(2, "c", 0, 10)), on(7, read(2, "", 20, 30))},
			want:    No,
			why: `key 7 had no value, then "c", and then no value again: client 2 wrote "c" (0.000 s to 0.010 s); client 2 read no value (0.020 s to 0.030 s): ` +
				`either client 2's read of no value is stale, or the acknowledged write of "c" was lost`,
			missing: "c",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Check(t.Context(), c.history)
			if got.Verdict != c.want || got.Why != c.why {
				t.Errorf("%s\n%s\nwant\n%s\n%s", got.Verdict, got.Why, c.want, c.why)
			}
			var missing []string
			for _, o := range got.Missing {
				missing = append(missing, o.Value)
			}
			if strings.Join(missing, " ") != c.missing {
				t.Errorf("%v are missing, want %q", missing, c.missing)
			}
			if (got.IllegalKey >= 0) != (c.want == No) || strings.Contains(c.why, "key 7") && got.IllegalKey != 7 {
				t.Errorf("the illegal key is %d", got.IllegalKey)
			}
			several := slices.ContainsFunc(c.history, func(o Operation) bool { return o.Key != 0 })
			if c.want != Undecided && !several && brute(c.history) != (c.want == Yes) {
				t.Error("brute force disagrees")
			}
		})
	}
}

func TestCounts(t *testing.T) {
	unsent := unknown(2, "d", 30)
	unsent.Outcome = Failed
	unanswered := read(2, "", 30, 0)
	unanswered.Outcome = Unknown
	got := Check(t.Context(), []Operation{
		write(1, "a", 0, 10), unknown(2, "b", 20), unsent, unanswered, read(1, "b", 40, 50), unknown(2, "c", 60), on(3, write(3, "e", 0, 10)), on(3, read(3, "e", 20, 30)),
	})
	if got.Verdict != Yes || got.Operations != 5 || got.Keys != 2 || got.Acknowledged != 2 || got.Unknown != 2 || got.IllegalKey != -1 {
		t.Errorf("got %+v", got)
	}
}

// TestNoTime has the context end before the check: what is illegal is illegal, and the rest is not known.
func TestNoTime(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("not within a minute"))
	legal := []Operation{write(1, "a", 0, 10), read(1, "a", 20, 30)}
	if got := Check(ctx, legal); got.Verdict != Undecided || got.Why != "checking key 0 did not end in time: not within a minute" {
		t.Errorf("legal: %+v", got)
	}
	if got := Check(ctx, append(legal, read(1, "x", 40, 50))); got.Verdict != No {
		t.Errorf("illegal: %+v", got)
	}
}

// brute tries every order of the operations on one key.
func brute(history []Operation) bool {
	var all []Operation
	for _, o := range history {
		if o.Outcome == OK || o.Outcome == Unknown && o.Write {
			all = append(all, o)
		}
	}
	var try func(left []Operation, value string) bool
	try = func(left []Operation, value string) bool {
		if !slices.ContainsFunc(left, func(o Operation) bool { return o.Outcome == OK }) {
			return true // the rest never happened
		}
		for i, o := range left {
			if slices.ContainsFunc(left, func(p Operation) bool { return p.Outcome == OK && p.Returned < o.Called }) || !o.Write && o.Value != value {
				continue
			}
			if try(slices.Delete(slices.Clone(left), i, i+1), o.Value) {
				return true
			}
		}
		return false
	}
	return try(all, absent)
}

// generate makes the history of a real register: each operation has its effect in one moment between its call and its return. Some writes are
// not acknowledged, and have their effect at any time, or never.
func generate(rng *rand.Rand, clients, operations int) []Operation {
	var out []Operation
	type effect struct {
		at    time.Duration
		index int
	}
	var effects []effect
	for client := range clients {
		now := time.Duration(rng.IntN(4))
		for n := range operations {
			o := Operation{Client: client, Outcome: OK, Write: rng.IntN(2) == 0, Called: now, Returned: now + time.Duration(rng.IntN(5))}
			at := o.Called + time.Duration(rng.Int64N(int64(o.Returned-o.Called)+1))
			if o.Write {
				o.Value = fmt.Sprintf("%d-%d", client, n)
				if rng.IntN(4) == 0 {
					o.Outcome = Unknown
					if at = o.Called + time.Duration(rng.IntN(20)); rng.IntN(3) == 0 {
						at = -1
					}
				}
			}
			out = append(out, o)
			if at >= 0 {
				effects = append(effects, effect{at, len(out) - 1})
			}
			now = o.Returned + time.Duration(rng.IntN(3))
		}
	}
	// In one moment, any order is possible.
	rng.Shuffle(len(effects), func(i, j int) { effects[i], effects[j] = effects[j], effects[i] })
	slices.SortStableFunc(effects, func(a, b effect) int { return cmp.Compare(a.at, b.at) })
	value := absent
	for _, e := range effects {
		if out[e.index].Write {
			value = out[e.index].Value
		} else {
			out[e.index].Value = value
		}
	}
	return out
}

// mutate changes what an operation returned or when it happened. The result may be legal or not.
func mutate(rng *rand.Rand, history []Operation) {
	o := &history[rng.IntN(len(history))]
	if !o.Write && rng.IntN(4) > 0 {
		o.Value = history[rng.IntN(len(history))].Value
		return
	}
	by := time.Duration(rng.IntN(21) - 10)
	o.Called, o.Returned = max(0, o.Called+by), max(0, o.Returned+by)
}

// TestAgainstBruteForce compares all ways of checking small histories: the contradictions, the search as a whole and in the smallest
// parts, and every order of the operations.
func TestAgainstBruteForce(t *testing.T) {
	legal, illegal, uncertain, cut := 0, 0, 0, 0
	for seed := range uint64(20000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		history := generate(rng, 1+rng.IntN(3), 1+rng.IntN(3))
		if !brute(history) {
			t.Fatalf("seed %d: the history of a register is illegal: %+v", seed, history)
		}
		for range rng.IntN(3) {
			mutate(rng, history)
		}
		want := brute(history)
		if want {
			legal++
		} else {
			illegal++
		}
		if slices.ContainsFunc(history, func(o Operation) bool { return o.Outcome == Unknown }) {
			uncertain++
		}
		r, flaw := newRegister(0, split(history)[0])
		if flaw != nil && flaw.verdict != No {
			t.Fatalf("seed %d: %s: %+v", seed, flaw.why, history)
		}
		if flaw == nil {
			flaw = r.contradiction()
			if len(parts(r.operations, 1)) > 1 {
				cut++
			}
			for _, size := range []int{1, partSize} {
				if got := r.search(t.Context(), size); got != want {
					t.Fatalf("seed %d: the search in parts of %d says %v, want %v: %+v", seed, size, got, want, history)
				}
			}
		}
		if (flaw == nil) != want {
			t.Fatalf("seed %d: want legal: %v, and the flaw is %+v: %+v", seed, want, flaw, history)
		}
		if len(r.missing()) > 0 && want {
			t.Fatalf("seed %d: a legal history misses %+v: %+v", seed, r.missing(), history)
		}
		// The operations that explain why a history is illegal are illegal without the rest.
		if flaw != nil && len(flaw.shown) > 1 {
			var alone []Operation
			for _, o := range flaw.shown {
				alone = append(alone, *o)
			}
			if brute(alone) {
				t.Fatalf("seed %d: the explanation is legal: %s", seed, flaw.why)
			}
		}
	}
	t.Logf("%d legal, %d illegal, %d with unknown outcomes, %d in several parts", legal, illegal, uncertain, cut)
	if min(legal, illegal, uncertain, cut) < 2000 {
		t.Error("the histories are too much alike")
	}
}

// TestLong checks a history as long as that of a drill: its search must not depend on its length.
func TestLong(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var history []Operation
	begin := time.Duration(0)
	for round := range 400 {
		for _, o := range generate(rng, 4, 25) {
			o.Called, o.Returned, o.Key = o.Called+begin, o.Returned+begin, round%5
			if o.Value != absent {
				o.Value = fmt.Sprintf("%d-%s", round, o.Value)
			} else if !o.Write && round >= 5 {
				continue // each round has a register of its own, and a key has one
			}
			history = append(history, o)
		}
		begin += 1000
	}
	for key := range 5 {
		// A last write, and a read of it.
		history = append(history, Operation{Key: key, Write: true, Outcome: OK, Value: "last", Called: begin, Returned: begin + 1},
			Operation{Key: key, Outcome: OK, Value: "last", Called: begin + 2, Returned: begin + 3})
	}
	got := Check(t.Context(), history)
	if got.Verdict != Yes || got.Keys != 5 || got.Operations < 30000 {
		t.Fatalf("%+v", got)
	}
	// A read in the middle that returns what was there a long time ago.
	stale := slices.IndexFunc(history, func(o Operation) bool { return o.Key == 3 && o.Outcome == OK && o.Write })
	late := len(history)/2 + slices.IndexFunc(history[len(history)/2:], func(o Operation) bool { return o.Key == 3 && o.Outcome == OK && !o.Write })
	history[late].Value = history[stale].Value
	got = Check(t.Context(), history)
	if got.Verdict != No || got.IllegalKey != 3 || !strings.Contains(got.Why, " is stale") {
		t.Errorf("%+v", got)
	}
	var page strings.Builder
	if err := Visualize(&page, history, 3, nil); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(page.String(), `"OriginalStart"`); n < shownAtMost || n > 2*shownAtMost+10 {
		t.Errorf("the page shows %d operations", n)
	}
	if !strings.Contains(page.String(), `read \"`+history[stale].Value+`\"`) {
		t.Error("the page does not show what is illegal")
	}
}

func TestVisualize(t *testing.T) {
	history := []Operation{
		write(1, "a", 0, 10), unknown(2, "<b>", 20), read(2, "<b>", 30, 40), read(3, "a", 50, 60), // illegal
		on(1, write(1, "elsewhere", 0, 10)),
		on(2, write(1, "a", 0, 10)), on(2, write(1, "a", 0, 10)),
	}
	var page strings.Builder
	faults := []Mark{{Name: "kill/etcd/leader", From: 15 * ms, To: 35 * ms}, {Name: "power-off/zone/b", From: 100 * ms, To: 200 * ms}}
	if err := Visualize(&page, history, 0, faults); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"<!doctype html>": true, `write \"a\"`: true, "kill/etcd/leader": true, "power-off": false, "elsewhere": false,
		"not acknowledged": true,
		"http://":          false, // except for the names of the formats
	} {
		if got := strings.Contains(strings.ReplaceAll(page.String(), "http://www.w3.org/", ""), text); got != want {
			t.Errorf("the page has %q: %v, want %v", text, got, want)
		}
	}
	// The value is text in the picture, and is escaped in the tooltips, which are HTML.
	if strings.Contains(page.String(), "<b>") || !strings.Contains(page.String(), `\u0026lt;b\u0026gt;`) {
		t.Error("a value is part of the page as it is")
	}
	// The client goes on: the write without an answer has another row.
	if !strings.Contains(page.String(), `"ClientId":4,`) {
		t.Error("a write without an answer has no row of its own")
	}
	for key, want := range map[int]string{9: "key 9 has none", 2: "written twice"} {
		if err := Visualize(&page, history, key, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("key %d: %v", key, err)
		}
	}
}
