package drill

import (
	"math/rand/v2"
	"slices"
)

// Schedule is the order in which faults are injected: each of them as often as repeat says. There are as many rounds, and each fault is
// once in every round, so that a drill that ends early has injected all of them about as often. The seed decides the order of each
// round, so that no fault always follows the same one; with the seed 0, every round has the order that is given.
func Schedule(faults []Fault, repeat int, seed uint64) []Fault {
	if len(faults) == 0 || repeat < 1 {
		return nil
	}
	out := make([]Fault, len(faults)*repeat)
	next := Random(faults, seed)
	for i := range out {
		out[i] = next()
	}
	return out
}

// Random returns the faults of endless rounds, one with each call, as Schedule orders them. There must be at least one fault.
func Random(faults []Fault, seed uint64) func() Fault {
	round, at := slices.Clone(faults), 0
	chance := rand.New(rand.NewPCG(seed, uint64(len(faults)))) //nolint:gosec // an order, not a secret
	shuffle := func() {
		if seed == 0 {
			return
		}
		last := round[len(round)-1]
		chance.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		if n := len(round); at > 0 && n > 1 && round[0] == last { // the same fault would be injected twice in a row
			other := 1 + chance.IntN(n-1)
			round[0], round[other] = round[other], round[0]
		}
	}
	shuffle()
	return func() Fault {
		if at == len(round) {
			shuffle()
			at = 0
		}
		at++
		return round[at-1]
	}
}
