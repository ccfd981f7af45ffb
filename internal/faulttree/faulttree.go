// Package faulttree finds what takes a system down. A tree says how failures add up: its leaves are elements that fail, its gates
// say how many of their inputs must fail until they fail too, and the top is what must not be lost. A cut set is a set of elements
// whose failure makes the top fail; it is minimal if no smaller part of it does.
//
// Trees are monotone: another failure never repairs anything. A node may be the input of several gates, so that one element that
// several parts share, such as a zone, is one leaf.
package faulttree

import (
	"math/bits"
	"slices"
)

// Element is something that can fail, by the number that the caller gave it.
type Element int

// ID is a node of a tree.
type ID int

// Kind is what a node is.
type Kind uint8

const (
	// Leaf is an element: it fails when the element does.
	Leaf Kind = iota
	// Failed has failed already.
	Failed
	// Gate fails when at least K of its inputs fail.
	Gate
)

// Node is one node of a tree.
type Node struct {
	Kind    Kind
	Element Element // of a leaf
	K       int     // of a gate
	Inputs  []ID    // of a gate
}

// Tree is a set of nodes. A gate is made of nodes that exist, so that there are no cycles. The zero value is empty.
type Tree struct {
	nodes  []Node
	leaves map[Element]ID
	failed *ID
}

// Node returns a node. Its inputs must not be changed.
func (t *Tree) Node(id ID) Node { return t.nodes[id] }

// Leaf fails when the element does. There is one for each element.
func (t *Tree) Leaf(e Element) ID {
	if id, known := t.leaves[e]; known {
		return id
	}
	if t.leaves == nil {
		t.leaves = map[Element]ID{}
	}
	t.leaves[e] = t.add(Node{Kind: Leaf, Element: e})
	return t.leaves[e]
}

// Failed has failed already.
func (t *Tree) Failed() ID {
	if t.failed == nil {
		id := t.add(Node{Kind: Failed})
		t.failed = &id
	}
	return *t.failed
}

// Or fails when any of its inputs does; without inputs, it never fails.
func (t *Tree) Or(inputs ...ID) ID { return t.AtLeast(1, inputs...) }

// And fails when all of its inputs do. Without inputs it has failed: nothing of what is needed is there.
func (t *Tree) And(inputs ...ID) ID { return t.AtLeast(len(inputs), inputs...) }

// AtLeast fails when at least k of its inputs do. An input that is given twice counts twice.
func (t *Tree) AtLeast(k int, inputs ...ID) ID {
	return t.add(Node{Kind: Gate, K: k, Inputs: slices.Clone(inputs)})
}

func (t *Tree) add(n Node) ID {
	for _, in := range n.Inputs {
		if in < 0 || int(in) >= len(t.nodes) {
			panic("faulttree: the input of a gate is no node of its tree")
		}
	}
	t.nodes = append(t.nodes, n)
	return ID(len(t.nodes) - 1)
}

// Fails returns which nodes below the top, and whether the top itself, fail when these elements do.
func (t *Tree) Fails(top ID, failed func(Element) bool) map[ID]bool {
	out := map[ID]bool{}
	for _, id := range t.below(top) {
		n := t.nodes[id]
		switch n.Kind {
		case Leaf:
			out[id] = failed(n.Element)
		case Failed:
			out[id] = true
		default:
			count := 0
			for _, in := range n.Inputs {
				if out[in] {
					count++
				}
			}
			out[id] = count >= n.K
		}
	}
	return out
}

// below lists the top and everything below it, inputs before gates.
func (t *Tree) below(top ID) []ID {
	seen := map[ID]bool{top: true}
	all := []ID{top}
	for i := 0; i < len(all); i++ {
		for _, in := range t.nodes[all[i]].Inputs {
			if !seen[in] {
				seen[in] = true
				all = append(all, in)
			}
		}
	}
	slices.Sort(all) // inputs exist before their gates
	return all
}

// CutSets returns the minimal cut sets of at most size elements: the smallest first, each in ascending order. If the top has
// failed already, the only minimal cut set is the empty one.
//
// It looks at every set of size-1 elements below the top, so size is 1 or 2 for large trees.
func (t *Tree) CutSets(top ID, size int) [][]Element {
	s := newSolver(t, top)
	s.evaluate()
	if s.always[len(s.nodes)-1] {
		return [][]Element{{}}
	}
	var out [][]Element
	for n := 1; n <= size; n++ {
		s.sets(n, nil, func(set []int) {
			s.known[key(set)] = true
			cut := make([]Element, len(set))
			for i, e := range set {
				cut[i] = s.elements[e]
			}
			out = append(out, cut)
		})
	}
	return out
}

// solver looks at the part of a tree below one node. Nodes and elements have their own numbers here, from 0 on.
type solver struct {
	nodes    []Node // inputs before gates; the top is last
	elements []Element
	words    int // of a set of elements

	assumed []bool // elements that are taken to have failed
	// always says of each node whether it fails with what is assumed, and single holds the set of elements any of which makes it
	// fail together with what is assumed.
	always []bool
	single []uint64
	known  map[string]bool // minimal cut sets that were found
}

func newSolver(t *Tree, top ID) *solver {
	s := &solver{known: map[string]bool{}}
	place := map[ID]ID{}
	for _, id := range t.below(top) {
		n := t.nodes[id]
		place[id] = ID(len(s.nodes))
		if n.Kind == Leaf {
			s.elements = append(s.elements, n.Element)
		}
		n.Inputs = slices.Clone(n.Inputs)
		for i, in := range n.Inputs {
			n.Inputs[i] = place[in]
		}
		s.nodes = append(s.nodes, n)
	}
	slices.Sort(s.elements)
	for i, n := range s.nodes {
		if n.Kind == Leaf {
			at, _ := slices.BinarySearch(s.elements, n.Element)
			s.nodes[i].Element = Element(at)
		}
	}
	s.words = (len(s.elements) + 63) / 64
	s.assumed = make([]bool, len(s.elements))
	s.always = make([]bool, len(s.nodes))
	s.single = make([]uint64, len(s.nodes)*s.words)
	return s
}

func (s *solver) set(node ID) []uint64 { return s.single[int(node)*s.words : (int(node)+1)*s.words] }

// evaluate finds out what fails with the elements that are assumed, and with one more.
func (s *solver) evaluate() {
	open := make([]ID, 0, 16)
	for i := range s.nodes {
		n := &s.nodes[i]
		own := s.set(ID(i))
		clear(own)
		switch n.Kind {
		case Leaf:
			if s.always[i] = s.assumed[n.Element]; !s.always[i] {
				own[n.Element/64] |= 1 << (n.Element % 64)
			}
			continue
		case Failed:
			s.always[i] = true
			continue
		}
		need := n.K
		open = open[:0]
		for _, in := range n.Inputs {
			if s.always[in] {
				need--
			} else {
				open = append(open, in)
			}
		}
		s.always[i] = need <= 0
		switch {
		case need <= 0 || need > len(open):
		case need == 1:
			for _, in := range open {
				for w, b := range s.set(in) {
					own[w] |= b
				}
			}
		case need == len(open):
			copy(own, s.set(open[0]))
			for _, in := range open[1:] {
				for w, b := range s.set(in) {
					own[w] &= b
				}
			}
		default:
			s.several(own, need, open)
		}
	}
}

// several collects the elements that are in at least need of the sets.
func (s *solver) several(own []uint64, need int, open []ID) {
	count := make([]int, len(s.elements))
	for _, in := range open {
		for w, b := range s.set(in) {
			for ; b != 0; b &= b - 1 {
				e := w*64 + bits.TrailingZeros64(b)
				if count[e]++; count[e] >= need {
					own[w] |= 1 << (e % 64)
				}
			}
		}
	}
}

// sets finds the minimal cut sets of n elements that begin with prefix. Smaller ones are known.
func (s *solver) sets(n int, prefix []int, found func([]int)) {
	from := 0
	if len(prefix) > 0 {
		from = prefix[len(prefix)-1] + 1
	}
	if n == 1 {
		s.evaluate()
		top := slices.Clone(s.set(ID(len(s.nodes) - 1)))
		for e := from; e < len(s.elements); e++ {
			if top[e/64]&(1<<(e%64)) == 0 {
				continue
			}
			if set := append(slices.Clone(prefix), e); !s.contained(set) {
				found(set)
			}
		}
		return
	}
	for e := from; e < len(s.elements); e++ {
		set := append(slices.Clone(prefix), e)
		if s.contained(set) {
			continue
		}
		s.assumed[e] = true
		s.sets(n-1, set, found)
		s.assumed[e] = false
	}
}

// contained says that a part of the set, or all of it, is a cut set that is known.
func (s *solver) contained(set []int) bool {
	for mask := 1; mask < 1<<len(set); mask++ {
		var part []int
		for i, e := range set {
			if mask&(1<<i) != 0 {
				part = append(part, e)
			}
		}
		if s.known[key(part)] {
			return true
		}
	}
	return false
}

func key(set []int) string {
	b := make([]byte, 0, 4*len(set))
	for _, e := range set {
		b = append(b, byte(e), byte(e>>8), byte(e>>16), byte(e>>24))
	}
	return string(b)
}
