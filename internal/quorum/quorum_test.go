package quorum

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// everyCluster calls f with every cluster of up to seven members: each a voter or a learner, healthy or not.
func everyCluster(f func([]Member)) {
	for n := range 8 {
		for states := range 1 << (2 * n) {
			members := make([]Member, n)
			for i := range members {
				s := states >> (2 * i)
				members[i] = Member{Name: fmt.Sprint("m", i), Healthy: s&1 != 0, Learner: s&2 != 0}
			}
			f(members)
		}
	}
}

// agrees is the oracle: do the healthy voters outnumber the rest?
func agrees(members []Member) bool {
	yes, no := 0, 0
	for _, m := range members {
		switch {
		case m.Learner:
		case m.Healthy:
			yes++
		default:
			no++
		}
	}
	return yes > no
}

func learners(members []Member) int {
	n := 0
	for _, m := range members {
		if m.Learner {
			n++
		}
	}
	return n
}

// change returns a copy with the member at i changed, or taken out if f is nil.
func change(members []Member, i int, f func(*Member)) []Member {
	out := append([]Member(nil), members...)
	if f == nil {
		return append(out[:i], out[i+1:]...)
	}
	f(&out[i])
	return out
}

// check compares an answer with the oracle's and makes sure that a refusal is a helpful one.
func check(t *testing.T, what string, members []Member, err error, safe bool) {
	t.Helper()
	if (err == nil) != safe {
		t.Fatalf("%s in %+v: got %v, but safe is %t", what, members, err, safe)
	}
	if err == nil {
		return
	}
	r, ok := errors.AsType[*Refusal](err)
	if !ok || r.Rule == "" || r.Fix == "" || !strings.Contains(err.Error(), what) {
		t.Fatalf("%s: a refusal that helps nobody: %+v", what, err)
	}
	if r.Rule == RuleLearner {
		if r.Have <= r.Need {
			t.Fatalf("%s: have %d learners, may have %d", what, r.Have, r.Need)
		}
	} else if r.Have >= r.Need {
		t.Fatalf("%s: have %d, need %d, and yet refused", what, r.Have, r.Need)
	}
}

// In every cluster, an operation is allowed exactly if the cluster has a quorum before and after it, in the worst
// case that the operation accounts for, and no other change is under way.
func TestEveryOperationInEveryCluster(t *testing.T) {
	everyCluster(func(members []Member) {
		voters := len(members) - learners(members)
		now, idle := agrees(members), learners(members) == 0

		joined := append(append([]Member(nil), members...), Member{Name: "new", Healthy: voters < 2})
		check(t, "adding a member", members, CanAdd(members), now && idle && agrees(joined))

		for i, m := range members {
			without := change(members, i, nil)
			away := change(members, i, func(m *Member) { m.Healthy = false })
			removable := now && (m.Learner || idle && agrees(without))
			check(t, "removing "+m.Name, members, CanRemove(members, m.Name), removable)
			check(t, "stopping "+m.Name, members, CanStop(members, m.Name), m.Learner || now && idle && agrees(away))
		}
		check(t, "removing nobody", members, CanRemove(members, "nobody"), false)
		check(t, "stopping nobody", members, CanStop(members, "nobody"), false)
	})
}

// Any Margin failures leave the quorum, and there are Margin+1 that do not.
func TestMarginIsExact(t *testing.T) {
	everyCluster(func(members []Member) {
		survives, lost := true, -1 // by brute force: the smallest number of failures that loses the quorum
		for k := 0; k <= len(members) && survives; k++ {
			for set := range 1 << len(members) {
				failed := append([]Member(nil), members...)
				n := 0
				for i := range failed {
					if set>>i&1 != 0 && failed[i].Healthy {
						failed[i].Healthy = false
						n++
					}
				}
				if n == k && !agrees(failed) {
					survives, lost = false, k
					break
				}
			}
		}
		if got := Margin(members); got != lost-1 {
			t.Fatalf("%+v: margin %d, want %d", members, got, lost-1)
		}
	})
}

// The order that works for a dead member: it leaves first, then its replacement comes.
func TestReplacingADeadMember(t *testing.T) {
	for n := 3; n <= 7; n += 2 {
		var members []Member
		for i := range n {
			members = append(members, Member{Name: fmt.Sprint("m", i), Healthy: i > 0})
		}
		if n == 3 && CanAdd(members) == nil {
			t.Error("3 voters, one dead: a fourth that fails would take the quorum along; the dead one must leave first")
		}
		if err := CanRemove(members, "m0"); err != nil {
			t.Fatalf("the dead one of %d: %v", n, err)
		}
		members = members[1:]
		if err := CanAdd(members); err != nil {
			t.Fatalf("the replacement of one of %d: %v", n, err)
		}
	}
}

func TestQuorum(t *testing.T) {
	for voters, want := range []int{1, 1, 2, 2, 3, 3, 4, 4} {
		if got := Quorum(voters); got != want {
			t.Errorf("Quorum(%d) = %d, want %d", voters, got, want)
		}
	}
}

func TestRefusalReadsWell(t *testing.T) {
	err := CanStop([]Member{{Name: "cp-a", Healthy: true}, {Name: "cp-b", Healthy: true}, {Name: "cp-c"}}, "cp-a")
	want := "refused (quorum-after): stopping cp-a needs 2 healthy voters of 3, and while it is away there would be 1; wait until the other members are healthy, or repair them first"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
