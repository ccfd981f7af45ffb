package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/spec"
)

// The model check. It starts from every membership of up to seven members, each of them working, failed, unknown, a
// learner or withdrawn, and follows every sequence of changes that Allow permits, with every outcome that a change can have: it takes
// effect, it fails halfway, or a new member never works. A member that is starting is one that failed and may come back.
// Whatever the sequence, an etcd that had a majority of members that are known to work keeps it.

const maxMembers = 7

var memberStates = []quorum.State{quorum.Up, quorum.Down, quorum.Unknown, quorum.Learner, quorum.Withdrawn}

// membership is a state of the model: one letter for each member, sorted, because names do not matter to etcd.
type membership string

func (m membership) state() *State {
	s := &State{Spec: stackedSpec(), Seen: &facts.Observation{}, stage: Complete}
	s.present = s.Spec
	for i, letter := range m {
		st := memberStates[letter-'0']
		s.placements = append(s.placements, quorum.Placement{Host: fmt.Sprint("m", i), Member: st})
	}
	return s
}

func membershipOf(placements []quorum.Placement) membership {
	var letters []string
	for _, p := range placements {
		if i := slices.Index(memberStates, p.Member); i >= 0 {
			letters = append(letters, fmt.Sprint(i))
		}
	}
	slices.Sort(letters)
	return membership(strings.Join(letters, ""))
}

// majority is the oracle: more than half of the voters work, those that are unknown not counted.
func (m membership) majority() bool {
	up, voters := 0, 0
	for _, letter := range m {
		switch memberStates[letter-'0'] {
		case quorum.Up:
			up, voters = up+1, voters+1
		case quorum.Learner:
		default:
			voters++
		}
	}
	return 2*up > voters
}

func stackedSpec() *spec.Cluster {
	c := &spec.Cluster{}
	c.Spec.ControlPlane.Topology = spec.TopologyStacked
	return c
}

func memberships() (out []membership) {
	var grow func(prefix string, least int)
	grow = func(prefix string, least int) {
		if prefix != "" {
			out = append(out, membership(prefix))
		}
		if len(prefix) == maxMembers {
			return
		}
		for i := least; i < len(memberStates); i++ {
			grow(prefix+fmt.Sprint(i), i)
		}
	}
	grow("", 0)
	return out
}

// outcomes are all memberships that an allowed change can lead to.
func outcomes(s *State, c Change) (out []membership) {
	e := s.effect(c)
	out = append(out, membershipOf(e.done), membershipOf(s.placements)) // it took effect, or failed before it began
	// A single member is away while it restarts, and there is no majority for so long: who wants none of that needs three.
	if voters, _ := quorum.Count(s.placements, quorum.Member); c.Verb != Restart || voters > 1 {
		out = append(out, membershipOf(e.worst))
	}
	if c.Verb == Add { // it was added as a learner, and never promoted
		learner := slices.Clone(s.placements)
		learner = append(learner, quorum.Placement{Host: c.Subject, Member: quorum.Learner})
		out = append(out, membershipOf(learner))
	}
	return out
}

func changesOf(s *State) (out []Change) {
	for _, p := range s.placements {
		for _, v := range []Verb{Remove, Restart, Stop, Start} {
			out = append(out, Change{Verb: v, Part: EtcdMember, Subject: p.Host})
		}
	}
	if len(s.placements) < maxMembers {
		out = append(out, Change{Verb: Add, Part: EtcdMember, Subject: "new"})
	}
	return out
}

// departuresOf are the changes by which hosts leave as a whole.
func departuresOf(s *State) (out []Change) {
	for _, p := range s.placements {
		out = append(out, Change{Verb: Remove, Part: ControlPlane, Subject: p.Host}, Change{Verb: Remove, Part: WholeHost, Subject: p.Host})
	}
	return out
}

// A host is never reset while etcd counts its member, whatever the members are.
func TestNoHostIsResetWhileItIsAMember(t *testing.T) {
	for _, m := range memberships() {
		s := m.state()
		for _, p := range s.placements {
			if _, r := s.Allow(Change{Verb: Remove, Part: WholeHost, Subject: p.Host}); r == nil {
				t.Fatalf("%s may be reset in %s", p.Host, m)
			}
		}
	}
}

// Every control plane can be replaced, the dead ones first: for every number of members, of which a minority is dead, any number
// of those that work can be exchanged for new ones, and the dead ones can go.
func TestEveryReplacementIsAllowed(t *testing.T) {
	for n := 1; n <= maxMembers; n++ {
		for dead := range (n + 1) / 2 {
			for replaced := range n - dead + 1 {
				s := membership(strings.Repeat("0", n-dead) + strings.Repeat("1", dead)).state()
				for i := range s.placements {
					p := &s.placements[i]
					p.APIServer, p.ControllerManager, p.Scheduler = p.Member, p.Member, p.Member
				}
				var changes []Change
				for i := range dead {
					changes = append(changes, Change{Verb: Remove, Part: ControlPlane, Subject: fmt.Sprint("m", n-dead+i)})
				}
				for i := range replaced {
					changes = append(changes, Change{Verb: Add, Part: ControlPlane, Subject: fmt.Sprint("new", i)})
				}
				for i := range replaced {
					changes = append(changes, Change{Verb: Stop, Part: APIPrograms, Subject: fmt.Sprint("m", i)}, Change{Verb: Remove, Part: ControlPlane, Subject: fmt.Sprint("m", i)}, Change{Verb: Remove, Part: WholeHost, Subject: fmt.Sprint("m", i)})
				}
				for _, c := range changes {
					if _, r := s.Allow(c); r != nil {
						t.Fatalf("%d members, %d of them dead, %d replaced: %v", n, dead, replaced, r)
					}
					if worst := membershipOf(s.effect(c).worst); !worst.majority() {
						t.Fatalf("%d members, %d of them dead, %d replaced: %s can lead to %s", n, dead, replaced, c, worst)
					}
					s = s.After(c)
				}
			}
		}
	}
}

func TestNoAllowedSequenceOfChangesLosesTheMajority(t *testing.T) {
	safe := map[membership]bool{} // reached from a majority
	var queue []membership
	starts := 0
	for _, m := range memberships() {
		if m.majority() {
			starts++
			safe[m] = true
			queue = append(queue, m)
		}
	}
	allowed, refused := 0, 0
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		s := m.state()
		for _, c := range append(changesOf(s), departuresOf(s)...) {
			if _, r := s.Allow(c); r != nil {
				refused++
				if r.Rule == "" || r.Why == "" || r.Fix == "" {
					t.Fatalf("%s in %s: a refusal that helps nobody: %+v", c, m, r)
				}
				continue
			}
			allowed++
			for _, next := range outcomes(s, c) {
				if !next.majority() {
					t.Fatalf("%s was allowed in %s and can lead to %s, which has no majority", c, m, next)
				}
				if !safe[next] {
					safe[next] = true
					queue = append(queue, next)
				}
			}
		}
	}
	if starts < 40 || allowed < 200 || refused < 200 {
		t.Fatalf("the model is too small to show anything: %d memberships, %d changes allowed, %d refused", starts, allowed, refused)
	}
	t.Logf("%d memberships with a majority; %d changes allowed and %d refused", starts, allowed, refused)
}

// The rules are not safe because they refuse everything: they allow whatever keeps a majority in the worst case.
func TestAllowedChangesAreNotFewerThanNecessary(t *testing.T) {
	for _, m := range memberships() {
		s := m.state()
		learners := strings.Count(string(m), "3")
		for _, c := range changesOf(s) {
			i := slices.IndexFunc(s.placements, func(p quorum.Placement) bool { return p.Host == c.Subject })
			learner := i >= 0 && s.placements[i].Member == quorum.Learner
			worst := membershipOf(s.effect(c).worst)
			up, voters := quorumCounts(worst)
			want := 2*up > voters
			switch c.Verb {
			case Start:
				want = true
			case Add:
				want = want && m.majority() && learners == 0
			case Remove:
				want = m.majority() && (learner && learners == 1 || learners == 0 && want && voters > 0)
			case Restart:
				_, now := quorumCounts(m)
				want = want || learner || now == 1 || s.placements[i].Member != quorum.Up && s.placements[i].Member != quorum.Unknown && s.placements[i].Member != quorum.Withdrawn
				if s.placements[i].Member == quorum.Unknown {
					want = true // it did not count before, so nothing that counts is taken away
				}
			case Stop:
				want = want || learner || s.placements[i].Member != quorum.Up && s.placements[i].Member != quorum.Withdrawn
			}
			if _, r := s.Allow(c); (r == nil) != want {
				t.Fatalf("%s in %s: got %v, want allowed %t", c, m, r, want)
			}
		}
	}
}

func quorumCounts(m membership) (up, voters int) {
	for _, letter := range m {
		switch memberStates[letter-'0'] {
		case quorum.Up:
			up, voters = up+1, voters+1
		case quorum.Learner:
		default:
			voters++
		}
	}
	return up, voters
}
