package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/quorum"
)

// RuleOwnData keeps the data of a member that etcd counts from being set aside.
const RuleOwnData = "no-member-of-it"

// UntrustedData says why the data of an etcd member must not be used any more: it cannot be read, it differs from that of the
// others, or it is older than what the member has acknowledged. It is empty if the data can be trusted, or if nobody can tell.
//
// The others decide: without a majority of members that work and agree with each other, no member is called wrong. A learner has no vote
// that its data could break, but it gets one, and etcd knows what it has acknowledged as of any other member.
func (s *State) UntrustedData(m facts.EtcdMember) string {
	why := s.suspected(m)
	if why == "" {
		return ""
	}
	trusted := 0
	voters, _ := quorum.Count(s.placements, quorum.Member)
	for _, o := range s.Seen.Etcd {
		if o.ID != m.ID && !o.Learner && (o.Healthy || s.onlyNoSpace(o)) && s.suspected(o) == "" {
			trusted++
		}
	}
	if trusted < quorum.Majority(voters) {
		return ""
	}
	return why
}

// suspected says what speaks against the data of a member.
func (s *State) suspected(m facts.EtcdMember) string {
	if differs := s.otherHash(m); differs != "" {
		return differs
	}
	if m.WentBack != "" {
		return m.WentBack
	}
	if slices.Contains(m.Raised, facts.AlarmCorrupt) && !s.sameHash(m) {
		return "etcd found that its data differs from that of the others, and raised the alarm " + facts.AlarmCorrupt
	}
	f := s.Facts(s.MemberHost(m))
	if f == nil || m.Healthy || m.Unknown != "" || f.Kubernetes.EtcdFailure == nil || !f.Kubernetes.EtcdData {
		return ""
	}
	switch fail := f.Kubernetes.EtcdFailure; fail.Cause {
	case facts.EtcdDamaged:
		return "it does not start, because its data is damaged: " + fail.Said
	case facts.EtcdForgot:
		return "it does not start, because its data is older than what it has acknowledged: " + fail.Said
	}
	return ""
}

// comparable are the members whose data was hashed between the same revisions as that of a member, by hash.
func (s *State) comparable(m facts.EtcdMember) map[uint32]int {
	out := map[uint32]int{}
	for _, o := range s.Seen.Etcd {
		if o.Hash != nil && m.Hash != nil && o.Hash.Revision == m.Hash.Revision && o.Hash.Compacted == m.Hash.Compacted && !o.Learner {
			out[o.Hash.Hash]++
		}
	}
	return out
}

// otherHash says that a majority of all members has the same data, and the member has other data.
func (s *State) otherHash(m facts.EtcdMember) string {
	if m.Hash == nil {
		return ""
	}
	voters, _ := quorum.Count(s.placements, quorum.Member)
	for hash, n := range s.comparable(m) {
		if hash != m.Hash.Hash && n >= quorum.Majority(voters) {
			return fmt.Sprintf("its data differs from that of %d other members at revision %d (hash %08x, and theirs is %08x)", n, m.Hash.Revision, m.Hash.Hash, hash)
		}
	}
	return ""
}

// sameHash says that the data of a member was compared, and is that of a majority.
func (s *State) sameHash(m facts.EtcdMember) bool {
	if m.Hash == nil {
		return false
	}
	voters, _ := quorum.Count(s.placements, quorum.Member)
	return s.comparable(m)[m.Hash.Hash] >= quorum.Majority(voters)
}

// disagreement describes who has which data, if members were compared, they differ, and no majority agrees.
func (s *State) disagreement() (groups []string) {
	on := map[uint32][]string{}
	voters, _ := quorum.Count(s.placements, quorum.Member)
	var first *facts.EtcdHash
	for _, m := range s.Seen.Etcd {
		if m.Hash == nil || m.Learner {
			continue
		}
		if first == nil {
			first = m.Hash
		}
		if m.Hash.Revision == first.Revision && m.Hash.Compacted == first.Compacted {
			on[m.Hash.Hash] = append(on[m.Hash.Hash], s.MemberHost(m))
		}
	}
	for _, hosts := range on {
		if len(hosts) >= quorum.Majority(voters) {
			return nil
		}
	}
	if len(on) < 2 {
		return nil
	}
	for _, hash := range slices.Sorted(maps.Keys(on)) {
		groups = append(groups, fmt.Sprintf("%08x on %s", hash, List(on[hash])))
	}
	return groups
}

// FalseAlarm says that the alarm CORRUPT of a member can end: its data has been compared since, and is that of a majority.
func (s *State) FalseAlarm(m facts.EtcdMember) bool {
	return slices.Contains(m.Raised, facts.AlarmCorrupt) && s.suspected(m) == "" && s.sameHash(m)
}

// StrayAlarms are alarms that name members which etcd does not have any more. They count for all members.
func (s *State) StrayAlarms() (out []string) {
	for _, m := range s.Seen.Etcd {
		for _, a := range m.Alarms {
			if !slices.Contains(m.Raised, a) && !slices.Contains(out, a) && !slices.ContainsFunc(s.Seen.Etcd, func(o facts.EtcdMember) bool { return slices.Contains(o.Raised, a) }) {
				out = append(out, a)
			}
		}
	}
	slices.Sort(out)
	return out
}

// onlyNoSpace says that nothing is wrong with a member but that a database is full: it votes, and it answers reads.
func (s *State) onlyNoSpace(m facts.EtcdMember) bool {
	return !slices.ContainsFunc(m.Alarms, func(a string) bool { return a != facts.AlarmNoSpace }) && onlyAlarms(m)
}

// onlyAlarms says that nothing is wrong with the member but its alarms.
func onlyAlarms(m facts.EtcdMember) bool {
	rest := m.Problem
	for _, a := range m.Alarms {
		rest = strings.TrimPrefix(strings.TrimPrefix(rest, "; "), "it has raised the alarm "+a)
	}
	return len(m.Alarms) > 0 && m.Unknown == "" && m.Started && rest == ""
}

// whileFull is the state in which members count that only have no space: for a change that helps, and takes away none of their votes
// for long.
func (s *State) whileFull() *State {
	out := *s
	out.placements = slices.Clone(s.placements)
	for _, m := range s.Seen.Etcd {
		i := slices.IndexFunc(out.placements, func(p quorum.Placement) bool { return p.Host == s.MemberHost(m) })
		if i >= 0 && out.placements[i].Member == quorum.Down && s.onlyNoSpace(m) {
			out.placements[i].Member = quorum.Up
		}
	}
	return &out
}

// ruleOwnData lets the data of a former member be set aside only if etcd has a majority without it, and has no such member.
func (s *State) ruleOwnData(c Change) *Refusal {
	if c.Verb != Clear || c.Part != EtcdMember {
		return nil
	}
	voters, up := quorum.Count(s.placements, quorum.Member)
	if need := quorum.Majority(voters); voters == 0 || up < need {
		return &Refusal{Rule: RuleMajorityNow, Have: up, Need: need, Transient: s.Seen.Etcd == nil || s.anyUnknownMember(),
			Why: fmt.Sprintf("%s needs a majority of etcd's members, and %d of %d are known to work%s: its data may be needed", c, up, voters, s.membersText()),
			Fix: "Start the failed members again; `quorate status` shows them."}
	}
	i := slices.IndexFunc(s.placements, func(p quorum.Placement) bool { return p.Host == c.Subject })
	if i >= 0 && s.placements[i].Member != quorum.Absent && !s.unstarted(c.Subject) {
		return &Refusal{Rule: RuleOwnData, Transient: s.placements[i].Member == quorum.Unknown, Why: c.String() + " is not possible while etcd counts a member there", Fix: "`quorate status` shows the members."}
	}
	return nil
}

// unstarted says that the member of a host was added, and never started: whatever data is there is not its own.
func (s *State) unstarted(host string) bool {
	m, has := s.Member(host)
	return has && !m.Started && !s.gone[host+"/"+etcdProgram]
}
