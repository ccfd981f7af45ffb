package drill

import (
	"slices"
	"testing"
)

var someFaults = []Fault{{Kind: Kill, Target: Etcd, Role: Leader}, {Kind: Hang, Target: Etcd, Role: Leader}, {Kind: PowerOff, Target: Zone, Zone: "b"}, {Kind: Cut, Target: Host, Role: Holder}, {Kind: Stop, Target: Kubelet, Role: Worker}}

func TestSchedule(t *testing.T) {
	for n := range len(someFaults) + 1 {
		faults := someFaults[:n]
		before := slices.Clone(faults)
		for repeat := range 5 {
			for seed := range uint64(50) {
				got := Schedule(faults, repeat, seed)
				if len(got) != n*repeat || !slices.Equal(got, Schedule(faults, repeat, seed)) {
					t.Fatalf("%d faults, %d times, seed %d: %v", n, repeat, seed, namesOf(got))
				}
				for i, f := range got {
					round := got[i/n*n : i/n*n+n]
					if slices.Index(round, f) != i%n || !slices.Contains(faults, f) {
						t.Fatalf("seed %d: %s is not in its round once: %v", seed, f.Name(), namesOf(got))
					}
					if i > 0 && n > 1 && got[i-1] == f {
						t.Fatalf("seed %d: %s follows itself: %v", seed, f.Name(), namesOf(got))
					}
					if seed == 0 && f != faults[i%n] {
						t.Fatalf("without a seed: %v", namesOf(got))
					}
				}
			}
		}
		if !slices.Equal(faults, before) {
			t.Fatal("the faults were shuffled themselves")
		}
	}
}

// After each fault comes every other one, sooner or later, and another seed gives another order.
func TestNoFaultAlwaysFollowsTheSame(t *testing.T) {
	follows := map[[2]Fault]bool{}
	next := Random(someFaults, 7)
	last := next()
	for range 500 {
		f := next()
		follows[[2]Fault{last, f}] = true
		last = f
	}
	if want := len(someFaults) * (len(someFaults) - 1); len(follows) != want {
		t.Errorf("%d of %d pairs", len(follows), want)
	}
	orders := map[string]bool{}
	for seed := range uint64(20) {
		text := ""
		for _, f := range Schedule(someFaults, 2, seed) {
			text += f.Name() + " "
		}
		orders[text] = true
	}
	if len(orders) < 15 {
		t.Errorf("20 seeds give %d orders", len(orders))
	}
}

// A drill that ends after a while is the beginning of a longer one.
func TestRandomBeginsAsScheduled(t *testing.T) {
	for seed := range uint64(10) {
		next := Random(someFaults, seed)
		for i, f := range Schedule(someFaults, 4, seed) {
			if got := next(); got != f {
				t.Fatalf("seed %d: fault %d is %s, and %s when it is scheduled", seed, i, got.Name(), f.Name())
			}
		}
	}
}
