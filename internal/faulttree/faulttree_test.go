package faulttree

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestCutSets(t *testing.T) {
	for _, tc := range []struct {
		name  string
		build func(*Tree) ID
		size  int
		want  string
	}{
		{"one", func(t *Tree) ID { return t.Leaf(7) }, 2, "[[7]]"},
		{"any", func(t *Tree) ID { return t.Or(t.Leaf(1), t.Leaf(2)) }, 2, "[[1] [2]]"},
		{"never", func(t *Tree) ID { return t.Or() }, 2, "[]"},
		{"nothing-there", func(t *Tree) ID { return t.And() }, 2, "[[]]"},
		{"failed", func(t *Tree) ID { return t.Or(t.Leaf(1), t.Failed()) }, 2, "[[]]"},
		{"all", func(t *Tree) ID { return t.And(t.Leaf(1), t.Leaf(2)) }, 2, "[[1 2]]"},
		{"all-cut-short", func(t *Tree) ID { return t.And(t.Leaf(1), t.Leaf(2)) }, 1, "[]"},
		{"one-of-two-failed", func(t *Tree) ID { return t.And(t.Leaf(1), t.Failed()) }, 2, "[[1]]"},
		{"majority", func(t *Tree) ID { return t.AtLeast(2, t.Leaf(1), t.Leaf(2), t.Leaf(3)) }, 3, "[[1 2] [1 3] [2 3]]"},
		{"impossible", func(t *Tree) ID { return t.AtLeast(3, t.Leaf(1), t.Leaf(2)) }, 3, "[]"},
		{"common-cause", func(t *Tree) ID {
			zone := t.Leaf(9)
			return t.And(t.Or(t.Leaf(1), zone), t.Or(t.Leaf(2), zone))
		}, 2, "[[9] [1 2]]"},
		{"three", func(t *Tree) ID { return t.And(t.Leaf(1), t.Leaf(2), t.Or(t.Leaf(3), t.Leaf(4))) }, 3, "[[1 2 3] [1 2 4]]"},
		{"not-minimal", func(t *Tree) ID { return t.Or(t.Leaf(1), t.And(t.Leaf(1), t.Leaf(2)), t.And(t.Leaf(2), t.Leaf(3))) }, 3, "[[1] [2 3]]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var tree Tree
			top := tc.build(&tree)
			if got := fmt.Sprint(tree.CutSets(top, tc.size)); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// bruteForce tries every set of elements.
func bruteForce(t *Tree, top ID, elements, size int) (out [][]Element) {
	fails := func(set uint) bool {
		return t.Fails(top, func(e Element) bool { return set&(1<<e) != 0 })[top]
	}
	for set := range uint(1) << elements {
		cut := []Element{}
		minimal := fails(set)
		for e := range elements {
			if set&(1<<e) != 0 {
				cut = append(cut, Element(e))
				minimal = minimal && !fails(set&^(1<<e))
			}
		}
		if minimal && len(cut) <= size {
			out = append(out, cut)
		}
	}
	slices.SortFunc(out, func(a, b []Element) int { return cmp.Or(cmp.Compare(len(a), len(b)), slices.Compare(a, b)) })
	return out
}

// grow makes a tree of what next returns, which are numbers below its argument.
func grow(next func(n int) int) (t Tree, top ID, elements int) {
	elements = 1 + next(7)
	ids := []ID{}
	for e := range elements {
		ids = append(ids, t.Leaf(Element(e)))
	}
	if next(6) == 0 {
		ids = append(ids, t.Failed())
	}
	for range 1 + next(8) {
		var inputs []ID
		for range next(5) {
			inputs = append(inputs, ids[next(len(ids))])
		}
		switch next(3) {
		case 0:
			ids = append(ids, t.Or(inputs...))
		case 1:
			ids = append(ids, t.And(inputs...))
		default:
			ids = append(ids, t.AtLeast(next(len(inputs)+2), inputs...))
		}
	}
	return t, ids[len(ids)-1], elements
}

func check(t *testing.T, tree Tree, top ID, elements int) {
	t.Helper()
	for size := range 4 {
		got, want := tree.CutSets(top, size), bruteForce(&tree, top, elements, size)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("size %d: got %v, want %v\n%+v", size, got, want, tree.nodes)
		}
	}
}

func TestCutSetsAreThoseOfBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		tree, top, elements := grow(r.IntN)
		check(t, tree, top, elements)
	}
}

func FuzzCutSets(f *testing.F) {
	f.Add([]byte{3, 1, 2, 4, 0, 1, 2, 3, 9, 9})
	f.Add([]byte("a tree of any shape"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree, top, elements := grow(func(n int) int {
			if len(data) == 0 {
				return 0
			}
			x := int(data[0])
			data = data[1:]
			return x % n
		})
		check(t, tree, top, elements)
	})
}

// A capability that every one of 200 hosts in three zones provides is the largest tree of an audit.
func TestLargeTrees(t *testing.T) {
	var tree Tree
	var hosts []ID
	for i := range 200 {
		hosts = append(hosts, tree.Or(tree.Leaf(Element(1000+i)), tree.Leaf(Element(2000+i)), tree.Leaf(Element(3000+i)), tree.Leaf(Element(i%3))))
	}
	begin := time.Now()
	if got := fmt.Sprint(tree.CutSets(tree.And(hosts...), 2)); got != "[]" {
		t.Error(got)
	}
	if got := len(tree.CutSets(tree.AtLeast(2, hosts...), 2)); got != 3+600*599/2-200*3 {
		t.Errorf("%d cut sets", got)
	}
	t.Logf("%s", time.Since(begin))
}
