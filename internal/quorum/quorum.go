// Package quorum says what is safe: how many failures a cluster survives now, and which operations it survives.
//
// Everything is a pure function of what was observed. A change is judged on the cluster as it would be afterwards, in the
// worst case, because a majority that counts on a new member's health is lost with that member.
package quorum

import "slices"

// Member is one etcd member as it was observed. Healthy must not rest on a single probe.
type Member struct {
	Name             string
	Healthy, Learner bool
}

// Quorum is how many voters must agree: a strict majority.
func Quorum(voters int) int { return voters/2 + 1 }

// Margin is how many more members may fail before the quorum is lost, or -1 if it is lost already.
func Margin(members []Member) int {
	voters, healthy := count(members)
	return max(healthy-Quorum(voters), -1)
}

// CanAdd says whether a member may be added. The new one counts as failed, because until it has proven
// itself it only raises the quorum. Where there are fewer than two voters there is no other way to grow.
func CanAdd(members []Member) error {
	voters, healthy := count(members)
	if err := ready(members, "adding a member"); err != nil {
		return err
	}
	if voters < 2 {
		healthy++
	}
	voters++
	return enough(voters, healthy, RuleAfter, "adding a member", "counting the new one as failed",
		"repair or remove the failed members first")
}

// CanRemove says whether the member may leave for good. Removing a learner is always possible while
// there is a quorum to decide it: it is the way out when a learner never catches up.
func CanRemove(members []Member, name string) error {
	what := "removing " + name
	m, err := find(members, name, what)
	if err != nil {
		return err
	}
	if m.Learner {
		return hasQuorum(members, what)
	}
	if err := ready(members, what); err != nil {
		return err
	}
	voters, healthy := count(members)
	voters--
	if m.Healthy {
		healthy--
	}
	if voters == 0 {
		return &Refusal{Rule: RuleAfter, Have: 0, Need: 1,
			Message: what + " would leave etcd without any member",
			Fix:     "add another member first, or reset the whole cluster"}
	}
	return enough(voters, healthy, RuleAfter, what, "without it",
		"repair or remove the failed members first")
}

// CanStop says whether the member may be away for a while, as for a restart or an upgrade: it stays a voter.
func CanStop(members []Member, name string) error {
	what := "stopping " + name
	m, err := find(members, name, what)
	if err != nil {
		return err
	}
	if m.Learner {
		return nil // it has no vote, so nothing rests on it
	}
	if err := ready(members, what); err != nil {
		return err
	}
	voters, healthy := count(members)
	if m.Healthy {
		healthy--
	}
	return enough(voters, healthy, RuleAfter, what, "while it is away", "wait until the other members are healthy, or repair them first")
}

// count returns the voters and how many of them are healthy; learners have no vote.
func count(members []Member) (voters, healthy int) {
	for _, m := range members {
		if m.Learner {
			continue
		}
		voters++
		if m.Healthy {
			healthy++
		}
	}
	return voters, healthy
}

func find(members []Member, name, what string) (Member, error) {
	i := slices.IndexFunc(members, func(m Member) bool { return m.Name == name })
	if i < 0 {
		return Member{}, &Refusal{Rule: RuleKnown, Have: 0, Need: 1,
			Message: what + " is not possible: etcd has no member of that name",
			Fix:     "look at the members with `quorate status`"}
	}
	return members[i], nil
}

// ready refuses a change of the membership that etcd cannot decide, or that would be the second at a time.
func ready(members []Member, what string) error {
	if err := hasQuorum(members, what); err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m Member) bool { return m.Learner })
	if i < 0 {
		return nil
	}
	voters, _ := count(members)
	return &Refusal{Rule: RuleLearner, Have: len(members) - voters, Need: 0,
		Message: what + " has to wait: " + members[i].Name + " is still a learner, and one change at a time is safe",
		Fix:     "wait until it is promoted, or remove it if it never catches up"}
}

func hasQuorum(members []Member, what string) error {
	voters, healthy := count(members)
	return enough(voters, healthy, RuleQuorum, what, "now", "start the failed members again; if their data is lost, `quorate restore`")
}
